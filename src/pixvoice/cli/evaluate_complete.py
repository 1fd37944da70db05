"""``pixvoice evaluate complete``: how well a describer goes on from the beginning of a spoken caption."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pixvoice.cli.evaluate import (
    Cache,
    Engine,
    Json,
    Limit,
    Manifest,
    RecognizerName,
    Split,
    Voice,
    Voiced,
    _note,
    _photos,
    _print,
    _progress,
    _speech,
    _tell,
)


def complete(
    manifest: Manifest,
    split: Split = None,
    bundle: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder of a bundle; without it, the one that ships. Several (both patterns) give rows each."
        ),
    ] = None,
    percent: Annotated[
        list[int] | None, typer.Option(help="How much of a recording is given; several. 0, 25 and 50 unless told.")
    ] = None,
    recognizer: RecognizerName = "ours",
    limit: Limit = None,
    engine: Engine = None,
    voice: Voice = None,
    cache: Cache = None,
    as_json: Json = False,
) -> None:
    """Break off one spoken caption of every photo, let a describer complete it, hear it, and score it.

    Scored as published (the whole utterance) and by what was generated alone, for the beginning is ground truth. Exit
    status 1 when a photo or a recording could not be used; the others are still scored.

    Example: pixvoice evaluate complete flickr8k --split dev --percent 0 --percent 25 --percent 50
    """
    import pixvoice
    from pixvoice.evaluation.complete import PERCENTS, CompleteEvaluation, CompleteResult
    from pixvoice.evaluation.published import COMPLETION_SOURCE
    from pixvoice.evaluation.recognizers import load_recognizer
    from pixvoice.evaluation.tables import complete_table

    photos = _photos(manifest, split, limit)
    places: list[Path | None] = [*bundle] if bundle else [None]
    listener = load_recognizer(recognizer, places[0])
    results: list[CompleteResult] = []
    describers = [pixvoice.load(place) for place in places]
    names = [describer.bundle.info.name for describer in describers]
    with _speech(photos, Voiced(engine, voice, cache, needed=True)) as speak:
        for place, describer, name in zip(places, describers, names, strict=True):
            label = f"{name} ({place})" if names.count(name) > 1 else name
            pattern = describer.bundle.info.describer.pattern
            evaluation = CompleteEvaluation(describer, listener, label, pattern, percent or PERCENTS, speak, _tell)
            results += evaluation.run(_progress(photos, "completing"))
    rows = [result.as_dict() for result in results]
    _print({**rows[0], "rows": rows}, as_json, lambda: complete_table(results))
    if not as_json:
        _note(COMPLETION_SOURCE)
    if any(result.n_failed for result in results):
        raise typer.Exit(1)
