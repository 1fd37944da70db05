"""``pixvoice evaluate``: how good the descriptions, the codec and the search are, as one table or one JSON object."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from pixvoice.errors import MissingToolError, OptionError, PixVoiceError

if TYPE_CHECKING:
    from pixvoice.contracts import SearchModel
    from pixvoice.evaluation.describe import Describes, Heard
    from pixvoice.evaluation.photos import Photo, Speak
    from pixvoice.evaluation.queries import Query, Setting
    from pixvoice.evaluation.round_trip import RoundTrip
    from pixvoice.manifest import Sample

T = TypeVar("T")

app = typer.Typer(
    name="evaluate",
    help="Score descriptions, the codec or search on a data set. Try: pixvoice evaluate describe flickr8k --limit 50",
    no_args_is_help=True,
)

Manifest = Annotated[Path, typer.Argument(help="A manifest, or a data set's folder in any layout that PixVoice reads.")]
Split = Annotated[str | None, typer.Option(help="Which split of the data set; dev, where it has splits.")]
Bundle = Annotated[Path | None, typer.Option(help="Folder of a bundle; without it, the one that ships.")]
RecognizerName = Annotated[
    str, typer.Option("--recognizer", help="ours, sphinx, whisper:ID or wav2vec2:ID (ID: hub id or folder).")
]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first so many photos.")]
Engine = Annotated[str | None, typer.Option(help="TTS engine for ground-truth speech where the data set has no audio.")]
Voice = Annotated[str | None, typer.Option(help="Voice of that engine.")]
Cache = Annotated[Path | None, typer.Option(help="Folder that keeps that speech for the next run.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object in place of the table.")]


@app.command()
def describe(
    manifest: Manifest,
    split: Split = None,
    bundle: Annotated[
        Path | None,
        typer.Option(help="Folder of a bundle, or of the run of a describer that makes none; without, what ships."),
    ] = None,
    recognizer: RecognizerName = "ours",
    limit: Limit = None,
    engine: Engine = None,
    voice: Voice = None,
    cache: Cache = None,
    as_json: Json = False,
    report: Annotated[Path | None, typer.Option(help="Folder for an HTML page with photos and players.")] = None,
    round_trip: Annotated[
        bool, typer.Option("--round-trip", help="Scores without text too: the photo found again, and units compared.")
    ] = False,
    judge: Annotated[
        Path | None, typer.Option(help="Bundle that searches and makes units for --round-trip; without, what ships.")
    ] = None,
) -> None:
    """Describe every photo, hear it with a recognizer, and score it against the photo's captions.

    BLEU, METEOR, ROUGE-L and CIDEr are times 100, word error rates in percent. Exit status 1 when a photo or a
    recording could not be used; the others are still scored.

    Example: pixvoice evaluate describe flickr8k --split dev --recognizer sphinx --json
    """
    from pixvoice.evaluation.describe import DescribeEvaluation
    from pixvoice.evaluation.recognizers import load_recognizer
    from pixvoice.evaluation.report import Report
    from pixvoice.evaluation.tables import describe_tables, published_sources

    photos = _photos(manifest, split, limit)
    run = bundle is not None and (bundle / "config.json").is_file()
    listener = load_recognizer(recognizer, None if run else bundle)
    describer = _describer(bundle, run)
    page = Report(report) if report else None
    with _speech(photos, Voiced(engine, voice, cache)) as speak:
        evaluation = DescribeEvaluation(describer, listener, speak, on_failure=_tell)
        free = _round_trip(judge, speak) if round_trip else None
        evaluation.on_heard = _each([taker.add for taker in (page, free) if taker is not None])
        result = evaluation.run(_progress(photos, "describing"))
    if free is not None:
        result = replace(result, text_free=free.finish())
    if page is not None:
        _note(f"report: {page.finish(result)}")
    _print(result.as_dict(), as_json, lambda: describe_tables(result))
    if not as_json:
        _note(published_sources())
    if result.n_failed:
        raise typer.Exit(1)


def _each(takers: Sequence[Callable[[int, Heard], None]]) -> Callable[[int, Heard], None]:
    def take(row: int, heard: Heard) -> None:
        for taker in takers:
            taker(row, heard)

    return take


def _round_trip(judge: Path | None, speak: Speak | None) -> RoundTrip:
    import pixvoice
    from pixvoice.evaluation.round_trip import RoundTrip
    from pixvoice.runtime.retriever import load_search_model

    return RoundTrip(load_search_model(judge), pixvoice.load(judge).tokenizer, speak, _tell)


def _describer(bundle: Path | None, run: bool) -> Describes:
    """The describer of a bundle, or that of a ``run``."""
    import pixvoice

    if not run or bundle is None:
        return pixvoice.load(bundle)
    try:
        from pixvoice.describe.speaker import load_speaker
    except ImportError as error:
        raise MissingToolError(f"{error.name} isn't installed; type: pip install 'pixvoice[train]'") from None
    return load_speaker(bundle)


@app.command()
def codec(
    manifest: Manifest,
    split: Split = None,
    bundle: Bundle = None,
    recognizer: RecognizerName = "ours",
    limit: Limit = None,
    codebooks: Annotated[int | None, typer.Option(min=1, help="Keep only the first so many codebooks.")] = None,
    engine: Engine = None,
    voice: Voice = None,
    cache: Cache = None,
    as_json: Json = False,
) -> None:
    """Pass one spoken caption of every photo through the codec: words lost, STOI, PESQ.

    Exit status 1 when a recording could not be used; the others are still scored.

    Example: pixvoice evaluate codec flickr8k --split dev --limit 100
    """
    import pixvoice
    from pixvoice.evaluation.codec import evaluate_codec
    from pixvoice.evaluation.recognizers import load_recognizer
    from pixvoice.evaluation.tables import codec_table

    photos = _photos(manifest, split, limit)
    tokenizer = getattr(pixvoice.load(bundle), "tokenizer", None)
    if tokenizer is None:
        raise OptionError("this bundle has no speech encoder, so nothing can be resynthesised: give another --bundle")
    listener = load_recognizer(recognizer, bundle)
    with _speech(photos, Voiced(engine, voice, cache)) as speak:
        result = evaluate_codec(_progress(photos, "coding"), tokenizer, listener, speak, codebooks, _tell)
    _print(result.as_dict(), as_json, lambda: codec_table(result))
    if result.n_failed:
        raise typer.Exit(1)


class Transcripts(StrEnum):
    """What a model's text encoder reads."""

    RECOGNIZER = "recognizer"
    TRUTH = "truth"


