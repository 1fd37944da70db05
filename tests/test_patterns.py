"""Codebook orders: what is applied can be undone, for any number of frames and codebooks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixvoice.errors import OptionError
from pixvoice.patterns import PATTERNS, Pattern, delay, make_pattern, parallel

SPECIAL = 1024
GRID = [(frames, codebooks) for frames in (0, 1, 16, 100) for codebooks in (1, 4, 8)]


def codes_of(codebooks: int, frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(SPECIAL, size=(codebooks, frames))


@pytest.mark.parametrize("name", PATTERNS)
@pytest.mark.parametrize(("frames", "codebooks"), GRID)
def test_undo_gives_back_what_was_applied(name: str, frames: int, codebooks: int) -> None:
    pattern, codes = make_pattern(name, codebooks), codes_of(codebooks, frames)
    sequence = pattern.apply(codes, SPECIAL)
    assert sequence.shape == (codebooks, pattern.steps(frames)) and sequence.dtype == np.int64
    np.testing.assert_array_equal(pattern.undo(sequence), codes)


@pytest.mark.parametrize(("frames", "codebooks"), GRID)
def test_steps_that_a_pattern_takes(frames: int, codebooks: int) -> None:
    assert parallel(codebooks).steps(frames) == frames
    assert delay(codebooks).steps(frames) == (frames + codebooks - 1 if frames else 0)


@given(st.lists(st.integers(0, 9), max_size=6), st.integers(0, 30), st.integers(0, 2**32 - 1))
def test_any_delays(later: list[int], frames: int, seed: int) -> None:
    pattern = Pattern((0, *later))
    codes = codes_of(pattern.num_codebooks, frames, seed)
    sequence = pattern.apply(codes, SPECIAL)
    for k, late in enumerate(pattern.delays):  # frame t of codebook k stands at step t + delay, gaps elsewhere
        np.testing.assert_array_equal(sequence[k, late : late + frames], codes[k])
        assert (np.delete(sequence[k], np.s_[late : late + frames]) == SPECIAL).all()
    np.testing.assert_array_equal(pattern.undo(sequence), codes)


def test_drawn_grids() -> None:
    assert parallel(3).draw(4) == "0 1 2 3\n0 1 2 3\n0 1 2 3"
    assert delay(3).draw(4) == "0 1 2 3 . .\n. 0 1 2 3 .\n. . 0 1 2 3"
    assert delay(2).draw(11).splitlines()[1] == " .  0  1  2  3  4  5  6  7  8  9 10"
    assert delay(2).draw(0) == "\n"


def test_a_sequence_too_short_for_a_frame_has_none() -> None:
    assert delay(4).undo(np.full((4, 2), SPECIAL)).shape == (4, 0)


@pytest.mark.parametrize("shape", [(3, 5), (5, 5), (4,), (1, 4, 5)])
def test_codes_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="4 codebooks"):
        delay(4).apply(np.zeros(shape, dtype=np.int64), SPECIAL)


@pytest.mark.parametrize("shape", [(3, 9), (5, 9), (4,)])
def test_sequences_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="4 codebooks"):
        delay(4).undo(np.zeros(shape, dtype=np.int64))


@pytest.mark.parametrize("delays", [(), (1, 0), (0, -1)])
def test_delays_that_make_no_pattern(delays: tuple[int, ...]) -> None:
    with pytest.raises(OptionError, match="begin with 0"):
        Pattern(delays)


def test_an_unknown_pattern_is_told_the_known() -> None:
    with pytest.raises(OptionError, match="'delayed': use one of parallel, delay"):
        make_pattern("delayed", 4)
