"""Task ``describer`` on units: our image student's features in, units of our own or of HuBERT out (Im2Sp, small)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from pixvoice.describe.build import UnitDescriberConfig
from pixvoice.describe.model import PixVoxLM
from pixvoice.training.describer import DescriberRecipe, Parts, seen_of
from pixvoice.training.full_describer import SpokenTokens


def unit_parts(recipe: DescriberRecipe, photos: Sequence[Path], audio: Sequence[Path], cache: Path) -> Parts:
    """The units of ``audio``, what is seen of the photos, and an untrained ``PixVoxLM``.

    Raises BundleError or OptionError for units that aren't there or don't fit the recipe.
    """
    assert recipe.student is not None  # a rule of recipes
    tokens = SpokenTokens(recipe, cache)
    codes, views = tokens.of(audio), seen_of(photos, recipe, cache)
    torch.manual_seed(recipe.train.seed)
    config = UnitDescriberConfig(recipe.model, recipe.student, recipe.speech)
    return Parts(codes, views, PixVoxLM(recipe.model), config)
