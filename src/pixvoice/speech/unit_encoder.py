"""A small speech encoder that learns from sound alone: it predicts the clusters of frames that it can't see.

Log-mel -> two strided convolutions -> ConvNeXt blocks.  Spans of frames are hidden after the convolutions; at each of
them the encoder must name the cluster of what was there.  First the clusters are those of cepstra; a second training
may take those of the first's own frames.  Afterwards one block's frames are clustered into units.

Source: Hsu et al. 2021 (HuBERT, arXiv 2106.07447), with convolutions in place of its transformer.

Letters: B batch, L samples, F frames, D width, N clusters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixvoice.contracts import Audio, Floats
from pixvoice.speech.clusters import nearest
from pixvoice.speech.codec import ConvNeXtBlock
from pixvoice.speech.spectrogram import LogMel

KMEANS, PAIRS, WORDS = "kmeans.safetensors", "pairs.json", "words.safetensors"
CEPSTRA = 13
HIDDEN_SECONDS, HIDDEN_SHARE = 0.2, 0.5  # the length of a hidden span, and how many of the frames are hidden


@dataclass(frozen=True)
class UnitEncoderConfig:
    """Sizes of the encoder, and its units: clusters of what block ``layer`` (from 1) gives; saved with its weights.

    A recording's units are those whose squared distances from its frames, and ``segment_cost`` for each change of unit,
    sum to least (``pixvoice.segments``).
    """

    sample_rate: int = 16_000
    hop_length: int = 160
    strides: tuple[int, ...] = (2, 2)  # 2, 2: 25 frames a second; 2, 1: 50
    n_mels: int = 64
    width: int = 256
    blocks: int = 6
    kernel_size: int = 9
    dropout: float = 0.1
    layer: int = 4
    units: int = 200
    segment_cost: float = 0.0

    @property
    def frame_length(self) -> int:
        """Samples from one frame to the next."""
        return self.hop_length * math.prod(self.strides)


class UnitEncoder(nn.Module):
    """Audio (B, L), L a multiple of the frame length -> frames (B, F, D)."""

    def __init__(self, config: UnitEncoderConfig) -> None:
        super().__init__()
        self.dims = config
        c = config
        self.mel = LogMel(c.sample_rate, 512, c.hop_length, c.n_mels)
        inputs = [c.n_mels, *[c.width] * (len(c.strides) - 1)]
        self.stem = nn.ModuleList(
            [nn.Conv1d(width, c.width, 5, stride, 2) for width, stride in zip(inputs, c.strides, strict=True)]
        )
        self.hidden = nn.Parameter(torch.randn(c.width) * 0.1)
        self.blocks = nn.ModuleList([ConvNeXtBlock(c.width, c.kernel_size) for _ in range(c.blocks)])
        self.dropout = nn.Dropout(c.dropout)

    def forward(self, audio: Tensor, hide: Tensor | None = None, layer: int | None = None) -> Tensor:
        """Frames after ``layer`` blocks (all of them, if None), normalised; those in ``hide`` (B, F) aren't seen."""
        x = (self.mel(audio) + 4.0) / 4.0
        for convolution in self.stem:
            x = F.gelu(convolution(x))
        frames = x.transpose(1, 2)
        if hide is not None:
            frames = torch.where(hide[:, :, None], self.hidden.to(frames.dtype), frames)
        for block in list(self.blocks)[:layer]:
            frames = block(self.dropout(frames))
        return F.layer_norm(frames, (self.dims.width,))


class UnitFrames(nn.Module):
    """Audio (B, L) -> the frames (B, F, D) whose clusters are an encoder's units."""

    def __init__(self, encoder: UnitEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, audio: Tensor) -> Tensor:
        frames: Tensor = self.encoder(audio, layer=self.encoder.dims.layer)
        return frames


