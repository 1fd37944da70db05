"""Emotion on RAVDESS: actors never heard in training, in the paper's four classes or in all eight."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pixvoice.audio import read_audio
from pixvoice.data.ravdess import EMOTIONS, RavdessClip
from pixvoice.errors import InputError, MissingToolError, OptionError, OutputError, PixVoiceError
from pixvoice.files import write_bytes_atomically
from pixvoice.retrieve.emotion import MODES
from pixvoice.training.emotion import Heard, fit_probe, on_each_actor, scores, tune
from pixvoice.words import ngrams

if TYPE_CHECKING:
    from pixvoice.contracts import Audio, Floats
    from pixvoice.retrieve.model import DualChannel
    from pixvoice.speech.ctc import CTCRecognizer

Names = dict[str, tuple[str, ...]]

FOUR: Names = {
    "neutral": ("neutral", "calm"),
    "happy": ("happy",),
    "sad": ("sad",),
    "angry": ("angry",),
}
"""The four classes of BrewCLIP's released code; the other recordings are left out."""
EIGHT: Names = {emotion: (emotion,) for emotion in EMOTIONS}
FIRST_TEST_ACTOR = 19  # of the four classes: actors 1 to 18 train
FOLD_ACTORS = 4  # of the eight classes: actors 1-4, 5-8, ..., 21-24
BUCKETS = 512  # that the letter n-grams of a text are spread over
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Fold:
    """Actors that were left out of a training, and how well they were then recognised (0 to 100)."""

    actors: list[int]
    n_clips: int
    accuracy: float


