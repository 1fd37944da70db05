"""Speech as units, on ONNX Runtime: what a describer says whose tokens are units, or byte pairs or words of them.

Letters: N units, T tokens, F frames of units, R frames that the vocoder takes at once, L samples.
"""

from __future__ import annotations

import json
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from pixvoice.contracts import Audio, Codes, Floats
from pixvoice.errors import BundleError
from pixvoice.runtime.bundle import UNIT_DURATIONS, UNIT_ENCODER, UNIT_PAIRS, UNIT_VOCODER, UNIT_WORDS, Bundle
from pixvoice.runtime.sessions import OnnxSpeechTokenizer, OnnxTokenizer, Voice, run
from pixvoice.segments import cheapest_units
from pixvoice.unit_words import UnitWords

if TYPE_CHECKING:
    import onnxruntime as ort

NOTHING = np.zeros(0, np.int64)


class BytePairs:
    """Units 0 to N - 1, and from N on the pairs of ``merges``: two spans of units each, in the order of their making.

    Two merges that come to the same span are one token.
    """

    def __init__(self, units: int, merges: list[tuple[tuple[int, ...], tuple[int, ...]]]) -> None:
        spans = [*((unit,) for unit in range(units)), *(left + right for left, right in merges)]
        self.spans = list(dict.fromkeys(spans))
        self._units = [np.array(span, np.int64) for span in self.spans]
        self._order = {pair: place for place, pair in enumerate(merges)}
        self._numbers = {span: number for number, span in enumerate(self.spans)}

    @classmethod
    def read(cls, bundle: Bundle, units: int, size: int) -> BytePairs:
        """Those of a bundle, of so many ``units``, ``size`` tokens in all.  Raises BundleError if they aren't."""
        place = bundle.folder / UNIT_PAIRS
        try:
            saved = json.loads(bundle.read(UNIT_PAIRS))
            merges = [(tuple(map(int, left)), tuple(map(int, right))) for left, right in saved["merges"]]
            pairs = cls(units, merges)
            known = saved["units"] == units and all(0 <= unit < units for span in pairs.spans for unit in span)
        except (ValueError, TypeError, KeyError, OverflowError):
            raise BundleError(f"{place}: no byte pairs that can be read; export the bundle again") from None
        if not known or len(pairs.spans) != size:
            raise BundleError(f"{place}: other byte pairs than the describer's; export the bundle again")
        return pairs

    def encode(self, units: Codes) -> Codes:
        """Units (T,) -> units and pairs (T',): of the pairs that stand there the earliest made, again and again."""
        spans: list[tuple[int, ...]] = [(int(unit),) for unit in units]
        last = len(self._order)
        while len(spans) > 1:
            orders = [self._order.get(pair, last) for pair in pairwise(spans)]
            if (first := min(orders)) == last:
                break
            at = orders.index(first)
            spans[at : at + 2] = [spans[at] + spans[at + 1]]
        return np.array([self._numbers[span] for span in spans], np.int64)

    def decode(self, tokens: Codes) -> Codes:
        """Units and pairs (T',) -> units (T,), the inverse of ``encode``."""
        return np.concatenate([NOTHING, *(self._units[token] for token in tokens)])


