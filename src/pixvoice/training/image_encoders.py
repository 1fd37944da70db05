"""What sees photos for the small rows: an image student, or the image units that stand in its place."""

from __future__ import annotations

from pathlib import Path

from pixvoice.training.trainer import load_model, trained_task
from pixvoice.vision.image_units import ImageUnits, ImageUnitsConfig
from pixvoice.vision.student import ImageStudent, StudentConfig


def load_image_units(folder: Path) -> ImageUnits:
    """The image units of a finished training.  Raises BundleError if the folder holds none."""
    return load_model(folder, "image_units", ImageUnitsConfig.from_json, ImageUnits)


def load_image_encoder(folder: Path) -> ImageStudent | ImageUnits:
    """The image student, or the image units, of a finished training: pixels in, features in the student's space out.

    Raises BundleError if the folder holds neither.
    """
    if trained_task(folder) == "image_units":
        return load_image_units(folder)
    return load_model(folder, "student", StudentConfig, ImageStudent)
