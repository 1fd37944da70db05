"""Speech as a few kilobytes of Ogg Opus, for pages that hold their own sound."""

from __future__ import annotations

import base64
import io

import numpy as np
import soundfile as sf

from pixvoice.contracts import Audio
from pixvoice.evaluation.preparation import resample

RATES = (8_000, 12_000, 16_000, 24_000, 48_000)  # Hz, those that Opus has


def opus(audio: Audio, sample_rate: int) -> bytes:
    """Audio (L,) at ``sample_rate`` Hz -> an Ogg Opus file; silence of a tenth of a second for no audio."""
    rate = next((rate for rate in RATES if rate >= sample_rate), RATES[-1])
    sound = resample(audio, sample_rate, rate) if len(audio) else np.zeros(rate // 10, np.float32)
    buffer = io.BytesIO()
    sf.write(buffer, sound.clip(-1, 1), rate, format="OGG", subtype="OPUS")
    return buffer.getvalue()


def data_uri(data: bytes, kind: str) -> str:
    """Bytes of a file of media type ``kind`` as an address that needs no host."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
