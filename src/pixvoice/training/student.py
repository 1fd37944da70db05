"""Task ``student``: photos in, the teacher's features out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.utils.data import Dataset

from pixvoice.contracts import Floats
from pixvoice.errors import InputError
from pixvoice.images import read_image, to_pixels
from pixvoice.training import processes
from pixvoice.training.options import TrainOptions
from pixvoice.training.progress import follow
from pixvoice.training.trainer import save_model, train
from pixvoice.vision.student import Distillation, StudentConfig
from pixvoice.vision.teacher import MobileNetTeacher


@dataclass(frozen=True)
class StudentRecipe:
    """What ``task: student`` takes: manifests with photos, the teacher's file, and random crops a photo."""

    manifests: tuple[Path, ...]
    teacher: Path
    train: TrainOptions
    model: StudentConfig = field(default_factory=StudentConfig)
    split: str = "train"
    crops: int = 2


def crop(image: Image.Image, number: int, seed: int) -> Image.Image:
    """What view ``number`` of a photo shows: 0 and 1 all of it, the others a random part."""
    if number < 2:
        return image
    rng = np.random.default_rng((seed, number))
    share = np.sqrt(rng.uniform(0.4, 0.9, size=2))
    width, height = share * image.size
    left, top = rng.uniform(0, image.width - width), rng.uniform(0, image.height - height)
    return image.crop((int(left), int(top), int(left + width), int(top + height)))


def view(image: Image.Image, number: int, size: int, seed: int) -> Floats:
    """View ``number`` of a photo as pixels (3, size, size) in [0, 1].

    View 0 is the whole photo, 1 its mirror image; the others are random crops, mirrored by turns.
    """
    pixels = to_pixels(crop(image, number, seed), size)
    return np.ascontiguousarray(pixels[:, :, ::-1]) if number % 2 else pixels


class TeacherViews(Dataset[Any]):
    """Jittered views of photos with the teacher's features of the same view, computed once and kept in ``cache``.

    Item i is the same in every run of the same seed: it is view ``i mod views``, jittered anew in each epoch.
    """

    def __init__(self, photos: Sequence[Path], recipe: StudentRecipe, cache: Path) -> None:
        self.photos, self.recipe = photos, recipe
        self.views = 2 + recipe.crops
        self.count, self.seed = recipe.train.steps * recipe.train.batch_size, recipe.train.seed
        size = recipe.model.image_size
        patches = (size // 32) ** 2
        shape = (len(photos) * self.views, patches, recipe.model.embed_dim)
        with processes.main_first():
            self.pixels = self._open(cache / "pixels.npy", (len(photos) * self.views, 3, size, size), np.uint8)
            self.features = self._open(cache / "features.npy", shape, np.float16)
            self.done = self._open(cache / "done.npy", (len(photos),), np.uint8)
            self._fill(MobileNetTeacher(recipe.teacher))
        some = (
            self.features[:: max(1, len(self.features) // 500)].astype(np.float32).reshape(-1, recipe.model.embed_dim)
        )
        self.mean, self.std = some.mean(0), some.std(0) + 1e-3
        if processes.is_main():
            np.savez(cache / "statistics.npz", mean=self.mean, std=self.std, photos=[p.name for p in photos])

    @staticmethod
    def _open(path: Path, shape: tuple[int, ...], dtype: Any) -> npt.NDArray[Any]:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        saved = np.lib.format.open_memmap(path, mode="r+")
        if saved.shape != shape or saved.dtype != dtype:
            raise InputError(f"{path} belongs to other photos or another recipe: remove {path.parent}, and try again")
        return saved

    def _fill(self, teacher: MobileNetTeacher) -> None:
        """Compute what an earlier run has not."""
        for i in follow(np.flatnonzero(self.done == 0).tolist(), "teacher features"):
            image = read_image(self.photos[i])
            views = [view(image, n, self.recipe.model.image_size, seed=i) for n in range(self.views)]
            rows = slice(i * self.views, (i + 1) * self.views)
            pixels = torch.from_numpy(np.stack(views))
            with torch.autocast("cpu", torch.bfloat16, enabled=self.recipe.train.in_bf16(on_gpu=False)):
                self.features[rows] = teacher(pixels).float().numpy()
            self.pixels[rows] = (pixels * 255).round().byte().numpy()
            self.done[i] = 1

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        rng, row = np.random.default_rng((self.seed, i)), i % len(self.pixels)
        gain = rng.uniform(0.9, 1.1, size=(3, 1, 1)).astype(np.float32)
        jittered = np.clip(self.pixels[row] * (gain / 255) + np.float32(rng.uniform(-0.05, 0.05)), 0, 1)
        return {
            "pixels": torch.from_numpy(jittered),
            "teacher": torch.from_numpy(self.features[row].astype(np.float32)),
        }


def run(recipe: StudentRecipe, output: Path) -> list[dict[str, float]]:
    """Train the image student of ``recipe`` into ``output`` and return the log.

    Raises InputError if a manifest or a photo can't be read, BundleError for a teacher that isn't one.
    """
    from pixvoice.data import load_dataset

    torch.manual_seed(recipe.train.seed)
    torch.set_num_threads(recipe.train.threads)
    samples = [s for manifest in recipe.manifests for s in load_dataset(manifest, recipe.split)]
    views = TeacherViews(sorted({s.image for s in samples}), recipe, output / "views")
    model = Distillation(recipe.model)
    some = torch.from_numpy(views.features[:: max(1, len(views.features) // 500)].astype(np.float32)).flatten(0, 1)
    model.mean.copy_(some.mean(0))
    model.std.copy_(some.std(0) + 1e-3)
    log = train(model, views, recipe.train, output)
    save_model(model.student, recipe.model, "student", output)
    return log
