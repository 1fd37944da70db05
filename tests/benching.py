"""What the tests of ``pixvoice bench`` stand on: tiny runs, two photos with tones, and ears in place of recognizers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

import tiny
from pixvoice import cli
from pixvoice.audio import write_wav
from pixvoice.contracts import Audio, Recognizer

ROOT = Path(__file__).resolve().parent.parent
RECIPES = ROOT / "recipes"
PHOTOS = sorted((ROOT / "examples").glob("*.jpg"))[:2]
TEXTS = ("a moose stands in the water", "a raccoon looks out of a tree")
RATE = 16_000
ROWS = ("pixvox-delay", "pixvox-parallel")


class Ear(Recognizer):
    """Hears one of four sentences, by how loud the middle of a clip is."""

    sample_rate = RATE

    def __init__(self, name: str) -> None:
        self._name, self.clips = name, 0

    @property
    def name(self) -> str:
        return f"ear {self._name}"

    def transcribe(self, audio: Sequence[Audio]) -> list[str]:
        self.clips += len(audio)
        said = (*TEXTS, "a dog runs", "two men play in the water")
        return [said[int(1e6 * float(np.abs(clip).mean())) % len(said)] for clip in audio]


def untrained(folder: Path, *runs: str) -> Path:
    """A folder of runs, those named with a file of weights that no model reads."""
    for run in runs:
        (folder / run).mkdir(parents=True, exist_ok=True)
        (folder / run / "model.safetensors").write_bytes(run.encode())
    return folder


def small_runs(folder: Path, *wanted: str) -> Path:
    """Tiny runs of a codec, a student, and describers in both orders."""
    for part in ("codec", "student"):
        shutil.copytree(tiny.runs()[part], folder / part)
    for pattern in wanted:
        run = folder / f"pixvox-{pattern}"
        shutil.copytree(tiny.runs(pattern)["describer"], run)
        (run / "recipe.yaml").write_text(
            f"task: describer\nmanifests: [none.jsonl]\ncodec: {folder / 'codec'}\nstudent: {folder / 'student'}\n"
            f"max_frames: 20\nmodel: {json.dumps({**vars(tiny.DESCRIBER), 'pattern': pattern})}\n"
            "train: {steps: 4, batch_size: 2, learning_rate: 1e-3}\n"
        )
        (run / "log.jsonl").write_text('{"step": 2, "loss": 5.0}\n{"step": 4, "loss": 4.25}\n')
    return folder


def data(folder: Path) -> Path:
    """Two photos with two spoken captions each, for training and as dev."""
    rows = []
    for photo in PHOTOS:
        shutil.copyfile(photo, folder / photo.name)
    for split in ("train", "dev"):
        for n, (photo, text) in enumerate(zip(PHOTOS, TEXTS, strict=True)):
            for k in range(2):
                tone = 0.3 * np.sin(np.arange(4800 + 800 * k) * (n + 2) / 20).astype(np.float32)
                write_wav(folder / f"{split}{n}{k}.wav", tone, RATE)
                rows.append({"image": photo.name, "audio": f"{split}{n}{k}.wav", "text": f"{text} {k}", "split": split})
    (folder / "manifest.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder / "manifest.jsonl"


def bench(verb: str, *arguments: object) -> int:
    return cli.run(["bench", verb, "--recipes", str(RECIPES), *map(str, arguments)])


class Page(HTMLParser):
    """The players, pictures and addresses of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def addresses(self) -> Iterator[str]:
        yield from (
            values[key] for _, values in self.tags for key in ("src", "href", "action", "data") if key in values
        )
