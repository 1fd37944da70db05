"""Samples of a data set as photos to search and spoken queries that search for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pixvoice.audio import SAMPLE_RATE, read_audio
from pixvoice.contracts import Audio
from pixvoice.errors import InputError, OptionError
from pixvoice.evaluation.photos import Speak
from pixvoice.evaluation.preparation import NOISE_DB, prepare_for_recognition, resample
from pixvoice.manifest import Sample, nearest

NOISE_RANGE = (-20.0, 60.0)  # dB
CLEAN = "clean"


@dataclass(frozen=True)
class Query:
    """One spoken caption: the number of its photo, and its text, recording and speaker where it has them."""

    photo: int
    text: str | None
    recording: Path | None = None
    speaker: str | None = None


@dataclass(frozen=True)
class Setting:
    """How the queries sound: who says those that weren't recorded, and white noise ``noise_db`` dB below the speech.

    ``voice`` is the name for the table; ``noise_db`` None is clean: the noise floor that every clip gets.
    """

    voice: str
    speak: Speak | None = None
    noise_db: float | None = None


def gather_queries(samples: Sequence[Sample], limit: int | None = None) -> tuple[list[Path], list[Query]]:
    """Samples, one a caption -> the first ``limit`` photos, each once, and every caption of them.

    Where some captions were recorded, the others are no queries.  Raises InputError when no sample has a recording or
    a text.
    """
    photos: dict[Path, int] = {}
    queries: list[Query] = []
    recorded = any(sample.audio for sample in samples)
    for sample in samples:
        text = (sample.text or "").strip() or None
        if sample.audio is None and (recorded or text is None):
            continue
        number = photos.setdefault(sample.image, len(photos))
        if limit is None or number < limit:
            queries.append(Query(number, text, sample.audio, sample.speaker))
    if not queries:
        raise InputError("no recording and no text to search with: give a data set with spoken or written captions")
    return list(photos)[:limit], queries


def of_speaker(queries: Sequence[Query], speaker: str) -> list[Query]:
    """What ``speaker`` says.  Raises OptionError, listing the speakers, when nobody is called so."""
    chosen = [query for query in queries if query.speaker == speaker]
    if not chosen:
        names = sorted({query.speaker for query in queries if query.speaker})
        some = ", ".join(names[:20] or ["no names of speakers"]) + (", ..." if len(names) > 20 else "")
        raise OptionError(f"no speaker {speaker!r}{nearest(speaker, names)} in the data set; it has {some}")
    return chosen


def noise_level(text: str) -> float | None:
    """``clean`` -> None, a number -> that many dB between speech and noise.  Raises OptionError for anything else."""
    if text == CLEAN:
        return None
    try:
        level = float(text)
    except ValueError:
        level = float("nan")
    if not NOISE_RANGE[0] <= level <= NOISE_RANGE[1]:
        raise OptionError(f"noise {text!r}: give {CLEAN}, or dB from {NOISE_RANGE[0]:g} to {NOISE_RANGE[1]:g}")
    return level


def hear(query: Query, seed: int, setting: Setting, sample_rate: int) -> Audio:
    """The query as the model gets it: audio (L,) at ``sample_rate`` Hz, padded and with the setting's noise.

    One seed gives one noise, at every level.  Raises InputError or OutputError when there is no such sound.
    """
    if query.recording is not None:
        audio = read_audio(query.recording)
    elif setting.speak is not None and query.text is not None:
        audio = setting.speak(query.text)
    else:
        raise InputError(f"the caption {(query.text or '')[:60]!r} has no recording; give an --engine that speaks it")
    noise_db = NOISE_DB if setting.noise_db is None else setting.noise_db
    return prepare_for_recognition(resample(audio, SAMPLE_RATE, sample_rate), sample_rate, seed, noise_db)
