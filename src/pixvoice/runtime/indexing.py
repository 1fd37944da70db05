"""A folder's photos and recordings into an index: what is new or changed is embedded, what is gone is forgotten."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pixvoice.audio import MAX_AUDIO_BYTES, read_audio
from pixvoice.contracts import Audio, SearchModel
from pixvoice.errors import InputError, MissingToolError
from pixvoice.files import files_below, read_bytes
from pixvoice.images import MAX_PHOTO_BYTES, find_photos, read_image
from pixvoice.runtime.index import Entry, Kind, PhotoIndex, Rows

RECORDING_SUFFIXES = frozenset({".wav", ".flac", ".mp3", ".ogg"})
FILES_AT_ONCE = 256  # embedded, then written in one version: what a kill can lose
READ_AT_ONCE = {"photos": 8, "recordings": 1}  # held in memory together, decoded
PHOTO_SIDE = 512  # pixels; a larger JPEG may be decoded at a fraction of its size

Batch = dict[str, Any]  # columns of equal length, so that Ray Data can carry them: see ``embed_files``
Embed = Callable[[Iterable[Batch]], Iterable[Batch]]


@dataclass
class IndexReport:
    """What one run did: files by what happened to them, and the index afterwards."""

    index: str
    photos: int = 0
    recordings: int = 0
    new: int = 0
    changed: int = 0
    dropped: int = 0
    failures: list[str] = field(default_factory=list)


@dataclass
class Listener:
    """Told while a run goes on: how many files of how many are done, and the line on each that can't be used."""

    on_progress: Callable[[int, int], None] = lambda done, total: None
    on_failure: Callable[[str], None] = lambda line: None


def embed_files(model: SearchModel, batch: Batch) -> Batch:
    """Files of one kind -> the same files with their embeddings: ``vector`` (N, D), ``text``, ``sha256``, ``error``.

    ``batch`` has ``path``, ``kind``, ``size`` and ``mtime_ns``, each of N.  A file that can't be used has its one line
    in ``error`` and zeros for an embedding; the others have "" there.
    """
    paths, kinds = [str(path) for path in batch["path"]], [str(kind) for kind in batch["kind"]]
    vectors = np.zeros((len(paths), model.embed_dim), np.float32)
    texts, hashes, errors = ([""] * len(paths) for _ in range(3))
    at_once = READ_AT_ONCE[kinds[0]] if kinds else 1
    with ThreadPoolExecutor(2) as pool:  # Pillow decodes outside Python's lock
        for start in range(0, len(paths), at_once):
            rows = range(start, min(start + at_once, len(paths)))
            opened = list(pool.map(lambda row: _open(paths[row], kinds[row], model.sample_rate), rows))
            usable = [row for row, (_, _, error) in zip(rows, opened, strict=True) if not error]
            hashes[rows.start : rows.stop] = [sha256 for _, sha256, _ in opened]
            errors[rows.start : rows.stop] = [error for _, _, error in opened]
            contents: list[Any] = [content for content, _, error in opened if not error]
            if contents and kinds[0] == "photos":
                vectors[usable] = model.embed_photos(contents)
            elif contents:
                vectors[usable], heard = model.embed_speech(contents)
                for row, text in zip(usable, heard, strict=True):
                    texts[row] = text
    return {**batch, "vector": vectors, "text": texts, "sha256": hashes, "error": errors}


def update(
    index: PhotoIndex,
    folder: str | Path,
    embed: Embed,
    kinds: Iterable[Kind] = ("photos",),
    rebuild: bool = False,
    listener: Listener | None = None,
) -> IndexReport:
    """Bring the index up to date with what lies in ``folder``; what it knows of other folders stays.

    A file is embedded when its size or time of change is new to the index and its content is too.  Every
    ``FILES_AT_ONCE`` files are written as they are done, so that a run that was killed goes on where it was.

    Raises:
        InputError: there is nothing in the folder, or the index can't be used.
        OutputError: the index can't be written, or another process is writing it.
    """
    place = Path(folder)
    if not place.is_dir():
        raise InputError(f"{folder}: {'not a folder' if place.exists() else 'no such folder'}; give a folder of photos")
    place = Path(os.path.realpath(place))
    report, listener = IndexReport(index.place), listener or Listener()
    found = {kind: _files(place, kind) for kind in kinds}
    if not any(found.values()) and not index.exists():
        raise InputError(f"{folder}: there is no {' or '.join(kind[:-1] for kind in found)} in it; give another folder")
    with index.writing(rebuild):
        work = [_sort_out(index, place, kind, files, report) for kind, files in found.items()]
        done, total = 0, sum(len(files) for _, files in work)
        for known, files in work:
            listener.on_progress(done, total)
            for batch in embed(_batches(files)):
                _store(index, batch, known, report, listener)
                done += len(batch["path"])
                listener.on_progress(done, total)
        for kind in found:
            index.tidy(kind)
        report.photos, report.recordings = index.count("photos"), index.count("recordings")
    return report


