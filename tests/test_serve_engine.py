"""The engine under every kind of client: many, impatient, slow, gone; with describers whose pace the tests hold."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("prometheus_client", reason="needs the serve extra")

from held import PATIENCE, FakeDescriber, FakeSearcher, photo
from pixvoice.audio import wav_bytes
from pixvoice.errors import InputError, OptionError
from pixvoice.serving.batching import NotReady
from pixvoice.serving.engine import Busy, Engine, TimedOut
from pixvoice.serving.settings import Settings

PHOTO = Image.new("RGB", (8, 8))


@asynccontextmanager
async def serving(describer: Any, searcher: Any = None, **changes: Any) -> AsyncIterator[Engine]:
    engine = Engine(Settings(**{"threads": 1, **changes}), describer, searcher)
    await engine.start()
    try:
        yield engine
    finally:
        describer.permits.release(1000)
        await engine.stop()


async def acquire(semaphore: threading.Semaphore) -> None:
    """Wait for a worker without holding the event loop up."""
    assert await asyncio.to_thread(semaphore.acquire, True, PATIENCE)


async def until_waiting(engine: Engine, count: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while engine._queue.waiting != count:
            await asyncio.sleep(0)


async def heard(pieces: AsyncIterator[Any]) -> list[float]:
    return [float(piece[0]) async for piece in pieces]


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 3 * PATIENCE))  # type: ignore[arg-type]


def test_each_request_gets_its_own_answer() -> None:
    async def test() -> None:
        async with serving(FakeDescriber(), FakeSearcher(), threads=2) as engine:
            described = asyncio.gather(*(engine.describe(photo(width)) for width in range(20, 30)))
            streamed = asyncio.gather(*(heard(engine.stream(photo(width))) for width in range(30, 40)))
            found = asyncio.gather(*(engine.search_speech(f"query {n}".encode(), n) for n in range(1, 9)))
            assert [float(one.audio[0]) for one in await described] == list(range(20, 30))
            assert await streamed == [[width, 100 + width, 200 + width] for width in range(30, 40)]
            for n, (text, matches) in enumerate(await found, 1):
                assert (text, len(matches)) == (f"query {n}", n)
            assert len(await engine.search_photo(PHOTO, 4)) == 4
            assert engine.sample_rate == 16_000

    run(test)


def test_photos_that_wait_together_go_together_up_to_the_limit() -> None:
    async def test() -> None:
        describer = FakeDescriber(hold=True)
        async with serving(describer, batch=4) as engine:
            streams = [asyncio.ensure_future(heard(engine.stream(photo(20))))]
            await acquire(describer.begun)
            streams += [asyncio.ensure_future(heard(engine.stream(photo(width)))) for width in range(21, 27)]
            await until_waiting(engine, 6)
            describer.permits.release(100)
            await asyncio.gather(*streams)
        assert describer.taken == [[20], [21, 22, 23, 24], [25, 26]]

    run(test)


def test_where_company_would_change_the_words_photos_go_one_by_one() -> None:
    async def test() -> None:
        describer = FakeDescriber(batches=False)
        async with serving(describer) as engine:
            await asyncio.gather(*(engine.describe(photo(width)) for width in (20, 21)))
            await asyncio.gather(*(heard(engine.stream(photo(width))) for width in (22, 23)))
        assert describer.taken == [[20], [21], [22], [23]]

    run(test)


def test_lengths_are_not_mixed_in_a_batch() -> None:
    async def test() -> None:
        describer = FakeDescriber(hold=True)
        async with serving(describer) as engine:
            work = [asyncio.ensure_future(engine.describe(photo(20)))]
            await acquire(describer.begun)
            for width, length in ((21, "short"), (22, "long"), (23, "short")):
                work.append(asyncio.ensure_future(engine.describe(photo(width), length)))
            await until_waiting(engine, 3)
            describer.permits.release(100)
            await asyncio.gather(*work)
        assert describer.taken == [[20], [21, 23], [22]]

    run(test)


def test_sound_is_given_before_the_description_is_done() -> None:
    async def test() -> None:
        describer = FakeDescriber(hold=True)
        async with serving(describer) as engine:
            pieces = engine.stream(photo(20))
            describer.permits.release()
            assert (await anext(pieces))[0] == 20
            assert describer.steps_taken == 1
            describer.permits.release(2)
            assert await heard(pieces) == [120, 220]

    run(test)


def test_when_the_queue_is_full_the_next_is_told_at_once_and_there_is_room_again_later() -> None:
    async def test() -> None:
        describer = FakeDescriber(hold=True)
        async with serving(describer, queue_size=2, batch=1) as engine:
            work = [asyncio.ensure_future(engine.describe(PHOTO))]
            await acquire(describer.begun)
            work += [asyncio.ensure_future(engine.describe(PHOTO)) for _ in range(2)]
            await until_waiting(engine, 2)
            for refused in (engine.describe(PHOTO), anext(engine.stream(PHOTO))):
                with pytest.raises(Busy) as caught:
                    await refused
                assert caught.value.retry_after >= 1
            describer.permits.release(100)
            await asyncio.gather(*work)
            await engine.describe(PHOTO)

    run(test)


def test_audio_that_nobody_reads_counts_too() -> None:
    async def test() -> None:
        async with serving(FakeDescriber(), queue_size=1) as engine:
            unread = []
            for _ in range(4):
                unread.append(engine.stream(PHOTO))
                await anext(unread[-1])
            with pytest.raises(Busy):
                await anext(engine.stream(PHOTO))
            await unread[0].aclose()
            assert len(await heard(engine.stream(PHOTO))) == 3
            assert [len(await heard(pieces)) for pieces in unread] == [0, 2, 2, 2]
            assert engine._open == 0

    run(test)


def test_a_search_overtakes_descriptions_that_wait() -> None:
    async def test() -> None:
        describer = FakeDescriber(hold=True)
        async with serving(describer, FakeSearcher(), batch=1) as engine:
            work = [asyncio.ensure_future(engine.describe(PHOTO)) for _ in range(5)]
            await acquire(describer.begun)
            await until_waiting(engine, 4)
            search = asyncio.ensure_future(engine.search_speech(b"dog", 1))
            await until_waiting(engine, 5)
            describer.permits.release(3)  # the one that has begun
            assert (await search)[0] == "dog"
            assert len(describer.taken) <= 2
            describer.permits.release(100)
            await asyncio.gather(*work)

    run(test)


def test_a_client_that_goes_away_gives_up_its_place() -> None:
    async def test() -> None:
        describer = FakeDescriber(hold=True)
        async with serving(describer, batch=1) as engine:
            first = asyncio.ensure_future(engine.describe(photo(20)))
            await acquire(describer.begun)
            gone = asyncio.ensure_future(engine.describe(photo(21)))
            await until_waiting(engine, 1)
            gone.cancel()
            with pytest.raises(asyncio.CancelledError):
                await gone
            assert engine._queue.waiting == 0
            describer.permits.release(3)
            await first
        assert describer.taken == [[20]]

    run(test)


def test_work_that_has_begun_stops_at_its_next_step_when_its_client_goes_away() -> None:
    async def test() -> None:
        describer = FakeDescriber(hold=True, steps=50)
        async with serving(describer) as engine:
            gone = asyncio.ensure_future(engine.describe(PHOTO))
            await acquire(describer.begun)
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)  # it has gone before the step that it is in ends
            describer.permits.release()
            await acquire(describer.over)
            assert describer.steps_taken <= 1
            pieces = engine.stream(PHOTO)
            describer.permits.release(1)
            await anext(pieces)
            await pieces.aclose()
            describer.permits.release(1)
            await acquire(describer.over)
            assert describer.steps_taken <= 3

    run(test)


def test_one_of_a_batch_that_goes_away_does_not_stop_the_others() -> None:
    async def test() -> None:
        describer = FakeDescriber(hold=True)
        async with serving(describer) as engine:
            first = asyncio.ensure_future(engine.describe(photo(20)))
            await acquire(describer.begun)
            streams = [engine.stream(photo(width)) for width in (21, 22)]
            pieces = [asyncio.ensure_future(anext(stream)) for stream in streams]
            await until_waiting(engine, 2)
            describer.permits.release(4)
            await asyncio.gather(first, *pieces)
            await streams[0].aclose()
            describer.permits.release(2)
            assert await heard(streams[1]) == [122, 222]
        assert describer.taken == [[20], [21, 22]]

    run(test)


def test_the_time_limit_counts_waiting() -> None:
    async def test() -> None:
        describer = FakeDescriber(hold=True)
        async with serving(describer, batch=1, timeout_s=0.05) as engine:
            begun = asyncio.ensure_future(engine.describe(photo(20)))
            await acquire(describer.begun)
            for late in (engine.describe(photo(21)), anext(engine.stream(photo(22))), begun):
                with pytest.raises(TimedOut, match=r"within 0\.05 seconds"):
                    await late
            assert engine._queue.waiting == 0
            describer.permits.release(100)
            await acquire(describer.over)
        assert describer.taken == [[20]]
        assert describer.steps_taken < 3

    run(test)


def test_what_is_wrong_with_a_request_is_told_to_it_alone() -> None:
    async def test() -> None:
        async with serving(FakeDescriber(), FakeSearcher(), batch=1) as engine:
            with pytest.raises(OptionError, match="length"):
                await engine.describe(PHOTO, "huge")
            with pytest.raises(OptionError, match="length"):
                await anext(engine.stream(PHOTO, "huge"))
            with pytest.raises(InputError, match="no sound"):
                await engine.search_speech(b"", 1)
            with pytest.raises(ValueError, match="bad luck"):
                await engine.describe(photo(13))
            with pytest.raises(ValueError, match="bad luck"):
                await anext(engine.stream(photo(13)))
            assert (await engine.describe(photo(20))).audio[0] == 20
            assert engine._open == 0

    run(test)


def test_without_photos_there_is_nothing_to_search() -> None:
    async def test() -> None:
        async with serving(FakeDescriber()) as engine:
            with pytest.raises(InputError, match="--photos"):
                await engine.search_speech(b"dog", 1)

    run(test)


def test_stopping_finishes_what_has_begun_and_refuses_the_rest() -> None:
    async def test() -> None:
        describer = FakeDescriber(hold=True)
        async with serving(describer, batch=1) as engine:
            begun = asyncio.ensure_future(engine.describe(photo(20)))
            await acquire(describer.begun)
            waiting = asyncio.ensure_future(engine.describe(photo(21)))
            await until_waiting(engine, 1)
            stopping = asyncio.ensure_future(engine.stop())
            with pytest.raises(NotReady):
                await waiting
            with pytest.raises(NotReady):
                await engine.describe(PHOTO)
            assert not engine.ready and not begun.done() and not stopping.done()
            describer.permits.release(3)
            assert (await begun).audio[0] == 20
            await stopping
        assert describer.taken == [[20]]

    run(test)


def test_before_the_start_nothing_is_taken() -> None:
    async def test() -> None:
        engine = Engine(Settings(threads=1))
        assert not engine.ready
        with pytest.raises(NotReady):
            await engine.describe(PHOTO)
        with pytest.raises(NotReady):
            _ = engine.sample_rate
        await engine.stop()

    run(test)


def test_metrics_tell_counts_and_times() -> None:
    async def test() -> None:
        async with serving(FakeDescriber(), FakeSearcher()) as engine:
            await engine.describe(PHOTO)
            await heard(engine.stream(PHOTO))
            await engine.search_speech(b"dog", 1)
            engine.metrics.request("/v1/describe", 200)
            said = engine.metrics.render().decode()
        for line in (
            'pixvoice_requests_total{endpoint="/v1/describe",status="200"} 1.0',
            "pixvoice_first_sound_seconds_count 1.0",
            'pixvoice_total_seconds_count{kind="describe"} 1.0',
            'pixvoice_total_seconds_count{kind="stream"} 1.0',
            'pixvoice_total_seconds_count{kind="search"} 1.0',
            'pixvoice_batch_size_sum{kind="describe"} 1.0',
            "pixvoice_queue_depth 0.0",
            "pixvoice_ready 1.0",
        ):
            assert line in said
        assert "pixvoice_ready 0.0" in engine.metrics.render().decode()

    run(test)


def test_the_embedded_describer_says_under_load_what_it_says_alone() -> None:
    """One bundle, two workers, ten requests at once."""
    import pixvoice

    async def test() -> None:
        engine = Engine(Settings(threads=2))
        await engine.start()
        shades = np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), dtype=np.uint8)
        photos = [Image.fromarray(one) for one in shades]
        streams = [_joined(engine.stream(photos[n % 3], "short")) for n in range(6)]
        streamed, described = await asyncio.gather(
            asyncio.gather(*streams), asyncio.gather(*(engine.describe(one, "short") for one in photos))
        )
        await engine.stop()
        alone = pixvoice.load(threads=1)
        for number, one in enumerate(photos):
            best = alone.describe(one, "short")
            greedy = alone.describe(one, "short", strategy="greedy")
            np.testing.assert_array_equal(described[number].codes, best.codes)
            for audio in streamed[number::3]:
                np.testing.assert_allclose(audio, greedy.audio, atol=1e-5)

    run(test)


def test_the_embedded_describer_completes_under_load_what_it_completes_alone() -> None:
    import pixvoice

    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (224, 224, 3), dtype=np.uint8))
    alone = pixvoice.load(threads=1)
    said = alone.describe(picture, "short")
    beginning = wav_bytes(said.audio[: len(said.audio) // 2], said.sample_rate)

    async def test() -> None:
        engine = Engine(Settings(threads=2), alone)
        await engine.start()
        (completed, _), _ = await asyncio.gather(
            engine.complete_timed(picture, beginning), engine.describe(picture, "short")
        )
        with pytest.raises(InputError, match="not a recording"):
            await engine.complete_timed(picture, b"noise")
        await engine.stop()
        expected = alone.complete(picture, beginning)
        np.testing.assert_array_equal(completed.codes, expected.codes)
        assert completed.generated_from_s == expected.generated_from_s > 0

    run(test)


async def _joined(pieces: AsyncIterator[Any]) -> np.ndarray:
    return np.concatenate([piece async for piece in pieces])
