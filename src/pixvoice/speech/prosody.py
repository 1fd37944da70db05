"""How something is said, whatever is said: pitch, loudness over time, and the colour of the voice.

A recognizer learns to look past these, so emotion needs them beside its frames.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from pixvoice.contracts import Audio, Floats

WINDOW_S, HOP_S = 0.05, 0.01  # seconds
LOWEST_HZ, HIGHEST_HZ = 70, 600  # of a voice's pitch
OCTAVE_COST = 0.05  # of correlation: at each octave down, since every multiple of a period repeats as well as it does
VOICED = 0.5  # normalised autocorrelation of a voiced frame, at least
SILENT_DB = -35.0  # against the loudest frame
BANDS_HZ = (0, 250, 500, 1000, 1500, 2000, 3000, 4000, 5500, 8000)
_PARTS = 6  # of a recording, in which the contours are followed

Frames = npt.NDArray[np.float64]


def pitch_contour(audio: Audio, sample_rate: int) -> tuple[Frames, Frames, Frames]:
    """Audio (L,) -> pitch (semitones above 100 Hz), how periodic (0 to 1), energy (dB); each (T,), 100 a second.

    Source: autocorrelation divided by its window's (Boersma 1993, "Accurate short-term analysis of the fundamental
    frequency").
    """
    size, hop = int(WINDOW_S * sample_rate), int(HOP_S * sample_rate)
    frames = _frames(audio, size, hop)
    nfft = 1 << (2 * size - 1).bit_length()
    longest = sample_rate // LOWEST_HZ + 2
    window = np.hanning(size)
    lags = np.fft.irfft(np.abs(np.fft.rfft(frames * window, nfft)) ** 2)[:, :longest]
    of_window = np.fft.irfft(np.abs(np.fft.rfft(window, nfft)) ** 2)[:longest]
    correlation = lags / (lags[:, :1] + 1e-9) / (of_window / of_window[0])
    shortest = sample_rate // HIGHEST_HZ
    preferred = correlation[:, shortest:-1] - OCTAVE_COST * np.log2(np.arange(shortest, longest - 1))
    best = preferred.argmax(axis=1) + shortest
    rows = np.arange(len(frames))
    before, here, after = (correlation[rows, best + shift] for shift in (-1, 0, 1))
    bend = before - 2 * here + after
    lag = best + np.clip(0.5 * (before - after) / np.where(bend < -1e-6, bend, -1e-6), -0.5, 0.5)
    energy = 10 * np.log10((frames**2).mean(axis=1) + 1e-7)
    return 12 * np.log2(sample_rate / lag / 100.0), np.clip(here, 0.0, 1.0), energy


def prosody(audio: Audio, sample_rate: int) -> Floats:
    """Audio (L,), silence cut from its ends -> numbers (D,): length, pitch, energy and spectrum, and how they move."""
    pitch, periodic, energy = pitch_contour(audio, sample_rate)
    loud = energy > energy.max() + SILENT_DB
    voiced = (periodic > VOICED) & loud
    places = np.arange(len(pitch)) / len(pitch)
    if voiced.sum() < 3:
        voiced = loud
    heard, centre = pitch[voiced], float(np.median(pitch[voiced]))
    steps = np.diff(pitch)[voiced[1:] & voiced[:-1]]
    steps = steps[np.abs(steps) < 3.0] if (np.abs(steps) < 3.0).any() else np.zeros(1)
    percentiles = np.percentile(heard, [5, 10, 25, 75, 90, 95])
    values = [
        np.log(len(pitch)),
        voiced.mean(),
        *(centre, heard.std(), *percentiles, *(percentiles - centre)),
        *(steps.std(), np.abs(steps).mean(), _slope(places[voiced], heard)),
        *(periodic[voiced].mean(), periodic[voiced].std()),
        *(energy.std(), energy[voiced].std(), _slope(places, energy), np.abs(np.diff(energy)).mean()),
        *_contour(places[voiced], heard - centre),
        *_contour(places, energy - energy[loud].mean()),
        *_spectrum(audio, sample_rate, voiced),
    ]
    return np.asarray(values, np.float32)


def _frames(audio: Audio, size: int, hop: int) -> Frames:
    padded = np.pad(audio.astype(np.float64), (0, max(0, size + 2 * hop - len(audio))))
    return np.lib.stride_tricks.sliding_window_view(padded, size)[::hop]


def _slope(places: Frames, values: Frames) -> float:
    spread = float(((places - places.mean()) ** 2).sum())
    return float(((places - places.mean()) * (values - values.mean())).sum() / spread) if spread > 1e-9 else 0.0


def _contour(places: Frames, values: Frames) -> Frames:
    """Values at ``places`` (0 to 1) -> their mean in each of ``_PARTS`` equal parts; 0 where there is none."""
    part = np.minimum((places * _PARTS).astype(int), _PARTS - 1)
    counts = np.bincount(part, minlength=_PARTS)
    return np.bincount(part, values, minlength=_PARTS) / np.maximum(counts, 1)


def _spectrum(audio: Audio, sample_rate: int, voiced: npt.NDArray[np.bool_]) -> list[float]:
    """Level of each band against the whole (dB) in voiced frames, mean and deviation."""
    frames = _frames(audio, int(WINDOW_S * sample_rate), int(HOP_S * sample_rate))[voiced]
    power = np.abs(np.fft.rfft(frames * np.hanning(frames.shape[1]))) ** 2
    hertz = np.fft.rfftfreq(frames.shape[1], 1 / sample_rate)
    edges = np.searchsorted(hertz, BANDS_HZ)
    bands = np.stack([power[:, a:b].sum(1) for a, b in pairwise(edges.tolist())], axis=1)
    levels = 10 * np.log10((bands + 1e-9) / (power.sum(1, keepdims=True) + 1e-9))
    return [*levels.mean(0), *levels.std(0)]
