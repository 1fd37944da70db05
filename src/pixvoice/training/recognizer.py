"""Task ``recognizer``: spoken captions in, letters out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from pixvoice.audio import read_audio
from pixvoice.contracts import Audio
from pixvoice.errors import BundleError, InputError
from pixvoice.manifest import Sample
from pixvoice.speech.ctc import CTCConfig, CTCRecognizer, to_letters
from pixvoice.training.options import TrainOptions
from pixvoice.training.trainer import load_model, save_model, train


@dataclass(frozen=True)
class RecognizerRecipe:
    """What ``task: recognizer`` takes: manifests with audio and text, several voices.

    ``start_from`` is the folder of a finished recognizer whose weights this one begins with.  Recordings are played up
    to ``speed_change`` faster or slower, pitch and all, so that voices nobody recorded are heard too.
    """

    manifests: tuple[Path, ...]
    train: TrainOptions
    model: CTCConfig = field(default_factory=CTCConfig)
    split: str = "train"
    max_seconds: float = 7.0
    speed_change: float = 0.0
    start_from: Path | None = None


def play_at(audio: Audio, speed: float) -> Audio:
    """Audio (L,) played at ``speed`` times its own, pitch and all -> (L / speed,)."""
    places = np.arange(0, len(audio) - 1, speed)
    played: Audio = np.interp(places, np.arange(len(audio)), audio).astype(np.float32)
    return played


def disturb(audio: Audio, rng: np.random.Generator, speed_change: float = 0.0) -> Audio:
    """Audio with another speed and gain, up to 0.4 s of padding (at 16 kHz) at each end, and white noise.

    The noise lies 5 to 50 dB below the speech.  Source of the change of speed: Ko et al. 2015, "Audio augmentation for
    speech recognition".
    """
    if speed_change:
        audio = play_at(audio, 1.0 + rng.uniform(-speed_change, speed_change))
    padded = np.pad(audio, (int(rng.integers(6400)), int(rng.integers(6400))))
    level = np.sqrt(np.mean(audio**2) + 1e-9)
    noise = rng.standard_normal(len(padded), dtype=np.float32) * level * 10 ** (-rng.uniform(5, 50) / 20)
    disturbed: Audio = ((padded + noise) * rng.uniform(0.4, 1.3)).astype(np.float32)
    return disturbed


class SpokenTexts(Dataset[Any]):
    """``count`` disturbed recordings with their letters; item i is the same in every run of the same seed."""

    def __init__(self, samples: Sequence[Sample], recipe: RecognizerRecipe) -> None:
        self.samples, self.seed, self.speed_change = samples, recipe.train.seed, recipe.speed_change
        self.count = recipe.train.steps * recipe.train.batch_size
        self.sample_rate, self.longest = recipe.model.sample_rate, int(recipe.max_seconds * recipe.model.sample_rate)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> tuple[Audio, list[int]]:
        epoch, number = divmod(i, len(self.samples))
        sample = self.samples[np.random.default_rng((self.seed, epoch)).permutation(len(self.samples))[number]]
        assert sample.audio is not None and sample.text is not None
        clean = read_audio(sample.audio, self.sample_rate)
        audio = disturb(clean, np.random.default_rng((self.seed, i)), self.speed_change)
        return audio[: self.longest], to_letters(sample.text)


def collate(items: list[tuple[Audio, list[int]]]) -> dict[str, torch.Tensor]:
    """Pad audio and letters to the longest of the batch."""
    longest, most = max(len(a) for a, _ in items), max(len(t) for _, t in items)
    return {
        "audio": torch.from_numpy(np.stack([np.pad(a, (0, longest - len(a))) for a, _ in items])),
        "lengths": torch.tensor([len(a) for a, _ in items]),
        "letters": torch.tensor([t + [0] * (most - len(t)) for _, t in items]),
        "letter_counts": torch.tensor([len(t) for _, t in items]),
    }


def begin(recipe: RecognizerRecipe) -> CTCRecognizer:
    """The recognizer before its first step.  Raises BundleError if ``start_from`` has another size."""
    if recipe.start_from is None:
        return CTCRecognizer(recipe.model)
    model = load_model(recipe.start_from, "recognizer", CTCConfig, CTCRecognizer)
    if model.dims != recipe.model:
        raise BundleError(f"{recipe.start_from}: its sizes are {model.dims}, the recipe's {recipe.model}; use the same")
    return model


def run(recipe: RecognizerRecipe, output: Path) -> list[dict[str, float]]:
    """Train the recognizer of ``recipe`` into ``output`` and return the log.

    Raises InputError if a manifest or a recording can't be read, or if no recording has text; BundleError if
    ``start_from`` holds no recognizer of the recipe's sizes.
    """
    from pixvoice.data import load_dataset

    torch.manual_seed(recipe.train.seed)
    samples = [s for m in recipe.manifests for s in load_dataset(m, recipe.split) if s.audio and s.text]
    if not samples:
        raise InputError("no sample has both a recording and text: make some with `pixvoice synthesize`")
    model = begin(recipe)
    log = train(model, SpokenTexts(samples, recipe), recipe.train, output, collate)
    save_model(model, recipe.model, "recognizer", output)
    return log
