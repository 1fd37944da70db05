"""What the voice feels: a linear head on what the dual-channel model and its speech encoder make of a recording.

    mel -> stem -> block 1 .. block 4 .. last block -> [CLS; prompts; frames] -> transformer -> CLS --+
            |         |          |                                                                    +-> head
            +---------+----------+--> mean and deviation over time -----------------------------------+
    audio -> prosody ---------------------------------------------------------------------------------+

The last frames of a recognizer are about letters; its first layers still hold how they were said.  The text channel is
left out where every sentence is said in every emotion (RAVDESS): it can't tell them apart.
Sources: BrewCLIP (arXiv 2408.10383); Yang et al. 2021, "SUPERB" (earlier layers); Kumar et al. 2022, "Fine-tuning can
distort pretrained features" (a tuned network begins with the probe's head).

Letters: B batch, L samples, T frames, D width, S statistics, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixvoice.contracts import Audio, Floats
from pixvoice.retrieve.model import AcousticChannel, RetrieverConfig
from pixvoice.speech.ctc import CTCRecognizer, mask_bands

MODES = ("probe", "prompts", "all")
"""Only the head; the prompts and the last layer too, as in the paper; the speech encoder too."""

LEVEL = 0.07  # root mean square of the speech, silence left out
QUIET_DB = -30.0  # against the loudest 25 ms
MARGIN_S = 0.1  # seconds kept before and after the speech
LAYERS = (0, 3)  # blocks whose frames are summed up, beside the stem's
SHARPNESS = 6.0  # logits of a probe's scores


def level_and_cut(audio: Audio, sample_rate: int) -> Audio:
    """Audio (L,) -> its speech at one level, without the silence around it; silence alone stays as it is."""
    size, margin = sample_rate // 40, int(MARGIN_S * sample_rate)
    whole = np.pad(audio, (0, -len(audio) % size)).reshape(-1, size)
    power = (whole**2).mean(axis=1)
    if power.max(initial=0.0) < 1e-10:
        return audio
    loud = np.flatnonzero(power > power.max() * 10 ** (QUIET_DB / 10))
    first, last = max(0, int(loud[0]) * size - margin), (int(loud[-1]) + 1) * size + margin
    scaled: Audio = (audio[first:last] * (LEVEL / np.sqrt(power[loud].mean()))).astype(np.float32)
    return scaled


def log_mel(recognizer: CTCRecognizer, audio: Tensor) -> Tensor:
    """Audio (B, L) -> what the recognizer's stem takes, (B, n_mels, T)."""
    mel: Tensor = (recognizer.mel(audio) + 4.0) / 4.0
    return mel


def hear_layers(recognizer: CTCRecognizer, mel: Tensor) -> list[Tensor]:
    """Log-mel (B, n_mels, T) -> frames (B, T', D) of the stem and of the blocks in ``LAYERS``."""
    stem = F.gelu(recognizer.stem(mel))
    frames = F.gelu(recognizer.down(stem)).transpose(1, 2)
    found = [stem.transpose(1, 2)]
    for number, block in enumerate(recognizer.blocks[: LAYERS[-1] + 1]):
        frames = block(recognizer.dropout(frames))
        if number in LAYERS:
            found.append(frames)
    return found


def finish(recognizer: CTCRecognizer, frames: Tensor) -> Tensor:
    """Frames (B, T, D) after the last of ``LAYERS`` -> the recognizer's hidden frames (B, T, D)."""
    for block in recognizer.blocks[LAYERS[-1] + 1 :]:
        frames = block(recognizer.dropout(frames))
    hidden: Tensor = recognizer.norm(frames)
    return hidden


def frame_mask(counts: Tensor, total: int, frames: int) -> Tensor:
    """``counts`` (B,) of ``total`` mel frames -> mask (B, frames), True where there is speech, at least once a row."""
    kept = torch.clamp((counts * frames / total).long(), min=1)
    return torch.arange(frames, device=counts.device) < kept[:, None]


def sum_up(layers: Sequence[Tensor], counts: Tensor, total: int) -> Tensor:
    """Frames (B, T', D) of several layers -> their means and deviations over time, (B, S)."""
    values = []
    for frames in layers:
        mask = frame_mask(counts, total, frames.shape[1])[:, :, None]
        number = mask.sum(1)
        mean = (frames * mask).sum(1) / number
        variance = ((frames - mean[:, None]) ** 2 * mask).sum(1) / number
        values += [mean, torch.sqrt(variance + 1e-6)]
    return torch.cat(values, dim=1)


