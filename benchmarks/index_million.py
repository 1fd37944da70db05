"""The photo index at a million: recall against exact search, and how much faster, in one run; build time and disk.

    nice -n 10 python benchmarks/index_million.py [--rows 1000000] [--width 256] [--queries 200] [--json]

Needs the ``search`` extra, about 6 GB of memory and 4 GB of disk.  The embeddings are made up: unit vectors in clusters
of uneven size, as photos of one party lie together; the queries are new members of those clusters.  Exact search is
one numpy matrix product over all rows and a partial sort, for one query at a time, as the index gets them.  The queries
are asked in a row of the one and then of the other; and by turns, where each exact search sweeps the processor's caches
with a gigabyte before the index is asked again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pixvoice.contracts import Floats, SearchModel
from pixvoice.runtime.index import Entry, PhotoIndex, Rows

TOP = 10
CLUSTERS = 2_000
SPREAD = 0.8  # length of a member's own part beside its cluster's centre of length 1
ROWS_AT_ONCE = 50_000
RECALL_BAR, SPEED_BAR = 0.95, 10.0


class MadeUp(SearchModel):
    """Only the facts of a model: its embeddings are made by ``clustered``."""

    name = "made up"  # type: ignore[assignment]
    fingerprint = "made up"  # type: ignore[assignment]
    sample_rate = 16_000  # type: ignore[assignment]
    embed_dim = 0  # type: ignore[assignment]

    def __init__(self, embed_dim: int) -> None:
        self.embed_dim = embed_dim  # type: ignore[misc]

    def embed_photos(self, photos: Any) -> Any:
        """Never called."""
        raise TypeError("made-up embeddings have no photos")

    def embed_speech(self, audio: Any) -> Any:
        """Never called."""
        raise TypeError("made-up embeddings have no speech")


def clustered(rows: int, centres: Floats, rng: np.random.Generator) -> Floats:
    """Unit vectors (N, D) around ``centres`` (C, D), of which the first have many and the last few."""
    which = (len(centres) * rng.random(rows) ** 2).astype(np.int64)
    noise = rng.standard_normal((rows, centres.shape[1]), dtype=np.float32)
    vectors = centres[which] + noise * np.float32(SPREAD / np.sqrt(centres.shape[1]))
    return unit(vectors)


def unit(vectors: Floats) -> Floats:
    """Vectors (N, D), each of length 1."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def pieces(vectors: Floats) -> Iterator[Rows]:
    """Rows as the index takes them, with made-up paths."""
    for start in range(0, len(vectors), ROWS_AT_ONCE):
        piece = vectors[start : start + ROWS_AT_ONCE]
        numbers = range(start, start + len(piece))
        paths = [Path(f"/photos/{number // 1000:04}/{number:08}.jpg") for number in numbers]
        entries = [Entry(number, number, f"{number:064x}") for number in numbers]
        yield Rows(paths, entries, [""] * len(piece), piece)


def exact(vectors: Floats, query: Floats) -> list[int]:
    """The numbers of the rows nearest to a query (D,), best first."""
    scores = vectors @ query
    best = np.argpartition(scores, -TOP)[-TOP:]
    return [int(number) for number in best[np.argsort(-scores[best])]]


def build(index: PhotoIndex, vectors: Floats) -> tuple[float, float]:
    """Seconds of writing all rows, and of that with the approximate index."""
    begun = time.perf_counter()
    with index.writing():
        for piece in pieces(vectors):
            index.put("photos", piece)
        written = time.perf_counter() - begun
        note(f"{len(vectors):,} rows written in {written:.0f} s; building the approximate index")
        index.tidy("photos")
    built = time.perf_counter() - begun
    note(f"built in {built:.0f} s")
    return written, built


def measure(rows: int, width: int, queries: int, folder: Path) -> dict[str, Any]:
    """Build, then ask every query of both, turn by turn."""
    rng = np.random.default_rng(0)
    centres = unit(rng.standard_normal((CLUSTERS, width), dtype=np.float32))
    vectors = np.concatenate(
        [clustered(min(ROWS_AT_ONCE, rows - i), centres, rng) for i in range(0, rows, ROWS_AT_ONCE)]
    )
    asked = clustered(queries, centres, rng)
    index = PhotoIndex(folder / "index", MadeUp(width))
    written, built = (None, None) if index.count("photos") == rows else build(index, vectors)
    disk = sum(file.stat().st_size for file in (folder / "index").rglob("*") if file.is_file())
    note(f"{disk / 1e9:.2f} GB on disk; asking {queries} queries")
    ask = {"index": lambda query: index.nearest("photos", query, TOP), "exact": lambda query: exact(vectors, query)}
    in_a_row = {name: [timed(search, query) for query in asked] for name, search in ask.items()}
    by_turns = [(timed(ask["index"], query)[0], timed(ask["exact"], query)[0]) for query in asked]
    pairs = zip(in_a_row["index"], in_a_row["exact"], strict=True)
    found = sum(len({int(hit.path.stem) for hit in hits} & set(truth)) for (_, hits), (_, truth) in pairs)
    ours, theirs = (statistics.median(seconds for seconds, _ in in_a_row[name]) for name in ("index", "exact"))
    return {
        "rows": rows, "width": width, "queries": queries, "recall_at_10": found / (TOP * queries),
        "index_ms": 1000 * ours, "exact_ms": 1000 * theirs, "times_faster": theirs / ours,
        "index_by_turns_ms": 1000 * statistics.median(seconds for seconds, _ in by_turns),
        "exact_by_turns_ms": 1000 * statistics.median(seconds for _, seconds in by_turns),
        "write_s": written, "build_s": built, "disk_gb": disk / 1e9,
    }  # fmt: skip


def timed(search: Callable[[Floats], Any], query: Floats) -> tuple[float, Any]:
    """Seconds of one search, and what it found."""
    begun = time.perf_counter()
    found = search(query)
    return time.perf_counter() - begun, found


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    built = "in an earlier run"
    if result["build_s"] is not None:
        built = f"{result['build_s']:.0f} s, of which writing {result['write_s']:.0f} s"
    return "\n".join([
        f"{result['rows']:,} embeddings of {result['width']}, {result['queries']} queries",
        f"recall@10 against exact search  {result['recall_at_10']:.3f} (bar: {RECALL_BAR})",
        f"one query, median               {result['index_ms']:.1f} ms; exact numpy search {result['exact_ms']:.0f} ms",
        f"times faster                    {result['times_faster']:.1f} (bar: {SPEED_BAR:.0f})",
        f"by turns, caches swept by exact {result['index_by_turns_ms']:.1f} ms; {result['exact_by_turns_ms']:.0f} ms",
        f"build                           {built}",
        f"disk                            {result['disk_gb']:.2f} GB (the vectors alone "
        f"{result['rows'] * result['width'] * 4 / 1e9:.2f} GB)",
    ])  # fmt: skip


def note(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000, help="stored embeddings")
    parser.add_argument("--width", type=int, default=256, help="D, the width of an embedding")
    parser.add_argument("--queries", type=int, default=200, help="queries asked of both")
    parser.add_argument("--folder", type=Path, help="keep the index here, and take it if it's there")
    parser.add_argument("--json", action="store_true", help="print one JSON object in place of the table")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="pixvoice-index-") as temporary:
        result = measure(options.rows, options.width, options.queries, options.folder or Path(temporary))
    print(json.dumps(result) if options.json else table(result))


if __name__ == "__main__":
    main()
