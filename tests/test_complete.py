"""Going on from a spoken beginning: in codes, where the delay is applied once; in Python; on the command line."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import pixvoice
import tiny
from pixvoice.audio import read_audio, wav_bytes, write_wav
from pixvoice.cli import run
from pixvoice.contracts import Audio
from pixvoice.errors import InputError, OptionError
from pixvoice.patterns import Pattern, make_pattern
from pixvoice.runtime.bundle import EMBEDDED, Bundle
from pixvoice.runtime.decoders import OnnxSpeechDecoder
from pixvoice.runtime.decoding import DecodingOptions, generate
from pixvoice.runtime.recognizer import load_recognizer
from pixvoice.runtime.streaming import generate_stream
from test_decoding import FakeDecoder

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
RATE = 16_000
FEATURES = np.full((1, 2, 3), 7, np.float32)
STRATEGIES = [
    DecodingOptions(),
    DecodingOptions("sample", seed=1),
    DecodingOptions("sample", candidates=3, seed=1),
    DecodingOptions("beam", beam_size=3),
]

patterns = st.lists(st.integers(0, 5), max_size=3).map(lambda delays: Pattern((0, *delays)))


@given(patterns, st.integers(1, 12), st.sampled_from(STRATEGIES), st.integers(0, 99))
def test_a_whole_prompt_decodes_to_itself(pattern: Pattern, frames: int, options: DecodingOptions, seed: int) -> None:
    """In any pattern: nothing of it is lost, moved or said twice, whether the limit or the model ends it."""
    prompt = np.random.default_rng(seed).integers(0, 5, (pattern.num_codebooks, frames))
    limited = options.changed(max_frames=frames)
    for ending, chosen in ((0.0, limited), (1e4, options)):
        decoder = FakeDecoder(pattern.num_codebooks, ending=ending)
        np.testing.assert_array_equal(generate(decoder, FEATURES, pattern, chosen, prompt).codes, prompt)
        streamed = list(generate_stream(decoder, FEATURES, pattern, chosen, prompt))
        np.testing.assert_array_equal(np.concatenate(streamed, axis=1), prompt)


@given(patterns, st.integers(1, 12), st.integers(0, 99))
def test_the_delay_is_applied_to_a_prompt_once(pattern: Pattern, frames: int, seed: int) -> None:
    """What the model is fed is the begin token, and then the very sequence that training makes of these codes."""
    prompt = np.random.default_rng(seed).integers(0, 5, (pattern.num_codebooks, frames))
    decoder = FakeDecoder(pattern.num_codebooks)
    generate(decoder, FEATURES, pattern, DecodingOptions(max_frames=frames), prompt)
    fed = np.concatenate(decoder.inputs).T
    np.testing.assert_array_equal(fed[:, 0], 5)
    np.testing.assert_array_equal(fed[:, 1:], pattern.apply(prompt, 5)[:, :-1])


@pytest.mark.parametrize("pattern", ["parallel", "delay"])
def test_a_real_model_goes_on_from_its_own_words_as_if_it_had_not_been_stopped(pattern: str) -> None:
    decoder = OnnxSpeechDecoder(Bundle.load(tiny.bundle(pattern)))
    features = np.random.default_rng(0).normal(size=(1, 4, 16)).astype(np.float32)
    shape, options = make_pattern(pattern, tiny.K), DecodingOptions(min_frames=14, max_frames=14)
    said = generate(decoder, features, shape, options).codes
    for frames in range(15):
        again = generate(decoder, features, shape, options, said[:, :frames])
        np.testing.assert_array_equal(again.codes, said)


# --- Describer.complete


@pytest.fixture
def beginning() -> Audio:
    """0.1 s of silence, 0.2 s of noise, 0.1 s of silence: 0.3 s are spoken, 15 frames of the tiny codec."""
    noise = np.random.default_rng(0).normal(0, 0.2, 3_200).astype(np.float32)
    hush = np.zeros(1_600, np.float32)
    return np.concatenate([hush, noise, hush])


@pytest.mark.parametrize("pattern", ["parallel", "delay"])
def test_the_description_begins_with_what_was_given(pattern: str, photo: Image.Image, beginning: Audio) -> None:
    describer = pixvoice.load(tiny.bundle(pattern))
    spoken = beginning[:-1_600]
    description = describer.complete(photo, beginning)
    prompt = describer.tokenizer.encode(spoken)[:, :14]  # the last frame hears the end
    np.testing.assert_array_equal(description.codes[:, :14], prompt)
    assert description.generated_from_s == pytest.approx(14 * tiny.FRAME_LENGTH / RATE)
    assert description.seconds > description.generated_from_s
    assert 0.0 < description.confidence < 1.0
    np.testing.assert_allclose(description.audio, describer.tokenizer.decode(description.codes), atol=1e-6)
    assert describer.describe(photo).generated_from_s == 0.0


@pytest.mark.parametrize("pattern", ["parallel", "delay"])
def test_nothing_is_added_by_a_model_that_has_nothing_to_add(
    pattern: str, photo: Image.Image, beginning: Audio
) -> None:
    describer = pixvoice.load(tiny.bundle(pattern))
    description = describer.complete(photo, beginning, end_bias=1e4, min_frames=1)
    prompt = describer.tokenizer.encode(beginning[:-1_600])[:, :14]
    np.testing.assert_array_equal(description.codes, prompt)
    np.testing.assert_allclose(description.audio, describer.tokenizer.decode(prompt), atol=1e-6)
    assert description.generated_from_s == description.seconds


def test_a_beginning_in_any_form_is_the_same(tmp_path: Path, photo: Image.Image, beginning: Audio) -> None:
    describer = pixvoice.load(tiny.bundle())
    write_wav(tmp_path / "b.wav", beginning)
    data = (tmp_path / "b.wav").read_bytes()
    sources = [tmp_path / "b.wav", str(tmp_path / "b.wav"), data, io.BytesIO(data), read_audio(data)]
    first, *others = [describer.complete(photo, source).codes for source in sources]
    for codes in others:
        np.testing.assert_array_equal(codes, first)


def test_seeds_and_lengths_are_obeyed(photo: Image.Image, beginning: Audio) -> None:
    describer = pixvoice.load(tiny.bundle())

    def said(**options: Any) -> list[int]:
        return list(describer.complete(photo, beginning, strategy="sample", **options).codes.ravel())

    assert said(seed=1) == said(seed=1) != said(seed=2)
    assert describer.complete(photo, beginning, max_frames=20).codes.shape[1] <= 20
    assert describer.complete(photo, beginning, min_frames=30, max_frames=30).codes.shape[1] == 30
    with pytest.raises(OptionError, match="length"):
        describer.complete(photo, beginning, length="huge")


@pytest.mark.parametrize(
    ("audio", "said"),
    [
        (np.zeros(8_000, np.float32), "silent"),
        (np.full(8_000, 5e-4, np.float32), "silent"),
        (np.full(639, 0.5, np.float32), "too short"),
        (np.full(640 * 60, 0.5, np.float32), "may begin with up to 0.7 s"),
        (np.zeros((2, 8_000), np.float32), "mono"),
        (np.full(8_000, np.nan, np.float32), "finite"),
        (np.full(8_000, 9), "float32"),
        (b"no recording", "not a recording"),
        (b"", "empty"),
        (Path("nowhere.wav"), "nowhere.wav: no such file"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_beginning_that_can_not_be_gone_on_from_is_one_clear_line(photo: Image.Image, audio: Any, said: str) -> None:
    with pytest.raises(InputError) as caught:
        pixvoice.load(tiny.bundle()).complete(photo, audio)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_limit_is_exact(photo: Image.Image) -> None:
    """Under ``max_frames`` frames, so that at least one can follow; the frame that hears the end isn't counted."""
    describer = pixvoice.load(tiny.bundle())
    for frames in (20, 21):
        audio = np.full(frames * tiny.FRAME_LENGTH, 0.5, np.float32)
        if frames == 20:
            assert describer.complete(photo, audio, max_frames=20).codes.shape[1] == 20
        else:
            with pytest.raises(InputError, match=r"0\.4 s of speech"):
                describer.complete(photo, audio, max_frames=20)


