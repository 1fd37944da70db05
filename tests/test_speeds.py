"""A recording heard at several speeds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixvoice.errors import OptionError
from pixvoice.speeds import at_speed, check_speeds, merge

RATE = 16_000


@settings(deadline=None, max_examples=20)
@given(st.floats(0.5, 2.0), st.integers(200, 4_000))
def test_slower_is_longer_and_lower(speed: float, hertz: int) -> None:
    tone = np.sin(2 * np.pi * hertz * np.arange(RATE) / RATE).astype(np.float32)
    heard = at_speed(tone, speed)
    assert heard.dtype == np.float32 and len(heard) == pytest.approx(RATE / speed, abs=1)
    loudest = np.abs(np.fft.rfft(heard * np.hanning(len(heard)))).argmax() * RATE / len(heard)
    if hertz * speed < 0.45 * RATE:
        assert loudest == pytest.approx(hertz * speed, abs=3)


def test_as_it_was_said_and_nothing_at_all() -> None:
    clip = np.ones(10, np.float32)
    assert at_speed(clip, 1.0) is clip
    assert at_speed(clip[:0], 0.8).shape == (0,)


def test_the_likelier_text_weighs_more() -> None:
    rows = np.eye(3, dtype=np.float32)
    alike = merge(rows, [0.0, 0.0, 0.0])
    assert alike.dtype == np.float32 and alike == pytest.approx([1 / np.sqrt(3)] * 3)
    one = merge(rows, [-2000.0, -10.0, -3000.0])
    assert one == pytest.approx([0.0, 1.0, 0.0])
    first, second, third = merge(rows, [-20.0, -12.0, -40.0])
    assert second > first > third > 0 and second / first == pytest.approx(np.e)  # the scores' unit is 8 nats
    assert merge(rows[:1], [-5.0]) == pytest.approx(rows[0])


@pytest.mark.parametrize("speeds", [(), (1.0, 0.0), (-1.0,), (1.0, 3.0), (float("nan"),)])
def test_speeds_that_nobody_speaks_at(speeds: tuple[float, ...]) -> None:
    with pytest.raises(OptionError, match=r"give one or more, each 0\.5 to 2"):
        check_speeds(speeds)
