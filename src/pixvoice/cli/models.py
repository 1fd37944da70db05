"""``pixvoice models``: every system, its parts and their licences, and what has been trained and measured here."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pixvoice.models import Model, Part


def models(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Only these; all of them unless told.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
) -> None:
    """List every system: parts, size, data, licence of each part, and what has been trained and measured here.

    The name of a system is that of its recipe in recipes/.

    Example: pixvoice models pixvox-delay-small
    """
    from pixvoice.models import find_models

    found = find_models(names or [])
    if as_json:
        typer.echo(json.dumps([model.as_dict() for model in found]))
    else:
        typer.echo("\n\n".join("\n".join(_lines(model)) for model in found))


def _lines(model: Model) -> Iterator[str]:
    """What there is to say of one system."""
    yield f"{model.name}: {model.summary}"
    yield f"  {model.status}"
    size = f"{_millions(model.parameters)} parameters, of which {_millions(model.trainable)} train"
    yield f"  {model.task}, {model.size} size, {size}"
    for part in model.parts:
        yield f"  part: {_part(part)}, {'trained' if part.trainable else 'kept as it is'}"
    for part in model.beside:
        yield f"  needs: {_part(part)}"
    yield f"  data: {model.data}"
    if model.scores:
        yield f"  scores: {', '.join(_scores(model.scores))}"
        yield f"  measured on: {model.measured}"


def _part(part: Part) -> str:
    count = "" if part.parameters is None else f", {_millions(part.parameters)}"
    return f"{part.name} ({part.source}){count}, licence: {part.licence}"


def _scores(scores: Mapping[str, Any], under: str = "") -> Iterator[str]:
    for name, value in scores.items():
        if isinstance(value, Mapping):
            yield from _scores(value, f"{under}{name} ")
        else:
            yield f"{under}{name} {value:g}"


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f} M"
