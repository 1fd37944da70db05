"""From what was found of each row to the three reports: which tables, which numbers in them, and what to say beside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixvoice.audio import SAMPLE_RATE
from pixvoice.bench.document import Curve, Photo, Report, Table, Voice, curve
from pixvoice.bench.sounds import data_uri, opus
from pixvoice.bench.store import Filled, Values
from pixvoice.errors import InputError, OutputError
from pixvoice.evaluation.captions import METRICS, CaptionStatistics, Doubles
from pixvoice.evaluation.intervals import LEVEL, RESAMPLES, SEED, Interval, Resampled, as_lists, draws
from pixvoice.evaluation.photos import Photo as DataPhoto
from pixvoice.evaluation.photos import Speak, ground_truth_speech
from pixvoice.evaluation.published import FLICKR8K, HUMAN, SYNTHESISED, PublishedRow
from pixvoice.evaluation.round_trip import BLEU, correlations
from pixvoice.files import read_bytes
from pixvoice.runtime.contact_sheet import thumbnail

HEADS = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "METEOR", "ROUGE-L", "CIDEr")
SURE = (
    f"In brackets: {LEVEL:g} % intervals of {RESAMPLES:,} resamples of the photos (bootstrap, seed {SEED}, the same"
    " resamples for every row; CIDEr's word weights stay those of all photos)."
)
OTHER_EARS = (
    "Published rows were heard by other recognizers and scored on the official test split: they orient, and don't rank."
)
RECALL = ("r_at_1", "r_at_5", "r_at_10", "median_rank")
GROUND_TRUTH = "a caption, spoken"
MAX_BYTES = 50_000_000


@dataclass(frozen=True)
class Context:
    """What the reports say of how they were made; ``photos`` are all that were asked about."""

    command: str
    data: str
    photos: Sequence[DataPhoto]
    media: Path
    speak: Speak | None = None

    def lead(self, what: str) -> tuple[str, ...]:
        """The lines under the title."""
        return (f"{what} {len(self.photos):,} photos of {self.data}.", f"Made by: {self.command}")


def describe_report(filled: Filled, context: Context) -> Report:
    """The table of descriptions, with everything there is to see and hear."""
    counts = draws(len(context.photos))
    names = [str(result["recognizer"]) for result in filled.rows[0][1]["results"]]
    resampled = [_resampled(filled, ear, counts) for ear in range(len(names))]
    tables: list[Table] = []
    for number, name in enumerate(names):
        tables += [
            _scores(filled, number, name, resampled[number]),
            *_differences(filled, number, name, resampled[number]),
        ]
    tables += [_sizes(filled), *_text_free(filled)]
    values = {
        "command": context.command,
        "data": context.data,
        "photos": len(context.photos),
        **_bootstrap(),
        "recognizers": names,
        "rows": [_row_values(row.name, row.model.name, values, n, resampled) for n, (row, values) in _numbered(filled)],
        "correlations": _correlations(filled),
        "published": [vars(row) for row in FLICKR8K],
        "left_out": filled.left_out,
        "failed": filled.failed,
    }
    return Report(
        title="Photos described aloud: every system on the same photos",
        lead=context.lead("Each row describes the same"),
        tables=tuple(tables),
        values=values,
        curves=tuple(_curves(filled)),
        photos=tuple(_photos(filled, context)),
        remarks=remarks(filled),
    )


def remarks(filled: Filled) -> tuple[str, ...]:
    """Which rows aren't in the tables, and why."""
    left = [f"{name} is left out: {reason}." for name, reason in filled.left_out.items()]
    blind = [row.name for row, values in filled.rows if values.get("samples") and "looks" not in values["samples"][0]]
    note = [f"No picture of where it looked: {', '.join(blind)}; such a model or bundle can't tell."] if blind else []
    packed = [f"{row.name} is a bundle ({name})" for row, values in filled.rows if (name := values.get("bundle"))]
    packed = [f"On ONNX Runtime, the others in PyTorch: {', '.join(packed)}."] if packed else []
    return (*left, *(f"{name} failed: {reason}" for name, reason in filled.failed.items()), *packed, *note)


def with_interval(value: float, interval: Interval) -> str:
    """``10.7 [9.9, 11.5]``."""
    return f"{number(value)} [{number(interval.low)}, {number(interval.high)}]"


def number(value: float | None, digits: int = 1) -> str:
    """A number, or a dash."""
    return "–" if value is None else f"{round(value, digits) + 0.0:,.{digits}f}"  # no minus before a zero


