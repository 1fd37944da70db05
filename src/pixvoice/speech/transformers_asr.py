"""Whisper and wav2vec 2.0 through Hugging Face Transformers behind the Recognizer contract.

Both are loaded by hub id or local folder with ``from_pretrained``, from safetensors only, and decode greedily.
A clip that is longer than one window is cut at its quietest places and heard whole.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from pixvoice.contracts import Audio, Recognizer
from pixvoice.errors import InputError, MissingToolError

WINDOW_S = 30.0
_Loaded = TypeVar("_Loaded")


def split_at_pauses(audio: Audio, sample_rate: int, window_s: float = WINDOW_S) -> list[Audio]:
    """Audio (L,) -> pieces of at most ``window_s`` seconds that join to the whole.

    Each cut lies in the last third of its window, in the middle of the quietest 50 ms.
    """
    window, span = int(window_s * sample_rate), max(1, sample_rate // 20)
    pieces = []
    while len(audio) > window:
        first = window * 2 // 3
        power = np.concatenate(([0.0], np.cumsum(np.square(audio[first:window], dtype=np.float64))))
        cut = first + int(np.argmin(power[span:] - power[:-span])) + span // 2
        pieces.append(audio[:cut])
        audio = audio[cut:]
    return [*pieces, audio]


class _TransformersRecognizer(Recognizer):
    """What both share: loading with clear errors, and windows."""

    kind: str

    def __init__(self, checkpoint: str | Path, device: str = "cpu") -> None:
        self._checkpoint = str(checkpoint)
        self._processor, self._model = _load(self.kind, self._checkpoint, self._load_parts)
        self._model.to(device).eval()

    @staticmethod
    @abstractmethod
    def _load_parts(checkpoint: str) -> tuple[Any, Any]:
        """Checkpoint -> processor and model."""

    @abstractmethod
    def _transcribe_piece(self, piece: Audio) -> str:
        """Audio (L,) of at most one window -> text."""

    @property
    def name(self) -> str:
        """What to call it in a table."""
        return f"{self.kind}:{self._checkpoint}"

    @property
    def sample_rate(self) -> int:
        """Audio samples a second (Hz) that the checkpoint was trained on."""
        return int(self._processor.feature_extractor.sampling_rate)

    def transcribe(self, audio: Sequence[Audio]) -> list[str]:
        """Audio clips, each (L,) -> lower-case text.  One clip at a time, so no clip hears another's padding."""
        return [self._transcribe_one(np.asarray(clip, dtype=np.float32)) for clip in audio]

    def _transcribe_one(self, clip: Audio) -> str:
        # Under 50 ms no model of the two gives a single frame.
        pieces = [piece for piece in split_at_pauses(clip, self.sample_rate) if len(piece) >= self.sample_rate // 20]
        return " ".join(" ".join(self._transcribe_piece(piece) for piece in pieces).lower().split())

    def _features(self, piece: Audio, **options: Any) -> dict[str, Any]:
        batch = self._processor.feature_extractor(
            piece, sampling_rate=self.sample_rate, return_tensors="pt", return_attention_mask=True, **options
        )
        return {key: value.to(self._model.device) for key, value in batch.items()}


class WhisperRecognizer(_TransformersRecognizer):
    """Whisper (Radford et al. 2022, arXiv 2212.04356), greedy, English transcription.

    ``checkpoint`` is a hub id or a folder.  Raises MissingToolError without torch or for a hub id that can't be
    reached, InputError for a folder that doesn't hold a Whisper checkpoint in safetensors.
    """

    kind = "whisper"

    @staticmethod
    def _load_parts(checkpoint: str) -> tuple[Any, Any]:
        from transformers import WhisperForConditionalGeneration, WhisperProcessor

        processor = WhisperProcessor.from_pretrained(checkpoint)
        return processor, WhisperForConditionalGeneration.from_pretrained(checkpoint, use_safetensors=True)

    def _transcribe_piece(self, piece: Audio) -> str:
        options: dict[str, Any] = {"num_beams": 1, "do_sample": False}
        if getattr(self._model.generation_config, "is_multilingual", False):
            options |= {"language": "en", "task": "transcribe"}
        ids = self._model.generate(**self._features(piece), **options)
        return str(self._processor.batch_decode(ids, skip_special_tokens=True)[0])


class Wav2Vec2Recognizer(_TransformersRecognizer):
    """Wav2vec 2.0 with a CTC head (Baevski et al. 2020, arXiv 2006.11477), greedy, no language model.

    ``checkpoint`` is a hub id or a folder.  Raises as WhisperRecognizer does.
    """

    kind = "wav2vec2"

    @staticmethod
    def _load_parts(checkpoint: str) -> tuple[Any, Any]:
        from transformers import Wav2Vec2ForCTC, Wav2Vec2Processor

        processor = Wav2Vec2Processor.from_pretrained(checkpoint)
        return processor, Wav2Vec2ForCTC.from_pretrained(checkpoint, use_safetensors=True)

    def _transcribe_piece(self, piece: Audio) -> str:
        import torch

        with torch.inference_mode():
            logits = self._model(self._features(piece)["input_values"]).logits  # (1, T, characters)
        return str(self._processor.batch_decode(logits.argmax(-1))[0])


def _load(kind: str, checkpoint: str, load_parts: Callable[[str], _Loaded]) -> _Loaded:
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise MissingToolError(
            f"the {kind} recognizer needs torch and transformers: pip install 'pixvoice[train]'"
        ) from error
    try:
        return load_parts(checkpoint)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        if Path(checkpoint).exists():
            raise InputError(
                f"{checkpoint} can't be loaded as a {kind} checkpoint ({_first_line(error)}): give a folder with"
                " config.json, model.safetensors, preprocessor_config.json and the tokenizer's files"
            ) from error
        raise MissingToolError(
            f"{checkpoint} is no local folder and can't be fetched from the hub ({_first_line(error)}):"
            f" download it once and give its folder, --recognizer {kind}:FOLDER"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".: ")
