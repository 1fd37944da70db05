"""A dual-channel model in PyTorch behind the contract of search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from pixvoice.contracts import Audio, Floats, Recognizer, SearchModel
from pixvoice.errors import OptionError
from pixvoice.retrieve.model import DualChannel
from pixvoice.speeds import at_speed, merge

if TYPE_CHECKING:
    from PIL.Image import Image

SHORTEST_S = 0.1  # seconds; less is padded with silence


class TorchSearchModel(SearchModel):
    """Any dual-channel model, with the recognizer that writes its transcripts; variant ``e2e`` needs none."""

    def __init__(self, model: DualChannel, recognizer: Recognizer | None, name: str, fingerprint: str) -> None:
        if model.dims.reads and recognizer is None:
            raise ValueError(f"variant {model.dims.variant} needs a recognizer")
        self.model, self.recognizer = model.eval(), recognizer if model.dims.reads else None
        self._name, self._fingerprint = name, fingerprint

    @property
    def name(self) -> str:
        """What to call it in a table."""
        return self._name

    @property
    def fingerprint(self) -> str:
        """Changes with the weights."""
        return self._fingerprint

    @property
    def embed_dim(self) -> int:
        """D."""
        return self.model.dims.embed_dim

    @property
    def sample_rate(self) -> int:
        """Audio samples a second (Hz)."""
        if self.model.dims.hears and self.model.speech is not None:
            return self.model.speech.sample_rate
        assert self.recognizer is not None
        return self.recognizer.sample_rate

    @torch.inference_mode()
    def embed_photos(self, photos: Sequence[Image]) -> Floats:
        """Photos (B of them, RGB, any size) -> embeddings (B, D)."""
        if not photos:
            return np.zeros((0, self.embed_dim), np.float32)
        embeddings: Floats = self.model.embed_photos(photos).float().cpu().numpy()
        return embeddings

    @torch.inference_mode()
    def embed_speech(self, audio: Sequence[Audio]) -> tuple[Floats, list[str]]:
        """Audio clips (B of them, each (L,), any length) -> embeddings (B, D) and what the recognizer read in each."""
        heard = [self._one(clip) for clip in audio]
        rows = [embedding for embedding, _ in heard]
        return np.stack(rows) if rows else np.zeros((0, self.embed_dim), np.float32), [text for _, text in heard]

    @torch.inference_mode()
    def embed_with_texts(self, audio: Sequence[Audio], texts: Sequence[str]) -> Floats:
        """As ``embed_speech``, reading ``texts`` (B) in place of transcripts: what a perfect recognizer would give."""
        if not self.model.dims.reads:
            raise OptionError(
                f"{self.name} reads no transcripts (variant {self.model.dims.variant}); give another model"
            )
        return np.stack([self._one(clip, text)[0] for clip, text in zip(audio, texts, strict=True)])

    def _one(self, clip: Audio, given: str | None = None) -> tuple[Floats, str]:
        """A clip (L,) heard at every speed -> its embedding (D,) and the likeliest text."""
        clips = [at_speed(clip, speed) for speed in self.model.dims.speeds]
        texts, scores = [given or ""] * len(clips), [0.0] * len(clips)
        if self.recognizer is not None and given is None:
            texts, scores = self.recognizer.transcribe_scored(clips)
        rows = np.stack([self._embed(clip, text) for clip, text in zip(clips, texts, strict=True)])
        return merge(rows, scores), texts[int(np.argmax(scores))]

    def _embed(self, clip: Audio, text: str) -> Floats:
        missing = max(0, int(SHORTEST_S * self.sample_rate) - len(clip))
        padded = torch.from_numpy(np.pad(np.asarray(clip, np.float32), (0, missing)))
        device = next(self.model.parameters()).device
        embedding = self.model.embed_speech(padded[None].to(device), torch.tensor([len(padded)]).to(device), [text])
        row: Floats = embedding[0].float().cpu().numpy()
        return row
