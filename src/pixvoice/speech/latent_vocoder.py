"""A small unit vocoder: units -> durations -> latents of our codec -> the codec's own decoder -> waveform.

What is learned is only the way from units to the sum of the codec's codebook entries, frame by frame; the decoder that
makes the sound is the codec's, and stays as it is.

Source of the durations: Lee et al. 2022 (arXiv 2107.05604).

Letters: B batch, T units, F unit frames, C codec frames, D width, L samples.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixvoice.errors import BundleError
from pixvoice.speech.codec import CodecConfig, CodecDecoder, ConvNeXtBlock, future, past, spectral_loss
from pixvoice.speech.units import UnitSpeaker
from pixvoice.speech.vocoder import DurationPredictor, UnitVocoder, VocoderConfig, frames_of

IGNORE = 0  # no unit lasts so few frames


@dataclass(frozen=True)
class LatentVocoderSizes:
    """How large the vocoder is, and how many codec frames its ``codec_blocks`` look ahead, all together."""

    width: int = 256
    frame_blocks: int = 3
    codec_width: int = 384
    codec_blocks: int = 4
    duration_width: int = 128
    codec_ahead: int = 2


@dataclass(frozen=True)
class LatentVocoderConfig:
    """Sizes of the vocoder, the units that it speaks, samples a frame of them, its codec; saved with its weights."""

    units: int
    hop: int
    sizes: LatentVocoderSizes = field(default_factory=LatentVocoderSizes)
    codec: CodecConfig = field(default_factory=CodecConfig)

    @classmethod
    def from_json(cls, units: int, hop: int, sizes: dict[str, Any], codec: dict[str, Any]) -> LatentVocoderConfig:
        """From what ``dataclasses.asdict`` and JSON made of it."""
        return cls(units, hop, LatentVocoderSizes(**sizes), CodecConfig(**codec))


class LatentVocoder(nn.Module):
    """Units (T,) -> audio (L,)."""

    def __init__(self, config: LatentVocoderConfig) -> None:
        """Raises BundleError unless a codec frame is a whole number of unit frames."""
        super().__init__()
        if config.codec.frame_length % config.hop:
            raise BundleError(
                f"units of {config.hop} samples a frame don't fill the codec's {config.codec.frame_length}: train units"
                " whose strides times hop_length divide it"
            )
        self.config, sizes = config, config.sizes
        self.ratio = config.codec.frame_length // config.hop
        self.embed = nn.Embedding(config.units, sizes.width)
        self.dur_predictor = DurationPredictor(
            VocoderConfig(embedding_dim=sizes.width, var_pred_hidden_dim=sizes.duration_width)
        )
        self.frame_blocks = nn.ModuleList([ConvNeXtBlock(sizes.width) for _ in range(sizes.frame_blocks)])
        self.fold = nn.Linear(sizes.width * self.ratio, sizes.codec_width)
        self.ahead = sizes.codec_ahead
        self.codec_blocks = nn.ModuleList(
            [ConvNeXtBlock(sizes.codec_width, causal=True) for _ in range(sizes.codec_blocks)]
        )
        self.project = nn.Linear(sizes.codec_width, config.codec.latent_dim)
        self.decoder = CodecDecoder(config.codec).requires_grad_(False)

    @property
    def units(self) -> int:
        """N."""
        return self.config.units

    @property
    def sample_rate(self) -> int:
        """Audio samples a second (Hz)."""
        return self.config.codec.sample_rate

    @property
    def hop(self) -> int:
        """Samples that one frame of a unit lasts."""
        return self.config.hop

    @property
    def context(self) -> int:
        """Codec frames that it looks back."""
        return self.decoder.context + past(self.codec_blocks) - (-past(self.frame_blocks) // self.ratio)

    @property
    def lookahead(self) -> int:
        """Codec frames that it looks ahead."""
        return self.decoder.lookahead + self.ahead - (-future(self.frame_blocks) // self.ratio)

    def latents(self, frames: Tensor) -> Tensor:
        """The unit of each frame (B, F), F a multiple of ``ratio`` -> latents of the codec (B, C, D)."""
        x = self.embed(frames)
        for block in self.frame_blocks:
            x = block(x)
        x = self.fold(x.reshape(x.shape[0], x.shape[1] // self.ratio, -1))
        x = F.pad(x, (0, 0, 0, self.ahead))[:, self.ahead :]  # causal blocks over later frames
        for block in self.codec_blocks:
            x = block(x)
        latents: Tensor = self.project(x)
        return latents

    def durations(self, units: Tensor) -> Tensor:
        """Units (T,) -> frames of each (T,), at least one."""
        return frames_of(self.dur_predictor(self.embed(units)[None])[0])

    def forward(self, units: Tensor, durations: Tensor | None = None) -> Tensor:
        """Units (T,) and frames of each (T,), predicted if not given -> audio (L,), L = frames x ``hop``."""
        frames = units.repeat_interleave(self.durations(units) if durations is None else durations)
        whole = torch.cat([frames, frames[-1:].repeat(-len(frames) % self.ratio)])
        audio: Tensor = self.decoder(self.latents(whole[None]))[0]
        return audio[: len(frames) * self.hop]


class VocoderLoss(nn.Module):
    """A vocoder in training, with the codec's entries that its latents should come to."""

    codebooks: Tensor

    def __init__(self, vocoder: LatentVocoder, codebooks: Tensor) -> None:
        """``codebooks`` (K, V, D) of the codec."""
        super().__init__()
        self.vocoder = vocoder
        self.register_buffer("codebooks", codebooks)

    def forward(
        self, frames: Tensor, codes: Tensor, audio: Tensor, units: Tensor, durations: Tensor
    ) -> dict[str, Tensor]:
        """The ``loss`` of crops: units of frames (B, F), codes (B, K, C), audio (B, L); units (B, T), durations (B, T).

        The share of the latents' variance that isn't explained; the spectra's distance from the recording after the
        codec's decoder; and the squared error of log(frames + 1), where ``durations`` isn't ``IGNORE``.
        """
        entries = [F.embedding(codes[:, k], table) for k, table in enumerate(self.codebooks)]
        target = torch.stack(entries).sum(0)
        latents = self.vocoder.latents(frames)
        unexplained = F.mse_loss(latents.float(), target) / target.var().clamp(min=1e-6)
        spectral = spectral_loss(self.vocoder.decoder(latents).float(), audio)
        known = durations != IGNORE
        logs = self.vocoder.dur_predictor(self.vocoder.embed(units)).float()
        missed = (logs - torch.log(durations + 1.0)).square()[known].sum() / known.sum().clamp(min=1)
        return {"loss": unexplained + spectral + missed}


def load_vocoder(folder: Path) -> UnitSpeaker:
    """The vocoder in ``folder``: the run of a training of ours, or a unit HiFi-GAN in the published layout.

    Raises BundleError if it holds neither.
    """
    try:
        ours = json.loads((folder / "config.json").read_bytes()).get("task") is not None
    except (OSError, ValueError, AttributeError):
        ours = False
    if not ours:
        return UnitVocoder.load(folder)
    from pixvoice.training.trainer import load_model

    return load_model(folder, "vocoder", LatentVocoderConfig.from_json, LatentVocoder)
