"""The cascade: what is written comes back, and the TTS engine says what the captioner wrote."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

torch = pytest.importorskip("torch", reason="needs the train extra")
pytest.importorskip("transformers", reason="needs the train extra")

import tiny  # noqa: E402
from pixvoice.contracts import SpeechTokenizer  # noqa: E402
from pixvoice.describe.speaker import TorchDescriber, load_speaker  # noqa: E402
from pixvoice.errors import BundleError, InputError, MissingToolError, OptionError  # noqa: E402
from pixvoice.manifest import Sample, write_manifest  # noqa: E402
from pixvoice.speech.synthesizer import find_engine  # noqa: E402
from pixvoice.speech.written import BYTES, Vocabulary, WrittenTokenizer, find_voice, has_words, plain  # noqa: E402
from pixvoice.training.recipes import load_recipe  # noqa: E402
from pixvoice.training.runs import Run  # noqa: E402

CAPTIONS = [
    "A black dog runs over green grass .",
    "A girl 's red ball",
    "Two dogs run , one jumps .",
    'a dog \'s "ball"',
]
RECIPE = """
task: cascade
manifests: [{place}/manifest.jsonl]
student: {student}
crops: 0
max_frames: 39
min_count: 2
model: {{pattern: parallel, num_codebooks: 1, codebook_size: 270, width: 16, layers: 1, heads: 2, image_dim: 16,
  max_steps: 40}}
