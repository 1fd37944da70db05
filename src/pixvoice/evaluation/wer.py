"""Word error rate on words alone: lower case, no punctuation."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pixvoice.errors import InputError, MissingToolError


def normalize_words(text: str) -> str:
    """Lower-case words with single spaces between them; hyphens part words, apostrophes stay inside them.

    >>> normalize_words('A tri-colored dog \u2019s "Ball" .')
    "a tri colored dog 's ball"
    """
    words = re.sub(r"[^\w']|_", " ", text.lower().replace("\u2019", "'")).split()
    return " ".join(word for word in words if word.strip("'"))


def word_error_rate(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Percent of the references' words that were changed, lost or added (over 100 when many were added).

    The errors of all clips are summed before the division (source: ``jiwer``).  A reference without words is left out,
    since nothing can be said of it.  Raises InputError when no reference has a word, MissingToolError without jiwer.
    """
    try:
        import jiwer
    except ImportError as error:
        raise MissingToolError("word error rates need jiwer: pip install 'pixvoice[evaluate]'") from error
    if len(hypotheses) != len(references):
        raise InputError(f"{len(hypotheses)} transcripts for {len(references)} texts: give one transcript a text")
    pairs = [
        (normalize_words(reference), normalize_words(text))
        for reference, text in zip(references, hypotheses, strict=True)
    ]
    pairs = [pair for pair in pairs if pair[0]]
    if not pairs:
        raise InputError("no text with words to compare the speech with: every sample needs a text in the manifest")
    spoken, heard = zip(*pairs, strict=True)
    return 100.0 * float(jiwer.wer(list(spoken), list(heard)))
