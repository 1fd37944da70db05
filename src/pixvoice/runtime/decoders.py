"""Describers on ONNX Runtime, one step at a time: a transformer, or an LSTM with attention."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pixvoice.contracts import Codes, Floats, SpeechDecoder
from pixvoice.runtime.bundle import DESCRIBER_START, DESCRIBER_STEP, Bundle, DescriberSizes
from pixvoice.runtime.sessions import run


class OnnxState(NamedTuple):
    """Keys and values: past (layers, 2, B, heads, S, d), cross (layers, 2, B or 1, heads, P, d)."""

    past: Floats
    cross: Floats


class SizedDecoder(SpeechDecoder):
    """What describers on ONNX Runtime share: the ``sizes`` that ``bundle.json`` says."""

    sizes: DescriberSizes

    @property
    def num_codebooks(self) -> int:
        """K."""
        return self.sizes.num_codebooks

    @property
    def codebook_size(self) -> int:
        """V."""
        return self.sizes.codebook_size

    @property
    def max_steps(self) -> int:
        """S."""
        return self.sizes.max_steps


class OnnxSpeechDecoder(SizedDecoder):
    """A transformer, one step at a time."""

    def __init__(self, bundle: Bundle) -> None:
        self.sizes = s = bundle.info.describer
        image = bundle.info.image
        cross = (s.layers, 2, None, s.heads, image.patches, s.head_dim)
        past = (s.layers, 2, None, s.heads, None, s.head_dim)
        self._start = bundle.session(
            DESCRIBER_START, {"features": (None, image.patches, image.embed_dim), "cross": cross}
        )
        step = {"tokens": (None, s.num_codebooks), "past": past, "cross": cross, "next_past": past}
        step["logits"] = (None, s.num_codebooks, s.codebook_size + 1)
        self._step = bundle.session(DESCRIBER_STEP, step, threads=1)  # a step is too small to share

    def start(self, features: Floats) -> OnnxState:
        """Features (B, P, D) -> the state before the first step."""
        cross = run(self._start, features=features)
        s = self.sizes
        return OnnxState(np.zeros((s.layers, 2, len(features), s.heads, 0, s.head_dim), np.float32), cross)

    def step(self, tokens: Codes, state: OnnxState) -> tuple[Floats, OnnxState]:
        """Tokens (B, K) -> logits (B, K, V + 1) and the next state."""
        inputs = {"tokens": tokens, "past": state.past, "cross": state.cross}
        logits, past = self._step.run(("logits", "next_past"), inputs)
        return logits, OnnxState(past, state.cross)

    def select(self, state: OnnxState, rows: npt.NDArray[np.int64]) -> OnnxState:
        """The state of ``rows`` (B',); one photo's keys and values serve all its rows."""
        one_photo = state.cross.shape[2] == 1
        return OnnxState(state.past.take(rows, axis=2), state.cross if one_photo else state.cross.take(rows, axis=2))


class OnnxSatState(NamedTuple):
    """The LSTM's hidden and cell (B, D); patches (B or 1, P, D) and their keys (B or 1, P, A)."""

    hidden: Floats
    cell: Floats
    patches: Floats
    keys: Floats


class OnnxSatDecoder(SizedDecoder):
    """Show, attend and tell: an LSTM that looks at the photo at every step."""

    def __init__(self, bundle: Bundle, width: int) -> None:
        """``width`` is that of the LSTM's state."""
        self.sizes = s = bundle.info.describer
        image = bundle.info.image
        shapes: dict[str, tuple[int | None, ...]] = {"hidden": (None, width), "cell": (None, width)}
        nexts = {f"next_{name}": shape for name, shape in shapes.items()}
        shapes |= {"patches": (None, image.patches, width), "keys": (None, image.patches, s.head_dim)}
        self._start = bundle.session(DESCRIBER_START, {"features": (None, image.patches, image.embed_dim), **shapes})
        step = {"tokens": (None, 1), "logits": (None, 1, s.codebook_size + 1), **shapes, **nexts}
        self._step = bundle.session(DESCRIBER_STEP, step, threads=1)  # a step is too small to share

    def start(self, features: Floats) -> OnnxSatState:
        """Features (B, P, D) -> the state before the first step."""
        return OnnxSatState(*self._start.run(OnnxSatState._fields, {"features": features}))

    def step(self, tokens: Codes, state: OnnxSatState) -> tuple[Floats, OnnxSatState]:
        """Tokens (B, 1) -> logits (B, 1, V + 1) and the next state."""
        inputs = {"tokens": tokens, **state._asdict()}
        logits, hidden, cell = self._step.run(("logits", "next_hidden", "next_cell"), inputs)
        return logits, state._replace(hidden=hidden, cell=cell)

    def select(self, state: OnnxSatState, rows: npt.NDArray[np.int64]) -> OnnxSatState:
        """The state of ``rows`` (B',); one photo's patches serve all its rows."""
        one_photo = len(state.patches) == 1
        photo = (state.patches, state.keys) if one_photo else (state.patches[rows], state.keys[rows])
        return OnnxSatState(state.hidden[rows], state.cell[rows], *photo)


def speech_decoder(bundle: Bundle) -> SpeechDecoder:
    """The describer of a bundle.  Raises BundleError for files of other shapes than ``bundle.json`` says."""
    width = bundle.info.describer.lstm_width
    return OnnxSpeechDecoder(bundle) if width is None else OnnxSatDecoder(bundle, width)
