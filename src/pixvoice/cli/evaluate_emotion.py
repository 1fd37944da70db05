"""``pixvoice evaluate emotion``: how well a linear head hears eight emotions in actors that it never heard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pixvoice.errors import MissingToolError, PixVoiceError

if TYPE_CHECKING:
    from rich.table import Table

    from pixvoice.data.ravdess import RavdessClip
    from pixvoice.evaluation.emotion import EmotionResult
    from pixvoice.retrieve.model import DualChannel
    from pixvoice.speech.ctc import CTCRecognizer


def emotion(
    folder: Annotated[Path, typer.Argument(help="Folder of RAVDESS: Actor_01/03-01-06-01-02-01-01.wav or .flac.")],
    classes: Annotated[int, typer.Option(help="8, or the paper's 4 (neutral with calm, happy, sad, angry).")] = 8,
    mode: Annotated[
        str, typer.Option(help="What is trained: probe (the head), prompts (and last layer), all.")
    ] = "probe",
    per_actor: Annotated[
        bool, typer.Option("--per-actor", help="Centre features on each actor: no labels, but many recordings of each.")
    ] = False,
    bundle: Annotated[Path | None, typer.Option(help="Folder of a bundle; without it, the one that ships.")] = None,
    run: Annotated[Path | None, typer.Option(help="Folder of a trained retriever: its channels join in.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Processor cores to compute on.")] = 2,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object in place of the table.")] = False,
    report: Annotated[Path | None, typer.Option(help="Folder for the confusion matrix as a picture.")] = None,
) -> None:
    """Recognise acted emotions in RAVDESS, in actors that weren't heard in training.

    Eight classes: four actors are left out at a time. Four classes: actors 1 to 18 train, 19 to 24 test. Exit status 1
    when a recording could not be used; the others are still scored.

    Example: pixvoice evaluate emotion ravdess --report emotion
    """
    from rich.console import Console
    from rich.progress import track

    from pixvoice.cli.evaluate import _note, _tell
    from pixvoice.data.ravdess import read_ravdess

    start = _start(bundle, run, threads)
    from pixvoice.evaluation.emotion import EmotionTask, evaluate_emotion, read_clips, write_report
    from pixvoice.training.emotion import hear

    task = EmotionTask(classes, mode, per_actor, threads)
    wanted = task.select(read_ravdess(folder, _note))
    task.folds(clip.actor for clip in wanted)
    if mode != "probe" and run is None:
        _note("without --run the prompts and the acoustic channel begin untrained")
    clips: list[RavdessClip] = []
    progress = track(wanted, description="hearing", console=Console(stderr=True))
    heard = hear(read_clips(progress, start[0].dims.sample_rate, clips, _tell), *start)
    failed = len(wanted) - len(clips)
    result = evaluate_emotion(clips, heard, start, task, failed)
    if report is not None:
        _note(f"report: {write_report(result, report)}")
    if as_json:
        typer.echo(json.dumps(result.as_dict()))
    else:
        from pixvoice.evaluation.tables import results_console

        results_console().print(_table(result))
    if failed:
        raise typer.Exit(1)


def _start(bundle: Path | None, run: Path | None, threads: int) -> tuple[CTCRecognizer, DualChannel | None]:
    """The recognizer and, with ``run``, the dual-channel model to begin with."""
    try:
        import torch

        from pixvoice.runtime.bundle import Bundle
        from pixvoice.training.emotion import recognizer_of
    except ImportError as error:
        raise MissingToolError(f"emotion needs {error.name}: pip install 'pixvoice[train,evaluate]'") from None
    torch.set_num_threads(threads)
    if run is None:
        return recognizer_of(Bundle.load(bundle)), None
    from pixvoice.retrieve.small_parts import SmallConfig, SmallSpeechPart, small_dual_channel
    from pixvoice.training.trainer import load_model

    dual = load_model(run, "retriever", SmallConfig.from_json, small_dual_channel)
    if not isinstance(dual.speech, SmallSpeechPart):
        raise PixVoiceError(f"{run}: its speech part isn't a recognizer of ours; give a retriever of the small size")
    return dual.speech.recognizer, dual


def _table(result: EmotionResult) -> Table:
    from rich.table import Table

    table = Table("actors left out", "recordings", "accuracy %", title=f"{result.classes} emotions, mode {result.mode}")
    for fold in result.folds:
        table.add_row(", ".join(map(str, fold.actors)), str(fold.n_clips), f"{fold.accuracy:.1f}")
    table.add_section()
    table.add_row("all", str(result.n_clips), f"{result.accuracy:.1f}")
    table.add_row("all, mean of the classes", "", f"{result.unweighted_accuracy:.1f}")
    table.add_row("the sentence alone", "", f"{result.sentence_accuracy:.1f}")
    table.add_row("the recognised words alone", "", f"{result.words_accuracy:.1f}")
    table.caption = (
        "Every actor says the same two sentences in every emotion, so the text channel can't give any of this:"
        " the sentence alone is chance, and words do better only by being misheard."
    )
    return table
