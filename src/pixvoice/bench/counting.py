"""How many numbers a row learned, and how many it holds in memory while it speaks."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

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
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        shapes = [entry["shape"] for name, entry in header.items() if name != "__metadata__"]
    except (OSError, ValueError, KeyError, TypeError, MemoryError, OverflowError, struct.error):
        raise InputError(f"{path}: no weights that can be read; train the run again") from None
    return sum(map(math.prod, shapes))


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
