"""Manifests: one JSON object a line, each a photo with its recording, text, speaker and split.

    {"image": "photos/dog.jpg", "audio": "rms/dog_0.wav", "text": "A dog runs.", "speaker": "rms", "split": "train"}

Only ``image`` is always there.  Paths are relative to the manifest's own folder, with forward slashes, so that a
manifest and its data set move together; they may lead out of the folder through ``..``.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import soundfile as sf
from PIL import Image

from pixvoice.audio import read_audio, write_bytes_atomically
from pixvoice.errors import InputError, OptionError, OutputError, PixVoiceError
from pixvoice.images import read_image

SPLITS = ("train", "dev", "test", "extra")
_SYNONYMS = {"val": "dev"}
_PLAIN_FORMATS = frozenset({"JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"})


@dataclass(frozen=True)
class Sample:
    """One caption of one photo: spoken, written, or both."""

    image: Path
    audio: Path | None = None
    text: str | None = None
    speaker: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class Fault:
    """What is wrong in one line (counted from 1) of a manifest."""

    line: int
    message: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.message}"


KEYS = tuple(field.name for field in fields(Sample))
_PATH_KEYS = ("image", "audio")


def canonical_split(name: str) -> str:
    """The one name of a split: ``val`` is ``dev``."""
    return _SYNONYMS.get(name, name)


def select_split(samples: list[Sample], split: str | None, source: str | Path) -> list[Sample]:
    """The samples of one split; all of them when ``split`` is None.

    Raises:
        OptionError: ``source`` has no sample in that split; the message lists the splits that it has.
    """
    if split is None:
        return samples
    chosen = [sample for sample in samples if sample.split == canonical_split(split)]
    if not chosen:
        present = sorted({sample.split for sample in samples if sample.split})
        has = f"has {', '.join(present)}" if present else "names no splits; leave the split away"
        raise OptionError(f"no split {split!r} in {source}: it {has}")
    return chosen


def read_manifest(path: str | Path, split: str | None = None) -> list[Sample]:
    """Read a manifest; files that it names are looked for only when they are used.

    Raises:
        InputError: the manifest is missing, empty or malformed.
        OptionError: no line is of ``split``.
    """
    samples: list[Sample] = []
    faults: list[Fault] = []
    for number, text in _lines(Path(path)):
        sample, messages = _parse(text, Path(path).parent)
        faults += [Fault(number, message) for message in messages]
        if sample is not None:
            samples.append(sample)
    if faults:
        more = f" and {len(faults) - 1} more" if len(faults) > 1 else ""
        raise InputError(f"{path}: {faults[0]}{more}; see all with: pixvoice manifest check {path}")
    if not samples:
        raise InputError(f"{path}: holds no samples; make one with: pixvoice manifest make DATASET -o FILE")
    return select_split(samples, split, path)


def write_manifest(path: str | Path, samples: Iterable[Sample]) -> None:
    """Write a manifest, whole or not at all.  Fields that are None or blank are left out.

    Raises:
        OutputError: the file can't be written, or a photo lies on another drive.
    """
    folder = Path(path).parent
    lines = [_dump(_to_row(sample, folder)) for sample in samples]
    write_bytes_atomically(path, "".join(f"{line}\n" for line in lines).encode())


def check_manifest(path: str | Path) -> list[Fault]:
    """Every fault of a manifest at once, in the order of its lines; an empty list when it is sound.

    Photos and recordings are opened as far as their headers.

    Raises:
        InputError: the manifest itself can't be read.
    """
    checked: dict[Path, str | None] = {}
    seen: dict[object, int] = {}
    faults: list[Fault] = []
    number = 0
    for number, text in _lines(Path(path)):
        sample, messages = _parse(text, Path(path).parent)
        if sample is not None:
            messages += _file_faults(sample, checked)
            messages += _repeats(sample, number, seen)
        faults += [Fault(number, message) for message in messages]
    return faults if number else [Fault(1, "the manifest holds no samples")]


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Number (from 1) and bytes of every line that isn't blank."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path}: no such manifest; make one with: pixvoice manifest make DATASET -o {path}") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{path}: can't be read ({reason}); give a manifest file") from None
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if line.strip():
            yield number, line


def _parse(line: bytes, folder: Path) -> tuple[Sample | None, list[str]]:
    """One line -> the sample if it is well formed, and what is wrong with it."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        return None, [f"not JSON ({error.msg} at column {error.colno})"]
    except (ValueError, RecursionError) as error:
        return None, [f"not JSON ({error})"]
    if not isinstance(row, dict):
        return None, [f"a JSON {type(row).__name__}; each line is one object with the keys {', '.join(KEYS)}"]
    messages = [_unknown_key(key) for key in row if key not in KEYS]
    messages += [message for key in KEYS if (message := _field_fault(row, key))]
    if messages:
        return None, messages
    values: dict[str, Any] = {key: row[key] for key in KEYS if row.get(key) is not None}
    values |= {key: folder / values[key] for key in _PATH_KEYS if key in values}
    if "split" in values:
        values["split"] = canonical_split(values["split"])
    return Sample(**values), []


