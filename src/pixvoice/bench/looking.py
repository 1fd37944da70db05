"""Where a describer looked while it said each part of its description: pictures for eyes, words for ears.

Letters: T frames (or units), P patches.
"""

from __future__ import annotations

import io
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from pixvoice.contracts import Floats
from pixvoice.images import read_image

PARTS = 6
COLUMNS = 3
SIDE = 112  # pixels of one part's picture
_ACROSS, _DOWN = ("left", "middle", "right"), ("top", "middle", "bottom")


def look_at(image: Path, weights: Floats) -> tuple[bytes, list[str]] | None:
    """Weights (T, P) of a photo's patches, row by row from the top left -> a JPEG of ``PARTS`` pictures in two lines,
    brighter where more was looked at, and where the most was, in words, for each part.

    None where the patches are no square.  Raises InputError for a photo that can't be read.
    """
    side = math.isqrt(weights.shape[1])
    if side * side != weights.shape[1] or not len(weights):
        return None
    photo = np.asarray(read_image(image).convert("RGB").resize((SIDE, SIDE)), np.float32)
    grids = [part.mean(axis=0).reshape(side, side) for part in parts_of(weights)]
    pictures = [_lit(photo, grid) for grid in grids]
    lines = [np.concatenate(pictures[start : start + COLUMNS], axis=1) for start in range(0, PARTS, COLUMNS)]
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate(lines)).save(buffer, "JPEG", quality=80)
    return buffer.getvalue(), [where(grid) for grid in grids]


def parts_of(weights: Floats) -> list[Floats]:
    """Weights (T, P) in ``PARTS`` parts of about equal length, none empty: a short utterance has some twice."""
    edges = np.linspace(0, len(weights), PARTS + 1)
    return [weights[int(low) : max(int(low) + 1, int(high))] for low, high in pairwise(edges)]


def where(grid: Floats) -> str:
    """Weights (side, side) -> the brightest ninth of the photo: "top left", "middle", ..."""
    side = len(grid)
    means = np.kron(grid, np.ones((3, 3))).reshape(3, side, 3, side).mean(axis=(1, 3))
    down, across = divmod(int(np.argmax(means)), 3)
    names = (_DOWN[down], _ACROSS[across])
    return "middle" if names == ("middle", "middle") else " ".join(name for name in names if name != "middle")


def _lit(photo: Floats, grid: Floats) -> npt.NDArray[np.uint8]:
    """A photo (H, W, 3) under the light of weights (side, side): a quarter of its brightness where the least was."""
    low, span = float(grid.min()), float(np.ptp(grid)) or 1.0
    light = Image.fromarray((255 * (grid - low) / span).astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    lit = photo * (0.25 + 0.75 * np.asarray(light, np.float32)[:, :, None] / 255)
    lit[:, -1] = lit[-1] = 255  # a line between the parts
    return lit.clip(0, 255).astype(np.uint8)