@dataclass(frozen=True)
class EmotionResult:
    """Accuracies are 0 to 100; ``confusion[i][j]`` counts recordings of class i that were taken for class j.

    ``accuracy_std``: over the folds, of which four classes have one.  ``words_accuracy``: the same kind of head on
    nothing but the recogniser's words; ``sentence_accuracy``: on nothing but which of the two sentences was said.
    """

    accuracy: float
    unweighted_accuracy: float
    accuracy_std: float
    classes: int
    labels: list[str]
    mode: str
    per_actor: bool
    n_clips: int
    n_train: int
    n_failed: int
    folds: list[Fold]
    confusion: list[list[int]]
    sentence_accuracy: float
    words_accuracy: float

    def as_dict(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        return asdict(self)


@dataclass(frozen=True)
class EmotionTask:
    """What is asked: 4 or 8 classes, a mode, and whether each actor's features are centred on that actor.

    Raises OptionError for what can't be.
    """

    classes: int = 8
    mode: str = "probe"
    per_actor: bool = False
    threads: int = 1
    epochs: int | None = None

    def __post_init__(self) -> None:
        if self.classes not in (4, 8):
            raise OptionError(f"classes {self.classes}: use 8, or 4 (neutral and calm, happy, sad, angry)")
        if self.mode not in MODES:
            raise OptionError(f"mode {self.mode!r}: use one of {', '.join(MODES)}")
        if self.per_actor and self.mode != "probe":
            raise OptionError(f"--per-actor goes with --mode probe, not with {self.mode}; leave one of them out")

    @property
    def names(self) -> Names:
        """The emotions of each class."""
        return EIGHT if self.classes == 8 else FOUR

    def select(self, clips: Sequence[RavdessClip]) -> list[RavdessClip]:
        """The recordings of these classes."""
        wanted = {emotion for emotions in self.names.values() for emotion in emotions}
        return [clip for clip in clips if clip.emotion in wanted]

    def folds(self, actors: Iterable[int]) -> list[set[int]]:
        """The actors to leave out, a set for each training.  Raises InputError where there is nothing to train on."""
        present = set(actors)
        if self.classes == 4:
            parts = [{actor for actor in present if actor >= FIRST_TEST_ACTOR}]
            need = f"actors 1 to {FIRST_TEST_ACTOR - 1} to train on and {FIRST_TEST_ACTOR} to 24 to test on"
        else:
            numbers = sorted({(actor - 1) // FOLD_ACTORS for actor in present})
            parts = [{actor for actor in present if (actor - 1) // FOLD_ACTORS == number} for number in numbers]
            need = "actors of at least two of the groups 1-4, 5-8, 9-12, 13-16, 17-20, 21-24"
        if not parts or not all(parts) or any(part == present for part in parts):
            given = ", ".join(map(str, sorted(present))) or "none"
            raise InputError(f"{self.classes} classes need {need}; the folder has actors {given}")
        return parts


def read_clips(
    clips: Iterable[RavdessClip],
    sample_rate: int,
    kept: list[RavdessClip],
    on_failure: Callable[[PixVoiceError], None],
) -> Iterator[Audio]:
    """The audio (L,) at ``sample_rate`` Hz of each recording that can be read, and ``kept`` then has it."""
    for clip in clips:
        try:
            audio = read_audio(clip.path, sample_rate)
        except InputError as error:
            on_failure(error)
            continue
        kept.append(clip)
        yield audio


def evaluate_emotion(
    clips: Sequence[RavdessClip],
    heard: Heard,
    start: tuple[CTCRecognizer, DualChannel | None],
    task: EmotionTask,
    n_failed: int = 0,
) -> EmotionResult:
    """Train without the actors of each fold, and recognise theirs; ``heard`` is of ``clips``, from ``start``.

    Raises InputError for too few actors.
    """
    classes = list(task.names)
    of_emotion = {emotion: classes.index(name) for name, emotions in task.names.items() for emotion in emotions}
    labels = np.array([of_emotion[clip.emotion] for clip in clips], np.int64)
    actors = np.array([clip.actor for clip in clips], np.int64)
    folds = task.folds(actors.tolist())
    said = _text_features([clip.statement for clip in clips])
    words = _text_features(heard.texts)
    guesses = {name: np.full(len(labels), -1) for name in ("fused", "sentence", "words")}
    for left_out in folds:
        unheard = np.isin(actors, list(left_out))
        guesses["fused"][unheard] = _recognise(heard, labels, actors, unheard, start, task)
        for name, features in (("sentence", said), ("words", words)):
            groups = ((BUCKETS, 1.0),)
            guesses[name][unheard] = _probe(features, groups, labels, actors, unheard, len(classes))
    tested = guesses["fused"] >= 0
    right = {name: 100.0 * float((guess == labels)[tested].mean()) for name, guess in guesses.items()}
    results = [_fold(left_out, actors, guesses["fused"] == labels) for left_out in folds]
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(confusion, (labels[tested], guesses["fused"][tested]), 1)
    recalls = [confusion[i, i] / row.sum() for i, row in enumerate(confusion) if row.sum()]
    return EmotionResult(
        accuracy=right["fused"],
        unweighted_accuracy=100.0 * float(np.mean(recalls)),
        accuracy_std=float(np.std([fold.accuracy for fold in results])),
        classes=len(classes),
        labels=classes,
        mode=task.mode,
        per_actor=task.per_actor,
        n_clips=int(tested.sum()),
        n_train=int((~tested).sum()) if task.classes == 4 else len(labels),
        n_failed=n_failed,
        folds=results,
        confusion=confusion.tolist(),
        sentence_accuracy=right["sentence"],
        words_accuracy=right["words"],
    )


def _fold(left_out: set[int], actors: Labels, right: npt.NDArray[np.bool_]) -> Fold:
    own = np.isin(actors, list(left_out))
    return Fold(sorted(left_out), int(own.sum()), 100.0 * float(right[own].mean()))


def _recognise(
    heard: Heard,
    labels: Labels,
    actors: Labels,
    unheard: npt.NDArray[np.bool_],
    start: tuple[CTCRecognizer, DualChannel | None],
    task: EmotionTask,
) -> Labels:
    """Classes of the ``unheard`` recordings, by a model trained on the others."""
    if task.mode == "probe":
        features = on_each_actor(heard.features, actors) if task.per_actor else heard.features
        return _probe(features, heard.groups, labels, actors, unheard, len(task.names))
    features, groups = heard.features[:, :, : heard.tunable], heard.groups[:2]
    probe = fit_probe(features[:, ~unheard], groups, labels[~unheard], actors[~unheard], len(task.names))
    rows = np.flatnonzero(~unheard)
    net = tune(task.mode, heard, rows, labels, start, probe, epochs=task.epochs, threads=task.threads)
    best: Labels = scores(net, heard, np.flatnonzero(unheard), task.mode == "all").argmax(axis=1)
    return best


def _probe(
    features: Floats,
    groups: Sequence[tuple[int, float]],
    labels: Labels,
    actors: Labels,
    unheard: npt.NDArray[np.bool_],
    classes: int,
) -> Labels:
    standard, head = fit_probe(features[:, ~unheard], groups, labels[~unheard], actors[~unheard], classes)
    best: Labels = head(standard(features[0, unheard])).argmax(axis=1)
    return best


def _text_features(texts: Sequence[str]) -> Floats:
    """Texts (N of them) -> how often each bucket of letter n-grams comes, (1, N, BUCKETS)."""
    counts = np.zeros((len(texts), BUCKETS), np.float32)
    for row, text in zip(counts, texts, strict=True):
        for word in text.lower().split():
            np.add.at(row, list(ngrams(word, BUCKETS)), 1.0)
    return counts[None]


def confusion_picture(result: EmotionResult) -> bytes:
    """The confusion matrix in percent of each true class, as a PNG file's bytes.

    Raises MissingToolError without matplotlib.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingToolError("the picture needs matplotlib: pip install 'pixvoice[evaluate]'") from None
    counts = np.array(result.confusion, float)
    percent = 100.0 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1.0)
    side = 2.6 + 0.62 * result.classes
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(percent, cmap="Blues", vmin=0, vmax=100)
    ticks = range(result.classes)
    axes.set_xticks(ticks, result.labels, rotation=45, ha="right")
    axes.set_yticks(ticks, result.labels)
    axes.set_xlabel("recognised")
    axes.set_ylabel("acted")
    for i, row in enumerate(percent):
        for j, value in enumerate(row):
            axes.text(j, i, f"{value:.0f}", ha="center", va="center", color="white" if value > 55 else "black")
    title = (
        f"RAVDESS, actors not heard in training, mode {result.mode}\n{result.accuracy:.1f} % of {result.n_clips} right"
    )
    axes.set_title(title, fontsize=10)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    return picture.getvalue()


def write_report(result: EmotionResult, folder: Path) -> Path:
    """Write ``confusion.png`` into ``folder`` and return its path.  Raises OutputError, MissingToolError."""
    picture = confusion_picture(result)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: can't be made ({error.strerror}); give another --report folder") from None
    write_bytes_atomically(folder / "confusion.png", picture)
    return folder / "confusion.png"
