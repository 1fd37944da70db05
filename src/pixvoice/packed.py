"""Units in few bits: the token ids of photos or recordings, packed into one file with the names of what they are of.

An id of a codebook of V entries takes ceil(log2 V) bits and no more; what belongs to one file begins at a whole byte,
so that any row can be read by itself.  The file is an ``.npz`` of plain arrays.

Letters: N files, K codebooks, T frames (or patches, of all views one after the other), V codebook size.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np
import numpy.typing as npt

from pixvoice.contracts import Codes
from pixvoice.errors import InputError
from pixvoice.files import write_bytes_atomically

Bytes = npt.NDArray[np.uint8]

SUFFIX = ".npz"


def bits_of(codebook_size: int) -> int:
    """Bits of one id of a codebook with so many entries."""
    return max(1, (codebook_size - 1).bit_length())


def pack(ids: Codes, bits: int) -> Bytes:
    """Ids, any shape, each below 2 ** ``bits`` -> bytes, the highest bit first; the last byte is filled with zeros."""
    places = np.arange(bits - 1, -1, -1)
    return np.packbits((np.asarray(ids).reshape(-1, 1) >> places & 1).astype(np.uint8))


def unpack(packed: Bytes, count: int, bits: int) -> Codes:
    """The first ``count`` ids that ``pack`` wrote, int64 (count,)."""
    columns = np.unpackbits(packed, count=count * bits).reshape(count, bits)
    return columns.astype(np.int64) @ (1 << np.arange(bits - 1, -1, -1, dtype=np.int64))


@dataclass(frozen=True)
class UnitsOf:
    """What the units of one file are: ``kind`` image or speech, and ``made_by``, which changes with the tokenizer."""

    kind: str
    made_by: str
    num_codebooks: int
    codebook_size: int
    views: int = 1

    @property
    def bits(self) -> int:
        """Bits of one id."""
        return bits_of(self.codebook_size)


@dataclass(frozen=True)
class PackedUnits:
    """The units of N files: ``names`` are paths with forward slashes, ``frames`` (N,) how many T each has."""

    of: UnitsOf
    names: tuple[str, ...]
    frames: npt.NDArray[np.int64]
    packed: Bytes

    @classmethod
    def pack(cls, of: UnitsOf, names: Sequence[str], codes: Sequence[Codes]) -> PackedUnits:
        """From codes (K, T), one array a file."""
        rows = [pack(one, of.bits) for one in codes]
        frames = np.array([one.shape[1] for one in codes], np.int64)
        return cls(of, tuple(names), frames, np.concatenate([np.zeros(0, np.uint8), *rows]))

    @classmethod
    def join(cls, of: UnitsOf, parts: Sequence[PackedUnits]) -> PackedUnits:
        """All rows of several, in their order."""
        names = tuple(name for part in parts for name in part.names)
        frames = np.concatenate([np.zeros(0, np.int64), *(part.frames for part in parts)])
        return cls(of, names, frames, np.concatenate([np.zeros(0, np.uint8), *(part.packed for part in parts)]))

    def __len__(self) -> int:
        return len(self.names)

    @cached_property
    def _ends(self) -> npt.NDArray[np.int64]:
        ids = self.frames * self.of.num_codebooks
        return np.cumsum(-(-ids * self.of.bits // 8))

    @cached_property
    def _by_name(self) -> dict[str, list[int]]:
        rows: dict[str, list[int]] = {}
        for row, name in enumerate(self.names):
            rows.setdefault(PurePosixPath(name).name, []).append(row)
        return rows

    def codes(self, row: int) -> Codes:
        """The codes (K, T) of one row."""
        begin = int(self._ends[row - 1]) if row else 0
        k, t = self.of.num_codebooks, int(self.frames[row])
        return unpack(self.packed[begin : int(self._ends[row])], k * t, self.of.bits).reshape(k, t)

    def bits(self) -> npt.NDArray[np.int64]:
        """Bits (N,) that the units of each file take, without names and without what fills the last byte."""
        bits: npt.NDArray[np.int64] = self.frames * self.of.num_codebooks * self.of.bits
        return bits

    def row(self, path: Path) -> int:
        """The row of a photo or recording: the one whose name ends as ``path`` does, as far as that is needed.

        Raises InputError when there is none, or when several can't be told apart.
        """
        rows = self._by_name.get(path.name, [])
        for depth in range(2, len(path.parts) + 1):
            if len(rows) < 2:
                break
            nearer = [row for row in rows if PurePosixPath(self.names[row]).parts[-depth:] == path.parts[-depth:]]
            rows = nearer or rows
        if len(rows) != 1:
            found = f"{len(rows)} of that name" if rows else "none"
            raise InputError(f"{path}: the units hold {found}; encode its data set again with: pixvoice encode")
        return rows[0]

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all.  Raises OutputError."""
        header, names = (np.frombuffer(json.dumps(value).encode(), np.uint8) for value in (asdict(self.of), self.names))
        written = io.BytesIO()
        np.savez(written, header=header, names=names, frames=self.frames, packed=self.packed)
        write_bytes_atomically(path, written.getvalue())

    @classmethod
    def load(cls, path: Path) -> PackedUnits:
        """Read what ``save`` wrote.  Raises InputError for anything else."""
        try:
            with np.load(path, allow_pickle=False) as saved:
                header, names = (json.loads(saved[key].tobytes()) for key in ("header", "names"))
                units = cls(UnitsOf(**header), tuple(names), saved["frames"], saved["packed"])
        except OSError as error:
            raise InputError(f"{path}: can't be read ({error.strerror or error}); give a file of units") from None
        except (EOFError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile):
            raise InputError(f"{path}: no units that can be read; make them with: pixvoice encode") from None
        if len(units.frames) != len(units.names) or (int(units._ends[-1]) if len(units) else 0) != len(units.packed):
            raise InputError(f"{path}: damaged, its rows and its bytes don't fit; encode it again")
        return units
