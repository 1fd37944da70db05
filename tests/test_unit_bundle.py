"""Describers of units as bundles: ONNX Runtime says what PyTorch says, streams equal wholes, everything else works."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

pytest.importorskip("torch", reason="needs the train extra")
pytest.importorskip("transformers", reason="needs the train extra")

import pixvoice
import tiny
import tiny_units
from pixvoice.audio import write_wav
from pixvoice.cli import run
from pixvoice.contracts import SpeechTokenizer
from pixvoice.describe.speaker import load_speaker
from pixvoice.errors import BundleError, InputError
from pixvoice.packed import PackedUnits
from pixvoice.runtime.bundle import Bundle
from pixvoice.runtime.units import BytePairs, OnnxUnitTokenizer
from pixvoice.speech.unit_pairs import UnitPairs
from pixvoice.training.trainer import save_model
from tiny_units import noise

KINDS, DESCRIBERS = tiny_units.KINDS, tiny_units.DESCRIBERS
RATE, HOP = tiny_units.RATE, tiny_units.HOP
OPTIONS: dict[str, dict[str, Any]] = {
    "greedy": {"strategy": "greedy"},
    "beam": {"strategy": "beam", "beam_size": 3},
    "sample": {"strategy": "sample", "candidates": 2, "temperature": 0.7, "seed": 4},
}


def tokenizer(kind: str = "pairs", dtype: str = "fp32") -> OnnxUnitTokenizer:
    return OnnxUnitTokenizer(Bundle.load(tiny_units.bundle(kind, dtype)))


def in_torch(kind: str = "pairs") -> SpeechTokenizer:
    return load_speaker(tiny_units.runs(kind)["describer"]).tokenizer


def said(kind: str, tokens: int) -> np.ndarray:
    """Random tokens of a kind (1, T)."""
    return np.random.default_rng(tokens).integers(0, tiny_units.SIZES[kind], (1, tokens))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("kind", DESCRIBERS)
def test_a_bundle_describes_as_its_run_does(kind: str, options: dict[str, Any], photo: Image.Image) -> None:
    limits = {"min_frames": 3, "max_frames": 12, "guidance": 0.7}
    theirs = load_speaker(tiny_units.runs(kind)["describer"]).describe(photo, **options, **limits)
    ours = pixvoice.load(tiny_units.bundle(kind)).describe(photo, **options, **limits)
    np.testing.assert_array_equal(ours.codes, theirs.codes)
    assert ours.log_prob == pytest.approx(theirs.log_prob, abs=1e-4)
    np.testing.assert_allclose(ours.audio, theirs.audio.clip(-1.0, 1.0), atol=1e-4)
    assert ours.sample_rate == RATE and 0 < ours.confidence < 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_tokens_of_speech_are_those_of_the_training(kind: str) -> None:
    ours, theirs = tokenizer(kind), in_torch(kind)
    for name in ("sample_rate", "frame_rate", "num_codebooks", "codebook_size"):
        assert getattr(ours, name) == getattr(theirs, name)
    for samples in (0, 1, HOP, 9_000):
        codes = ours.encode(noise(samples))
        np.testing.assert_array_equal(codes, theirs.encode(noise(samples)))
        np.testing.assert_allclose(ours.decode(codes), theirs.decode(codes).clip(-1.0, 1.0), atol=1e-4)
    assert len(np.unique(codes)) > 2
    assert ours.decode(np.zeros((1, 0), np.int64)).shape == (0,)


def test_units_last_longer_where_a_change_costs() -> None:
    ours = tokenizer("pairs")
    priced = ours.units_of(ours.encode(noise(9_000)))
    ours.sizes = replace(ours.sizes, segment_cost=0.0)
    assert 2 < len(priced) < len(ours.units_of(ours.encode(noise(9_000))))


@given(st.lists(st.integers(0, tiny_units.UNITS - 1), max_size=30))
def test_byte_pairs_are_those_of_the_training(units: list[int]) -> None:
    theirs = UnitPairs.load(tiny_units.runs()["units"] / "pairs.json")
    ours = BytePairs(tiny_units.UNITS, [(tuple(left), tuple(right)) for left, right in tiny_units.MERGES])
    tokens = ours.encode(np.array(units, np.int64))
    np.testing.assert_array_equal(tokens, theirs.encode(np.array(units, np.int64)))
    np.testing.assert_array_equal(ours.decode(tokens), units)
    assert tokens.dtype == np.int64 and len(ours.spans) == theirs.size


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize("tokens", [0, 1, 2, 7, 40])
@pytest.mark.parametrize("kind", KINDS)
def test_streaming_decode_equals_offline_decode(kind: str, tokens: int, size: int) -> None:
    ours, codes = tokenizer(kind), said(kind, tokens)
    pieces = list(ours.decode_stream(codes[:, i : i + size] for i in range(0, tokens, size)))
    joined = np.concatenate([np.zeros(0, np.float32), *pieces])
    np.testing.assert_allclose(joined, ours.decode(codes), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_sound_comes_as_soon_as_it_is_certain(kind: str) -> None:
    """The first piece needs the frames that the vocoder sees ahead, and the units that durations hang on."""
    ours, codes, given_tokens = tokenizer(kind), said(kind, 60), []

    def pieces() -> Any:
        for i in range(codes.shape[1]):
            given_tokens.append(i)
            yield codes[:, i : i + 1]

    first = next(ours.decode_stream(pieces()))
    needed = (1 + ours.sizes.lookahead) * ours.sizes.together
    units = ours.units_of(codes[:, : len(given_tokens)])
    assert len(first) and not len(first) % ours.sizes.frame_length
    certain = ours.durations(units)[: len(units) - (ours.sizes.reach or 0)].sum()
    before = ours.units_of(codes[:, : len(given_tokens) - 1])
    assert ours.durations(before)[: len(before) - (ours.sizes.reach or 0)].sum() < needed <= certain


def test_what_a_bundle_of_units_holds() -> None:
    bundle = Bundle.load(tiny_units.bundle())
    info = json.loads((bundle.folder / "bundle.json").read_text())
    speech = {"unit_encoder.onnx", "unit_durations.onnx", "unit_vocoder.onnx", "unit_pairs.json"}
    others = {"image_encoder.onnx", "describer_start.onnx", "describer_step.onnx", "recognizer.onnx"}
    assert set(info["files"]) == speech | others == {p.name for p in bundle.folder.iterdir()} - {"bundle.json"}
    assert info["codec"] is None and info["units"]["units"] == tiny_units.UNITS
    assert "unit_words.safetensors" in Bundle.load(tiny_units.bundle("words")).info.files
    assert "unit_durations.onnx" not in Bundle.load(tiny_units.bundle("frames")).info.files
    limits = {kind: Bundle.load(tiny_units.bundle(kind)).info.options().min_frames for kind in KINDS}
    assert limits == {"pairs": 8, "merged": 8, "frames": 40, "words": 4}  # 0.64 s, where the describer can say as much


@pytest.mark.parametrize("dtype", ["fp16", "int8"])
def test_smaller_weights_stay_close(dtype: str) -> None:
    whole, small = tokenizer(), tokenizer(dtype=dtype)
    frames = said("merged", 40)
    audio = [t.sound(frames.reshape(-1, 2).T) for t in (whole, small)]
    assert np.abs(audio[0] - audio[1]).max() < 0.02 * np.abs(audio[0]).max()
    same = whole.encode(noise(9_000)), small.encode(noise(9_000))
    assert abs(same[0].shape[1] - same[1].shape[1]) <= 2


@pytest.mark.parametrize("kind", DESCRIBERS)
def test_streams_and_batches_say_what_a_description_says(kind: str, photo: Image.Image) -> None:
    describer = pixvoice.load(tiny_units.bundle(kind))
    other = photo.rotate(90)
    options = {"strategy": "greedy", "min_frames": 4, "max_frames": 12}
    wholes = [describer.describe(one, **options) for one in (photo, other)]
    for whole, again in zip(wholes, describer.describe_batch([photo, other], **options), strict=True):
        np.testing.assert_array_equal(again.codes, whole.codes)
    streams: dict[int, list[np.ndarray]] = {0: [], 1: []}
    for number, piece in describer.stream_batch([photo, other], **options):
        streams[number] += [] if piece is None else [piece]
    for whole, pieces in zip(wholes, streams.values(), strict=True):
        np.testing.assert_allclose(np.concatenate(pieces), whole.audio, atol=1e-5)
    default = np.concatenate(list(describer.stream(photo, max_frames=12, min_frames=4)))
    np.testing.assert_allclose(default, describer.describe(photo, max_frames=12, min_frames=4).audio, atol=1e-5)


# --- going on from a beginning


@pytest.mark.parametrize("kind", DESCRIBERS)
def test_an_utterance_goes_on_from_a_beginning(kind: str, photo: Image.Image) -> None:
    describer = pixvoice.load(tiny_units.bundle(kind))
    beginning = noise(3_200)
    beginning[[0, -1]] = 0.3  # loud to its ends, so that nothing is cut as silence
    prompt = describer.tokenizer.encode_first(beginning, 19)  # 20 frames, of which the last hears the end
    description = describer.complete(photo, beginning, strategy="greedy", min_frames=25, max_frames=30)
    steps = prompt.shape[1]
    np.testing.assert_array_equal(description.codes[:, :steps], prompt)
    assert description.codes.shape[1] > steps
    np.testing.assert_allclose(description.audio, describer.tokenizer.decode(description.codes), atol=1e-6)
    assert 0 < description.generated_from_s < description.seconds
    ours = describer.tokenizer
    assert isinstance(ours, OnnxUnitTokenizer)
    frames = ours.durations(ours.units_of(description.codes))[: len(ours.units_of(prompt))].sum()
    assert description.generated_from_s == pytest.approx(frames * HOP / RATE)


def test_nothing_is_added_by_a_model_that_has_nothing_to_add(photo: Image.Image) -> None:
    describer = pixvoice.load(tiny_units.bundle())
    description = describer.complete(photo, noise(3_200), end_bias=1e4, min_frames=1)
    assert description.generated_from_s == pytest.approx(description.seconds)
    assert describer.describe(photo).generated_from_s == 0.0


def test_a_beginning_that_is_too_long_says_how_long_it_may_be(photo: Image.Image) -> None:
    describer = pixvoice.load(tiny_units.bundle("frames"))
    long = np.concatenate([noise(16_000), noise(16_000)])
    with pytest.raises(InputError, match=r"2\.0 s of speech; .* up to 0\.1 s; cut the recording"):
        describer.complete(photo, long, max_frames=10, min_frames=1)
    with pytest.raises(InputError, match=r"61\.0 s of speech"):
        describer.complete(photo, np.full(61 * RATE, 0.5, np.float32))


# --- on the command line


def test_the_commands_take_such_a_bundle(
    tmp_path: Path, photo: Image.Image, capsys: pytest.CaptureFixture[str]
) -> None:
    photo.save(tmp_path / "photo.png")
    write_wav(tmp_path / "begun.wav", noise(2_400), RATE)
    bundle = str(tiny_units.bundle())
    one = [str(tmp_path / "photo.png"), "--bundle", bundle, "--json"]
    assert run(["describe", *one, "-o", str(tmp_path / "said.wav")]) == 0
    assert json.loads(capsys.readouterr().out)["seconds"] > 0 and (tmp_path / "said.wav").exists()
    completing = ["complete", one[0], str(tmp_path / "begun.wav"), *one[1:], "-o", str(tmp_path / "whole.wav")]
    assert run(completing) == 0
    assert json.loads(capsys.readouterr().out)["generated_from_s"] > 0
    units = tmp_path / "units.npz"
    assert run(["encode", "--speech-tokens", str(tmp_path), "--bundle", bundle, "-o", str(units), "--json"]) == 0
    stored = PackedUnits.load(units)
    assert len(stored) == 3 and stored.of.made_by == Bundle.load(bundle).info.hears_by


def exported(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str]:
    status = run(["export", *map(str, arguments)])
    return status, capsys.readouterr().err


def test_export_takes_units_and_vocoder_in_the_place_of_a_codec(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = tiny_units.runs()
    assert exported(capsys, *folders.values(), "-o", tmp_path / "bundle", "--dtype", "fp16")[0] == 0
    assert pixvoice.load(tmp_path / "bundle").bundle.info.units is not None


@pytest.mark.parametrize(
    ("tasks", "fault"),
    [
        (("describer", "student"), "no units and no vocoder among the runs; a bundle needs describer, units, vocoder"),
        (("describer", "units", "student"), "no vocoder"),
        (("describer", "units", "vocoder", "student", "codec"), "says units: give the units and the vocoder"),
        (("codec's describer", "codec", "units", "student"), "says codec tokens: give its codec, and neither"),
        (("describer", "units", "unfit vocoder", "student"), "speaks 9 units, but encoder and k-means make 6"),
        (("describer", "few units", "vocoder", "student"), "unit_pairs: 5, but 4 were learned"),
        (("hubert's describer", "units", "vocoder", "student"), "of hubert-base's units makes no bundle"),
    ],
)
def test_runs_that_do_not_make_a_bundle(
    tasks: tuple[str, ...], fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from pixvoice.speech.latent_vocoder import LatentVocoder, LatentVocoderConfig

    folders = {**tiny_units.runs(), "codec": tiny.runs()["codec"], "codec's describer": tiny.runs()["describer"]}
    folders |= {name: tmp_path / name.replace("'", "") for name in ("unfit vocoder", "few units", "hubert's describer")}
    unfit = LatentVocoderConfig(9, HOP, tiny_units.VOCODER.sizes, tiny.CODEC)
    save_model(LatentVocoder(unfit), unfit, "vocoder", folders["unfit vocoder"])
    shutil.copytree(folders["units"], folders["few units"])
    (folders["few units"] / "pairs.json").write_text(
        json.dumps({"units": tiny_units.UNITS, "merges": tiny_units.MERGES[:-1]})
    )
    shutil.copytree(folders["describer"], folders["hubert's describer"])
    config = json.loads((folders["describer"] / "config.json").read_text())
    config["config"]["speech"] |= {"units": None, "checkpoint": "hubert-base"}
    (folders["hubert's describer"] / "config.json").write_text(json.dumps(config))
    if "hubert's describer" in tasks:
        tasks = (*tasks, "codec")  # what the command asks of any other describer
    status, err = exported(capsys, *(folders[task] for task in tasks), "-o", tmp_path / "bundle")
    assert (status, err.count("\n")) == (2, 1) and fault in err, err
    assert not (tmp_path / "bundle").exists()


# --- damaged bundles


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"units": None}, "a codec or units, one of them"),
        ({"units": {"units": 5}}, "other byte pairs than the describer's"),
        ({"describer": {"codebook_size": 12}}, "logits has shape"),
        ({"units": {"together": 3}}, "units has shape"),
        ({"units": {"wings": 2}}, "must hold"),
        ({"units": {"reach": "far"}}, "isn't a int"),
    ],
)
def test_a_bundle_that_contradicts_itself_is_one_line(changes: dict[str, Any], fault: str, tmp_path: Path) -> None:
    shutil.copytree(tiny_units.bundle(), tmp_path / "bundle")
    place = tmp_path / "bundle" / "bundle.json"
    info = json.loads(place.read_text())
    for key, value in changes.items():
        info[key] = {**info[key], **value} if isinstance(value, dict) else value
    place.write_text(json.dumps(info))
    with pytest.raises(BundleError, match=fault) as caught:
        pixvoice.load(tmp_path / "bundle")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [b"[]", b"{", b'{"units": 6}', b'{"units": 6, "merges": [[1, 2]]}'])
def test_byte_pairs_that_can_not_be_read_are_one_line(text: bytes, tmp_path: Path) -> None:
    import hashlib

    shutil.copytree(tiny_units.bundle(), tmp_path / "bundle")
    (tmp_path / "bundle" / "unit_pairs.json").write_bytes(text)
    with pytest.raises(BundleError, match="SHA-256"):
        pixvoice.load(tmp_path / "bundle")
    place = tmp_path / "bundle" / "bundle.json"
    info = json.loads(place.read_text())
    info["files"]["unit_pairs.json"] = hashlib.sha256(text).hexdigest()
    place.write_text(json.dumps(info))
    with pytest.raises(BundleError, match="no byte pairs that can be read"):
        pixvoice.load(tmp_path / "bundle")


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"describer": {"codebook_size": 6}}, "other words than the describer's"),
        ({"units": {"units": 5}}, "other words than the describer's"),
        ({"units": {"reach": 2}}, "words of merged units"),
    ],
)
def test_words_that_contradict_the_bundle_are_one_line(changes: dict[str, Any], fault: str, tmp_path: Path) -> None:
    shutil.copytree(tiny_units.bundle("words"), tmp_path / "bundle")
    shutil.copy(tiny_units.bundle() / "unit_durations.onnx", tmp_path / "bundle")
    place = tmp_path / "bundle" / "bundle.json"
    info = json.loads(place.read_text())
    for key, value in changes.items():
        info[key] |= value
    info["files"]["unit_durations.onnx"] = "0"
    place.write_text(json.dumps(info))
    with pytest.raises(BundleError, match=fault):
        OnnxUnitTokenizer(Bundle.load(tmp_path / "bundle"))


def test_the_encoder_is_loaded_when_it_is_needed(tmp_path: Path, photo: Image.Image) -> None:
    shutil.copytree(tiny_units.bundle(), tmp_path / "bundle")
    (tmp_path / "bundle" / "unit_encoder.onnx").write_bytes(b"damaged")
    describer = pixvoice.load(tmp_path / "bundle")
    assert describer.describe(photo).seconds > 0
    with pytest.raises(BundleError, match=r"unit_encoder\.onnx"):
        describer.tokenizer.encode(noise(800))


def test_neither_torch_nor_tokenizers_is_needed(tmp_path: Path, photo: Image.Image) -> None:
    photo.save(tmp_path / "photo.png")
    write_wav(tmp_path / "begun.wav", noise(2_400), RATE)
    code = (
        "import sys, pixvoice\n"
        "describer = pixvoice.load(sys.argv[1])\n"
        "assert describer.complete(sys.argv[2], sys.argv[3]).seconds > 0\n"
        "assert not {'torch', 'tokenizers', 'transformers', 'onnx', 'yaml'} & set(sys.modules)"
    )
    arguments = [str(tiny_units.bundle()), str(tmp_path / "photo.png"), str(tmp_path / "begun.wav")]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
