"""Pictures that speak.

import pixvoice

describer = pixvoice.load()
description = describer.describe("photo.jpg")
description.save("photo.wav")

searcher = pixvoice.load_searcher("photos/")
searcher.index()
matches = searcher.search("query.wav", top=10)
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pixvoice.runtime.describer import Describer as Describer
    from pixvoice.runtime.describer import Description as Description
    from pixvoice.runtime.searcher import Match as Match
    from pixvoice.runtime.searcher import Searcher as Searcher

__all__ = ["Describer", "Description", "Match", "Searcher", "__version__", "load", "load_searcher"]


def load(bundle: str | Path | None = None, threads: int | None = None) -> Describer:
    """The describer that ships, or the one of the bundle in folder ``bundle``, on ``threads`` cores (default: up to 2).

    Raises BundleError for a bundle that is missing, damaged or of another shape.
    """
    from pixvoice.runtime.describer import load as load_describer

    return load_describer(bundle, threads)


def load_searcher(
    folder: str | Path = ".",
    index: str | Path | None = None,
    bundle: str | Path | None = None,
    threads: int | None = None,
) -> Searcher:
    """The searcher of a folder of photos (or of an index, or of its URL), whose index lies in it or at ``index``.

    ``bundle`` and ``threads`` are those of ``load``.  Raises BundleError.
    """
    from pixvoice.runtime.searcher import load_searcher as load

    return load(folder, index, bundle, threads)


def __getattr__(name: str) -> Any:
    """Import on first use, so that ``import pixvoice`` stays quick."""
    if name == "__version__":
        from importlib.metadata import version

        return version("pixvoice")
    if name in ("Describer", "Description"):
        from pixvoice.runtime import describer

        return getattr(describer, name)
    if name in ("Match", "Searcher"):
        from pixvoice.runtime import searcher

        return getattr(searcher, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
