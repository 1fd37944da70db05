"""``pixvoice synthesize``: spoken captions from written ones."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from pixvoice.data.spoken import Outcome
    from pixvoice.manifest import Sample
    from pixvoice.speech.synthesizer import Engine

_SHOWN = 20  # failures printed one by one


def synthesize(
    dataset: Annotated[Path, typer.Argument(help="A data set's folder, its caption file, or a manifest.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the speech and its manifest.jsonl.")],
    engine: Annotated[
        str | None,
        typer.Option(help="pico2wave, flite, festival, espeak-ng, or a command such as 'mytts {text} {out}'."),
    ] = None,
    voice: Annotated[list[str] | None, typer.Option(help="A voice of the engine; give it several times.")] = None,
    assign: Annotated[
        Literal["all", "round-robin"], typer.Option(help="Every caption in all voices, or each in the next one.")
    ] = "all",
    captions_per_photo: Annotated[int | None, typer.Option(min=1, help="Speak the first N of each photo.")] = None,
    skip_captions: Annotated[int, typer.Option(min=0, help="Leave out the first N of each photo.")] = 0,
    split: Annotated[str | None, typer.Option(help="Take one split: train, dev (val), test or extra.")] = None,
    audio_format: Annotated[Literal["wav", "flac"], typer.Option("--format", help="Kind of file.")] = "wav",
    jobs: Annotated[int | None, typer.Option(min=1, help="Captions at once; one a CPU core if not given.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Speak the written captions of a data set with a TTS engine.  Run again, it goes on where it was stopped.

    Example: pixvoice synthesize Flickr8k -o spoken --engine flite --voice rms --voice slt
    """
    from pixvoice.data import load_dataset
    from pixvoice.data.spoken import MANIFEST, Assign, plan_captions
    from pixvoice.manifest import select_split
    from pixvoice.speech.synthesizer import find_engine

    tts = find_engine(engine)
    voices = voice or [tts.default_voice]
    for name in voices:
        tts.check_voice(name)
    plan = plan_captions(
        load_dataset(dataset),
        output,
        voices,
        per_photo=captions_per_photo,
        skip=skip_captions,
        assign=Assign(assign),
        suffix=f".{audio_format}",
    )
    plan = select_split(plan, split, dataset)
    outcomes = _speak(plan, tts, output, jobs or os.cpu_count() or 1)
    failed = [{"audio": str(o.sample.audio), "error": o.error} for o in outcomes if o.error]
    kept = sum(outcome.kept for outcome in outcomes)
    made = len(outcomes) - kept - len(failed)
    seconds = sum(outcome.seconds for outcome in outcomes)
    if as_json:
        result = {"manifest": str(output / MANIFEST), "engine": tts.name, "voices": voices, "made": made, "kept": kept}
        typer.echo(json.dumps({**result, "speech_s": round(seconds, 3), "failed": failed}))
    else:
        counts = f"{made} made ({seconds:.0f} s of speech), {kept} kept, {len(failed)} failed"
        typer.echo(f"{output / MANIFEST}: {counts}")
    if failed:
        raise typer.Exit(1)


def _speak(plan: list[Sample], engine: Engine, folder: Path, jobs: int) -> list[Outcome]:
    """Speak with a progress bar and the first failures on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from pixvoice.data.spoken import speak_captions

    failures = 0
    columns = (TextColumn("speaking"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("speaking", total=len(plan))

        def on_done(outcome: Outcome) -> None:
            nonlocal failures
            progress.advance(bar)
            failures += outcome.error is not None
            if outcome.error and failures <= _SHOWN:
                typer.echo(f"error: {outcome.sample.audio}: {outcome.error}", err=True)

        outcomes = speak_captions(plan, engine, folder, jobs, on_done)
    if failures > _SHOWN:
        typer.echo(f"error: {failures - _SHOWN} more captions failed; see them all with --json", err=True)
    return outcomes