class OnnxUnitTokenizer(OnnxTokenizer):
    """The units of an encoder and the vocoder that speaks them; the encoder is loaded when it is first needed."""

    def __init__(self, bundle: Bundle) -> None:
        assert bundle.info.units is not None  # why it was called
        self.sizes = s = bundle.info.units
        self._bundle, self._size = bundle, bundle.info.describer.codebook_size
        self.pairs = BytePairs.read(bundle, s.units, self._size) if UNIT_PAIRS in bundle.info.files else None
        self.words = _words(bundle) if UNIT_WORDS in bundle.info.files else None
        self._vocoder = bundle.session(UNIT_VOCODER, {"units": (None, s.together, None), "audio": (None, None)})
        shapes = {"units": (None, None), "durations": (None, None)}
        self._durations = None if s.reach is None else bundle.session(UNIT_DURATIONS, shapes)

    @cached_property
    def _encoder(self) -> ort.InferenceSession:
        shapes: dict[str, tuple[int | None, ...]] = {"audio": (None, None), "distances": (None, None, None)}
        if self.words is not None:
            shapes["frames"] = (None, None, len(self.words.mean))
        return self._bundle.session(UNIT_ENCODER, shapes)

    @property
    def sample_rate(self) -> int:
        """Audio samples a second (Hz)."""
        return self.sizes.sample_rate

    @property
    def frame_rate(self) -> float:
        """Frames of units a second (Hz): the most tokens that a second can have."""
        return self.sizes.sample_rate / self.sizes.hop

    @property
    def num_codebooks(self) -> int:
        """K = 1."""
        return 1

    @property
    def codebook_size(self) -> int:
        """V, the units and their pairs, or their words."""
        return self._size

    def encode(self, audio: Audio) -> Codes:
        """Audio (L,) -> tokens (1, T), the end padded with silence to a whole frame."""
        return self._tokens(*self._heard(audio))

    def encode_first(self, audio: Audio, frames: int) -> Codes:
        """Audio (L,) -> the tokens (1, T) of its first ``frames`` frames; the rest is heard, and not said.

        The last of several byte pairs or words is left out: with more after it, it would often have become another.
        """
        units, hidden = self._heard(audio)
        tokens = self._tokens(units[:frames], hidden[:frames])
        return tokens if self.pairs is None and self.words is None else tokens[:, : max(1, tokens.shape[1] - 1)]

    def _heard(self, audio: Audio) -> tuple[Codes, Floats]:
        """Audio (L,) -> the unit of each frame (F,), and the frames (F, D) that words are cut by (D = 0 without)."""
        if not len(audio):
            return NOTHING, np.zeros((0, 0 if self.words is None else len(self.words.mean)), np.float32)
        whole = np.pad(audio.astype(np.float32, copy=False), (0, -len(audio) % self.sizes.hop))
        distances, *frames = (found[0] for found in self._encoder.run(None, {"audio": whole[None]}))
        units = cheapest_units(distances, self.sizes.segment_cost)
        return units, frames[0] if frames else np.zeros((len(units), 0), np.float32)

    def _tokens(self, units: Codes, frames: Floats) -> Codes:
        """The unit of each frame (F,), and the frames (F, D) -> tokens (1, T)."""
        if self.words is not None:
            return self.words.cut(frames, units)[0][None]
        if self._durations is not None:
            units = units[np.flatnonzero(np.diff(units, prepend=-1))]
        return (units if self.pairs is None else self.pairs.encode(units))[None]

    def units_of(self, codes: Codes) -> Codes:
        """Tokens (1, T) -> units (T',)."""
        joined = self.words or self.pairs
        return codes[0] if joined is None else joined.decode(codes[0])

    def durations(self, units: Codes) -> Codes:
        """Units (T,) -> the frames (T,) that each lasts."""
        if self._durations is None or not len(units):
            return np.ones_like(units)
        frames: Codes = self._durations.run(("durations",), {"units": units[None]})[0][0]
        return frames

    def start_s(self, codes: Codes, step: int) -> float:
        """Where in ``decode`` of codes (1, T) the ones from ``step`` on begin (seconds)."""
        before = len(self.units_of(codes[:, :step]))
        return float(self.durations(self.units_of(codes))[:before].sum()) / self.frame_rate

    def decode(self, codes: Codes) -> Audio:
        """Tokens (1, T) -> audio (L,)."""
        units = self.units_of(codes)
        folded, samples = self.fold(np.repeat(units, self.durations(units)))
        return self.sound(folded)[:samples]

    def fold(self, frames: Codes) -> tuple[Codes, int]:
        """The unit of each frame (F,) -> as the vocoder takes them (R, C), and the samples that F frames last.

        Where frames are missing at the end, it is the last one again.
        """
        whole = np.pad(frames, (0, -len(frames) % self.sizes.together), "edge") if len(frames) else frames
        return np.ascontiguousarray(whole.reshape(-1, self.sizes.together).T), len(frames) * self.sizes.hop

    def sound(self, folded: Codes) -> Audio:
        """The unit of each frame (R, F / R) -> audio (L,)."""
        if not folded.shape[1]:
            return np.zeros(0, np.float32)
        audio: Audio = run(self._vocoder, units=folded[None])[0]
        return audio.clip(-1.0, 1.0)

    def voice(self) -> UnitVoice:
        """``decode_stream`` for tokens that are pushed: one for each stream, of which many can be under way."""
        return UnitVoice(self)


