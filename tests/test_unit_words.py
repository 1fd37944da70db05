"""Word-like segments of units: what is cut from speech, what a token is spoken as, and their way through trainings."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixvoice.errors import BundleError, InputError, OptionError
from pixvoice.unit_words import LONGEST_FRAMES, LONGEST_UNITS, Spans, UnitWords

UNITS, WIDTH = 6, 5
units = st.lists(st.integers(0, UNITS - 1), min_size=1, max_size=12).map(lambda values: np.array(values, np.int64))


def frames_of(said: np.ndarray) -> np.ndarray:
    """Frames (F, D) that are the same for the same unit."""
    return np.random.default_rng(0).normal(size=(UNITS, WIDTH)).astype(np.float32)[said]


def words(price: float = 0.3) -> UnitWords:
    """Three words of one to three units."""
    spoken = [np.array(one) for one in ([0], [1, 1, 2], [3, 4, 5, 5])]
    shapes = [Spans.of(one).shapes(frames_of(one))[Spans.of(one).lengths == len(one)][0] for one in spoken]
    return UnitWords(np.zeros(WIDTH, np.float32), np.eye(WIDTH, dtype=np.float32), np.stack(shapes), spoken, price)


def all_cuts(changes: list[int]) -> Iterator[list[int]]:
    """Every choice of the inner changes of unit, with both ends."""
    inner = changes[1:-1]
    for chosen in range(2 ** len(inner)):
        yield [changes[0], *(c for bit, c in enumerate(inner) if chosen >> bit & 1), changes[-1]]


@given(units, st.floats(0, 3))
def test_no_other_cut_is_cheaper(said: np.ndarray, price: float) -> None:
    found, frames = words(price), frames_of(said)

    def cost(begin: int, end: int) -> float:
        spans = Spans.of(said)
        shape = spans.shapes(frames)[(spans.begins == begin) & (spans.ends == end)][0]
        return float((end - begin) * np.square(found.middles - shape).sum(1).min() + price)

    tokens, lengths = found.cut(frames, said)
    ends = np.cumsum([0, *lengths]).tolist()
    assert len(tokens) == len(lengths) and ends[-1] == len(said)
    changes = np.flatnonzero(np.diff(said, prepend=-1, append=-1)).tolist()
    assert set(ends) <= set(changes)
    cheapest = min(
        sum(cost(*span) for span in pairwise(cut))
        for cut in all_cuts(changes)
        if all(changes.index(b) - changes.index(a) <= LONGEST_UNITS for a, b in pairwise(cut))
    )
    assert sum(cost(*span) for span in pairwise(ends)) == pytest.approx(cheapest, rel=1e-3, abs=1e-3)


@given(st.lists(st.integers(0, UNITS - 1), max_size=60), st.lists(st.integers(1, 30), min_size=60, max_size=60))
def test_every_recording_can_be_cut(said: list[int], lengths: list[int]) -> None:
    frames = np.repeat(np.array(said, np.int64), lengths[: len(said)])
    spans = Spans.of(frames)
    cut = spans.cheapest(np.ones(len(spans.begins)))
    assert spans.lengths[cut].sum() == len(frames)
    single = spans.after - spans.before == 1
    assert (spans.lengths[~single] <= LONGEST_FRAMES).all()
    found = words()
    tokens, lasting = found.cut(frames_of(frames), frames)
    assert len(found.stretched(tokens, lasting)) == len(frames)


def test_a_word_is_spoken_as_its_units() -> None:
    found = words()
    assert found.decode(np.array([1, 0, 2])).tolist() == [1, 1, 2, 0, 3, 4, 5, 5]
    assert found.decode(np.zeros(0, np.int64)).tolist() == []
    assert found.stretched(np.array([1, 2]), np.array([6, 2])).tolist() == [1, 1, 1, 1, 2, 2, 4, 5]


def test_words_that_were_said_are_found() -> None:
    """Recordings of four words, each said faster or slower and never twice with the same frames."""
    rng = np.random.default_rng(0)
    templates = [rng.permutation(12)[:4] for _ in range(4)]
    means = rng.normal(size=(12, 16)).astype(np.float32)
    said, frames = [], []
    for _ in range(60):
        chosen = rng.integers(4, size=6)
        one = np.concatenate([np.repeat(templates[word], rng.integers(1, 4)) for word in chosen])
        said.append(one)
        frames.append(means[one] + rng.normal(size=(len(one), 16)).astype(np.float32) * 0.05)
    pieces = [rng.integers(3, 6, size=6) for _ in said]
    found = UnitWords.learn(frames, said, pieces, 12, 40.0, seed=0)
    tokens = [found.cut(*one)[0] for one in zip(frames, said, strict=True)]
    assert np.mean([len(one) for one in tokens]) == pytest.approx(6, abs=1.0)  # words, and not their 24 units
    again = [found.stretched(*found.cut(*one)) for one in zip(frames, said, strict=True)]
    assert np.mean(np.concatenate(again) == np.concatenate(said)) > 0.9


def test_too_few_spans() -> None:
    said = np.array([0, 0, 1, 1, 2])
    with pytest.raises(InputError, match="1 spans of speech are too few for 2 words: give more recordings"):
        UnitWords.learn([frames_of(said)], [said], [np.array([3])], 2, 1.0, 0)


def test_they_are_kept(tmp_path: Path) -> None:
    found = words()
    (tmp_path / "words.safetensors").write_bytes(found.save())
    again = UnitWords.load(tmp_path / "words.safetensors")
    assert again.save() == found.save() and again.price == pytest.approx(0.3) and again.size == 3
    assert again.fits(UNITS, WIDTH) and not again.fits(5, WIDTH) and not again.fits(UNITS, 4)


def test_files_that_hold_no_words(tmp_path: Path) -> None:
    from safetensors.numpy import load, save

    with pytest.raises(BundleError, match="train the units with `words` above 0"):
        UnitWords.load(tmp_path / "none")
    arrays = load(words().save())
    short, below = arrays["lengths"].copy(), arrays["spoken"].copy()
    short[0], below[2] = 0, -1
    damaged = [
        b"", words().save()[:-5], save({"mean": arrays["mean"]}), save({**arrays, "lengths": short}),
        save({**arrays, "spoken": below}), save({**arrays, "basis": arrays["basis"][:3].copy()}),
        save({**arrays, "middles": arrays["middles"][:2].copy()}),
    ]  # fmt: skip
    for data in damaged:
        with pytest.raises(BundleError, match="no words that can be read"):
            UnitWords.read(data, "words.safetensors")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of units with words, of a vocoder that learned from them, and of a describer that says them."""
    pytest.importorskip("torch", reason="needs the train extra")
    pytest.importorskip("transformers", reason="needs the train extra")
    import tiny
    from test_small_units import spoken_photos, train

    folder = tmp_path_factory.mktemp("unit-words")
    spoken_photos(folder)
    train(folder, "units", "units", "crop_frames: 32\nclusters: 4\npairs: 4\nwords: 5\nword_price: 1.0")
    train(folder, "vocoder", "vocoder", f"crop_frames: 8\n{said(folder)}codec: {tiny.runs()['codec']}")
    spoken = f"crops: 0\nmax_frames: 50\nstudent: {tiny.runs()['student']}\n{said(folder, vocoder=folder / 'vocoder')}"
    train(folder, "describer", "words", spoken, "model.codebook_size=5")
    return folder


