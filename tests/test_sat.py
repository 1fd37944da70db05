"""Show, attend and tell: attention that sums to 1, one step as all at once, and runs that describe photos."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")
pytest.importorskip("transformers", reason="needs the train extra")

import tiny  # noqa: E402
from pixvoice.describe.decoder import SatSpeechDecoder  # noqa: E402
from pixvoice.describe.sat import SatConfig, ShowAttendTell  # noqa: E402
from pixvoice.describe.speaker import load_speaker  # noqa: E402
from pixvoice.errors import BundleError, InputError, OptionError  # noqa: E402
from pixvoice.patterns import make_pattern  # noqa: E402
from pixvoice.runtime.decoding import DecodingOptions, generate, generate_batch  # noqa: E402
from pixvoice.training.recipes import load_recipe  # noqa: E402
from pixvoice.training.runs import Run  # noqa: E402
from test_small_units import UNITS, speech, spoken_photos  # noqa: E402
from test_small_units import train as train_units  # noqa: E402

SIZES = SatConfig(codebook_size=10, width=16, attention_width=8, image_dim=6, max_steps=20, dropout=0.0)
PARALLEL = make_pattern("parallel", 1)
MODEL = f"{{codebook_size: {UNITS}, width: 16, attention_width: 8, image_dim: 16, max_steps: 60}}"
TRAIN = "train: {steps: 4, batch_size: 4, learning_rate: 1e-2, warmup_steps: 1, log_every: 2, save_every: 2, bf16: no}"


def model_of() -> ShowAttendTell:
    torch.manual_seed(0)
    model = ShowAttendTell(SIZES)
    for parameter in model.parameters():  # far from the start, where all logits are nearly zero
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model.eval()


def photo_and_tokens(steps: int, batch: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, 5, 6, generator=generator), torch.randint(11, (batch, 1, steps), generator=generator)


@torch.inference_mode()
def test_attention_is_a_share_of_each_patch() -> None:
    model, (features, tokens) = model_of(), photo_and_tokens(7)
    weights = model.attention(features, tokens)
    assert weights.shape == (2, 7, 5) and (weights >= 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 7))
    assert weights.std(-1).min() > 1e-3 and not torch.allclose(weights[:, 0], weights[:, -1])


@torch.inference_mode()
def test_step_by_step_equals_all_at_once() -> None:
    model, (features, tokens) = model_of(), photo_and_tokens(12)
    state, steps = model.start(features), []
    for s in range(12):
        logits, state = model.step(tokens[:, :, s], state)
        assert logits.shape == (2, 1, 11)
        steps.append(logits)
    whole = model.logits(features, tokens).permute(1, 0, 2, 3)  # (B, 1, S, V + 1)
    np.testing.assert_allclose(torch.stack(steps, dim=2), whole, atol=1e-5)


def test_loss_is_cross_entropy_and_how_unevenly_the_photo_was_seen() -> None:
    model, (features, tokens) = model_of(), photo_and_tokens(6)
    labels = tokens.clone()
    labels[1, 0, 4:] = -100
    logits, weights = model.attend(features, tokens)
    entropy = torch.nn.functional.cross_entropy(logits[0].flatten(0, 1), labels.flatten(), ignore_index=-100)
    shares = torch.stack([weights[0].mean(0), weights[1, :4].mean(0)])
    uneven = ((1 - 5 * shares) ** 2).mean(1) @ torch.tensor([0.6, 0.4])
    torch.testing.assert_close(model(features, tokens, labels)["loss"], entropy + uneven)
    parts = [model(features[[i]], tokens[[i]], labels[[i]], torch.tensor(10))["loss"] for i in range(2)]
    torch.testing.assert_close(sum(parts), entropy + uneven)


def test_one_beam_is_greedy_and_more_are_better() -> None:
    decoder, features = SatSpeechDecoder(model_of()), photo_and_tokens(1)[0][:1].numpy()
    limits = {"min_frames": 3, "max_frames": 9}
    greedy = generate(decoder, features, PARALLEL, DecodingOptions(**limits))
    one, many = (
        generate(decoder, features, PARALLEL, DecodingOptions(strategy="beam", beam_size=size, **limits))
        for size in (1, 8)
    )
    np.testing.assert_array_equal(one.codes, greedy.codes)
    assert many.log_prob >= one.log_prob


def test_photos_of_a_batch_do_not_mix() -> None:
    decoder, features = SatSpeechDecoder(model_of()), photo_and_tokens(1, batch=3)[0].numpy()
    options = DecodingOptions(min_frames=4, max_frames=8)
    together = generate_batch(decoder, features, PARALLEL, options)
    for one, said in zip(features, together, strict=True):
        np.testing.assert_array_equal(generate(decoder, one[None], PARALLEL, options).codes, said.codes)


# --- runs


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of four photos with tones, and the runs of units, vocoder and both describers on them."""
    folder = tmp_path_factory.mktemp("sat")
    spoken_photos(folder)
    train_units(folder, "units", "units", "crop_frames: 32\nclusters: 4")
    train_units(folder, "vocoder", "vocoder", f"crop_frames: 8\n{speech(folder)}codec: {tiny.runs()['codec']}")
    Run(recipe(folder), folder / "sat").train()
    Run(recipe(folder, *tuned(folder)), folder / "sat-ft").train()
    return folder


