"""Scores without a written word, for languages that have none: is the photo found again, are the same units said?

* **Round trip.** A photo is described; the description's speech searches all evaluated photos; the rank of its own says
  how much of the photo is in it.  Ground-truth speech, searched with in the same way, is the ceiling.
* **Unit BLEU.** A description's speech as units, runs merged, against the units of every spoken caption of the photo,
  with BLEU's n-grams of units in place of words.  One spoken caption against the others is the height to compare with.

The judge, a search model, and the tokenizer of the units are the same for every row of a table.  Neither is perfect:
``correlations`` says how far they agree with the text scores.

Letters: N photos, D width, T units.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pixvoice.audio import SAMPLE_RATE, read_audio
from pixvoice.contracts import Audio, Codes, Floats, SearchModel, SpeechTokenizer
from pixvoice.errors import InputError, MissingToolError, OutputError, PixVoiceError
from pixvoice.evaluation.captions import METRICS
from pixvoice.evaluation.describe import Heard
from pixvoice.evaluation.photos import Photo, Speak, ground_truth_speech
from pixvoice.evaluation.preparation import prepare_for_recognition, resample
from pixvoice.evaluation.retrieval import RecallScores, speech_to_photo_ranks
from pixvoice.images import read_image
from pixvoice.runtime.indexing import PHOTO_SIDE

BLEU = ("bleu_1", "bleu_2", "bleu_3", "bleu_4")
FEWEST = 3  # rows that a correlation needs
Units = tuple[int, ...]


@dataclass(frozen=True)
class UnitBleu:
    """BLEU-1 to 4 of units, times 100."""

    bleu_1: float
    bleu_2: float
    bleu_3: float
    bleu_4: float

    def as_dict(self) -> dict[str, float]:
        """The scores by name, two digits."""
        return {key: round(value, 2) for key, value in vars(self).items()}


@dataclass(frozen=True)
class TextFreeScores:
    """Round trip and unit BLEU of descriptions; ceilings are those of the spoken captions, None where nobody spoke.

    ``unit_bleu`` is None where the photos have no spoken caption, ``unit_bleu_ceiling`` where they have only one.
    """

    round_trip: RecallScores
    round_trip_ceiling: RecallScores | None
    unit_bleu: UnitBleu | None
    unit_bleu_ceiling: UnitBleu | None
    judge: str
    n_photos: int

    def as_dict(self) -> dict[str, Any]:
        """One JSON object."""
        scored = (RecallScores, UnitBleu)
        return {key: value.as_dict() if isinstance(value, scored) else value for key, value in vars(self).items()}


@dataclass
class RoundTrip:
    """Takes what a ``DescribeEvaluation`` heard, photo by photo (``on_heard``), and scores it at the end.

    ``speak`` makes the speech where the data set has none.  ``on_failure`` is told of each recording that can't be
    used: its photo is scored without it.
    """

    judge: SearchModel
    tokenizer: SpeechTokenizer
    speak: Speak | None = None
    on_failure: Callable[[PixVoiceError], None] = lambda error: None
    _photos: list[Floats] = field(default_factory=list)
    _described: list[Floats] = field(default_factory=list)
    _spoken: dict[int, Floats] = field(default_factory=dict)
    _said: list[Units] = field(default_factory=list)
    _captions: list[list[Units]] = field(default_factory=list)

    def add(self, row: int, heard: Heard) -> None:
        """One photo with its description; ``row`` seeds the noise, as it does for the recognizer."""
        truth, captions = self._speech_of(heard.photo)
        clips = [self._prepared(heard.audio, heard.sample_rate, row)]
        clips += [] if truth is None else [self._prepared(truth, SAMPLE_RATE, row)]
        described, *spoken = self.judge.embed_speech(clips)[0]
        if spoken:
            self._spoken[len(self._photos)] = spoken[0]
        self._photos.append(self.judge.embed_photos([read_image(heard.photo.image, at_least=PHOTO_SIDE)])[0])
        self._described.append(described)
        self._said.append(self._units(heard.audio, heard.sample_rate))
        own = [] if truth is None else [truth]
        self._captions.append([self._units(audio, SAMPLE_RATE) for audio in [*own, *captions]])

    def finish(self) -> TextFreeScores:
        """The scores.  Raises InputError when no photo was added, MissingToolError without pycocoevalcap."""
        if not self._photos:
            raise InputError("nothing to score: give at least one photo that could be described")
        photos = np.stack(self._photos)
        rows = [row for row, captions in enumerate(self._captions) if captions]
        several = [row for row in rows if len(self._captions[row]) > 1 and row in self._spoken]
        return TextFreeScores(
            round_trip=_recall(np.stack(self._described), photos, range(len(photos))),
            round_trip_ceiling=_recall(np.stack([*self._spoken.values()]), photos, self._spoken)
            if self._spoken
            else None,
            unit_bleu=_bleu([self._said[row] for row in rows], [self._captions[row] for row in rows]),
            unit_bleu_ceiling=_bleu(
                [self._captions[row][0] for row in several], [self._captions[row][1:] for row in several]
            ),
            judge=self.judge.name,
            n_photos=len(photos),
        )

    def _speech_of(self, photo: Photo) -> tuple[Audio | None, list[Audio]]:
        """The ground-truth speech, and that of the photo's other captions."""
        try:
            truth = ground_truth_speech(photo, self.speak)
        except (InputError, OutputError):  # the evaluation itself has told it
            truth = None
        others: list[Audio] = []
        sources: Sequence[Any] = [path for path in photo.recordings if path != photo.recording]
        if photo.recording is None and self.speak is not None:
            sources = photo.other_captions
        for source in sources:
            try:
                others.append(self.speak(source) if isinstance(source, str) and self.speak else read_audio(source))
            except (InputError, OutputError) as error:
                self.on_failure(error)
        return truth, others

    def _prepared(self, audio: Audio, sample_rate: int, seed: int) -> Audio:
        rate = self.judge.sample_rate
        return prepare_for_recognition(resample(audio, sample_rate, rate), rate, seed)

    def _units(self, audio: Audio, sample_rate: int) -> Units:
        if not len(audio):
            return ()
        return merged(self.tokenizer.encode(resample(audio, sample_rate, self.tokenizer.sample_rate)))


