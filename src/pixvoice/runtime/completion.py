"""The beginning of an utterance, as the codes that a describer goes on from."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pixvoice.audio import AudioSource, read_audio, trim_silence
from pixvoice.contracts import Audio, Codes, SpeechTokenizer
from pixvoice.errors import InputError

BeginningSource = AudioSource | Audio

UNSURE_FRAMES = 1  # frames before the cut whose codes would be others if the recording went on
LONGEST_S = 60  # seconds of a recording that are heard at most


def beginning_codes(source: BeginningSource, tokenizer: SpeechTokenizer, limit: int) -> Codes:
    """Recorded speech, or audio (L,) at the codec's rate -> its codes (K, T0) with 1 <= T0 < ``limit``.

    Silence before the speech is cut to 0.1 s, as it was for training, and silence after it is cut off, because an
    utterance that has fallen silent is over.  So are the last whole frame and what doesn't fill one: the encoder takes
    the end of the recording for silence, and gives them codes that the middle of an utterance never has.

    Raises InputError for a beginning that can't be read, is silent, too short, or leaves nothing to say.
    """
    name, audio = _read(source, tokenizer.sample_rate)
    spoken = trim_silence(audio, tokenizer.sample_rate, after_s=0.0)
    if not len(spoken):
        raise InputError(f"{name}: silent; give a beginning in which somebody speaks")
    frame_s, said_s = 1 / tokenizer.frame_rate, len(spoken) / tokenizer.sample_rate
    frames = int(said_s / frame_s + 1e-6) - UNSURE_FRAMES
    if frames < 1:
        least_s = (1 + UNSURE_FRAMES) * frame_s
        raise InputError(f"{name}: {said_s:.2f} s of speech are too short to go on from; give {least_s:.2f} s or more")
    heard = min(frames, round(LONGEST_S / frame_s))
    codes = tokenizer.encode_first(spoken[: LONGEST_S * tokenizer.sample_rate], heard)
    if codes.shape[1] >= limit or heard < frames:
        most_s = (heard * (limit - 1) / codes.shape[1] + UNSURE_FRAMES) * frame_s  # as many frames a token as here
        raise InputError(
            f"{name}: {said_s:.1f} s of speech; a description of this length may begin with up to {most_s:.1f} s;"
            " cut the recording"
        )
    return codes


def _read(source: BeginningSource, sample_rate: int) -> tuple[str, Audio]:
    """What to call the beginning in a message, and its audio (L,) in [-1, 1]."""
    if not isinstance(source, np.ndarray):
        name = str(source) if isinstance(source, str | Path) else str(getattr(source, "name", "the beginning"))
        return name, read_audio(source, sample_rate)
    if source.ndim != 1 or not np.issubdtype(source.dtype, np.floating) or not np.isfinite(source).all():
        raise InputError(f"an array of {source.dtype} {source.shape}: give mono speech as finite float32 (L,)")
    return "the beginning", np.clip(source, -1.0, 1.0).astype(np.float32)
