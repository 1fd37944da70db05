"""The letter model and the search that weighs it against a recognizer's letters."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixvoice import ctc_search
from pixvoice.ctc_search import best_text, log_softmax
from pixvoice.errors import BundleError, OptionError
from pixvoice.letter_model import LONGEST, LetterModel

ABC = " 'abcdefghijklmnopqrstuvwxyz"
CAPTIONS = ("a dog runs", "a dog sits", "two dogs run in the snow", "the dog is in the water")


def heard(text: str, sure: float = 6.0) -> np.ndarray:
    """Log-probabilities (T, V + 1): each letter for a frame, a blank after it."""
    logits = np.zeros((2 * len(text), len(ABC) + 1), np.float32)
    for n, letter in enumerate(text):
        logits[2 * n, ABC.index(letter)] = logits[2 * n + 1, -1] = sure
    return log_softmax(logits)


@pytest.fixture(scope="module")
def model() -> LetterModel:
    return LetterModel.learn(CAPTIONS, ABC, 5)


@given(context=st.text(ABC, max_size=4), order=st.integers(1, 5))
def test_the_letters_after_any_context_have_probabilities(context: str, order: int) -> None:
    model = LetterModel.learn(CAPTIONS, ABC, order)
    found = np.exp(model.log_probs(context[: order - 1]))
    assert found.sum() == pytest.approx(1.0) and (found > 0).all()


def test_what_was_seen_is_likelier_and_a_longer_context_knows_more(model: LetterModel) -> None:
    after = dict(zip(ABC, model.log_probs(" do"), strict=True))
    assert max(after, key=after.__getitem__) == "g"
    assert after["g"] > dict(zip(ABC, model.log_probs("o"), strict=True))["g"]
    assert model.log_probs("zzzz") == model.log_probs("")  # never seen: as if there were no context


def test_a_saved_model_is_the_same(model: LetterModel) -> None:
    again = LetterModel.load(model.save(), ABC, "here")
    assert again.order == 5 and again.save() == model.save()
    assert again.log_probs(" do") == model.log_probs(" do")


def test_what_is_no_letter_model_is_one_line(model: LetterModel) -> None:
    for data, letters in ((b"", ABC), (model.save()[:-9], ABC), (model.save(), " abc")):
        with pytest.raises(BundleError, match=r"^here: no letter model") as caught:
            LetterModel.load(data, letters, "here")
        assert "\n" not in str(caught.value)
    with pytest.raises(OptionError, match=f"give 1 to {LONGEST}"):
        LetterModel.learn(CAPTIONS, ABC, LONGEST + 1)
    with pytest.raises(OptionError, match="no text"):
        LetterModel.learn([], ABC, 3)


def test_letters_become_words_that_texts_know(model: LetterModel) -> None:
    assert best_text(heard("a dog runs"), model)[0] == "a dog runs"
    unsure = heard("a dag runs")
    unsure[2 * 3, [ABC.index("a"), ABC.index("o")]] = math.log(0.5), math.log(0.4)
    assert best_text(unsure, model)[0] == "a dog runs"


def test_what_is_clearly_heard_stays(model: LetterModel) -> None:
    assert best_text(heard("zebra", sure=20.0), model)[0] == "zebra"


def test_spaces_are_single_and_inside(model: LetterModel) -> None:
    assert best_text(heard("  a   dog "), model)[0] == "a dog"
    assert best_text(heard("aa dog", sure=20.0), model)[0] == "aa dog"  # a blank stands between the two
    assert best_text(np.zeros((0, len(ABC) + 1), np.float32), model)[0] == ""
    assert best_text(heard("   "), model)[0] == ""


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_a_wide_beam_finds_the_best_of_all_texts(seed: int) -> None:
    letters, frames = " ab", 4
    model = LetterModel.learn(("ab a", "b ab", "aab"), letters, 3)
    log_probs = log_softmax(2.0 * np.random.default_rng(seed).standard_normal((frames, 4)).astype(np.float32))
    paths: defaultdict[str, float] = defaultdict(float)
    for path in itertools.product(range(4), repeat=frames):
        merged = "".join(letters[i] for i, _ in itertools.groupby(path) if i < 3)
        said = " ".join(merged.split()) + (" " if merged.endswith(" ") and merged.strip() else "")
        paths[said] += math.exp(sum(float(log_probs[t, i]) for t, i in enumerate(path)))

    def score(text: str) -> float:
        spelled = 0.0
        for n, letter in enumerate(text):
            context = f" {text[:n]}"[-2:]
            spelled += ctc_search.WEIGHT * model.log_probs(context)[letters.index(letter)] + ctc_search.BONUS
        if text and not text.endswith(" "):
            spelled += ctc_search.WEIGHT * model.log_probs(f" {text}"[-2:])[0]
        return math.log(paths[text]) + spelled

    found, found_score = best_text(log_probs, model, beam=10_000)
    best = max(score(text) for text in paths)
    assert max(score(text) for text in (found, f"{found} ") if text in paths) == pytest.approx(best, abs=0.01)
    assert found_score == pytest.approx(best, abs=0.01)
