"""CTC prefix beam search: a recognizer's letters and a letter model's spelling, weighed against each other.

Sources: Graves et al. 2006, "Connectionist temporal classification"; Hannun et al. 2014, "First-pass large vocabulary
continuous speech recognition using bi-directional recurrent DNNs" (arXiv 1408.2873).

Letters: T frames, V letters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from heapq import nlargest

import numpy as np

from pixvoice.contracts import Floats
from pixvoice.letter_model import LetterModel

BEAM = 16  # texts kept at each frame
WEIGHT, BONUS = 0.6, 0.9  # of a letter's log-probability in the letter model, and for each letter
UNLIKELY = -5.0
SURE = -1e-3  # log-probability of a blank above which no letter is tried
NEVER = -1e30

End = tuple[int, int]  # a text and the letter after it
Scores = tuple[float, float, float]  # of the paths that end in a blank, in the last letter, and of the spelling
UNSEEN: Scores = (NEVER, NEVER, 0.0)


def plus(a: float, b: float) -> float:
    """log(exp a + exp b)."""
    high, low = (a, b) if a > b else (b, a)
    return high if low <= NEVER else high + math.log1p(math.exp(low - high))


def log_softmax(logits: Floats) -> Floats:
    """Logits (..., V) -> log-probabilities (..., V)."""
    shifted: Floats = logits - logits.max(axis=-1, keepdims=True)
    found: Floats = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return found


class Texts:
    """Texts, each a number: the text without its last letter, that letter, and what the letter model looks at.

    Text 0 is empty; it counts as ending in a space, so that no text begins with one.
    """

    def __init__(self, model: LetterModel) -> None:
        self.model, self.space = model, model.letters.index(" ")
        self.ends: list[End] = [(0, self.space)]
        self.contexts = [" "[: model.order - 1]]
        self._numbers: dict[End, int] = {self.ends[0]: 0}

    def number(self, end: End) -> int:
        """The number of the text that is another text and a letter more."""
        found = self._numbers.setdefault(end, len(self.ends))
        if found == len(self.ends):
            text, letter = end
            context = self.contexts[text] + self.model.letters[letter]
            self.ends.append(end)
            self.contexts.append(context[max(0, len(context) - self.model.order + 1) :])
        return found

    def next_letters(self, text: int) -> list[float]:
        """Log-probabilities (V,) of the letter that comes after a text."""
        return self.model.log_probs(self.contexts[text])

    def written(self, text: int) -> str:
        """A text itself."""
        letters = []
        while text:
            text, letter = self.ends[text]
            letters.append(self.model.letters[letter])
        return "".join(reversed(letters)).strip()


def best_text(log_probs: Floats, model: LetterModel, beam: int = BEAM) -> tuple[str, float]:
    """Log-probabilities (T, V + 1), the blank last, of a frame's letters -> the likeliest text that the beam keeps.

    A run of spaces is one.  With the text comes its score, the log-probability by which it was weighed.
    """
    texts = Texts(model)
    kept: dict[int, Scores] = {0: (0.0, NEVER, 0.0)}
    for frame in log_probs.tolist():
        if frame[-1] > SURE:
            kept = {text: (plus(blank, letter) + frame[-1], NEVER, s) for text, (blank, letter, s) in kept.items()}
            continue
        found = _step(texts, kept, frame)
        best = nlargest(beam, [(plus(blank, letter) + s, end) for end, (blank, letter, s) in found.items()])
        kept = {texts.number(end): found[end] for _, end in best}
    ended = {text: plus(blank, letter) + s + _last_space(texts, text) for text, (blank, letter, s) in kept.items()}
    likeliest = max(ended, key=ended.__getitem__)
    return texts.written(likeliest), ended[likeliest]


def _last_space(texts: Texts, text: int) -> float:
    """What it costs a text to end here."""
    return 0.0 if texts.ends[text][1] == texts.space else WEIGHT * texts.next_letters(text)[texts.space]


def _step(texts: Texts, kept: dict[int, Scores], frame: Sequence[float]) -> dict[End, Scores]:
    """The texts one frame later, each as it was or one letter longer."""
    likely = [letter for letter, p in enumerate(frame[:-1]) if p > UNLIKELY]
    found: dict[End, Scores] = {}
    for text, (blank, letter, spelled) in kept.items():
        both, end = plus(blank, letter), texts.ends[text]
        last = end[1]
        again = (both if last == texts.space else letter) + frame[last]
        before = found.get(end, UNSEEN)
        found[end] = (plus(before[0], both + frame[-1]), plus(before[1], again), spelled)
        if not likely:
            continue
        spelling = texts.next_letters(text)
        for new in likely:
            if new == last == texts.space:
                continue
            path = (blank if new == last else both) + frame[new]
            before = found.get((text, new), UNSEEN)
            found[text, new] = (before[0], plus(before[1], path), spelled + WEIGHT * spelling[new] + BONUS)
    return found
