"""What a training says while it runs: a progress line on standard error, the loss curve in ``log.jsonl``, its time.

The time stands in a file of its own, ``clock.jsonl``, because two runs of one recipe have the same ``log.jsonl``.
"""

from __future__ import annotations

import json
import time
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
from pixvoice.training import processes

T = TypeVar("T")
CURVE = ("step", "loss", "learning_rate", "grad_norm")


def loss_curve(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """The entries of a log history that have a loss: step, mean loss since the entry before, learning rate, norm."""
    return [{key: entry[key] for key in CURVE if key in entry} for entry in history if "loss" in entry]


def read_clock(folder: Path) -> list[dict[str, float]]:
    """The entries of ``clock.jsonl``: a step, and the seconds that the steps up to it took; empty without the file."""
    try:
        return [json.loads(line) for line in (folder / "clock.jsonl").read_text().splitlines()]
    except (OSError, ValueError):
        return []


def follow(items: Sequence[T], description: str) -> Iterable[T]:
    """``items``, with a progress bar on standard error: one, however many processes train together."""
    return track(items, description=description, console=Console(stderr=True), disable=not processes.is_main())


def tell(line: str) -> None:
    """Say a line on standard error, once, however many processes train together."""
    if processes.is_main():
        Console(stderr=True).print(line, soft_wrap=True, highlight=False)


class RunProgress(TrainerCallback):
    """Shows a bar on a terminal, a line an entry elsewhere; keeps ``log.jsonl`` and ``clock.jsonl`` in ``folder``."""

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
        self._clock = [entry for entry in read_clock(self._folder) if entry["step"] <= state.global_step]
        self._begun = time.perf_counter() - (self._clock[-1]["seconds"] if self._clock else 0.0)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Move the bar on."""
        self._bar.update(self._task, completed=state.global_step)

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Write the whole curve anew, so that a resumed run never doubles an entry."""
        curve = loss_curve(state.log_history)
        if not curve or "loss" not in state.log_history[-1]:
            return
        write_bytes_atomically(self._folder / "log.jsonl", "".join(f"{json.dumps(e)}\n" for e in curve).encode())
        self._note_time(state.global_step)
        self._bar.update(self._task, loss=f"loss {curve[-1]['loss']:.4f}")
        if not self._console.is_terminal:
            rate = curve[-1]["learning_rate"]
            line = f"step {state.global_step}/{state.max_steps} loss {curve[-1]['loss']:.4f} learning rate {rate:.2e}"
            self._console.print(line, soft_wrap=True, highlight=False)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Close the bar."""
        self._bar.stop()
        if self._folder.is_dir() and state.global_step > (self._clock[-1]["step"] if self._clock else 0):
            self._note_time(state.global_step)

    def _note_time(self, step: int) -> None:
        """The seconds of all steps so far; those that a kill lost, and that were made again, count once."""
        self._clock.append({"step": step, "seconds": round(time.perf_counter() - self._begun, 2)})
        lines = "".join(f"{json.dumps(entry)}\n" for entry in self._clock)
        write_bytes_atomically(self._folder / "clock.jsonl", lines.encode())
