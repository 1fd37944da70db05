"""The photo index: embeddings on disk (or on object storage) beside the paths that they were made from.

An index is a LanceDB database of two tables, ``photos`` and ``recordings``.  Every change is one atomic version of a
table: a process that is killed leaves the version before, and whoever searches meanwhile sees whole versions only.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pixvoice.contracts import Floats, SearchModel
from pixvoice.errors import InputError, MissingToolError, OutputError
from pixvoice.runtime.waiting import wait

Kind = Literal["photos", "recordings"]

KINDS: tuple[Kind, ...] = ("photos", "recordings")
FOLDER_NAME = ".pixvoice-index"
FORMAT = 1
ANN_ROWS = 50_000  # rows; with fewer, exact search takes milliseconds
PARTITION_ROWS = 1_000_000  # rows of one graph of the approximate index, at most about twice as many
PROBES, EF, REFINE = 8, 300, 2  # partitions searched, candidates of each, exact similarities for a result wanted
KEEP_VERSIONS = timedelta(minutes=10)  # for searches that are under way
NOTICED_AFTER = timedelta(seconds=1)  # another process's changes, by a search; to look at each query costs 0.4 ms
_FACTS = b"pixvoice"  # key of the schema's metadata
_NAMES_AT_ONCE = 500  # in one condition


@dataclass(frozen=True)
class Entry:
    """What an index knows of a file: bytes, time of its last change (nanoseconds), SHA-256."""

    size: int
    mtime_ns: int
    sha256: str


@dataclass(frozen=True)
class Hit:
    """A file of the index and its cosine similarity to a query; ``text`` is what was read in a recording."""

    path: Path
    score: float
    text: str


@dataclass
class Rows:
    """Files and their embeddings (N, D): what is written at once."""

    paths: list[Path]
    entries: list[Entry]
    texts: list[str]
    vectors: Floats


def is_url(place: str | Path) -> bool:
    """Whether a place is object storage, such as s3://bucket/folder."""
    return "://" in str(place)


def index_place(folder: str | Path) -> str:
    """Where the index of ``folder`` lies: ``folder`` itself when it is an index or a URL, else inside of it.

    It lies beside the photos, in a hidden folder, and names them relative to there: it moves, is copied and is deleted
    with them, nobody has to remember a second path, and photos that aren't on this machine's disk fill no cache.
    """
    path = Path(folder)
    if is_url(folder) or path.name == FOLDER_NAME or any((path / f"{kind}.lance").is_dir() for kind in KINDS):
        return str(folder)
    return str(path / FOLDER_NAME)


