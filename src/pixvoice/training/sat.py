"""Task ``sat``: photos in, merged speech units out, by an LSTM with attention; its image encoder may learn too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from pixvoice.describe.sat import TUNED, SatConfig, SatRunConfig, SeeingSat, ShowAttendTell
from pixvoice.describe.speaker import StudentSees
from pixvoice.errors import BundleError
from pixvoice.speech.pretrained import SpeechParts
from pixvoice.training.describer import Parts, PhotoFeatures, train_on_captions
from pixvoice.training.full_describer import PhotoPixels, SpokenTokens
from pixvoice.training.options import TrainOptions
from pixvoice.training.trainer import load_model, save_model
from pixvoice.vision.student import ImageStudent, StudentConfig


@dataclass(frozen=True)
class SatRecipe:
    """What ``task: sat`` takes: manifests with photos and audio, a trained image student, and the units to say.

    With ``tune_student`` the student learns too, from pixels in place of kept features; what it became lies in the
    folder ``student`` of the run.  ``start_from`` is the folder of a run of this task whose describer this one begins
    with, or one of its checkpoints.

    Recordings of more than ``max_frames`` units are left out.  ``teacher_views`` and ``teacher_steps`` are a
    describer's.
    """

    manifests: tuple[Path, ...]
    train: TrainOptions
    student: Path
    speech: SpeechParts
    model: SatConfig = field(default_factory=SatConfig)
    split: str = "train"
    crops: int = 2
    max_frames: int = 128
    teacher_views: Path | None = None
    teacher_steps: int = 0
    cache: Path | None = None
    start_from: Path | None = None
    tune_student: bool = False


def begin(recipe: SatRecipe) -> ShowAttendTell:
    """The describer before its first step.  Raises BundleError if ``start_from`` holds none of the recipe's sizes."""
    torch.manual_seed(recipe.train.seed)
    model = ShowAttendTell(recipe.model)
    if recipe.start_from is not None:
        try:
            model.load_state_dict(load_file(recipe.start_from / "model.safetensors"))
        except (OSError, RuntimeError, SafetensorError):
            raise BundleError(
                f"start_from: {recipe.start_from} holds no describer of `task: sat` and the recipe's sizes;"
                " give a run, or a checkpoint of one"
            ) from None
    return model


def sat_parts(recipe: SatRecipe, photos: Sequence[Path], audio: Sequence[Path], cache: Path) -> Parts:
    """The units of ``audio``, features or pixels of the photos, and a describer, with its encoder if that learns too.

    Raises BundleError or OptionError for parts that aren't there or don't fit the recipe.
    """
    codes, model = SpokenTokens(recipe, cache).of(audio), begin(recipe)
    if not recipe.tune_student:
        config = SatRunConfig(recipe.model, recipe.speech, recipe.student)
        return Parts(codes, PhotoFeatures(photos, recipe, cache), model, config)
    student = load_model(recipe.student, "student", StudentConfig, ImageStudent)
    pixels = PhotoPixels(photos, StudentSees(student), recipe.crops)
    return Parts(codes, pixels, SeeingSat(student, model), SatRunConfig(recipe.model, recipe.speech, None))


def run(recipe: SatRecipe, output: Path) -> list[dict[str, float]]:
    """Train the describer of ``recipe`` into ``output`` and return the log.

    Raises InputError if a manifest, photo or recording can't be read, BundleError for a student, units or
    ``start_from`` that aren't there or don't fit, OptionError if the units are others than ``recipe.model`` says.
    """
    parts, log = train_on_captions(recipe, output, sat_parts)
    model: Any = parts.model
    if isinstance(model, SeeingSat):
        student: Any = model.encoder
        save_model(student, student.dims, "student", output / TUNED)
        model = model.describer
    save_model(model, parts.config, "sat", output)
    return log
