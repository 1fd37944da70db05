"""Small image units: trained, resumed, read back; and describers that learn from them with no photo on disk."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="training needs torch (the train extra)")
pytest.importorskip("transformers", reason="training needs transformers (the train extra)")
pytest.importorskip("yaml", reason="recipes need PyYAML (the train extra)")

from safetensors.torch import load_file  # noqa: E402

from pixvoice import cli  # noqa: E402
from pixvoice.audio import write_wav  # noqa: E402
from pixvoice.describe.model import PixVoxConfig  # noqa: E402
from pixvoice.errors import BundleError, InputError, OptionError  # noqa: E402
from pixvoice.models import find_models  # noqa: E402
from pixvoice.packed import PackedUnits  # noqa: E402
from pixvoice.speech.codec import Codec, CodecConfig  # noqa: E402
from pixvoice.training.describer import DescriberRecipe  # noqa: E402
from pixvoice.training.image_encoders import load_image_encoder, load_image_units  # noqa: E402
from pixvoice.training.image_units import ImageUnitsRecipe, UnitFeatures  # noqa: E402
from pixvoice.training.options import TrainOptions  # noqa: E402
from pixvoice.training.recipes import load_recipe, to_yaml  # noqa: E402
from pixvoice.training.runs import Run  # noqa: E402
from pixvoice.training.trainer import save_model  # noqa: E402
from pixvoice.vision.image_units import FeatureQuantizer, ImageUnits, ImageUnitsConfig  # noqa: E402
from pixvoice.vision.student import ImageStudent, StudentConfig  # noqa: E402

STUDENT = StudentConfig(image_size=64, widths=(4, 4, 4, 4), blocks=(1, 1, 1, 1), embed_dim=6)
UNITS = ImageUnitsConfig(num_codebooks=3, codebook_size=8, latent_dim=4, width=8, blocks=1)
CODEC = CodecConfig(
    num_codebooks=2, codebook_size=8, latent_dim=4, width=8, token_width=8, encoder_blocks=1, token_blocks=1,
    decoder_blocks=1, n_mels=10,
)  # fmt: skip
DESCRIBER = PixVoxConfig(num_codebooks=2, codebook_size=8, width=8, layers=1, heads=2, image_dim=6, max_steps=12)
SHORT = TrainOptions(
    steps=4, batch_size=2, learning_rate=3e-3, warmup_steps=1, save_every=2, log_every=1, seed=3, bf16=False
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five spoken photos and their manifest, an untrained student and codec, and image units trained for four steps."""
    folder = tmp_path_factory.mktemp("data")
    rng, lines = np.random.default_rng(0), []
    for n in range(5):
        Image.fromarray(rng.integers(256, size=(64, 64, 3), dtype=np.uint8)).save(folder / f"{n}.png")
        seconds = np.arange(4000 + 900 * n) / 16_000
        write_wav(folder / f"{n}.wav", (0.3 * np.sin(2 * np.pi * (200 + 100 * n) * seconds)).astype(np.float32), 16_000)
        lines.append({"image": f"{n}.png", "audio": f"{n}.wav", "text": "a dog", "split": "train"})
    (folder / "manifest.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    torch.manual_seed(0)
    codec = Codec(CODEC)
    codec.quantizer.codebooks.normal_(std=0.05)
    save_model(codec, CODEC, "codec", folder / "codec")
    save_model(ImageStudent(STUDENT), STUDENT, "student", folder / "student")
    Run(units_recipe(folder), folder / "units").train()
    return folder


def units_recipe(data: Path) -> ImageUnitsRecipe:
    return ImageUnitsRecipe((data / "manifest.jsonl",), data / "student", SHORT, UNITS)


def describer_recipe(data: Path, stored: Path) -> DescriberRecipe:
    return DescriberRecipe(
        (data / "manifest.jsonl",), SHORT, data / "codec", data / "units", model=DESCRIBER, max_frames=9,
        cache=data / "cache", image_units=stored,
    )  # fmt: skip


@pytest.fixture(scope="module")
def stored(data: Path) -> Path:
    """The photos' units in two views, in a folder where no photo is."""
    path = data / "stored" / "units.npz"
    path.parent.mkdir()
    command = ["encode", "--image-units", str(data / "manifest.jsonl"), "--model", str(data / "units")]
    assert cli.run([*command, "--views", "2", "-o", str(path)]) == 0
    return path


# the model and its training


def test_the_small_recipe_is_a_third_of_a_percent_of_the_pixels() -> None:
    with torch.device("meta"):
        units = ImageUnits(ImageUnitsConfig())
    assert (units.patches, units.num_codebooks, units.codebook_size, units.embed_dim) == (49, 8, 1024, 1024)
    assert units.bits == 49 * 8 * 10 == 3920
    assert units.bits / (224 * 224 * 24) < 0.0033
    counted = [sum(p.numel() for p in part.parameters()) for part in (units.student, units.quantizer)]
    assert counted == [part.parameters for part in find_models(["image-units-small"])[0].parts]


@torch.inference_mode()
def test_features_come_back_through_their_ids_and_fewer_ids_are_read_too() -> None:
    torch.manual_seed(0)
    config = replace(UNITS, student=STUDENT)
    quantizer = FeatureQuantizer(config).eval()
    quantizer.quantizer.codebooks.normal_()
    codes = quantizer.encode(torch.randn(2, 4, 6))
    assert codes.shape == (2, 3, 4) and int(codes.max()) < 8
    assert quantizer.decode(codes).shape == quantizer.decode(codes[:, :1]).shape == (2, 4, 6)


def test_training_brings_features_nearer() -> None:
    torch.manual_seed(0)
    quantizer = FeatureQuantizer(replace(UNITS, student=STUDENT)).train()
    optimizer = torch.optim.Adam(quantizer.parameters(), 1e-2)
    features = torch.randn(16, 4, 2) @ torch.randn(2, 6)
    losses = []
    for _ in range(40):
        loss = quantizer(features)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


@torch.inference_mode()
def test_a_run_holds_the_student_and_stands_where_it_stands(data: Path) -> None:
    units, student = load_image_units(data / "units"), load_image_encoder(data / "student")
    pixels = torch.rand(2, 3, 64, 64)
    assert units.dims == STUDENT and units.sizes.student == STUDENT
    assert torch.equal(units.student(pixels), student(pixels))
    assert torch.equal(units(pixels), units.embed(units.encode(pixels)))
    assert isinstance(load_image_encoder(data / "units"), ImageUnits) and isinstance(student, ImageStudent)
    with pytest.raises(BundleError, match="holds a student, not a image_units"):
        load_image_units(data / "student")


def test_a_stopped_training_ends_as_if_it_had_not_been(data: Path, tmp_path: Path) -> None:
    shutil.copytree(data / "units", tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "checkpoint-4")
    (tmp_path / "run" / "model.safetensors").unlink()
    Run(units_recipe(data), tmp_path / "run").train()
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (tmp_path / "run", data / "units"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_sizes_of_another_student_are_refused(data: Path, tmp_path: Path) -> None:
    recipe = replace(units_recipe(data), model=replace(UNITS, student=replace(STUDENT, embed_dim=7)))
    with pytest.raises(OptionError, match=r"model\.student: not the sizes"):
        Run(recipe, tmp_path / "run").train()


def test_the_recipe_is_written_back_equal(data: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(to_yaml(units_recipe(data)))
    assert load_recipe(tmp_path / "recipe.yaml") == units_recipe(data)


# describers that see units alone


@torch.inference_mode()
def test_stored_units_are_the_features_of_the_photo_and_of_its_mirror_image(data: Path, stored: Path) -> None:
    photos = [data / f"{n}.png" for n in (3, 1)]
    views, units = UnitFeatures(photos, stored, data / "units"), load_image_units(data / "units")
    rng = np.random.default_rng(0)
    assert views.views == 2
    seen = np.stack([views.shown(np.arange(2), rng.integers(2, size=2), 0) for _ in range(20)])  # (20, B, P, D)
    for row, photo in enumerate(photos):
        pixels = torch.from_numpy(np.asarray(Image.open(photo), np.float32).transpose(2, 0, 1)[None] / 255)
        both = torch.cat([units(pixels), units(pixels.flip(-1))]).numpy()
        nearest = np.abs(seen[:, row, None] - both).max(axis=(2, 3)).argmin(axis=1)
        assert set(nearest) == {0, 1}
        np.testing.assert_allclose(seen[:, row], both[nearest], atol=1e-5)


def test_a_describer_learns_with_no_photo_on_disk(data: Path, stored: Path, tmp_path: Path) -> None:
    away = tmp_path / "away"
    away.mkdir()
    for photo in data.glob("*.png"):
        photo.rename(away / photo.name)
    try:
        curve = Run(describer_recipe(data, stored), tmp_path / "run").train()
    finally:
        for photo in away.glob("*.png"):
            photo.rename(data / photo.name)
    assert len(curve) == 4 and all(np.isfinite(entry["loss"]) for entry in curve)


def test_its_bundle_describes_through_units(data: Path, stored: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx", reason="exporting needs onnx (the train extra)")
    Run(describer_recipe(data, stored), tmp_path / "run").train()
    runs = [str(folder) for folder in (tmp_path / "run", data / "codec", data / "units")]
    assert cli.run(["export", *runs, "-o", str(tmp_path / "bundle"), "--dtype", "fp32"]) == 0
    from pixvoice.runtime.bundle import Bundle
    from pixvoice.runtime.sessions import OnnxImageEncoder

    pixels = np.random.default_rng(0).random((1, 3, 64, 64), dtype=np.float32)
    with torch.inference_mode():
        wanted = load_image_units(data / "units")(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(OnnxImageEncoder(Bundle.load(tmp_path / "bundle")).encode(pixels), wanted, atol=1e-4)


def test_units_of_another_model_and_photos_that_were_not_encoded_are_refused(
    data: Path, stored: Path, tmp_path: Path
) -> None:
    units = PackedUnits.load(stored)
    replace(units, of=replace(units.of, made_by="another")).save(tmp_path / "other.npz")
    with pytest.raises(InputError, match=r"other\.npz: units of another model; encode the photos again"):
        UnitFeatures([data / "0.png"], tmp_path / "other.npz", data / "units")
    with pytest.raises(InputError, match=r"9\.png: the units hold none"):
        UnitFeatures([data / "9.png"], stored, data / "units")
    with pytest.raises(OptionError, match="teacher_steps: 5, but image_units"):
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(to_yaml(describer_recipe(data, stored)))
        load_recipe(recipe, ["teacher_steps=5"])
