"""What a table needs: its rows, the trainings behind each in their order, and what is missing for them.

A row is a model of ``models.json`` with the table's task and size; its recipe has the same name.  What it depends on is
what the recipe names: a path ``runs/NAME`` is the run of another recipe.  So a new row needs nothing here.  A bundle in
the place of a run is used as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pixvoice.bench.commands import Commands, read_commands
from pixvoice.errors import InputError, OptionError, PixVoiceError
from pixvoice.manifest import nearest
from pixvoice.models import Model, all_models
from pixvoice.runtime.bundle import BUNDLE_JSON, is_bundle
from pixvoice.training.progress import read_clock
from pixvoice.training.recipes import Recipe, flatten, load_recipe
from pixvoice.training.runs import Run

RUNS = Path("runs")  # where recipes have them
WEIGHTS = "model.safetensors"
VIEWS = 2  # of each photo, where image units have to be made: whole, and mirrored
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Step:
    """One training: ``run`` is its name, ``needs`` are the names of those before it, ``commands`` what to type."""

    run: str
    recipe: Recipe
    file: Path
    folder: Path
    needs: tuple[str, ...]
    commands: Commands

    @property
    def is_bundle(self) -> bool:
        """Whether a bundle lies in the place of the run."""
        return is_bundle(self.folder)

    @property
    def trained(self) -> bool:
        """Whether the run is finished."""
        return (self.folder / WEIGHTS).is_file() or self.is_bundle

    @property
    def weights(self) -> list[Path]:
        """The files of weights in the run: its model's, and those of parts that were tuned with it.

        Of a bundle the one that has the SHA-256 of all others.
        """
        if self.is_bundle:
            return [self.folder / BUNDLE_JSON]
        return sorted([*self.folder.glob(WEIGHTS), *self.folder.glob(f"*/{WEIGHTS}")])

    @property
    def seconds(self) -> float | None:
        """How long its steps took (s); None where nobody noted it."""
        clock = read_clock(self.folder)
        return clock[-1]["seconds"] if clock else None

    @cached_property
    def missing(self) -> tuple[str, ...]:
        """A line for each path that the recipe reads, that isn't there, and that no other training makes."""
        lines = []
        for key, path in _paths(self.recipe):
            made = any(self.folder.parent / need in (path, *path.parents) for need in self.needs)
            if key == "cache" or made or path.exists() or (key == "image_units" and _tokenizer(self.recipe)):
                continue
            maker = self.commands.maker(path)
            lines.append(f"{key}: {path} is not there; {f'make it with: {maker}' if maker else 'make it first'}")
        return tuple(lines)

    def train(self, tell: Tell) -> None:
        """Train, from the last checkpoint on if there is one; raises as ``Run.check`` and ``Run.train``."""
        if self.missing:
            raise InputError(f"{self.run} can't be trained: {self.missing[0]}")
        _encode_photos(self.recipe, tell)
        run = Run(self.recipe, self.folder)
        run.check()
        run.train()


@dataclass(frozen=True)
class Row:
    """One row of a table: its model, its own training, and every training behind it, in order, its own last."""

    name: str
    model: Model
    steps: tuple[Step, ...]

    @property
    def own(self) -> Step:
        """The training of the row's own weights."""
        return self.steps[-1]

    @property
    def to_train(self) -> list[Step]:
        """What has to be trained first, in order; a finished run needs nothing that only its training needed."""
        wanted = {self.own.run}
        for step in reversed(self.steps):
            if step.run in wanted and not step.trained:
                wanted.update(step.needs)
        return [step for step in self.steps if step.run in wanted and not step.trained]


@dataclass
class Plan:
    """The rows of one table; ``failed`` names those that can't even be planned, with the reason."""

    rows: list[Row] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """One JSON object."""
        return {"rows": [_row_as_dict(row) for row in self.rows], "failed": self.failed}

    def lines(self) -> Iterator[str]:
        """What there is, what will be trained, and what is missing for that, with the command to type."""
        width = max((len(row.name) for row in self.rows), default=0)
        wanted: dict[str, dict[str, None]] = {}  # what is missing -> the runs that need it
        for row in self.rows:
            waiting = row.to_train
            for step in waiting:
                for line in step.missing:
                    wanted.setdefault(line, {})[step.run] = None
            lacks = next((f"; nothing to train {step.run} with" for step in waiting if step.missing), "")
            names = ", ".join(f"{step.run} from step {_done(step)}" if _done(step) else step.run for step in waiting)
            there = "a bundle" if row.own.is_bundle else "trained"
            yield f"{row.name:<{width}}  {f'to train: {names}' if waiting else there}{lacks}"
        for name, reason in self.failed.items():
            yield f"{name:<{width}}  {reason}"
        for line, runs in wanted.items():
            yield f"missing for {', '.join(runs)}: {line}"


