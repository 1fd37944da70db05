"""Recordings and photos read from their files at each step: what a model on pretrained towers is trained on.

Prompts stand among the towers' own inputs, so that nothing can be computed once but the transcripts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pixvoice.audio import read_audio
from pixvoice.contracts import Audio, Recognizer
from pixvoice.files import write_bytes_atomically
from pixvoice.images import read_image
from pixvoice.manifest import Sample
from pixvoice.retrieve.model import DualChannel
from pixvoice.training import processes
from pixvoice.training.progress import follow
from pixvoice.training.retriever import RetrieverRecipe, SpokenPhotos, pairs
from pixvoice.training.speech_features import vary
from pixvoice.training.student import crop

PART = 1024  # transcripts in one file of the cache: what a killed run loses at most


class SpokenFiles(SpokenPhotos):
    """Recordings with their photos, prepared for the parts of ``model`` when they are asked for."""

    def __init__(
        self,
        samples: Sequence[Sample],
        recipe: RetrieverRecipe,
        cache: Path,
        crops: int,
        passes: int,
        model: DualChannel,
    ) -> None:
        """Raises InputError if no sample has a recording, or one has no text where the recipe takes true texts."""
        spoken, self.photos, self.photo = pairs(samples)
        self.recordings = [s.audio for s in spoken if s.audio is not None]
        self.views, self.passes, self.disturbed, self.image = 2 + crops, max(1, passes), passes > 0, model.image
        reads = model.dims.reads and recipe.transcripts != "truth"
        heard = self._transcripts(str(recipe.speech), cache) if reads else []
        self._take_texts(spoken, recipe.transcripts if model.dims.reads else "recognizer", heard)

    def pixels(self, photos: npt.NDArray[np.int64], views: npt.NDArray[np.int64]) -> Tensor:
        """What the image part takes of one view of each of B photos, (B, ...)."""
        shown = [
            crop(read_image(self.photos[photo]), int(number), int(photo))
            for photo, number in zip(photos, views, strict=True)
        ]
        pixels = self.image.prepare(shown)
        mirrored = torch.from_numpy(views % 2 == 1).to(pixels.device)[:, None, None, None]
        return torch.where(mirrored, pixels.flip(-1), pixels)

    def inputs(
        self,
        rows: npt.NDArray[np.int64],
        passes: npt.NDArray[np.int64],
        model: DualChannel,
        as_written: npt.NDArray[np.bool_] | None = None,
    ) -> dict[str, Any]:
        """What ``model`` takes of recordings ``rows`` (B,); see ``words``."""
        found: dict[str, Any] = {}
        if model.text is not None:
            found["tokens"] = model.text.tokenize(self.words(rows, passes, as_written))
        if model.dims.hears and model.speech is not None:
            rate = model.speech.sample_rate
            clips = [torch.from_numpy(self._heard(row, n, rate)) for row, n in zip(rows, passes, strict=True)]
            found["audio"] = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
            found["lengths"] = torch.tensor([len(clip) for clip in clips])
        return found

    def _heard(self, row: int, number: int, sample_rate: int) -> Audio:
        """Recording ``row`` as pass ``number`` hears it, the same at every call."""
        path = self.recordings[row]
        audio = read_audio(path, sample_rate)
        if not self.disturbed:
            return audio
        return vary(audio, np.random.default_rng((int(number), crc32(path.name.encode()))))

    def _transcripts(self, checkpoint: str, cache: Path) -> list[list[str]]:
        """What the Whisper ``checkpoint`` reads in every recording and pass, written down once and kept."""
        texts: list[list[str]] = [[] for _ in range(self.passes)]
        whisper = lru_cache(_whisper)
        for number in range(self.passes):
            for start in range(0, len(self.recordings), PART):
                rows = range(start, min(start + PART, len(self.recordings)))
                path = cache / f"transcripts-{self._fingerprint(checkpoint, rows, number)}.json"
                with processes.main_first():
                    if not path.exists():
                        self._read(rows, number, whisper(checkpoint), path)
                texts[number] += json.loads(path.read_text())
        return texts

    def _read(self, rows: range, number: int, recognizer: Recognizer, path: Path) -> None:
        rate = recognizer.sample_rate
        heard = [recognizer.transcribe([self._heard(r, number, rate)])[0] for r in follow(rows, "reading")]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_atomically(path, json.dumps(heard).encode())

    def _fingerprint(self, checkpoint: str, rows: range, number: int) -> str:
        digest = hashlib.sha256(f"{checkpoint}\0{number}\0{self.disturbed}".encode())
        for row in rows:
            status = self.recordings[row].stat()
            digest.update(f"{self.recordings[row]}\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
        return digest.hexdigest()[:12]


def _whisper(checkpoint: str) -> Recognizer:
    from pixvoice.speech.transformers_asr import WhisperRecognizer

    return WhisperRecognizer(checkpoint, "cuda" if torch.cuda.is_available() else "cpu")
