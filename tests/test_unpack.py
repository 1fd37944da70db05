"""A bundle's models as runs again: what ONNX Runtime computes of its files, PyTorch computes of the runs."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")
pytest.importorskip("transformers", reason="needs the train extra")

from safetensors.torch import load_file  # noqa: E402

import pixvoice  # noqa: E402
import tiny  # noqa: E402
import tiny_units  # noqa: E402
from pixvoice import cli  # noqa: E402
from pixvoice.errors import BundleError, OptionError, OutputError  # noqa: E402
from pixvoice.images import read_image, to_pixels  # noqa: E402
from pixvoice.runtime import bundle as b  # noqa: E402
from pixvoice.runtime.units import OnnxUnitTokenizer  # noqa: E402
from pixvoice.speech.codec import Codec, CodecConfig  # noqa: E402
from pixvoice.speech.ctc import CTCConfig, CTCRecognizer  # noqa: E402
from pixvoice.speech.latent_vocoder import LatentVocoder, load_vocoder  # noqa: E402
from pixvoice.speech.pretrained import SpeechParts, load_speech_tokenizer  # noqa: E402
from pixvoice.training.export import export_bundle  # noqa: E402
from pixvoice.training.recipes import load_recipe  # noqa: E402
from pixvoice.training.trainer import load_model, save_model  # noqa: E402
from pixvoice.training.unpack import Sizes, unpack  # noqa: E402
from pixvoice.vision.student import ImageStudent, StudentConfig  # noqa: E402
from tiny_units import noise  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
MOOSE, RECIPES = ROOT / "examples" / "moose.jpg", ROOT / "recipes"
SIZES = Sizes(tiny.STUDENT, tiny.CODEC, tiny.RECOGNIZER, tiny_units.ENCODER, tiny_units.VOCODER.sizes)


def student_in(folder: Path) -> ImageStudent:
    return load_model(folder, "student", StudentConfig, ImageStudent)


def codec_in(folder: Path) -> Codec:
    return load_model(folder, "codec", CodecConfig, Codec)


def computed(bundle: b.Bundle, file: str, value: np.ndarray) -> np.ndarray:
    """What ONNX Runtime gives first for the one input of a bundle's file."""
    session = bundle.session(file, {})
    first: np.ndarray = session.run(None, {session.get_inputs()[0].name: value})[0]
    return first


def weights(folder: Path) -> dict[str, Any]:
    return load_file(folder / "model.safetensors")


