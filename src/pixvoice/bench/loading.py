"""Who speaks or searches for a row: its run, in PyTorch, or the bundle in the run's place, on ONNX Runtime."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from pixvoice.bench.plan import Row
from pixvoice.bench.store import Values
from pixvoice.contracts import SearchModel
from pixvoice.errors import InputError


def load_describer(row: Row, threads: int) -> Any:
    """What describes photos for a row, on ``threads`` processor cores.

    Raises BundleError where run or bundle can't be used, and what ``load_speaker`` raises.
    """
    torch.set_num_threads(threads)
    if row.own.is_bundle:
        import pixvoice

        return pixvoice.load(row.own.folder, threads)
    from pixvoice.describe.speaker import load_speaker

    return load_speaker(row.own.folder)


def load_searcher(row: Row, threads: int) -> SearchModel:
    """What searches for a row, on ``threads`` processor cores.  Raises BundleError for a run or bundle of no use."""
    torch.set_num_threads(threads)
    if row.own.is_bundle:
        from pixvoice.runtime.retriever import load_search_model

        return load_search_model(row.own.folder, threads)
    from pixvoice.retrieve.build import load_search_model as load_run

    return load_run(row.own.folder)


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
    return sum(_product(shape) for shape in shapes)


def _product(shape: Sequence[int]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product


def loaded(speaker: Any) -> int:
    """Parameters of everything that a describer holds in memory: what sees, what says, and its codec or vocoder."""
    from torch import nn

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
