"""What the readers share: text files, and where the photos of a data set lie."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from pixvoice.errors import InputError

IMAGE_FOLDERS = (
    "images",
    "Images",
    "Flicker8k_Dataset",  # spelt so in the original archive
    "Flickr8k_Dataset",
    "Flicker8k_Dataset/Flicker8k_Dataset",
    "Flickr8k_Dataset/Flicker8k_Dataset",
    "Flickr8k_Dataset/Flickr8k_Dataset",
    "flickr8k_images",
    "Flickr_Data/Images",
    "photos",
    "coco",
    "COCO",
    ".",
)
PARTS = frozenset(
    {"Flickr8k_text", "Flickr_8k_text", "flickr_audio", "text", "annotations", "captions", "splits", "audio"}
    | {"SpokenCOCO", "localized_narratives", "localized-narratives"}
)
_TRIED = 20  # photos looked for in a folder before it is given up


def roots(file: Path) -> tuple[Path, ...]:
    """Where the other parts of a data set may lie, given one of its files: beside it, or beside its folder.

    The second only where the folder's name says that it is a part: what else lies there may be other data sets.
    """
    folder = file.parent
    return (folder, folder / "..") if folder.resolve().name in PARTS else (folder,)


def find_images(file: Path, names: Iterable[str]) -> Path:
    """The folder that holds the photos called ``names``, near ``file``.

    Raises:
        InputError: no folder near the file holds any of the first photos.
    """
    first = list(islice(dict.fromkeys(names), _TRIED))
    if not first:
        raise InputError(f"{file}: holds no captions; get the file again")
    if found := find_base((root / folder for root in roots(file) for folder in IMAGE_FOLDERS), first):
        return found
    raise InputError(f"{file}: its photos ({first[0]}, ...) aren't beside it; put them in {file.parent / 'images'}")


def find_base(folders: Iterable[Path], names: Iterable[str]) -> Path | None:
    """The first of ``folders`` that holds any of the first ``names``; None where none does."""
    first = list(islice(dict.fromkeys(names), _TRIED))
    return next((folder for folder in folders if any((folder / name).is_file() for name in first)), None)


def find_file(file: Path, names: Iterable[str]) -> Path | None:
    """The first of ``names`` (patterns) that lies beside ``file``, beside its folder, or in a folder beside it."""
    for root in roots(file):
        for name in names:
            for pattern in (name, f"*/{name}"):
                if found := sorted(root.glob(pattern)):
                    return found[0]
    return None


def read_lines(file: Path) -> Iterator[tuple[int, str]]:
    """Number (from 1) and text of every line that isn't blank, read as they are asked for.  Raises InputError."""
    with _readable(file), file.open(encoding="utf-8-sig", newline="\n") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield number, line.strip("\r\n")


def read_text(file: Path) -> str:
    """The whole file.  Raises InputError when it can't be read or isn't UTF-8 text."""
    with _readable(file):
        return file.read_text(encoding="utf-8-sig")


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    """Errors of reading become InputError."""
    try:
        yield
    except UnicodeDecodeError:
        raise InputError(f"{file}: isn't UTF-8 text; save it as UTF-8") from None
    except OSError as error:
        raise InputError(f"{file}: can't be read ({error.strerror}); check the path") from None


def read_json(text: str, file: Path, line: int | None = None) -> Any:
    """Text -> JSON value.  Raises InputError naming the file and the line."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        place = line or getattr(error, "lineno", 1)
        raise InputError(f"{file}: line {place} isn't JSON ({reason}); get the file again") from None
