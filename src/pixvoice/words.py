"""Words as bags of letter n-grams, so that a misspelt word is still near the right one; shared by torch and ONNX forms.

Source: Bojanowski et al. 2017, "Enriching word vectors with subword information".
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from zlib import crc32

import numpy as np

from pixvoice.contracts import Codes

SHORTEST, LONGEST = 3, 5  # letters of an n-gram, the marks of the word's ends among them


@lru_cache(maxsize=100_000)
def ngrams(word: str, buckets: int) -> tuple[int, ...]:
    """The buckets (each under ``buckets``) of a word's n-grams and of the whole word, by CRC-32 of their UTF-8."""
    marked = f"<{word}>"
    grams = {marked[i : i + n] for n in range(SHORTEST, LONGEST + 1) for i in range(len(marked) - n + 1)} | {marked}
    return tuple(sorted(crc32(gram.encode()) % buckets for gram in grams))


def table(texts: Sequence[str], buckets: int) -> tuple[Codes, Codes]:
    """Texts (B of them) -> n-grams (B, N, G) padded with ``buckets``, and how many words each text has, (B,).

    A text ends with an empty word, so that none is without words.
    """
    rows = [[ngrams(word, buckets) for word in (*text.lower().split(), "")] for text in texts]
    words, most = max(map(len, rows)), max(len(grams) for row in rows for grams in row)
    ids = np.full((len(rows), words, most), buckets, dtype=np.int64)
    for row, grams_of in zip(ids, rows, strict=True):
        for place, grams in zip(row, grams_of, strict=False):
            place[: len(grams)] = grams
    return ids, np.array([len(row) for row in rows], dtype=np.int64)
