"""Bytes in, with a limit and a clear line for what can't be read; bytes out, whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from pixvoice.errors import InputError, OutputError


def read_bytes(source: str | Path | bytes | BinaryIO, what: str, max_bytes: int) -> tuple[str, bytes]:
    """Read a path, the bytes of a file or an open binary file; ``what`` it should be: "photo", "recording".

    Returns what to call the source in a message, and its bytes.

    Raises:
        InputError: it is missing, a folder, unreadable, empty, or longer than ``max_bytes``.
    """
    if isinstance(source, bytes):
        name, data = f"the {what}", source
    elif isinstance(source, str | Path):
        name, data = str(source), _read_file(Path(source), what, max_bytes)
    else:
        name, data = str(getattr(source, "name", f"the {what}")), source.read(max_bytes + 1)
    if not data:
        raise InputError(f"{name}: the file is empty; give a {what}")
    if len(data) > max_bytes:
        raise InputError(f"{name}: larger than {max_bytes // 1_000_000} MB; give a smaller {what}")
    return name, data


def files_below(folder: Path, suffixes: Collection[str]) -> list[Path]:
    """Files in ``folder`` and below with one of ``suffixes`` (lower case), sorted; nothing in hidden places."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in suffixes
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    )


def write_bytes_atomically(path: str | Path, data: bytes) -> None:
    """Write ``data`` to ``path`` through a temporary file beside it: the file is whole, or as it was before.

    A path that isn't a regular file (a pipe, ``/dev/null``) is written to directly.

    Raises:
        OutputError: the file can't be written; the temporary file is removed.
    """
    try:
        target = Path(os.path.realpath(path))
        if target.is_dir():
            raise OutputError(f"{path}: a folder; give a file name in it")
        if target.exists() and not target.is_file():
            target.write_bytes(data)
        else:
            _replace(target, data)
    except FileNotFoundError:
        raise OutputError(f"{path}: can't be written (its folder doesn't exist); make the folder first") from None
    except (OSError, ValueError) as error:
        raise OutputError(f"{path}: can't be written ({_reason(error)}); give another place") from None


def remove_leftovers(folder: Path) -> None:
    """Remove from ``folder`` what writes that were killed left there."""
    for temporary in folder.glob(".pixvoice-*.tmp"):
        temporary.unlink(missing_ok=True)


def _read_file(path: Path, what: str, max_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(max_bytes + 1)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except IsADirectoryError:
        raise InputError(f"{path}: a folder without a {what} in it; give a {what}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: can't be read ({_reason(error)}); give another {what}") from None


def _replace(target: Path, data: bytes) -> None:
    if target.exists() and not os.access(target, os.W_OK):  # os.replace would not ask
        raise PermissionError(0, "the file is read-only")
    temporary = target.with_name(f".pixvoice-{secrets.token_hex(6)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(data)
        os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def _reason(error: OSError | ValueError) -> str:
    """The system's words; a ValueError means a null byte in the path."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
