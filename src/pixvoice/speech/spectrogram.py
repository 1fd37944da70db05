"""Short-time Fourier transforms as convolutions, so that a waveform-in model exports to ONNX as it is."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixvoice.contracts import Floats


def _mel_filters(sample_rate: int, n_fft: int, n_mels: int) -> Floats:
    """Triangular filters (n_mels, n_fft // 2 + 1) on the HTK mel scale (Young et al., The HTK Book)."""
    mel_max = 2595.0 * math.log10(1.0 + sample_rate / 2 / 700.0)
    edges_hz = 700.0 * (10.0 ** (np.linspace(0.0, mel_max, n_mels + 2) / 2595.0) - 1.0)
    bins_hz = np.linspace(0.0, sample_rate / 2, n_fft // 2 + 1)
    rise = (bins_hz[None] - edges_hz[:-2, None]) / (edges_hz[1:-1] - edges_hz[:-2])[:, None]
    fall = (edges_hz[2:, None] - bins_hz[None]) / (edges_hz[2:] - edges_hz[1:-1])[:, None]
    return np.maximum(0.0, np.minimum(rise, fall)).astype(np.float32)


def _fourier_basis(n_fft: int) -> Tensor:
    """Real and imaginary Fourier basis, (n_fft + 2, n_fft)."""
    angles = 2.0 * math.pi * torch.outer(torch.arange(n_fft // 2 + 1.0), torch.arange(float(n_fft))) / n_fft
    return torch.cat([torch.cos(angles), -torch.sin(angles)])


class LogMel(nn.Module):
    """Audio (B, L) -> log-mel (B, n_mels, L // hop_length), natural log of power, floored at 1e-5.

    Frame t is centred on sample (t + 1/2) * hop_length; the ends are padded with zeros.
    """

    basis: Tensor
    filters: Tensor

    def __init__(self, sample_rate: int, n_fft: int, hop_length: int, n_mels: int) -> None:
        super().__init__()
        self.hop_length = hop_length
        self.pad = (n_fft - hop_length) // 2
        basis = _fourier_basis(n_fft) * torch.hann_window(n_fft)
        self.register_buffer("basis", basis[:, None], persistent=False)
        self.register_buffer("filters", torch.from_numpy(_mel_filters(sample_rate, n_fft, n_mels)), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        with torch.autocast(audio.device.type, enabled=False):
            padded = F.pad(audio.float(), (self.pad, self.pad))[:, None]
            real, imag = F.conv1d(padded, self.basis, stride=self.hop_length).chunk(2, dim=1)
            return torch.log(torch.clamp(self.filters @ (real**2 + imag**2), min=1e-5))


class InverseSTFTHead(nn.Module):
    """Hidden frames (B, T, D) -> audio (B, T * hop_length) through magnitude, phase and overlap-add.

    Frame t covers the n_fft samples centred on (t + 1/2) * hop_length.
    ``n_fft`` is an odd multiple of ``hop_length``, so that ``envelope`` begins where the audio does.
    Source: Siuzdak 2023, "Vocos: Closing the gap between time-domain and Fourier-based neural vocoders".
    """

    basis: Tensor
    envelope: Tensor

    def __init__(self, width: int, n_fft: int, hop_length: int) -> None:
        super().__init__()
        self.hop_length = hop_length
        self.pad = (n_fft - hop_length) // 2
        self.project = nn.Linear(width, n_fft + 2)
        window = torch.hann_window(n_fft)
        bins = n_fft // 2 + 1
        weight = torch.full((bins,), 2.0 / n_fft)
        weight[0] = weight[-1] = 1.0 / n_fft
        overlap = sum(F.pad(window**2, (shift, n_fft - shift)) for shift in range(0, n_fft, hop_length))
        envelope = overlap[n_fft - hop_length : n_fft]  # type: ignore[index]
        basis = _fourier_basis(n_fft) * torch.cat([weight, weight])[:, None] * window
        self.register_buffer("basis", basis[:, None], persistent=False)
        self.register_buffer("envelope", envelope, persistent=False)

    def forward(self, hidden: Tensor) -> Tensor:
        frames = hidden.shape[1]
        with torch.autocast(hidden.device.type, enabled=False):
            log_magnitude, phase = self.project(hidden.float()).transpose(1, 2).chunk(2, dim=1)
            magnitude = torch.exp(torch.clamp(log_magnitude, max=6.0))
            spectrum = torch.cat([magnitude * torch.cos(phase), magnitude * torch.sin(phase)], dim=1)
            audio = F.conv_transpose1d(spectrum, self.basis, stride=self.hop_length)[:, 0]
        audio = audio[:, self.pad : self.pad + frames * self.hop_length]
        return audio / self.envelope.repeat(frames)
