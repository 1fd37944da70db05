"""Hidden frames and transcripts of disturbed recordings, in one pass of the recognizer, computed once and kept."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from zlib import crc32

import numpy as np
import numpy.typing as npt
import torch

from pixvoice.audio import read_audio
from pixvoice.contracts import Audio
from pixvoice.letter_model import LetterModel
from pixvoice.retrieve.small_parts import SmallRecognizer
from pixvoice.speech.ctc import CTCConfig, CTCRecognizer
from pixvoice.training import processes
from pixvoice.training.caches import fingerprint, save_arrays
from pixvoice.training.progress import follow
from pixvoice.training.recognizer import play_at
from pixvoice.training.trainer import load_model

Halves = npt.NDArray[np.float16]
Booleans = npt.NDArray[np.bool_]

PART = 4096  # recordings in one file of the cache: what a killed run loses at most
SPEEDS = (0.88, 1.14)
QUIETEST_DB = 50.0  # noise is 0 to so many dB below the speech


def vary(audio: Audio, rng: np.random.Generator) -> Audio:
    """Audio with another speed and pitch, gain and padding, and in one half of the cases white noise at 0 to 50 dB.

    Source of the change of speed: Ko et al. 2015, "Audio augmentation for speech recognition".
    """
    played = play_at(audio, np.exp(rng.uniform(*np.log(SPEEDS))))
    padded = np.pad(played, (int(rng.integers(4800)), int(rng.integers(4800))))
    if rng.random() < 0.5:
        level = np.sqrt(np.mean(audio**2) + 1e-9) * 10 ** (-rng.uniform(0.0, QUIETEST_DB) / 20)
        padded = padded + level * rng.standard_normal(len(padded), dtype=np.float32)
    varied: Audio = (padded * rng.uniform(0.4, 1.3)).astype(np.float32)
    return varied


class SpeechFeatures:
    """Recordings as the recognizer in ``folder`` hears them in each of ``passes``; 0 passes: once, undisturbed."""

    def __init__(self, recordings: Sequence[Path], folder: Path, passes: int, cache: Path) -> None:
        self.folder, self.passes = folder, max(1, passes)
        self.texts: list[list[str]] = [[] for _ in range(self.passes)]
        self._frames: list[list[Halves]] = [[] for _ in range(self.passes)]
        for number in range(self.passes):
            for start in range(0, len(recordings), PART):
                part = recordings[start : start + PART]
                path = cache / f"speech-{fingerprint(folder, part, number, passes > 0)}"
                with processes.main_first():
                    if not path.with_suffix(".npy").exists():
                        _hear(part, self._recognizer, number if passes else None, path)
                self._open(path, number)

    @cached_property
    def _recognizer(self) -> SmallRecognizer:
        return SmallRecognizer(load_model(self.folder, "recognizer", CTCConfig, CTCRecognizer))

    def _open(self, path: Path, number: int) -> None:
        saved = np.load(path.with_suffix(".npz"))
        flat = np.load(path.with_suffix(".npy"), mmap_mode="r")
        ends = np.cumsum(saved["lengths"])
        self._frames[number] += [flat[end - length : end] for end, length in zip(ends, saved["lengths"], strict=True)]
        self.texts[number] += saved["texts"].tolist()

    def spell(self, spelling: LetterModel) -> None:
        """Make the texts those that the recognizer writes with the help of ``spelling``."""
        writer = SmallRecognizer(self._recognizer.recognizer, spelling=spelling)
        self.texts = [
            [writer.write(torch.from_numpy(np.float32(one)))[0] for one in follow(frames, "texts spelled")]
            for frames in self._frames
        ]

    def frames(
        self, recordings: Sequence[int], passes: Sequence[int]
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Frames (B, T, D) of B recordings by number, each of its own pass, and mask (B, T)."""
        found = [self._frames[number][row] for row, number in zip(recordings, passes, strict=True)]
        lengths = np.array([len(frames) for frames in found])
        joined = np.zeros((len(found), lengths.max(), found[0].shape[1]), np.float32)
        for row, frames in zip(joined, found, strict=True):
            row[: len(frames)] = frames
        return joined, np.arange(lengths.max()) < lengths[:, None]


def _hear(recordings: Sequence[Path], recognizer: SmallRecognizer, number: int | None, path: Path) -> None:
    """Compute and write one part: ``.npz`` with lengths and texts, then ``.npy`` with the frames (sum of T, D)."""
    frames, texts = [], []
    for recording in follow(recordings, "hidden frames" if number is None else f"hidden frames, pass {number + 1}"):
        audio = read_audio(recording, recognizer.sample_rate)
        if number is not None:
            audio = vary(audio, np.random.default_rng((number, crc32(recording.name.encode()))))
        hidden, text, _ = recognizer.hear(audio)
        frames.append(hidden.half().numpy())
        texts.append(text)
    save_arrays(path.with_suffix(".npz"), lengths=np.array([len(f) for f in frames]), texts=np.array(texts))
    save_arrays(path.with_suffix(".npy"), np.concatenate(frames))