def said(folder: Path, **more: object) -> str:
    from test_small_units import speech

    return speech(folder, unit_words="true", merged="false", **more)


def test_words_through_trainings(place: Path) -> None:
    from pixvoice.describe.speaker import load_speaker
    from pixvoice.speech.pretrained import SpeechParts, load_speech_tokenizer
    from test_small_units import HOP, RATE, sequence

    tokenizer = load_speech_tokenizer(SpeechParts(**parts(place)), 1, 5)
    assert (tokenizer.num_codebooks, tokenizer.codebook_size, tokenizer.frame_rate) == (1, 5, 100.0)
    assert tokenizer.encode(np.zeros(0, np.float32)).shape == (1, 0)
    codes = tokenizer.encode(sequence(1))
    assert codes.dtype == np.int64 and 0 < codes.shape[1] < 50
    audio = tokenizer.decode(codes)
    assert len(audio) == HOP * len(UnitWords.load(place / "units" / "words.safetensors").decode(codes[0]))
    streamed = list(tokenizer.decode_stream([codes[:, :1], codes[:, 1:]]))
    np.testing.assert_array_equal(np.concatenate(streamed), audio)
    speaker = load_speaker(place / "words")
    with pytest.raises(OptionError, match="a describer of units can't go on from a beginning"):
        speaker.complete(place / "0.png", sequence(1))
    described = speaker.describe(place / "0.png", min_frames=3, max_frames=9)
    assert 3 <= described.codes.shape[1] <= 9 and described.sample_rate == RATE and described.seconds > 0


def test_words_that_do_not_fit(place: Path) -> None:
    from pixvoice.speech.pretrained import SpeechParts, load_speech_tokenizer
    from pixvoice.training.recipes import load_recipe

    for changes, fault in (
        ({"merged": True}, "unit_words: words are of the unit of each frame, not speech.merged: true"),
        ({"unit_pairs": 2}, "speech.unit_pairs: 2; give false and 0"),
        ({"units": None, "checkpoint": "facebook/hubert-base-ls960"}, "only units of our own training .* have words"),
    ):
        with pytest.raises(OptionError, match=fault):
            load_speech_tokenizer(SpeechParts(**{**parts(place), **changes}), 1, 5)
    with pytest.raises(OptionError, match="words: 5 need pairs, not pairs: 0"):
        load_recipe(place / "units.yaml", ("pairs=0",))


def parts(place: Path) -> dict[str, Any]:
    from test_small_units import RATE

    spoken = {"units": place / "units", "vocoder": place / "vocoder"}
    return {"sample_rate": RATE, "unit_words": True, "merged": False, **spoken}
