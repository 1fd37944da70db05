"""``pixvoice index``: a folder of photos, made ready to be found by speech."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pixvoice.runtime.indexing import Embed, IndexReport, Listener


def index(
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Photos, at any depth.")],
    place: Annotated[
        str | None,
        typer.Option("-o", "--index", metavar="INDEX", help="Folder or s3:// URL; FOLDER/.pixvoice-index unless told."),
    ] = None,
    recordings: Annotated[bool, typer.Option("--recordings", help="Recordings in the folder too.")] = False,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Begin anew, for example for another model.")] = False,
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Embed on a Ray cluster: its address, auto, or local."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    bundle: Annotated[Path | None, typer.Option(help="Folder of a bundle; without it, the one that ships.")] = None,
    threads: Annotated[int | None, typer.Option(help="Processor cores to use; 2 at most unless told.")] = None,
) -> None:
    """Index a folder of photos, so that pixvoice search finds them. Again: only new, changed and deleted photos.

    It may be stopped at any moment; the same command goes on from there. Exit status 1 when a photo can't be used;
    the others are still indexed.

    Examples: pixvoice index photos/; pixvoice index /mnt/archive -o archive.index --recordings
    """
    import pixvoice

    searcher = pixvoice.load_searcher(folder, place, bundle, threads)
    begun = time.perf_counter()
    with _embedding(ray, bundle) as embed, listening() as listener:
        report = searcher.index(recordings=recordings, rebuild=rebuild, embed=embed, listener=listener)
    _say(report, time.perf_counter() - begun, as_json)
    if report.failures:
        raise typer.Exit(1)


def _embedding(ray: str | None, bundle: Path | None) -> AbstractContextManager[Embed | None]:
    """Here, or on a cluster."""
    if ray is None:
        return nullcontext()
    from functools import partial

    from pixvoice.cluster import embed_on_ray
    from pixvoice.runtime.retriever import load_search_model

    return embed_on_ray(partial(load_search_model, bundle, 1), None if ray == "local" else ray)


@contextmanager
def listening() -> Iterator[Listener]:
    """A progress bar where someone watches, and one line for each file that can't be used."""
    from pixvoice.runtime.indexing import Listener

    if not sys.stderr.isatty():
        yield Listener(on_failure=lambda line: typer.echo(f"error: {line}", err=True))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("indexing", total=None)
        yield Listener(
            on_progress=lambda done, total: bar.update(task, completed=done, total=total),
            on_failure=lambda line: bar.console.print(f"error: {escape(line)}", soft_wrap=True, highlight=False),
        )


def _say(report: IndexReport, seconds: float, as_json: bool) -> None:
    counts = {"new": report.new, "changed": report.changed, "dropped": report.dropped, "failed": len(report.failures)}
    if as_json:
        facts = {"index": report.index, "photos": report.photos, "recordings": report.recordings}
        typer.echo(json.dumps({**facts, **counts, "seconds": round(seconds, 2)}))
        return
    held = f"{report.photos} photos" + (f" and {report.recordings} recordings" if report.recordings else "")
    typer.echo(f"{report.index}  {held}  ({', '.join(f'{n} {what}' for what, n in counts.items())})  {seconds:.1f} s")
