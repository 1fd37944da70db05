"""A recording heard at several speeds: who speaks fast or high is often understood better slower, which is lower too.

After vocal tract length normalisation (Lee and Rose 1996, "Speaker normalization using efficient frequency warping
procedures"), which keeps the likeliest of several warps; here all of them count, each as much as its text is likely.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import soxr

from pixvoice.contracts import Audio, Floats
from pixvoice.errors import OptionError

SLOWEST, FASTEST = 0.5, 2.0
TEMPERATURE = 8.0  # of the texts' log-probabilities


def check_speeds(speeds: Sequence[float]) -> None:
    """Raise OptionError for no speed, or one that nobody speaks at."""
    if not speeds or not all(SLOWEST <= speed <= FASTEST for speed in speeds):
        raise OptionError(f"speeds {list(speeds)}: give one or more, each {SLOWEST:g} to {FASTEST:g}")


def at_speed(clip: Audio, speed: float) -> Audio:
    """A clip (L,) -> the same said ``speed`` times as fast, and as high, (L / speed,)."""
    return clip if speed == 1 else soxr.resample(clip, speed, 1.0).astype(np.float32)


def merge(embeddings: Floats, scores: Sequence[float]) -> Floats:
    """What was heard at S speeds, embeddings (S, D) of length 1, and the log-probability of each text -> one (D,)."""
    likely = np.exp((np.array(scores) - max(scores)) / TEMPERATURE)
    mean = likely @ embeddings
    merged: Floats = (mean / np.linalg.norm(mean)).astype(np.float32)
    return merged
