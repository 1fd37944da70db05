"""Samples of a data set, gathered by photo, with the one caption of each that is taken as its ground-truth speech."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from pixvoice.audio import read_audio
from pixvoice.contracts import Audio
from pixvoice.errors import InputError
from pixvoice.manifest import Sample

Speak = Callable[[str], Audio]
"""Text -> audio (L,) at 16 000 Hz."""


@dataclass(frozen=True)
class Photo:
    """A photo, everything that was written about it, and which caption is its ground-truth speech.

    ``recordings`` are those of all its captions, that of ``spoken`` among them.
    """

    image: Path
    captions: tuple[str, ...]
    spoken: int = 0
    recording: Path | None = None
    recordings: tuple[Path, ...] = ()

    @property
    def spoken_caption(self) -> str:
        """The text of the ground-truth speech."""
        return self.captions[self.spoken]

    @property
    def other_captions(self) -> tuple[str, ...]:
        """Every caption but the spoken one."""
        return self.captions[: self.spoken] + self.captions[self.spoken + 1 :]


def gather_photos(samples: Iterable[Sample], limit: int | None = None) -> list[Photo]:
    """Samples, one a caption -> photos in the order of the samples, the first ``limit`` of them.

    Photo number n speaks its caption n modulo the captions it has, so that every place in the list is heard; where
    captions were recorded, the choice is among the recordings.  Raises InputError when no sample has a text.
    """
    by_image: dict[Path, list[Sample]] = {}
    for sample in samples:
        if sample.text and sample.text.strip():
            by_image.setdefault(sample.image, []).append(sample)
    if not by_image:
        raise InputError("no photo with a text to score against: give a data set with captions, or another --split")
    return [_photo(row, group) for row, group in enumerate(list(by_image.values())[:limit])]


def _photo(row: int, group: list[Sample]) -> Photo:
    captions = _captions(group)
    recorded = [sample for sample in group if sample.audio is not None]
    if not recorded:
        return Photo(group[0].image, captions, row % len(captions))
    sample, recordings = recorded[row % len(recorded)], tuple(one.audio for one in recorded if one.audio is not None)
    return Photo(sample.image, captions, captions.index(sample.text or ""), sample.audio, recordings)


def _captions(group: list[Sample]) -> tuple[str, ...]:
    """Texts of one photo; a text that several voices speak counts as often as one of them speaks it."""
    spoken: Counter[tuple[str | None, str]] = Counter()
    kept: list[str] = []
    for text, speaker in ((sample.text or "", sample.speaker) for sample in group):
        spoken[speaker, text] += 1
        if spoken[speaker, text] > kept.count(text):
            kept.append(text)
    return tuple(kept)


def ground_truth_speech(photo: Photo, speak: Speak | None) -> Audio | None:
    """The photo's spoken caption (L,) at 16 000 Hz: its recording, else what ``speak`` makes of the text, else None."""
    if photo.recording is not None:
        return read_audio(photo.recording)
    return None if speak is None else speak(photo.spoken_caption)
