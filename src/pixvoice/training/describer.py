"""Task ``describer``: image features in, codec tokens out.  It sees photos and audio, never text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import track
from torch.utils.data import Dataset

from pixvoice.audio import read_audio
from pixvoice.contracts import Codes
from pixvoice.describe.model import IGNORE, PixVoxConfig, PixVoxLM
from pixvoice.images import read_image
from pixvoice.patterns import Pattern, make_pattern
from pixvoice.speech.codec import Codec, CodecConfig
from pixvoice.training.options import TrainOptions
from pixvoice.training.student import view
from pixvoice.training.trainer import load_model, save_model, train
from pixvoice.vision.student import ImageStudent, StudentConfig


@dataclass(frozen=True)
class DescriberRecipe:
    """What ``task: describer`` takes: manifests with photos and audio, a trained codec and image student.

    Recordings longer than ``max_frames`` token frames are left out.
    """

    manifests: tuple[Path, ...]
    codec: Path
    student: Path
    train: TrainOptions
    model: PixVoxConfig = PixVoxConfig()
    split: str = "train"
    crops: int = 2
    max_frames: int = 64
    cache: Path | None = None


def inputs_and_labels(codes: Codes, pattern: Pattern, special: int) -> tuple[Codes, Codes]:
    """Codes (K, T) -> inputs and labels, each (K, S + 1).

    Labels are the pattern's sequence and one more step; gaps are ignored, and codebook 0 ends with ``special``.
    """
    sequence = pattern.apply(codes, special)
    end = np.full((len(codes), 1), special, dtype=np.int64)
    inputs = np.concatenate([end, sequence], axis=1)
    labels = np.concatenate([sequence, end], axis=1)
    ended = labels[0] == special
    labels = np.where(labels == special, IGNORE, labels)
    labels[0, np.argmax(ended)] = special
    return inputs, labels


class CaptionBatches(Dataset[Any]):
    """``count`` whole batches of captions of about equal length; batch i is the same in every run of the same seed."""

    def __init__(
        self, codes: list[Codes], photo: list[int], features: np.ndarray[Any, Any], views: int, recipe: DescriberRecipe
    ) -> None:
        self.codes, self.photo, self.features, self.views = codes, photo, features, views
        self.config = recipe.model
        self.pattern = make_pattern(recipe.model.pattern, recipe.model.num_codebooks)
        self.size, self.seed, self.count = recipe.train.batch_size, recipe.train.seed, recipe.train.steps
        self.per_epoch = max(1, len(codes) // self.size)
        self._epoch, self._order = -1, np.empty(0)

    def __len__(self) -> int:
        return self.count

    def _batches(self, epoch: int) -> np.ndarray[Any, Any]:
        """Captions of one epoch, (per_epoch, batch size): shuffled, then sorted by length within 32 batches."""
        if epoch != self._epoch:
            rng = np.random.default_rng((self.seed, epoch))
            order = rng.permutation(len(self.codes))
            lengths = np.array([c.shape[1] for c in self.codes])
            chunk = self.size * 32
            order = np.concatenate(
                [part[np.argsort(lengths[part], kind="stable")] for part in np.split(order, range(chunk, len(order), chunk))]
            )
            order = np.resize(order, max(len(order), self.size))
            batches = order[: self.per_epoch * self.size].reshape(self.per_epoch, self.size)
            self._epoch, self._order = epoch, rng.permutation(batches)
        return self._order

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        epoch, number = divmod(i, self.per_epoch)
        rng = np.random.default_rng((self.seed, i))
        rows = self._batches(epoch)[number]
        pairs = [inputs_and_labels(self.codes[r], self.pattern, self.config.special) for r in rows]
        steps = max(inputs.shape[1] for inputs, _ in pairs)
        inputs = [np.pad(x, ((0, 0), (0, steps - x.shape[1])), constant_values=self.config.special) for x, _ in pairs]
        labels = [np.pad(y, ((0, 0), (0, steps - y.shape[1])), constant_values=IGNORE) for _, y in pairs]
        chosen = [self.photo[r] * self.views + int(rng.integers(self.views)) for r in rows]
        return {
            "features": torch.from_numpy(self.features[chosen].astype(np.float32)),
            "tokens": torch.from_numpy(np.stack(inputs)),
            "labels": torch.from_numpy(np.stack(labels)),
        }


def encode_photos(photos: Sequence[Path], student: Path, crops: int, cache: Path) -> np.ndarray[Any, Any]:
    """Features of 2 + ``crops`` views of each photo, (photos * views, P, D) float16, kept in ``cache``."""
    path = cache / "features.npy"
    if not path.exists():
        encoder = load_model(student, "student", StudentConfig, ImageStudent)
        features = []
        for i, photo in enumerate(track(photos, description="image features")):
            image = read_image(photo)
            views = np.stack([view(image, n, encoder.dims.image_size, seed=i) for n in range(2 + crops)])
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
                features.append(encoder(torch.from_numpy(views)).half().numpy())
        _save(path, np.concatenate(features))
    return np.load(path, mmap_mode="r")


def encode_speech(paths: Sequence[Path], folder: Path, num_codebooks: int, cache: Path) -> list[Codes]:
    """Codes (K, T) of each recording, kept in ``cache``."""
    path = cache / "codes.npz"
    if not path.exists():
        codec = load_model(folder, "codec", CodecConfig, Codec)
        codes = []
        for audio_path in track(paths, description="speech tokens"):
            audio = torch.from_numpy(read_audio(audio_path, codec.dims.sample_rate))
            with torch.inference_mode():
                codes.append(codec.encode(audio[None])[0].numpy().astype(np.int16))
        _save(path, flat=np.concatenate(codes, axis=1), lengths=np.array([c.shape[1] for c in codes]))
    saved = np.load(path)
    flat = saved["flat"][:num_codebooks].astype(np.int64)
    return np.split(flat, np.cumsum(saved["lengths"])[:-1], axis=1)


def _save(path: Path, *array: np.ndarray[Any, Any], **arrays: np.ndarray[Any, Any]) -> None:
    """Write .npy or .npz so that a killed run leaves no half file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    with temporary.open("wb") as file:
        np.savez(file, **arrays) if arrays else np.save(file, array[0])
    temporary.replace(path)


def run(recipe: DescriberRecipe, output: Path) -> list[dict[str, float]]:
    """Train the describer of ``recipe`` into ``output``."""
    from pixvoice.data import load_dataset

    torch.manual_seed(recipe.train.seed)
    torch.set_num_threads(recipe.train.threads)
    samples = [s for m in recipe.manifests for s in load_dataset(m, recipe.split) if s.audio is not None]
    photos = sorted({s.image for s in samples})
    cache = recipe.cache or output / "cache"
    features = encode_photos(photos, recipe.student, recipe.crops, cache)
    audio = [s.audio for s in samples if s.audio is not None]
    codes = encode_speech(audio, recipe.codec, recipe.model.num_codebooks, cache)
    config = replace(recipe.model, image_dim=features.shape[-1])
    number = {photo: i for i, photo in enumerate(photos)}
    kept = [i for i, c in enumerate(codes) if c.shape[1] <= recipe.max_frames]
    rows = [number[samples[i].image] for i in kept]
    batches = CaptionBatches([codes[i] for i in kept], rows, features, 2 + recipe.crops, recipe)
    model = PixVoxLM(config)
    log = train(model, batches, replace(recipe.train, batch_size=1), output, collate=lambda items: items[0])
    save_model(model, config, "describer", output)
    return log