# --- the weights that ship


@pytest.mark.parametrize("name", ["moose", "raccoon"])
def test_the_bundle_that_ships_goes_on_from_its_own_speech(name: str) -> None:
    describer, recognizer = pixvoice.load(EMBEDDED), load_recognizer(EMBEDDED)
    said = describer.describe(EXAMPLES / f"{name}.jpg")
    half = said.audio[: len(said.audio) // 2]
    completed = describer.complete(EXAMPLES / f"{name}.jpg", half)
    cut = round(completed.generated_from_s * RATE)
    assert abs(cut - len(half)) < 3 * 1_280  # units last as long as the vocoder thinks
    assert max(cut, len(half)) < len(completed.audio) < 7 * RATE
    first, whole = recognizer.transcribe([half, completed.audio])
    assert whole.split()[:2] == first.split()[:2]
    assert len(whole.split()) > len(first.split())
    assert 0.0 < completed.confidence < 1.0


# --- the command


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoded: Callable[..., bytes], beginning: Audio) -> Path:
    """The current folder, with a photo and a beginning; the tiny bundle takes the place of the one that ships."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIXVOICE_BUNDLE", str(tiny.bundle()))
    (tmp_path / "beach.jpg").write_bytes(encoded("JPEG"))
    write_wav(tmp_path / "a-dog.wav", beginning)
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, list[str], list[str]]:
    """Exit status, lines on standard output, lines on standard error."""
    status = run(["complete", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out.splitlines(), captured.err.splitlines()


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def pipe(*arguments: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "pixvoice", "complete", *arguments]
    return subprocess.run(command, input=data, capture_output=True, check=False)


def test_the_whole_utterance_is_written(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = said(capsys, "beach.jpg", "a-dog.wav")
    assert (status, len(out), err) == (0, 1, [])
    assert out[0].startswith("beach.wav  ") and "generated from 0.3 s on" in out[0]
    assert files(folder) == ["a-dog.wav", "beach.jpg", "beach.wav"]
    assert sf.info(folder / "beach.wav").samplerate == RATE


def test_json_says_where_the_generated_part_begins(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = said(capsys, "beach.jpg", "a-dog.wav", "-o", "out/", "--json")
    [values] = map(json.loads, out)
    assert (status, err) == (0, [])
    assert (values["photo"], values["beginning"]) == ("beach.jpg", "a-dog.wav")
    assert Path(values["wav"]) == Path("out/beach.wav")
    assert values["generated_from_s"] == 0.28 < values["seconds"]
    assert values["seconds"] == pytest.approx(sf.info(folder / "out/beach.wav").duration, abs=0.01)
    assert 0 <= values["confidence"] <= 1 and values["log_prob"] < 0 and values["sample_rate"] == RATE


def test_neither_the_photo_nor_the_beginning_is_ever_overwritten(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recording = (folder / "a-dog.wav").rename(folder / "beach.wav")
    before = recording.read_bytes()
    assert said(capsys, "beach.jpg", "beach.wav")[0] == 0
    assert recording.read_bytes() == before and (folder / "beach-2.wav").exists()
    status, _, err = said(capsys, "beach.jpg", "beach.wav", "-o", "Beach.wav")
    assert (status, len(err)) == (2, 1) and "the beginning itself" in err[0]
    assert recording.read_bytes() == before


def test_pipes_carry_the_photo_or_the_beginning_and_the_result(folder: Path) -> None:
    photo, speech = (folder / "beach.jpg").read_bytes(), (folder / "a-dog.wav").read_bytes()
    one, other = pipe("-", "a-dog.wav", "-o", "-", data=photo), pipe("beach.jpg", "-", "-o", "-", data=speech)
    assert one.returncode == other.returncode == 0, one.stderr + other.stderr
    assert one.stdout == other.stdout
    audio, rate = sf.read(io.BytesIO(one.stdout))
    assert rate == RATE and len(audio) > 0.28 * RATE
    assert one.stderr.count(b"\n") == other.stderr.count(b"\n") == 1
    both = pipe("-", "-", data=photo)
    assert (both.returncode, both.stdout, both.stderr.count(b"\n")) == (2, b"", 1)


def test_playing_writes_no_file(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    played: list[Any] = []
    monkeypatch.setattr("pixvoice.audio.play", lambda chunks, rate: played.append((list(chunks), rate)))
    status, out, _ = said(capsys, "beach.jpg", "a-dog.wav", "--play")
    assert (status, len(played), files(folder)) == (0, 1, ["a-dog.wav", "beach.jpg"])
    assert out[0].startswith("beach.jpg  ") and played[0][1] == RATE


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["beach.jpg", "nowhere.wav"], "nowhere.wav: no such file"),
        (["beach.jpg", "empty.wav"], "empty.wav: the file is empty"),
        (["beach.jpg", "silent.wav"], "silent.wav: silent"),
        (["beach.jpg", "short.wav"], "short.wav: 0.03 s of speech"),
        (["beach.jpg", "long.wav"], "long.wav: 2.4 s of speech"),
        (["beach.jpg", "beach.jpg"], "beach.jpg: not a recording"),
        (["beach.jpg", "."], "a folder"),
        (["a-dog.wav", "beach.jpg"], "not a recording"),
        (["a-dog.wav", "a-dog.wav"], "not a photo"),
        (["nowhere.jpg", "a-dog.wav"], "nowhere.jpg: no such file"),
        (["beach.jpg"], "BEGINNING"),
        (["beach.jpg", "a-dog.wav", "--length", "huge"], "huge"),
        (["beach.jpg", "a-dog.wav", "--seed", "-1"], "-1"),
        (["beach.jpg", "a-dog.wav", "-o", "out.mp3"], ".wav"),
        (["beach.jpg", "a-dog.wav", "-o", "-", "--json"], "--json"),
        (["beach.jpg", "a-dog.wav", "--bundle", "nowhere"], "nowhere"),
    ],
)
def test_what_can_not_be_used_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], named: str
) -> None:
    sounds = {"silent": np.zeros(9_000), "short": np.full(500, 0.5), "long": np.full(38_400, 0.5)}
    for name, audio in sounds.items():
        (folder / f"{name}.wav").write_bytes(wav_bytes(audio.astype(np.float32)))
    (folder / "empty.wav").write_bytes(b"")
    before = files(folder)
    status, out, err = said(capsys, *arguments)
    assert (status, out, len(err)) == (2, [], 1)
    assert err[0].startswith("error: ") and named in err[0]
    assert files(folder) == before


def test_a_place_that_can_not_be_written_is_exit_status_1(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = said(capsys, "beach.jpg", "a-dog.wav", "-o", "nowhere/out.wav")
    assert (status, out, len(err)) == (1, [], 1) and "nowhere" in err[0]
