"""Work that waits for the models: a bounded queue, fair between kinds of work, and the threads that do it."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from pixvoice.errors import PixVoiceError

MAX_RETRY_S = 60  # seconds
_FIRST_GUESS_S = 0.2  # seconds that a job takes, before one has been done
_WEIGHT = 0.2  # of the newest in the running mean


class Busy(PixVoiceError):
    """The queue is full; ``retry_after`` (seconds) is when there should be room."""

    def __init__(self, retry_after: int) -> None:
        unit = "second" if retry_after == 1 else "seconds"
        super().__init__(f"the service has all the work that it can take; send it again in {retry_after} {unit}")
        self.retry_after = retry_after


class NotReady(PixVoiceError):
    """The service is starting or stopping."""

    def __init__(self) -> None:
        super().__init__("the service is starting or stopping; send it again in a few seconds")


@dataclass(eq=False)
class Job:
    """One request's work.  Up to ``most`` jobs of one kind and ``group`` are done together.

    ``deliver`` takes each result, or the error; it is called by the worker.  ``left`` says that nobody waits any more.
    """

    kind: str
    work: Any
    deliver: Callable[[Any], None]
    group: Hashable = ()
    most: int = 1
    left: bool = False
    waited_s: float = 0.0  # seconds, once it has begun
    put_at: float = 0.0


@dataclass(frozen=True)
class Batch:
    """Jobs that a worker does together, and the worker's seconds that their kind was charged for them."""

    jobs: list[Job]
    charged_s: float


@dataclass
class _Lane:
    """The jobs of one kind, the workers' seconds that it has had, and those that a job takes (running mean)."""

    jobs: deque[Job] = field(default_factory=deque)
    used_s: float = 0.0
    mean_s: float = _FIRST_GUESS_S


class FairQueue:
    """At most ``size`` jobs.  The kind that had the least of the workers' time is next; in a kind, first come first.

    So a search is never behind more than what is being done, however many descriptions wait.  A kind that was away
    begins with what the others have had: it gets its share from now on, not what it missed.  Source: start-time fair
    queueing, Goyal et al. 1996.
    """

    def __init__(self, size: int, workers: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.size, self.workers, self.clock = size, workers, clock
        self._lanes: dict[str, _Lane] = {}
        self._changed = threading.Condition()
        self._idle = 0  # workers that wait for a job
        self._reached_s = 0.0  # used_s of the lane that was served last
        self._closed = False

    @property
    def waiting(self) -> int:
        """Jobs that no worker has taken yet."""
        return sum(len(lane.jobs) for lane in self._lanes.values())

    def put(self, job: Job) -> None:
        """Let a job wait.  Raises Busy when the queue is full, NotReady when it is closed."""
        with self._changed:
            if self._closed:
                raise NotReady
            if self.waiting >= self.size:
                raise Busy(self.retry_after())
            lane = self._lanes.setdefault(job.kind, _Lane())
            if not lane.jobs:
                lane.used_s = max(lane.used_s, self._reached_s)
            job.put_at = self.clock()
            lane.jobs.append(job)
            self._changed.notify()

    def take(self) -> Batch | None:
        """Wait for jobs; None when the queue is closed and empty."""
        with self._changed:
            self._idle += 1
            self._changed.wait_for(lambda: self._closed or self.waiting)
            self._idle -= 1
            waiting = [lane for lane in self._lanes.values() if lane.jobs]
            if not waiting:
                return None
            lane = min(waiting, key=lambda lane: lane.used_s)
            jobs = self._pick(lane)
            charged_s = lane.mean_s * len(jobs)
            self._reached_s = lane.used_s
            lane.used_s += charged_s
            for job in jobs:
                job.waited_s = self.clock() - job.put_at
            return Batch(jobs, charged_s)

    def done(self, batch: Batch, seconds: float) -> None:
        """Charge what a batch really took."""
        with self._changed:
            lane = self._lanes[batch.jobs[0].kind]
            lane.used_s += seconds - batch.charged_s
            lane.mean_s += _WEIGHT * (seconds / len(batch.jobs) - lane.mean_s)

    def drop(self, job: Job) -> None:
        """Forget a job that still waits."""
        with self._changed:
            lane = self._lanes.get(job.kind)
            if lane is not None and job in lane.jobs:
                lane.jobs.remove(job)

    def close(self) -> list[Job]:
        """Take no more jobs, and give back those that wait."""
        with self._changed:
            self._closed = True
            left = [job for lane in self._lanes.values() for job in lane.jobs]
            for lane in self._lanes.values():
                lane.jobs.clear()
            self._changed.notify_all()
            return left

    def retry_after(self) -> int:
        """Whole seconds until what waits now should be done."""
        seconds = sum(len(lane.jobs) * lane.mean_s for lane in self._lanes.values()) / self.workers
        return max(1, min(MAX_RETRY_S, math.ceil(seconds)))

    def _pick(self, lane: _Lane) -> list[Job]:
        """The first job and those that can go with it, shared with the workers that are idle."""
        first = lane.jobs[0]
        alike = [job for job in lane.jobs if job.group == first.group]
        jobs = alike[: min(first.most, math.ceil(len(alike) / (1 + self._idle)))]
        for job in jobs:
            lane.jobs.remove(job)
        return jobs


class Workers:
    """Threads that do what a queue has, until it is closed."""

    def __init__(self, queue: FairQueue, work: Callable[[list[Job]], None]) -> None:
        self.queue, self.work = queue, work
        self._threads = [
            threading.Thread(target=self._run, name=f"pixvoice-{number}", daemon=True)
            for number in range(queue.workers)
        ]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait until what has begun is done; the queue must be closed."""
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()

    def _run(self) -> None:
        while (batch := self.queue.take()) is not None:
            begun = self.queue.clock()
            try:
                self.work(batch.jobs)
            except Exception as error:  # a worker outlives whatever a photo or recording does to the models
                for job in batch.jobs:
                    job.deliver(error)
            finally:
                self.queue.done(batch, self.queue.clock() - begun)
