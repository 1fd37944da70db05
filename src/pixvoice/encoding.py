"""Photos or recordings into one file of packed units, part by part, so that a run that was stopped goes on.

Parts lie in ``FILE.parts`` until the file is whole.  A part is known by what made it and by the names, sizes and dates
of its files: one that is there is not made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pixvoice.audio import read_audio
from pixvoice.contracts import Codes, SpeechTokenizer
from pixvoice.errors import InputError, MissingToolError, OutputError
from pixvoice.files import files_below, write_bytes_atomically
from pixvoice.images import PHOTO_SUFFIXES
from pixvoice.manifest import Sample
from pixvoice.packed import PackedUnits, UnitsOf

RECORDING_SUFFIXES = frozenset({".wav", ".flac", ".mp3", ".ogg"})
PART = 256  # files of one part: what a kill can lose
AT_ONCE = 8  # files read together


class FileEncoder(Protocol):
    """What makes units of files.  ``read`` raises InputError or MissingToolError for one that can't be used."""

    @property
    def of(self) -> UnitsOf: ...
    def read(self, name: str, path: Path) -> Any: ...
    def encode(self, contents: Sequence[Any]) -> list[Codes]: ...


@dataclass(frozen=True)
class SpeechFiles:
    """Recordings -> the tokens of ``tokenizer``; ``made_by`` changes with it."""

    tokenizer: SpeechTokenizer
    made_by: str

    @property
    def of(self) -> UnitsOf:
        """What the units are."""
        return UnitsOf("speech", self.made_by, self.tokenizer.num_codebooks, self.tokenizer.codebook_size)

    def read(self, name: str, path: Path) -> Any:
        """Audio (L,).  Raises InputError."""
        return read_audio(path, self.tokenizer.sample_rate)

    def encode(self, contents: Sequence[Any]) -> list[Codes]:
        """Clips (L,) -> codes (K, T) of each."""
        return [self.tokenizer.encode(audio) for audio in contents]


@dataclass
class EncodeReport:
    """What one run did; ``bits`` are those of all units, ``file_bytes`` of all files that they were made of."""

    output: Path
    files: int = 0
    bits: int = 0
    file_bytes: int = 0
    failures: list[str] = field(default_factory=list)


Named = list[tuple[str, Path]]
"""What to call a file in the units, and where it lies."""

Spread = Callable[[Sequence[Named], Path], Iterator[int]]
"""Makes parts of these files in a folder, in any order, and says of each, when it lies there, how many files it had."""


def files_of(samples: Sequence[Sample], source: Path, kind: str) -> Named:
    """The photos or recordings that samples name, each once; names are paths seen from the folder of ``source``.

    Raises InputError when there is none.
    """
    root = source if source.is_dir() else source.parent
    found: dict[Path, str] = {}
    for sample in samples:
        path = sample.image if kind == "image" else sample.audio
        if path is not None:
            found.setdefault(path, _name(path, root))
    if not found:
        raise InputError(f"{source}: no sample has a recording; make some with: pixvoice synthesize")
    return [(name, path) for path, name in found.items()]


def files_in(folder: Path, kind: str) -> Named:
    """The photos or recordings in a folder, at any depth.  Raises InputError when there is none."""
    what, suffixes = ("photos", PHOTO_SUFFIXES) if kind == "image" else ("recordings", RECORDING_SUFFIXES)
    found = files_below(folder, suffixes)
    if not found:
        raise InputError(f"{folder}: no {what} in it; give a manifest, or a folder with {what}")
    return [(path.relative_to(folder).as_posix(), path) for path in found]


