"""Ranks and recall of search, both ways, without ever holding the whole matrix of similarities.

Speech -> photo: each recording is a query against all photos; it has one right photo.  Photo -> speech: each photo is a
query against all recordings; the best of its own counts (on Flickr8k it has five).  So Harwath and Glass, FaST-VGS and
SpeechCLIP count.

Letters: Q recordings, N photos, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pixvoice.contracts import Floats

Ranks = npt.NDArray[np.int64]

TIE = 1e-6  # similarities nearer than this are equal: the rounding of float32 must not break a tie
_CHUNK = 1 << 24  # similarities held at once (64 MB)


CUTOFFS = (1, 5, 10)


@dataclass(frozen=True)
class Ranked:
    """The ranks (Q,) of queries, and the number of the photo that each is about (Q,)."""

    ranks: Ranks
    photos: Ranks


@dataclass(frozen=True)
class RecallScores:
    """Percent of queries with a right answer among the first 1, 5 and 10, and the median rank (1 is best)."""

    r_at_1: float
    r_at_5: float
    r_at_10: float
    median_rank: float

    @classmethod
    def of(cls, ranks: Ranks) -> RecallScores:
        """Ranks (Q,), at least one, from 1 -> scores."""
        at_1, at_5, at_10 = (100.0 * float(np.mean(ranks <= k)) for k in CUTOFFS)
        return cls(at_1, at_5, at_10, float(np.median(ranks)))

    def as_dict(self) -> dict[str, float]:
        """The scores by name, two digits."""
        return {key: round(value, 2) for key, value in vars(self).items()}


def speech_to_photo_ranks(speech: Floats, photos: Floats, owner: Ranks) -> Ranks:
    """Embeddings of speech (Q, D) and photos (N, D), and the photo of each recording, ``owner`` (Q,) -> ranks (Q,).

    The rank of the right photo is 1 plus the number of others that are as near or nearer: a tie counts against the
    model, and so does a similarity that isn't a number.
    """
    ranks = np.empty(len(speech), np.int64)
    for rows in _chunks(len(speech), len(photos)):
        similar = speech[rows] @ photos.T
        right = similar[np.arange(len(similar)), owner[rows]]
        ranks[rows] = _ahead(similar, right).sum(axis=1)  # the right one itself is counted: this is the 1
    return ranks


def photo_to_speech_ranks(speech: Floats, photos: Floats, owner: Ranks) -> Ranks:
    """As ``speech_to_photo_ranks``, for each photo that has a recording, in the order of the photos -> ranks (N',).

    The rank of the best of its own recordings is 1 plus the number of others' that are as near or nearer.
    """
    asked = np.unique(owner)
    ranks = np.empty(len(asked), np.int64)
    for rows in _chunks(len(asked), len(speech)):
        similar = photos[asked[rows]] @ speech.T
        own = owner[None, :] == asked[rows, None]
        best = np.where(own, similar, -np.inf).max(axis=1)
        ranks[rows] = 1 + (_ahead(similar, best) & ~own).sum(axis=1)
    return ranks


def _ahead(similar: Floats, right: Floats) -> npt.NDArray[np.bool_]:
    """Which of ``similar`` (R, C) are as near as ``right`` (R,) or nearer; NaN on either side counts as nearer."""
    return np.asarray(~(similar < right[:, None] - np.float32(TIE)))


def _chunks(rows: int, columns: int) -> list[slice]:
    step = max(1, _CHUNK // max(1, columns))
    return [slice(start, start + step) for start in range(0, rows, step)]
