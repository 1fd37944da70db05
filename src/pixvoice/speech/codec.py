"""Our small neural speech codec: log-mel -> ConvNeXt encoder -> residual VQ -> causal ConvNeXt decoder -> inverse STFT.

Everything runs at frame rate, so it trains and decodes on a CPU (the design of Vocos).  The decoder looks
``lookahead`` token frames ahead and a fixed number back, so streaming equals offline decoding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixvoice.speech.quantizer import ResidualVectorQuantizer
from pixvoice.speech.spectrogram import InverseSTFTHead, LogMel


@dataclass(frozen=True)
class CodecConfig:
    """Sizes of the codec; saved beside its weights."""

    sample_rate: int = 16_000
    hop_length: int = 320
    downsample: int = 4
    n_mels: int = 80
    n_fft: int = 960
    num_codebooks: int = 8
    codebook_size: int = 1024
    latent_dim: int = 96
    width: int = 256
    token_width: int = 384
    encoder_blocks: int = 3
    token_blocks: int = 3
    decoder_blocks: int = 6

    @property
    def frame_length(self) -> int:
        """Samples a token frame."""
        return self.hop_length * self.downsample

    @property
    def frame_rate(self) -> float:
        """Token frames a second (Hz)."""
        return self.sample_rate / self.frame_length


class ConvNeXtBlock(nn.Module):
    """Frames (B, T, D) -> (B, T, D): depthwise convolution over time, then a two-layer perceptron a frame.

    Source: Liu et al. 2022, "A ConvNet for the 2020s", in one dimension.
    """

    def __init__(self, width: int, kernel_size: int = 7, causal: bool = False) -> None:
        super().__init__()
        self.past = kernel_size - 1 if causal else kernel_size // 2
        self.future = kernel_size - 1 - self.past
        self.depthwise = nn.Conv1d(width, width, kernel_size, groups=width)
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 3 * width)
        self.contract = nn.Linear(3 * width, width)
        self.scale = nn.Parameter(torch.full((width,), 0.3))

    def forward(self, frames: Tensor) -> Tensor:
        mixed = self.depthwise(F.pad(frames.transpose(1, 2), (self.past, self.future))).transpose(1, 2)
        added: Tensor = self.scale * self.contract(F.gelu(self.expand(self.norm(mixed))))
        return frames + added


class CodecEncoder(nn.Module):
    """Audio (B, L) -> latents (B, T, D) with T = L // frame_length."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        c = config
        self.mel = LogMel(c.sample_rate, 1024, c.hop_length, c.n_mels)
        self.stem = nn.Conv1d(c.n_mels, c.width, 3, padding=1)
        self.blocks = nn.ModuleList([ConvNeXtBlock(c.width) for _ in range(c.encoder_blocks)])
        self.down = nn.Linear(c.width * c.downsample, c.token_width)
        self.token_blocks = nn.ModuleList([ConvNeXtBlock(c.token_width, 3) for _ in range(c.token_blocks)])
        self.project = nn.Linear(c.token_width, c.latent_dim)
        self.downsample = c.downsample

    def forward(self, audio: Tensor) -> Tensor:
        return self.latents(self.scaled(audio))

    def scaled(self, audio: Tensor) -> Tensor:
        """Audio (B, L) -> log-mel (B, n_mels, F) of about unit scale, F = L // hop_length."""
        scaled: Tensor = (self.mel(audio) + 4.0) / 4.0
        return scaled

    def latents(self, mel: Tensor) -> Tensor:
        """Log-mel (B, n_mels, F) as ``scaled`` gives it, F a multiple of ``downsample`` -> latents (B, T, D)."""
        frames = self.stem(mel).transpose(1, 2)
        for block in self.blocks:
            frames = block(frames)
        batch, length, width = frames.shape
        frames = self.down(frames.reshape(batch, length // self.downsample, width * self.downsample))
        for block in self.token_blocks:
            frames = block(frames)
        latents: Tensor = self.project(frames)
        return latents


class CodecDecoder(nn.Module):
    """Latents (B, T, D) -> audio (B, T * frame_length)."""

    lookahead = 2

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        c = config
        self.stem = nn.Conv1d(c.latent_dim, c.token_width, 3, padding=1)
        self.token_blocks = nn.ModuleList([ConvNeXtBlock(c.token_width, 3, causal=True) for _ in range(c.token_blocks)])
        self.up = nn.Linear(c.token_width, c.width * c.downsample)
        self.blocks = nn.ModuleList([ConvNeXtBlock(c.width, causal=True) for _ in range(c.decoder_blocks)])
        self.norm = nn.LayerNorm(c.width)
        self.head = InverseSTFTHead(c.width, c.n_fft, c.hop_length)
        self.upsample = c.downsample
        fine_frames = past(self.blocks) + c.n_fft // c.hop_length
        self.context = 1 + past(self.token_blocks) + -(-fine_frames // c.downsample)

    def forward(self, latents: Tensor) -> Tensor:
        frames = self.stem(latents.transpose(1, 2)).transpose(1, 2)
        for block in self.token_blocks:
            frames = block(frames)
        batch, length, _ = frames.shape
        frames = self.up(frames).reshape(batch, length * self.upsample, -1)
        for block in self.blocks:
            frames = block(frames)
        audio: Tensor = self.head(self.norm(frames))
        return audio


def past(blocks: nn.ModuleList) -> int:
    """Frames that a stack of ``ConvNeXtBlock`` looks back."""
    return sum(cast(ConvNeXtBlock, block).past for block in blocks)


def future(blocks: nn.ModuleList) -> int:
    """Frames that a stack of ``ConvNeXtBlock`` looks ahead."""
    return sum(cast(ConvNeXtBlock, block).future for block in blocks)


def spectral_loss(audio: Tensor, target: Tensor) -> Tensor:
    """L1 between the log and the linear magnitudes of audio (B, L) and target (B, L) at three resolutions.

    Source: Yamamoto et al. 2020 (Parallel WaveGAN), with L1 in place of spectral convergence.
    """
    loss = audio.new_zeros(())
    for n_fft in (2048, 1024, 256):
        window = torch.hann_window(n_fft, device=audio.device)
        spectra = torch.stft(torch.cat([audio, target]), n_fft, n_fft // 4, window=window, return_complex=True)
        ours, theirs = torch.view_as_real(spectra).square().sum(-1).clamp(min=1e-7).sqrt().chunk(2)
        loss = loss + F.l1_loss(ours.log(), theirs.log()) + F.l1_loss(ours, theirs) / (theirs.mean() + 1e-3)
    return loss / 3.0


class Codec(nn.Module):
    """Audio (B, L) <-> codes (B, K, T)."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.dims = config
        self.encoder = CodecEncoder(config)
        self.quantizer = ResidualVectorQuantizer(config.num_codebooks, config.codebook_size, config.latent_dim)
        self.decoder = CodecDecoder(config)

    def encode(self, audio: Tensor) -> Tensor:
        """Audio (B, L) -> codes (B, K, T), the end padded with zeros to a whole frame."""
        short = -audio.shape[-1] % self.dims.frame_length
        return self.quantizer.encode(self.encoder(F.pad(audio, (0, short))))

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, K', T) with K' <= K -> audio (B, T * frame_length)."""
        audio: Tensor = self.decoder(self.quantizer.decode(codes))
        return audio

    def forward(self, audio: Tensor) -> dict[str, Tensor]:
        """Audio (B, L), L a multiple of the frame length -> ``loss``, a scalar."""
        latents = self.encoder(audio)
        quantized, commitment = self.quantizer(latents.float(), min_codebooks=2)
        return {"loss": spectral_loss(self.decoder(quantized), audio) + 0.25 * commitment}
