"""What sees photos for the small rows: an image student, or the image units that stand in its place."""

from __future__ import annotations

import json
from pathlib import Path

from pixvoice.training.trainer import load_model
from pixvoice.vision.image_units import ImageUnits, ImageUnitsConfig
from pixvoice.vision.student import ImageStudent, StudentConfig


def load_image_units(folder: Path) -> ImageUnits:
    """The image units of a finished training.  Raises BundleError if the folder holds none."""
    return load_model(folder, "image_units", ImageUnitsConfig.from_json, ImageUnits)


def load_image_encoder(folder: Path) -> ImageStudent | ImageUnits:
    """The image student, or the image units, of a finished training: pixels in, features in the student's space out.

    Raises BundleError if the folder holds neither.
    """
    try:
        task = json.loads((folder / "config.json").read_bytes())["task"]
    except (OSError, ValueError, KeyError, TypeError):
        task = "student"  # its loader says what is wrong
    if task == "image_units":
        return load_image_units(folder)
    return load_model(folder, "student", StudentConfig, ImageStudent)
