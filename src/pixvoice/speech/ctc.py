"""A small CTC recognizer: waveform -> log-mel -> ConvNeXt blocks -> letters, with no language model.

Source: Graves et al. 2006, "Connectionist temporal classification".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixvoice.speech.codec import ConvNeXtBlock
from pixvoice.speech.spectrogram import LogMel

LETTERS = " 'abcdefghijklmnopqrstuvwxyz"
BLANK = len(LETTERS)


@dataclass(frozen=True)
class CTCConfig:
    """Sizes of the recognizer; saved beside its weights."""

    sample_rate: int = 16_000
    hop_length: int = 160
    n_mels: int = 64
    width: int = 256
    blocks: int = 9
    kernel_size: int = 9
    dropout: float = 0.1


def to_letters(text: str) -> list[int]:
    """Text -> letter numbers; everything but letters and apostrophes becomes a space."""
    clean = re.sub(r"\s+", " ", re.sub(r"[^a-z']", " ", text.lower())).strip()
    return [LETTERS.index(letter) for letter in clean]


class CTCRecognizer(nn.Module):
    """Audio (B, L) -> logits (B, T, letters + blank), T = L // (4 * hop_length)."""

    def __init__(self, config: CTCConfig) -> None:
        super().__init__()
        self.dims = config
        c = config
        self.mel = LogMel(c.sample_rate, 512, c.hop_length, c.n_mels)
        self.stem = nn.Conv1d(c.n_mels, c.width, 5, 2, 2)
        self.down = nn.Conv1d(c.width, c.width, 5, 2, 2)
        self.blocks = nn.ModuleList([ConvNeXtBlock(c.width, c.kernel_size) for _ in range(c.blocks)])
        self.dropout = nn.Dropout(c.dropout)
        self.norm = nn.LayerNorm(c.width)
        self.head = nn.Linear(c.width, len(LETTERS) + 1)

    def forward_features(self, audio: Tensor) -> Tensor:
        """Audio (B, L) -> hidden frames (B, T, D), 25 a second."""
        mel = (self.mel(audio) + 4.0) / 4.0
        if self.training:
            mel = mask_bands(recolour(warp_bands(mel)))
        frames = F.gelu(self.down(F.gelu(self.stem(mel)))).transpose(1, 2)
        for block in self.blocks:
            frames = block(self.dropout(frames))
        hidden: Tensor = self.norm(frames)
        return hidden

    def logits(self, audio: Tensor) -> Tensor:
        """Audio (B, L) -> logits (B, T, letters + blank)."""
        logits: Tensor = self.head(self.forward_features(audio))
        return logits

    def forward(self, audio: Tensor, lengths: Tensor, letters: Tensor, letter_counts: Tensor) -> dict[str, Tensor]:
        """Audio (B, L), ``lengths`` (B,) in samples, letters (B, N), ``letter_counts`` (B,) -> CTC ``loss``."""
        log_probs = F.log_softmax(self.logits(audio).float(), dim=-1).transpose(0, 1)
        frames = torch.clamp(lengths // (4 * self.dims.hop_length), max=log_probs.shape[0])
        loss = F.ctc_loss(log_probs, letters, frames, letter_counts, blank=BLANK, zero_infinity=True)
        return {"loss": loss}


WARP = 0.1  # a throat is up to so much longer or shorter
COLOURS, COLOUR = 4, 0.12  # cosines over the mel channels, and their standard deviation


def warp_bands(mel: Tensor) -> Tensor:
    """Each row of (B, n_mels, T) as a longer or a shorter throat would say it: mel channels moved, time as it was.

    Source: Jaitly and Hinton 2013, "Vocal tract length perturbation improves speech recognition".
    """
    rows, bands, _ = mel.shape
    factors = 1.0 + WARP * (2.0 * torch.rand(rows, 1, device=mel.device) - 1.0)
    places = (torch.arange(bands, device=mel.device) * factors).clamp(max=bands - 1)
    below = places.floor().long().clamp(max=bands - 2)
    share = (places - below)[:, :, None]
    low, high = (mel.gather(1, (below + n)[:, :, None].expand_as(mel)) for n in (0, 1))
    return low * (1.0 - share) + high * share


def recolour(mel: Tensor) -> Tensor:
    """Add a smooth curve over the mel channels to each row of (B, n_mels, T), as rooms and microphones do."""
    rows, bands, _ = mel.shape
    waves = torch.arange(1, COLOURS + 1, device=mel.device)[:, None]
    cosines = torch.cos(torch.pi * waves * (torch.arange(bands, device=mel.device) + 0.5) / bands)
    return mel + (COLOUR * torch.randn(rows, COLOURS, device=mel.device) @ cosines)[:, :, None]


def mask_bands(mel: Tensor) -> Tensor:
    """Zero one random band of mel channels and two short spans of frames of each row of (B, n_mels, T).

    Source: Park et al. 2019, "SpecAugment".
    """
    mel = mel * _keep(mel.shape[0], mel.shape[1]).to(mel.device)[:, :, None]
    for _ in range(2):
        mel = mel * _keep(mel.shape[0], mel.shape[2]).to(mel.device)[:, None]
    return mel


def _keep(rows: int, size: int) -> Tensor:
    """(rows, size): False in one random span of up to 11 places a row."""
    place, first = torch.arange(size), torch.randint(size, (rows, 1))
    return (place < first) | (place >= first + torch.randint(12, (rows, 1)))


def greedy(logits: Tensor) -> list[str]:
    """Logits (B, T, letters + blank) -> the best letter of each frame, runs merged, blanks dropped."""
    texts = []
    for row in logits.argmax(-1):
        merged = torch.unique_consecutive(row)
        texts.append(" ".join("".join(LETTERS[i] for i in merged.tolist() if i != BLANK).split()))
    return texts