def merged(codes: Codes) -> Units:
    """Codes (K, T) -> the ids of codebook 0, runs of equal ones merged."""
    first = codes[0]
    return tuple(first[np.flatnonzero(np.diff(first, prepend=-1))].tolist())


def _recall(speech: Floats, photos: Floats, owner: Sequence[int] | Mapping[int, Any] | range) -> RecallScores:
    return RecallScores.of(speech_to_photo_ranks(speech, photos, np.array(list(owner), np.int64)))


def _bleu(said: Sequence[Units], references: Sequence[Sequence[Units]]) -> UnitBleu | None:
    """None where there is nothing to compare.  Raises MissingToolError without pycocoevalcap."""
    if not said:
        return None
    try:
        from pycocoevalcap.bleu.bleu import Bleu
    except ImportError:
        raise MissingToolError("unit BLEU needs pycocoevalcap: pip install 'pixvoice[evaluate]'") from None
    wanted = {row: [_words(units) for units in group] for row, group in enumerate(references)}
    found = {row: [_words(units)] for row, units in enumerate(said)}
    scores, _ = Bleu(4).compute_score(wanted, found, verbose=0)
    return UnitBleu(*(100.0 * float(score) for score in scores))


def _words(units: Units) -> str:
    return " ".join(map(str, units))


@dataclass(frozen=True)
class Correlation:
    """How far two scores agree over several rows: Pearson's of the values, Spearman's of their order; -1 to 1."""

    pearson: float
    spearman: float


def correlations(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Correlation | None]]:
    """Results of ``evaluate describe --round-trip --json`` -> text-free score -> text score -> their correlation.

    Rows without text-free scores are left out.  None where fewer than three rows have both, or all are equal in one.  A
    median rank is better when it is lower, so that its correlations are negative where the scores agree.

    Raises MissingToolError without SciPy.
    """
    try:
        from scipy import stats
    except ImportError:
        raise MissingToolError("correlations need SciPy: pip install 'pixvoice[evaluate]'") from None

    def correlate(one: str, other: str) -> Correlation | None:
        pairs = [(free[one], row[other]) for free, row in rows if one in free and row.get(other) is not None]
        first, second = ([pair[side] for pair in pairs] for side in (0, 1))
        if len(pairs) < FEWEST or len(set(first)) == 1 or len(set(second)) == 1:
            return None
        return Correlation(*(float(f(first, second).statistic) for f in (stats.pearsonr, stats.spearmanr)))

    rows = [(_flat(result["text_free"]), result) for result in results if result.get("text_free")]
    names = list(dict.fromkeys(name for free, _ in rows for name in free))
    return {name: {metric: correlate(name, metric) for metric in METRICS} for name in names}


def _flat(scores: Mapping[str, Any]) -> dict[str, float]:
    """``round_trip_r_at_1``, ..., ``unit_bleu_4`` of one row's text-free scores."""
    trip, units = scores["round_trip"], scores.get("unit_bleu") or {}
    return {f"round_trip_{name}": value for name, value in trip.items()} | {
        f"unit_{name}": value for name, value in units.items()
    }
