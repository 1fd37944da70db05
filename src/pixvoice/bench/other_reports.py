"""The reports of completion and of search."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pixvoice.bench.completing import WAYS
from pixvoice.bench.document import Report, Table
from pixvoice.bench.reports import (
    GROUND_TRUTH,
    HEADS,
    OTHER_EARS,
    SURE,
    Context,
    number,
    published,
    remarks,
    scored,
    statistics_of,
    with_interval,
)
from pixvoice.bench.store import Filled, Values
from pixvoice.evaluation.captions import METRICS, Doubles
from pixvoice.evaluation.intervals import LEVEL, RESAMPLES, SEED, Interval, Resampled, as_lists, draws
from pixvoice.evaluation.published import COMPLETION, COMPLETION_SOURCE, SEARCH, SEARCH_SOURCE
from pixvoice.evaluation.search import WAYS as SEARCH_WAYS

CAPTIONS = {
    "whole": "The whole utterance against all captions, as published: what was given counts too, and flatters",
    "generated": "What was generated alone, against the rest of the caption",
}
CEILINGS = {"whole": "ceiling", "generated": "ceiling_generated"}
SEARCH_HEADS = ("system", *(f"{way} {head}" for way in ("S>I", "I>S") for head in ("R@1", "R@5", "R@10", "med")), "WER")
SURE_SEARCH = (
    f"In brackets: {LEVEL:g} % intervals of {RESAMPLES:,} resamples of the photos with their recordings (bootstrap,"
    f" seed {SEED}, the same resamples for every row); those of R@1 and R@5 are in the JSON."
)
SURE_OF = "r_at_10"  # with all intervals the table would be too wide to read; they are in the JSON
Intervals = Mapping[str, Interval]


def complete_report(filled: Filled, context: Context) -> Report:
    """The table of completions, both ways of scoring, by every recognizer."""
    counts = draws(len(context.photos))
    found = [(values["results"], _intervals(values, counts)) for _, values in filled.rows]
    results = [(result, sure) for all_of, sures in found for result, sure in zip(all_of, sures, strict=True)]
    names = list(dict.fromkeys(result["recognizer"] for result, _ in results))
    tables = [
        _completions(way, name, [(result, sure[way]) for result, sure in results if result["recognizer"] == name])
        for name in names
        for way in WAYS
    ]
    rows = [{**result, "intervals": {way: as_lists(sure[way]) for way in WAYS}} for result, sure in results]
    values = {
        "command": context.command,
        "data": context.data,
        "photos": len(context.photos),
        "resamples": RESAMPLES,
        "seed": SEED,
        "level_percent": LEVEL,
        "rows": rows,
        "left_out": filled.left_out,
        "failed": filled.failed,
    }
    title = "Descriptions completed from a spoken beginning"
    return Report(title, context.lead("Each row completes recordings of the same"), tuple(tables), values,
                  remarks=(*remarks(filled), COMPLETION_SOURCE))  # fmt: skip


def _intervals(values: Values, counts: Doubles) -> list[dict[str, Intervals]]:
    """For each result of a row, the intervals of both ways of scoring."""
    return [
        {way: Resampled.of(statistics_of(kept[way]), kept["rows"], counts).intervals() for way in WAYS}
        for kept in values["statistics"]
    ]


def _completions(way: str, recognizer: str, results: list[tuple[Values, Intervals]]) -> Table:
    rows: list[tuple[str, ...]] = []
    for percent in sorted({result["percent"] for result, _ in results}):
        rows.append((f"{percent} % given",))
        if way == "whole":
            rows += [(f"{name}, published", *cells) for name, *cells in map(published, COMPLETION.get(percent, ()))]
        asked = [(result, sure) for result, sure in results if result["percent"] == percent]
        for result, sure in asked:
            rows.append(scored(f"{result['name']} ({result['pattern']})", result[way], sure))
            if way == "generated" and percent and result["unprompted"] is not None:
                rows.append(("  the same, without a beginning", *_plain(result["unprompted"])))
        rows.append((GROUND_TRUTH, *_plain(asked[0][0][CEILINGS[way]])))
    notes = (SURE, OTHER_EARS) if way == "whole" else (SURE,)
    return Table(f"{CAPTIONS[way]}; as {recognizer} hears it", ("system", *HEADS), tuple(rows), notes)


def _plain(scores: Mapping[str, Any]) -> Iterable[str]:
    return [number(scores[metric]) for metric in METRICS]


def search_report(filled: Filled, context: Context) -> Report:
    """The table of search: a table a data set, a row a model, voice and level of noise."""
    results = [result for _, values in filled.rows for result in values["results"]]
    tables = []
    for data in dict.fromkeys(result["data"] for result in results):
        asked = [result for result in results if result["data"] == data]
        rows = [(_setting(result), *_recall(result), number(result["wer"])) for result in asked]
        note = (
            f"S>I: speech to image, I>S: image to speech, med: median rank. {asked[0]['n_photos']:,} photos,"
            f" {max(result['n_queries'] for result in asked):,} recordings a row. WER: percent of words misread."
        )
        tables.append(Table(f"Spoken search: {data}", SEARCH_HEADS, tuple(rows), (note, SURE_SEARCH)))
    rows = []
    for heading, systems in SEARCH.items():
        rows.append((heading,))
        for one in systems:
            ways = ([*map(number, way), "–"] for way in (one.speech_to_image, one.image_to_speech))
            rows.append((one.name, *(cell for way in ways for cell in way), "–"))
    note = "Of human speech and the official test splits (1,000 and 5,000 photos): they orient, and don't rank."
    tables.append(Table("Published, other data", SEARCH_HEADS, tuple(rows), (note, SEARCH_SOURCE)))
    values = {"command": context.command, "data": context.data, "rows": results, "left_out": filled.left_out,
              "failed": filled.failed}  # fmt: skip
    lead = (f"Each row searches {context.data}.", f"Made by: {context.command}")
    return Report("Photos found by speech, and speech by photos", lead, tuple(tables), values, remarks=remarks(filled))


def _setting(result: Values) -> str:
    noise = "clean" if result["noise_db"] is None else f"{result['noise_db']:g} dB"
    return f"{result['model']}, {result['voice']}, {noise}"


def _recall(result: Values) -> Iterable[str]:
    for way in SEARCH_WAYS:
        sure = {key: Interval(*ends) for key, ends in result["intervals"][way].items()}
        for key, value in result[way].items():
            yield with_interval(value, sure[key]) if key == SURE_OF else number(value)
