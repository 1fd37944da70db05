"""One row of the table of search: a model over every manifest, voice and level of noise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pixvoice.bench.loading import load_searcher
from pixvoice.bench.plan import Row
from pixvoice.bench.store import Values
from pixvoice.errors import PixVoiceError
from pixvoice.evaluation.intervals import as_lists, draws, recall_intervals
from pixvoice.evaluation.queries import Query, Setting
from pixvoice.evaluation.search import SearchEvaluation, SearchResult


@dataclass(frozen=True)
class Searched:
    """A data set as it is searched: its photos, and who asks for them how."""

    name: str
    photos: Sequence[Path]
    settings: Sequence[tuple[list[Query], Setting]]


def search_row(
    row: Row,
    data: Sequence[Searched],
    levels: Sequence[float | None],
    threads: int,
    tell: Callable[[PixVoiceError], None],
    track: Callable[[Sequence[Any], str], Iterable[Any]],
) -> Values:
    """Recall of a row in each setting.  Raises as ``load_searcher``, and InputError without photos."""
    model = load_searcher(row, threads)
    results: list[dict[str, Any]] = []
    for place in data:
        evaluation = SearchEvaluation(model, place.photos, tell, track)
        for queries, setting in place.settings:
            for level in levels:
                found = evaluation.run(queries, replace(setting, noise_db=level))
                results.append({"data": place.name, **found.as_dict(), "model": row.name, "intervals": _sure(found)})
    return {"results": results, "threads": threads}


def _sure(found: SearchResult) -> Values:
    counts = draws(found.n_photos)
    return {way: as_lists(recall_intervals(ranked, counts)) for way, ranked in found.ranked.items()}