def published(row: PublishedRow) -> tuple[str, ...]:
    """The row of a published system."""
    return (row.name, *(number(getattr(row, metric)) for metric in METRICS))


def scored(name: str, scores: Mapping[str, Any], intervals: Mapping[str, Interval]) -> tuple[str, ...]:
    """The row of a system of ours."""
    return (name, *(with_interval(scores[metric], intervals[metric]) for metric in METRICS))


def statistics_of(lists: Mapping[str, Any]) -> CaptionStatistics:
    """What a row's file keeps of its photos."""
    return CaptionStatistics.from_json(**{key: value for key, value in lists.items() if key != "rows"})


def _bootstrap() -> Values:
    return {"resamples": RESAMPLES, "seed": SEED, "level_percent": LEVEL}


def _numbered(filled: Filled) -> Iterator[tuple[int, tuple[Any, Values]]]:
    yield from enumerate(filled.rows)


def _resampled(filled: Filled, recognizer: int, counts: Doubles) -> list[Resampled]:
    kept = [values["statistics"][recognizer] for _, values in filled.rows]
    return [Resampled.of(statistics_of(lists), lists["rows"], counts) for lists in kept]


def _scores(filled: Filled, recognizer: int, name: str, resampled: Sequence[Resampled]) -> Table:
    rows: list[tuple[str, ...]] = []
    for speech in (SYNTHESISED, HUMAN) if recognizer == 0 else ():  # once is enough
        rows += [(f"{speech}, other recognizers",), *(published(row) for row in FLICKR8K if row.speech == speech)]
    rows.append(("these rows",))
    for (row, values), each in zip(filled.rows, resampled, strict=True):
        rows.append(scored(row.name, values["results"][recognizer], each.intervals()))
    first = filled.rows[0][1]["results"][recognizer]
    heights = {"itself and the others": first["ceiling"], "the others": first["ceiling_leave_one_out"]}
    rows += [
        (f"{GROUND_TRUTH}, against {what}", *(number(scores[metric]) for metric in METRICS))
        for what, scores in heights.items()
        if scores is not None
    ]
    misheard = f"This recognizer gets {number(first['wer'])} % of the words of spoken captions wrong."
    notes = (SURE, *([] if first["wer"] is None else [misheard]), *([] if recognizer else [OTHER_EARS]))
    return Table(f"Descriptions, as {name} hears them", ("system", *HEADS), tuple(rows), notes)


def _differences(filled: Filled, recognizer: int, name: str, resampled: Sequence[Resampled]) -> list[Table]:
    """Every row against the best by CIDEr; nothing for a single row."""
    if len(filled.rows) < 2:
        return []
    results = [values["results"][recognizer] for _, values in filled.rows]
    best = max(range(len(results)), key=lambda row: float(results[row]["cider"]))
    rows = []
    for place, (row, _) in _numbered(filled):
        if place != best:
            less = resampled[place].less(resampled[best])
            apart = {metric: results[place][metric] - results[best][metric] for metric in METRICS}
            rows.append(scored(row.name, apart, less))
    caption = f"Difference to {filled.rows[best][0].name}, the best by CIDEr, as {name} hears it"
    return [
        Table(
            caption,
            ("system", *HEADS),
            tuple(rows),
            ("Where the interval holds 0, these photos can't tell the two apart.",),
        )
    ]


