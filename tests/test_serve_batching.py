"""The queue in front of the models: bounded, fair between kinds of work, honest about when to come back."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from pixvoice.serving.batching import MAX_RETRY_S, Batch, Busy, FairQueue, Job, NotReady, Workers

PATIENCE = 20  # seconds that a test waits for another thread before it fails


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def job(kind: str = "describe", name: Any = None, group: Any = (), most: int = 1) -> Job:
    return Job(kind, name, lambda item: None, group, most)


def take(queue: FairQueue) -> Batch:
    batch = queue.take()
    assert batch is not None
    return batch


def names(batch: Batch) -> list[Any]:
    return [one.work for one in batch.jobs]


def test_a_full_queue_says_when_to_come_back() -> None:
    queue = FairQueue(3, workers=2)
    for _ in range(3):
        queue.put(job())
    with pytest.raises(Busy, match=r"send it again in 1 second$") as caught:
        queue.put(job())
    assert caught.value.retry_after == 1
    take(queue)
    queue.put(job())
    assert queue.waiting == 3


def test_the_time_to_come_back_grows_with_the_queue_and_with_what_a_job_takes() -> None:
    queue = FairQueue(1000, workers=2)
    for _ in range(40):
        queue.put(job())
    short = queue.retry_after()
    for _ in range(20):
        queue.done(take(queue), 3.0)
    assert 1 < short < queue.retry_after() <= 20 * 3.0 / 2
    for _ in range(900):
        queue.put(job())
    assert queue.retry_after() == MAX_RETRY_S


def test_what_is_alike_is_taken_together_and_in_order() -> None:
    queue = FairQueue(20, workers=1)
    for name in range(6):
        queue.put(job("stream", name, group="long" if name in (1, 4) else "short", most=3))
    assert [names(take(queue)) for _ in range(3)] == [[0, 2, 3], [1, 4], [5]]
    assert queue.waiting == 0


def test_a_kind_that_goes_one_by_one_is_taken_one_by_one() -> None:
    queue = FairQueue(20, workers=2)
    for name in range(2):
        queue.put(job(name=name))
    assert [names(take(queue)) for _ in range(2)] == [[0], [1]]


def test_photos_are_shared_with_a_worker_that_is_idle() -> None:
    """Two batches of four on two cores are done before one of eight on one."""
    queue = FairQueue(20, workers=2)
    for name in range(8):
        queue.put(job("stream", name, most=8))
    queue._idle = 1  # the other worker, about to wake up
    assert names(take(queue)) == [0, 1, 2, 3]
    queue._idle = 0
    assert names(take(queue)) == [4, 5, 6, 7]


def test_the_kind_that_had_the_least_time_is_next() -> None:
    queue = FairQueue(100, workers=1)
    for name in range(10):
        queue.put(job("describe", name))
        queue.put(job("search", name))
    order = []
    for _ in range(12):
        batch = take(queue)
        order.append(batch.jobs[0].kind)
        queue.done(batch, 1.0 if order[-1] == "describe" else 0.1)
    assert order.count("search") == 10  # all searches while two descriptions were done
    assert order.index("search") <= 1


def test_a_search_waits_for_no_more_than_what_is_being_done() -> None:
    queue = FairQueue(100, workers=2)
    for name in range(50):
        queue.put(job("describe", name))
    for _ in range(10):
        queue.done(take(queue), 2.0)
    under_way = [take(queue), take(queue)]
    queue.put(job("search"))
    for batch in under_way:
        queue.done(batch, 2.0)
    assert take(queue).jobs[0].kind == "search"


def test_a_kind_that_was_away_does_not_get_what_it_missed() -> None:
    queue = FairQueue(100, workers=1)
    for name in range(40):
        queue.put(job("describe", name))
    for _ in range(20):
        queue.done(take(queue), 1.0)
    for name in range(20):
        queue.put(job("search", name))
    order = []
    for _ in range(10):
        batch = take(queue)
        order.append(batch.jobs[0].kind)
        queue.done(batch, 1.0)
    assert 4 <= order.count("search") <= 6


def test_a_job_that_is_dropped_gives_its_place_away() -> None:
    queue = FairQueue(2, workers=1)
    first, second = job(name=1), job(name=2)
    queue.put(first)
    queue.put(second)
    queue.drop(first)
    queue.drop(first)
    queue.drop(job("never seen"))
    queue.put(job(name=3))
    assert [names(take(queue)) for _ in range(2)] == [[2], [3]]


def test_a_job_knows_how_long_it_waited() -> None:
    clock = Clock()
    queue = FairQueue(2, workers=1, clock=clock)
    waiting = job()
    queue.put(waiting)
    clock.now = 1.5
    take(queue)
    assert waiting.waited_s == 1.5


def test_a_closed_queue_gives_back_what_waits_and_takes_nothing() -> None:
    queue = FairQueue(5, workers=1)
    waiting = [job("describe"), job("search")]
    for one in waiting:
        queue.put(one)
    assert queue.close() == waiting
    assert queue.take() is None and queue.waiting == 0
    with pytest.raises(NotReady, match="starting or stopping"):
        queue.put(job())


def test_workers_do_the_work_side_by_side_and_end_with_the_queue() -> None:
    queue = FairQueue(10, workers=2)
    together = threading.Barrier(2)
    done: list[Any] = []
    each = threading.Semaphore(0)

    def work(jobs: list[Job]) -> None:
        together.wait(PATIENCE)  # passes only if both workers are here
        done.extend(one.work for one in jobs)
        each.release()

    workers = Workers(queue, work)
    for name in range(4):
        queue.put(job(name=name))
    workers.start()
    assert all(each.acquire(timeout=PATIENCE) for _ in range(4))
    queue.close()
    workers.join()
    assert sorted(done) == [0, 1, 2, 3]


def test_a_worker_outlives_what_goes_wrong_and_says_it() -> None:
    queue = FairQueue(10, workers=1)
    told: list[Any] = []
    both = threading.Semaphore(0)

    def hear(item: Any) -> None:
        told.append(item)
        both.release()

    def work(jobs: list[Job]) -> None:
        if jobs[0].work == "bad":
            raise ZeroDivisionError
        jobs[0].deliver("good")

    workers = Workers(queue, work)
    workers.start()
    queue.put(Job("describe", "bad", hear))
    queue.put(Job("describe", "good", hear))
    assert both.acquire(timeout=PATIENCE) and both.acquire(timeout=PATIENCE)
    queue.close()
    workers.join()
    assert isinstance(told[0], ZeroDivisionError) and told[1] == "good"


def test_workers_that_never_began_can_be_joined() -> None:
    Workers(FairQueue(1, workers=2), lambda jobs: None).join()
