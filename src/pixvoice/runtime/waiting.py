"""Asynchronous work, waited for in the thread that asks: no other thread has to wake, as with a loop in a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")


class _Loop:
    """An event loop that is closed when nobody needs it any more."""

    def __init__(self) -> None:
        self.events = asyncio.new_event_loop()

    def __del__(self) -> None:
        self.events.close()


class _Own(threading.local):
    """The loop of each thread that waits; it ends with its thread."""

    def __init__(self) -> None:
        self.loop = _Loop()


_own = _Own()


def wait(work: Coroutine[Any, Any, T]) -> T:
    """What ``work`` gives, or raises.

    Where a loop runs in this thread already, as in a notebook, another thread does the work meanwhile.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _own.loop.events.run_until_complete(work)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
