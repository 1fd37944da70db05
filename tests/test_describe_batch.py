"""Several photos at once: each is described as if alone, sounds come in turn, and who leaves costs nothing more."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch", reason="the tiny bundle is made with torch (the train extra)")

import pixvoice
import tiny
from pixvoice.errors import OptionError
from pixvoice.patterns import delay, parallel
from pixvoice.runtime.decoding import DecodingOptions, generate
from pixvoice.runtime.describer import Describer
from pixvoice.runtime.streaming import generate_streams
from test_decoding import FakeDecoder

FEATURES = np.arange(4, dtype=np.float32)[:, None, None] * np.ones((4, 2, 3), np.float32)
EVERY_STRATEGY: list[dict[str, Any]] = [{"strategy": "greedy"}, {"strategy": "beam"}, {"strategy": "sample", "seed": 1}]


@pytest.fixture(scope="module", params=["fp32", "int8"])
def describer(request: pytest.FixtureRequest) -> Describer:
    return pixvoice.load(tiny.bundle(dtype=request.param))


@pytest.fixture(scope="module")
def photos() -> list[Image.Image]:
    noise = np.random.default_rng(0).integers(0, 256, (5, 40, 60, 3), dtype=np.uint8)
    return [Image.fromarray(one) for one in noise]


@pytest.mark.parametrize("pattern", [parallel(3), delay(3)], ids=["parallel", "delay"])
def test_frames_of_several_photos_are_those_of_each_alone(pattern: Any) -> None:
    options = DecodingOptions(max_frames=12)
    found: dict[int, list[np.ndarray]] = {photo: [] for photo in range(4)}
    ended = []
    for photo, frame in generate_streams(FakeDecoder(ending=1.5), FEATURES, pattern, options):
        assert photo not in ended
        if frame is None:
            ended.append(photo)
        else:
            found[photo].append(frame)
    assert sorted(ended) == [0, 1, 2, 3]
    for photo, frames in found.items():
        alone = generate(FakeDecoder(ending=1.5), FEATURES[photo][None], pattern, options).codes
        np.testing.assert_array_equal(np.concatenate(frames, axis=1), alone)


def test_a_photo_that_has_ended_takes_part_in_no_further_step() -> None:
    decoder = FakeDecoder(ending=1.5)
    ends = [generate(FakeDecoder(ending=1.5), one[None], parallel(3), DecodingOptions()).steps for one in FEATURES]
    list(generate_streams(decoder, FEATURES, parallel(3), DecodingOptions()))
    assert len(set(ends)) > 1
    assert [len(tokens) for tokens in decoder.inputs] == [sum(end > step for end in ends) for step in range(max(ends))]


def test_a_photo_that_is_not_wanted_leaves_the_batch() -> None:
    decoder, options = FakeDecoder(ending=-9.0), DecodingOptions(max_frames=10)
    wanted = {0, 1, 2, 3}
    seen = []
    for photo, _ in generate_streams(decoder, FEATURES, parallel(3), options, wanted=wanted.__contains__):
        seen.append(photo)
        if seen.count(3) == 2:
            wanted &= {1}
    assert [len(tokens) for tokens in decoder.inputs] == [4, 4, 4, *[1] * 7]  # it is asked after each step
    assert seen == [0, 1, 2, 3, 0, 1, 2, 3, *[1] * 9]  # the last says that it has ended


def test_when_no_photo_is_wanted_the_work_stops() -> None:
    decoder = FakeDecoder(ending=-9.0)
    assert list(generate_streams(decoder, FEATURES, delay(3), DecodingOptions(), wanted=lambda photo: False)) == []
    assert len(decoder.inputs) == 1


@pytest.mark.parametrize("options", EVERY_STRATEGY, ids=lambda options: options["strategy"])
def test_a_batch_says_what_each_photo_says_alone(
    describer: Describer, photos: list[Image.Image], options: dict[str, Any]
) -> None:
    """Also in int8, where the decoder itself would let the words of one photo hang on the others."""
    together = describer.describe_batch(photos, max_frames=20, **options)
    for photo, description in zip(photos, together, strict=True):
        alone = describer.describe(photo, max_frames=20, **options)
        np.testing.assert_array_equal(description.codes, alone.codes)
        np.testing.assert_array_equal(description.audio, alone.audio)
        assert description.log_prob == pytest.approx(alone.log_prob, abs=1e-4)


def test_streams_that_start_together_say_what_each_says_alone(describer: Describer, photos: list[Image.Image]) -> None:
    pieces: dict[int, list[np.ndarray]] = {photo: [] for photo in range(5)}
    ended = []
    for photo, piece in describer.stream_batch(photos, strategy="greedy", max_frames=20):
        assert photo not in ended
        if piece is None:
            ended.append(photo)
        else:
            pieces[photo].append(piece)
    assert sorted(ended) == list(range(5))
    for photo, image in enumerate(photos):
        alone = list(describer.stream(image, strategy="greedy", max_frames=20))
        assert [len(piece) for piece in pieces[photo]] == [len(piece) for piece in alone]
        np.testing.assert_allclose(np.concatenate(pieces[photo]), np.concatenate(alone), atol=1e-5)


def test_only_a_decoder_of_independent_rows_is_given_batches() -> None:
    exact, mixing = pixvoice.load(tiny.bundle()), pixvoice.load(tiny.bundle(dtype="int8"))
    assert exact.together(strategy="greedy") and not mixing.together(strategy="greedy")
    assert not exact.together(strategy="beam") and not exact.together(strategy="sample")
    with pytest.raises(OptionError, match="length"):
        exact.together("huge")


def test_no_photos_are_no_descriptions(describer: Describer) -> None:
    assert describer.describe_batch([], strategy="greedy") == []
    assert list(describer.stream_batch([], strategy="greedy")) == []


@pytest.mark.parametrize("strategy", ["greedy", "beam"])
def test_what_is_raised_at_a_step_ends_the_work(describer: Describer, photos: list[Image.Image], strategy: str) -> None:
    class Enough(Exception):
        pass

    steps = []

    def third() -> None:
        steps.append(len(steps))
        if len(steps) == 3:
            raise Enough

    with pytest.raises(Enough):
        describer.describe_batch(photos, strategy=strategy, on_step=third)
    assert len(steps) == 3
