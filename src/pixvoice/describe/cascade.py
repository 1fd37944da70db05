"""The cascade that everyone would use instead: a captioner that writes, and a TTS engine that reads it aloud.

Decoder, photos and training are those of the small describers; what it learns is text.  It is the line to beat, and
makes no claim to do without words.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixvoice.describe.model import PixVoxConfig, PixVoxLM
from pixvoice.speech.written import VOCABULARY, Vocabulary, WrittenTokenizer, find_voice


@dataclass(frozen=True)
class CascadeConfig:
    """A captioner, the folder of the image student, and the TTS engine with its voice; saved beside its weights."""

    model: PixVoxConfig
    student: Path
    engine: str | None
    voice: str | None

    @classmethod
    def from_json(cls, model: dict[str, Any], student: str, engine: str | None, voice: str | None) -> CascadeConfig:
        """From what ``dataclasses.asdict`` and JSON made of it."""
        return cls(PixVoxConfig(**model), Path(student), engine, voice)


def load_cascade(folder: Path) -> tuple[PixVoxLM, WrittenTokenizer, Path]:
    """The captioner of a finished training, what says its text, and the folder of its image student.

    Raises BundleError if the folder holds none, MissingToolError if the engine isn't installed, OptionError if it has
    no such voice.
    """
    from pixvoice.training.trainer import load_model

    read: list[CascadeConfig] = []

    def make(config: CascadeConfig) -> PixVoxLM:
        read.append(config)
        return PixVoxLM(config.model)

    model = load_model(folder, "cascade", CascadeConfig.from_json, make)
    vocabulary = Vocabulary.load(folder / VOCABULARY)
    tokenizer = WrittenTokenizer(vocabulary, model.dims.codebook_size, *find_voice(read[0].engine, read[0].voice))
    return model, tokenizer, read[0].student
