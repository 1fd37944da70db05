"""Who speaks or searches for a row: its run, in PyTorch, or the bundle in the run's place, on ONNX Runtime."""

from __future__ import annotations

from typing import Any

import torch

from pixvoice.bench.plan import Row
from pixvoice.contracts import SearchModel


def load_describer(row: Row, threads: int) -> Any:
    """What describes photos for a row, on ``threads`` processor cores.

    Raises BundleError where run or bundle can't be used, and what ``load_speaker`` raises.
    """
    torch.set_num_threads(threads)
    if row.own.is_bundle:
        import pixvoice

        return pixvoice.load(row.own.folder, threads)
    from pixvoice.describe.speaker import load_speaker

    return load_speaker(row.own.folder)


def load_searcher(row: Row, threads: int) -> SearchModel:
    """What searches for a row, on ``threads`` processor cores.  Raises BundleError for a run or bundle of no use."""
    torch.set_num_threads(threads)
    if row.own.is_bundle:
        from pixvoice.runtime.retriever import load_search_model

        return load_search_model(row.own.folder, threads)
    from pixvoice.retrieve.build import load_search_model as load_run

    return load_run(row.own.folder)
