"""How many numbers a row learned, and how many it holds in memory while it speaks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from pixvoice.bench.plan import Row
from pixvoice.bench.store import Values
from pixvoice.errors import InputError


def parameters(row: Row, speaker: Any) -> Values:
    """``trained``: how many numbers the row's own training learned; ``loaded``: how many ``speaker`` holds.

    Both None for a bundle: its files hold more and less than was learned.  Raises InputError for weights that can't be
    read.
    """
    if row.own.is_bundle:
        return {"trained": None, "loaded": None}
    return {"trained": sum(map(stored_numbers, row.own.weights)), "loaded": loaded(speaker)}


def stored_numbers(path: Path) -> int:
    """How many numbers a safetensors file holds, by its header.  Raises InputError for another file."""
    try:
        with safe_open(path, "np") as file:
            return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    except (OSError, SafetensorError):
        raise InputError(f"{path}: no weights that can be read; train the run again") from None


def loaded(speaker: Any) -> int:
    """Parameters of everything that a describer holds in memory: what sees, what says, and its codec or vocoder."""
    counted: dict[int, int] = {}
    waiting, seen = [speaker], set()
    while waiting:
        thing = waiting.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, nn.Module):
            counted |= {id(parameter): parameter.numel() for parameter in thing.parameters()}
        elif type(thing).__module__.startswith("pixvoice."):
            waiting += vars(thing).values() if hasattr(thing, "__dict__") else []
    return sum(counted.values())
