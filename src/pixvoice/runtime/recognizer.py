"""The bundle's recognizer: the best letter of each frame, with no language model that could write a text by itself."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from pixvoice.contracts import Audio, Recognizer
from pixvoice.errors import BundleError
from pixvoice.runtime.bundle import RECOGNIZER, Bundle

SHORTEST_S = 0.1  # seconds; less is padded with silence


class OnnxRecognizer(Recognizer):
    """Greedy CTC.  Source: Graves et al. 2006, "Connectionist temporal classification"."""

    def __init__(self, bundle: Bundle) -> None:
        if bundle.info.recognizer is None or RECOGNIZER not in bundle.info.files:
            raise BundleError(f"{bundle.folder}: this bundle has no recognizer; choose another one, or export with one")
        self.sizes = bundle.info.recognizer
        self._name = f"{bundle.info.name} CTC"
        shapes = {"audio": (None, None), "logits": (None, None, len(self.sizes.letters) + 1)}
        self._session = bundle.session(RECOGNIZER, shapes)

    @property
    def name(self) -> str:
        """The bundle's name and the kind of recognizer."""
        return self._name

    @property
    def sample_rate(self) -> int:
        """Audio samples a second (Hz)."""
        return self.sizes.sample_rate

    def transcribe(self, audio: Sequence[Audio]) -> list[str]:
        """Audio clips, each (L,) -> lower-case text, one string a clip; each is heard by itself."""
        return [self._one(clip) for clip in audio]

    def _one(self, clip: Audio) -> str:
        short = max(0, int(SHORTEST_S * self.sample_rate) - len(clip))
        padded = np.pad(np.asarray(clip, np.float32), (0, short))
        best = self._session.run(("logits",), {"audio": padded[None]})[0][0].argmax(axis=-1)
        return spell(best.tolist(), self.sizes.letters)


def spell(best: Sequence[int], letters: str) -> str:
    """The best letter of each frame -> text: runs merged, blanks dropped."""
    found = [letters[i] for i, _ in groupby(best) if i < len(letters)]
    return " ".join("".join(found).split())


def load_recognizer(bundle: str | Path | None = None, threads: int | None = None) -> OnnxRecognizer:
    """The recognizer of the bundle in folder ``bundle``; without, of the one that ships.  Raises BundleError."""
    return OnnxRecognizer(Bundle.load(bundle, threads))
