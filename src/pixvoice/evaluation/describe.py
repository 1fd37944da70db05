"""Photos described aloud, heard by a recognizer, scored against what people wrote about them.

Beside each score stands its ceiling: the data set's own spoken captions through the same recognizer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pixvoice.audio import SAMPLE_RATE
from pixvoice.contracts import Audio, Recognizer, SpeechTokenizer
from pixvoice.errors import BundleError, InputError, OutputError, PixVoiceError
from pixvoice.evaluation.captions import CaptionScores, caption_scores
from pixvoice.evaluation.photos import Photo, Speak, ground_truth_speech
from pixvoice.evaluation.preparation import Listener, resample
from pixvoice.evaluation.wer import word_error_rate

if TYPE_CHECKING:
    from pixvoice.evaluation.round_trip import TextFreeScores

SEED = 0


class Spoken(Protocol):
    """What is read of a ``pixvoice.Description``."""

    @property
    def audio(self) -> Audio: ...
    @property
    def sample_rate(self) -> int: ...


class Describes(Protocol):
    """What is asked of a ``pixvoice.Describer``."""

    def describe(self, image: Path, *, seed: int) -> Spoken: ...


@dataclass(frozen=True)
class Heard:
    """One photo: what the describer said and what the ground truth said, as the recognizer heard both."""

    photo: Photo
    text: str
    audio: Audio  # (L,)
    sample_rate: int
    compute_s: float
    truth: str | None = None  # None without ground-truth speech
    truth_resynthesised: str | None = None  # None without that or without a codec

    @property
    def duration_s(self) -> float:
        """Length of the description (seconds)."""
        return len(self.audio) / self.sample_rate


@dataclass(frozen=True)
class DescribeResult:
    """Scores of a describer on a data set; word error rates in percent, None where there was nothing to measure."""

    scores: CaptionScores
    ceiling: CaptionScores | None
    ceiling_leave_one_out: CaptionScores | None
    wer: float | None
    wer_resynthesised: float | None
    recognizer: str
    n_photos: int
    n_failed: int
    speech_seconds_per_photo: float
    real_time_factor: float | None  # seconds of computing for one second of speech: under 1 is faster than speaking
    text_free: TextFreeScores | None = None  # None where nobody asked

    def as_dict(self) -> dict[str, Any]:
        """One JSON object: the scores at its top, then everything else by name."""
        rest = {key: value for key, value in vars(self).items() if key != "scores"}
        if self.text_free is None:
            del rest["text_free"]
        for key, value in rest.items():
            if isinstance(value, CaptionScores) or key == "text_free":
                rest[key] = value.as_dict()
            elif isinstance(value, float):
                rest[key] = round(value, 4 if key == "real_time_factor" else 2)
        return {**self.scores.as_dict(), **rest}


@dataclass
class DescribeEvaluation:
    """Runs each part once for each photo and keeps what was heard.

    ``speak`` makes the ground truth's speech where the data set has none; without it the ceiling stays None.
    ``on_failure`` is told of each photo or recording that can't be used, ``on_heard`` of each that could.
    """

    describer: Describes
    recognizer: Recognizer
    speak: Speak | None = None
    on_failure: Callable[[PixVoiceError], None] = lambda error: None
    on_heard: Callable[[int, Heard], None] = lambda row, heard: None
    heard: list[Heard] = field(default_factory=list)
    n_failed: int = 0
    _encodes: bool = True

    def run(self, photos: Iterable[Photo]) -> DescribeResult:
        """Describe, hear and score.  Raises InputError when not one photo could be described."""
        for row, photo in enumerate(photos):
            try:
                heard = self._one(row, photo)
            except InputError as error:
                self._failed(error)
                continue
            self.heard.append(heard)
            self.on_heard(row, heard)
        if not self.heard:
            raise InputError("not one photo could be described: run `pixvoice manifest check` on the manifest")
        return self._result()

    def _one(self, row: int, photo: Photo) -> Heard:
        listener = Listener(self.recognizer)
        begun = time.perf_counter()
        spoken = self.describer.describe(photo.image, seed=SEED)
        compute_s = time.perf_counter() - begun
        text = listener.hear(spoken.audio, spoken.sample_rate, row)
        truth = resynthesised = None
        try:
            speech = ground_truth_speech(photo, self.speak)
            if speech is not None:
                truth = listener.hear(speech, SAMPLE_RATE, row)
                coded = self._resynthesised(speech)
                resynthesised = None if coded is None else listener.hear(*coded, row)
        except (InputError, OutputError) as error:  # the photo's own description is still scored
            self._failed(error)
        return Heard(photo, text, spoken.audio, spoken.sample_rate, compute_s, truth, resynthesised)

    def _resynthesised(self, speech: Audio) -> tuple[Audio, int] | None:
        """Speech (L,) after the bundle's codec, with its rate (Hz); None for a bundle that can't encode speech."""
        tokenizer: SpeechTokenizer | None = getattr(self.describer, "tokenizer", None)
        if tokenizer is None or not self._encodes:
            return None
        try:
            codes = tokenizer.encode(resample(speech, SAMPLE_RATE, tokenizer.sample_rate))
        except BundleError as error:
            self._encodes = False
            self.on_failure(error)
            return None
        return tokenizer.decode(codes), tokenizer.sample_rate

    def _failed(self, error: PixVoiceError) -> None:
        self.n_failed += 1
        self.on_failure(error)

    def _result(self) -> DescribeResult:
        truths = [(one.photo, one.truth) for one in self.heard if one.truth is not None]
        resynthesised = [
            (one.photo, one.truth_resynthesised) for one in self.heard if one.truth_resynthesised is not None
        ]
        several = [(photo, text) for photo, text in truths if len(photo.captions) > 1]
        speech_s = sum(one.duration_s for one in self.heard)
        return DescribeResult(
            scores=caption_scores([one.text for one in self.heard], [one.photo.captions for one in self.heard]),
            ceiling=_scores(truths, [photo.captions for photo, _ in truths]),
            ceiling_leave_one_out=_scores(several, [photo.other_captions for photo, _ in several]),
            wer=_wer(truths),
            wer_resynthesised=_wer(resynthesised),
            recognizer=self.recognizer.name,
            n_photos=len(self.heard),
            n_failed=self.n_failed,
            speech_seconds_per_photo=speech_s / len(self.heard),
            real_time_factor=sum(one.compute_s for one in self.heard) / speech_s if speech_s else None,
        )


def _scores(heard: Sequence[tuple[Photo, str]], references: Sequence[Sequence[str]]) -> CaptionScores | None:
    return caption_scores([text for _, text in heard], references) if heard else None


def _wer(heard: Sequence[tuple[Photo, str]]) -> float | None:
    return word_error_rate([text for _, text in heard], [photo.spoken_caption for photo, _ in heard]) if heard else None
