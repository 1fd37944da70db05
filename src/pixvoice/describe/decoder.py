"""A describer in PyTorch, of either size, behind the ``SpeechDecoder`` contract."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pixvoice.contracts import Codes, Floats, SpeechDecoder
from pixvoice.describe.model import PixVoxLM
from pixvoice.describe.pretrained import PretrainedDescriber
from pixvoice.describe.sat import SatState, ShowAttendTell


class TorchState(NamedTuple):
    """Keys and values: past (layers, 2, B, heads, S, d), cross (layers, 2, B or 1, heads, P, d)."""

    past: Tensor
    cross: Tensor


class SizedDecoder(SpeechDecoder):
    """What decoders in PyTorch share: the sizes of their ``model``."""

    model: PixVoxLM | PretrainedDescriber | ShowAttendTell

    @property
    def num_codebooks(self) -> int:
        """K."""
        return self.model.dims.num_codebooks

    @property
    def codebook_size(self) -> int:
        """V."""
        return self.model.dims.codebook_size

    @property
    def max_steps(self) -> int:
        """S."""
        return self.model.dims.max_steps


class TorchSpeechDecoder(SizedDecoder):
    """A ``PixVoxLM``, or one on a pretrained decoder, in evaluation mode, one step at a time."""

    model: PixVoxLM | PretrainedDescriber

    def __init__(self, model: PixVoxLM | PretrainedDescriber) -> None:
        self.model = model.eval()

    @torch.inference_mode()
    def start(self, features: Floats) -> TorchState:
        """Features (B, P, D) -> the state before the first step."""
        cross = self.model.start(torch.from_numpy(features))
        layers, two, batch, heads, _, width = cross.shape
        return TorchState(cross.new_zeros((layers, two, batch, heads, 0, width)), cross)

    @torch.inference_mode()
    def step(self, tokens: Codes, state: TorchState) -> tuple[Floats, TorchState]:
        """Tokens (B, K) -> logits (B, K, V + 1) and the next state."""
        logits, past = self.model.step(torch.from_numpy(tokens), state.past, state.cross)
        return logits.numpy(), TorchState(past, state.cross)

    @torch.inference_mode()
    def select(self, state: TorchState, rows: npt.NDArray[np.int64]) -> TorchState:
        """The state of ``rows`` (B',); one photo's keys and values serve all its rows."""
        index = torch.from_numpy(rows)
        one_photo = state.cross.shape[2] == 1
        return TorchState(state.past[:, :, index], state.cross if one_photo else state.cross[:, :, index])


class SatSpeechDecoder(SizedDecoder):
    """A ``ShowAttendTell`` in evaluation mode, one step at a time; K is 1."""

    model: ShowAttendTell

    def __init__(self, model: ShowAttendTell) -> None:
        self.model = model.eval()

    @torch.inference_mode()
    def start(self, features: Floats) -> SatState:
        """Features (B, P, D) -> the state before the first step."""
        return self.model.start(torch.from_numpy(features))

    @torch.inference_mode()
    def step(self, tokens: Codes, state: SatState) -> tuple[Floats, SatState]:
        """Tokens (B, 1) -> logits (B, 1, V + 1) and the next state."""
        logits, state = self.model.step(torch.from_numpy(tokens), state)
        return logits.numpy(), state

    @torch.inference_mode()
    def select(self, state: SatState, rows: npt.NDArray[np.int64]) -> SatState:
        """The state of ``rows`` (B',); one photo's patches serve all its rows."""
        return state.pick(torch.from_numpy(rows))