def _unknown_key(key: str) -> str:
    return f"unknown key {key!r}{nearest(key, KEYS)}; allowed: {', '.join(KEYS)}"


def nearest(given: str, allowed: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` when one of the allowed names is near, else nothing."""
    found = difflib.get_close_matches(given.lower(), list(allowed), n=1, cutoff=0.5)
    return f" (did you mean {found[0]!r}?)" if found else ""


def _field_fault(row: dict[str, Any], key: str) -> str | None:
    value = row.get(key)
    if value is None:
        return "no image; every line needs one" if key == "image" else None
    if not isinstance(value, str):
        return f"{key} is a {type(value).__name__}; give a string"
    if not value.strip():
        return f"{key} is empty; give a value" + ("" if key == "image" else " or leave the key out")
    if key in _PATH_KEYS:
        return _path_fault(key, value)
    if key == "split" and canonical_split(value) not in SPLITS:
        return f"unknown split {value!r}{nearest(value, SPLITS)}; allowed: {', '.join(SPLITS)} (val is dev)"
    return None


def _path_fault(key: str, value: str) -> str | None:
    windows = PureWindowsPath(value)
    if PurePosixPath(value).is_absolute() or windows.drive or windows.root:
        return f"{key} {value} is an absolute path; give it relative to the manifest's folder"
    if value.startswith("~/") or "://" in value or "\0" in value:
        return f"{key} {value!r} isn't a relative path; give it relative to the manifest's folder"
    return None


def _file_faults(sample: Sample, checked: dict[Path, str | None]) -> list[str]:
    """Faults of the files that a sample names; each file is opened once for the whole manifest."""
    messages = [] if sample.audio or sample.text else ["neither audio nor text; give at least one"]
    openers: tuple[tuple[str, Path | None, Callable[[Path], None]], ...] = (
        ("image", sample.image, _open_image),
        ("audio", sample.audio, _open_audio),
    )
    for key, path, opener in openers:
        if path is None:
            continue
        if path not in checked:
            checked[path] = _file_fault(path, opener)
        if checked[path]:
            messages.append(f"{key} {checked[path]}")
    return messages


def _file_fault(path: Path, opener: Callable[[Path], None]) -> str | None:
    try:
        opener(path)
    except PixVoiceError as error:
        return str(error)
    return None


def _open_image(path: Path) -> None:
    """Read the header; a format that isn't plain is left to the judgement of ``read_image``."""
    try:
        with Image.open(path) as image:
            if image.format in _PLAIN_FORMATS:
                return
    except Exception:  # Pillow's readers raise errors of many kinds; read_image says which in one line
        pass
    read_image(path)


def _open_audio(path: Path) -> None:
    try:
        if sf.info(str(path)).frames > 0:
            return
    except (sf.SoundFileError, RuntimeError, TypeError, ValueError, OSError):
        pass
    read_audio(path)


def _repeats(sample: Sample, number: int, seen: dict[object, int]) -> list[str]:
    first = seen.setdefault(sample, number)
    if first != number:
        return [f"the same as line {first}; remove one"]
    if sample.audio and (first := seen.setdefault(sample.audio, number)) != number:
        return [f"audio {sample.audio} is already that of line {first}; every recording belongs to one line"]
    return []


def _to_row(sample: Sample, folder: Path) -> dict[str, str]:
    row = {key: getattr(sample, key) for key in KEYS}
    row |= {key: _path_value(key, row[key], folder) for key in _PATH_KEYS if row[key] is not None}
    return {key: value for key, value in row.items() if value is not None and value.strip()}


def _path_value(key: str, path: Path, folder: Path) -> str:
    relative = _relative(path, folder)
    return f"./{relative}" if _field_fault({key: relative}, key) else relative  # a name such as "~/" or "c:x.jpg"


def _relative(path: Path, folder: Path) -> str:
    """``path`` seen from ``folder``, also through links and ``..``."""
    absolute, base = Path(os.path.abspath(path)), Path(os.path.abspath(folder))
    if absolute.is_relative_to(base):
        return absolute.relative_to(base).as_posix()
    try:  # `..` leads out of where a link points to, so that both ends are followed first
        parent = os.path.relpath(os.path.realpath(absolute.parent), os.path.realpath(base))
    except ValueError:
        raise OutputError(f"{path}: on another drive than {folder}; write the manifest on the same drive") from None
    return (Path(parent) / absolute.name).as_posix()


def _dump(row: dict[str, str]) -> str:
    text = json.dumps(row, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # a file name that isn't Unicode
        return json.dumps(row)
    return text
