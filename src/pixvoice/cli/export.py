"""``pixvoice export``: trained models -> the ONNX bundle that ``pixvoice describe`` runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from pixvoice.errors import BundleError, MissingToolError, OptionError

NEEDED = ("describer", "codec", "student")
NEEDED_OF_UNITS = ("describer", "units", "vocoder", "student")
IN_PLACE_OF = {"image_units": "student", "sat": "describer"}
"""Tasks that stand in the place of another: what a describer may see with, and one that is an LSTM."""


def export(
    runs: Annotated[
        list[Path],
        typer.Argument(
            help="Folders of trained models: describer, codec or units and vocoder, student, recognizer, retriever, "
            "or a bundle in the retriever's place."
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The bundle's folder, a new one.")],
    name: Annotated[str, typer.Option(help="What to call the bundle.")] = "pixvoice",
    dtype: Annotated[
        Literal["fp32", "fp16", "int8"],
        typer.Option(help="How weights are stored; int8 is fp16 with the describer in int8."),
    ] = "int8",
    defaults: Annotated[
        Path | None,
        typer.Option(help="JSON with decoding and confidence, as in bundle.json; kept from another bundle."),
    ] = None,
) -> None:
    """Write an ONNX bundle from the runs of ``pixvoice train``, in any order.

    A describer of units needs those and their vocoder in the place of a codec. A recognizer is optional, and so is a
    retriever, for search, or a bundle whose search is taken. Image units stand in the place of a student.

    Example: pixvoice export runs/describer runs/codec runs/student runs/recognizer -o bundle
    """
    try:
        from pixvoice.training.export import export_bundle
    except ImportError as error:
        raise MissingToolError(f"{error.name} isn't installed; type: pip install 'pixvoice[train]'") from None
    found = _by_task(runs)
    describer, student = found["describer"], found["student"]
    codec, recognizer, retriever, units, vocoder = (
        found.get(task) for task in ("codec", "recognizer", "retriever", "units", "vocoder")
    )
    bundle = export_bundle(
        describer, codec, student, recognizer, output, name, dtype, defaults, retriever, units, vocoder
    )
    size = sum(file.stat().st_size for file in bundle.folder.iterdir())
    typer.echo(f"{bundle.folder}  {size / 1e6:.1f} MB  {name}, {dtype}")


def _by_task(runs: list[Path]) -> dict[str, Path]:
    """Task -> run folder.  Raises BundleError or OptionError for a run that is unknown, missing or given twice."""
    from pixvoice.runtime.bundle import is_bundle

    found: dict[str, Path] = {}
    needed: tuple[str, ...] = NEEDED
    for run in runs:
        try:
            saved: dict[str, Any] = {"task": "retriever"}
            if not is_bundle(run):
                saved = json.loads((run / "config.json").read_bytes())
            task = IN_PLACE_OF.get(saved["task"], str(saved["task"]))
            if task == "describer" and (saved["config"].get("speech") or {}).get("units"):
                needed = NEEDED_OF_UNITS
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise BundleError(f"{run}: no trained model there; give folders that `pixvoice train` wrote") from None
        if task in found:
            raise OptionError(f"{found[task]} and {run} both hold a {task}; give one of each")
        found[task] = run
    if missing := [task for task in needed if task not in found]:
        raise OptionError(f"no {' and no '.join(missing)} among the runs; a bundle needs {', '.join(needed)}")
    return found