def embed_here(model: SearchModel) -> Embed:
    """Embed in this process."""
    return lambda batches: (embed_files(model, batch) for batch in batches)


@dataclass(frozen=True)
class _File:
    path: Path
    kind: Kind
    size: int
    mtime_ns: int


def _files(folder: Path, kind: Kind) -> list[_File]:
    """What lies in a folder now, by name; what goes away meanwhile doesn't count."""
    files = []
    for path in find_photos([folder]) if kind == "photos" else files_below(folder, RECORDING_SUFFIXES):
        try:
            status = path.stat()
        except OSError:
            continue
        if path != folder:  # how ``find_photos`` says that there is no photo
            files.append(_File(path, kind, status.st_size, status.st_mtime_ns))
    return files


def _sort_out(
    index: PhotoIndex, folder: Path, kind: Kind, files: list[_File], report: IndexReport
) -> tuple[dict[Path, Entry], list[_File]]:
    """Forget what is gone, note what was only touched -> what the index knew here, and the files to embed."""
    known = {path: entry for path, entry in index.known(kind).items() if path.is_relative_to(folder)}
    gone = known.keys() - {file.path for file in files}
    index.drop(kind, gone)
    report.dropped += len(gone)
    todo, touched = [], {}
    for file in files:
        entry = known.get(file.path)
        if entry is not None and (entry.size, entry.mtime_ns) == (file.size, file.mtime_ns):
            continue
        if entry is not None and entry.size == file.size and entry.sha256 == _sha256(file.path):
            touched[file.path] = Entry(file.size, file.mtime_ns, entry.sha256)
        else:
            todo.append(file)
    index.touch(kind, touched)
    return known, todo


def _batches(files: list[_File]) -> Iterator[Batch]:
    for start in range(0, len(files), FILES_AT_ONCE):
        piece = files[start : start + FILES_AT_ONCE]
        yield {
            "path": [str(file.path) for file in piece],
            "kind": [file.kind for file in piece],
            "size": [file.size for file in piece],
            "mtime_ns": [file.mtime_ns for file in piece],
        }


def _store(index: PhotoIndex, batch: Batch, known: dict[Path, Entry], report: IndexReport, listener: Listener) -> None:
    """Write the embeddings that there are; a known file that can't be used any more is forgotten."""
    paths = [Path(str(path)) for path in batch["path"]]
    kind: Kind = "photos" if str(batch["kind"][0]) == "photos" else "recordings"
    usable = [row for row, error in enumerate(batch["error"]) if not error]
    entries = [Entry(int(batch["size"][row]), int(batch["mtime_ns"][row]), str(batch["sha256"][row])) for row in usable]
    vectors = np.asarray([batch["vector"][row] for row in usable], np.float32)
    texts = [str(batch["text"][row]) for row in usable]
    index.put(kind, Rows([paths[row] for row in usable], entries, texts, vectors))
    changed = sum(paths[row] in known for row in usable)
    report.changed += changed
    report.new += len(usable) - changed
    unusable = [path for path, error in zip(paths, batch["error"], strict=True) if error]
    index.drop(kind, [path for path in unusable if path in known])
    for error in filter(None, map(str, batch["error"])):
        report.failures.append(error)
        listener.on_failure(error)


def _open(path: str, kind: str, sample_rate: int) -> tuple[Image.Image | Audio | None, str, str]:
    """A file -> its photo or audio, its SHA-256, and "" or the line on why it can't be used."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return None, "", f"{os.fsencode(path)!r}: a file name that isn't UTF-8; rename the file"
    try:
        limit = MAX_PHOTO_BYTES if kind == "photos" else MAX_AUDIO_BYTES
        _, data = read_bytes(path, kind[:-1], limit)
        named = io.BytesIO(data)
        named.name = path  # for messages
        content = read_image(named, at_least=PHOTO_SIDE) if kind == "photos" else read_audio(named, sample_rate)
        return content, hashlib.sha256(data).hexdigest(), ""
    except (InputError, MissingToolError) as error:
        return None, "", " ".join(str(error).split())


def _sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return ""  # embedding it will say why it can't be read