# --- the bundle that ships


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of the bundle that ships."""
    runs = tmp_path_factory.mktemp("unpacked") / "runs"
    assert cli.run(["unpack", "-o", str(runs)]) == 0
    return runs


@pytest.mark.slow
@torch.inference_mode()
def test_what_ships_sees_speaks_and_hears_as_before(shipped: Path) -> None:
    bundle = b.Bundle.load(b.EMBEDDED)
    assert {path.name for path in shipped.iterdir()} == {"student", "units", "vocoder", "recognizer"}
    pixels = to_pixels(read_image(MOOSE), 224)[None]
    seen = student_in(shipped / "student")(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(seen, computed(bundle, b.IMAGE_ENCODER, pixels), atol=2e-4)
    assert seen.std() > 0.1

    describer = pixvoice.load(b.EMBEDDED)
    audio, theirs = describer.describe(MOOSE, strategy="greedy").audio, describer.tokenizer
    units, vocoder = shipped / "units", shipped / "vocoder"
    parts = SpeechParts(units=units, vocoder=vocoder, sample_rate=16_000)
    ours = load_speech_tokenizer(parts, 1, theirs.codebook_size)
    codes = ours.encode(audio)
    np.testing.assert_array_equal(codes, theirs.encode(audio))
    assert codes.shape[1] > 8 and len(np.unique(codes)) > 6
    said = ours.decode(codes).clip(-1.0, 1.0)
    np.testing.assert_allclose(said, theirs.decode(codes), atol=2e-3 * np.abs(said).max())

    recognizer = load_model(shipped / "recognizer", "recognizer", CTCConfig, CTCRecognizer)
    audio = np.pad(audio, (0, -len(audio) % 1_280))[None]
    logits = recognizer.logits(torch.from_numpy(audio)).numpy()
    np.testing.assert_allclose(logits, computed(bundle, b.RECOGNIZER, audio), atol=1e-3)


# --- small bundles: the weights themselves come back


def test_batch_norms_that_have_learned_are_in_the_convolutions(tmp_path: Path) -> None:
    torch.manual_seed(1)
    student = ImageStudent(tiny.STUDENT).eval()
    norms = [module for module in student.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.weight.uniform_(0.5, 2.0), norm.bias.normal_()
            norm.running_mean.normal_(), norm.running_var.uniform_(0.2, 3.0)
    save_model(student, tiny.STUDENT, "student", tmp_path / "student")
    runs = tiny.runs()
    parts = (runs["describer"], runs["codec"], tmp_path / "student", None)
    bundle = export_bundle(*parts, tmp_path / "bundle", dtype="fp32")
    folders = unpack(bundle, tmp_path / "runs", SIZES)
    assert folders == [tmp_path / "runs" / name for name in ("student", "codec")]
    pixels = torch.rand(3, 3, 64, 64)
    unpacked = student_in(folders[0])
    with torch.inference_mode():
        features = student(pixels)
        torch.testing.assert_close(unpacked(pixels), features, atol=1e-5, rtol=1e-5)
    assert features.std() > 0.1
    assert len(norms) > 8 and not torch.equal(unpacked.norm.running_var, student.norm.running_var)


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "int8"])
def test_the_weights_of_a_bundle_are_those_of_its_runs(dtype: str, tmp_path: Path) -> None:
    folders = unpack(b.Bundle.load(tiny.bundle("delay", dtype)), tmp_path / "new" / "runs", SIZES)
    assert [folder.name for folder in folders] == ["student", "codec", "recognizer"]
    assert sorted(path.name for path in (tmp_path / "new" / "runs").iterdir()) == ["codec", "recognizer", "student"]
    near = {"atol": 1e-6, "rtol": 1e-6} if dtype == "fp32" else {"atol": 1e-4, "rtol": 1e-3}
    before, after = weights(tiny.runs()["recognizer"]), weights(folders[2])
    torch.testing.assert_close(after, before, **near)
    before, after = weights(tiny.runs()["codec"]), weights(folders[1])
    del before["quantizer.usage"], before["quantizer.sums"], after["quantizer.usage"], after["quantizer.sums"]
    before["quantizer.codebooks"] = before["quantizer.codebooks"][: tiny.K]  # those that the describer says
    torch.testing.assert_close(after, before, **near)
    assert codec_in(folders[1]).dims == replace(tiny.CODEC, num_codebooks=tiny.K)
    assert student_in(folders[0]).dims == tiny.STUDENT


def test_every_codebook_entry_counts_as_used(tmp_path: Path) -> None:
    """So a training of the codec that goes on from there doesn't take them for dead."""
    unpack(b.Bundle.load(tiny.bundle()), tmp_path, SIZES)
    saved = weights(tmp_path / "codec")
    assert bool((saved["quantizer.usage"] == 1).all())
    torch.testing.assert_close(saved["quantizer.sums"], saved["quantizer.codebooks"])


# --- describers of units