class Cepstra(nn.Module):
    """Audio (B, L) -> cepstra of all mel frames of each frame of an encoder, side by side (B, F, D)."""

    cosines: Tensor

    def __init__(self, config: UnitEncoderConfig) -> None:
        super().__init__()
        self.mel = LogMel(config.sample_rate, 512, config.hop_length, config.n_mels)
        self.together = math.prod(config.strides)
        angles = torch.outer(torch.arange(float(CEPSTRA)), torch.arange(config.n_mels) + 0.5) * math.pi / config.n_mels
        scale = torch.tensor([0.3] + [1.0] * (CEPSTRA - 1))  # the first is loudness, and would drown the others
        cosines = torch.cos(angles) * scale[:, None] * math.sqrt(2.0 / config.n_mels)
        self.register_buffer("cosines", cosines, persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        cepstra: Tensor = (self.cosines @ self.mel(audio)).transpose(1, 2)
        return cepstra.reshape(cepstra.shape[0], cepstra.shape[1] // self.together, -1)


class MaskedUnits(nn.Module):
    """An encoder in training, beside the ``features`` whose clusters it predicts."""

    centroids: Tensor

    def __init__(self, encoder: UnitEncoder, features: nn.Module, centroids: Tensor) -> None:
        """``centroids`` (N, D) of ``features``, a module from audio (B, L) to (B, F, D) that stays as it is."""
        super().__init__()
        self.encoder, self.features = encoder, features.eval().requires_grad_(False)
        self.register_buffer("centroids", centroids)
        self.head = nn.Linear(encoder.dims.width, len(centroids))

    def train(self, mode: bool = True) -> MaskedUnits:
        """The features stay in evaluation mode."""
        super().train(mode)
        self.features.eval()
        return self

    @torch.no_grad()
    def targets(self, audio: Tensor) -> Tensor:
        """Audio (B, L) -> the cluster of each frame (B, F)."""
        with torch.autocast(audio.device.type, enabled=False):
            return nearest(self.features(audio), self.centroids)

    def predict(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Audio (B, L) -> the last block's frames (B, F, D), and the loss of what they say of the hidden ones."""
        targets = self.targets(audio)
        c = self.encoder.dims
        hide = hidden_spans(targets.shape, c.sample_rate / c.frame_length).to(audio.device)
        frames = self.encoder(audio, hide)
        return frames, F.cross_entropy(self.head(frames)[hide].float(), targets[hide])

    def forward(self, audio: Tensor) -> dict[str, Tensor]:
        """Audio (B, L) -> ``loss``: cross-entropy (nats) of the clusters of the hidden frames."""
        return {"loss": self.predict(audio)[1]}


def hidden_spans(shape: torch.Size, frame_rate: float) -> Tensor:
    """Booleans (B, F): spans of ``HIDDEN_SECONDS``, about ``HIDDEN_SHARE`` of all frames, one a row at least."""
    length = max(1, round(HIDDEN_SECONDS * frame_rate))
    begins = (torch.rand(shape) < 1.0 - (1.0 - HIDDEN_SHARE) ** (1.0 / length)).float()
    begins[torch.arange(shape[0]), torch.randint(shape[1], (shape[0],))] = 1.0
    return F.max_pool1d(begins[:, None], length, 1, length // 2)[:, 0, : shape[1]] > 0


class OwnFeatures:
    """The frames of a trained encoder, behind the ``UnitFeatures`` contract."""

    def __init__(self, encoder: UnitEncoder) -> None:
        self.encoder = encoder.eval()
        dims = encoder.dims
        self.width, self.sample_rate, self.hop = dims.width, dims.sample_rate, dims.frame_length

    @classmethod
    def load(cls, folder: Path) -> OwnFeatures:
        """From the folder of a training of units.  Raises BundleError if it holds none."""
        from pixvoice.training.trainer import load_model

        return cls(load_model(folder, "units", UnitEncoderConfig, UnitEncoder))

    @torch.inference_mode()
    def __call__(self, audio: Audio) -> Floats:
        """Audio (L,) -> frames (F, D), the end padded with zeros to a whole frame."""
        if not len(audio):
            return np.zeros((0, self.width), np.float32)
        whole = np.pad(audio, (0, -len(audio) % self.hop)).astype(np.float32)
        frames: Floats = self.encoder(torch.from_numpy(whole)[None], layer=self.encoder.dims.layer)[0].numpy()
        return frames
