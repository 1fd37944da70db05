"""A run folder: the recipe it was begun with, its checkpoints, its loss curve, and at the end the model."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from pixvoice.errors import InputError, OptionError, OutputError
from pixvoice.files import remove_leftovers, write_bytes_atomically
from pixvoice.training import processes
from pixvoice.training.recipes import TASKS, Recipe, flatten, load_recipe, missing_inputs, task_of, to_yaml
from pixvoice.training.trainer import checkpoint_step, last_complete_checkpoint

CHANGEABLE = {f"train.{key}" for key in ("steps", "save_every", "log_every", "threads", "accumulate", "fsdp")}
"""Keys that may differ from those the run was begun with: none of them changes the model or an item of the data."""


@dataclass(frozen=True)
class Run:
    """A recipe and the folder that it is trained into."""

    recipe: Recipe
    folder: Path

    @property
    def done(self) -> int:
        """Steps that the last complete checkpoint has behind it; 0 without one."""
        checkpoint = last_complete_checkpoint(self.folder / "checkpoints")
        return checkpoint_step(checkpoint) if checkpoint else 0

    def check(self) -> None:
        """Refuse what would fail later.

        Raises:
            OptionError: the folder holds a run of another recipe; each key that differs has a line.
            InputError: a path of the recipe isn't there; each has a line.

        With several processes, also what ``processes.check_shares`` and the readers of the manifests raise.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise OptionError(f"{self.folder}: a file; give a folder for the run")
        begun = self.folder / "recipe.yaml"
        if begun.exists() and (changes := differences(load_recipe(begun), self.recipe)):
            raise OptionError(_lines(f"{self.folder} holds a run of another recipe; give another folder", changes))
        check_inputs(self.recipe)
        if processes.count() > 1 or self.recipe.train.fsdp:
            from pixvoice.data import load_dataset

            samples = sum(len(load_dataset(manifest, self.recipe.split)) for manifest in self.recipe.manifests)
            processes.check_shares(self.recipe.train, samples)

    def train(self) -> list[dict[str, float]]:
        """Train, from the last complete checkpoint on if there is one, and return the loss curve.

        Raises OutputError if the folder can't be written, and what ``run`` of the task raises.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.folder}: can't be made ({error.strerror}); give another place") from None
        if processes.is_main():
            remove_leftovers(self.folder)
            write_bytes_atomically(self.folder / "recipe.yaml", to_yaml(self.recipe).encode())
        curve: list[dict[str, float]] = import_module(TASKS[task_of(self.recipe)][0]).run(self.recipe, self.folder)
        return curve


def check_inputs(recipe: Recipe) -> None:
    """Raise InputError, with a line for each, if paths that ``recipe`` reads aren't there."""
    if missing := missing_inputs(recipe):
        count = "1 input" if len(missing) == 1 else f"{len(missing)} inputs"
        raise InputError(_lines(f"the recipe needs {count} that can't be found", missing))


def differences(begun: Recipe, now: Recipe) -> list[str]:
    """One line for each key that differs between two recipes and may not."""
    before, after = flatten(begun), flatten(now)
    keys = [key for key in {**before, **after} if key not in CHANGEABLE and before.get(key) != after.get(key)]
    return [f"{key}: was {_show(before.get(key))}, is {_show(after.get(key))}" for key in keys]


def _show(value: Any) -> str:
    return f"[{', '.join(map(str, value))}]" if isinstance(value, tuple) else str(value)


def _lines(first: str, others: list[str]) -> str:
    return "\n".join([f"{first}:", *(f"  - {line}" for line in others)])
