"""A data set of written captions -> one of spoken captions, in parallel, and going on where it was stopped."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

import soundfile as sf

from pixvoice.audio import SAMPLE_RATE, wav_header
from pixvoice.errors import InputError, OptionError, OutputError, PixVoiceError
from pixvoice.manifest import Sample, read_manifest, write_manifest
from pixvoice.speech.synthesizer import Engine

MANIFEST = "manifest.jsonl"
_LEFTOVER_S = 60  # age from which a temporary file belongs to a run that was killed


class Assign(StrEnum):
    """Who speaks a caption when there are several voices."""

    ALL = "all"
    ROUND_ROBIN = "round-robin"


@dataclass(frozen=True)
class Outcome:
    """What became of one spoken caption: kept from an earlier run, made now, or failed with one line on why."""

    sample: Sample
    kept: bool = False
    seconds: float = 0.0  # of speech made now
    error: str | None = None


def plan_captions(
    samples: Sequence[Sample],
    folder: Path,
    voices: Sequence[str],
    *,
    per_photo: int | None = None,
    skip: int = 0,
    assign: Assign = Assign.ALL,
    suffix: str = ".wav",
) -> list[Sample]:
    """Written captions -> what to speak, as ``folder/<voice>/<photo>_<k>.wav``; k counts a photo's captions from 0.

    Of each photo, ``per_photo`` captions after the first ``skip`` are spoken, or all that there are.  Give the whole
    data set and pick a split afterwards, so that a file has one name whichever split is asked for.

    Raises:
        InputError: no sample has a text.
        OptionError: two voices would share a folder, or ``skip`` leaves nothing.
    """
    if not any(sample.text for sample in samples):
        raise InputError("no caption is written, so there is nothing to speak; give a data set with text")
    voices = list(dict.fromkeys(voices))
    rooms = {voice: re.sub(r"[^\w+-]", "_", voice) for voice in voices}
    if len({room.casefold() for room in rooms.values()}) < len(voices):
        raise OptionError(f"the voices {', '.join(voices)} would share a folder; give one folder to each with -o")
    names = _photo_names([sample.image for sample in samples])
    place: Counter[Path] = Counter()
    plan: list[Sample] = []
    for sample in samples:
        k = place[sample.image]
        place[sample.image] += 1
        if not sample.text or k < skip or (per_photo is not None and k >= skip + per_photo):
            continue
        speakers = voices if assign is Assign.ALL else [voices[(len(place) - 1 + k) % len(voices)]]
        for voice in speakers:
            audio = folder / rooms[voice] / f"{names[sample.image]}_{k}{suffix}"
            plan.append(replace(sample, audio=audio, speaker=voice))
    if not plan:
        raise OptionError(f"no photo has a caption after its first {skip}, so there is nothing to speak; skip fewer")
    return plan


def speak_captions(
    plan: Sequence[Sample],
    engine: Engine,
    folder: Path,
    jobs: int = 1,
    on_done: Callable[[Outcome], None] = lambda outcome: None,
) -> list[Outcome]:
    """Speak every sample of ``plan`` that isn't there yet, ``jobs`` at a time, and write ``folder/manifest.jsonl``.

    Files of an earlier run are kept when they are whole and the manifest gives no other text for them; its other lines
    stay.  A caption that fails is reported in its outcome (and at once to ``on_done``) and the others are still done.

    Raises:
        OutputError: the folder or the manifest can't be written.
    """
    earlier = _prepare(plan, folder)
    done: dict[Path | None, Outcome] = {}
    try:
        for outcome in _speak_all(plan, engine, jobs):
            done[outcome.sample.audio] = outcome
            on_done(outcome)
    finally:  # also when stopped by Ctrl-C: what is done is listed
        spoken = {s.audio: s for s in plan if s.audio in done and done[s.audio].error is None}
        if rows := earlier | spoken:
            write_manifest(folder / MANIFEST, rows.values())
    return [done[sample.audio] for sample in plan]


def _prepare(plan: Sequence[Sample], folder: Path) -> dict[Path | None, Sample]:
    """Make the folders and clear what a killed run or other texts left; returns the manifest's lines that stay."""
    manifest = folder / MANIFEST
    rows = {sample.audio: sample for sample in read_manifest(manifest)} if manifest.exists() else {}
    texts = {sample.audio: sample.text for sample in plan}
    stale = [audio for audio, row in rows.items() if audio in texts and row.text != texts[audio]]
    try:
        for room in dict.fromkeys(audio.parent for audio in texts if audio):
            room.mkdir(parents=True, exist_ok=True)
            for leftover in room.glob(".pixvoice-*.tmp"):
                if time.time() - leftover.stat().st_mtime > _LEFTOVER_S:
                    leftover.unlink(missing_ok=True)
        for audio in stale:
            if audio:
                audio.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: can't be written ({error.strerror}); give another folder with -o") from None
    return {audio: row for audio, row in rows.items() if audio not in stale}


def _speak_all(plan: Sequence[Sample], engine: Engine, jobs: int) -> Iterator[Outcome]:
    """Outcomes in the order in which they come."""
    pool = ThreadPoolExecutor(jobs)
    try:
        for future in as_completed([pool.submit(_speak_one, sample, engine) for sample in plan]):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _speak_one(sample: Sample, engine: Engine) -> Outcome:
    assert sample.audio and sample.text and sample.speaker
    if _is_whole(sample.audio):
        return Outcome(sample, kept=True)
    try:
        return Outcome(sample, seconds=engine.synthesize(sample.text, sample.speaker, sample.audio))
    except PixVoiceError as error:
        return Outcome(sample, error=str(error).removeprefix(f"{sample.audio}: "))


def _is_whole(path: Path) -> bool:
    """Whether a file of an earlier run has its end."""
    try:
        if path.suffix == ".wav":
            with path.open("rb") as file:
                header = file.read(44)
            n_bytes = path.stat().st_size - len(header)
            return n_bytes > 0 and header == wav_header(SAMPLE_RATE, n_bytes)
        audio, rate = sf.read(path)
        return bool(rate == SAMPLE_RATE and len(audio) == sf.info(path).frames > 0)
    except (OSError, sf.SoundFileError, RuntimeError):
        return False


def _photo_names(images: Sequence[Path]) -> dict[Path, str]:
    """A name for each photo's recordings: its own, with a mark added where two photos have the same."""
    photos = list(dict.fromkeys(images))
    count = Counter(photo.stem.casefold() for photo in photos)
    base = os.path.commonpath([photo.parent for photo in photos])

    def name(photo: Path) -> str:
        if count[photo.stem.casefold()] == 1:
            return photo.stem
        place = os.path.relpath(photo, base).replace(os.sep, "/")
        return f"{photo.stem}-{hashlib.sha256(place.encode(errors='replace')).hexdigest()[:8]}"

    return {photo: name(photo) for photo in photos}
