"""Ground-truth speech for data sets that have none: captions spoken by a TTS engine, each one once."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pixvoice.audio import read_audio
from pixvoice.contracts import Audio
from pixvoice.errors import OutputError
from pixvoice.evaluation.photos import Speak


def find_speak(engine: str | None, voice: str | None, cache: Path) -> Speak:
    """A function that speaks a text with an engine of this machine and keeps the WAV in ``cache``.

    Raises MissingToolError when the engine (or any engine) isn't installed, OptionError for an engine or voice that
    doesn't exist, OutputError when ``cache`` can't be made.
    """
    from pixvoice.speech.synthesizer import find_engine

    found = find_engine(engine)
    name = voice or found.default_voice
    found.check_voice(name)
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{cache}: can't be made ({error.strerror}); give another --cache folder") from error

    def speak(text: str) -> Audio:
        key = hashlib.sha256("\0".join((engine or found.name, name, text)).encode()).hexdigest()[:32]
        path = cache / f"{key}.wav"
        if not path.exists():
            found.synthesize(text, name, path)
        return read_audio(path)

    return speak
