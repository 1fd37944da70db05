"""Task ``retriever`` on pretrained towers: from a recipe that names them to a model that can be searched with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the train extra")
pytest.importorskip("transformers", reason="needs the train extra")

from pixvoice.audio import write_wav
from pixvoice.errors import BundleError, OptionError
from pixvoice.manifest import Sample, write_manifest
from pixvoice.retrieve.build import load_search_model
from pixvoice.training.recipes import load_recipe
from pixvoice.training.runs import Run
from towers import RATE, WORDS, checkpoint, photos, sound


@pytest.fixture
def spoken(tmp_path: Path) -> Path:
    """A manifest of four photos with a recording each, half of them to train on."""
    samples = []
    for n, photo in enumerate(photos(4)):
        photo.save(tmp_path / f"{n}.png")
        write_wav(tmp_path / f"{n}.wav", sound(0.4 + n / 10)[0][0].numpy(), RATE)
        split = "dev" if n % 2 else "train"
        samples.append(Sample(tmp_path / f"{n}.png", tmp_path / f"{n}.wav", WORDS[: n + 5], None, split))
    write_manifest(tmp_path / "manifest.jsonl", samples)
    return tmp_path / "manifest.jsonl"


def recipe_of(folder: Path, manifest: Path, text: str, steps: int = 2) -> Any:
    path = folder / "recipe.yaml"
    path.write_text(
        f"task: retriever\nmanifests: [{manifest}]\ndev: [{manifest}]\ncrops: 1\nevaluate_every: 1\n{text}"
        f"train: {{steps: {steps}, batch_size: 2, learning_rate: 1.e-3, log_every: 1, save_every: 1, bf16: false}}\n"
    )
    return load_recipe(path)


SMALL_HEAD = "embed_dim: 12, prompts: 2, heads: 2, feed_forward: 16"


@pytest.mark.parametrize("variant", ["full", "e2e"])
def test_a_recipe_trains_on_towers_and_the_run_can_be_searched_with(
    variant: str,
    tmp_path: Path,
    spoken: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    clip, whisper = checkpoint("clip"), checkpoint("whisper")
    names = f"text: {clip}\nspeech: {whisper}\nimage: {clip}\npasses: 0\n"
    recipe = recipe_of(tmp_path, spoken, names + f"model: {{variant: {variant}, {SMALL_HEAD}}}\n")
    Run(recipe, tmp_path / "run").train()
    assert "trainable " in capsys.readouterr().err
    saved = tmp_path / "run" / "model.safetensors"
    assert saved.stat().st_size < 100_000, "the towers stay where they are"
    assert len((tmp_path / "run" / "dev.jsonl").read_text().splitlines()) == 2, "chosen on dev"
    kept = list((tmp_path / "run" / "cache").glob("transcripts-*.json"))
    assert sorted(len(json.loads(path.read_text())) for path in kept) == ([2, 2] if variant == "full" else [])

    model = load_search_model(tmp_path / "run")
    clips = [sound(0.4)[0][0].numpy(), sound(31.0)[0][0].numpy()]
    vectors, texts = model.embed_speech(clips)
    assert vectors.shape == (2, 12) and np.allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    assert all(texts) == (variant == "full") and model.embed_photos(photos()).shape == (3, 12)


def test_a_run_on_towers_that_was_stopped_ends_as_if_it_had_not(tmp_path: Path, spoken: Path) -> None:
    names = f"speech: {checkpoint('hubert')}\nimage: {checkpoint('clip')}\nmodel: {{variant: e2e, {SMALL_HEAD}}}\n"
    whole = recipe_of(tmp_path, spoken, names, steps=3)
    curve = Run(whole, tmp_path / "whole").train()
    Run(whole, tmp_path / "stopped").train()
    shutil.rmtree(tmp_path / "stopped" / "checkpoints" / "checkpoint-3")
    assert Run(whole, tmp_path / "stopped").done == 2
    again = Run(whole, tmp_path / "stopped").train()
    assert [entry["loss"] for entry in again] == pytest.approx([entry["loss"] for entry in curve])


@pytest.mark.parametrize(
    ("names", "fault"),
    [
        ("", "recognizer: None and student: None must both be paths, or text, speech and image name pretrained towers"),
        ("image: {clip}\n", "text: variant full needs a CLIP or SigLIP, such as openai/clip-vit-large-patch14"),
        ("image: {clip}\ntext: {clip}\n", "speech: is missing; name a Whisper such as openai/whisper-base.en"),
        ("image: {clip}\ntext: {clip}\nspeech: {clip}\n", "clip holds a clip, which is no Whisper, HuBERT"),
        ("image: {whisper}\ntext: {clip}\nspeech: {whisper}\n", "whisper holds a whisper, which is no CLIP, SigLIP"),
        ("image: {clip}\ntext: {vit}\nspeech: {whisper}\n", "vit holds a vit, which is no CLIP or SigLIP"),
    ],
)
def test_names_that_are_missing_or_of_another_architecture(
    names: str, fault: str, tmp_path: Path, spoken: Path
) -> None:
    places = {}
    for kind in ("clip", "whisper", "vit"):
        (tmp_path / kind).symlink_to(checkpoint(kind))
        places[kind] = tmp_path / kind
    with pytest.raises((BundleError, OptionError)) as caught:
        Run(recipe_of(tmp_path, spoken, names.format(**places)), tmp_path / "run").train()
    assert fault in str(caught.value)
