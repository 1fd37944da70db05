"""What a speech codec loses: words, intelligibility (STOI) and quality (PESQ) of speech before and after it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pixvoice.audio import SAMPLE_RATE
from pixvoice.contracts import Audio, Recognizer, SpeechTokenizer
from pixvoice.errors import InputError, OptionError, OutputError, PixVoiceError
from pixvoice.evaluation.photos import Photo, Speak, ground_truth_speech
from pixvoice.evaluation.preparation import Listener, resample
from pixvoice.evaluation.wer import word_error_rate

PESQ_RATE_HZ = 16_000  # the only rate of wide-band PESQ


@dataclass(frozen=True)
class CodecResult:
    """Word error rates in percent; STOI 0 to 1; wide-band PESQ 1 to 4.64; None where its package isn't installed."""

    wer: float
    wer_resynthesised: float
    stoi: float | None
    pesq: float | None
    codebooks: int
    kbit_per_second: float
    recognizer: str
    n_clips: int
    n_failed: int

    @property
    def words_lost(self) -> float:
        """Points of word error rate that the codec adds."""
        return self.wer_resynthesised - self.wer

    def as_dict(self) -> dict[str, Any]:
        """One JSON object."""
        values = {**asdict(self), "words_lost": self.words_lost}
        return {key: round(value, 3) if isinstance(value, float) else value for key, value in values.items()}


def evaluate_codec(
    photos: Iterable[Photo],
    tokenizer: SpeechTokenizer,
    recognizer: Recognizer,
    speak: Speak | None = None,
    codebooks: int | None = None,
    on_failure: Callable[[PixVoiceError], None] = lambda error: None,
) -> CodecResult:
    """Each photo's spoken caption, heard as it is and after the codec with its first ``codebooks`` codes.

    Raises OptionError for a number of codebooks that the codec doesn't have, InputError when there is no speech.
    """
    kept = tokenizer.num_codebooks if codebooks is None else codebooks
    if not 1 <= kept <= tokenizer.num_codebooks:
        raise OptionError(f"{kept} codebooks: this codec takes 1 to {tokenizer.num_codebooks}")
    listener, texts, before, after = Listener(recognizer), [], [], []
    stoi_scores: list[float | None] = []
    pesq_scores: list[float | None] = []
    n_failed = 0
    for row, photo in enumerate(photos):
        try:
            speech = ground_truth_speech(photo, speak)
            if speech is None:
                continue
            audio = resample(speech, SAMPLE_RATE, tokenizer.sample_rate)
            coded = tokenizer.decode(tokenizer.encode(audio)[:kept])
        except (InputError, OutputError) as error:
            n_failed += 1
            on_failure(error)
            continue
        texts.append(photo.spoken_caption)
        before.append(listener.hear(audio, tokenizer.sample_rate, row))
        after.append(listener.hear(coded, tokenizer.sample_rate, row))
        stoi_scores.append(stoi_score(audio, coded, tokenizer.sample_rate))
        pesq_scores.append(pesq_score(audio, coded, tokenizer.sample_rate))
    if not texts:
        raise InputError(
            "no speech to pass through the codec: give a data set with audio, or install a TTS engine (flite)"
        )
    return CodecResult(
        wer=word_error_rate(before, texts),
        wer_resynthesised=word_error_rate(after, texts),
        stoi=_mean(stoi_scores),
        pesq=_mean(pesq_scores),
        codebooks=kept,
        kbit_per_second=kept * math.log2(tokenizer.codebook_size) * tokenizer.frame_rate / 1000.0,
        recognizer=recognizer.name,
        n_clips=len(texts),
        n_failed=n_failed,
    )


def stoi_score(original: Audio, coded: Audio, sample_rate: int) -> float | None:
    """Short-time objective intelligibility (Taal et al. 2011), 0 to 1; None without pystoi or under 0.4 s."""
    try:
        from pystoi import stoi
    except ImportError:
        return None
    length = min(len(original), len(coded))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        try:
            return float(stoi(original[:length], coded[:length], sample_rate))
        except (RuntimeWarning, ValueError, IndexError):
            return None


def pesq_score(original: Audio, coded: Audio, sample_rate: int) -> float | None:
    """Wide-band PESQ (ITU-T P.862.2), 1 to 4.64; None without the pesq package or where it finds no speech."""
    try:
        from pesq import PesqError, pesq
    except ImportError:
        return None
    if not (original.any() and coded.any()):
        return None
    pair = [resample(audio, sample_rate, PESQ_RATE_HZ) for audio in (original, coded)]
    length = min(len(audio) for audio in pair)
    try:
        score = float(pesq(PESQ_RATE_HZ, pair[0][:length], pair[1][:length], "wb"))
    except (PesqError, ValueError):
        return None
    return score if np.isfinite(score) else None


def _mean(scores: Iterable[float | None]) -> float | None:
    measured = [score for score in scores if score is not None]
    return sum(measured) / len(measured) if measured else None
