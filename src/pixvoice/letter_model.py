"""How captions are spelled: a character n-gram language model, which helps a recognizer's letters become words.

Source: Witten and Bell 1991, "The zero-frequency problem" (smoothing: a context with many different followers trusts
the shorter context more).

Letters: V letters, N letters in an n-gram, C contexts, M n-grams.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from pixvoice.contracts import Floats
from pixvoice.errors import BundleError, OptionError

LONGEST = 12  # N; up to it, a context in a script of 50 letters is a number of 63 bits
RARE_ABOVE, RARE = 4, 2  # contexts of more letters than that, seen fewer times than that, are forgotten
CACHED = 20_000  # contexts
FILE = "letters.safetensors"


class LetterModel:
    """p(letter | the letters before it), of which the last N - 1 count.  A text begins and ends with a space.

    ``arrays`` are ``order`` (1,); the sorted numbers of ``contexts`` (C,); how many ``followers`` each has (C,); and of
    all followers, one context after the other, which of the ``letters`` they are (M,) and their ``counts`` (M,).
    """

    def __init__(self, letters: str, arrays: dict[str, Any]) -> None:
        self.letters, self.arrays, self.order = letters, arrays, int(arrays["order"][0])
        self._ends = np.concatenate([[0], np.cumsum(arrays["followers"], dtype=np.int64)])
        self._cached = lru_cache(CACHED)(self._probabilities)
        self._cached_logs = lru_cache(CACHED)(lambda context: np.log(self._cached(context)).tolist())

    @classmethod
    def learn(cls, texts: Iterable[str], letters: str, order: int) -> LetterModel:
        """The model of ``texts`` in ``letters``, a space among them.

        Raises OptionError for an ``order`` that isn't 1 to LONGEST, or for no text at all.
        """
        if not 1 <= order <= LONGEST:
            raise OptionError(f"letter n-grams of {order}: give 1 to {LONGEST}")
        seen: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for text in texts:
            spaced = f" {' '.join(text.split())} "
            for place in range(1, len(spaced)):
                for start in range(max(0, place - order + 1), place + 1):
                    seen[spaced[start:place]][spaced[place]] += 1
        if not seen:
            raise OptionError("no text to learn spelling from: give manifests with texts")
        kept = {c: f for c, f in seen.items() if len(c) <= RARE_ABOVE or f.total() >= RARE}
        contexts = sorted(kept, key=lambda context: _number(context, letters))
        pairs = [(letters.index(letter), count) for c in contexts for letter, count in sorted(kept[c].items())]
        arrays = {
            "order": np.array([order], np.int64),
            "contexts": np.array([_number(context, letters) for context in contexts], np.int64),
            "followers": np.array([len(kept[context]) for context in contexts], np.uint8),
            "letters": np.array([letter for letter, _ in pairs], np.uint8),
            "counts": np.array([count for _, count in pairs], np.uint32),
        }
        return cls(letters, arrays)

    def log_probs(self, context: str) -> list[float]:
        """The log-probability (V,) of each letter after ``context``, of at most N - 1 letters."""
        found: list[float] = self._cached_logs(context)
        return found

    def _probabilities(self, context: str) -> Floats:
        size = len(self.letters)
        shorter = self._cached(context[1:]) if context else np.full(size, 1.0 / size)
        number = _number(context, self.letters)
        place = int(np.searchsorted(self.arrays["contexts"], number))
        if place == len(self.arrays["contexts"]) or self.arrays["contexts"][place] != number:
            return shorter
        own = slice(self._ends[place], self._ends[place + 1])
        counts = self.arrays["counts"][own].astype(np.float64)
        found: Floats = shorter * len(counts)
        found[self.arrays["letters"][own]] += counts
        found /= counts.sum() + len(counts)
        return found

    def save(self) -> bytes:
        """The model's arrays as a safetensors file; the letters are the recognizer's."""
        return save(self.arrays)

    @classmethod
    def load(cls, data: bytes, letters: str, source: object) -> LetterModel:
        """What ``save`` gave, read from ``source``.  Raises BundleError for anything else, or for other letters."""
        try:
            arrays = load(data)
            if int(arrays["letters"].max()) >= len(letters) or len(arrays["counts"]) != arrays["followers"].sum():
                raise ValueError("it is of other letters")
            return cls(letters, arrays)
        except (SafetensorError, KeyError, ValueError) as error:
            raise BundleError(f"{source}: no letter model that can be read ({error}); make it again") from None


def _number(context: str, letters: str) -> int:
    """A context as a number in base V + 1; 0 is the empty one."""
    number = 0
    for letter in context:
        number = number * (len(letters) + 1) + letters.index(letter) + 1
    return number
