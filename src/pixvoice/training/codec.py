"""Task ``codec``: crops of speech in, reconstructed speech out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from pixvoice.audio import read_audio
from pixvoice.errors import InputError
from pixvoice.speech.codec import Codec, CodecConfig
from pixvoice.training.options import TrainOptions
from pixvoice.training.trainer import save_model, train


@dataclass(frozen=True)
class CodecRecipe:
    """What ``task: codec`` takes: manifests with audio, and a crop length in token frames."""

    manifests: tuple[Path, ...]
    train: TrainOptions
    model: CodecConfig = field(default_factory=CodecConfig)
    split: str = "train"
    crop_frames: int = 24


class SpeechCrops(Dataset[Any]):
    """``count`` random crops of ``length`` samples; crop i is the same in every run of the same seed."""

    def __init__(self, paths: Sequence[Path], sample_rate: int, length: int, count: int, seed: int) -> None:
        self.paths, self.sample_rate, self.length, self.count, self.seed = paths, sample_rate, length, count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        rng = self._draw(i)
        audio = read_audio(self.paths[int(rng.integers(len(self.paths)))], self.sample_rate)
        start = int(rng.integers(max(1, len(audio) - self.length + 1)))
        crop = np.zeros(self.length, dtype=np.float32)
        piece = audio[start : start + self.length]
        crop[: len(piece)] = piece
        return {"audio": torch.from_numpy(crop * np.float32(rng.uniform(0.6, 1.2)))}

    def recording(self, i: int) -> int:
        """The number of the recording that crop i is of."""
        return int(self._draw(i).integers(len(self.paths)))

    def _draw(self, i: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, i))


def run(recipe: CodecRecipe, output: Path) -> list[dict[str, float]]:
    """Train the codec of ``recipe`` into ``output`` and return the log.

    Raises InputError if a manifest or a recording can't be read, or if there is no recording.
    """
    from pixvoice.data import load_dataset

    torch.manual_seed(recipe.train.seed)
    samples = [s for manifest in recipe.manifests for s in load_dataset(manifest, recipe.split)]
    paths = [s.audio for s in samples if s.audio is not None]
    if not paths:
        raise InputError("no sample has a recording: make some with `pixvoice synthesize`, and name its manifest")
    config = recipe.model
    count = recipe.train.steps * recipe.train.batch_size
    crops = SpeechCrops(paths, config.sample_rate, recipe.crop_frames * config.frame_length, count, recipe.train.seed)
    model = Codec(config)
    log = train(model, crops, recipe.train, output)
    save_model(model, config, "codec", output)
    return log
