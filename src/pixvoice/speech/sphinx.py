"""PocketSphinx behind the Recognizer contract: an independent judge, with its built-in US English model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pixvoice.contracts import Audio, Recognizer
from pixvoice.errors import MissingToolError


class SphinxRecognizer(Recognizer):
    """PocketSphinx 5 with the acoustic model, dictionary and general language model that it ships.

    Raises MissingToolError when the optional package isn't installed.
    """

    def __init__(self) -> None:
        try:
            from pocketsphinx import Decoder
        except ImportError as error:
            raise MissingToolError(
                "the sphinx recognizer needs pocketsphinx: pip install 'pixvoice[sphinx]'"
            ) from error
        self._decoder = Decoder(samprate=float(self.sample_rate), loglevel="FATAL")

    @property
    def name(self) -> str:
        """What to call it in a table."""
        return "sphinx"

    @property
    def sample_rate(self) -> int:
        """16 000 Hz."""
        return 16_000

    def transcribe(self, audio: Sequence[Audio]) -> list[str]:
        """Audio clips, each (L,) -> lower-case text; a clip is heard the same whatever came before it."""
        return [self._transcribe_one(clip) for clip in audio]

    def _transcribe_one(self, clip: Audio) -> str:
        if len(clip) == 0:
            return ""
        samples = np.round(np.clip(clip, -1.0, 1.0) * 32767.0).astype("<i2").tobytes()
        self._decoder.reinit_feat()  # forgets the level and noise learned from earlier clips
        self._decoder.start_utt()
        self._decoder.process_raw(samples, full_utt=True)
        self._decoder.end_utt()
        hypothesis = self._decoder.hyp()
        return hypothesis.hypstr.lower() if hypothesis is not None else ""
