"""Scores of completed descriptions, on speech whose words are known: a word is a tenth of a second of one level."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

import pixvoice
import tiny
from pixvoice.audio import write_wav
from pixvoice.cli import app
from pixvoice.contracts import Audio, Recognizer
from pixvoice.errors import InputError, MissingToolError, OptionError, PixVoiceError
from pixvoice.evaluation import recognizers
from pixvoice.evaluation.complete import CompleteEvaluation, CompleteResult, after
from pixvoice.evaluation.photos import gather_photos
from pixvoice.manifest import Sample

pytestmark = pytest.mark.usefixtures("java")

RATE = 16_000
WORD = 1_600  # samples
CAPTIONS = [
    ["A black dog runs .", "The dog is running in deep snow ."],
    ["Two men play football .", "Men in red fight for the ball ."],
    ["The girl climbs stairs .", "A child goes up ."],
]
WORDS = sorted({word for group in CAPTIONS for text in group for word in text.lower().split() if word != "."} | {"cat"})


def speech(text: str) -> Audio:
    """Each word at its own level, the first at 0.05."""
    levels = [0.05 + 0.01 * WORDS.index(word) for word in text.lower().split() if word != "."]
    return np.repeat(np.array(levels, np.float32), WORD)


class LevelRecognizer(Recognizer):
    name, sample_rate = "by level", RATE

    def transcribe(self, audio: Sequence[Audio]) -> list[str]:
        spoken = [clip[4_800 : len(clip) - 4_800] for clip in audio]  # without the padding of the preparation
        blocks = [clip[: len(clip) // WORD * WORD].reshape(-1, WORD).mean(axis=1) for clip in spoken]
        return [" ".join(WORDS[round((level - 0.05) / 0.01)] for level in levels) for levels in blocks]


@dataclass
class Completing:
    """Describes by ``described``; goes on from whole words with the photo's ``ends``."""

    described: Sequence[str] = ("a black cat", "two men", "the girl climbs stairs")
    ends: Sequence[str] = ("dog runs", "play football", "climbs stairs")
    sample_rate: int = RATE
    given: list[int] = field(default_factory=list)
    bundle: Any = field(
        default_factory=lambda: SimpleNamespace(
            info=SimpleNamespace(name="fake", describer=SimpleNamespace(pattern="delay"))
        )
    )

    def describe(self, image: Path, *, seed: int) -> Any:
        return self._said(speech(self.described[self._row(image)]), 0)

    def complete(self, image: Path, beginning: Audio, *, seed: int) -> Any:
        self.given.append(len(beginning))
        whole = beginning[: len(beginning) // WORD * WORD]
        return self._said(np.concatenate([whole, speech(self.ends[self._row(image)])]), len(whole))

    def _said(self, audio: Audio, cut: int) -> Any:
        return SimpleNamespace(audio=audio, sample_rate=RATE, generated_from_s=cut / RATE)

    def _row(self, image: Path) -> int:
        if not image.exists():
            raise InputError(f"{image}: no such file; check the path")
        return int(image.stem)


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    """Three photos, the first caption of each spoken."""
    found = []
    for row, captions in enumerate(CAPTIONS):
        image, audio = tmp_path / f"{row}.jpg", tmp_path / f"{row}.wav"
        image.write_bytes(b"a photo")
        write_wav(audio, speech(captions[0]), RATE)
        found += [Sample(image, audio, captions[0], split="dev"), Sample(image, None, captions[1], split="dev")]
    return found


def run(samples: list[Sample], describer: Completing, *percents: int, **options: Any) -> list[CompleteResult]:
    photos = gather_photos(samples)
    return CompleteEvaluation(describer, LevelRecognizer(), "fake", "delay", percents, **options).run(photos)


# --- words


@pytest.mark.parametrize(
    ("heard", "text", "rest"),
    [
        ("", "A dog runs .", "a dog runs"),
        ("a dog", "A dog runs .", "runs"),
        ("a dog ru", "A dog runs .", ""),  # at least half of the word was heard
        ("a dog r", "A dog runs .", "runs"),
        ("a dark", "A dog runs .", "runs"),  # misheard
        ("somebody else speaks of things", "A dog runs .", ""),
        ("the for kids", "The four kids ride .", "ride"),
        ("a tri colored", "A tri-colored dog", "dog"),
    ],
)
def test_words_that_were_given_are_cut_off(heard: str, text: str, rest: str) -> None:
    assert after(heard, text) == rest


@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=8), st.integers(0, 8))
def test_a_beginning_heard_right_leaves_the_rest(words: list[str], count: int) -> None:
    count = min(count, len(words))
    assert after(" ".join(words[:count]), " ".join(words)).split() == words[count:]


