"""Word-like segments of speech units as one codebook; what they are, ``pixvoice.unit_words`` says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pixvoice.contracts import Audio, Codes, SpeechTokenizer
from pixvoice.errors import BundleError
from pixvoice.speech.units import UnitTokenizer
from pixvoice.unit_words import UnitWords


class WordTokenizer(SpeechTokenizer):
    """Words of units as one codebook; a word is spoken as long as the span that it is spoken as."""

    def __init__(self, speech: UnitTokenizer, words: UnitWords) -> None:
        """``speech`` doesn't merge its units.  Raises BundleError for words of other units."""
        if not words.fits(len(speech.centroids), speech.features.width):
            raise BundleError("words of other units: train the units again, with `words` above 0")
        self.speech, self.words = speech, words

    @property
    def sample_rate(self) -> int:
        """Audio samples a second (Hz)."""
        return self.speech.sample_rate

    @property
    def frame_rate(self) -> float:
        """The most words that a second can have."""
        return self.speech.frame_rate

    @property
    def num_codebooks(self) -> int:
        """K = 1."""
        return 1

    @property
    def codebook_size(self) -> int:
        """V, the words."""
        return self.words.size

    @property
    def made_by(self) -> bytes:
        """Changes with what makes words of frames."""
        return self.speech.made_by + self.words.save()

    def encode(self, audio: Audio) -> Codes:
        """Audio (L,) -> words (1, T)."""
        return self._cut(audio)[0][None]

    def frame_units(self, audio: Audio) -> Codes:
        """Audio (L,) -> the unit of each frame (F,), as its words are spoken, each as long as it is here."""
        return self.words.stretched(*self._cut(audio))

    def _cut(self, audio: Audio) -> tuple[Codes, Codes]:
        frames = self.speech.frames(audio)
        return self.words.cut(frames, self.speech.units_of(frames))

    def decode(self, codes: Codes) -> Audio:
        """Words (1, T) -> audio (L,).  Raises OptionError without a vocoder."""
        return self.speech.decode(self.words.decode(codes[0])[None])

    def decode_stream(self, frames: Iterable[Codes]) -> Iterator[Audio]:
        """Pieces of words (1, t) -> the audio, in one piece at the end."""
        return self.speech.decode_stream(self.words.decode(piece[0])[None] for piece in frames)
