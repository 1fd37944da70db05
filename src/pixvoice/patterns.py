"""Codebook order as a value: how K parallel codebooks are laid out over the steps of a language model.

A pattern delays codebook k by ``delays[k]`` steps.  With K = 3 and T = 4, ``parallel`` and ``delay`` are (``.`` is the
special token, digits are frames):

    parallel   0 1 2 3        delay   0 1 2 3 . .
               0 1 2 3                . 0 1 2 3 .
               0 1 2 3                . . 0 1 2 3

Source: Copet et al. 2023, "Simple and Controllable Music Generation"; used for photos by Tran and Sakti (PixVoxLM).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from pixvoice.contracts import Codes
from pixvoice.errors import OptionError


@dataclass(frozen=True)
class Pattern:
    """The delay of each codebook, in steps."""

    delays: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.delays or min(self.delays) != 0 or self.delays[0] != 0:
            raise OptionError(f"pattern delays must be at least 0 and begin with 0, not {self.delays}")

    @property
    def num_codebooks(self) -> int:
        """K."""
        return len(self.delays)

    @property
    def max_delay(self) -> int:
        """Steps by which the last codebook trails the first."""
        return max(self.delays)

    def steps(self, frames: int) -> int:
        """S, the steps that T ``frames`` take; no frames take no steps."""
        return frames + self.max_delay if frames else 0

    def apply(self, codes: Codes, special: int) -> Codes:
        """Codes (K, T) -> sequence (K, S) with gaps filled by ``special``.  Raises ValueError for another shape."""
        self._check_shape(codes)
        frames = codes.shape[1]
        sequence = np.full((self.num_codebooks, self.steps(frames)), special, dtype=np.int64)
        for k, delay in enumerate(self.delays):
            sequence[k, delay : delay + frames] = codes[k]
        return sequence

    def undo(self, sequence: Codes) -> Codes:
        """Sequence (K, S) -> codes (K, T), the inverse of ``apply``; a sequence too short for a frame gives T = 0.

        Raises ValueError for another shape.
        """
        self._check_shape(sequence)
        frames = max(0, sequence.shape[1] - self.max_delay)
        return np.stack([sequence[k, delay : delay + frames] for k, delay in enumerate(self.delays)])

    def _check_shape(self, codes: Codes) -> None:
        if codes.ndim != 2 or codes.shape[0] != self.num_codebooks:
            raise ValueError(
                f"an array of shape {codes.shape} does not fit a pattern of {self.num_codebooks} codebooks"
            )

    def draw(self, frames: int) -> str:
        """The grid as text, one line a codebook: frame numbers, and ``.`` for the special token."""
        width = len(str(max(0, frames - 1)))
        grid = self.apply(np.tile(np.arange(frames, dtype=np.int64), (self.num_codebooks, 1)), special=-1)
        return "\n".join(" ".join(("." if t < 0 else str(t)).rjust(width) for t in row) for row in grid)


def parallel(num_codebooks: int) -> Pattern:
    """All codebooks of a frame at the same step."""
    return Pattern((0,) * num_codebooks)


def delay(num_codebooks: int) -> Pattern:
    """Codebook k one step after codebook k - 1."""
    return Pattern(tuple(range(num_codebooks)))


PATTERNS: dict[str, Callable[[int], Pattern]] = {"parallel": parallel, "delay": delay}


def make_pattern(name: str, num_codebooks: int) -> Pattern:
    """The pattern called ``name`` for K codebooks.  Raises OptionError for a name that isn't known."""
    if name not in PATTERNS:
        raise OptionError(f"unknown pattern {name!r}: use one of {', '.join(PATTERNS)}")
    return PATTERNS[name](num_codebooks)
