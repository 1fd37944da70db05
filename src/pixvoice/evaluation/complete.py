"""Spoken captions broken off and completed by a describer, scored in three ways.

The published way scores the whole utterance against all captions of the photo.  It flatters: what was given is part of
one of them.  So what was generated is scored by itself too, in words:

* The recognizer hears the whole utterance, and the given part of it alone.  The words of the whole that come nearest to
  the given part are cut off its front; what is left was generated.
* The same is done to the caption that the recording speaks.  What is left of it is the only reference, for nobody can
  say where the other captions would have been broken off.  All captions, whole, are the reference once more, for
  comparison; a part can't match them in length.

The words of a caption's end are harder than those of its beginning ("a man ..."), so that what was generated after a
beginning doesn't compare with a whole description.  What does is ``unprompted``: the description that was made without
a beginning, as many words cut off its front as were given, against the same references.

A word that the cut goes through counts as given where at least half of it was heard.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pixvoice.audio import SAMPLE_RATE
from pixvoice.contracts import Audio, Recognizer
from pixvoice.errors import InputError, MissingToolError, OptionError, OutputError, PixVoiceError
from pixvoice.evaluation.captions import CaptionScores, caption_scores
from pixvoice.evaluation.describe import SEED, Spoken
from pixvoice.evaluation.photos import Photo, Speak, ground_truth_speech
from pixvoice.evaluation.preparation import Listener, resample
from pixvoice.evaluation.wer import normalize_words

PERCENTS = (0, 25, 50)  # as published
MOST_PERCENT = 90


class Completed(Spoken, Protocol):
    """What is read of a ``pixvoice.Description``."""

    @property
    def generated_from_s(self) -> float: ...


class Completes(Protocol):
    """What is asked of a ``pixvoice.Describer``."""

    @property
    def sample_rate(self) -> int: ...
    def describe(self, image: Path, *, seed: int) -> Completed: ...
    def complete(self, image: Path, beginning: Audio, *, seed: int) -> Completed: ...


@dataclass(frozen=True)
class Heard:
    """One photo at one percentage, as the recognizer heard it; ``truth`` is the whole recording."""

    photo: Photo
    whole: str
    given: str
    truth: str
    unprompted: str | None  # what was said where nothing was given; None where nobody asked
    given_s: float
    generated_s: float

    @property
    def generated(self) -> str:
        """The words of the whole utterance that were not given."""
        return after(self.given, self.whole)

    @property
    def truth_generated(self) -> str:
        """The words of the recording that were not given."""
        return after(self.given, self.truth)

    @property
    def rest(self) -> str:
        """The words of the spoken caption that were not given; at least its last one."""
        return after(self.given, self.photo.spoken_caption, keep=1)

    @property
    def unprompted_generated(self) -> str:
        """The words of the description without a beginning, from where the given words would end."""
        given = len(normalize_words(self.photo.spoken_caption).split()) - len(self.rest.split())
        return " ".join(normalize_words(self.unprompted or "").split()[given:])


@dataclass(frozen=True)
class CompleteResult:
    """Scores of one describer when ``percent`` of each recording was given; ceilings are those of the recordings."""

    name: str
    pattern: str
    percent: int
    whole: CaptionScores  # against all captions: as published
    ceiling: CaptionScores
    generated: CaptionScores  # against the rest of the caption that was broken off
    ceiling_generated: CaptionScores
    unprompted: CaptionScores | None  # the same of the description without a beginning; None where 0 % isn't asked
    generated_all: CaptionScores  # against all captions, whole
    given_seconds: float  # a photo
    generated_seconds: float  # a photo
    recognizer: str
    n_photos: int
    n_failed: int

    def as_dict(self) -> dict[str, Any]:
        """The fields by name, scores rounded to 0.01 as they are printed."""
        return {name: _plain(value) for name, value in vars(self).items()}


@dataclass
class CompleteEvaluation:
    """Completes one recording a photo at each percentage; a photo that fails at one is left out of all.

    ``speak`` makes the speech where the data set has none.  ``on_failure`` is told of each photo that can't be used.
    """

    describer: Completes
    recognizer: Recognizer
    name: str
    pattern: str
    percents: Sequence[int] = PERCENTS
    speak: Speak | None = None
    on_failure: Callable[[PixVoiceError], None] = lambda error: None
    n_failed: int = 0
    heard: dict[int, list[Heard]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse percentages that leave nothing to complete."""
        wrong = [percent for percent in self.percents if not 0 <= percent <= MOST_PERCENT]
        if wrong or not self.percents:
            raise OptionError(f"percent {', '.join(map(str, wrong))}: give whole numbers from 0 to {MOST_PERCENT}")
        self.heard = {percent: [] for percent in self.percents}

    def run(self, photos: Iterable[Photo]) -> list[CompleteResult]:
        """Complete, hear and score.  Raises InputError when not one photo could be used."""
        for row, photo in enumerate(photos):
            try:
                found = self._one(row, photo)
            except (InputError, OutputError) as error:
                self.n_failed += 1
                self.on_failure(error)
                continue
            for percent, heard in found.items():
                self.heard[percent].append(heard)
        if not all(self.heard.values()):
            raise InputError("not one photo could be completed: run `pixvoice manifest check` on the manifest")
        return [self._result(percent, heard) for percent, heard in self.heard.items()]

    def _one(self, row: int, photo: Photo) -> dict[int, Heard]:
        speech = ground_truth_speech(photo, self.speak)
        if speech is None:
            raise MissingToolError(
                f"{photo.image}: no recording to complete; give a data set with recordings, or an --engine that speaks"
            )
        truth = Listener(self.recognizer).hear(speech, SAMPLE_RATE, row)
        found: dict[int, Heard] = {}
        for percent in sorted(self.heard):
            unprompted = found[0].whole if 0 in found else None
            found[percent] = self._completed(row, photo, speech[: len(speech) * percent // 100], truth, unprompted)
        return found

    def _completed(self, row: int, photo: Photo, beginning: Audio, truth: str, unprompted: str | None) -> Heard:
        listener, describer = Listener(self.recognizer), self.describer
        if len(beginning):
            beginning = resample(beginning, SAMPLE_RATE, describer.sample_rate)
            said = describer.complete(photo.image, beginning, seed=SEED)
        else:
            said = describer.describe(photo.image, seed=SEED)
        cut = round(said.generated_from_s * said.sample_rate)
        given = listener.hear(said.audio[:cut], said.sample_rate, row) if cut else ""
        whole = listener.hear(said.audio, said.sample_rate, row)
        given_s, whole_s = cut / said.sample_rate, len(said.audio) / said.sample_rate
        return Heard(photo, whole, given, truth, unprompted, given_s, whole_s - given_s)

    def _result(self, percent: int, heard: Sequence[Heard]) -> CompleteResult:
        captions, rests = [one.photo.captions for one in heard], [[one.rest] for one in heard]
        generated = [one.generated for one in heard]
        compared = [one.unprompted_generated for one in heard if one.unprompted is not None]
        return CompleteResult(
            name=self.name,
            pattern=self.pattern,
            percent=percent,
            whole=caption_scores([one.whole for one in heard], captions),
            ceiling=caption_scores([one.truth for one in heard], captions),
            generated=caption_scores(generated, rests),
            ceiling_generated=caption_scores([one.truth_generated for one in heard], rests),
            unprompted=caption_scores(compared, rests) if compared else None,
            generated_all=caption_scores(generated, captions),
            given_seconds=sum(one.given_s for one in heard) / len(heard),
            generated_seconds=sum(one.generated_s for one in heard) / len(heard),
            recognizer=self.recognizer.name,
            n_photos=len(heard),
            n_failed=self.n_failed,
        )


def after(given: str, text: str, keep: int = 0) -> str:
    """The words of ``text`` after those that were ``given``; the last ``keep`` are never given.

    Given are the first words of ``text`` that come nearest to ``given``, by edit distance over letters; of two that
    come equally near, the more, so that no word is taken for generated that may have been given.  Raises
    MissingToolError without jiwer.
    """
    try:
        from jiwer import process_characters
    except ImportError as error:
        raise MissingToolError("scoring needs jiwer: pip install 'pixvoice[evaluate]'") from error
    words, heard = normalize_words(text).split(), normalize_words(given)
    if not heard:
        return " ".join(words)
    best, cut = len(heard), 0
    for count in range(1, len(words) - keep + 1):
        found = process_characters(" ".join(words[:count]), heard)
        distance = found.substitutions + found.deletions + found.insertions
        if distance <= best:
            best, cut = distance, count
    return " ".join(words[cut:])


def _plain(value: Any) -> Any:
    if isinstance(value, CaptionScores):
        return value.as_dict()
    return round(value, 2) if isinstance(value, float) else value
