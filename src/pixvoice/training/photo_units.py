"""Photos on disk -> image units, for ``pixvoice encode``."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pixvoice.contracts import Codes
from pixvoice.images import read_image
from pixvoice.packed import UnitsOf
from pixvoice.training.image_encoders import load_image_units
from pixvoice.training.image_units import made_by
from pixvoice.training.student import view
from pixvoice.training.trainer import trained_task
from pixvoice.vision.image_tokenizer import ImageTokenizer
from pixvoice.vision.vit_vqgan import load_vit_vqgan


@dataclass(frozen=True)
class PhotoFiles:
    """Photos -> the units of ``views`` views of each, one after the other; ``name`` changes with the tokenizer.

    View 0 is the whole photo, view 1 its mirror image, the others are random parts that the photo's name decides.
    """

    tokenizer: ImageTokenizer
    name: str
    views: int = 1

    @property
    def of(self) -> UnitsOf:
        """What the units are."""
        return UnitsOf("image", self.name, self.tokenizer.num_codebooks, self.tokenizer.codebook_size, self.views)

    def read(self, name: str, path: Path) -> Any:
        """Pixels of the views (views, 3, H, W) in [0, 1].  Raises InputError, MissingToolError."""
        size = self.tokenizer.image_size
        photo = read_image(path, at_least=size if self.views < 3 else None)
        return np.stack([view(photo, n, size, seed=zlib.crc32(name.encode())) for n in range(self.views)])

    @torch.inference_mode()
    def encode(self, contents: Sequence[Any]) -> list[Codes]:
        """Views of each photo -> codes (K, views * P) of each."""
        codes = self.tokenizer.encode(torch.from_numpy(np.concatenate(contents)))
        photos = codes.unflatten(0, (-1, self.views)).movedim(1, 2).flatten(2)  # type: ignore[no-untyped-call]
        return list(photos.numpy())


def load_image_tokenizer(folder: Path) -> ImageTokenizer:
    """The tokenizer in ``folder``: image units of a training, or a ViT-VQGAN.  Raises BundleError for neither."""
    return load_vit_vqgan(folder) if trained_task(folder) is None else load_image_units(folder)


def photo_files(folder: Path, views: int = 1) -> PhotoFiles:
    """What encodes photos with the tokenizer in ``folder``.  Raises BundleError as ``load_image_tokenizer`` does."""
    return PhotoFiles(load_image_tokenizer(folder), made_by(folder), views)
