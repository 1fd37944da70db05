"""``pixvoice export``: from the folders of four trainings to one bundle, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pixvoice
import tiny
from pixvoice.cli import run
from pixvoice.describe.model import PixVoxConfig, PixVoxLM
from pixvoice.runtime.bundle import Bundle
from pixvoice.runtime.recognizer import load_recognizer
from pixvoice.training.trainer import save_model

EVERY_FILE = {
    "bundle.json", "image_encoder.onnx", "describer_start.onnx", "describer_step.onnx", "codec_encoder.onnx",
    "codec_decoder.onnx", "recognizer.onnx",
}  # fmt: skip


def exported(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str, str]:
    status = run(["export", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_a_bundle_holds_every_file_with_its_hash(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [tiny.runs()[task] for task in ("codec", "recognizer", "describer", "student")]  # in any order
    status, out, err = exported(capsys, *runs, "-o", tmp_path / "new" / "bundle", "--name", "mine")
    assert (status, err) == (0, "")
    folder = tmp_path / "new" / "bundle"
    assert str(folder) in out and "MB" in out and "mine" in out
    assert {path.name for path in folder.iterdir()} == EVERY_FILE
    assert [path.name for path in folder.parent.iterdir()] == ["bundle"]
    info = json.loads((folder / "bundle.json").read_text())
    assert set(info["files"]) == EVERY_FILE - {"bundle.json"}
    for name, sha256 in info["files"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == sha256
    assert info["name"] == "mine" and info["codec"]["num_codebooks"] == tiny.K


@pytest.mark.parametrize("dtype", ["fp16", "int8"])
def test_smaller_weights_stay_close(dtype: str) -> None:
    whole, small = (pixvoice.load(tiny.bundle(dtype=d)) for d in ("fp32", dtype))
    features = np.random.default_rng(0).normal(size=(1, 4, 16)).astype(np.float32)
    tokens = np.full((1, tiny.K), tiny.V)
    logits = [d.decoder.step(tokens, d.decoder.start(features))[0] for d in (whole, small)]
    assert np.abs(logits[0] - logits[1]).max() < 0.05 * np.abs(logits[0]).max()
    codes = np.random.default_rng(0).integers(0, tiny.V, (tiny.K, 20))
    audio = [d.tokenizer.decode(codes) for d in (whole, small)]
    assert np.abs(audio[0] - audio[1]).max() < 0.02 * np.abs(audio[0]).max()
    sizes = [sum(f.stat().st_size for f in d.bundle.folder.iterdir()) for d in (whole, small)]
    assert sizes[1] < sizes[0]
    assert isinstance(load_recognizer(tiny.bundle(dtype=dtype)).transcribe([audio[1]])[0], str)


def test_without_recognizer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [tiny.runs()[task] for task in ("codec", "describer", "student")]
    assert exported(capsys, *runs, "-o", tmp_path / "bundle")[0] == 0
    assert not (tmp_path / "bundle" / "recognizer.onnx").exists()
    assert Bundle.load(tmp_path / "bundle").info.recognizer is None


def test_defaults_are_taken_over_from_another_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = {"decoding": {"default": {"strategy": "greedy", "max_frames": 7}}, "confidence": {"centre": -9.0}}
    other = tiny.copy_of_bundle(tmp_path / "other", **changes)
    runs = [tiny.runs()[task] for task in ("codec", "describer", "student")]
    assert exported(capsys, *runs, "-o", tmp_path / "bundle", "--defaults", other / "bundle.json")[0] == 0
    info = Bundle.load(tmp_path / "bundle").info
    assert info.options().max_frames == 7 and info.confidence.centre == -9.0


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"decoding": {"default": {"beams": 3}}}', '{"decoding": 3}', '{"confidence": {"centre": 1}}']
)
def test_defaults_that_can_not_be_read_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    (tmp_path / "defaults.json").write_text(text)
    runs = [tiny.runs()[task] for task in ("codec", "describer", "student")]
    status, _, err = exported(capsys, *runs, "-o", tmp_path / "bundle", "--defaults", tmp_path / "defaults.json")
    assert (status, err.count("\n")) == (2, 1) and err.startswith("error: ")
    assert [path.name for path in tmp_path.iterdir()] == ["defaults.json"]


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        (("codec", "student"), "no describer"),
        (("describer",), "no codec and no student"),
        (("codec", "codec", "describer", "student"), "both hold a codec"),
    ],
)
def test_runs_that_do_not_make_a_bundle(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tasks: tuple[str, ...], said: str
) -> None:
    status, out, err = exported(capsys, *(tiny.runs()[task] for task in tasks), "-o", tmp_path / "bundle")
    assert (status, out, err.count("\n")) == (2, "", 1) and said in err
    assert not list(tmp_path.iterdir())


def test_a_folder_without_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = exported(capsys, tmp_path, "-o", tmp_path / "bundle")
    assert status == 2 and "no trained model" in err


@pytest.mark.parametrize(("size", "value"), [("num_codebooks", 7), ("codebook_size", 64), ("image_dim", 8)])
def test_models_that_do_not_fit_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], size: str, value: int
) -> None:
    other = PixVoxConfig(**{**vars(tiny.DESCRIBER), size: value})
    save_model(PixVoxLM(other), other, "describer", tmp_path / "describer")
    runs = [tmp_path / "describer", tiny.runs()["codec"], tiny.runs()["student"]]
    status, _, err = exported(capsys, *runs, "-o", tmp_path / "bundle")
    assert (status, err.count("\n")) == (2, 1) and str(value) in err
    assert [path.name for path in tmp_path.iterdir()] == ["describer"]


def test_weights_of_another_shape(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(tiny.runs()["codec"], tmp_path / "codec")
    config = json.loads((tmp_path / "codec" / "config.json").read_text())
    config["config"]["width"] = 24
    (tmp_path / "codec" / "config.json").write_text(json.dumps(config))
    runs = [tmp_path / "codec", tiny.runs()["describer"], tiny.runs()["student"]]
    status, _, err = exported(capsys, *runs, "-o", tmp_path / "bundle")
    assert (status, err.count("\n")) == (2, 1) and "codec" in err
    assert not (tmp_path / "bundle").exists()


def test_a_folder_that_is_there_already_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "mine.txt").write_text("mine")
    runs = [tiny.runs()[task] for task in ("codec", "describer", "student")]
    status, _, err = exported(capsys, *runs, "-o", tmp_path / "bundle")
    assert status == 1 and "exists already" in err
    assert [path.name for path in (tmp_path / "bundle").iterdir()] == ["mine.txt"]


def test_a_place_that_can_not_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("not a folder")
    runs = [tiny.runs()[task] for task in ("codec", "describer", "student")]
    status, _, err = exported(capsys, *runs, "-o", tmp_path / "file" / "bundle")
    assert (status, err.count("\n")) == (1, 1) and "can't be written" in err