def recipe(folder: Path, *changes: str) -> Any:
    (folder / "sat.yaml").write_text(
        f"task: sat\nmanifests: [{folder / 'manifest.jsonl'}]\nstudent: {tiny.runs()['student']}\nmodel: {MODEL}\n"
        f"crops: 0\nmax_frames: 50\n{TRAIN}\n{speech(folder, vocoder=folder / 'vocoder')}"
    )
    return load_recipe(folder / "sat.yaml", changes)


def tuned(folder: Path) -> tuple[str, str]:
    return "tune_student=true", f"start_from={folder / 'sat' / 'checkpoints' / 'checkpoint-2'}"


@pytest.mark.parametrize("run", ["sat", "sat-ft"])
def test_a_run_describes_photos_and_says_where_it_looked(place: Path, run: str) -> None:
    speaker = load_speaker(place / run)
    said = speaker.describe(place / "0.png", min_frames=3, max_frames=9)
    assert 3 <= said.codes.shape[1] <= 9 and said.codes.max() < UNITS and said.seconds > 0
    again = load_speaker(place / run).describe(place / "0.png", min_frames=3, max_frames=9)
    np.testing.assert_array_equal(again.audio, said.audio)
    looked = speaker.attention(place / "0.png", said.codes)
    assert looked is not None and looked.shape == (said.codes.shape[1], 4)
    np.testing.assert_allclose(looked.sum(1), 1.0, atol=1e-5)


def test_only_a_tuned_student_changes_and_it_lies_in_the_run(place: Path) -> None:
    from safetensors.torch import load_file

    before = load_file(tiny.runs()["student"] / "model.safetensors")
    after = load_file(place / "sat-ft" / "student" / "model.safetensors")
    assert not torch.equal(before["stem.weight"], after["stem.weight"])
    kept = [name for name in before if "running_" in name]
    assert kept and all(torch.equal(before[name], after[name]) for name in kept)
    assert json.loads((place / "sat-ft" / "config.json").read_text())["config"]["student"] is None
    assert not (place / "sat" / "student").exists()


def test_a_training_begins_with_a_checkpoint(place: Path) -> None:
    from safetensors.torch import load_file

    from pixvoice.training.sat import begin

    begun = begin(recipe(place, *tuned(place))).state_dict()
    saved = load_file(place / "sat" / "checkpoints" / "checkpoint-2" / "model.safetensors")
    assert all(torch.equal(begun[name], saved[name]) for name in begun)


@pytest.mark.parametrize("run", ["sat", "sat-ft"])
def test_a_training_that_was_stopped_ends_as_if_it_had_not(place: Path, tmp_path: Path, run: str) -> None:
    shutil.copytree(place / run, tmp_path / run)
    shutil.rmtree(tmp_path / run / "checkpoints" / "checkpoint-4")
    Run(recipe(place, *(tuned(place) if run == "sat-ft" else ())), tmp_path / run).train()
    files = ["model.safetensors", "log.jsonl"] + (["student/model.safetensors"] if run == "sat-ft" else [])
    for name in files:
        assert (tmp_path / run / name).read_bytes() == (place / run / name).read_bytes(), name


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        (("speech.units=null",), r"speech\.units: None must be the run of a training of units"),
        (("max_frames=60",), r"model\.max_steps: 60 is too few for max_frames \(60\)"),
        (("tune_student=true", "teacher_steps=2"), "a student that learns .* sees photos; give 0"),
        (("model.codebook_size=7",), "codebook_size: the recipe says 7, but .*units has 6"),
        (("start_from={place}/nowhere",), "start_from: .*nowhere is not there; make it first"),
        (("start_from={place}/units",), "units holds no describer of `task: sat` and the recipe's sizes"),
        (("student={place}/units", "tune_student=true"), "units holds a units, not a student"),
        (("model.heads=2",), r"model\.heads: unknown key"),
    ],
)  # fmt: skip
def test_what_does_not_fit(changes: tuple[str, ...], fault: str, place: Path, tmp_path: Path) -> None:
    with pytest.raises((BundleError, InputError, OptionError), match=fault):
        run = Run(recipe(place, *(change.format(place=place) for change in changes)), tmp_path / "run")
        run.check()
        run.train()


def test_a_run_without_its_student_says_so(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "sat-ft", tmp_path / "run", ignore=shutil.ignore_patterns("student", "checkpoints"))
    with pytest.raises(BundleError, match=r"no trained student in .*run/student"):
        load_speaker(tmp_path / "run")
