"""Task ``image_units``: a trained image student's features in, the same features from a few ids out.

Beside it, what a describer's training reads of units alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from pixvoice.contracts import Codes, Floats
from pixvoice.errors import InputError, OptionError
from pixvoice.packed import PackedUnits
from pixvoice.training.caches import Numbers, fingerprint, photo_features, photos_of
from pixvoice.training.image_encoders import load_image_units
from pixvoice.training.options import TrainOptions
from pixvoice.training.trainer import load_model, save_model, train
from pixvoice.vision.image_units import FeatureQuantizer, ImageUnits, ImageUnitsConfig
from pixvoice.vision.student import ImageStudent, StudentConfig


@dataclass(frozen=True)
class ImageUnitsRecipe:
    """What ``task: image_units`` takes: manifests with photos, a trained student, and random crops a photo.

    ``model.student`` is what the student's folder says, and needs not be given.
    """

    manifests: tuple[Path, ...]
    student: Path
    train: TrainOptions
    model: ImageUnitsConfig = field(default_factory=ImageUnitsConfig)
    split: str = "train"
    crops: int = 2
    cache: Path | None = None


class FeatureViews(Dataset[Any]):
    """``count`` views of photos as features (P, D); view i is the same in every run of the same seed."""

    def __init__(self, features: npt.NDArray[np.float16], count: int, seed: int) -> None:
        self.features, self.count, self.seed = features, count, seed

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        row = int(np.random.default_rng((self.seed, i)).integers(len(self.features)))
        return {"features": torch.from_numpy(self.features[row].astype(np.float32))}


def run(recipe: ImageUnitsRecipe, output: Path) -> list[dict[str, float]]:
    """Train the image units of ``recipe`` into ``output`` and return the log.

    Raises InputError if a manifest or a photo can't be read, BundleError for a student that isn't one, OptionError if
    the recipe asks for a student of other sizes.
    """
    from pixvoice.data import load_dataset

    torch.set_num_threads(recipe.train.threads)
    photos = photos_of(s.image for manifest in recipe.manifests for s in load_dataset(manifest, recipe.split))
    student = load_model(recipe.student, "student", StudentConfig, ImageStudent)
    if recipe.model.student not in (StudentConfig(), student.dims):
        raise OptionError(f"model.student: not the sizes of the student in {recipe.student}; leave it out")
    features = photo_features(photos, recipe.student, recipe.crops, recipe.cache or output / "cache")
    torch.manual_seed(recipe.train.seed)
    units = ImageUnits(replace(recipe.model, student=student.dims))
    units.student.load_state_dict(student.state_dict())
    _measure(units.quantizer, features)
    count = recipe.train.steps * recipe.train.batch_size
    log = train(units.quantizer, FeatureViews(features, count, recipe.train.seed), recipe.train, output)
    save_model(units, units.sizes, "image_units", output)
    return log


def _measure(quantizer: FeatureQuantizer, features: npt.NDArray[np.float16]) -> None:
    """Mean and deviation of about 500 views, spread over all."""
    some = torch.from_numpy(features[:: max(1, len(features) // 500)].astype(np.float32)).flatten(0, 1)
    quantizer.mean.copy_(some.mean(0))
    quantizer.scale.copy_((some - some.mean(0)).square().mean().sqrt() + 1e-3)


class StoredUnits:
    """The units of photos that needn't be on disk any more, in as many views as ``pixvoice encode`` was told."""

    def __init__(self, photos: Sequence[Path], stored: Path, patches: int, made_by: str) -> None:
        """``made_by`` and ``patches`` are those of the tokenizer that reads them.

        Raises InputError for a file without one of ``photos``, or whose units another tokenizer made.
        """
        self.units = PackedUnits.load(stored)
        self.patches, self.views = patches, self.units.of.views
        if self.units.of.kind != "image" or self.units.of.made_by != made_by:
            raise InputError(f"{stored}: units of another model; encode the photos again with: pixvoice encode")
        self.rows = [self.units.row(photo) for photo in photos]

    def shown(self, photos: Numbers, views: Numbers) -> Codes:
        """Codes (B, K, P) of one of the ``views`` of each of ``photos``."""
        wanted = zip(photos, views, strict=True)
        return np.stack([self._view(self.units.codes(self.rows[photo]), int(number)) for photo, number in wanted])

    def _view(self, codes: Codes, number: int) -> Codes:
        return codes[:, number * self.patches : (number + 1) * self.patches]


class UnitFeatures:
    """What a describer sees of photos of which only the small units are kept: features made of ids, batch by batch."""

    takes = "features"

    def __init__(self, photos: Sequence[Path], stored: Path, tokenizer: Path) -> None:
        """``tokenizer`` is the run that the units in ``stored`` were made with.

        Raises InputError as ``StoredUnits`` does, BundleError for a folder without image units.
        """
        self.tokenizer: ImageUnits = load_image_units(tokenizer)
        self.stored = StoredUnits(photos, stored, self.tokenizer.patches, made_by(tokenizer))
        self.views = self.stored.views

    @torch.inference_mode()
    def shown(self, photos: Numbers, views: Numbers, step: int) -> Floats:
        """Features (B, P, D) float32 of one of the ``views`` of each of ``photos``."""
        features: Floats = self.tokenizer.embed(torch.from_numpy(self.stored.shown(photos, views))).numpy()
        return features


def made_by(tokenizer: Path) -> str:
    """12 hexadecimal digits that change with the weights in the folder of a tokenizer.  Raises BundleError."""
    return fingerprint(tokenizer, ())
