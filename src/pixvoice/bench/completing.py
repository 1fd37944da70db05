"""One row of the table of completions: from 0, 25 and 50 % of a recording, scored whole and by what was generated."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pixvoice.bench.describing import Asked
from pixvoice.bench.loading import load_describer
from pixvoice.bench.memory import Remembered
from pixvoice.bench.plan import Row
from pixvoice.bench.store import Values
from pixvoice.evaluation.captions import caption_statistics
from pixvoice.evaluation.complete import PERCENTS, CompleteEvaluation
from pixvoice.evaluation.complete import Heard as HeardCompleted

WAYS = ("whole", "generated")


def completes(recipe: Any) -> bool:
    """Whether a recipe's describer says codec tokens, which a beginning can be given in."""
    return getattr(recipe, "codec", None) is not None and hasattr(recipe.model, "pattern")


def complete_row(row: Row, asked: Asked, percents: Sequence[int] = PERCENTS) -> Values:
    """How a row goes on from the beginnings of the photos' recordings.

    Raises what ``load_describer`` and ``CompleteEvaluation`` raise.
    """
    said = Remembered(load_describer(row, asked.threads))
    pattern = str(getattr(getattr(row.own.recipe, "model", None), "pattern", ""))
    results: list[dict[str, Any]] = []
    statistics: list[dict[str, Any]] = []
    number = {photo.image: place for place, photo in enumerate(asked.photos)}
    for recognizer in asked.recognizers:
        evaluation = CompleteEvaluation(
            said, recognizer, row.name, pattern, percents, asked.speak, on_failure=asked.tell
        )
        results += [
            one.as_dict() for one in evaluation.run(asked.track(asked.photos, f"{row.name}, {recognizer.name}"))
        ]
        number = {photo.image: place for place, photo in enumerate(asked.photos)}
        statistics += [_statistics(heard, number) for heard in evaluation.heard.values()]
    return {"results": results, "statistics": statistics, "threads": asked.threads}


def _statistics(heard: Sequence[HeardCompleted], number: dict[Path, int]) -> dict[str, Any]:
    """The statistics of one percentage in both ways of scoring, and the numbers of its photos."""
    whole = caption_statistics([one.whole for one in heard], [one.photo.captions for one in heard])
    generated = caption_statistics([one.generated for one in heard], [[one.rest] for one in heard])
    rows = [number[one.photo.image] for one in heard]
    return {"rows": rows, "whole": whole.as_dict(), "generated": generated.as_dict()}
