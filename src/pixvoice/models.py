"""Every system of the project: what it is made of, what has been done with it here, and what came of it.

All of it lies in ``models.json``; a figure there has its command beside it, and stands in the model card or the docs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pixvoice.errors import OptionError
from pixvoice.manifest import nearest

TABLE = Path(__file__).with_name("models.json")


@dataclass(frozen=True)
class Part:
    """One part of a system; ``parameters`` is None where nobody counted, ``trainable`` whether the system trains it."""

    name: str
    parameters: int | None
    trainable: bool
    licence: str
    source: str  # a recipe, or a checkpoint of somebody else


@dataclass(frozen=True)
class Model:
    """One row: a recipe, or what is made of one.

    ``beside`` are parts that it needs and that the sources don't count as the model's: a codec, a vocoder, whatever
    writes transcripts.  ``scores`` have the names of the evaluation's JSON; ``measured`` is their data and command.
    """

    name: str
    task: str
    size: str  # small: trains on two cores; full: as published
    summary: str
    status: str
    parts: tuple[Part, ...]
    beside: tuple[Part, ...]
    data: str
    scores: dict[str, Any]
    measured: str | None

    @property
    def parameters(self) -> int:
        """Of all its parts."""
        return sum(part.parameters or 0 for part in self.parts)

    @property
    def trainable(self) -> int:
        """Of the parts that it trains."""
        return sum(part.parameters or 0 for part in self.parts if part.trainable)

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, and both counts."""
        values = asdict(self)
        counts = {"parameters": self.parameters, "trainable": self.trainable}
        return {"name": values.pop("name"), **counts, **values}


@cache
def all_models() -> tuple[Model, ...]:
    """Every row, in the order of the table."""
    rows = json.loads(TABLE.read_text(encoding="utf-8"))
    return tuple(
        Model(**{**row, **{key: tuple(Part(**part) for part in row[key]) for key in ("parts", "beside")}})
        for row in rows
    )


def find_models(names: Sequence[str] = ()) -> list[Model]:
    """The rows called ``names``, or all.  Raises OptionError for a name that no row has."""
    found = {model.name: model for model in all_models()}
    for name in names:
        if name not in found:
            hint = nearest(name, found)
            raise OptionError(f"no model {name!r}{hint}; see all with: pixvoice models")
    return [found[name] for name in names] if names else list(found.values())