@given(st.text("abc d", max_size=20), st.text("abc d", max_size=20), st.integers(0, 2))
def test_what_is_left_is_an_end_of_the_text(heard: str, text: str, keep: int) -> None:
    rest, words = after(heard, text, keep).split(), text.split()
    assert words[len(words) - len(rest) :] == rest
    assert len(rest) >= min(keep, len(words))


# --- scores


def test_a_perfect_completion_has_its_ceiling_alone_and_as_a_whole(samples: list[Sample]) -> None:
    describer = Completing()
    none, half = run(samples, describer, 0, 50)
    assert (none.percent, half.percent, half.n_photos, half.n_failed) == (0, 50, 3, 0)
    assert half.whole == half.ceiling
    assert half.generated == half.ceiling_generated
    assert half.generated.bleu_1 == pytest.approx(100.0)
    assert half.generated_all.bleu_1 < half.whole.bleu_1  # a part can't be as long as a whole
    assert (half.given_seconds, half.generated_seconds) == (pytest.approx(0.2), pytest.approx(0.2))
    assert describer.given == [2 * WORD] * 3
    assert none.whole == none.generated_all
    assert none.unprompted is None
    assert (none.given_seconds, none.ceiling) == (0.0, half.ceiling)


def test_what_was_given_is_no_merit_of_the_describer(samples: list[Sample]) -> None:
    """One that always goes on wrongly has points for the whole and none for what it did."""
    [result] = run(samples, Completing(ends=["cat cat"] * 3), 50)
    assert result.whole.bleu_1 == pytest.approx(50.0)
    assert result.generated.bleu_1 == pytest.approx(0.0, abs=1e-6)
    assert result.generated_all.bleu_1 == pytest.approx(0.0, abs=1e-6)
    assert result.unprompted is None  # nobody asked for 0 %


def test_without_a_beginning_the_same_words_are_compared(samples: list[Sample]) -> None:
    """Of "a black cat" the third word stands where "dog runs" was to come; "two men" has nothing there."""
    _, half = run(samples, Completing(), 50, 0)[::-1]
    assert half.unprompted is not None
    assert half.percent == 50
    rights, length, wanted = 2, 3, 6  # "climbs stairs" of "cat climbs stairs"
    assert half.unprompted.bleu_1 == pytest.approx(100 * rights / length * np.exp(1 - wanted / length), rel=1e-3)


def test_a_photo_that_fails_is_left_out_of_every_row(samples: list[Sample]) -> None:
    (samples[0].image).unlink()
    assert samples[2].audio is not None
    samples[2].audio.unlink()
    told: list[PixVoiceError] = []
    results = run(samples, Completing(), 0, 25, on_failure=told.append)
    assert [(result.n_photos, result.n_failed) for result in results] == [(1, 2), (1, 2)]
    assert [str(error).split(":")[0].split("/")[-1] for error in told] == ["0.jpg", "1.wav"]
    samples[4].image.unlink()
    with pytest.raises(InputError, match="not one photo"):
        run(samples, Completing(), 25)


@pytest.mark.parametrize("percents", [(-1,), (91,), (0, 100), ()])
def test_percentages_that_leave_nothing_to_complete_are_refused(percents: tuple[int, ...]) -> None:
    with pytest.raises(OptionError, match="0 to 90"):
        CompleteEvaluation(Completing(), LevelRecognizer(), "fake", "delay", percents)


