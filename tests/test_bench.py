"""``pixvoice bench``: what is planned, what is kept when it is killed, and where a describer looked."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch", reason="needs the train extra")
pytest.importorskip("transformers", reason="needs the train extra")
pytest.importorskip("yaml", reason="recipes need PyYAML (the train extra)")

from benching import PHOTOS, RECIPES, ROWS, bench, untrained
from pixvoice.bench.commands import read_commands
from pixvoice.bench.loading import load_searcher
from pixvoice.bench.looking import PARTS, SIDE, look_at, where
from pixvoice.bench.plan import Plan, Row, make_plan
from pixvoice.bench.store import Filled, Store, fill
from pixvoice.errors import BundleError, InputError, OptionError
from pixvoice.runtime.bundle import EMBEDDED
from pixvoice.runtime.retriever import load_search_model

# --- the plan


@pytest.mark.parametrize("task", ["describe", "search"])
@pytest.mark.parametrize("size", ["small", "full"])
def test_every_row_can_be_planned(task: str, size: str, tmp_path: Path) -> None:
    """Each run that a recipe names has a recipe, and comes before what needs it."""
    plan = make_plan(task, size, RECIPES, tmp_path)
    assert plan.rows and plan.failed == {}
    for row in plan.rows:
        places = {step.run: place for place, step in enumerate(row.steps)}
        assert all(places[need] < places[step.run] for step in row.steps for need in step.needs)
        assert row.to_train == list(row.steps) and row.own.run == row.name
        assert all(step.file.is_file() for step in row.steps)


def test_what_is_trained_is_not_trained_again_nor_what_only_its_training_needed(tmp_path: Path) -> None:
    runs = untrained(tmp_path / "made", "codec", "student", "pixvox-delay")
    rows = {row.name: row for row in make_plan("describe", "small", RECIPES, runs).rows}
    assert rows["pixvox-delay"].to_train == []
    assert [step.run for step in rows["pixvox-parallel"].to_train] == ["pixvox-parallel"]
    assert [step.run for step in rows["im2sp"].to_train] == ["units", "vocoder", "im2sp"]
    recipe: Any = rows["im2sp"].own.recipe
    assert (recipe.student, recipe.speech.units) == (runs / "student", runs / "units")


def test_a_plan_says_what_is_missing_and_what_to_type(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = untrained(tmp_path, "codec", "student", "pixvox-delay")
    assert bench("describe", "--runs", runs, "--data", tmp_path / "none", "--dry-run") == 0
    out = capsys.readouterr().out
    assert "pixvox-delay       trained\n" in out or "pixvox-delay" in out.splitlines()[0]
    line = next(line for line in out.splitlines() if "data/speech/manifest.jsonl" in line)
    assert "pixvox-parallel" in line and "make it with: pixvoice synthesize data/flickr8k -o data/speech" in line
    assert f"missing to evaluate on: {tmp_path / 'none'}" in out
    assert bench("describe", "--runs", runs, "--row", "im2sp", "--check", "--json") == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    waiting = {step["run"]: step["missing"] for step in row["runs"] if step["to_train"]}
    assert list(waiting) == ["units", "vocoder", "im2sp"] and all(waiting.values()) and not row["trained"]
    assert not (tmp_path / "bench-describe").exists()


def test_values_go_to_all_recipes_or_to_one(tmp_path: Path) -> None:
    changes = ("train.steps=50", "pixvox-delay:train.steps=100", "pixvox-delay:model.width=64")
    steps = {row.name: row.own.recipe for row in make_plan("describe", "small", RECIPES, tmp_path, (), changes).rows}
    delay: Any = steps["pixvox-delay"]
    assert (steps["pixvox-parallel"].train.steps, delay.train.steps, delay.model.width) == (50, 100, 64)
    with pytest.raises(OptionError, match=r"no run 'pixvox-dela'.*pixvox-delay"):
        make_plan("describe", "small", RECIPES, tmp_path, (), ("pixvox-dela:train.steps=1",))
    with pytest.raises(OptionError, match=r"no row 'im2s'.*im2sp"):
        make_plan("describe", "small", RECIPES, tmp_path, ("im2s",))
    with pytest.raises(OptionError, match=r"no row 'sat-smal'.*sat"):
        make_plan("describe", "small", RECIPES, tmp_path, ("sat-smal",))
    for name in ("sat", "sat-small"):  # its run's, and as `pixvoice models` has it
        assert [row.name for row in make_plan("describe", "small", RECIPES, tmp_path, (name,)).rows] == ["sat"]
    with pytest.raises(InputError, match="no such file"):
        make_plan("describe", "small", tmp_path, tmp_path)
    plan = make_plan("describe", "small", RECIPES, tmp_path, ("im2sp",), ("im2sp:train.stesp=1",))
    assert "train.stesp: unknown key" in plan.failed["im2sp"]


def test_commands_of_the_readme() -> None:
    commands = read_commands(RECIPES)
    assert commands.run_of("codec-small") == "codec" and commands.recipe_of("codec") == "codec-small"
    assert (commands.maker(Path("data/speech/manifest.jsonl")) or "").startswith("pixvoice synthesize data/flickr8k")
    assert commands.maker(Path("data/nobody/makes")) is None


def test_the_bundle_that_ships_is_a_row_of_search(tmp_path: Path) -> None:
    (tmp_path / "brewclip-full").symlink_to(EMBEDDED, target_is_directory=True)
    (row,) = make_plan("search", "small", RECIPES, tmp_path, ["brewclip-full"]).rows
    assert row.to_train == [] and row.own.is_bundle
    assert load_searcher(row, 1).fingerprint == load_search_model().fingerprint


# --- one row after another


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return make_plan("describe", "small", RECIPES, untrained(tmp_path / "runs", "codec", "student", *ROWS), ROWS)


def filled(
    plan: Plan, folder: Path, evaluate: Callable[[Row, Path], dict[str, Any]], train: bool = False, **key: Any
) -> tuple[Filled, list[str]]:
    lines: list[str] = []
    return fill(plan, Store(folder), {"threads": 1, **key}, evaluate, train, lines.append), lines


def test_a_killed_bench_goes_on_and_other_weights_are_evaluated_again(plan: Plan, tmp_path: Path) -> None:
    asked: list[str] = []

    def evaluate(row: Row, media: Path) -> dict[str, Any]:
        if len(asked) == 1 and asked != [row.name]:
            asked.append("killed")
            raise KeyboardInterrupt
        asked.append(row.name)
        return {"score": len(asked)}

    with pytest.raises(KeyboardInterrupt):
        filled(plan, tmp_path, evaluate)
    assert asked == [ROWS[0], "killed"]
    found, lines = filled(plan, tmp_path, evaluate)
    assert asked == [ROWS[0], "killed", ROWS[1]] and "evaluated before" in lines[0]
    assert [values["score"] for _, values in found.rows] == [1, 3]
    filled(plan, tmp_path, evaluate)
    assert len(asked) == 3
    plan.rows[1].own.weights[0].write_bytes(b"trained on")
    filled(plan, tmp_path, evaluate)
    assert asked[3:] == [ROWS[1]]
    (tmp_path / "runs" / "codec" / "model.safetensors").write_bytes(b"another codec")
    filled(plan, tmp_path, evaluate)
    assert asked[4:] == [*ROWS]
    filled(plan, tmp_path, evaluate, data="other photos")
    assert asked[6:] == [*ROWS]
    (tmp_path / f"{ROWS[0]}.json").write_text("{")
    filled(plan, tmp_path, evaluate, data="other photos")
    assert asked[8:] == [ROWS[0]]


def test_a_row_that_fails_is_one_line_and_the_others_go_on(plan: Plan, tmp_path: Path) -> None:
    def evaluate(row: Row, media: Path) -> dict[str, Any]:
        if row.name == ROWS[0]:
            raise BundleError("a codec of\nanother size")
        return {}

    found, lines = filled(plan, tmp_path, evaluate)
    assert found.failed == {ROWS[0]: "a codec of another size"} and [row.name for row, _ in found.rows] == [ROWS[1]]
    assert f"error: {ROWS[0]}: a codec of another size" in lines
    (tmp_path / "runs" / ROWS[1] / "model.safetensors").unlink()
    with pytest.raises(InputError, match="not one row could be evaluated: see what is missing with --dry-run"):
        filled(plan, tmp_path / "again", evaluate)
    found, _ = filled(plan, tmp_path / "again", lambda row, media: {})
    assert found.left_out == {ROWS[1]: f"{ROWS[1]} not trained"} and found.failed == {}
    found, lines = filled(plan, tmp_path / "again", lambda row, media: {}, train=True)
    assert "can't be trained: manifests: data/speech/manifest.jsonl is not there" in found.failed[ROWS[1]]


# --- where it looked


def test_where_it_looked_is_told_in_words_and_in_a_picture() -> None:
    weights = np.full((12, 9), 0.01, np.float32)
    weights[:6, 0], weights[6:, 8] = 1.0, 1.0
    found = look_at(PHOTOS[0], weights)
    assert found is not None
    jpeg, words = found
    picture = Image.open(io.BytesIO(jpeg))
    assert picture.size == (3 * SIDE, PARTS // 3 * SIDE) and words == ["top left"] * 3 + ["bottom right"] * 3
    plain = look_at(PHOTOS[0], np.ones((12, 9), np.float32))  # looked at everywhere alike: dim
    assert plain is not None
    dim, lit = (np.asarray(Image.open(io.BytesIO(data)).convert("L"), np.float32) for data in (plain[0], jpeg))
    assert lit[5:25, 5:25].mean() > 2 * dim[5:25, 5:25].mean()
    assert lit[80:105, 80:105].mean() == pytest.approx(dim[80:105, 80:105].mean(), abs=4)
    assert look_at(PHOTOS[0], np.ones((12, 8), np.float32)) is None  # patches that are no square
    short = look_at(PHOTOS[0], weights[:2])
    assert short is not None and len(short[1]) == PARTS
    assert where(np.outer([0, 1, 0, 0, 0], [0, 0, 1, 0, 0]).astype(np.float32)) == "top"
    assert where(np.outer([0, 0, 1, 0, 0], [0, 0, 1, 0, 0]).astype(np.float32)) == "middle"
