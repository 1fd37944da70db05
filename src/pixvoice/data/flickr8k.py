"""Flickr8k as its authors gave it out, with or without the spoken captions of the Flickr Audio Caption Corpus.

    Flickr8k.token.txt            photo.jpg#k<TAB>caption                 (Hodosh, Young and Hockenmaier, 2013)
    Flickr_8k.trainImages.txt     photo.jpg                               also dev and test
    flickr_audio/wav2capt.txt     photo_k.wav photo.jpg #k                (Harwath and Glass, 2015)
    flickr_audio/wav2spk.txt      photo_k.wav speaker
    flickr_audio/wavs/            photo_k.wav

The text files may lie beside the photos or in ``Flickr8k_text/``, the audio corpus beside them or in ``flickr_audio/``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pixvoice.data.folders import find_file, find_images, read_lines
from pixvoice.errors import InputError
from pixvoice.images import PHOTO_SUFFIXES
from pixvoice.manifest import Sample

TOKENS = ("Flickr8k.token.txt",)
_LISTS = {split: (f"Flickr_8k.{split}Images.txt",) for split in ("train", "dev", "test")}

CaptionKey = tuple[str, int]
"""File name of a photo, and the number of one of its captions."""


def read_tokens(file: Path) -> list[Sample]:
    """``Flickr8k.token.txt`` -> one sample a caption, in the order of the file, with its recording if there is one."""
    captions = _captions(file)
    recordings = _recordings(corpus) if (corpus := find_file(file, ("wav2capt.txt",))) else {}
    return _samples(file, captions, recordings)


def read_corpus(file: Path) -> list[Sample]:
    """``wav2capt.txt`` -> one sample a caption; without ``Flickr8k.token.txt`` near it, the samples have no text."""
    if tokens := find_file(file, TOKENS):
        return _samples(tokens, _captions(tokens), _recordings(file))
    recordings = _recordings(file)
    return _samples(file, dict.fromkeys(recordings), recordings)


def official_split(file: Path) -> Callable[[str], str | None]:
    """Name of a photo -> its split by the official lists near ``file``.

    A photo in none of the lists is ``extra``.  Without any list, no photo has a split.
    """
    splits: dict[str, str] = {}
    for split, names in _LISTS.items():
        if found := find_file(file, names):
            splits |= {line.strip(): split for _, line in read_lines(found)}
    return lambda name: splits.get(name, "extra") if splits else None


def _captions(file: Path) -> dict[CaptionKey, str | None]:
    """Every caption.  A photo named otherwise (one is called ``.jpg.1``) isn't in the data set and is left out."""
    captions: dict[CaptionKey, str | None] = {}
    for number, line in read_lines(file):
        key, tab, text = line.partition("\t")
        name, mark, place = key.strip().rpartition("#")
        if not (tab and mark and place.isdecimal()):
            raise InputError(f"{file}: line {number} isn't 'photo.jpg#0<TAB>caption'; give Flickr8k.token.txt as it is")
        if Path(name).suffix.lower() in PHOTO_SUFFIXES and text.strip():
            captions[name, int(place)] = text.strip()
    return captions


def _recordings(file: Path) -> dict[CaptionKey, tuple[Path, str | None]]:
    """Recording and speaker of each caption.  Names that end in ``_txt`` aren't recordings and are left out."""
    speakers = _speakers(file)
    folder = file.parent / "wavs" if (file.parent / "wavs").is_dir() else file.parent
    recordings: dict[CaptionKey, tuple[Path, str | None]] = {}
    for number, line in read_lines(file):
        words = line.split()
        if len(words) != 3 or not words[2].lstrip("#").isdecimal():
            raise InputError(f"{file}: line {number} isn't 'photo_0.wav photo.jpg #0'; give wav2capt.txt as it is")
        wav, name, place = words
        if not Path(wav).stem.endswith("_txt"):
            recordings[name, int(place.lstrip("#"))] = folder / wav, speakers.get(wav)
    return recordings


def _speakers(file: Path) -> dict[str, str]:
    found = file.with_name("wav2spk.txt")
    pairs = (line.split() for _, line in read_lines(found)) if found.is_file() else ()
    return {words[0]: words[1] for words in pairs if len(words) == 2}


def _samples(
    file: Path,
    captions: dict[CaptionKey, str | None],
    recordings: dict[CaptionKey, tuple[Path, str | None]],
) -> list[Sample]:
    images = find_images(file, (name for name, _ in captions))
    split = official_split(file)
    return [
        Sample(images / name, *_heard(recordings, (name, place), text), split(name))
        for (name, place), text in captions.items()
    ]


def _heard(
    recordings: dict[CaptionKey, tuple[Path, str | None]], key: CaptionKey, text: str | None
) -> tuple[Path | None, str | None, str | None]:
    audio, speaker = recordings.get(key, (None, None))
    return audio, text, speaker
