"""``pixvoice bench``: train what isn't trained, evaluate every row, and write the table as one report."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pixvoice.cli.evaluate import Voiced, _note, _photos, _progress, _samples, _settings, _speech, _tell
from pixvoice.cli.train import _need_torch

if TYPE_CHECKING:
    from pixvoice.bench.describing import Asked
    from pixvoice.bench.document import Report
    from pixvoice.bench.plan import Plan, Row
    from pixvoice.bench.searching import Searched
    from pixvoice.bench.store import Filled, Values
    from pixvoice.contracts import Recognizer, SearchModel, SpeechTokenizer
    from pixvoice.evaluation.photos import Photo, Speak

app = typer.Typer(
    name="bench",
    help="Train and evaluate every row of a table, and write it as a report. Try: pixvoice bench describe --dry-run",
    no_args_is_help=True,
)

DATA = Path("data/flickr8k")


class Size(StrEnum):
    """Which rows: those that train on two cores, or those as published."""

    SMALL = "small"
    FULL = "full"


SizeOption = Annotated[Size, typer.Option(help="Rows that train on two cores, or those as published.")]
Output = Annotated[
    Path | None, typer.Option("-o", "--output", help="Folder of the report; bench-VERB in --runs unless told.")
]
Runs = Annotated[Path, typer.Option(help="Folder of the trainings' runs, called as in recipes/README.md.")]
Recipes = Annotated[Path, typer.Option(help="Folder of the recipes and their README.")]
Rows = Annotated[list[str] | None, typer.Option("--row", metavar="NAME", help="Only this row; several give several.")]
DataOption = Annotated[
    Path, typer.Option("--data", "--manifest", help="A manifest, or a data set's folder, to evaluate on.")
]
Split = Annotated[str | None, typer.Option(help="Which split of the data set; dev, where it has splits.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Only the first so many photos.")]
Recognizers = Annotated[
    list[str] | None,
    typer.Option("--recognizer", help="ours, sphinx, whisper:ID or wav2vec2:ID; several listen one after another."),
]
Changes = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="[RUN:]KEY=VALUE", help="Another value in all recipes, or in one run's."),
]
Train = Annotated[bool, typer.Option("--train/--no-train", help="Train what isn't trained, or leave it out.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", "--check", help="Say what there is, what would be trained, what is missing.")
]
Threads = Annotated[int, typer.Option(min=1, help="Processor cores of an evaluation; speeds compare at one number.")]
Engine = Annotated[str | None, typer.Option(help="TTS engine for ground-truth speech where the data set has no audio.")]
Voice = Annotated[str | None, typer.Option(help="Voice of that engine.")]
Cache = Annotated[Path | None, typer.Option(help="Folder that keeps that speech for the next run.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object in place of the tables.")]


@dataclass(frozen=True)
class Bench:
    """What the three verbs share: the plan, the folder of the report, and how much is to be done."""

    plan: Plan
    output: Path
    train: bool
    as_json: bool

    def fill(self, key: dict[str, Any], evaluate: Callable[[Row, Path], Values]) -> Filled:
        """Every row trained and evaluated, or kept from before under the same ``key``."""
        from pixvoice.bench.store import Store, fill

        return fill(self.plan, Store(self.rows), key, evaluate, self.train, _note)

    @property
    def rows(self) -> Path:
        """Where each row's values and media lie."""
        return self.output / "rows"

    def finish(self, filled: Filled, report: Report) -> None:
        """Write and print the report.  Raises typer.Exit(1) where a row or a file failed."""
        for path in report.write(self.output):
            _note(f"written: {path}")
        typer.echo(json.dumps(report.values) if self.as_json else report.markdown())
        of_files = any(result.get("n_failed") for _, values in filled.rows for result in values["results"])
        if filled.failed or of_files:
            raise typer.Exit(1)


