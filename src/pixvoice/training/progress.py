"""What a training says while it runs: a progress line on standard error, and the loss curve in ``log.jsonl``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    track,
)
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from pixvoice.files import write_bytes_atomically

T = TypeVar("T")
CURVE = ("step", "loss", "learning_rate", "grad_norm")


def loss_curve(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """The entries of a log history that have a loss: step, mean loss since the entry before, learning rate, norm."""
    return [{key: entry[key] for key in CURVE if key in entry} for entry in history if "loss" in entry]


def follow(items: Sequence[T], description: str) -> Iterable[T]:
    """``items``, with a progress bar on standard error."""
    return track(items, description=description, console=Console(stderr=True))


class RunProgress(TrainerCallback):
    """Shows a bar on a terminal, or a line an entry elsewhere, and keeps ``log.jsonl`` in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._console = folder, Console(stderr=True)
        self._bar = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}"),
            TimeElapsedColumn(),
            TextColumn("<"),
            TimeRemainingColumn(),
            console=self._console,
            disable=not self._console.is_terminal,
        )

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Begin where the checkpoint left off."""
        self._bar.start()
        self._task = self._bar.add_task("", total=state.max_steps, completed=state.global_step, loss="")

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Move the bar on."""
        self._bar.update(self._task, completed=state.global_step)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Write the whole curve anew, so that a resumed run never doubles an entry."""
        curve = loss_curve(state.log_history)
        if not curve or "loss" not in state.log_history[-1]:
            return
        write_bytes_atomically(self._folder / "log.jsonl", "".join(f"{json.dumps(e)}\n" for e in curve).encode())
        self._bar.update(self._task, loss=f"loss {curve[-1]['loss']:.4f}")
        if not self._console.is_terminal:
            rate = curve[-1]["learning_rate"]
            line = f"step {state.global_step}/{state.max_steps} loss {curve[-1]['loss']:.4f} learning rate {rate:.2e}"
            self._console.print(line, soft_wrap=True, highlight=False)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Close the bar."""
        self._bar.stop()
