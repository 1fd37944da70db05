"""The image student: features in the grid's order, the teacher's as its target."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="the image student's training form needs torch (the train extra)")
pytest.importorskip("transformers", reason="training needs transformers (the train extra)")

from safetensors.torch import save_file  # noqa: E402

from pixvoice.errors import BundleError, InputError  # noqa: E402
from pixvoice.training.options import TrainOptions  # noqa: E402
from pixvoice.training.student import StudentRecipe, TeacherViews, view  # noqa: E402
from pixvoice.vision.student import Distillation, ImageStudent, StudentConfig  # noqa: E402
from pixvoice.vision.teacher import STRIDES, MobileNetTeacher  # noqa: E402

TINY = StudentConfig(image_size=64, widths=(8, 8, 8, 8), blocks=(1, 1, 1, 1), embed_dim=12)
CHANNELS = (4, 4, 6, 6, 6, 6, 8, 8, 8, 8, 8, 8, 12)  # of a tiny teacher: the stem and blocks 1 to 12


def save_teacher(path: Path) -> Path:
    """A seeded teacher with few channels, under the names of the real one."""
    torch.manual_seed(0)
    tensors = {"conv1.weight": torch.randn(CHANNELS[0], 3, 3, 3) * 0.3}
    norms = {"conv1_bn": CHANNELS[0]}
    for n, (before, after) in enumerate(pairwise(CHANNELS), start=1):
        tensors[f"conv_dw_{n}.weight"] = torch.randn(before, 1, 3, 3) * 0.5
        tensors[f"conv_pw_{n}.weight"] = torch.randn(after, before, 1, 1) * 0.7
        norms |= {f"conv_dw_{n}_bn": before, f"conv_pw_{n}_bn": after}
    for name, width in norms.items():
        tensors[f"{name}.gamma"] = torch.rand(width) + 0.5
        tensors[f"{name}.beta"] = torch.rand(width)
        tensors[f"{name}.moving_mean"] = torch.randn(width) * 0.1
        tensors[f"{name}.moving_variance"] = torch.rand(width) + 0.5
    save_file(tensors, path)
    return path


def photos(folder: Path, count: int = 3) -> list[Path]:
    paths = []
    for n in range(count):
        noise = np.random.default_rng(n).integers(256, size=(6, 8, 3), dtype=np.uint8)
        paths.append(folder / f"{n}.png")
        Image.fromarray(noise).resize((80, 60)).save(paths[-1])
    return paths


@torch.inference_mode()
def test_features_are_patches_row_by_row() -> None:
    torch.manual_seed(0)
    student = ImageStudent(StudentConfig(image_size=96, widths=(8, 8, 8, 8), blocks=(1, 1, 1, 1), embed_dim=12)).eval()
    pixels = torch.rand(2, 3, 96, 96)
    before = student(pixels)
    assert before.shape == (2, 9, 12)
    pixels[0, :, 64:, :32] = 0  # the bottom left: patch 6
    change = (student(pixels) - before).abs().sum(-1)
    assert change[0].argmax() == 6 and change[1].sum() == 0


@torch.inference_mode()
def test_loss_is_the_share_of_variance_not_explained() -> None:
    torch.manual_seed(0)
    model = Distillation(TINY).eval()
    model.mean.uniform_()
    model.std.uniform_(0.5, 2)
    pixels, teacher = torch.rand(2, 3, 64, 64), torch.randn(2, 4, 12)
    naive = np.mean(((teacher - model.mean) / model.std - model.student(pixels)).numpy() ** 2)
    assert model(pixels, teacher)["loss"].item() == pytest.approx(naive, rel=1e-5)
    perfect = model.student(pixels) * model.std + model.mean
    assert model(pixels, perfect)["loss"].item() == pytest.approx(0, abs=1e-10)


@torch.inference_mode()
def test_teacher_equals_its_layers_one_by_one(tmp_path: Path) -> None:
    """The folded batch norms, the strides and the padding at the far edge only, against plain PyTorch layers."""
    from safetensors.torch import load_file
    from torch.nn import functional

    path = save_teacher(tmp_path / "teacher.safetensors")
    tensors, pixels = load_file(path), torch.rand(2, 3, 64, 64)

    def layer(x: torch.Tensor, name: str, norm: str, stride: int, groups: int = 1) -> torch.Tensor:
        weight = tensors[f"{name}.weight"]
        if weight.shape[-1] == 3:
            x = functional.pad(x, (0, 1, 0, 1) if stride == 2 else (1, 1, 1, 1))
        x = functional.conv2d(x, weight, stride=stride, groups=groups)
        parts = (tensors[f"{norm}.{part}"] for part in ("moving_mean", "moving_variance", "gamma", "beta"))
        return functional.relu6(functional.batch_norm(x, *parts, eps=1e-3))

    x = layer(pixels * 2 - 1, "conv1", "conv1_bn", 2)
    for n, stride in enumerate(STRIDES, start=1):
        x = layer(x, f"conv_dw_{n}", f"conv_dw_{n}_bn", stride, groups=x.shape[1])
        x = layer(x, f"conv_pw_{n}", f"conv_pw_{n}_bn", 1)
    features = MobileNetTeacher(path)(pixels)
    assert features.shape == (2, 4, 12)
    np.testing.assert_allclose(features, x.flatten(2).transpose(1, 2), atol=1e-4)


def test_files_that_hold_no_teacher(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no teacher at"):
        MobileNetTeacher(tmp_path / "absent.safetensors")
    save_file({"something": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(BundleError, match="has no tensor 'conv1_bn"):
        MobileNetTeacher(tmp_path / "other.safetensors")
    (tmp_path / "text.safetensors").write_text("not tensors")
    with pytest.raises(BundleError, match="not a safetensors file"):
        MobileNetTeacher(tmp_path / "text.safetensors")


def test_views_of_a_photo() -> None:
    noise = np.random.default_rng(0).integers(256, size=(6, 8, 3), dtype=np.uint8)
    photo = Image.fromarray(noise).resize((80, 60))
    whole, mirrored, crop, other = (view(photo, n, 64, seed=3) for n in range(4))
    assert whole.shape == crop.shape == other.shape == (3, 64, 64) and whole.dtype == np.float32
    assert whole.min() >= 0 and whole.max() <= 1
    np.testing.assert_array_equal(mirrored, whole[:, :, ::-1])
    assert np.abs(crop - whole).mean() > 0.01 and np.abs(other - mirrored).mean() > 0.01
    np.testing.assert_array_equal(view(photo, 2, 64, seed=3), crop)  # the same at every call
    assert np.abs(view(photo, 2, 64, seed=4) - crop).mean() > 0.01


@pytest.fixture
def recipe(tmp_path: Path) -> StudentRecipe:
    options = TrainOptions(steps=4, batch_size=4, learning_rate=1e-3, bf16=False)
    return StudentRecipe((), save_teacher(tmp_path / "teacher.safetensors"), options, TINY, crops=1)


def test_items_are_the_same_in_every_run(recipe: StudentRecipe, tmp_path: Path) -> None:
    views = TeacherViews(photos(tmp_path), recipe, tmp_path / "views")
    assert len(views) == 16
    torch.manual_seed(5)  # whatever the state of the global generator
    again = TeacherViews(photos(tmp_path), recipe, tmp_path / "views")
    for i in (0, 8, 15):
        for key in ("pixels", "teacher"):
            assert torch.equal(views[i][key], again[i][key])
    assert torch.equal(views[0]["teacher"], views[9]["teacher"])  # the same view in the next epoch,
    assert not torch.equal(views[0]["pixels"], views[9]["pixels"])  # in another light


def test_features_are_the_teachers_of_the_same_view(recipe: StudentRecipe, tmp_path: Path) -> None:
    paths = photos(tmp_path)
    views = TeacherViews(paths, recipe, tmp_path / "views")
    with Image.open(paths[1]) as photo:
        pixels = view(photo, 2, 64, seed=1)
    expected = MobileNetTeacher(recipe.teacher)(torch.from_numpy(pixels)[None])[0]
    np.testing.assert_allclose(views[1 * 3 + 2]["teacher"], expected, atol=2e-2)  # kept in 16 bits


def test_views_are_computed_once(recipe: StudentRecipe, tmp_path: Path) -> None:
    paths = photos(tmp_path)
    first = TeacherViews(paths, recipe, tmp_path / "views")[4]
    for path in paths:
        path.unlink()
    assert torch.equal(TeacherViews(paths, recipe, tmp_path / "views")[4]["teacher"], first["teacher"])


def test_views_of_other_photos_are_not_taken_for_these(recipe: StudentRecipe, tmp_path: Path) -> None:
    TeacherViews(photos(tmp_path), recipe, tmp_path / "views")
    with pytest.raises(InputError, match=r"remove .*views"):
        TeacherViews(photos(tmp_path, 4), recipe, tmp_path / "views")


def test_a_student_trains_from_photos_alone_and_goes_on_after_a_stop(tmp_path: Path) -> None:
    from pixvoice.training.student import run
    from pixvoice.training.trainer import load_model

    manifest = tmp_path / "manifest.jsonl"
    lines = [json.dumps({"image": path.name, "split": "train"}) for path in photos(tmp_path)]
    manifest.write_text("\n".join(lines) + "\n")
    options = TrainOptions(steps=8, batch_size=4, learning_rate=3e-3, warmup_steps=0, log_every=2, save_every=4)
    recipe = StudentRecipe((manifest,), save_teacher(tmp_path / "teacher.safetensors"), options, TINY)
    curve = run(recipe, tmp_path / "run")
    assert [entry["step"] for entry in curve] == [2, 4, 6, 8]
    assert curve[-1]["loss"] < curve[0]["loss"]
    whole = load_model(tmp_path / "run", "student", StudentConfig, ImageStudent)
    assert whole(torch.rand(1, 3, 64, 64)).shape == (1, 4, 12)

    shutil.rmtree(tmp_path / "run" / "checkpoints" / "checkpoint-8")
    (tmp_path / "run" / "model.safetensors").unlink()
    assert run(recipe, tmp_path / "run") == curve
    resumed = load_model(tmp_path / "run", "student", StudentConfig, ImageStudent).state_dict()
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.state_dict().items())
