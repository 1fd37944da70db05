"""Bulk embedding and encoding on a Ray cluster: the same functions on machines that see the files at the same paths."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from pixvoice.contracts import SearchModel
from pixvoice.encoding import FileEncoder, Named, Spread, encode_part
from pixvoice.errors import MissingToolError, OutputError
from pixvoice.runtime.indexing import Batch, Embed, embed_files

T = TypeVar("T")
FILES_AT_ONCE = 256  # of one call to a worker


@contextmanager
def embed_on_ray(
    load: Callable[[], SearchModel], address: str | None = None, workers: int | None = None
) -> Iterator[Embed]:
    """What ``Searcher.index`` takes as ``embed``: each worker loads the model once and embeds batches of files.

    ``address`` is the cluster's (``auto`` for the one that this machine belongs to); without, a cluster of this
    machine alone is started, and ended afterwards.  ``workers`` is the number of models loaded; without, one a core.
    Batches come back in any order and are written to the index as they come: whatever stops the run, the batches that
    were written are skipped by the next.

    Raises:
        MissingToolError: Ray isn't installed.
        OutputError: the cluster can't be reached, or its workers fail.
    """
    with _cluster(address, workers) as cores:
        yield lambda batches: _embed(load, batches, workers or cores)


@contextmanager
def encode_on_ray(
    load: Callable[[], FileEncoder], address: str | None = None, workers: int | None = None
) -> Iterator[Spread]:
    """What ``encode_files`` takes as ``spread``: each worker loads the encoder once and makes one part after another.

    Workers write the parts themselves, so that their folder must be seen by all machines at the same path.  Address,
    workers and errors are those of ``embed_on_ray``.
    """
    with _cluster(address, workers) as cores:
        yield lambda parts, folder: _encode(load, parts, folder.absolute(), workers or cores)


@contextmanager
def _cluster(address: str | None, workers: int | None) -> Iterator[int]:
    """The cores of the cluster, connected to or started."""
    try:
        import ray
        import ray.data
    except ImportError:
        raise MissingToolError("--ray needs Ray Data; to install it type: pip install 'pixvoice[cluster]'") from None
    started = not ray.is_initialized()
    if started:
        try:
            alone = {} if address else {"num_cpus": workers, "include_dashboard": False}
            ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **alone)
        except Exception as error:  # Ray raises bare ones too
            raise OutputError(f"--ray {address or 'local'}: no cluster answers ({_one_line(error)})") from None
    try:
        yield max(1, int(ray.cluster_resources().get("CPU", 1)))
    finally:
        if started:
            ray.shutdown()


def _embed(load: Callable[[], SearchModel], batches: Iterable[Batch], workers: int) -> Iterator[Batch]:
    files = [dict(zip(batch, row, strict=True)) for batch in batches for row in zip(*batch.values(), strict=True)]
    yield from _mapped(files, _worker(load, embed_files), FILES_AT_ONCE, workers)


def _encode(load: Callable[[], FileEncoder], parts: Sequence[Named], folder: Path, workers: int) -> Iterator[int]:
    def one(encoder: FileEncoder, batch: Batch) -> Batch:
        files = zip(batch["names"][0], batch["paths"][0], strict=True)
        encode_part([(str(name), Path(path)) for name, path in files], encoder, folder)
        return {"files": np.array([len(batch["names"][0])])}

    rows = [
        {"names": [name for name, _ in part], "paths": [str(path.absolute()) for _, path in part]} for part in parts
    ]
    for done in _mapped(rows, _worker(load, one), 1, workers):
        yield int(done["files"].sum())


def _mapped(rows: Sequence[dict[str, Any]], worker: type[Any], at_once: int, workers: int) -> Iterator[Batch]:
    """What workers make of ``rows``, ``at_once`` a call, as it comes."""
    import ray.data
    from ray.exceptions import RayError

    if not rows:
        return
    ray.data.DataContext.get_current().enable_progress_bars = False
    blocks = -(-len(rows) // at_once)
    made = ray.data.from_items(list(rows), override_num_blocks=blocks).map_batches(
        worker, batch_size=at_once, compute=ray.data.ActorPoolStrategy(size=min(workers, blocks)), num_cpus=1
    )
    try:
        yield from made.iter_batches(batch_size=at_once, batch_format="numpy")
    except RayError as error:
        raise OutputError(f"--ray: a worker failed ({_one_line(error)}); type the same command to go on") from None


def _worker(load: Callable[[], T], use: Callable[[T, Batch], Batch]) -> type[Any]:
    """The class that Ray makes one object of in each worker."""

    class Worker:
        def __init__(self) -> None:
            self.loaded = load()

        def __call__(self, batch: Batch) -> Batch:
            return use(self.loaded, batch)

    return Worker


def _one_line(error: Exception) -> str:
    """The first error in the story that Ray tells of all that followed from it."""
    first = re.search(r"^\s*[\w.]*(?:Error|Exception): (.+)$", str(error), re.MULTILINE)
    return " ".join((first[1] if first else str(error)).split())[:160] or type(error).__name__