def encode_files(
    files: Named,
    encoder: FileEncoder,
    output: Path,
    on_failure: Callable[[str], None] = lambda line: None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    spread: Spread | None = None,
) -> EncodeReport:
    """Write the units of ``files`` to ``output``, whole or not at all.

    A file that can't be used is told in one line, in each run until it can, and left out; a run that is stopped
    leaves its parts, and the next one goes on from there.  ``spread`` makes the parts elsewhere.

    Raises InputError when not one file could be used, OutputError when something can't be written.
    """
    report = EncodeReport(output)
    folder = output.with_name(f"{output.name}.parts")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: can't be made ({error.strerror}); give another place") from None
    named = [files[start : start + PART] for start in range(0, len(files), PART)]
    if spread is not None:
        left = [part for part in named if not _place(part, encoder.of, folder).exists()]
        done = len(files) - sum(map(len, left))
        for count in spread(left, folder):
            on_progress(done := done + count, len(files))
    parts: list[PackedUnits] = []
    for number, part in enumerate(named):
        units, failures = encode_part(part, encoder, folder)
        for line in failures:
            on_failure(line)
        report.failures += failures
        parts.append(units)
        if spread is None:
            on_progress(min((number + 1) * PART, len(files)), len(files))
    whole = PackedUnits.join(encoder.of, parts)
    if not len(whole):
        shutil.rmtree(folder, ignore_errors=True)
        raise InputError(f"not one of {len(files)} files could be used: run `pixvoice manifest check` on the manifest")
    whole.save(output)
    shutil.rmtree(folder, ignore_errors=True)
    report.files, report.bits = len(whole), int(whole.bits().sum())
    used = set(whole.names)
    report.file_bytes = sum(path.stat().st_size for name, path in files if name in used)
    return report


def encode_part(files: Named, encoder: FileEncoder, folder: Path) -> tuple[PackedUnits, list[str]]:
    """The units of one part, from its file in ``folder`` if it is there, and a line for each file that can't be used.

    Raises OutputError when it can't be written.
    """
    kept = _place(files, encoder.of, folder)
    told = kept.with_suffix(".json")
    with suppress(InputError, OSError, ValueError):
        return PackedUnits.load(kept), list(json.loads(told.read_bytes()))
    names: list[str] = []
    codes: list[Codes] = []
    failures: list[str] = []
    for batch in _read(files, encoder):
        usable = [(name, content) for name, content, error in batch if error is None]
        failures += [error for _, _, error in batch if error is not None]
        names += [name for name, _ in usable]
        codes += encoder.encode([content for _, content in usable]) if usable else []
    units = PackedUnits.pack(encoder.of, names, codes)
    write_bytes_atomically(told, json.dumps(failures).encode())
    units.save(kept)
    return units, failures


def _read(files: Named, encoder: FileEncoder) -> Iterator[list[tuple[str, Any, str | None]]]:
    """Name, content and error of ``AT_ONCE`` files after another; two are read at a time."""

    def one(file: tuple[str, Path]) -> tuple[str, Any, str | None]:
        try:
            return file[0], encoder.read(*file), None
        except (InputError, MissingToolError) as error:
            return file[0], None, " ".join(str(error).split())

    with ThreadPoolExecutor(2) as pool:  # decoders run outside Python's lock
        for start in range(0, len(files), AT_ONCE):
            yield list(pool.map(one, files[start : start + AT_ONCE]))


def _place(files: Named, of: UnitsOf, folder: Path) -> Path:
    """Where a part is kept."""
    return folder / f"{_stamp(files, of)}.npz"


def _stamp(files: Named, of: UnitsOf) -> str:
    """16 hexadecimal digits that change with what makes the units, and with each file's name, size and date."""
    digest = hashlib.sha256(repr(sorted(asdict(of).items())).encode())
    for name, path in files:
        try:
            status = path.stat()
            seen = (name, status.st_size, status.st_mtime_ns)
        except OSError:
            seen = (name, -1, -1)
        digest.update(repr(seen).encode())
    return digest.hexdigest()[:16]


def _name(path: Path, root: Path) -> str:
    """``path`` seen from ``root``."""
    try:
        return Path(os.path.relpath(path, root)).as_posix()
    except ValueError:  # on another drive
        return path.as_posix()