def test_speech_is_made_where_there_is_none(samples: list[Sample]) -> None:
    silent = [Sample(sample.image, None, sample.text) for sample in samples[::2]]
    [result] = run(silent, Completing(), 50, speak=speech)
    assert result.generated.bleu_1 == pytest.approx(100.0)
    with pytest.raises(MissingToolError, match="no recording"):
        run(silent, Completing(), 50)


# --- the command


@pytest.fixture
def manifest(samples: list[Sample], tmp_path: Path) -> Path:
    rows = [
        {"image": sample.image.name, "text": sample.text, "split": "dev"}
        | ({"audio": sample.audio.name} if sample.audio else {})
        for sample in samples
    ]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "manifest.jsonl"


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pixvoice, "load", lambda bundle=None: Completing(), raising=False)
    monkeypatch.setattr(recognizers, "load_recognizer", lambda name, bundle=None: LevelRecognizer())


def evaluate(*arguments: object) -> Result:
    result = CliRunner().invoke(app, ["evaluate", "complete", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.mark.usefixtures("fakes")
def test_json_has_a_row_for_each_bundle_and_percentage(manifest: Path) -> None:
    values = json.loads(evaluate(manifest, "--bundle", "one", "--bundle", "two", "--json").stdout)
    rows = values["rows"]
    names = [(row["name"], row["percent"]) for row in rows]
    assert names == [(f"fake ({place})", percent) for place in ("one", "two") for percent in (0, 25, 50)]
    assert rows[2]["generated"]["bleu_1"] == 100.0
    assert rows[2]["unprompted"]["bleu_1"] < 100.0 and rows[0]["unprompted"] is None
    assert {**values, "rows": None} == {**rows[0], "rows": None}
    assert values["pattern"] == "delay" and values["recognizer"] == "by level"


@pytest.mark.usefixtures("fakes")
def test_the_table_has_each_way_of_scoring_and_the_published_rows(manifest: Path) -> None:
    result = evaluate(manifest, "--percent", 25, "--percent", 0, "--limit", 2)
    assert result.exit_code == 0
    for text in ("as published", "PixVoxLM-Delay, 25 %, published", "fake, 0 %", "fake, 25 %", "without a beginning"):
        assert text in result.stdout
    assert "50 %" not in result.stdout and "2 photos, 0 failed" in result.stdout
    assert "table II" in result.stderr


@pytest.mark.usefixtures("fakes")
def test_a_failure_is_named_and_the_exit_status_is_1(manifest: Path) -> None:
    (manifest.parent / "1.jpg").unlink()
    result = evaluate(manifest, "--percent", 50, "--json")
    assert result.exit_code == 1 and "1.jpg: no such file" in result.stderr
    assert json.loads(result.stdout)["n_photos"] == 2
    with pytest.raises(OptionError, match="percent 95"):
        evaluate(manifest, "--percent", 95)


@pytest.mark.usefixtures("fakes")
def test_a_data_set_without_speech_needs_an_engine(manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pixvoice.speech.synthesizer.ENGINES", ())
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    manifest.write_text("".join(json.dumps({**row, "audio": None}) + "\n" for row in rows))
    with pytest.raises(MissingToolError, match="engine"):
        evaluate(manifest)


@pytest.mark.parametrize("pattern", ["delay", "parallel"])
def test_a_real_bundle_is_evaluated(manifest: Path, encoded: Any, pattern: str) -> None:
    noise = np.random.default_rng(0).normal(0, 0.2, 9_600).astype(np.float32)
    for row in range(3):
        (manifest.parent / f"{row}.jpg").write_bytes(encoded("JPEG"))
        write_wav(manifest.parent / f"{row}.wav", noise, RATE)
    result = evaluate(manifest, "--limit", 2, "--percent", 50, "--bundle", tiny.bundle(pattern), "--json")
    rows = json.loads(result.stdout)["rows"]
    assert result.exit_code == 0
    assert [(row["pattern"], row["percent"], row["n_photos"]) for row in rows] == [(pattern, 50, 2)]
    assert rows[0]["given_seconds"] == 0.28
    assert rows[0]["generated_seconds"] > 0
