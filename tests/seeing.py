"""A search model without weights: a photo's colour and a tone lie together (440 Hz red, 880 green, 1760 blue)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from pixvoice.audio import write_wav
from pixvoice.contracts import Audio, Floats, SearchModel

TONES = {"red": 440, "green": 880, "blue": 1760}  # Hz
COLOURS = {"red": (230, 20, 20), "green": (20, 230, 20), "blue": (20, 20, 230)}
RATE = 16_000  # Hz


class ColourModel(SearchModel):
    """``seen`` counts the photos embedded; ``before`` is called with them each time."""

    def __init__(self, fingerprint: str = "colours", before: Callable[[int], None] = lambda seen: None) -> None:
        self._fingerprint, self.seen, self.before = fingerprint, 0, before

    @property
    def name(self) -> str:
        return f"the {self._fingerprint} model"

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    @property
    def embed_dim(self) -> int:
        return 8

    @property
    def sample_rate(self) -> int:
        return RATE

    def embed_photos(self, photos: Sequence[Image.Image]) -> Floats:
        self.before(self.seen)
        self.seen += len(photos)
        return _unit([np.asarray(photo, np.float32).mean(axis=(0, 1)) ** 2 for photo in photos])

    def embed_speech(self, audio: Sequence[Audio]) -> tuple[Floats, list[str]]:
        strengths = [_strengths(clip) for clip in audio]
        return _unit(strengths), [list(TONES)[int(strength.argmax())] for strength in strengths]


def _strengths(clip: Audio) -> Floats:
    times = np.arange(len(clip)) / RATE
    return np.array([abs(np.exp(-2j * np.pi * tone * times) @ clip) for tone in TONES.values()], np.float32)


def _unit(rows: list[Any]) -> Floats:
    vectors = np.zeros((len(rows), 8), np.float32)
    vectors[:, :3] = rows
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def photo(path: Path, colour: str, shade: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.clip(np.add(COLOURS[colour], (0, shade, shade)), 0, 255)
    Image.new("RGB", (16, 12), tuple(int(value) for value in pixels)).save(path)
    return path


def speech(path: Path, colour: str, seconds: float = 0.5, rate: int = RATE) -> Path:
    times = np.arange(round(seconds * rate)) / rate
    write_wav(path, (0.5 * np.sin(2 * np.pi * TONES[colour] * times)).astype(np.float32), rate)
    return path


def retriever(model: SearchModel) -> ModuleType:
    """What takes the place of ``pixvoice.runtime.retriever``."""
    module = ModuleType("pixvoice.runtime.retriever")
    module.load_search_model = lambda bundle=None, threads=None: model  # type: ignore[attr-defined]
    return module


def run_with(model: SearchModel, *arguments: str) -> int:
    """The command line with this model; for tests in a process of their own."""
    from pixvoice.cli import run

    sys.modules["pixvoice.runtime.retriever"] = retriever(model)
    return run(list(arguments))
