"""The HTTP service: describe and search for clients, and a page for people.  Needs ``pixvoice[serve]``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pixvoice.serving.settings import Settings as Settings

if TYPE_CHECKING:
    from pixvoice.serving.app import create_app as create_app

__all__ = ["Settings", "create_app"]


def __getattr__(name: str) -> Any:
    """Import FastAPI on first use, so that settings can be made and refused without it."""
    if name == "create_app":
        from pixvoice.serving.app import create_app

        return create_app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
