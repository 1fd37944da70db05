"""``pixvoice train``: from a recipe to trained weights."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pixvoice.errors import MissingToolError, OptionError

if TYPE_CHECKING:
    from pixvoice.training.runs import Run


def train(
    recipe: Annotated[Path, typer.Argument(help="The recipe (.yaml).", metavar="RECIPE")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the run: checkpoints, model.")
    ] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Another value for a key of the recipe.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Check the recipe and its inputs, and train nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Train a model from a recipe.

    Given again, the command goes on from the last checkpoint in the folder and ends as if it had never been stopped.
    The folder gets the whole recipe (recipe.yaml), the loss curve (log.jsonl), and at the end model.safetensors.

    Examples: pixvoice train recipes/codec-small.yaml -o runs/codec --set train.steps=100;
    torchrun --nproc-per-node 2 -m pixvoice train recipes/codec-small.yaml -o runs/codec
    """
    _need_torch()
    from pixvoice.training import processes

    with processes.together():
        with processes.main_first():  # what is wrong is said once
            run, plan = _checked(recipe, output, changes or [], check)
        echo = typer.echo if processes.is_main() else _nothing
        if check or run is None:
            echo(json.dumps(plan, default=str) if as_json else _lines(plan))
            return
        echo(_lines(plan), err=True)
        curve = run.train()
        loss, steps = curve[-1]["loss"] if curve else None, run.recipe.train.steps  # a short run logs none
        result = {"task": plan["task"], "run": str(output), "steps": steps, "loss": loss}
        said = f"{output}: {plan['task']} trained, {steps} steps" + (f", loss {loss:.4f}" if curve else "")
        echo(json.dumps(result) if as_json else said)


def _checked(
    recipe: Path, output: Path | None, changes: list[str], only_check: bool
) -> tuple[Run | None, dict[str, object]]:
    """The run, and all of its recipe."""
    from pixvoice.training import processes
    from pixvoice.training.recipes import flatten, load_recipe
    from pixvoice.training.runs import Run, check_inputs

    chosen = load_recipe(recipe, changes)
    plan = flatten(chosen)
    if output is None:
        if not only_check:
            raise OptionError("a training needs a folder: give -o RUN_FOLDER, or --check to train nothing")
        check_inputs(chosen)
        return None, plan
    run = Run(chosen, output)
    run.check()
    return run, plan | {"run": output, "begins_at_step": run.done, "processes": processes.count()}


def _nothing(message: str, err: bool = False) -> None:
    """What a process that isn't the main one says."""


def _need_torch() -> None:
    missing = [name for name in ("torch", "transformers", "accelerate", "safetensors", "yaml") if not find_spec(name)]
    if missing:
        raise MissingToolError(f"training needs {', '.join(missing)}: pip install 'pixvoice[train]'")


def _lines(plan: dict[str, object]) -> str:
    width = max(map(len, plan))
    return "\n".join(f"{key:<{width}}  {_show(value)}" for key, value in plan.items())


def _show(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
