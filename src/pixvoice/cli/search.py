"""``pixvoice search``: speak, and find the photo."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pixvoice.errors import OptionError

if TYPE_CHECKING:
    from pixvoice.runtime.searcher import Match, Query, Searcher


def search(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[QUERY] [FOLDER]",
            help="A recording of the query (or - for a pipe); then an indexed folder, this one unless told.",
            show_default=False,
        ),
    ] = None,
    mic: Annotated[bool, typer.Option("--mic", help="Speak the query into the microphone.")] = False,
    seconds: Annotated[float, typer.Option(help="How long --mic listens.")] = 4.0,
    photo: Annotated[str | None, typer.Option(metavar="PHOTO", help="Search with a photo in place of speech.")] = None,
    place: Annotated[
        str | None, typer.Option("--index", metavar="INDEX", help="Folder or URL of the index, in place of FOLDER.")
    ] = None,
    top: Annotated[int, typer.Option(help="How many to find.")] = 10,
    kind: Annotated[Literal["photos", "recordings"], typer.Option(help="What to find.")] = "photos",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    show: Annotated[bool, typer.Option("--open", help="Show the photos in the browser.")] = False,
    output: Annotated[str | None, typer.Option("-o", "--output", help="Write that page to a .html file.")] = None,
    bundle: Annotated[Path | None, typer.Option(help="Folder of a bundle; without it, the one that ships.")] = None,
    threads: Annotated[int | None, typer.Option(help="Processor cores to use; 2 at most unless told.")] = None,
) -> None:
    """Find photos by speech, best first, in a folder that pixvoice index has read.

    Examples: pixvoice search query.wav photos/; pixvoice search --mic photos/ --open;
    pixvoice search --photo dog.jpg photos/ --top 5
    """
    recording, folder = _arguments(what or [], mic, photo, place)
    if output is not None and Path(output).suffix.lower() not in (".html", ".htm"):
        raise OptionError(f"-o {output}: the page is HTML; give a name that ends in .html")
    import pixvoice

    searcher = pixvoice.load_searcher(folder, bundle=bundle, threads=threads)
    query = _query(searcher, recording, photo, seconds)
    matches = searcher.search(query, top, kind)
    asked = photo or recording or "microphone"
    _print(matches, query, asked, as_json)
    if show or output is not None:
        _sheet(matches, query, searcher.model.sample_rate, asked, output, show)


def _arguments(what: list[str], mic: bool, photo: str | None, place: str | None) -> tuple[str | None, str]:
    """The recording (None for the microphone or a photo) and where to search.  Raises OptionError.

    A folder is never a query, so that ``search photos/ query.wav`` means what ``search query.wav photos/`` means.
    """
    if mic and photo is not None:
        raise OptionError("--mic and --photo: search with one of them")
    rest = list(what)
    if len(rest) == 2 and Path(rest[0]).is_dir():
        rest.reverse()
    recording = rest.pop(0) if rest and not mic and photo is None and not Path(rest[0]).is_dir() else None
    if recording is None and not mic and photo is None:
        raise OptionError("nothing to search for; give a recording, --mic or --photo PHOTO")
    if len(rest) > 1 or (rest and place is not None):
        raise OptionError(f"{' '.join(what)}: one query and one folder; give the folder once, with or without --index")
    return recording, place if place is not None else rest[0] if rest else "."


def _query(searcher: Searcher, recording: str | None, photo: str | None, seconds: float) -> Query:
    if photo is not None:
        return searcher.look(sys.stdin.buffer if photo == "-" else photo)
    if recording is not None:
        return searcher.hear(sys.stdin.buffer if recording == "-" else recording)
    from pixvoice.runtime.microphone import record

    typer.echo(f"listening for {seconds:g} s ...", err=True)
    return searcher.hear(record(seconds, searcher.model.sample_rate))


def _print(matches: list[Match], query: Query, asked: str, as_json: bool) -> None:
    if as_json:
        found = [
            {
                "rank": rank,
                "path": str(match.path),
                "score": round(match.score, 4),
                "kind": match.kind,
                "text": match.text,
                "missing": match.missing,
            }
            for rank, match in enumerate(matches, 1)
        ]
        typer.echo(json.dumps({"query": asked, "text": query.text, "matches": found}))
        return
    if query.audio is not None:
        typer.echo(f"heard (read by a machine): {query.text or 'no words'}", err=True)
    for rank, match in enumerate(matches, 1):
        notes = (f"  {match.text}" if match.text else "") + ("  (no longer there)" if match.missing else "")
        typer.echo(f"{rank:3}  {match.score:.3f}  {_shown(match.path)}{notes}")
    if any(match.missing for match in matches):
        typer.echo("note: some files are gone; to forget them type: pixvoice index FOLDER", err=True)


def _shown(path: Path) -> Path:
    """A path as one would type it here."""
    here = Path(os.path.realpath("."))
    return path.relative_to(here) if path.is_relative_to(here) else path


def _sheet(matches: list[Match], query: Query, sample_rate: int, asked: str, output: str | None, show: bool) -> None:
    """Write the page, and show it if that's wanted."""
    from pixvoice.files import write_bytes_atomically
    from pixvoice.runtime.contact_sheet import contact_sheet

    page = contact_sheet(matches, query, sample_rate, f"PixVoice search: {Path(asked).name}")
    if output is None:
        import tempfile

        output = str(Path(tempfile.mkdtemp(prefix="pixvoice-search-")) / "index.html")
    write_bytes_atomically(output, page.encode(errors="replace"))
    typer.echo(f"page: {output}", err=True)
    if show:
        import webbrowser

        if not webbrowser.open(Path(output).resolve().as_uri()):
            typer.echo(f"note: no browser was found; open {output} yourself", err=True)