@app.command()
def search(
    manifest: Manifest,
    split: Split = None,
    bundle: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of a bundle or a search training's run; without it, what ships. Several give rows."),
    ] = None,
    limit: Limit = None,
    noise_db: Annotated[
        list[str] | None,
        typer.Option(help="White noise so many dB below the speech, or 'clean'; several give a row each."),
    ] = None,
    engine: Engine = None,
    voice: Annotated[
        list[str] | None,
        typer.Option(help="Voice of that engine, or a speaker of the data set's recordings; several give a row each."),
    ] = None,
    cache: Cache = None,
    transcripts: Annotated[
        Transcripts, typer.Option(help="What the text channel reads: its recognizer's words, or the true ones.")
    ] = Transcripts.RECOGNIZER,
    as_json: Json = False,
) -> None:
    """Search photos by speech and speech by photos: recall at 1, 5 and 10, median rank, words wrong.

    Every spoken caption is a query; a photo finds any of its own. Exit status 1 when a photo or a recording could not
    be used; the others are still scored.

    Example: pixvoice evaluate search flickr8k --split dev --noise-db clean --noise-db 5
    """
    from pixvoice.evaluation.published import SEARCH_SOURCE
    from pixvoice.evaluation.queries import CLEAN, gather_queries, noise_level
    from pixvoice.evaluation.search import SearchEvaluation
    from pixvoice.evaluation.tables import search_table

    levels = [noise_level(text) for text in noise_db or [CLEAN]]
    photos, queries = gather_queries(_samples(manifest, split), limit)
    results = []
    with _settings(queries, voice or [], engine, cache) as settings:
        places: Sequence[Path | None] = bundle or [None]
        for place in places:
            model, truth = _search_model(place), transcripts is Transcripts.TRUTH
            evaluation = SearchEvaluation(model, photos, _tell, _progress, truth)
            rows = [evaluation.run(a, replace(setting, noise_db=level)) for a, setting in settings for level in levels]
            mark = f" ({place})" if len(places) > 1 else ""
            results += [replace(row, model=row.model + mark) for row in rows]
    values = [result.as_dict() for result in results]
    _print({**values[0], "rows": values}, as_json, lambda: search_table(results))
    if not as_json:
        _note(SEARCH_SOURCE)
    if any(result.n_failed for result in results):
        raise typer.Exit(1)