train: {{steps: 12, batch_size: 4, learning_rate: 1e-2, warmup_steps: 1, log_every: 6, save_every: 6, bf16: no}}
"""
ENGINE = """
import sys, wave, array, pathlib
text, out, said = sys.argv[1:4]
pathlib.Path(said).write_text(text)
with wave.open(out, "wb") as file:
    file.setnchannels(1), file.setsampwidth(2), file.setframerate(16000)
    file.writeframes(array.array("h", [9000 * (-1) ** (i // 20) for i in range(100 * len(text))]).tobytes())
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of four photos with texts and no sound, a TTS engine that writes down what it says, and a run."""
    folder = tmp_path_factory.mktemp("cascade")
    samples = []
    for n, caption in enumerate([*CAPTIONS, "..."]):
        noise = np.random.default_rng(n).integers(256, size=(64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{n}.png")
        samples.append(Sample(folder / f"{n}.png", None, caption, None, "train"))
    write_manifest(folder / "manifest.jsonl", samples)
    (folder / "engine.py").write_text(ENGINE)
    Run(recipe(folder, *engine(folder)), folder / "run").train()
    return folder


def command(folder: Path) -> str:
    words = [sys.executable, "-S", str(folder / "engine.py"), "{text}", "{out}", str(folder / "said.txt")]
    return " ".join(word if "{" in word else shlex.quote(word) for word in words)


def engine(folder: Path) -> tuple[str, str]:
    return f"engine={json.dumps(command(folder))}", "voice=null"


def recipe(folder: Path, *changes: str) -> Any:
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.format(place=folder, student=tiny.runs()["student"]))
    return load_recipe(path, changes)


def written(folder: Path, size: int = 300) -> WrittenTokenizer:
    return WrittenTokenizer(Vocabulary.learn(CAPTIONS, size, 2), size, *find_voice(command(folder), None))


@given(st.text(max_size=60).filter(has_words), st.integers(BYTES, 300), st.integers(1, 4))
def test_every_text_can_be_written_and_read(text: str, size: int, min_count: int) -> None:
    vocabulary = Vocabulary.learn(CAPTIONS, size, min_count)
    pieces = vocabulary.encode(text)
    assert BYTES <= vocabulary.size <= size and 0 <= pieces.min() <= pieces.max() < vocabulary.size
    assert vocabulary.decode(pieces) == plain(text)


def test_common_words_are_one_piece_and_files_keep_all(tmp_path: Path) -> None:
    vocabulary = Vocabulary.learn(CAPTIONS * 4, 400, 4)
    assert len(vocabulary.encode("A dog runs .")) == 4
    assert vocabulary.decode(vocabulary.encode('A girl \'s " red " ball .')) == 'a girl\'s "red" ball.'
    vocabulary.save(tmp_path / "vocabulary.json")
    again = Vocabulary.load(tmp_path / "vocabulary.json")
    np.testing.assert_array_equal(again.encode("red dogs"), vocabulary.encode("red dogs"))
    assert again.decode(np.array([999, *again.encode("red"), 1000])) == "red"
    with pytest.raises(InputError, match="has no word to speak"):
        vocabulary.encode(" . , ")
    with pytest.raises(BundleError, match="is not there: give the folder of a finished training of a cascade"):
        Vocabulary.load(tmp_path / "none.json")
    (tmp_path / "vocabulary.json").write_text("{}")
    with pytest.raises(BundleError, match="no vocabulary that can be read"):
        Vocabulary.load(tmp_path / "vocabulary.json")


def test_the_contract(place: Path) -> None:
    tokenizer: SpeechTokenizer = written(place)
    assert (tokenizer.sample_rate, tokenizer.num_codebooks, tokenizer.codebook_size) == (16_000, 1, 300)
    assert np.isnan(tokenizer.frame_rate)
    codes = Vocabulary.learn(CAPTIONS, 300, 2).encode("a red dog")[None]
    audio = tokenizer.decode(codes)
    assert audio.dtype == np.float32 and len(audio) > 500 and (place / "said.txt").read_text() == "a red dog"
    np.testing.assert_array_equal(np.concatenate(list(tokenizer.decode_stream([codes[:, :2], codes[:, 2:]]))), audio)
    assert tokenizer.decode(codes[:, :0]).shape == (0,) and list(tokenizer.decode_stream([])) == []
    with pytest.raises(BundleError, match="writes and reads aloud, and hears nothing"):
        tokenizer.encode(audio)


def test_a_run_says_the_words_that_it_wrote(place: Path) -> None:
    speaker = load_speaker(place / "run")
    assert isinstance(speaker, TorchDescriber) and isinstance(speaker.tokenizer, WrittenTokenizer)
    said = speaker.describe(place / "0.png", min_frames=5, max_frames=20, strategy="greedy")
    text = speaker.tokenizer.write(said.codes)
    assert has_words(text) and (place / "said.txt").read_text() == text
    assert said.seconds == pytest.approx(len(text) * 100 / 16_000, abs=0.2) and 0 < said.confidence <= 1
    looks = speaker.attention(place / "0.png", said.codes)
    assert looks is None or looks.shape == (said.codes.shape[1], 4)


def test_it_writes_what_it_has_read(place: Path, tmp_path: Path) -> None:
    changes = ("train.steps=100", "train.log_every=50", "train.save_every=100")
    Run(recipe(place, *engine(place), *changes), tmp_path).train()
    speaker = load_speaker(tmp_path)
    assert isinstance(speaker.tokenizer, WrittenTokenizer)
    speaker.describe(place / "0.png")
    assert (place / "said.txt").read_text() in {plain(caption) for caption in CAPTIONS}


def test_a_training_that_was_stopped_ends_as_if_it_had_not(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "run", tmp_path / "stopped")
    shutil.rmtree(tmp_path / "stopped" / "checkpoints" / "checkpoint-12")
    (tmp_path / "stopped" / "model.safetensors").unlink()
    run = Run(recipe(place, *engine(place)), tmp_path / "stopped")
    run.check()
    run.train()
    for name in ("model.safetensors", "config.json", "vocabulary.json"):
        assert (tmp_path / "stopped" / name).read_bytes() == (place / "run" / name).read_bytes(), name


def test_without_the_engine_it_is_trained_and_not_heard(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    Run(recipe(place, "train.steps=6"), tmp_path / "run").train()
    assert "flite isn't installed" in (said := capsys.readouterr().err) and "only speaking needs it" in said
    with pytest.raises(MissingToolError, match=r"flite isn't installed: apt install flite"):
        load_speaker(tmp_path / "run")
    with pytest.raises(MissingToolError, match="no TTS engine is installed"):
        find_voice(None, None)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        (("engine=flight",), r"no engine 'flight' \(did you mean 'flite'\?\)"),
        (("voice=rms",), r"has no \{voice\} for 'rms'"),
        (("max_frames=2",), r"longer than max_frames \(2\): raise it"),
        (("model.codebook_size=255",), r"model\.codebook_size: 255 is too few for the 256 bytes"),
        (("model.num_codebooks=2",), r"model\.num_codebooks: 2, but text is one codebook; give 1"),
        (("model.max_steps=39",), r"model\.max_steps: 39 is too few for max_frames \(39\) and the end"),
        (("model.heads=3",), r"model\.width: 16 is not divisible by model\.heads \(3\)"),
        (("student={place}/none",), "student: .*none is not there"),
        (("manifests=[{place}/mute.jsonl]",), "no sample has a written caption: a cascade learns from text"),
    ],
)  # fmt: skip
def test_what_does_not_fit(changes: tuple[str, ...], fault: str, place: Path, tmp_path: Path) -> None:
    write_manifest(place / "mute.jsonl", [Sample(place / "0.png", split="train")])
    with pytest.raises((BundleError, InputError, OptionError), match=fault):
        run = Run(recipe(place, *engine(place), *(change.format(place=place) for change in changes)), tmp_path / "run")
        run.check()
        run.train()


def test_a_vocabulary_of_more_pieces_than_the_describer(place: Path) -> None:
    with pytest.raises(BundleError, match="a vocabulary of 300 pieces for a describer of 299: train anew"):
        WrittenTokenizer(Vocabulary.learn(CAPTIONS * 9, 300, 1), 299, find_engine(command(place)), "default")
