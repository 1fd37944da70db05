"""``pixvoice manifest``: check a manifest, and make one from a data set in any known layout."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pixvoice.manifest import Sample

app = typer.Typer(no_args_is_help=True, help="Check or make manifests: the list of photos, recordings and texts.")

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command()
def check(
    file: Annotated[Path, typer.Argument(help="The manifest (.jsonl).", metavar="FILE")],
    as_json: AsJson = False,
) -> None:
    """Report every fault of a manifest at once, each with its line.  Exit code 2 when there are any.

    Example: pixvoice manifest check spoken/manifest.jsonl
    """
    from pixvoice.manifest import check_manifest, read_manifest

    faults = check_manifest(file)
    counts = {} if faults else _counts(read_manifest(file))
    if as_json:
        rows = [{"line": fault.line, "message": fault.message} for fault in faults]
        typer.echo(json.dumps({"manifest": str(file), "faults": rows, **counts}))
    elif faults:
        for fault in faults:
            typer.echo(f"{file}: {fault}")
        lines = len({fault.line for fault in faults})
        typer.echo(f"error: {file}: {len(faults)} faults in {lines} lines; mend them and check again", err=True)
    else:
        typer.echo(f"{file}: {_summary(counts)}")
    if faults:
        raise typer.Exit(2)


@app.command()
def make(
    dataset: Annotated[Path, typer.Argument(help="A data set's folder, its caption file, or a manifest.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The manifest to write (.jsonl).")],
    split: Annotated[str | None, typer.Option(help="Take one split: train, dev (val), test or extra.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a manifest from a data set in any known layout.  Samples without a recording have text only.

    Example: pixvoice manifest make Flickr8k -o flickr8k.jsonl
    """
    from pixvoice.data import load_dataset
    from pixvoice.errors import OutputError
    from pixvoice.manifest import write_manifest

    if output.exists() and not force:
        raise OutputError(f"{output}: is there already; give another name, or --force to replace it")
    samples = load_dataset(dataset, split)
    distinct = list(dict.fromkeys(samples))
    write_manifest(output, distinct)
    if len(distinct) < len(samples):
        typer.echo(f"note: {len(samples) - len(distinct)} repeated captions were left out", err=True)
    counts = _counts(distinct)
    typer.echo(json.dumps({"manifest": str(output), **counts}) if as_json else f"{output}: {_summary(counts)}")


def _counts(samples: list[Sample]) -> dict[str, Any]:
    return {
        "samples": len(samples),
        "photos": len({sample.image for sample in samples}),
        "recordings": sum(sample.audio is not None for sample in samples),
        "texts": sum(sample.text is not None for sample in samples),
        "speakers": len({sample.speaker for sample in samples if sample.speaker}),
        "splits": dict(Counter(sample.split for sample in samples if sample.split)),
    }


def _summary(counts: dict[str, Any]) -> str:
    names = ("samples", "photos", "recordings", "texts", "speakers")
    listed = ", ".join(f"{name} {count}" for name, count in counts["splits"].items())
    return ", ".join(f"{counts[name]} {name}" for name in names) + (f" ({listed})" if listed else "")
