"""Byte pairs over units: the pair that stands side by side most often becomes a unit of its own, again and again.

A description is then fewer steps long, each a choice among more.  Nothing is lost: every pair is units again.

Sources: Gage 1994, "A new algorithm for data compression"; Sennrich et al. 2016 (byte pairs for language models).

Letters: N units, M pairs, T steps.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, trainers

from pixvoice.contracts import Audio, Codes
from pixvoice.errors import BundleError, OptionError
from pixvoice.files import write_bytes_atomically
from pixvoice.speech.units import JoinedUnits, UnitTokenizer

FIRST = 0x4E00  # units are written as letters of one script without case, spaces or marks


def _letters(units: Iterable[int]) -> str:
    return "".join(chr(FIRST + int(unit)) for unit in units)


class UnitPairs:
    """Units 0 to N - 1, and pairs from N on: ``merges`` are texts of a letter a unit, in the order of their making."""

    def __init__(self, units: int, merges: Sequence[tuple[str, str]]) -> None:
        names = dict.fromkeys([_letters([unit]) for unit in range(units)])
        names |= dict.fromkeys(left + right for left, right in merges)
        self.units, self.merges, self.names = units, list(merges), list(names)
        vocabulary = {name: number for number, name in enumerate(self.names)}
        self._writer = Tokenizer(models.BPE(vocab=vocabulary, merges=self.merges))
        self._spoken = [np.array([ord(letter) - FIRST for letter in name], np.int64) for name in self.names]

    @classmethod
    def learn(cls, sequences: Iterable[Codes], units: int, pairs: int) -> UnitPairs:
        """At most ``pairs`` pairs, of those that stand in ``sequences`` (T,) twice at least."""
        writer = Tokenizer(models.BPE())
        alphabet = [_letters([unit]) for unit in range(units)]
        trainer = trainers.BpeTrainer(
            vocab_size=units + pairs, min_frequency=2, initial_alphabet=alphabet, special_tokens=[], show_progress=False
        )
        writer.train_from_iterator((_letters(sequence) for sequence in sequences), trainer)
        return cls(units, [(left, right) for left, right in json.loads(writer.to_str())["model"]["merges"]])

    @property
    def size(self) -> int:
        """N + M, the values that one step takes."""
        return len(self.names)

    def first(self, pairs: int) -> UnitPairs:
        """Only the first so many pairs.  Raises OptionError if there are fewer."""
        if pairs > self.size - self.units:
            raise OptionError(f"speech.unit_pairs: {pairs}, but {self.size - self.units} were learned; give fewer")
        kept, allowed = [], set(self.names[: self.units + pairs])
        for left, right in self.merges:
            if left + right not in allowed:
                break
            kept.append((left, right))
        return UnitPairs(self.units, kept)

    def encode(self, units: Codes) -> Codes:
        """Units (T,) -> units and pairs (T',), T' <= T."""
        return np.array(self._writer.encode(_letters(units)).ids, dtype=np.int64)

    def decode(self, steps: Codes) -> Codes:
        """Units and pairs (T',) -> units (T,), the inverse of ``encode``."""
        return np.concatenate([np.zeros(0, np.int64), *(self._spoken[step] for step in steps)])

    def lengths(self, steps: Codes) -> Codes:
        """How many units each of the steps (T',) is (T',)."""
        return np.array([len(self._spoken[step]) for step in steps], np.int64)

    def save(self, path: Path) -> None:
        """Write JSON: ``units``, and ``merges`` as two lists of units each.  Raises OutputError."""
        merges = [[[ord(letter) - FIRST for letter in side] for side in pair] for pair in self.merges]
        write_bytes_atomically(path, json.dumps({"units": self.units, "merges": merges}).encode())

    @classmethod
    def load(cls, path: Path) -> UnitPairs:
        """What ``save`` wrote.  Raises BundleError for a file that isn't there or isn't one."""
        try:
            saved = json.loads(path.read_bytes())
            merges = [(_letters(left), _letters(right)) for left, right in saved["merges"]]
            return cls(int(saved["units"]), merges)
        except OSError:
            raise BundleError(f"{path} is not there: train the units with `pairs` above 0 for byte pairs") from None
        except Exception as error:  # tokenizers raises nothing narrower
            raise BundleError(f"{path}: no byte pairs that can be read ({error}); train the units again") from None


class PairTokenizer(JoinedUnits):
    """Units with byte pairs as one codebook; everything else is the unit tokenizer's."""

    def __init__(self, speech: UnitTokenizer, pairs: UnitPairs) -> None:
        """Raises BundleError for pairs of other units."""
        if pairs.units != speech.codebook_size:
            raise BundleError(f"byte pairs of {pairs.units} units for {speech.codebook_size}: train the units again")
        super().__init__(speech)
        self.pairs = pairs

    @property
    def codebook_size(self) -> int:
        """V, units and pairs."""
        return self.pairs.size

    def encode(self, audio: Audio) -> Codes:
        """Audio (L,) -> units and pairs (1, T)."""
        return self.pairs.encode(self.speech.encode(audio)[0])[None]

    def units_of(self, tokens: Codes) -> Codes:
        """Units and pairs (T,) -> units (T',)."""
        return self.pairs.decode(tokens)
