"""What is done to every clip before a recognizer hears it, the same for every row of every table."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import soxr

from pixvoice.contracts import Audio, Recognizer

PADDING_S = 0.3
NOISE_DB = 45.0
QUIET_RMS = 0.01  # what counts as the level of a clip that is silent itself


def prepare_for_recognition(audio: Audio, sample_rate: int, seed: int, noise_db: float = NOISE_DB) -> Audio:
    """Audio (L,) at ``sample_rate`` Hz -> audio (L + 0.6 s,) with a noise floor, in [-1, 1].

    Recognition of clean synthetic speech hangs on digital silence.  0.3 s of silence is put before and after the clip,
    and white noise ``noise_db`` below the clip's level (root mean square) over the whole; what gets too loud by it is
    scaled down.  One seed gives one noise, at every level.
    """
    padding = round(PADDING_S * sample_rate)
    padded = np.pad(np.asarray(audio, dtype=np.float32), padding)
    level = float(np.sqrt(np.mean(np.square(audio, dtype=np.float64)))) if len(audio) else 0.0
    noise = np.random.default_rng(seed).standard_normal(len(padded), dtype=np.float32)
    noise *= np.float32(max(level, QUIET_RMS) * 10.0 ** (-noise_db / 20.0))
    prepared = padded + noise
    return np.asarray(prepared / max(1.0, float(np.abs(prepared).max())), dtype=np.float32)


@dataclass(frozen=True)
class Listener:
    """A recognizer that hears every clip through the same preparation."""

    recognizer: Recognizer

    def hear(self, audio: Audio, sample_rate: int, seed: int) -> str:
        """Audio (L,) at ``sample_rate`` Hz -> text."""
        rate = self.recognizer.sample_rate
        return self.recognizer.transcribe([prepare_for_recognition(resample(audio, sample_rate, rate), rate, seed)])[0]


def resample(audio: Audio, sample_rate: int, wanted: int) -> Audio:
    """Audio (L,) at ``sample_rate`` Hz -> audio (L',) at ``wanted`` Hz."""
    if sample_rate == wanted or len(audio) == 0:
        return np.asarray(audio, dtype=np.float32)
    return np.asarray(soxr.resample(audio, sample_rate, wanted), dtype=np.float32)
