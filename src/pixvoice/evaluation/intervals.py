"""How far a score could be another with other photos: the bootstrap over photos, paired over systems.

A resample draws as many photos as there are, with replacement; the same draws serve every system, so that a difference
of two is as sure as it is, and not less.  Source: Efron 1979; Koehn 2004 (paired, for BLEU).

Letters: N photos, R resamples.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pixvoice.evaluation.captions import METRICS, CaptionStatistics, Doubles
from pixvoice.evaluation.retrieval import CUTOFFS, Ranked

RESAMPLES = 1000
LEVEL = 95.0  # percent
SEED = 0


@dataclass(frozen=True)
class Interval:
    """Where the middle ``LEVEL`` percent of the resamples lie."""

    low: float
    high: float

    @classmethod
    def of(cls, values: Doubles) -> Interval:
        """A score in each resample (R,) -> its interval."""
        low, high = np.percentile(values, [(100 - LEVEL) / 2, (100 + LEVEL) / 2])
        return cls(float(low), float(high))

    def as_list(self) -> list[float]:
        """Both ends, two digits."""
        return [round(self.low, 2), round(self.high, 2)]


def draws(photos: int, resamples: int = RESAMPLES, seed: int = SEED) -> Doubles:
    """How often each resample takes each photo (R, N); a row sums to N."""
    random = np.random.default_rng(seed)
    return random.multinomial(photos, np.full(photos, 1 / photos), size=resamples).astype(np.float64)


@dataclass(frozen=True)
class Resampled:
    """The scores (R, 7) of one system in each resample."""

    scores: Doubles

    @classmethod
    def of(cls, statistics: CaptionStatistics, rows: Sequence[int], counts: Doubles) -> Resampled:
        """``rows`` are the numbers of the system's photos among the N of ``counts`` (R, N).

        A photo that a system failed at is left out of its resamples, and of no other's.
        """
        return cls(statistics.scores(counts[:, list(rows)]))

    def intervals(self) -> dict[str, Interval]:
        """The interval of each metric."""
        return {metric: Interval.of(values) for metric, values in zip(METRICS, self.scores.T, strict=True)}

    def less(self, other: Resampled) -> dict[str, Interval]:
        """The interval of the difference to ``other``, metric by metric, resample by resample."""
        return Resampled(self.scores - other.scores).intervals()


def recall_intervals(ranked: Ranked, counts: Doubles) -> dict[str, Interval]:
    """The interval of recall at 1, 5 and 10, by the names of ``RecallScores``; a photo is drawn with all its queries.

    ``counts`` (R, N) are ``draws`` of the N photos that ``ranked`` numbers.
    """
    photos = counts.shape[1]
    asked = counts @ np.bincount(ranked.photos, minlength=photos)
    found = {k: counts @ np.bincount(ranked.photos, weights=ranked.ranks <= k, minlength=photos) for k in CUTOFFS}
    return {f"r_at_{k}": Interval.of(100 * hits / np.maximum(asked, 1)) for k, hits in found.items()}


def as_lists(intervals: Mapping[str, Interval]) -> dict[str, list[float]]:
    """Intervals for JSON."""
    return {name: interval.as_list() for name, interval in intervals.items()}
