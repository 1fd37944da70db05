"""Trainings: stopped at any moment, they end as if they had not been."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="training needs torch (the train extra)")
pytest.importorskip("transformers", reason="training needs transformers (the train extra)")
yaml = pytest.importorskip("yaml", reason="recipes need PyYAML (the train extra)")

from safetensors.torch import load_file  # noqa: E402

from pixvoice import cli  # noqa: E402
from pixvoice.audio import write_wav  # noqa: E402
from pixvoice.describe.model import PixVoxConfig  # noqa: E402
from pixvoice.errors import BundleError, InputError, OptionError, OutputError  # noqa: E402
from pixvoice.speech.codec import Codec, CodecConfig  # noqa: E402
from pixvoice.speech.ctc import CTCConfig, CTCRecognizer  # noqa: E402
from pixvoice.training import describer  # noqa: E402
from pixvoice.training.codec import CodecRecipe  # noqa: E402
from pixvoice.training.describer import CaptionBatches, DescriberRecipe, PhotoFeatures, encode_speech  # noqa: E402
from pixvoice.training.options import TrainOptions  # noqa: E402
from pixvoice.training.progress import read_clock  # noqa: E402
from pixvoice.training.recipes import Recipe, load_recipe, to_yaml  # noqa: E402
from pixvoice.training.recognizer import RecognizerRecipe, SpokenTexts, begin, disturb, play_at  # noqa: E402
from pixvoice.training.runs import Run  # noqa: E402
from pixvoice.training.trainer import last_complete_checkpoint, save_model, train  # noqa: E402
from pixvoice.vision.student import ImageStudent, StudentConfig  # noqa: E402

CODEC = CodecConfig(
    num_codebooks=3, codebook_size=8, latent_dim=4, width=8, token_width=8, encoder_blocks=1, token_blocks=1,
    decoder_blocks=1, n_mels=10,
)  # fmt: skip
STUDENT = StudentConfig(image_size=32, widths=(4, 4, 4, 4), blocks=(1, 1, 1, 1), embed_dim=6)
DESCRIBER = PixVoxConfig(
    num_codebooks=2, codebook_size=8, width=8, layers=1, heads=2, image_dim=6, max_steps=12, dropout=0.1
)  # fmt: skip
SHORT = TrainOptions(
    steps=8, batch_size=2, learning_rate=3e-3, warmup_steps=2, save_every=4, log_every=2, seed=3
)  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return spoken_photos(tmp_path_factory.mktemp("data"))


def spoken_photos(folder: Path) -> Path:
    """``folder`` with six spoken photos and their manifest, an untrained codec and an untrained image student."""
    rng, lines = np.random.default_rng(0), []
    for n in range(6):
        Image.fromarray(rng.integers(256, size=(32, 32, 3), dtype=np.uint8)).save(folder / f"{n}.png")
        seconds = np.arange(4000 + 900 * n) / 16_000
        write_wav(folder / f"{n}.wav", (0.3 * np.sin(2 * np.pi * (200 + 100 * n) * seconds)).astype(np.float32), 16_000)
        lines.append({"image": f"{n}.png", "audio": f"{n}.wav", "text": "a dog", "speaker": "tone", "split": "train"})
    (folder / "manifest.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    torch.manual_seed(0)
    codec = Codec(CODEC)
    codec.quantizer.codebooks.normal_(std=0.05)
    save_model(codec, CODEC, "codec", folder / "codec")
    save_model(ImageStudent(STUDENT), STUDENT, "student", folder / "student")
    return folder


def recipe_for(task: str, data: Path, options: TrainOptions = SHORT) -> Recipe:
    manifests = (data / "manifest.jsonl",)
    recipes: dict[str, Recipe] = {
        "codec": CodecRecipe(manifests, options, CODEC, crop_frames=2),
        "recognizer": RecognizerRecipe(manifests, options, CTCConfig(n_mels=16, width=8, blocks=1)),
        "describer": DescriberRecipe(
            manifests, options, data / "codec", data / "student", model=DESCRIBER, max_frames=9, cache=data / "cache"
        ),
    }
    return recipes[task]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model.safetensors")


def assert_same(first: Path, second: Path) -> None:
    """Two runs ended with the same weights, and the same loss curve on disk, to the last bit."""
    ours, theirs = weights(first), weights(second)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert (first / "log.jsonl").read_text() == (second / "log.jsonl").read_text()


def damage(run: Path, checkpoint: Path, step: int) -> Path:
    """Leave a checkpoint of ``step`` as a kill in the middle of writing it would."""
    half = run / "checkpoints" / f"checkpoint-{step}"
    shutil.rmtree(half, ignore_errors=True)
    shutil.copytree(checkpoint, half)
    whole = (half / "model.safetensors").read_bytes()
    (half / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    state = (half / "trainer_state.json").read_text()
    (half / "trainer_state.json").write_text(state[: len(state) // 2])
    return half


@pytest.mark.slow
def test_a_training_killed_at_any_moment_ends_as_if_it_had_not_been(data: Path, tmp_path: Path) -> None:
    options = replace(SHORT, steps=150, save_every=10, log_every=5)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(to_yaml(recipe_for("describer", data, options)))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = subprocess.Popen(
        [sys.executable, "-m", "pixvoice", "train", str(recipe), "-o", str(killed)],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not (checkpoint := last_complete_checkpoint(killed / "checkpoints")):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[1]
        time.sleep(0.002)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL and not (killed / "model.safetensors").exists()

    checkpoint = last_complete_checkpoint(killed / "checkpoints")
    assert checkpoint is not None
    step = int(checkpoint.name.split("-")[1])
    half = damage(killed, checkpoint, step + 10)
    assert last_complete_checkpoint(killed / "checkpoints") == checkpoint  # not the half-written one
    assert cli.run(["train", str(recipe), "-o", str(killed)]) == 0
    assert cli.run(["train", str(recipe), "-o", str(whole)]) == 0
    assert_same(killed, whole)
    assert len((whole / "log.jsonl").read_text().splitlines()) == 30
    assert not half.exists()  # written whole in its turn, then rotated away


@pytest.mark.parametrize("task", ["codec", "recognizer", "describer"])
def test_every_task_goes_on_as_it_would_have(task: str, data: Path, tmp_path: Path) -> None:
    """Codebooks learned by moving averages, dropout, masks, crops and noise: all come back with the checkpoint."""
    recipe = recipe_for(task, data)
    torch.manual_seed(11)
    Run(recipe, tmp_path / "whole").train()
    shutil.copytree(tmp_path / "whole", tmp_path / "stopped")
    shutil.rmtree(tmp_path / "stopped" / "checkpoints" / "checkpoint-8")
    for name in ("model.safetensors", "log.jsonl"):
        (tmp_path / "stopped" / name).unlink()
    torch.manual_seed(22)  # the state of the process doesn't matter
    stopped = Run(recipe, tmp_path / "stopped")
    assert stopped.done == 4
    curve = stopped.train()
    assert [entry["step"] for entry in curve] == [2, 4, 6, 8]
    clock = read_clock(tmp_path / "stopped")  # of both parts: the first's kept steps, and the second's
    assert [entry["step"] for entry in clock] == [2, 4, 6, 8]
    assert clock[:2] == read_clock(tmp_path / "whole")[:2] and clock[1]["seconds"] <= clock[2]["seconds"]
    assert_same(tmp_path / "stopped", tmp_path / "whole")


def test_two_runs_of_a_recipe_are_the_same_with_and_without_the_cache(data: Path, tmp_path: Path) -> None:
    recipe = replace(recipe_for("describer", data), cache=tmp_path / "cache")  # type: ignore[type-var]
    Run(recipe, tmp_path / "first").train()
    Run(recipe, tmp_path / "second").train()
    assert_same(tmp_path / "first", tmp_path / "second")


def test_a_finished_training_given_again_stays_as_it_is(data: Path, tmp_path: Path) -> None:
    run = Run(recipe_for("describer", data), tmp_path / "run")
    curve = run.train()
    before = weights(tmp_path / "run")
    assert run.done == 8 and run.train() == curve
    assert all(torch.equal(before[name], tensor) for name, tensor in weights(tmp_path / "run").items())


def test_what_a_run_leaves_behind(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, run = tmp_path / "recipe.yaml", tmp_path / "runs" / "describer"
    recipe.write_text(to_yaml(recipe_for("describer", data)))
    arguments = ["train", str(recipe), "-o", str(run), "--set", "train.learning_rate=1e-3", "--json"]
    assert cli.run(arguments) == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    curve = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert told == {"task": "describer", "run": str(run), "steps": 8, "loss": curve[-1]["loss"]}
    assert [set(entry) for entry in curve] == [{"step", "loss", "learning_rate", "grad_norm"}] * 4
    assert load_recipe(run / "recipe.yaml").train.learning_rate == 1e-3
    assert json.loads((run / "config.json").read_text())["task"] == "describer"
    assert "train.learning_rate" in err and "step 8/8" in err
    assert not [path for path in run.iterdir() if path.name.startswith(".")]


def test_a_run_folder_belongs_to_its_recipe(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = recipe_for("describer", data)
    run = tmp_path / "run"
    Run(recipe, run).train()
    path = tmp_path / "other.yaml"
    path.write_text(to_yaml(recipe))
    changes = ["--set", "model.layers=2", "--set", "train.seed=4", "--set", "train.steps=16"]
    assert cli.run(["train", str(path), "-o", str(run), *changes]) == 2
    err = capsys.readouterr().err
    assert "another recipe" in err and "model.layers: was 1, is 2" in err and "train.seed: was 3, is 4" in err
    assert "train.steps" not in err
    with pytest.raises(OptionError, match="task: was describer, is codec"):
        Run(recipe_for("codec", data), run).check()

    allowed = ["--set", "train.steps=12", "--set", "train.save_every=6", "--set", "train.log_every=3", "--check"]
    assert cli.run(["train", str(path), "-o", str(run), *allowed]) == 0
    assert "begins_at_step" in capsys.readouterr().out
    longer = Run(load_recipe(path, ["train.steps=12"]), run)
    assert [entry["step"] for entry in longer.train()][-1] == 12


def test_a_file_is_no_run_folder(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OptionError, match="a file; give a folder"):
        Run(recipe_for("codec", data), tmp_path / "file").check()


def test_a_full_disk_is_told_in_a_line(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("transformers.Trainer._save_checkpoint", full)
    with pytest.raises(OutputError, match="No space left on device"):
        Run(recipe_for("describer", data), tmp_path / "run").train()


@pytest.mark.parametrize("task", ["codec", "recognizer", "describer"])
def test_a_data_set_without_recordings(task: str, data: Path, tmp_path: Path) -> None:
    shutil.copy(data / "0.png", tmp_path)
    (tmp_path / "manifest.jsonl").write_text('{"image": "0.png", "text": "a dog", "split": "train"}\n')
    recipe = replace(recipe_for(task, data), manifests=(tmp_path / "manifest.jsonl",))  # type: ignore[type-var]
    with pytest.raises(InputError, match="no sample"):
        Run(recipe, tmp_path / "run").train()


def batches(data: Path, **changes: object) -> CaptionBatches:
    recipe = replace(recipe_for("describer", data), **changes)  # type: ignore[type-var]
    assert isinstance(recipe, DescriberRecipe)
    photos = [data / f"{n}.png" for n in range(6)]
    codes = encode_speech([data / f"{n}.wav" for n in range(6)], data / "codec", 2, data / "cache")
    return CaptionBatches(codes, list(range(6)), PhotoFeatures(photos, recipe, data / "cache"), recipe)


def test_an_epoch_holds_every_caption_once(data: Path) -> None:
    items = batches(data)
    seen = sorted(items._batches(0).flatten())
    assert seen == list(range(6)) and sorted(items._batches(1).flatten()) == seen
    assert items._batches(0).tolist() != items._batches(1).tolist()


def test_a_batch_is_a_function_of_its_number(data: Path) -> None:
    first, again = batches(data), batches(data)
    order = [5, 0, 3]
    for i in order:
        for key, value in first[i].items():
            assert torch.equal(value, again[i][key])
    assert first[0]["tokens"].shape[:2] == (2, 2) and first[0]["features"].shape == (2, 1, 6)
    other_seed = batches(data, train=replace(SHORT, seed=4))
    assert any(not torch.equal(first[0][key].float(), other_seed[0][key].float()) for key in ("features", "labels"))


def test_caches_follow_the_models_that_made_them(data: Path, tmp_path: Path) -> None:
    recordings = [data / "0.wav", data / "1.wav"]
    before = encode_speech(recordings, data / "codec", 3, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    torch.manual_seed(9)
    other = Codec(CODEC)
    other.quantizer.codebooks.normal_()
    save_model(other, CODEC, "codec", tmp_path / "other")
    after = encode_speech(recordings, tmp_path / "other", 3, tmp_path)
    assert any((one != two).any() for one, two in zip(before, after, strict=True))
    np.testing.assert_array_equal(encode_speech(recordings, data / "codec", 3, tmp_path)[1], before[1])


def test_a_codec_with_too_few_codebooks(data: Path, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"num_codebooks is 5, but the codec in .* has 3"):
        encode_speech([data / "0.wav"], data / "codec", 5, tmp_path)


def test_a_describer_needs_a_codec(data: Path, tmp_path: Path) -> None:
    recipe = replace(recipe_for("describer", data), codec=tmp_path)  # type: ignore[type-var]
    with pytest.raises(BundleError, match="train it first"):
        describer.run(recipe, tmp_path / "run")  # type: ignore[arg-type]


def test_the_first_steps_see_the_teachers_features(data: Path, tmp_path: Path) -> None:
    made = np.random.default_rng(0).standard_normal((24, 1, 6)).astype(np.float16)  # 6 photos, 4 views
    np.save(tmp_path / "features.npy", made)
    mean, std = np.arange(6, dtype=np.float32), np.full(6, 2, dtype=np.float32)
    np.savez(tmp_path / "statistics.npz", mean=mean, std=std, photos=[f"{n}.png" for n in range(6)])
    taught, student = batches(data, teacher_views=tmp_path, teacher_steps=3), batches(data)
    for row in taught[2]["features"].numpy() * std + mean:
        assert np.abs(made.astype(np.float32) - row).reshape(24, -1).max(1).min() < 1e-3
    assert torch.equal(taught[3]["features"], student[3]["features"])
    np.savez(tmp_path / "statistics.npz", mean=mean, std=std, photos=[f"{n}.jpg" for n in range(6)])
    with pytest.raises(InputError, match="other photos"):
        batches(data, teacher_views=tmp_path, teacher_steps=3)[0]
    with pytest.raises(InputError, match="no teacher features"):
        batches(data, teacher_steps=3)[0]


def test_spoken_texts_are_the_same_in_every_run(data: Path) -> None:
    from pixvoice.data import load_dataset

    recipe = recipe_for("recognizer", data)
    assert isinstance(recipe, RecognizerRecipe)
    samples = load_dataset(data / "manifest.jsonl", "train")
    first, again = SpokenTexts(samples, recipe), SpokenTexts(samples, recipe)
    assert len(first) == 16
    np.testing.assert_array_equal(first[7][0], again[7][0])
    assert first[7][1] == again[7][1]


def test_recordings_are_played_faster_and_slower_only_if_asked(data: Path) -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000).astype(np.float32)
    faster = play_at(tone, 1.25)
    assert len(faster) == 12_800
    assert np.argmax(np.abs(np.fft.rfft(faster))) * 16_000 / len(faster) == pytest.approx(550, abs=2)
    np.testing.assert_array_equal(disturb(tone, np.random.default_rng(3)), disturb(tone, np.random.default_rng(3), 0.0))
    assert len(disturb(tone, np.random.default_rng(3), 0.2)) != len(disturb(tone, np.random.default_rng(3)))


def test_a_recognizer_begins_with_the_weights_of_another(data: Path, tmp_path: Path) -> None:
    recipe = recipe_for("recognizer", data)
    assert isinstance(recipe, RecognizerRecipe)
    first = CTCRecognizer(recipe.model)
    save_model(first, recipe.model, "recognizer", tmp_path / "first")
    begun = begin(replace(recipe, start_from=tmp_path / "first"))
    assert all(torch.equal(value, first.state_dict()[name]) for name, value in begun.state_dict().items())
    with pytest.raises(BundleError, match="use the same"):
        begin(replace(recipe, start_from=tmp_path / "first", model=CTCConfig(n_mels=16, width=8, blocks=2)))


def test_a_model_learns_through_the_trainer(tmp_path: Path) -> None:
    class Line(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.slope = torch.nn.Parameter(torch.zeros(()))

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": ((self.slope - 2) * x).square().mean()}

    items = [{"x": torch.tensor(float(n % 3 + 1))} for n in range(128)]
    line = Line()
    options = TrainOptions(
        steps=64, batch_size=2, learning_rate=0.1, warmup_steps=0, save_every=64, log_every=16, bf16=False
    )  # fmt: skip
    curve = train(line, items, options, tmp_path)  # type: ignore[arg-type]
    assert [entry["step"] for entry in curve] == [16, 32, 48, 64]
    assert curve[-1]["loss"] < 0.1 * curve[0]["loss"] and line.slope.item() == pytest.approx(2, abs=0.2)
