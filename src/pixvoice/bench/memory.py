"""What was said and heard once isn't said and heard again: for several recognizers, and the same ground truth."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pixvoice.contracts import Audio, Recognizer
from pixvoice.errors import OptionError


class Remembered:
    """A describer that says each photo once, whoever listens."""

    def __init__(self, speaker: Any) -> None:
        self._speaker = speaker
        self._said: dict[tuple[Path, int], Any] = {}
        self.computed_s = 0.0  # processor time of describing, programs that it starts among it (s)

    @property
    def tokenizer(self) -> Any:
        """The speaker's, or None."""
        return getattr(self._speaker, "tokenizer", None)

    @property
    def sample_rate(self) -> int:
        """Audio samples a second (Hz)."""
        return int(self._speaker.sample_rate)

    def describe(self, image: Path, *, seed: int) -> Any:
        """The speaker's description."""
        if (image, 0) not in self._said:
            begun = _processor_s()
            self._said[image, 0] = self._speaker.describe(image, seed=seed)
            self.computed_s += _processor_s() - begun
        return self._said[image, 0]

    def complete(self, image: Path, beginning: Audio, *, seed: int) -> Any:
        """The speaker's completion of the first so many samples of the photo's recording."""
        if not hasattr(self._speaker, "complete"):
            raise OptionError("this row can't go on from a spoken beginning; choose others with --row")
        if (image, len(beginning)) not in self._said:
            self._said[image, len(beginning)] = self._speaker.complete(image, beginning, seed=seed)
        return self._said[image, len(beginning)]


def _processor_s() -> float:
    """Processor time so far (s): however busy the machine is with other work, as much as if it were alone."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


class Attentive(Recognizer):
    """A recognizer that hears each clip once: the ground truth is the same for every row."""

    def __init__(self, recognizer: Recognizer) -> None:
        self._recognizer = recognizer
        self._heard: dict[bytes, str] = {}

    @property
    def name(self) -> str:
        """The recognizer's."""
        return self._recognizer.name

    @property
    def sample_rate(self) -> int:
        """Audio samples a second (Hz)."""
        return self._recognizer.sample_rate

    def transcribe(self, audio: Sequence[Audio]) -> list[str]:
        """Audio clips, each (L,) -> texts."""
        keys = [hashlib.sha256(clip.tobytes()).digest() for clip in audio]
        new = {key: clip for key, clip in zip(keys, audio, strict=True) if key not in self._heard}
        if new:
            self._heard |= dict(zip(new, self._recognizer.transcribe(list(new.values())), strict=True))
        return [self._heard[key] for key in keys]
