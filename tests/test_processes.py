"""Trainings past one process, and killed at moments that nobody chose: they end as one that nothing disturbed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch (the train extra)")
pytest.importorskip("transformers", reason="training needs transformers (the train extra)")
yaml = pytest.importorskip("yaml", reason="recipes need PyYAML (the train extra)")

from forked import Forked, forked  # noqa: E402
from pixvoice import cli  # noqa: E402
from pixvoice.errors import OptionError  # noqa: E402
from pixvoice.speech.ctc import CTCConfig, CTCRecognizer  # noqa: E402
from pixvoice.speech.unit_encoder import UnitEncoderConfig  # noqa: E402
from pixvoice.training import processes  # noqa: E402
from pixvoice.training.options import TrainOptions  # noqa: E402
from pixvoice.training.recipes import Recipe, load_recipe, to_yaml  # noqa: E402
from pixvoice.training.retriever import RetrieverRecipe  # noqa: E402
from pixvoice.training.runs import Run  # noqa: E402
from pixvoice.training.trainer import save_model  # noqa: E402
from pixvoice.training.units import UnitsRecipe  # noqa: E402
from speakers import checkpoint  # noqa: E402
from test_training import DESCRIBER, assert_same, recipe_for, spoken_photos, weights  # noqa: E402

EXACT = TrainOptions(
    steps=6, batch_size=4, learning_rate=3e-3, warmup_steps=2, save_every=2, log_every=1, bf16=False, seed=3
)  # fmt: skip
RECOGNIZER = CTCConfig(n_mels=16, width=8, blocks=1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return spoken_photos(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def program() -> Iterator[Forked]:
    with forked() as program:
        yield program


def describing(data: Path, **train: Any) -> Recipe:
    """A describer without dropout, so that a batch's loss is the same however it is cut."""
    recipe = recipe_for("describer", data, replace(EXACT, **train))
    return replace(recipe, model=replace(DESCRIBER, dropout=0.0))  # type: ignore[type-var]


def pretrained(data: Path) -> Recipe:
    """A describer on a tiny BLIP and an EnCodec."""
    speech = {"checkpoint": str(checkpoint("encodec")), "sample_rate": 800, "bandwidth": 0.64}
    model = {"num_codebooks": 4, "codebook_size": 16, "max_steps": 40}
    values = {"task": "describer", "manifests": [str(data / "manifest.jsonl")], "decoder": str(checkpoint("blip"))}
    path = data / "pretrained.yaml"
    train = {"steps": 6, "batch_size": 4, "learning_rate": 3e-3}
    path.write_text(yaml.safe_dump({**values, "speech": speech, "model": model, "max_frames": 30, "train": train}))
    return replace(load_recipe(path), train=EXACT)  # type: ignore[type-var]


def words(recipe: Recipe, run: Path) -> list[str]:
    """The command that trains ``recipe`` into ``run``."""
    path = run.with_suffix(".yaml")
    path.write_text(to_yaml(recipe))
    return ["train", str(path), "-o", str(run)]


def curve(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "log.jsonl").read_text().splitlines()]


def assert_close(first: Path, second: Path, atol: float = 5e-4) -> None:
    """Two runs ended with about the same weights, and with about the same curve."""
    np.testing.assert_allclose(curve(first), curve(second), atol=atol)
    ours, theirs = weights(first), weights(second)
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        torch.testing.assert_close(weight, theirs[name], atol=10 * atol, rtol=0.0, msg=name)


# a batch in parts


@pytest.mark.parametrize("accumulate", [2, 4])
def test_a_batch_in_parts_is_the_batch(accumulate: int, data: Path, tmp_path: Path) -> None:
    Run(describing(data), tmp_path / "whole").train()
    Run(describing(data, accumulate=accumulate), tmp_path / "parts").train()
    assert_close(tmp_path / "parts", tmp_path / "whole")