@app.command()
def describe(
    size: SizeOption = Size.SMALL,
    data: DataOption = DATA,
    split: Split = None,
    limit: Limit = None,
    row: Rows = None,
    recognizer: Recognizers = None,
    output: Output = None,
    runs: Runs = Path("runs"),
    recipes: Recipes = Path("recipes"),
    changes: Changes = None,
    train: Train = True,
    round_trip: Annotated[
        bool, typer.Option("--round-trip/--no-round-trip", help="Scores without text too, judged by what ships.")
    ] = True,
    engine: Engine = None,
    voice: Voice = None,
    cache: Cache = None,
    threads: Threads = 1,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Train, describe with, hear and score every describer on the same photos: Markdown, JSON and a page that plays.

    Stopped and given again, it goes on where it was; a row is evaluated anew when its weights are others. Exit status 1
    when a row, a photo or a recording failed; the others are in the tables.

    Example: pixvoice bench describe --size small --data data/flickr8k --recognizer ours --recognizer sphinx
    """
    from pixvoice.bench.describing import describe_row
    from pixvoice.bench.plan import make_plan
    from pixvoice.bench.reports import Context, describe_report

    _need_torch()
    plan = make_plan("describe", size, recipes, runs, row or (), changes or ())
    if dry_run:
        _show(plan, [data], as_json)
        return
    bench = Bench(plan, output or runs / "bench-describe", train, as_json)
    photos = _photos(data, split, limit)
    listeners = _listeners(recognizer)
    with _speech(photos, Voiced(engine, voice, cache)) as speak:
        judge = _judge() if round_trip else (None, None)
        asked = _asked(photos, listeners, speak, judge, threads)
        key = {**_key(asked, listeners, (engine, voice)), "judge": None if judge[0] is None else judge[0].fingerprint}
        filled = bench.fill(key, lambda row, media: describe_row(row, media, asked))
        report = describe_report(filled, Context(_command(), str(data), photos, bench.rows, speak))
    bench.finish(filled, report)


@app.command()
def complete(
    size: SizeOption = Size.SMALL,
    data: DataOption = DATA,
    split: Split = None,
    limit: Limit = None,
    row: Rows = None,
    percent: Annotated[
        list[int] | None, typer.Option(help="How much of a recording is given; several. 0, 25 and 50 unless told.")
    ] = None,
    recognizer: Recognizers = None,
    output: Output = None,
    runs: Runs = Path("runs"),
    recipes: Recipes = Path("recipes"),
    changes: Changes = None,
    train: Train = True,
    engine: Engine = None,
    voice: Voice = None,
    cache: Cache = None,
    threads: Threads = 1,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Complete spoken beginnings with every describer of codec tokens, in both orders of codebooks, scored both ways.

    Exit status 1 when a row, a photo or a recording failed; the others are in the tables.

    Example: pixvoice bench complete --data data/flickr8k --engine flite --voice rms
    """
    from pixvoice.bench.completing import complete_row, completes
    from pixvoice.bench.other_reports import complete_report
    from pixvoice.bench.plan import make_plan
    from pixvoice.bench.reports import Context
    from pixvoice.evaluation.complete import PERCENTS

    _need_torch()
    plan = make_plan("describe", size, recipes, runs, row or (), changes or (), completes)
    if dry_run:
        _show(plan, [data], as_json)
        return
    bench = Bench(plan, output or runs / "bench-complete", train, as_json)
    photos, percents = _photos(data, split, limit), sorted(set(percent or PERCENTS))
    listeners = _listeners(recognizer)
    with _speech(photos, Voiced(engine, voice, cache, needed=True)) as speak:
        asked = _asked(photos, listeners, speak, (None, None), threads)
        key = {**_key(asked, listeners, (engine, voice)), "percents": percents}
        filled = bench.fill(key, lambda row, media: complete_row(row, asked, percents))
        report = complete_report(filled, Context(_command(), str(data), photos, bench.rows, speak))
    bench.finish(filled, report)


@app.command()
def search(
    size: SizeOption = Size.SMALL,
    data: Annotated[
        list[Path] | None,
        typer.Option("--data", "--manifest", help="A manifest, or a data set's folder; several give a table each."),
    ] = None,
    split: Split = None,
    limit: Limit = None,
    row: Rows = None,
    noise_db: Annotated[
        list[str] | None,
        typer.Option(help="White noise so many dB below the speech, or 'clean'; several give a line each."),
    ] = None,
    output: Output = None,
    runs: Runs = Path("runs"),
    recipes: Recipes = Path("recipes"),
    changes: Changes = None,
    train: Train = True,
    engine: Engine = None,
    voice: Annotated[
        list[str] | None, typer.Option(help="Voice of that engine, or a speaker of the recordings; several.")
    ] = None,
    cache: Cache = None,
    threads: Threads = 1,
    dry_run: DryRun = False,
    as_json: Json = False,
) -> None:
    """Search with every search model: words alone, sound alone, and both, clean and in noise, voice by voice.

    Exit status 1 when a row, a photo or a recording failed; the others are in the tables.

    Example: pixvoice bench search --data data/flickr8k --noise-db clean --noise-db 10 --engine flite --voice rms
    """
    from pixvoice.bench.other_reports import search_report
    from pixvoice.bench.plan import make_plan
    from pixvoice.bench.reports import Context
    from pixvoice.bench.searching import search_row
    from pixvoice.bench.store import fingerprint
    from pixvoice.evaluation.queries import CLEAN, noise_level

    _need_torch()
    places = data or [DATA]
    plan = make_plan("search", size, recipes, runs, row or (), changes or ())
    if dry_run:
        _show(plan, places, as_json)
        return
    bench = Bench(plan, output or runs / "bench-search", train, as_json)
    levels = [noise_level(text) for text in noise_db or [CLEAN]]
    with _searched(places, split, limit, voice or [], engine, cache) as asked:
        told = [
            (one.name, one.photos, [(queries, setting.voice) for queries, setting in one.settings]) for one in asked
        ]
        key = {"data": fingerprint(told), "levels": levels, "threads": threads}
        filled = bench.fill(key, lambda row, media: search_row(row, asked, levels, threads, _tell, _progress))
    context = Context(_command(), ", ".join(map(str, places)), (), bench.rows)
    bench.finish(filled, search_report(filled, context))


@contextmanager
def _searched(
    places: Sequence[Path], split: str | None, limit: int | None, voices: list[str], engine: str | None,
    cache: Path | None,
) -> Iterator[list[Searched]]:  # fmt: skip
    """Each data set with its photos and who searches them."""
    from pixvoice.bench.searching import Searched
    from pixvoice.evaluation.queries import gather_queries

    with ExitStack() as stack:
        found = []
        for place in places:
            photos, queries = gather_queries(_samples(place, split), limit)
            settings = stack.enter_context(_settings(queries, voices, engine, cache))
            found.append(Searched(str(place), photos, settings))
        yield found


def _listeners(names: list[str] | None) -> dict[str, Recognizer]:
    """Recognizers by what was typed."""
    from pixvoice.bench.memory import Attentive
    from pixvoice.evaluation.recognizers import load_recognizer

    return {name: Attentive(load_recognizer(name)) for name in names or ["ours"]}


def _judge() -> tuple[SearchModel, SpeechTokenizer]:
    """Who finds photos by descriptions, and what makes units of them: those that ship, for every row."""
    import pixvoice
    from pixvoice.runtime.retriever import load_search_model

    return load_search_model(None), pixvoice.load().tokenizer


def _asked(
    photos: list[Photo],
    listeners: dict[str, Recognizer],
    speak: Speak | None,
    judge: tuple[SearchModel | None, SpeechTokenizer | None],
    threads: int,
) -> Asked:
    from pixvoice.bench.describing import Asked

    return Asked(photos, list(listeners.values()), speak, *judge, threads, _tell, _progress)


def _key(asked: Asked, listeners: dict[str, Recognizer], spoken_by: tuple[str | None, str | None]) -> dict[str, Any]:
    """What a row's values hang on, beside its weights."""
    from pixvoice.bench.store import fingerprint
    from pixvoice.runtime.bundle import Bundle

    return {
        "data": fingerprint(asked.photos),
        "recognizers": list(listeners),
        "bundle": fingerprint(sorted(Bundle.load().info.files.items())),  # whose recognizer and judge listen
        "speech": None if asked.speak is None else spoken_by,
        "threads": asked.threads,
    }


def _show(plan: Plan, places: Sequence[Path], as_json: bool) -> None:
    """Print the plan, and what of the data to evaluate on isn't there."""
    missing = [str(place) for place in places if not place.exists()]
    if as_json:
        typer.echo(json.dumps({**plan.as_dict(), "missing_data": missing}))
        return
    lines = [*plan.lines(), *(f"missing to evaluate on: {place}; give another --data" for place in missing)]
    typer.echo("\n".join(lines))


def _command() -> str:
    """What was typed."""
    return shlex.join(["pixvoice", *sys.argv[1:]])