@pytest.mark.parametrize("kind", tiny_units.KINDS)
def test_units_and_their_vocoder_are_those_of_the_bundle(kind: str, tmp_path: Path) -> None:
    bundle, trained = b.Bundle.load(tiny_units.bundle(kind)), tiny_units.runs(kind)
    folders = {path.name: path for path in unpack(bundle, tmp_path, SIZES)}
    assert list(folders) == ["student", "units", "vocoder", "recognizer"]
    said = tiny_units.KINDS[kind]
    parts = SpeechParts(sample_rate=tiny_units.RATE, units=folders["units"], vocoder=folders["vocoder"], **said)
    ours, theirs = load_speech_tokenizer(parts, 1, tiny_units.SIZES[kind]), OnnxUnitTokenizer(bundle)
    codes = ours.encode(noise(9_000))
    np.testing.assert_array_equal(codes, theirs.encode(noise(9_000)))
    np.testing.assert_allclose(ours.decode(codes).clip(-1.0, 1.0), theirs.decode(codes), atol=1e-4)
    assert len(np.unique(codes)) > 2

    before, after = weights(trained["units"]), weights(folders["units"])
    unheard = {name for name in before if name.startswith("blocks.1.")}  # frames after the first block are clustered
    assert unheard and before.keys() - after.keys() == unheard
    assert not after.pop("hidden").any() and before.pop("hidden").any()
    torch.testing.assert_close(after, {name: before[name] for name in after}, atol=1e-6, rtol=1e-6)
    kept = json.loads((folders["units"] / "config.json").read_text())["config"]
    assert (kept["blocks"], kept["layer"], kept["segment_cost"]) == (1, 1, tiny_units.SEGMENT_COSTS[kind])
    torch.testing.assert_close(*(load_file(run["units"] / "kmeans.safetensors") for run in (trained, folders)))
    assert (folders["units"] / "pairs.json").exists() == ("unit_pairs" in said)
    assert (folders["units"] / "words.safetensors").exists() == ("unit_words" in said)

    before, after = weights(trained["vocoder"]), weights(folders["vocoder"])
    guessed = {name for name in before if name.startswith("dur_predictor.") and not parts.merged}
    torch.testing.assert_close(*({n: v for n, v in all_.items() if n not in guessed} for all_ in (before, after)))
    vocoder = load_vocoder(folders["vocoder"])
    assert isinstance(vocoder, LatentVocoder) and vocoder.config == tiny_units.VOCODER
    if not parts.merged:
        assert vocoder.durations(torch.arange(tiny_units.UNITS)).tolist() == [1] * tiny_units.UNITS


def test_a_bundle_can_be_made_of_what_was_unpacked(tmp_path: Path) -> None:
    bundle = b.Bundle.load(tiny_units.bundle())
    student, units, vocoder, recognizer = unpack(bundle, tmp_path / "runs", SIZES)
    describer = tiny_units.runs()["describer"]
    again = export_bundle(
        describer, None, student, recognizer, tmp_path / "again", "tiny-units", "fp32", units=units, vocoder=vocoder
    )
    assert replace(again.info, files={}) == replace(bundle.info, files={})
    assert again.info.files.keys() == bundle.info.files.keys()
    pixels = np.random.default_rng(0).random((1, 3, 64, 64), np.float32)
    seen = [computed(one, b.IMAGE_ENCODER, pixels) for one in (again, bundle)]
    np.testing.assert_allclose(*seen, atol=1e-4)


# --- what is refused


