"""One word on the command line -> a recognizer."""

from __future__ import annotations

from pathlib import Path

from pixvoice.contracts import Recognizer
from pixvoice.errors import OptionError

ALLOWED = "ours, sphinx, whisper:ID or wav2vec2:ID, where ID is a hub id or a folder"


def load_recognizer(name: str, bundle: Path | None = None) -> Recognizer:
    """``ours`` (the bundle's), ``sphinx``, ``whisper:ID`` or ``wav2vec2:ID`` -> the recognizer, loaded.

    Raises OptionError for another name, MissingToolError for a package or checkpoint that isn't here.
    """
    kind, _, checkpoint = name.partition(":")
    if name == "ours":
        from pixvoice.runtime.recognizer import load_recognizer as load_ours

        return load_ours(bundle)
    if name == "sphinx":
        from pixvoice.speech.sphinx import SphinxRecognizer

        return SphinxRecognizer()
    if kind in ("whisper", "wav2vec2") and checkpoint:
        from pixvoice.speech import transformers_asr

        return {"whisper": transformers_asr.WhisperRecognizer, "wav2vec2": transformers_asr.Wav2Vec2Recognizer}[kind](
            checkpoint
        )
    raise OptionError(f"unknown recognizer {name!r}: give --recognizer {ALLOWED}")
