"""A describer and a searcher without weights, whose pace the tests hold and whose calls they can look at."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pixvoice.errors import InputError, OptionError
from pixvoice.runtime.describer import Description
from pixvoice.runtime.searcher import Match, Query

PATIENCE = 20  # seconds that a test waits for another thread before it fails


class FakeDescriber:
    """Takes steps; with ``hold`` it waits for a permit before each.  A photo's width is what is said of it."""

    sample_rate = 16_000

    def __init__(self, hold: bool = False, steps: int = 3, batches: bool = True) -> None:
        self.hold, self.steps, self.batches = hold, steps, batches
        self.permits, self.begun, self.over = threading.Semaphore(0), threading.Semaphore(0), threading.Semaphore(0)
        self.taken: list[list[int]] = []  # the photos of each call
        self.steps_taken = 0

    def together(self, length: str = "normal", **options: Any) -> bool:
        if length not in ("short", "normal", "long"):
            raise OptionError(f"length {length!r}: use one of short, normal, long")
        return self.batches

    def _begin(self, photos: Sequence[Image.Image]) -> None:
        self.taken.append([photo.width for photo in photos])
        self.begun.release()
        if any(photo.width == 13 for photo in photos):
            self.over.release()
            raise ValueError("bad luck")

    def _step(self) -> None:
        if self.hold:
            assert self.permits.acquire(timeout=PATIENCE)
        self.steps_taken += 1

    def describe_batch(
        self, photos: Sequence[Image.Image], length: str, seed: int | None, on_step: Callable[[], None]
    ) -> list[Description]:
        self._begin(photos)
        try:
            for _ in range(self.steps):
                on_step()
                self._step()
        finally:
            self.over.release()
        audio = [np.full(4, photo.width, np.float32) for photo in photos]
        return [Description(one, self.sample_rate, 0.5, np.zeros((1, 1), np.int64), -1.0) for one in audio]

    def stream_batch(
        self, photos: Sequence[Image.Image], length: str, wanted: Callable[[int], bool], strategy: str
    ) -> Iterator[tuple[int, Any]]:
        assert strategy == "greedy"
        self._begin(photos)
        for step in range(self.steps):
            self._step()
            alive = [photo for photo in range(len(photos)) if wanted(photo)]
            if not alive:
                break
            yield from ((photo, np.full(2, 100 * step + photos[photo].width, np.float32)) for photo in alive)
        else:
            yield from ((photo, None) for photo in range(len(photos)) if wanted(photo))
        self.over.release()


class FakeSearcher:
    """Hears the bytes, finds as many photos as it is asked for."""

    def hear(self, audio: bytes) -> Query:
        if not audio:
            raise InputError("the recording: there is no sound in the file")
        return Query(np.zeros(2, np.float32), text=audio.decode())

    def look(self, photo: Image.Image) -> Query:
        return Query(np.ones(2, np.float32), photo=photo)

    def search(self, query: Query, top: int) -> list[Match]:
        return [Match(Path(f"{number}.jpg"), 1.0 - number / 10) for number in range(top)]


def photo(width: int) -> Image.Image:
    return Image.new("RGB", (width, 8))