def _search_model(place: Path | None) -> SearchModel:
    """The model in a bundle, or in the folder of a training's run, which may stand on pretrained towers."""
    if place is not None and (place / "recipe.yaml").is_file():
        try:
            from pixvoice.retrieve.build import load_search_model as load_run
        except ImportError as error:
            raise MissingToolError(
                f"{place} holds a training's run, which needs torch: pip install 'pixvoice[train]'"
            ) from error
        return load_run(place)
    from pixvoice.runtime.retriever import load_search_model

    return load_search_model(place)


@contextmanager
def _settings(
    queries: list[Query], voices: list[str], engine: str | None, cache: Path | None
) -> Iterator[list[tuple[list[Query], Setting]]]:
    """What is asked, and by whom: each speaker of a data set with recordings, else each voice of an engine."""
    from pixvoice.evaluation.queries import Setting, of_speaker
    from pixvoice.evaluation.voices import find_speak
    from pixvoice.speech.synthesizer import find_engine

    if queries[0].recording is not None:
        if engine:
            _note("the data set has recordings: they are the queries, and --engine isn't used")
        yield [(of_speaker(queries, voice), Setting(voice)) for voice in voices] or [(queries, Setting("recordings"))]
        return
    with tempfile.TemporaryDirectory(prefix="pixvoice-") as scratch:
        found = find_engine(engine)
        names = voices or [found.default_voice]
        speaks = [find_speak(engine, name, cache or Path(scratch)) for name in names]
        yield [(queries, Setting(f"{found.name} {name}", speak)) for name, speak in zip(names, speaks, strict=True)]


@dataclass(frozen=True)
class Voiced:
    """What the user asked for of ground-truth speech."""

    engine: str | None
    voice: str | None
    cache: Path | None
    needed: bool = False  # whether nothing can be measured without it


def _photos(manifest: Path, split: str | None, limit: int | None) -> list[Photo]:
    from pixvoice.evaluation.photos import gather_photos

    return gather_photos(_samples(manifest, split), limit)


def _samples(manifest: Path, split: str | None) -> list[Sample]:
    """The data set's samples in ``split``; without, in dev, where it has splits."""
    from pixvoice.data import load_dataset
    from pixvoice.manifest import select_split

    samples = load_dataset(manifest, split)
    if split is None and any(sample.split for sample in samples):
        samples = select_split(samples, "dev", manifest)
    return samples


@contextmanager
def _speech(photos: list[Photo], asked: Voiced) -> Iterator[Speak | None]:
    """A way to speak captions, or None where every photo has a recording or the machine has no engine."""
    from pixvoice.evaluation.voices import find_speak

    if all(photo.recording is not None for photo in photos):
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="pixvoice-") as scratch:
        try:
            speak = find_speak(asked.engine, asked.voice, asked.cache or Path(scratch))
        except MissingToolError as error:
            if asked.engine or asked.needed:
                raise
            _note(f"no ground-truth speech, so no ceiling: {error}")
            speak = None
        yield speak


def _progress(items: Sequence[T], what: str) -> Iterable[T]:
    from rich.console import Console
    from rich.progress import track

    return track(items, description=what, console=Console(stderr=True))


def _print(values: dict[str, Any], as_json: bool, table: Callable[[], Any]) -> None:
    from pixvoice.evaluation.tables import results_console

    if as_json:
        typer.echo(json.dumps(values))
    else:
        results_console().print(table())


def _tell(error: PixVoiceError) -> None:
    _note(f"error: {' '.join(str(error).split())}")


def _note(text: str) -> None:
    print(text, file=sys.stderr)
