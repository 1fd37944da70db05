"""Units of whole segments: the cheapest of all ways to give each frame a unit."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pixvoice.segments import cheapest_units

tables = st.tuples(st.integers(1, 5), st.integers(1, 3)).flatmap(
    lambda shape: arrays(np.float32, shape, elements=st.floats(0, 10, width=32))
)


def price(units: Any, distances: Any, segment_cost: float) -> float:
    return float(distances[np.arange(len(units)), units].sum()) + segment_cost * int((np.diff(units) != 0).sum())


@given(tables, st.floats(0, 12))
def test_no_other_units_are_cheaper(distances: Any, segment_cost: float) -> None:
    frames, count = distances.shape
    every_way = itertools.product(range(count), repeat=frames)
    best = min(price(np.array(way), distances, segment_cost) for way in every_way)
    assert np.isclose(price(cheapest_units(distances, segment_cost), distances, segment_cost), best, atol=1e-4)


@given(tables)
def test_without_a_price_each_frame_has_its_nearest(distances: Any) -> None:
    assert np.array_equal(cheapest_units(distances, 0.0), distances.argmin(axis=1))


def test_one_odd_frame_joins_its_neighbours() -> None:
    distances = np.array([[0, 4], [0, 4], [3, 0], [0, 4], [0, 4]], np.float32)
    assert cheapest_units(distances, 1.0).tolist() == [0, 0, 1, 0, 0]
    assert cheapest_units(distances, 2.0).tolist() == [0, 0, 0, 0, 0]


def test_no_frames_have_no_units() -> None:
    assert cheapest_units(np.zeros((0, 4), np.float32), 1.0).shape == (0,)
