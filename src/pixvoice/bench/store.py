"""What was found of each row, in a file of its own the moment the row is finished: a bench that is killed goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pixvoice.bench.plan import Plan, Row, Tell
from pixvoice.errors import InputError, OutputError, PixVoiceError
from pixvoice.files import write_bytes_atomically

Values = dict[str, Any]
MEDIA = ("sound", "looks")  # the keys of a sample that name files


@dataclass(frozen=True)
class Store:
    """A folder with ``NAME.json`` of each finished row, and the row's sound and pictures in ``NAME/``."""

    folder: Path

    def load(self, name: str, key: Mapping[str, Any]) -> Values | None:
        """What was found of the row, if that was under the same ``key``: weights, data, recognizers, ..."""
        try:
            kept = json.loads((self.folder / f"{name}.json").read_bytes())
            files = [sample[what] for sample in kept["values"].get("samples", []) for what in MEDIA if what in sample]
            there = all((self.folder / name / file).is_file() for file in files)
            return dict(kept["values"]) if there and kept["key"] == _as_json(key) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def save(self, name: str, key: Mapping[str, Any], values: Values) -> None:
        """Keep what was found of a row, whole or not at all.  Raises OutputError."""
        make_folder(self.folder)
        text = json.dumps({"key": _as_json(key), "values": values})
        write_bytes_atomically(self.folder / f"{name}.json", text.encode())


def make_folder(folder: Path) -> None:
    """Make a folder and those above it.  Raises OutputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: can't be made ({error.strerror}); give another -o folder") from None


def weights(row: Row) -> dict[str, str]:
    """The SHA-256 of each file of weights behind a row."""
    found = {}
    for step in row.steps:
        for path in step.weights:
            with path.open("rb") as file:
                found[f"{step.run}/{path.relative_to(step.folder)}"] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def fingerprint(things: Sequence[Any]) -> str:
    """Changes with any of the things, told apart by their ``repr``."""
    return hashlib.sha256("\0".join(map(repr, things)).encode()).hexdigest()[:16]


@dataclass
class Filled:
    """A table's rows with what was found of each; ``left_out`` aren't trained, ``failed`` have a line why."""

    rows: list[tuple[Row, Values]] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def fill(
    plan: Plan,
    store: Store,
    key: Mapping[str, Any],
    evaluate: Callable[[Row, Path], Values],
    train: bool,
    tell: Tell,
) -> Filled:
    """Train and evaluate row after row; a row that fails is told in one line, and the others go on.

    ``evaluate`` gets a row and the folder for its media.  A row that was evaluated under the same ``key``, with the
    same weights, isn't evaluated again.  Raises InputError when not one row is left.
    """
    filled = Filled(failed=dict(plan.failed))
    for name, reason in plan.failed.items():
        tell(f"error: {name}: {reason}")
    for row in plan.rows:
        if row.to_train and not train:
            filled.left_out[row.name] = f"{', '.join(step.run for step in row.to_train)} not trained"
            tell(f"{row.name} is left out: {filled.left_out[row.name]}")
            continue
        try:
            for step in row.to_train:
                tell(f"{row.name}: training {step.run} ({step.file})")
                step.train(tell)
            filled.rows.append((row, _values(row, store, key, evaluate, tell)))
        except PixVoiceError as error:
            filled.failed[row.name] = " ".join(str(error).split())
            tell(f"error: {row.name}: {filled.failed[row.name]}")
    if not filled.rows:
        raise InputError("not one row could be evaluated: see what is missing with --dry-run")
    return filled


def _values(
    row: Row, store: Store, key: Mapping[str, Any], evaluate: Callable[[Row, Path], Values], tell: Tell
) -> Values:
    of_row = {**key, "row": row.name, "weights": weights(row)}
    kept = store.load(row.name, of_row)
    if kept is not None:
        tell(f"{row.name}: evaluated before, with these weights")
        return kept
    tell(f"{row.name}: evaluating")
    media = store.folder / row.name
    make_folder(media)
    values = evaluate(row, media)
    store.save(row.name, of_row, values)
    return values


def _as_json(key: Mapping[str, Any]) -> Any:
    return json.loads(json.dumps(key))
