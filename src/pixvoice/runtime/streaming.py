"""Decoding as a stream: each frame of codes as soon as its last codebook is known, for one photo or for several."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from pixvoice.contracts import Codes, Floats, SpeechDecoder
from pixvoice.patterns import Pattern
from pixvoice.runtime.decoding import DecodingOptions, Doubles, EachAlone, Rows, Rules, generate, steps


class Together(EachAlone):
    """Greedy and sampling for streams: a photo's row leaves when it is complete, or no longer ``wanted``."""

    def __init__(self, rules: Rules, count: int, wanted: Callable[[int], bool]) -> None:
        super().__init__(rules)
        self.photos, self.wanted = list(range(count)), wanted
        self.news: list[tuple[int, Codes | None]] = []  # of the last step: a photo's frame, or None for its end

    def choose(self, log_probs: Doubles, rows: Rows, step: int) -> tuple[npt.NDArray[np.int64] | None, Rows]:
        """Extend the rows, note what became certain, and keep the rows that go on."""
        _, rows = super().choose(log_probs, rows, step)
        pattern, complete, self.news = self.rules.pattern, self.rules.complete(rows), []
        frame, going_on = step - pattern.max_delay, []
        for row, photo in enumerate(self.photos):
            if not self.wanted(photo):
                continue
            if 0 <= frame < rows.ends[row]:
                self.news.append((photo, pattern.undo(rows.tokens[row, :, frame:])))
            if complete[row]:
                self.news.append((photo, None))
            else:
                going_on.append(row)
        self.photos = [self.photos[row] for row in going_on]
        if not going_on:
            self.result = rows
        everyone = len(going_on) == len(rows.ends)
        kept = np.array(going_on, np.int64)
        return (None, rows) if everyone else (kept, rows.pick(kept))


def can_stream(options: DecodingOptions) -> bool:
    """Whether frames are certain before the utterance is: greedy, or a single sample."""
    return options.strategy == "greedy" or (options.strategy == "sample" and options.candidates == 1)


def generate_stream(
    decoder: SpeechDecoder, features: Floats, pattern: Pattern, options: DecodingOptions, prompt: Codes | None = None
) -> Iterator[Codes]:
    """Image features (1, P, D) -> frames of codes (K, 1), each as soon as its last codebook is known.

    Joined, they are the codes of ``generate``.  Where options have several candidates or beams, nothing is certain
    before the end, and all frames come at once.
    """
    for _, frame in generate_streams(decoder, features, pattern, options, prompt):
        if frame is not None:
            yield frame


def generate_streams(
    decoder: SpeechDecoder,
    features: Floats,
    pattern: Pattern,
    options: DecodingOptions,
    prompt: Codes | None = None,
    wanted: Callable[[int], bool] = lambda photo: True,
) -> Iterator[tuple[int, Codes | None]]:
    """Image features (B, P, D) -> for each photo 0..B-1 the frames of ``generate_stream``, and None after its last.

    The photos' frames come in turn, in one batch that a photo leaves at its end, or once it is no longer ``wanted``,
    which is asked at every step; nothing more comes for it then.  With several candidates or beams, photo after photo.
    """
    if can_stream(options):
        search = Together(Rules(decoder, pattern, options, prompt), len(features), wanted)
        for _ in steps(decoder, features, 1, search):
            yield from search.news
        return
    for photo, one in enumerate(features):
        if wanted(photo):
            codes = generate(decoder, one[None], pattern, options, prompt).codes
            yield from ((photo, frame) for frame in np.split(codes, codes.shape[1], axis=1))
            yield photo, None
