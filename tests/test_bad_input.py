"""What a training is given and can't use: one clear line through the command, exit status 2, and nothing trained."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")
transformers = pytest.importorskip("transformers", reason="needs the train extra")

from pixvoice import cli  # noqa: E402
from pixvoice.audio import read_audio, write_wav  # noqa: E402
from pixvoice.training.recipes import to_yaml  # noqa: E402
from speakers import checkpoint, make_kmeans  # noqa: E402
from test_describe_full import recipe_of, spoken  # noqa: E402, F401
from test_training import recipe_for, spoken_photos  # noqa: E402

SPEECH = Path(__file__).resolve().parent / "browser" / "recordings" / "animal.wav"


def refused(arguments: list[str], fault: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The command ends with status 2, and with one line that holds ``fault``."""
    capsys.readouterr()
    assert cli.run(arguments) == 2
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if line.startswith("error: ")] == lines[-1:] and fault in lines[-1], lines


def another_architecture(place: Path) -> list[str]:
    return [f"decoder={checkpoint('whisper')}"]


def a_missing_shard(place: Path) -> list[str]:
    shutil.copytree(checkpoint("git"), place / "git")
    model = transformers.GitForCausalLM.from_pretrained(place / "git")
    (place / "git" / "model.safetensors").unlink()
    model.save_pretrained(place / "git", max_shard_size="20KB")
    sorted((place / "git").glob("model-*-of-*"))[0].unlink()
    return [f"decoder={place / 'git'}"]


def a_pickle(place: Path) -> list[str]:
    shutil.copytree(checkpoint("hubert"), place / "hubert")
    (place / "hubert" / "model.safetensors").rename(place / "hubert" / "pytorch_model.bin")
    return [f"speech.checkpoint={place / 'hubert'}"]


def a_kmeans_of_another_width(place: Path) -> list[str]:
    return [f"speech.kmeans={make_kmeans(place / 'km.safetensors', width=12)}"]


@pytest.mark.parametrize(
    ("kind", "given", "fault"),
    [
        ("git", another_architecture, "whisper holds a whisper, which is no BLIP or GiT that captions photos: use"),
        ("git", a_missing_shard, "can't be loaded as a BLIP or GiT that captions photos ("),
        ("git", a_pickle, "turn it into one that can't: pixvoice convert "),
        ("git", a_kmeans_of_another_width, "its centroids are 12 wide, the encoder's frames 16: give the k-means of"),
        ("git", lambda _: ["speech.checkpoint=some/hubert"], "some/hubert is no folder here, and can't be fetched"),
        ("git", lambda _: ["decoder=some/git"], "download it where there is a network, and give its folder"),
        ("git", lambda _: ["speech.sample_rate=8000"], "speech.sample_rate: the recipe says 8000, but "),
        ("blip", lambda _: ["model.num_codebooks=3"], "model.num_codebooks: the recipe says 3, but "),
        ("blip", lambda _: ["model.codebook_size=17"], "has 16; give 16, or another"),
    ],
)
def test_pretrained_parts_that_cant_be_used(
    kind: str,
    given: Callable[[Path], list[str]],
    fault: str,
    spoken: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(to_yaml(recipe_of(kind, spoken, *given(tmp_path))))
    refused(["train", str(recipe), "-o", str(tmp_path / "run")], fault, capsys)
    assert not (tmp_path / "run" / "log.jsonl").exists()


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ("model.num_codebooks=5", "num_codebooks is 5, but the codec in "),
        ("model.codebook_size=16", "model.codebook_size: the recipe says 16, but "),
        ("codec={data}/student", "holds a student, not a codec"),
        ("student={data}/codec", "holds a codec, not a student"),
        ("codec={data}/nowhere", "codec: "),
    ],
)
def test_our_own_parts_that_dont_fit(
    change: str, fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data: Any = spoken_photos(tmp_path)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(to_yaml(recipe_for("describer", data)))
    run = [
        "train",
        str(recipe),
        "-o",
        str(tmp_path / "run"),
        "--set",
        change.format(data=data),
        "--set",
        "max_frames=6",
    ]
    refused(run, fault, capsys)
    assert not (tmp_path / "run" / "log.jsonl").exists()


def test_a_prompt_longer_than_the_model_can_go_on_from(
    photo: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo.save(tmp_path / "photo.png")
    write_wav(tmp_path / "long.wav", np.tile(read_audio(SPEECH, 16_000), 10), 16_000)
    output = tmp_path / "whole.wav"
    arguments = ["complete", str(tmp_path / "photo.png"), str(tmp_path / "long.wav"), "-o", str(output)]
    refused(arguments, "s of speech; a description of this length may begin with up to", capsys)
    assert not output.exists()
