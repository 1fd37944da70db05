"""``pixvoice convert``: tensors come out as they were, and nothing that a file holds is run."""

from __future__ import annotations

import argparse
import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")
pytest.importorskip("transformers", reason="needs the train extra")

from safetensors.torch import load_file  # noqa: E402

from pixvoice import cli  # noqa: E402
from pixvoice.errors import BundleError, InputError  # noqa: E402
from pixvoice.speech.kmeans_pickle import read_kmeans_pickle  # noqa: E402
from pixvoice.speech.units import read_centroids  # noqa: E402
from pixvoice.speech.vocoder import UnitVocoder, fold_weight_norm  # noqa: E402
from speakers import published_vocoder, vocoder_json  # noqa: E402

KMEANS = Path(__file__).parent / "golden" / "kmeans.joblib"
"""joblib.dump of scikit-learn 1.9's MiniBatchKMeans(4) fitted on 64 x 6 numbers."""
FIRST_CENTROID = [-0.5316, 0.3175, -0.9203, -0.2547, -1.2891, -0.3553]


class Boom:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def fails(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The line that the failing command says."""
    assert cli.run(["convert", *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    return err


def test_a_torch_file_becomes_safetensors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shared = torch.randn(3, 4)
    state = {"a.weight": shared, "b.weight": shared, "c": torch.arange(5), "turned": torch.randn(4, 2).T}
    torch.save(state, tmp_path / "pytorch_model.bin")
    assert cli.run(["convert", str(tmp_path / "pytorch_model.bin"), "-o", str(tmp_path / "model.safetensors")]) == 0
    out, err = capsys.readouterr()
    assert out == f"{tmp_path / 'model.safetensors'}  4 tensors, 37 numbers\n" and err == ""
    made = load_file(tmp_path / "model.safetensors")
    assert made.keys() == state.keys() and all(torch.equal(made[name], state[name]) for name in state)


@pytest.mark.parametrize("old", [False, True])
def test_weights_in_their_usual_places(old: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = {"state_dict": {"w": torch.ones(2), "step": 7}, "optimizer": {"lr": torch.ones(1)}, "epoch": 3}
    torch.save(saved, tmp_path / "a.ckpt", _use_new_zipfile_serialization=not old)
    assert cli.run(["convert", str(tmp_path / "a.ckpt"), "-o", str(tmp_path / "a.safetensors")]) == 0
    assert capsys.readouterr().err.splitlines() == [
        "optimizer: left out, only state_dict is taken",
        "epoch: left out, only state_dict is taken",
        "step: left out, not a plain tensor (int)",
    ]
    assert list(load_file(tmp_path / "a.safetensors")) == ["w"]


def test_shards_become_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "pytorch_model-00001-of-00002.bin")
    names = {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    output = tmp_path / "model.safetensors"
    assert "pytorch_model-00002-of-00002.bin: a shard that" in fails(capsys, index, "-o", output)
    torch.save({"b": torch.ones(1)}, tmp_path / names["b"])
    assert cli.run(["convert", str(index), "-o", str(output)]) == 0
    assert sorted(load_file(output)) == ["a", "b"]


def test_a_file_with_objects_is_refused_unread(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"model": {"w": torch.ones(1)}, "args": argparse.Namespace(lr=1)}, tmp_path / "fairseq.pt")
    said = fails(capsys, tmp_path / "fairseq.pt", "-o", tmp_path / "x.safetensors")
    assert "holds objects (argparse.Namespace) beside its tensors" in said and "nothing of it was read" in said
    for protocol in (0, 2, 4):
        torch.save({"w": Boom(tmp_path / "made")}, tmp_path / "boom.pt")
        (tmp_path / "boom.bin").write_bytes(pickle.dumps(Boom(tmp_path / "made"), protocol))
        assert "holds objects" in fails(capsys, tmp_path / "boom.pt", "-o", tmp_path / "x.safetensors")
        assert "nothing of it was run" in fails(capsys, tmp_path / "boom.bin", "-o", tmp_path / "x.safetensors")
    assert not (tmp_path / "made").exists() and not (tmp_path / "x.safetensors").exists()


@pytest.mark.parametrize(
    ("saved", "fault"),
    [
        (torch.ones(3), "holds a Tensor, not tensors with names; give a state dict"),
        ({"epoch": 3}, "holds no tensors with names, only epoch"),
        ({}, "holds no tensors with names, only nothing"),
    ],
)
def test_files_without_named_tensors(
    saved: Any, fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(saved, tmp_path / "a.pt")
    assert fault in fails(capsys, tmp_path / "a.pt", "-o", tmp_path / "a.safetensors")


def test_files_that_are_no_torch_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"w": torch.ones(100)}, tmp_path / "a.pt")
    whole = (tmp_path / "a.pt").read_bytes()
    for name, data in {"cut.pt": whole[: len(whole) // 2], "text.bin": b"once upon a time", "none.bin": b""}.items():
        (tmp_path / name).write_bytes(data)
        assert str(tmp_path / name) in fails(capsys, tmp_path / name, "-o", tmp_path / "x.safetensors")
    assert "no such file" in fails(capsys, tmp_path / "absent.pt", "-o", tmp_path / "x.safetensors")
    assert "ends in .safetensors" in fails(capsys, tmp_path / "a.pt", "-o", tmp_path / "x.bin")


def test_the_centroids_of_a_real_kmeans(tmp_path: Path) -> None:
    output = tmp_path / "km.safetensors"
    assert cli.run(["convert", str(KMEANS), "-o", str(output)]) == 0
    centroids = read_centroids(output)
    assert centroids.shape == (4, 6) and centroids.dtype == np.float32
    np.testing.assert_allclose(centroids[0], FIRST_CENTROID, atol=1e-4)
    with pytest.raises(BundleError, match=r"pixvoice convert .*kmeans\.joblib -o .*kmeans\.safetensors"):
        read_centroids(KMEANS)


def test_a_damaged_kmeans_is_one_line(tmp_path: Path) -> None:
    whole = KMEANS.read_bytes()
    for end in range(0, len(whole) - 1, 7):
        with pytest.raises(InputError, match=r"^km: [^\n]+$"):
            read_kmeans_pickle(whole[:end], "km")
    rng = np.random.default_rng(0)
    for _ in range(300):  # whatever a byte becomes: centroids, or one line
        place, value = int(rng.integers(len(whole))), int(rng.integers(256))
        try:
            found = read_kmeans_pickle(whole[:place] + bytes([value]) + whole[place + 1 :], "km")
            assert found.ndim == 2 and np.isfinite(found).all()
        except InputError as error:
            assert str(error).startswith("km: ")


def test_pickles_that_are_no_kmeans(tmp_path: Path) -> None:
    for value in ({"cluster_centers_": [[1.0]]}, [1, 2], np.ones((2, 3)), "text"):
        with pytest.raises(InputError, match="km: "):
            read_kmeans_pickle(pickle.dumps(value), "km")


def test_a_file_can_not_change_what_stands_for_its_names() -> None:
    for name in (b"c_codecs\nencode\n", b"cnumpy\ndtype\n"):
        with pytest.raises(InputError, match="gives a state to what has none"):
            read_kmeans_pickle(b"\x80\x02" + name + b"N}X\x08\x00\x00\x00__name__X\x01\x00\x00\x00xs\x86b.", "km")


def test_a_published_vocoder_is_converted_with_its_weight_norm_folded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, tensors = published_vocoder()
    torch.save({"generator": tensors}, tmp_path / "g_00950000")
    folder = tmp_path / "vocoder"
    folder.mkdir()
    (folder / "config.json").write_text(vocoder_json())
    with pytest.raises(BundleError, match=r"model\.safetensors is missing.* pixvoice convert g_00950000 -o"):
        UnitVocoder.load(folder)
    assert cli.run(["convert", str(tmp_path / "g_00950000"), "-o", str(folder / "model.safetensors")]) == 0
    assert "weight norm is folded" in capsys.readouterr().err
    assert not [name for name in load_file(folder / "model.safetensors") if name.endswith(("_g", "_v"))]
    units = torch.tensor([1, 4, 2])
    with torch.inference_mode():
        assert torch.allclose(UnitVocoder.load(folder)(units), model(units), atol=1e-5)


def test_folding_is_what_torch_does_for_either_axis() -> None:
    for layer, axis in (
        (torch.nn.Conv1d(4, 6, 3), 0),
        (torch.nn.ConvTranspose1d(4, 6, 3), 0),
        (torch.nn.Conv1d(4, 6, 3), 2),
    ):
        normed = torch.nn.utils.parametrizations.weight_norm(layer, dim=axis)
        with torch.no_grad():
            normed.parametrizations.weight.original0.mul_(1.7)
        parts = normed.parametrizations.weight
        made = fold_weight_norm({"x.weight_g": parts.original0, "x.weight_v": parts.original1})
        assert torch.allclose(made["x.weight"], normed.weight, atol=1e-6)
    with pytest.raises(BundleError, match=r"x\.weight_v without x\.weight_g"):
        fold_weight_norm({"x.weight_v": torch.ones(1)})