def test_the_parts_of_a_run_may_change_when_it_goes_on(data: Path, tmp_path: Path) -> None:
    Run(describing(data), tmp_path / "whole").train()
    Run(describing(data, steps=4), tmp_path / "changed").train()  # another schedule: only the steps count here
    longer = Run(describing(data, accumulate=2), tmp_path / "changed")
    longer.check()
    assert longer.done == 4 and [entry["step"] for entry in longer.train()] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        (["train.batch_size=6", "train.accumulate=4"], "batch_size: 6 can't be cut into 4 equal parts"),
        (["train.accumulate=0"], "train.accumulate: 0 is not above 0"),
        (["train.fsdp=true"], "train.fsdp: is for describers; a codec fits into one process"),
    ],
)
def test_parts_that_a_recipe_cant_have(changes: list[str], fault: str, data: Path, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(to_yaml(recipe_for("codec", data)))
    with pytest.raises(OptionError, match=fault):
        load_recipe(path, changes)


# several processes


TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ACCELERATE = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]  # without a GPU they take gloo


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [TORCHRUN, ACCELERATE], ids=["torchrun", "accelerate"])
def test_two_processes_train_what_one_does(launcher: list[str], data: Path, tmp_path: Path) -> None:
    Run(describing(data), tmp_path / "one").train()
    ran = subprocess.run(
        [sys.executable, "-m", *launcher, "-m", "pixvoice",
         *words(replace(describing(data), cache=tmp_path / "cache"), tmp_path / "two"), "--json"],  # type: ignore[type-var]
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["steps"] == 6, "said once"
    assert ran.stderr.count("step 6/6") == ran.stderr.count("train.learning_rate") == 1
    assert re.search(r"^processes +2$", ran.stderr, re.MULTILINE)
    assert_close(tmp_path / "two", tmp_path / "one")
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert not [path for path in (tmp_path / "two").rglob(".*")]


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(program: Forked, data: Path, tmp_path: Path) -> None:
    Run(describing(data), tmp_path / "one").train()
    run = words(describing(data), tmp_path / "changed")
    for steps, count in ((2, 2), (4, 1), (6, 4)):
        stopped = [*run, "--set", f"train.steps={steps}"]
        ended = program.ask("together", arguments=stopped, processes=count)
        assert [status for status, _ in ended] == [0] * count, ended
    assert len(curve(tmp_path / "changed")) == 6
    assert curve(tmp_path / "changed")[:2] == pytest.approx(curve(tmp_path / "one")[:2], abs=1e-4)


@pytest.mark.slow
def test_a_contrast_is_that_of_the_whole_batch(program: Forked, data: Path, tmp_path: Path) -> None:
    save_model(CTCRecognizer(RECOGNIZER), RECOGNIZER, "recognizer", tmp_path / "recognizer")
    (tmp_path / "retriever.yaml").write_text(
        yaml.safe_dump(
            {
                "task": "retriever", "manifests": [str(data / "manifest.jsonl")], "dev": [str(data / "manifest.jsonl")],
                "dev_split": "train", "recognizer": str(tmp_path / "recognizer"), "student": str(data / "student"),
                "model": {"embed_dim": 8, "heads": 2, "feed_forward": 8, "stack": 1, "dropout": 0.0},
                "parts": {"buckets": 16, "word_width": 4, "text_width": 4, "image_width": 4, "dropout": 0.0},
                "evaluate_every": 6, "train": {
                    "steps": 6, "batch_size": 4, "learning_rate": 1e-3, "warmup_steps": 2, "save_every": 2,
                    "log_every": 1, "bf16": False, "seed": 3,
                },
            }
        )
    )  # fmt: skip
    recipe = load_recipe(tmp_path / "retriever.yaml")
    assert isinstance(recipe, RetrieverRecipe)
    Run(recipe, tmp_path / "one").train()
    ended = program.ask("together", arguments=words(recipe, tmp_path / "two"), processes=2)
    assert [status for status, _ in ended] == [0, 0], ended
    assert_close(tmp_path / "two", tmp_path / "one")
    assert (tmp_path / "two" / "dev.jsonl").read_text().count("\n") == 1


@pytest.mark.slow
def test_what_processes_cant_share_is_said_once(program: Forked, data: Path, tmp_path: Path) -> None:
    for count, batch, fault in (
        (7, 14, "7 processes, but only 6 samples: start 6 at most"),
        (3, 4, "train.batch_size: 4 can't be shared by 3 processes; give a multiple of 3"),
    ):
        ended = program.ask(
            "together", arguments=words(describing(data, batch_size=batch), tmp_path / "run"), processes=count
        )
        assert ended[0][0] == 2 and ended[0][1].splitlines()[-1].startswith(f"error: {fault}"), ended
        assert "".join(said for _, said in ended).count("error:") == 1
        assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["small", "blip"])
