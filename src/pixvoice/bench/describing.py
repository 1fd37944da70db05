"""One row of the table of descriptions: heard by every recognizer, scored with and without text, timed and counted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pixvoice.bench.counting import parameters
from pixvoice.bench.loading import load_describer
from pixvoice.bench.looking import look_at
from pixvoice.bench.memory import Remembered
from pixvoice.bench.plan import Row
from pixvoice.bench.sounds import opus
from pixvoice.bench.store import Values
from pixvoice.contracts import Recognizer, SearchModel, SpeechTokenizer
from pixvoice.errors import InputError, PixVoiceError
from pixvoice.evaluation.captions import caption_statistics
from pixvoice.evaluation.describe import SEED, DescribeEvaluation, Heard
from pixvoice.evaluation.photos import Photo, Speak
from pixvoice.evaluation.round_trip import RoundTrip
from pixvoice.files import write_bytes_atomically

SHOWN = 20  # photos on the page
LOOKS = 3  # photos of them with a picture of where each row looked


@dataclass(frozen=True)
class Asked:
    """What every row of a table is asked, in the same way.

    ``judge`` and ``units`` are None where nobody asked for scores without text.  ``threads`` is the number of processor
    cores that a row computes on.
    """

    photos: Sequence[Photo]
    recognizers: Sequence[Recognizer]
    speak: Speak | None
    judge: SearchModel | None
    units: SpeechTokenizer | None
    threads: int
    tell: Callable[[PixVoiceError], None]
    track: Callable[[Sequence[Photo], str], Iterable[Photo]]


def describe_row(row: Row, media: Path, asked: Asked) -> Values:
    """What a row says of the photos, and how good it is; its sound and pictures go to ``media``.

    Raises what ``load_describer`` and the evaluation raise.
    """
    speaker = load_describer(row, asked.threads)
    said = Remembered(speaker)
    results: list[dict[str, Any]] = []
    statistics: list[dict[str, Any]] = []
    heard: dict[int, dict[str, Heard]] = {}
    rate, spoken_s = None, 0.0
    for number, recognizer in enumerate(asked.recognizers):
        free = _round_trip(asked) if number == 0 else None
        evaluation = DescribeEvaluation(said, recognizer, asked.speak, on_failure=asked.tell)
        rows: list[int] = []
        evaluation.on_heard = _taker(recognizer.name, rows, heard, free)
        result = evaluation.run(asked.track(asked.photos, f"{row.name}, {recognizer.name}"))
        rate = result.real_time_factor if number == 0 else rate  # later recognizers hear what was said before
        spoken_s = result.speech_seconds_per_photo * result.n_photos
        free_scores = None if free is None else free.finish()
        results.append(replace(result, real_time_factor=rate, text_free=free_scores).as_dict())
        kept = caption_statistics(
            [one.text for one in evaluation.heard], [one.photo.captions for one in evaluation.heard]
        )
        statistics.append({"rows": rows, **kept.as_dict()})
    return {
        "results": results,
        "statistics": statistics,
        "samples": [_sample(n, heard[n], speaker, said, media) for n in sorted(heard)[:SHOWN]],
        "speech_per_compute_second": round(spoken_s / said.computed_s, 2) if said.computed_s else None,
        "threads": asked.threads,
        "bundle": speaker.bundle.info.name if row.own.is_bundle else None,
        "parameters": parameters(row, speaker),
        "training": training_of(row),
    }


def _taker(
    name: str, rows: list[int], heard: dict[int, dict[str, Heard]], free: RoundTrip | None
) -> Callable[[int, Heard], None]:
    def take(row: int, one: Heard) -> None:
        rows.append(row)
        if row < SHOWN:
            heard.setdefault(row, {})[name] = one
        if free is not None:
            free.add(row, one)

    return take


def _round_trip(asked: Asked) -> RoundTrip | None:
    if asked.judge is None or asked.units is None:
        return None
    return RoundTrip(asked.judge, asked.units, asked.speak, asked.tell)


def _sample(number: int, heard: Mapping[str, Heard], speaker: Any, said: Remembered, media: Path) -> Values:
    """What the page shows of one photo; the files are written beside one another in ``media``."""
    first = next(iter(heard.values()))
    sound = media / f"{number + 1:05d}.ogg"
    write_bytes_atomically(sound, opus(first.audio, first.sample_rate))
    texts = {name: one.text for name, one in heard.items()}
    truths = {name: one.truth for name, one in heard.items() if one.truth is not None}
    sample: Values = {"row": number, "sound": sound.name, "heard": texts, "truth": truths}
    look = getattr(speaker, "attention", None)
    if look is None or number >= LOOKS:
        return sample
    weights = look(first.photo.image, said.describe(first.photo.image, seed=SEED).codes)
    if weights is None or (picture := look_at(first.photo.image, weights)) is None:
        return sample
    path = media / f"{number + 1:05d}-looks.jpg"
    write_bytes_atomically(path, picture[0])
    return {**sample, "looks": path.name, "where": picture[1]}


def training_of(row: Row) -> Values:
    """The row's own training: steps, seconds (None where nobody noted them), loss curve; and the seconds of all behind.

    Raises InputError for a log that can't be read.
    """
    log = row.own.folder / "log.jsonl"
    try:
        lines = log.read_text().splitlines() if log.exists() else []
        curve = [[entry["step"], round(entry["loss"], 4)] for entry in map(json.loads, lines)]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{log}: no loss curve that can be read; delete it, or train again") from None
    behind = {step.run: step.seconds for step in row.steps}
    return {"seconds": row.own.seconds, "seconds_of_each": behind, "curve": curve}
