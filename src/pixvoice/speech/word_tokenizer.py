"""Word-like segments of speech units as one codebook; what they are, ``pixvoice.unit_words`` says."""

from __future__ import annotations

from pixvoice.contracts import Audio, Codes
from pixvoice.errors import BundleError
from pixvoice.speech.units import JoinedUnits, UnitTokenizer
from pixvoice.unit_words import UnitWords


class WordTokenizer(JoinedUnits):
    """Words of units as one codebook; a word is spoken as long as the span that it is spoken as."""

    def __init__(self, speech: UnitTokenizer, words: UnitWords) -> None:
        """``speech`` doesn't merge its units.  Raises BundleError for words of other units."""
        if not words.fits(len(speech.centroids), speech.features.width):
            raise BundleError("words of other units: train the units again, with `words` above 0")
        super().__init__(speech)
        self.words = words

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

    def units_of(self, tokens: Codes) -> Codes:
        """Words (T,) -> the unit of each frame (F,)."""
        return self.words.decode(tokens)
