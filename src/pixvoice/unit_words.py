"""Word-like segments: spans of speech that sound alike are one token, whichever units each of them came out as.

The same word comes out as other units every time, and byte pairs keep all of its variants apart.  Here each span
between two changes of unit has one shape, however long it lasts; the shapes are clustered; and a recording is cut where
the distances of its spans from their clusters, and a price for each span, sum to least.  Clustering and cutting take
turns.  A token is spoken as the units of the span that lies nearest to the middle of its cluster.

Sources: Kamper et al. 2017, "An embedded segmental K-means model for unsupervised segmentation and clustering of
speech" (arXiv 1703.08135); Kamper 2022 (a price for each segment, arXiv 2202.11929).

Letters: F frames, D their width, E width once reduced, P points of a span, S spans, W words, T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from pixvoice.contracts import Codes, Floats
from pixvoice.errors import BundleError, InputError

POINTS = 4  # a span's shape is its frames at so many places, evenly apart
WIDTH = 24  # principal components of a frame
LONGEST_UNITS = 8
LONGEST_FRAMES = 18  # 0.72 s of 25 frames a second
TOGETHER = 20_000  # spans that are compared with the words at once
FIRST_ROUNDS = 4  # of k-means on the first cut
ROUNDS = 5  # of clustering and cutting

NOTHING = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Spans:
    """All spans of one recording that can be a token: their first frames and ends (S,), in frames.

    They are sorted by their ends; ``before`` and ``after`` (S,) number the changes of unit that they lie between.
    """

    begins: Codes
    ends: Codes
    before: Codes
    after: Codes

    @classmethod
    def of(cls, units: Codes) -> Spans:
        """The spans of the unit of each frame (F,)."""
        changes = np.flatnonzero(np.diff(units, prepend=-1, append=-1))
        pairs = [
            (before, after)
            for after in range(1, len(changes))
            for before in range(max(0, after - LONGEST_UNITS), after)
            if after - before == 1 or changes[after] - changes[before] <= LONGEST_FRAMES
        ]
        before, after = np.array(pairs, np.int64).reshape(-1, 2).T
        return cls(changes[before], changes[after], before, after)

    @property
    def lengths(self) -> Codes:
        """Frames of each (S,)."""
        return self.ends - self.begins

    def shapes(self, frames: Floats) -> Floats:
        """Frames (F, E) -> the shape of each span (S, P * E): its frames at P places, between two where need be."""
        places = self.begins[:, None] + (np.arange(POINTS) + 0.5) / POINTS * self.lengths[:, None] - 0.5
        places = np.clip(places, self.begins[:, None], self.ends[:, None] - 1)
        left = places.astype(np.int64)
        right = np.minimum(left + 1, self.ends[:, None] - 1)
        share = (places - left)[..., None].astype(np.float32)
        found = frames[left] * (1 - share) + frames[right] * share
        shapes: Floats = (found / np.sqrt(POINTS)).reshape(len(left), POINTS * frames.shape[1]).astype(np.float32)
        return shapes

    def cheapest(self, costs: Floats) -> Codes:
        """The numbers of the spans that together are the recording, and whose ``costs`` (S,) sum to least."""
        if not len(costs):
            return NOTHING
        last = int(self.after[-1])
        least, chosen = np.full(last + 1, np.inf), np.zeros(last + 1, np.int64)
        least[0] = 0.0
        for span, (before, after) in enumerate(zip(self.before, self.after, strict=True)):
            if (cost := least[before] + costs[span]) < least[after]:
                least[after], chosen[after] = cost, span
        cut = []
        while last:
            cut.append(int(chosen[last]))
            last = int(self.before[cut[-1]])
        return np.array(cut[::-1])


class UnitWords:
    """W words of units: how spans of speech become tokens, and tokens units."""

    def __init__(self, mean: Floats, basis: Floats, middles: Floats, spoken: Sequence[Codes], price: float) -> None:
        """``mean`` (D,) and ``basis`` (D, E) of frames, ``middles`` (W, P * E) of the words' spans.

        ``spoken``: the unit of each frame of every word.  ``price``: of a span, in squared distance times frames.
        """
        self.mean, self.basis, self.middles, self.spoken, self.price = mean, basis, middles, list(spoken), price

    @classmethod
    def learn(
        cls,
        frames: Sequence[Floats],
        units: Sequence[Codes],
        first: Sequence[Codes],
        words: int,
        price: float,
        seed: int,
        rounds: Callable[[], Iterable[int]] = lambda: range(ROUNDS),
    ) -> UnitWords:
        """``words`` words of recordings: frames (F, D) and their units (F,) of each.

        ``first``: how each recording is cut to begin with, as the units that each token has (T,).

        Raises InputError if there are fewer tokens than words.
        """
        of_each = [Spans.of(one) for one in units]
        mean, basis = _principal(np.concatenate(frames))
        shapes = np.concatenate(
            [
                spans.shapes(_reduced(one, mean, basis)).astype(np.float16)
                for spans, one in zip(of_each, frames, strict=True)
            ]
        )
        lengths = np.concatenate([spans.lengths for spans in of_each])
        starts = np.cumsum([0, *(len(spans.begins) for spans in of_each)])
        cut = np.concatenate([start + _given(s, n) for s, n, start in zip(of_each, first, starts[:-1], strict=True)])
        if len(cut) < words:
            raise InputError(f"{len(cut)} spans of speech are too few for {words} words: give more recordings")
        rng = np.random.default_rng(seed)
        middles = shapes[rng.choice(cut, words, replace=False)].astype(np.float32)
        for _ in range(FIRST_ROUNDS):
            owners, distances = _nearest(shapes[cut], middles)
            middles = _moved(shapes[cut], owners, lengths[cut], middles, rng)
        for turn in rounds():
            if turn:
                middles = _moved(shapes[cut], owners[cut], lengths[cut], middles, rng)
            owners, distances = _nearest(shapes, middles)
            costs = lengths * distances + price
            pieces = zip(of_each, starts[:-1], starts[1:], strict=True)
            cut = np.concatenate([start + spans.cheapest(costs[start:end]) for spans, start, end in pieces])
        typical = _typical(shapes, cut, owners, distances, middles)
        spoken = []
        for span, recording in zip(typical, np.searchsorted(starts, typical, side="right") - 1, strict=True):
            spans, number = of_each[recording], span - starts[recording]
            spoken.append(units[recording][spans.begins[number] : spans.ends[number]])
        return cls(mean, basis, middles, spoken, price)

    @property
    def size(self) -> int:
        """W."""
        return len(self.middles)

    def fits(self, units: int, width: int) -> bool:
        """Whether they are words of so many units, of frames so wide."""
        return len(self.mean) == width and max(int(one.max()) for one in self.spoken) < units

    def cut(self, frames: Floats, units: Codes) -> tuple[Codes, Codes]:
        """Frames (F, D) and their units (F,) -> tokens (T,), and the frames that each lasts (T,)."""
        spans = Spans.of(units)
        words, distances = _nearest(spans.shapes(_reduced(frames, self.mean, self.basis)), self.middles)
        cut = spans.cheapest(spans.lengths * distances + self.price)
        return words[cut], spans.lengths[cut]

    def decode(self, tokens: Codes) -> Codes:
        """Tokens (T,) -> the unit of each frame (F,)."""
        return np.concatenate([NOTHING, *(self.spoken[token] for token in tokens)])

    def stretched(self, tokens: Codes, lengths: Codes) -> Codes:
        """Tokens (T,), each to last so many frames (T,) -> the unit of each frame (F,)."""
        spoken = [self.spoken[token] for token in tokens]
        places = [((np.arange(n) + 0.5) * len(one) / n).astype(int) for one, n in zip(spoken, lengths, strict=True)]
        return np.concatenate([NOTHING, *(one[place] for one, place in zip(spoken, places, strict=True))])

    def save(self) -> bytes:
        """The words as a safetensors file."""
        return save(
            {
                "mean": self.mean.astype(np.float32),
                "basis": self.basis,
                "middles": self.middles,
                "spoken": np.concatenate(self.spoken).astype(np.int32),
                "lengths": np.array([len(one) for one in self.spoken], np.int32),
                "price": np.array([self.price], np.float32),
            }
        )

    @classmethod
    def read(cls, data: bytes, source: object) -> UnitWords:
        """What ``save`` gave, read from ``source``.  Raises BundleError for anything else."""
        try:
            a = load(data)
            spoken = np.split(a["spoken"].astype(np.int64), np.cumsum(a["lengths"])[:-1])
            wrong = len(spoken) != len(a["middles"]) or min(map(len, spoken)) == 0 or a["spoken"].min() < 0
            if wrong or a["basis"].shape != (*a["mean"].shape, a["middles"].shape[1] // POINTS):
                raise ValueError("its parts don't fit together")
            return cls(a["mean"], a["basis"], a["middles"], spoken, float(a["price"][0]))
        except (SafetensorError, KeyError, ValueError, IndexError) as error:
            raise BundleError(f"{source}: no words that can be read ({error}); train the units again") from None

    @classmethod
    def load(cls, path: Path) -> UnitWords:
        """What ``save`` gave, written to ``path``.  Raises BundleError for a file that isn't there or isn't one."""
        try:
            return cls.read(path.read_bytes(), path)
        except OSError:
            raise BundleError(f"{path} is not there: train the units with `words` above 0") from None


def _nearest(shapes: Floats, middles: Floats) -> tuple[Codes, Floats]:
    """The nearest of ``middles`` (W, C) to each of ``shapes`` (S, C), and its squared distance (S,)."""
    halves = 0.5 * np.square(middles).sum(axis=1)
    words, distances = np.zeros(len(shapes), np.int64), np.zeros(len(shapes), np.float32)
    for start in range(0, len(shapes), TOGETHER):
        some = shapes[start : start + TOGETHER].astype(np.float32)
        closeness = some @ middles.T - halves
        best = closeness.argmax(axis=1)
        words[start : start + TOGETHER] = best
        close = np.take_along_axis(closeness, best[:, None], axis=1)[:, 0]
        distances[start : start + TOGETHER] = np.square(some).sum(axis=1) - 2 * close
    return words, distances.clip(min=0)


def _principal(frames: Floats) -> tuple[Floats, Floats]:
    """The mean (D,) of frames (F, D), and their first principal components (D, E)."""
    mean = frames.mean(axis=0)
    _, vectors = np.linalg.eigh(np.cov((frames - mean).T))
    return mean, np.ascontiguousarray(vectors[:, ::-1][:, :WIDTH]).astype(np.float32)


def _reduced(frames: Floats, mean: Floats, basis: Floats) -> Floats:
    """Frames (F, D) in their principal components (F, E)."""
    reduced: Floats = ((frames - mean) @ basis).astype(np.float32)
    return reduced


def _given(spans: Spans, units: Codes) -> Codes:
    """The numbers of the spans that have so many ``units`` (T,) each; one that is too long for a span is left out."""
    numbers = {pair: n for n, pair in enumerate(zip(spans.before.tolist(), spans.after.tolist(), strict=True))}
    ends = np.cumsum([0, *units]).tolist()
    return np.array([numbers[pair] for pair in pairwise(ends) if pair in numbers], np.int64)


def _moved(shapes: Floats, owners: Codes, lengths: Codes, middles: Floats, rng: np.random.Generator) -> Floats:
    """The mean of the shapes (S, C) of each word, by frames; a word of none becomes one of the shapes."""
    order = np.argsort(owners, kind="stable")
    used, first = np.unique(owners[order], return_index=True)
    weighted = shapes[order].astype(np.float32) * lengths[order, None]
    moved = middles.copy()
    moved[used] = np.add.reduceat(weighted, first) / np.add.reduceat(lengths[order], first)[:, None]
    unused = np.setdiff1d(np.arange(len(middles)), used)
    moved[unused] = shapes[rng.choice(len(shapes), len(unused))]
    return moved


def _typical(shapes: Floats, cut: Codes, owners: Codes, distances: Floats, middles: Floats) -> Codes:
    """The span of the cut that lies nearest to the middle of each word (W,); of all spans, where none is the word's."""
    nearest_first = cut[np.argsort(distances[cut], kind="stable")]
    used, at = np.unique(owners[nearest_first], return_index=True)
    typical = np.empty(len(middles), np.int64)
    typical[used] = nearest_first[at]
    for word in np.setdiff1d(np.arange(len(middles)), used):
        typical[word] = np.square(shapes.astype(np.float32) - middles[word]).sum(axis=1).argmin()
    return typical
