"""Bulk embedding on a Ray cluster: the same function on machines that all see the files at the same paths."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from pixvoice.contracts import SearchModel
from pixvoice.errors import MissingToolError, OutputError
from pixvoice.runtime.indexing import Batch, Embed, embed_files

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
        except (ConnectionError, OSError, RuntimeError, ValueError) as error:
            raise OutputError(f"--ray {address or 'local'}: no cluster answers ({_one_line(error)})") from None
    try:
        yield lambda batches: _embed(load, batches, workers or max(1, int(ray.cluster_resources().get("CPU", 1))))
    finally:
        if started:
            ray.shutdown()


def _embed(load: Callable[[], SearchModel], batches: Iterable[Batch], workers: int) -> Iterator[Batch]:
    import ray.data
    from ray.exceptions import RayError

    files = [dict(zip(batch, row, strict=True)) for batch in batches for row in zip(*batch.values(), strict=True)]
    if not files:
        return
    ray.data.DataContext.get_current().enable_progress_bars = False
    models = min(workers, -(-len(files) // FILES_AT_ONCE))
    shards = ray.data.from_items(files, override_num_blocks=-(-len(files) // FILES_AT_ONCE))
    embedded = shards.map_batches(
        _worker(load), batch_size=FILES_AT_ONCE, compute=ray.data.ActorPoolStrategy(size=models), num_cpus=1
    )
    try:
        yield from embedded.iter_batches(batch_size=FILES_AT_ONCE, batch_format="numpy")
    except RayError as error:
        raise OutputError(f"--ray: a worker failed ({_one_line(error)}); type the same command to go on") from None


def _worker(load: Callable[[], SearchModel]) -> type[Any]:
    """The class that Ray makes one object of in each worker."""

    class Worker:
        def __init__(self) -> None:
            self.model = load()

        def __call__(self, batch: Batch) -> Batch:
            return embed_files(self.model, batch)

    return Worker


def _one_line(error: Exception) -> str:
    """The first error in the story that Ray tells of all that followed from it."""
    first = re.search(r"^\s*[\w.]*(?:Error|Exception): (.+)$", str(error), re.MULTILINE)
    return " ".join((first[1] if first else str(error)).split())[:160] or type(error).__name__