class UnitVoice:
    """Tokens in; audio out as soon as it is certain.

    A unit's frames are certain once the ``reach`` units after it are known, and their sound once the vocoder's
    ``lookahead`` is.
    """

    def __init__(self, tokenizer: OnnxUnitTokenizer) -> None:
        self.tokenizer, self.reach = tokenizer, tokenizer.sizes.reach or 0
        self.units = NOTHING  # what may still have to be seen
        self.known = 0  # how many of them have become frames
        self.frames = NOTHING  # fewer than the vocoder takes at once
        self.voice = Voice(tokenizer.sound, tokenizer.sizes.together, tokenizer.sizes)

    def say(self, piece: Codes) -> Audio | None:
        """Tokens (1, t) -> the audio (l,) that they make certain, if it is long enough."""
        self.units = np.concatenate([self.units, self.tokenizer.units_of(piece)])
        self._know(len(self.units) - self.reach)
        whole = len(self.frames) - len(self.frames) % self.tokenizer.sizes.together
        folded, _ = self.tokenizer.fold(self.frames[:whole])
        self.frames = self.frames[whole:]
        return self.voice.say(folded)

    def end(self) -> Audio | None:
        """What is left."""
        self._know(len(self.units))
        folded, samples = self.tokenizer.fold(self.frames)
        pieces = [self.voice.say(folded), self.voice.end()]
        audio = np.concatenate([np.zeros(0, np.float32), *(piece for piece in pieces if piece is not None)])
        missing = folded.size * self.tokenizer.sizes.hop - samples
        return audio[: len(audio) - missing] if len(audio) > missing else None

    def _know(self, certain: int) -> None:
        """Make frames of the units before ``certain``, and forget those that nothing hangs on any more."""
        if certain <= self.known:
            return
        lasting = self.tokenizer.durations(self.units)[self.known : certain]
        self.frames = np.concatenate([self.frames, np.repeat(self.units[self.known : certain], lasting)])
        unseen = max(0, certain - self.reach)
        self.units, self.known = self.units[unseen:], certain - unseen


def _words(bundle: Bundle) -> UnitWords:
    """The words of a bundle.  Raises BundleError if they aren't those of its describer and its units."""
    place, info = bundle.folder / UNIT_WORDS, bundle.info
    words = UnitWords.read(bundle.read(UNIT_WORDS), place)
    assert info.units is not None  # why it was called
    if words.size != info.describer.codebook_size or not words.fits(info.units.units, len(words.mean)):
        raise BundleError(f"{place}: other words than the describer's; export the bundle again")
    if info.units.reach is not None:
        raise BundleError(f"{place}: words of merged units; export the bundle again")
    return words


def speech_tokenizer(bundle: Bundle) -> OnnxSpeechTokenizer | OnnxUnitTokenizer:
    """The codec of a bundle, or its units.  Raises BundleError for a file that is damaged or doesn't fit."""
    return OnnxUnitTokenizer(bundle) if bundle.info.codec is None else OnnxSpeechTokenizer(bundle)