def make_plan(
    task: str,
    size: str,
    recipes: Path,
    runs: Path,
    names: Sequence[str] = (),
    changes: Sequence[str] = (),
    fits: Callable[[Recipe], bool] = lambda recipe: True,
) -> Plan:
    """The rows of the table of ``task`` at ``size``, or those called ``names``: by their run, or as in models.json.

    ``changes`` are ``key=value`` for every recipe, or ``run:key=value`` for one.  ``fits`` says which recipes the table
    is about.  Raises OptionError for a name that no row has, InputError where ``recipes`` is no folder of recipes.
    """
    steps = _Steps(recipes, runs, changes)
    found = {steps.commands.run_of(m.name): m for m in all_models() if m.task == task and m.size == size}
    names = [name if name in found else steps.commands.run_of(name) for name in names]
    for name in names:
        if name not in found:
            raise OptionError(f"no row {name!r}{nearest(name, found)}; the rows are {', '.join(found)}")
    steps.check_runs({step.split(":")[0] for step in changes if ":" in step.partition("=")[0]})
    plan = Plan()
    for name in names or found:
        try:
            behind = tuple(steps.behind(name, found[name].name))
        except PixVoiceError as error:
            plan.failed[name] = " ".join(str(error).split())
            continue
        if names or fits(behind[-1].recipe):
            plan.rows.append(Row(name, found[name], behind))
    return plan


class _Steps:
    """Trainings by the name of their run, each read once."""

    def __init__(self, recipes: Path, runs: Path, changes: Sequence[str]) -> None:
        self.commands = read_commands(recipes)
        self._recipes, self._runs, self._changes = recipes, runs, changes
        self._known: dict[str, Step] = {}

    def check_runs(self, named: set[str]) -> None:
        """Raise OptionError for a run that no recipe makes."""
        known = {self.commands.run_of(path.stem) for path in self._recipes.glob("*.yaml")}
        for run in sorted(named - known):
            raise OptionError(f"no run {run!r}{nearest(run, sorted(known))}; --set takes KEY=VALUE or RUN:KEY=VALUE")

    def behind(self, run: str, recipe: str) -> Iterator[Step]:
        """Every training that ``run`` stands on, and its own at the end."""
        seen: dict[str, Step] = {}
        self._visit(run, recipe, seen)
        yield from seen.values()

    def _visit(self, run: str, recipe: str, seen: dict[str, Step]) -> None:
        step = self._step(run, recipe)
        for need in step.needs:
            if need not in seen:
                self._visit(need, self.commands.recipe_of(need), seen)
        seen[run] = step

    def _step(self, run: str, name: str) -> Step:
        if run not in self._known:
            file = self._recipes / f"{name}.yaml"
            recipe = load_recipe(file, list(_changes_for(run, self._changes)))
            named = dict.fromkeys(path.parts[1] for key, path in _paths(recipe) if key != "cache" and _is_run(path))
            needs, here = tuple(need for need in named if need != run), relocated(recipe, self._runs)
            self._known[run] = Step(run, here, file, self._runs / run, needs, self.commands)
        return self._known[run]


def _changes_for(run: str, changes: Sequence[str]) -> Iterator[str]:
    """The ``key=value`` that are meant for all runs or for this one."""
    for change in changes:
        name, colon, rest = change.partition(":")
        if not colon or "=" in name:
            yield change
        elif name == run:
            yield rest


def relocated(value: Any, runs: Path) -> Any:
    """A recipe, or what is in one, with ``runs/...`` under the folder ``runs``."""
    if isinstance(value, Path):
        return runs.joinpath(*value.parts[1:]) if _is_run(value) else value
    if isinstance(value, tuple):
        return tuple(relocated(item, runs) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{each.name: relocated(getattr(value, each.name), runs) for each in fields(value)})
    return value


def _is_run(path: Path) -> bool:
    return len(path.parts) > 1 and path.parts[0] == RUNS.name


def _paths(recipe: Recipe) -> Iterator[tuple[str, Path]]:
    for key, value in flatten(recipe).items():
        for path in value if isinstance(value, tuple) else (value,):
            if isinstance(path, Path):
                yield key, path


def _tokenizer(recipe: Any) -> Path | None:
    """What makes the image units that a recipe learns from."""
    if getattr(recipe, "image_units", None) is None:
        return None
    found: Path | None = recipe.image_tokenizer or recipe.student
    return found


def _encode_photos(recipe: Any, tell: Tell) -> None:
    """Make the image units that a recipe learns from, if it does and they aren't there."""
    tokenizer = _tokenizer(recipe)
    if tokenizer is None or recipe.image_units.exists():
        return
    from pixvoice.data import load_dataset
    from pixvoice.encoding import encode_files, files_of
    from pixvoice.training.photo_units import photo_files

    tell(f"encoding photos: {recipe.image_units}")
    files = [file for m in recipe.manifests for file in files_of(load_dataset(m, recipe.split), m, "image")]
    encode_files(list(dict.fromkeys(files)), photo_files(tokenizer, VIEWS), recipe.image_units, tell)


def _done(step: Step) -> int:
    return Run(step.recipe, step.folder).done


def _row_as_dict(row: Row) -> Mapping[str, Any]:
    waiting = {step.run for step in row.to_train}
    steps = [
        {
            "run": step.run,
            "recipe": str(step.file),
            "trained": step.trained,
            "to_train": step.run in waiting,
            "begins_at_step": _done(step),
            "missing": list(step.missing) if step.run in waiting else [],
        }
        for step in row.steps
    ]
    return {"name": row.name, "model": row.model.name, "trained": not waiting, "runs": steps}