@dataclass(frozen=True)
class Standard:
    """Groups of features side by side -> each with mean 0 and, summed over its columns, variance ``weight`` squared."""

    mean: Floats
    scale: Floats

    @classmethod
    def of(cls, features: Floats, groups: Sequence[tuple[int, float]]) -> Standard:
        """Features (B, S) in ``groups`` of (columns, weight)."""
        weights = np.concatenate([np.full(columns, weight / np.sqrt(columns)) for columns, weight in groups])
        scale = weights / (features.std(axis=0) + 1e-5)
        return cls(features.mean(axis=0).astype(np.float32), scale.astype(np.float32))

    def __call__(self, features: Floats) -> Floats:
        scaled: Floats = (features - self.mean) * self.scale
        return scaled


@dataclass(frozen=True)
class LinearHead:
    """Scores = features @ weight + bias: ridge regression onto one-hot classes, solved exactly."""

    weight: Floats  # (S, C)
    bias: Floats  # (C,)

    @classmethod
    def fit(
        cls, features: Floats, labels: npt.NDArray[np.int64], classes: int, penalties: Sequence[float]
    ) -> list[LinearHead]:
        """Features (B, S), ``labels`` (B,) -> one head for each of ``penalties``."""
        rows, columns = features.shape
        wanted = np.eye(classes, dtype=np.float32)[labels]
        bias = wanted.mean(axis=0)
        wanted = (wanted - bias) / rows
        tall = rows >= columns  # the smaller of two systems of equations with the same solution
        products = (features.T @ features if tall else features @ features.T).astype(np.float64) / rows
        heads = []
        for penalty in penalties:
            system = products + penalty * np.eye(len(products))
            solved = np.linalg.solve(system, features.T @ wanted if tall else wanted)
            heads.append(cls((solved if tall else features.T @ solved).astype(np.float32), bias))
        return heads

    def __call__(self, features: Floats) -> Floats:
        """Features (B, S) -> scores (B, C)."""
        scores: Floats = features @ self.weight + self.bias
        return scores


class EmotionNet(nn.Module):
    """The network of modes ``prompts`` and ``all``: a probe's head to begin with, an acoustic channel beside it."""

    mean: Tensor
    scale: Tensor

    def __init__(
        self,
        recognizer: CTCRecognizer,
        acoustic: AcousticChannel,
        prompts: Tensor | None,
        standard: Standard,
        probe: LinearHead,
        config: RetrieverConfig,
    ) -> None:
        super().__init__()
        self.recognizer, self.acoustic = recognizer, acoustic
        self.prompts = None if prompts is None else nn.Parameter(prompts.clone())
        self.register_buffer("mean", torch.from_numpy(standard.mean))
        self.register_buffer("scale", torch.from_numpy(standard.scale))
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(len(standard.mean), probe.weight.shape[1])
        self.heard = nn.Linear(config.embed_dim, probe.weight.shape[1], bias=False)
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy(probe.weight.T) * SHARPNESS)
            self.head.bias.copy_(torch.from_numpy(probe.bias) * SHARPNESS)
            self.heard.weight.mul_(0.1)

    def score(self, frames: Tensor, mask: Tensor, statistics: Tensor) -> Tensor:
        """Last frames (B, T, D), mask (B, T), statistics (B, S) as they are -> logits (B, C)."""
        standard = (statistics - self.mean) * self.scale
        heard = F.normalize(self.acoustic(frames, mask, self.prompts), dim=-1)
        logits: Tensor = self.head(self.dropout(standard)) + SHARPNESS * self.heard(heard)
        return logits

    def logits(self, mel: Tensor, counts: Tensor, prosody: Tensor) -> Tensor:
        """Log-mel (B, n_mels, T), ``counts`` (B,) of its frames, prosody (B, P) -> logits (B, C)."""
        early = hear_layers(self.recognizer, mask_bands(mel) if self.training else mel)
        last = finish(self.recognizer, early[-1])
        statistics = torch.cat([sum_up(early, counts, mel.shape[2]), prosody], dim=1)
        return self.score(last, frame_mask(counts, mel.shape[2], last.shape[1]), statistics)

    def forward(
        self,
        labels: Tensor,
        prosody: Tensor | None = None,
        mel: Tensor | None = None,
        counts: Tensor | None = None,
        frames: Tensor | None = None,
        mask: Tensor | None = None,
        statistics: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """``labels`` (B,), and what ``score`` or ``logits`` takes -> the ``loss``."""
        if mel is not None and counts is not None and prosody is not None:
            logits = self.logits(mel, counts, prosody)
        else:
            assert frames is not None and mask is not None and statistics is not None
            logits = self.score(frames, mask, statistics)
        return {"loss": F.cross_entropy(logits, labels, label_smoothing=0.1)}