def test_a_sharded_describer_is_saved_whole(kind: str, program: Forked, data: Path, tmp_path: Path) -> None:
    recipe = describing(data) if kind == "small" else pretrained(data)
    sharded = replace(recipe, train=replace(recipe.train, fsdp=True))  # type: ignore[type-var]
    Run(recipe, tmp_path / "one").train()
    stopped = [*words(sharded, tmp_path / "two"), "--set", "train.steps=4"]
    for arguments in (stopped, words(sharded, tmp_path / "two")):  # it goes on from a sharded checkpoint
        ended = program.ask("together", arguments=arguments, processes=2, sharding=True)
        assert [status for status, _ in ended] == [0, 0], ended
    assert list((tmp_path / "two" / "checkpoints").rglob("*fsdp*")), "it was sharded"
    assert {path.name for path in (tmp_path / "two").glob("*.safetensors")} == {"model.safetensors"}
    shapes = [{name: weight.shape for name, weight in weights(tmp_path / run).items()} for run in ("one", "two")]
    assert shapes[0] == shapes[1]
    assert curve(tmp_path / "two")[:4] == pytest.approx(curve(tmp_path / "one")[:4], abs=5e-4)


def test_one_process_shards_nothing(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run([*words(describing(data, fsdp=True), tmp_path / "run"), "--check"]) == 2
    assert "start them with: accelerate launch" in capsys.readouterr().err


def test_parts_are_counted_over_all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "count", lambda: 4)
    options = replace(EXACT, batch_size=16, accumulate=2)
    assert processes.shares(options) == 8
    processes.check_shares(options, samples=4)
    with pytest.raises(OptionError, match=r"4 processes in 3 parts each \(train.accumulate\); give a multiple of 12"):
        processes.check_shares(replace(options, accumulate=3), samples=4)


# killed


def recipes(data: Path) -> dict[str, Recipe]:
    often = TrainOptions(
        steps=24, batch_size=2, learning_rate=3e-3, warmup_steps=2, save_every=2, log_every=1, seed=3
    )  # fmt: skip
    encoder = UnitEncoderConfig(n_mels=16, width=8, blocks=1, layer=1, units=4)
    manifests = (data / "manifest.jsonl",)
    return {
        "describer": replace(recipe_for("describer", data, often), cache=None),  # type: ignore[type-var]
        "recognizer": recipe_for("recognizer", data, often),
        "units": UnitsRecipe(manifests, often, encoder, crop_frames=4, clusters=3, cluster_recordings=6, pairs=1),
    }


@pytest.mark.slow
@pytest.mark.parametrize(("task", "times"), [("describer", 10), ("recognizer", 4), ("units", 4)])
def test_a_run_killed_at_random_moments_ends_with_the_weights_of_one_that_was_not(
    task: str,
    times: int,
    program: Forked,
    data: Path,
    tmp_path: Path,
) -> None:
    recipe = recipes(data)[task]
    calls = program.ask("calls", arguments=words(recipe, tmp_path / "whole"))
    largest = max(path.stat().st_size for path in (tmp_path / "whole").rglob("*") if path.is_file())
    run, rng, ended = words(recipe, tmp_path / "killed"), np.random.default_rng(7), []
    while ended.count(-signal.SIGKILL) + ended.count(-signal.SIGXFSZ) < times:
        assert len(ended) < 4 * times, ended
        if len(ended) % 3 == 2:  # a file is left half written
            ended.append(program.ask("killed_at_byte", arguments=run, byte=int(rng.integers(1, largest))))
        else:
            ended.append(program.ask("killed_at_call", arguments=run, call=int(rng.integers(1, calls // 2))))
    assert set(ended) <= {0, -signal.SIGKILL, -signal.SIGXFSZ}, ended
    assert program.ask("killed_at_call", arguments=run, call=100 * calls) == 0
    assert_same(tmp_path / "killed", tmp_path / "whole")
    for folder in ("whole", "killed"):
        assert not [path for path in (tmp_path / folder).rglob(".*")], "nothing half written stays behind"
    if task == "units":
        for name in ("kmeans.safetensors", "pairs.json"):
            assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
