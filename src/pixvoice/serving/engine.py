"""The only part of the service that touches the models: one describer and one searcher for all requests.

Requests wait in one queue, and worker threads, one a core, do them beside the event loop.  Streams that wait together
go on in one batch where that is sooner and changes no word (``Describer.together``); else each worker does one.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
from PIL import Image

from pixvoice.contracts import Audio
from pixvoice.errors import InputError, PixVoiceError
from pixvoice.runtime.describer import Describer, Description
from pixvoice.runtime.searcher import Match, Query, Searcher
from pixvoice.serving.batching import Busy, FairQueue, Job, NotReady, Workers
from pixvoice.serving.metrics import Metrics
from pixvoice.serving.settings import Settings

__all__ = ["Busy", "Engine", "NotReady", "TimedOut"]

DESCRIBE, COMPLETE, STREAM, SEARCH = "describe", "complete", "stream", "search"
_UNREAD = 4  # times the queue: requests under way at most, those included whose audio the client hasn't read yet


class TimedOut(PixVoiceError):
    """A request took longer than it may, waiting included."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"no answer within {seconds:g} seconds; send it again when the service has less to do")


class _Left(Exception):
    """Nobody waits for what is being done."""


@dataclass
class _Request:
    """A job as its request sees it: what the worker delivers, and until when it is waited for (the loop's time)."""

    job: Job
    mail: asyncio.Queue[Any]
    deadline: float
    limit_s: float

    async def next(self) -> Any:
        """The next result.  Raises what the worker raised, or TimedOut."""
        try:
            async with asyncio.timeout_at(self.deadline):
                found = await self.mail.get()
        except TimeoutError:
            raise TimedOut(self.limit_s) from None
        if isinstance(found, Exception):
            raise found
        return found