def refused(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    """The line that the command is refused with."""
    assert cli.run(["unpack", *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    return err


def test_a_run_that_is_there_stays_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs" / "student").mkdir(parents=True)
    assert "student exists already: give another folder with -o" in refused(capsys, "-o", tmp_path / "runs")
    assert [path.name for path in (tmp_path / "runs").rglob("*")] == ["student"]
    with pytest.raises(OptionError, match="student exists already"):
        unpack(b.Bundle.load(tiny.bundle()), tmp_path / "runs", SIZES)


@pytest.mark.parametrize("make", [tiny.bundle, tiny_units.bundle])
def test_a_bundle_of_other_sizes(make: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    err = refused(capsys, make(), "-o", tmp_path / "runs")
    assert str(make()) in err and "unpack it with" in err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("sizes", "fault"),
    [
        (replace(SIZES, student=StudentConfig()), r"image_encoder\.onnx: not the student of this release's recipes"),
        (replace(SIZES, codec=replace(tiny.CODEC, encoder_blocks=2)), r"codec_encoder\.onnx: not the codec of"),
        (replace(SIZES, codec=CodecConfig()), r"codec_decoder\.onnx: not the codec of"),
        (replace(SIZES, recognizer=replace(tiny.RECOGNIZER, blocks=2)), r"recognizer\.onnx: not the recognizer of"),
        (replace(SIZES, recognizer=replace(tiny.RECOGNIZER, hop_length=80)), "not the recognizer of"),  # same weights
    ],
)
def test_a_part_of_other_sizes(sizes: Sizes, fault: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=fault):
        unpack(b.Bundle.load(tiny.bundle()), tmp_path / "runs", sizes)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("sizes", "fault"),
    [
        (replace(SIZES, units=replace(tiny_units.ENCODER, layer=2)), r"unit_encoder\.onnx: not the units of"),
        (replace(SIZES, units=replace(tiny_units.ENCODER, strides=(4, 1))), "not the units of"),  # the same frames
        (replace(SIZES, units=replace(tiny_units.ENCODER, strides=(2, 1))), "the units of 80 samples a frame of this"),
        (replace(SIZES, vocoder=replace(SIZES.vocoder, frame_blocks=2)), r"unit_vocoder\.onnx: not the vocoder of"),
        (replace(SIZES, codec=CodecConfig()), "the vocoder of 1280 samples a codec frame of this"),
    ],
)
def test_units_of_other_sizes(sizes: Sizes, fault: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=fault):
        unpack(b.Bundle.load(tiny_units.bundle()), tmp_path / "runs", sizes)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("changes", [{"context": 3}, {"lookahead": 1}])
def test_parts_that_see_as_far_as_ours_do_not(changes: dict[str, int], tmp_path: Path) -> None:
    """The same weights, over other frames."""
    bundle = tiny.copy_of_bundle(tmp_path / "codec", codec=changes)
    with pytest.raises(BundleError, match=r"codec_decoder\.onnx: not the codec of"):
        unpack(b.Bundle.load(bundle), tmp_path / "runs", SIZES)
    speaks = b.Bundle.load(tiny_units.bundle())
    assert speaks.info.units is not None
    other = replace(speaks.info, units=replace(speaks.info.units, **changes))
    with pytest.raises(BundleError, match=r"unit_vocoder\.onnx: not the vocoder of"):
        unpack(b.Bundle(speaks.folder, other), tmp_path / "runs", SIZES)


def test_letters_of_another_alphabet(tmp_path: Path) -> None:
    letters = " 'abcdefghijklmnopqrstuvwxzy"
    bundle = tiny.copy_of_bundle(tmp_path / "bundle", recognizer={"letters": letters})
    with pytest.raises(BundleError, match="its recognizer writes other letters"):
        unpack(b.Bundle.load(bundle), tmp_path / "runs", SIZES)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("named", "fault"), [(False, "damaged"), (True, "not a model that can be read")])
def test_files_that_are_no_models(named: bool, fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(b.EMBEDDED, tmp_path / "bundle", copy_function=shutil.copyfile)
    info = json.loads((tmp_path / "bundle" / "bundle.json").read_text())
    (tmp_path / "bundle" / b.IMAGE_ENCODER).write_bytes(b"no model")
    if named:
        info["files"][b.IMAGE_ENCODER] = hashlib.sha256(b"no model").hexdigest()
        (tmp_path / "bundle" / "bundle.json").write_text(json.dumps(info))
    assert fault in refused(capsys, tmp_path / "bundle", "-o", tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_places_that_hold_no_bundle_or_no_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no bundle there" in refused(capsys, tmp_path / "absent")
    (tmp_path / "file").touch()
    assert "file: a file; give a folder for the runs" in refused(capsys, "-o", tmp_path / "file")
    with pytest.raises(OutputError, match="can't be written"):
        unpack(b.Bundle.load(tiny.bundle()), tmp_path / "file" / "below", SIZES)


def test_the_sizes_are_those_of_the_recipes() -> None:
    """If a recipe's model grows, what it made before can't be unpacked any more: give its old sizes to ``unpack``."""
    recipes = {task: load_recipe(RECIPES / f"{task}-small.yaml").model for task in vars(Sizes())}
    units = Sizes().units
    told = {"units": units.units, "segment_cost": units.segment_cost}  # by bundle.json
    recipes["units"] = replace(recipes["units"], **told)
    assert recipes == vars(Sizes())