class PhotoIndex:
    """The index at ``place`` (a folder or a URL) for the embeddings of ``model``; nothing is opened before it's used.

    Paths are kept relative to the folder that the index lies in where they can be, else absolute.  ``ann_rows`` is
    the number of rows from which a table has an approximate index (IVF over HNSW graphs of 8-bit values).
    """

    def __init__(self, place: str | Path, model: SearchModel, ann_rows: int = ANN_ROWS) -> None:
        self.place = str(place)
        self.ann_rows = ann_rows
        self.embed_dim = model.embed_dim
        self._facts = {"format": FORMAT, "model": model.name, "fingerprint": model.fingerprint}
        self._home = None if is_url(place) else Path(os.path.realpath(place)).parent
        self._tables: dict[Kind, Any] = {}
        self._database: Any = None

    def exists(self) -> bool:
        """Whether there is an index at this place.  Raises InputError if it can't be read, or is another model's."""
        return any(self._table(kind) is not None for kind in KINDS)

    def count(self, kind: Kind) -> int:
        """Files of a kind.  Raises InputError."""
        table = self._table(kind)
        return 0 if table is None else int(wait(table.count_rows()))

    def nearest(self, kind: Kind, vector: Floats, top: int) -> list[Hit]:
        """The ``top`` files nearest to an embedding (D,), best first.

        Raises:
            InputError: the index can't be read, or is another model's.
        """
        table = self._table(kind)
        if table is None:
            return []
        with self._reading():
            search = table.query().nearest_to(vector).column("vector").distance_type("dot").limit(REFINE * top)
            search = search.nprobes(PROBES).ef(max(EF, REFINE * top))
            texts = ["text"] if kind == "recordings" else []  # a photo has none, and to look takes half as long again
            found = wait(search.select(["path", *texts, "vector"]).to_arrow())
        exact = found["vector"].combine_chunks().flatten().to_numpy().reshape(-1, self.embed_dim) @ vector
        best = np.argsort(-exact, kind="stable")[:top]
        columns = {name: found[name].to_pylist() for name in ("path", *texts)}
        said = columns.get("text", [""] * len(exact))
        return [Hit(self._path(columns["path"][row]), float(exact[row]), said[row]) for row in best]

    def known(self, kind: Kind) -> dict[Path, Entry]:
        """Every file of a kind.  Raises InputError."""
        table = self._table(kind)
        if table is None:
            return {}
        with self._reading():
            columns = wait(table.query().select(["path", "size", "mtime_ns", "sha256"]).to_arrow()).to_pydict()
        paths, entries = columns.pop("path"), zip(*columns.values(), strict=True)
        return {self._path(path): Entry(*entry) for path, entry in zip(paths, entries, strict=True)}

    @contextmanager
    def writing(self, rebuild: bool = False) -> Iterator[None]:
        """Hold the index for changes by this process alone; ``rebuild`` empties it first.

        The lock is the operating system's: it ends with the process, however that ends.  Object storage has none;
        there, LanceDB settles changes that meet.

        Raises:
            OutputError: another process is writing the index, or it can't be written.
            InputError: the index can't be read, or is another model's.
        """
        with self._lock():
            with self._changing():
                database = self._connect()
                for kind in KINDS:
                    if rebuild and self._has(kind):
                        self._tables.pop(kind, None)
                        wait(database.drop_table(kind))
            for kind in KINDS:
                table = self._table(kind)
                with self._changing():
                    if table is None:
                        self._tables[kind] = self._create(kind)
                    else:
                        wait(table.checkout_latest())  # what the last writer left, however little time ago
            yield

    def put(self, kind: Kind, rows: Rows) -> None:
        """Add files, or replace those that are there, all in one version.  Raises OutputError."""
        import pyarrow as pa

        if not rows.paths:
            return
        schema = self._schema()
        flat = pa.array(np.ascontiguousarray(rows.vectors, np.float32).reshape(-1))
        columns = {
            "path": [self._key(path) for path in rows.paths],
            "size": [entry.size for entry in rows.entries],
            "mtime_ns": [entry.mtime_ns for entry in rows.entries],
            "sha256": [entry.sha256 for entry in rows.entries],
            "text": rows.texts,
            "vector": pa.FixedSizeListArray.from_arrays(flat, self.embed_dim),
        }
        with self._changing():
            self._merge(kind, pa.table(columns, schema=schema))

    def touch(self, kind: Kind, changed: dict[Path, Entry]) -> None:
        """Note new sizes and times of files whose content is what it was.  Raises OutputError."""
        import pyarrow as pa

        entries = {self._key(path): entry for path, entry in changed.items()}
        for condition in _conditions(entries):
            with self._changing():
                rows = wait(self._tables[kind].query().where(condition).to_arrow())
                times = [entries[path].mtime_ns for path in rows["path"].to_pylist()]
                place = rows.schema.get_field_index("mtime_ns")
                self._merge(kind, rows.set_column(place, rows.schema.field(place), pa.array(times, pa.int64())))

    def drop(self, kind: Kind, paths: Iterable[Path]) -> None:
        """Forget files.  Raises OutputError."""
        for condition in _conditions(map(self._key, paths)):
            with self._changing():
                wait(self._tables[kind].delete(condition))

    def tidy(self, kind: Kind) -> None:
        """Join small pieces, remove old versions, and bring the approximate index up to date.  Raises OutputError."""
        table = self._tables[kind]
        with self._changing():
            wait(
                table.optimize(cleanup_older_than=KEEP_VERSIONS)
            )  # adds new rows to the approximate index, if there is one
            rows = int(wait(table.count_rows()))
            if rows >= self.ann_rows and rows > 2 * self._rows_when_built(table):
                self._build(table, rows)

    def _build(self, table: Any, rows: int) -> None:
        from lancedb.index import HnswSq

        partitions = max(1, rows // PARTITION_ROWS)
        name = f"vector_{rows}"  # how many rows the partitions were chosen for
        older = [index.name for index in wait(table.list_indices())]
        config = HnswSq(distance_type="dot", num_partitions=partitions, m=20, ef_construction=150)
        wait(table.create_index("vector", config=config, name=name, replace=True))
        for index in older:
            if index != name:
                wait(table.drop_index(index))

    def _rows_when_built(self, table: Any) -> int:
        sizes = [int(index.name.removeprefix("vector_")) for index in wait(table.list_indices())]
        return max(sizes, default=0)

    def _merge(self, kind: Kind, rows: Any) -> None:
        merge = self._tables[kind].merge_insert("path")
        wait(merge.when_matched_update_all().when_not_matched_insert_all().execute(rows))

    def _connect(self) -> Any:
        if self._database is None:
            self._database = wait(_lancedb().connect_async(self.place, read_consistency_interval=NOTICED_AFTER))
        return self._database

    def _table(self, kind: Kind) -> Any:
        """The table, open and checked; None if there is none."""
        if kind not in self._tables:
            if not is_url(self.place) and not Path(self.place).is_dir():
                return None
            with self._reading():
                if not self._has(kind):
                    return None
                table = wait(self._connect().open_table(kind))
                facts = json.loads((wait(table.schema()).metadata or {}).get(_FACTS, b"{}"))
            self._check(facts)
            self._tables[kind] = table
        return self._tables[kind]

    def _has(self, kind: Kind) -> bool:
        """Whether a table has a version; a folder without one is what is left of a process that was making it."""
        if is_url(self.place):
            return kind in wait(self._connect().list_tables()).tables
        return any(self._folder(kind).glob("_versions/*"))

    def _create(self, kind: Kind) -> Any:
        left = not is_url(self.place) and self._folder(kind).exists()
        return wait(self._connect().create_table(kind, schema=self._schema(), mode="overwrite" if left else "create"))

    def _folder(self, kind: Kind) -> Path:
        return Path(self.place) / f"{kind}.lance"

    def _check(self, facts: dict[str, Any]) -> None:
        if facts.get("format") != FORMAT:
            raise InputError(f"{self.place}: no index of this version; make it with: pixvoice index FOLDER --rebuild")
        if facts.get("fingerprint") != self._facts["fingerprint"]:
            raise InputError(
                f"{self.place}: an index of another model's embeddings ({facts.get('model')}, not "
                f"{self._facts['model']}); give that model with --bundle, or type: pixvoice index FOLDER --rebuild"
            )

    def _schema(self) -> Any:
        import pyarrow as pa

        fields = {"path": pa.string(), "size": pa.int64(), "mtime_ns": pa.int64(), "sha256": pa.string()}
        fields |= {"text": pa.string(), "vector": pa.list_(pa.float32(), self.embed_dim)}
        return pa.schema(list(fields.items()), metadata={_FACTS: json.dumps(self._facts).encode()})

    def _key(self, path: Path) -> str:
        """A path as it is kept."""
        if self._home is not None and path.is_relative_to(self._home):
            return path.relative_to(self._home).as_posix()
        return path.as_posix()

    def _path(self, key: str) -> Path:
        return Path(key) if self._home is None else self._home / key

    @contextmanager
    def _lock(self) -> Iterator[None]:
        if is_url(self.place):
            yield
            return
        try:
            from filelock import FileLock, Timeout
        except ImportError:
            raise _missing() from None
        try:
            Path(self.place).mkdir(parents=True, exist_ok=True)
            lock = FileLock(Path(self.place) / ".lock")
            lock.acquire(timeout=0)
        except Timeout:
            raise OutputError(
                f"{self.place}: another process is writing this index; wait until it's done and type the same again"
            ) from None
        except OSError as error:
            raise _unwritable(self.place, error) from None
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def _changing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError, ValueError) as error:  # LanceDB raises these three for any trouble on disk
            raise _unwritable(self.place, error) from None

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError, ValueError) as error:
            raise InputError(
                f"{self.place}: the index can't be read ({_short(error)}); make it again with: "
                "pixvoice index FOLDER --rebuild"
            ) from None


def _lancedb() -> Any:
    os.environ.setdefault("LANCEDB_LOG", "error")  # its warnings are for its own developers
    try:
        import lancedb
    except ImportError:
        raise _missing() from None
    return lancedb


def _missing() -> MissingToolError:
    return MissingToolError("the photo index needs LanceDB; to install it type: pip install 'pixvoice[search]'")


def _conditions(keys: Iterable[str]) -> Iterator[str]:
    """SQL conditions that together pick the rows of these paths."""
    quoted = ["'" + key.replace("'", "''") + "'" for key in keys]
    for start in range(0, len(quoted), _NAMES_AT_ONCE):
        yield f"path IN ({', '.join(quoted[start : start + _NAMES_AT_ONCE])})"


def _unwritable(place: str, error: Exception) -> OutputError:
    return OutputError(f"{place}: the index can't be written ({_short(error)}); what was there is kept")


def _short(error: Exception) -> str:
    reason = error.strerror if isinstance(error, OSError) else None
    return (reason or " ".join(str(error).split()) or type(error).__name__)[:160]