def _sizes(filled: Filled) -> Table:
    heads = ("system", "trained, million", "loaded, million", "training", "with its parts", "speech s / computing s")
    rows = []
    for row, values in filled.rows:
        counts, training = values["parameters"], values["training"]
        each = training["seconds_of_each"].values()
        together = None if None in each else sum(each)
        millions = (number(counts[which] and counts[which] / 1e6, 2) for which in ("trained", "loaded"))
        times = (_duration(training["seconds"]), _duration(together))
        rows.append((row.name, *millions, *times, number(values["speech_per_compute_second"], 2)))
    threads = sorted({values["threads"] for _, values in filled.rows})
    notes = (
        "Trained: the numbers that the row's own training learned. Loaded: everything in memory while it speaks, its"
        " image encoder and its codec, vocoder or voice among them. A dash: a bundle, whose files don't tell.",
        "Training: the steps of the row's own run; with its parts: of every run that it stands on. A dash: nobody noted"
        " it. Feature caches, which rows share, are not counted.",
        f"Speed: processor time of describing, on {', '.join(map(str, threads))} thread(s); recognition isn't counted.",
    )
    return Table("Size, training and speed", heads, tuple(rows), notes)


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    minutes = seconds / 60
    return f"{seconds:.0f} s" if minutes < 2 else f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _text_free(filled: Filled) -> list[Table]:
    """Scores without a written word, and how they go with those of text; nothing where nobody asked."""
    scores = {row.name: free for row, values in filled.rows if (free := values["results"][0].get("text_free"))}
    if not scores:
        return []
    rows = [(name, *_free_cells(free["round_trip"], free["unit_bleu"])) for name, free in scores.items()]
    first = next(iter(scores.values()))
    rows.append((GROUND_TRUTH, *_free_cells(first["round_trip_ceiling"], first["unit_bleu_ceiling"])))
    heads = ("system", "R@1", "R@5", "R@10", "median rank", *(f"unit {head}" for head in HEADS[:4]))
    note = (
        f"Each photo searched among {first['n_photos']:,} with its own description by {first['judge']}; units of a"
        " description against those of the photo's spoken captions. Of median ranks, the lowest is best."
    )
    tables = [Table("Without a written word", heads, tuple(rows), (note,))]
    found = {name: each for name, each in _correlations(filled).items() if any(each.values())}
    if found:
        lines = [(name, *(_agreement(each[metric]) for metric in METRICS)) for name, each in found.items()]
        title = f"How far the scores without text go with those of text, over {len(scores)} rows"
        tables.append(
            Table(title, ("Pearson / Spearman", *HEADS), tuple(lines), ("Over so few rows, a hint and no more.",))
        )
    return tables


def _free_cells(trip: Mapping[str, float] | None, units: Mapping[str, float] | None) -> list[str]:
    parts = ((trip, RECALL), (units, BLEU))
    return [number(None if scores is None else scores[key]) for scores, keys in parts for key in keys]


def _agreement(found: Mapping[str, float] | None) -> str:
    return "–" if found is None else f"{found['pearson']:.2f} / {found['spearman']:.2f}"


def _correlations(filled: Filled) -> dict[str, dict[str, dict[str, float] | None]]:
    """Empty where nobody asked for scores without text."""
    results = [values["results"][0] for _, values in filled.rows]
    found = correlations(results) if any(result.get("text_free") for result in results) else {}
    return {
        name: {metric: None if one is None else dict(vars(one)) for metric, one in each.items()}
        for name, each in found.items()
    }


def _row_values(name: str, model: str, values: Values, place: int, resampled: Sequence[Sequence[Resampled]]) -> Values:
    rest = {key: value for key, value in values.items() if key not in ("statistics", "samples", "results")}
    results = [
        {**result, "intervals": as_lists(each[place].intervals())}
        for result, each in zip(values["results"], resampled, strict=True)
    ]
    return {"name": name, "model": model, "results": results, **rest}


def _curves(filled: Filled) -> Iterator[Curve]:
    drawn = (curve(row.name, values["training"]["curve"]) for row, values in filled.rows)
    yield from (each for each in drawn if each is not None)


def _photos(filled: Filled, context: Context) -> Iterator[Photo]:
    """The photos that rows kept samples of, each with all its voices, the ground truth last."""
    samples = [(row.name, {one["row"]: one for one in values["samples"]}) for row, values in filled.rows]
    for place in sorted({place for _, kept in samples for place in kept}):
        data = context.photos[place]
        jpeg, (width, height) = thumbnail(data.image)
        there = [(name, kept[place]) for name, kept in samples if place in kept]
        voices = [_voice(name, one, context.media / name) for name, one in there]
        voices += _truth(data, there[0][1]["truth"], context)
        picture = data_uri(jpeg, "image/jpeg")
        yield Photo(place + 1, picture, width, height, data.captions, tuple(voices))


def _voice(name: str, sample: Values, media: Path) -> Voice:
    def read(file: str, kind: str) -> str:
        return data_uri(read_bytes(media / file, "file of the report", MAX_BYTES)[1], kind)

    looks = read(sample["looks"], "image/jpeg") if "looks" in sample else None
    where = ", ".join(sample.get("where", ()))
    return Voice(name, read(sample["sound"], "audio/ogg"), sample["heard"], looks, where)


def _truth(photo: DataPhoto, heard: Mapping[str, str], context: Context) -> list[Voice]:
    try:
        speech = ground_truth_speech(photo, context.speak)
    except (InputError, OutputError):  # the evaluation itself has told it
        speech = None
    return [] if speech is None else [Voice(GROUND_TRUTH, data_uri(opus(speech, SAMPLE_RATE), "audio/ogg"), heard)]