class Engine:
    """Describes and searches for many requests at once.

    Every request raises Busy at once when too many wait, NotReady before ``start`` and after ``stop``, and TimedOut
    after ``settings.timeout_s``, waiting included.  A request that is cancelled gives up its place in the queue; if it
    has begun, it stops at its next step.
    """

    def __init__(
        self, settings: Settings, describer: Describer | None = None, searcher: Searcher | None = None
    ) -> None:
        self.settings, self.searcher, self.metrics = settings, searcher, Metrics()
        self.ready = False
        self._describer = describer
        self._queue = FairQueue(settings.queue_size, settings.threads or min(2, os.cpu_count() or 1))
        self._workers = Workers(self._queue, self._work)
        self._open = 0
        self.metrics.queue_depth.set_function(lambda: self._queue.waiting)
        self.metrics.ready.set_function(lambda: float(self.ready))

    @property
    def describer(self) -> Describer:
        """The describer.  Raises NotReady before there is one."""
        if self._describer is None:
            raise NotReady
        return self._describer

    @property
    def sample_rate(self) -> int:
        """Audio samples a second of descriptions (Hz).  Raises NotReady."""
        return self.describer.sample_rate

    @property
    def photo_side(self) -> int:
        """Pixels that both sides of a photo need to be described as well as the whole; see ``read_image``."""
        return 2 * self.describer.image_encoder.image_size

    async def start(self) -> None:
        """Load what wasn't given, then take requests.

        Raises:
            BundleError: weights that are missing or damaged, or that can't search although there are photos.
            InputError: the photos' index is another model's, or can't be read.
        """
        await asyncio.to_thread(self._load)
        self._workers.start()
        self.ready = True

    async def stop(self) -> None:
        """Finish what has begun; what still waits, and what comes, is told NotReady."""
        self.ready = False
        for job in self._queue.close():
            job.deliver(NotReady())
        await asyncio.to_thread(self._workers.join)

    async def describe(self, photo: Image.Image, length: str = "normal", seed: int | None = None) -> Description:
        """The best description that there is, as ``Describer.describe`` gives it.  Raises OptionError besides."""
        return (await self.describe_timed(photo, length, seed))[0]

    async def describe_timed(
        self, photo: Image.Image, length: str = "normal", seed: int | None = None
    ) -> tuple[Description, float]:
        """``describe``, and how long the photo waited for a worker (seconds)."""
        most = self.settings.batch if self.describer.together(length) else 1
        with self._request(DESCRIBE, photo, (length, seed), most) as request:
            described: Description = await request.next()
            return described, request.job.waited_s

    async def complete_timed(
        self, photo: Image.Image, beginning: bytes, length: str = "normal", seed: int | None = None
    ) -> tuple[Description, float]:
        """What ``Describer.complete`` makes of a photo and a recording's bytes, and how long both waited (seconds).

        Raises InputError for a beginning that can't be gone on from, and OptionError besides.
        """
        with self._request(COMPLETE, (photo, beginning, length, seed)) as request:
            completed: Description = await request.next()
            return completed, request.job.waited_s

    async def stream(self, photo: Image.Image, length: str = "normal", seed: int | None = None) -> AsyncIterator[Audio]:
        """A description as pieces of audio (l,), the first as soon as it is certain: greedy, so ``seed`` is unused.

        Closing the iterator stops the work.  Raises OptionError besides.
        """
        most = self.settings.batch if self.describer.together(length, strategy="greedy") else 1
        with self._request(STREAM, photo, length, most) as request:
            begun = time.monotonic()
            piece = await request.next()
            self.metrics.first_sound(time.monotonic() - begun)
            while piece is not None:
                yield piece
                piece = await request.next()

    async def search_speech(self, audio: bytes, top: int) -> tuple[str, list[Match]]:
        """What was heard in a recording's bytes, and the photos nearest to it, best first.

        Raises InputError and OptionError as ``Searcher.search`` does, and InputError without photos.
        """
        return await self._search(lambda searcher: searcher.hear(audio), top)

    async def search_photo(self, photo: Image.Image, top: int) -> list[Match]:
        """The photos most like a photo, best first.  Raises as ``search_speech``."""
        return (await self._search(lambda searcher: searcher.look(photo), top))[1]

    async def _search(self, ask: Callable[[Searcher], Query], top: int) -> tuple[str, list[Match]]:
        if self.ready and self.searcher is None:
            raise InputError("no photos to search; start the service with: pixvoice serve --photos FOLDER")
        with self._request(SEARCH, (ask, top)) as request:
            found: tuple[str, list[Match]] = await request.next()
            return found

    @contextmanager
    def _request(self, kind: str, work: Any, group: Any = (), most: int = 1) -> Iterator[_Request]:
        """A job in the queue, for as long as somebody waits for it."""
        if not self.ready:
            raise NotReady
        if self._open >= _UNREAD * self.settings.queue_size:
            raise Busy(self._queue.retry_after())
        loop, limit_s = asyncio.get_running_loop(), self.settings.timeout_s
        mail: asyncio.Queue[Any] = asyncio.Queue()
        job = Job(kind, work, partial(_post, loop, mail), group, most)
        self._queue.put(job)
        self._open += 1
        begun = time.monotonic()
        try:
            yield _Request(job, mail, loop.time() + limit_s, limit_s)
            self.metrics.total(kind, time.monotonic() - begun)
        finally:
            job.left = True
            self._queue.drop(job)
            self._open -= 1

    def _work(self, jobs: list[Job]) -> None:
        """What a worker does with jobs of one kind."""
        jobs = [job for job in jobs if not job.left]
        if not jobs:
            return
        self.metrics.batch(jobs[0].kind, len(jobs))
        with suppress(_Left):
            work = {DESCRIBE: self._describe, COMPLETE: self._complete, STREAM: self._stream, SEARCH: self._find}
            work[jobs[0].kind](jobs)

    def _describe(self, jobs: list[Job]) -> None:
        def on_step() -> None:
            if all(job.left for job in jobs):
                raise _Left

        length, seed = cast("tuple[str, int | None]", jobs[0].group)
        descriptions = self.describer.describe_batch([job.work for job in jobs], length, seed, on_step=on_step)
        for job, description in zip(jobs, descriptions, strict=True):
            job.deliver(description)

    def _complete(self, jobs: list[Job]) -> None:
        for job in jobs:

            def on_step(job: Job = job) -> None:
                if job.left:
                    raise _Left

            photo, beginning, length, seed = job.work
            job.deliver(self.describer.complete(photo, beginning, length, seed, on_step))

    def _stream(self, jobs: list[Job]) -> None:
        length, photos = str(jobs[0].group), [job.work for job in jobs]
        pieces = self.describer.stream_batch(
            photos, length, wanted=lambda photo: not jobs[photo].left, strategy="greedy"
        )
        for photo, piece in pieces:
            jobs[photo].deliver(piece)

    def _find(self, jobs: list[Job]) -> None:
        assert self.searcher is not None
        for job in jobs:
            ask, top = job.work
            query = ask(self.searcher)
            if not job.left:
                job.deliver((query.text, self.searcher.search(query, top)))

    def _load(self) -> None:
        """What wasn't given, all parts at the same time; each does once what requests will ask of it."""
        settings = self.settings
        with ThreadPoolExecutor(2) as pool:
            searching = pool.submit(load_searcher, settings) if self.searcher is None and settings.photos else None
            if self._describer is None:
                self._describer = pool.submit(load_describer, settings).result()
            if searching is not None:
                self.searcher = searching.result()


def _post(loop: asyncio.AbstractEventLoop, mail: asyncio.Queue[Any], item: Any) -> None:
    """Hand a worker's result to a request; a loop that is closed has no requests any more."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(mail.put_nowait, item)


def load_describer(settings: Settings) -> Describer:
    """The describer of the settings, warm: it has described once, so that no client is the first.

    Raises BundleError.
    """
    from pixvoice.runtime.describer import load

    describer = load(settings.bundle, settings.threads)
    grey = Image.new("RGB", (64, 64), "grey")
    describer.describe_batch([grey], max_frames=8, min_frames=8)
    for _ in describer.stream_batch([grey], strategy="greedy", max_frames=8, min_frames=8):
        pass
    return describer


def load_searcher(settings: Settings) -> Searcher:
    """The searcher of the settings' photos, warm.  Raises BundleError, and InputError for an index of another model."""
    from pixvoice.runtime.searcher import load_searcher

    assert settings.photos is not None
    searcher = load_searcher(settings.photos, bundle=settings.bundle, threads=settings.threads)
    warm_searcher(searcher)
    return searcher


def warm_searcher(searcher: Searcher) -> None:
    """Let it look, hear and search once.  Raises InputError for an index of another model."""
    vector = searcher.model.embed_photos([Image.new("RGB", (64, 64), "grey")])[0]
    searcher.store.nearest("photos", vector, 1)
    searcher.model.embed_speech([np.zeros(searcher.model.sample_rate, np.float32)])
