"""What trainings compute once and keep: image features, speech tokens, hidden frames of speech."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pixvoice.errors import BundleError, InputError
from pixvoice.images import read_image
from pixvoice.training import processes
from pixvoice.training.image_encoders import load_image_encoder
from pixvoice.training.options import has_bf16
from pixvoice.training.progress import follow
from pixvoice.training.student import view

Numbers = npt.NDArray[np.int64]


def photos_of(images: Iterable[Path]) -> list[Path]:
    """The photos among ``images``, sorted; one that two manifests name by different paths is one photo."""
    return sorted({image.resolve() for image in images})


def photo_numbers(images: Sequence[Path], photos: Sequence[Path]) -> list[int]:
    """The place of each of ``images`` in ``photos``, which ``photos_of`` gave."""
    number = {photo: i for i, photo in enumerate(photos)}
    return [number[image.resolve()] for image in images]


def photo_features(photos: Sequence[Path], student: Path, crops: int, cache: Path) -> npt.NDArray[np.float16]:
    """Features of 2 + ``crops`` views of each photo by the image student, or the image units, in folder ``student``.

    (photos * views, P, D) float16, computed at the first call and kept in ``cache``.
    """
    path = cache / f"features-{fingerprint(student, photos, crops)}.npy"
    with processes.main_first():
        if not path.exists():
            save_arrays(path, _photo_features(photos, student, crops))
    saved: npt.NDArray[np.float16] = np.load(path, mmap_mode="r")
    return saved


@torch.inference_mode()
def _photo_features(photos: Sequence[Path], student: Path, crops: int) -> npt.NDArray[np.float16]:
    encoder = load_image_encoder(student)
    features = []
    for i, photo in enumerate(follow(photos, "image features")):
        image = read_image(photo)
        views = np.stack([view(image, n, encoder.dims.image_size, seed=i) for n in range(2 + crops)])
        with torch.autocast("cpu", torch.bfloat16, enabled=has_bf16(on_gpu=False)):
            features.append(encoder(torch.from_numpy(views)).half().numpy())
    return np.concatenate(features)


def fingerprint(folder: Path, files: Sequence[Path], *options: int) -> str:
    """12 hexadecimal digits that change with the weights in ``folder``, the files' names, sizes and dates, and options.

    Raises BundleError if ``folder`` has no weights, InputError if a file is missing.
    """
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise BundleError(f"no trained model in {folder} (model.safetensors is missing): train it first")
    return stamp(weights.read_bytes(), files, *options)


def stamp(made_by: bytes, files: Sequence[Path], *options: int) -> str:
    """12 hexadecimal digits that change with ``made_by``, the files' names, sizes and dates, and options.

    Raises InputError if a file is missing.
    """
    digest = hashlib.sha256(made_by)
    try:
        for file in files:
            status = file.stat()
            digest.update(f"{file}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    except OSError as error:
        raise InputError(f"{error.filename}: {error.strerror}; see all with: pixvoice manifest check") from None
    digest.update(repr(options).encode())
    return digest.hexdigest()[:12]


def save_arrays(path: Path, *array: npt.NDArray[Any], **arrays: npt.NDArray[Any]) -> None:
    """Write .npy or .npz so that a killed run leaves no half file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    with temporary.open("wb") as file:
        np.savez(file, **arrays) if arrays else np.save(file, array[0])  # type: ignore[arg-type]
    temporary.replace(path)
