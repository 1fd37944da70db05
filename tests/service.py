"""A service without weights: an engine that says a tone, over the index of a real folder of coloured photos."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from starlette.testclient import TestClient

import seeing
from pixvoice.contracts import Audio
from pixvoice.runtime.describer import Description
from pixvoice.runtime.searcher import Match, Searcher
from pixvoice.serving import Settings, create_app
from pixvoice.serving.metrics import Metrics

RATE = 16_000  # Hz
TOKEN = "correct horse battery staple".replace(" ", "-")


class ToneEngine:
    """Says half a second, in three pieces when streamed.  ``error`` is raised in place of an answer.

    With ``hold``, an answer is not given before ``release`` is called; ``cancelled`` counts those never given.
    """

    sample_rate, photo_side = RATE, 64

    def __init__(self, searcher: Searcher | None = None) -> None:
        self.searcher, self.ready, self.metrics = searcher, False, Metrics()
        self.error: Exception | None = None
        self.fail_after: int | None = None  # pieces of a stream
        self.hold: asyncio.Event | None = None
        self.asked: list[tuple[Any, ...]] = []
        self.cancelled = self.closed = 0

    async def start(self) -> None:
        self.ready = True

    async def stop(self) -> None:
        self.ready = False

    async def describe_timed(
        self, photo: Image.Image, length: str = "normal", seed: int | None = None
    ) -> tuple[Description, float]:
        self.asked.append((photo.size, length, seed))
        await self._work()
        return Description(tone(), RATE, 0.6, np.zeros((1, 1), np.int64), -1.0), 0.0

    async def complete_timed(
        self, photo: Image.Image, beginning: bytes, length: str = "normal", seed: int | None = None
    ) -> tuple[Description, float]:
        self.asked.append((photo.size, beginning, length, seed))
        await self._work()
        return Description(tone(), RATE, 0.6, np.zeros((1, 1), np.int64), -1.0, generated_from_s=0.2), 0.0

    async def stream(self, photo: Image.Image, length: str = "normal", seed: int | None = None) -> AsyncIterator[Audio]:
        self.asked.append((photo.size, length, seed))
        try:
            await self._work()
            for number, piece in enumerate(np.split(tone(), 4)):
                if number == self.fail_after:
                    raise self.error or RuntimeError
                yield piece
        finally:
            self.closed += 1

    async def search_speech(self, audio: bytes, top: int) -> tuple[str, list[Match]]:
        await self._work()
        assert self.searcher is not None
        query = self.searcher.hear(audio)
        return query.text, self.searcher.search(query, top)

    async def search_photo(self, photo: Image.Image, top: int) -> list[Match]:
        await self._work()
        assert self.searcher is not None
        return self.searcher.search_photo(photo, top)

    async def _work(self) -> None:
        if self.error is not None and self.fail_after is None:
            raise self.error
        if self.hold is not None:
            try:
                await self.hold.wait()
            except asyncio.CancelledError:
                self.cancelled += 1
                raise


def tone() -> Audio:
    """Audio (8000,)."""
    return (0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE // 2) / RATE)).astype(np.float32)


def jpeg(size: tuple[int, int] = (48, 32), colour: str = "red", format: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, seeing.COLOURS[colour]).save(buffer, format, **options)
    return buffer.getvalue()


def indexed(folder: Path) -> Searcher:
    """Photos ``rose``, ``leaf`` and ``sea`` in a folder, and their index."""
    for name, colour in (("rose", "red"), ("leaf", "green"), ("sea", "blue")):
        seeing.photo(folder / f"{name}.png", colour)
    searcher = Searcher(seeing.ColourModel(), folder)
    searcher.index()
    return searcher


@contextmanager
def serving(engine: ToneEngine, **settings: Any) -> Iterator[TestClient]:
    """A client of a started service."""
    app = create_app(Settings(**settings), engine)  # type: ignore[arg-type]
    with TestClient(app, base_url="http://127.0.0.1:8080", raise_server_exceptions=False) as client:
        yield client
