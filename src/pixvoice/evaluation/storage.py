"""What photos and speech take on disk and as units, in bits, on real files.

A photo is compared with its file and with its pixels at the size that an encoder takes; a recording with its file and
with 16-bit samples at 16 kHz.  Units are counted as they are packed: ceil(log2 V) bits an id, names not counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pixvoice.audio import SAMPLE_RATE, read_audio
from pixvoice.contracts import Audio, SpeechTokenizer
from pixvoice.errors import InputError, PixVoiceError
from pixvoice.evaluation.preparation import resample
from pixvoice.images import read_image
from pixvoice.packed import bits_of

PIXELS_SIDE = 224  # pixels of an image encoder's input
SAMPLE_BITS = 16


@dataclass(frozen=True)
class ImageUnitSizes:
    """How many ids of how many values a tokenizer of photos gives; a constant, whatever the photo."""

    name: str
    patches: int
    num_codebooks: int
    codebook_size: int

    @property
    def bits(self) -> int:
        """Bits of one photo."""
        return self.patches * self.num_codebooks * bits_of(self.codebook_size)


IMAGE_UNITS = (
    ImageUnitSizes("ViT-VQGAN, 32 x 32 ids of 8,192", 32 * 32, 1, 8192),
    ImageUnitSizes("ours, small: 7 x 7 x 8 ids of 1,024", 7 * 7, 8, 1024),
)


@dataclass(frozen=True)
class StorageRow:
    """One way to keep a photo or a recording: mean bits, and their share of the file's and of the raw bits (percent).

    ``bits_per_second`` is of speech, None for photos.
    """

    kind: str
    name: str
    bits: float
    of_file: float
    of_raw: float
    bits_per_second: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, rounded."""
        digits = {"bits": 1, "of_file": 4, "of_raw": 4, "bits_per_second": 1}
        return {
            key: round(value, digits[key]) if key in digits and value else value for key, value in vars(self).items()
        }


@dataclass(frozen=True)
class StorageResult:
    """Rows of photos, then of recordings; how many files were measured, and how many couldn't be."""

    rows: tuple[StorageRow, ...]
    n_photos: int
    n_recordings: int
    seconds_per_recording: float | None
    n_failed: int

    def as_dict(self) -> dict[str, Any]:
        """One JSON object."""
        seconds = self.seconds_per_recording
        return {
            **vars(self),
            "rows": [row.as_dict() for row in self.rows],
            "seconds_per_recording": None if seconds is None else round(seconds, 3),
        }


def measure_storage(
    photos: Iterable[Path],
    recordings: Iterable[Path],
    tokenizers: dict[str, SpeechTokenizer],
    image_units: Iterable[ImageUnitSizes] = IMAGE_UNITS,
    on_failure: Callable[[PixVoiceError], None] = lambda error: None,
) -> StorageResult:
    """Measure every file; ``tokenizers`` of speech by what to call them in the table.

    A file that can't be read is told and left out.  Raises InputError when nothing could be measured.
    """
    failed: list[PixVoiceError] = []

    def tell(error: PixVoiceError) -> None:
        failed.append(error)
        on_failure(error)

    sizes = list(_photo_bits(photos, tell))
    clips = list(_clip_bits(recordings, tokenizers, tell))
    if not sizes and not clips:
        raise InputError("not one photo or recording could be measured: run `pixvoice manifest check` on the manifest")
    return StorageResult(
        rows=(*_photo_rows(sizes, image_units), *_speech_rows(clips, list(tokenizers))),
        n_photos=len(sizes),
        n_recordings=len(clips),
        seconds_per_recording=float(np.mean([seconds for seconds, *_ in clips])) if clips else None,
        n_failed=len(failed),
    )


def _photo_bits(photos: Iterable[Path], tell: Callable[[PixVoiceError], None]) -> Iterable[tuple[int, int]]:
    """Bits of each photo's file, and of its pixels at its own size."""
    for path in photos:
        try:
            photo = read_image(path)
        except PixVoiceError as error:
            tell(error)
            continue
        yield 8 * path.stat().st_size, photo.width * photo.height * 24


def _clip_bits(
    recordings: Iterable[Path], tokenizers: dict[str, SpeechTokenizer], tell: Callable[[PixVoiceError], None]
) -> Iterable[tuple[float, ...]]:
    """Seconds of each recording, bits of its file and of its samples, then of the units of each tokenizer."""
    for path in recordings:
        try:
            audio = read_audio(path)
            units = [_unit_bits(audio, tokenizer) for tokenizer in tokenizers.values()]
        except PixVoiceError as error:
            tell(error)
            continue
        yield len(audio) / SAMPLE_RATE, 8 * path.stat().st_size, len(audio) * SAMPLE_BITS, *units


def _unit_bits(audio: Audio, tokenizer: SpeechTokenizer) -> int:
    codes = tokenizer.encode(resample(audio, SAMPLE_RATE, tokenizer.sample_rate))
    return int(codes.size) * bits_of(tokenizer.codebook_size)


def _photo_rows(sizes: list[tuple[int, int]], image_units: Iterable[ImageUnitSizes]) -> Iterable[StorageRow]:
    if not sizes:
        return
    file, own = np.mean(np.array(sizes, np.float64), axis=0).tolist()
    raw = float(PIXELS_SIDE**2 * 24)
    ways = {
        "pixels at their own size": own,
        f"pixels at {PIXELS_SIDE} x {PIXELS_SIDE}": raw,
        "file": file,
        **{units.name: float(units.bits) for units in image_units},
    }
    for name, bits in ways.items():
        yield StorageRow("photo", name, bits, 100 * bits / file, 100 * bits / raw)


def _speech_rows(clips: list[tuple[float, ...]], names: list[str]) -> Iterable[StorageRow]:
    if not clips:
        return
    seconds, file, raw, *units = np.mean(np.array(clips, np.float64), axis=0).tolist()
    ways = {"samples, 16 bit at 16 kHz": raw, "file": file, **dict(zip(names, units, strict=True))}
    for name, bits in ways.items():
        yield StorageRow("speech", name, bits, 100 * bits / file, 100 * bits / raw, bits / seconds)
