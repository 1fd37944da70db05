"""The three parts that a dual-channel model is made of; small ones and Hugging Face ones stand behind the same classes.

Letters: B batch, L samples, T frames, N tokens, M prompts, D width.  ``prompts`` are learned vectors (M, prompt_dim)
that a part mixes into its own input sequence, as the shared prompts of BrewCLIP do; None leaves them out.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

if TYPE_CHECKING:
    from PIL.Image import Image


class TextPart(nn.Module, ABC):
    """Written words -> one vector: the end of the pipeline channel."""

    embed_dim: int  # D of the vector
    prompt_dim: int  # D of a prompt

    @abstractmethod
    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Texts (B of them, any length) -> the inputs of ``forward``, each (B, ...)."""

    @abstractmethod
    def forward(self, tokens: dict[str, Tensor], prompts: Tensor | None) -> Tensor:
        """Tokens and prompts (M, prompt_dim) -> vectors (B, D), not normalised."""


class SpeechPart(nn.Module, ABC):
    """Audio -> hidden frames: the beginning of the acoustic channel."""

    frame_dim: int  # D of a frame
    sample_rate: int  # Hz

    @abstractmethod
    def forward(self, audio: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Audio (B, L), ``lengths`` (B,) in samples -> frames (B, T, D) and mask (B, T), True where there is speech."""


class ImagePart(nn.Module, ABC):
    """Photo -> one vector."""

    embed_dim: int  # D of the vector
    prompt_dim: int  # D of a prompt

    @abstractmethod
    def prepare(self, photos: Sequence[Image]) -> Tensor:
        """Photos (B of them, RGB) -> the input of ``forward``, (B, ...)."""

    @abstractmethod
    def forward(self, pixels: Tensor, prompts: Tensor | None) -> Tensor:
        """What ``prepare`` gave, and prompts (M, prompt_dim) -> vectors (B, D), not normalised."""
