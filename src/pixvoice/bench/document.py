"""A report as values, written three times: Markdown, JSON, and one HTML file that opens without a host."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pixvoice.bench.store import make_folder
from pixvoice.errors import MissingToolError
from pixvoice.files import write_bytes_atomically

NAMES = ("table.md", "table.json", "report.html")
PAGE = Path(__file__).with_name("page.html")


@dataclass(frozen=True)
class Table:
    """Rows of text under ``heads``; the first cell of a row is its name.  A row of one cell heads those below it."""

    caption: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()

    def markdown(self) -> str:
        """As Markdown, with caption and notes."""
        right = ["---", *["---:"] * (len(self.heads) - 1)]
        lines = [self.heads, tuple(right)]
        for row in self.rows:
            lines.append((f"*{row[0]}*", *[""] * (len(self.heads) - 1)) if len(row) == 1 else row)
        cells = [" | ".join(cell.replace("|", "\\|") for cell in line) for line in lines]
        return "\n".join([f"**{self.caption}**", "", *(f"| {line} |" for line in cells), "", *self.notes])


@dataclass(frozen=True)
class Voice:
    """What one system said of one photo: ``sound`` and ``looks`` are data addresses, ``heard`` is by recognizer."""

    system: str
    sound: str
    heard: Mapping[str, str]
    looks: str | None = None
    where: str = ""


@dataclass(frozen=True)
class Photo:
    """One photo (a data address) with what people wrote of it and what every system said of it."""

    number: int
    picture: str
    width: int
    height: int
    captions: tuple[str, ...]
    voices: tuple[Voice, ...]


@dataclass(frozen=True)
class Curve:
    """The loss of one training: ``points`` is an SVG polyline in a box of 300 x 120, from the top left."""

    name: str
    label: str
    points: str
    most: str
    least: str
    steps: str


@dataclass(frozen=True)
class Report:
    """A title, what was done (``lead``), tables, and what there is to see and hear; ``values`` are for machines."""

    title: str
    lead: tuple[str, ...]
    tables: tuple[Table, ...]
    values: Mapping[str, Any]
    curves: tuple[Curve, ...] = ()
    photos: tuple[Photo, ...] = ()
    remarks: tuple[str, ...] = field(default=())

    def markdown(self) -> str:
        """Everything that can be read."""
        parts = [f"# {self.title}", *self.lead, *(table.markdown() for table in self.tables)]
        remarks = "\n".join(f"- {remark}" for remark in self.remarks)
        return "\n\n".join([*parts, *([remarks] if remarks else [])]) + "\n"

    def html(self) -> str:
        """The page.  Raises MissingToolError without Jinja."""
        try:
            from jinja2 import Environment, StrictUndefined
        except ImportError:
            raise MissingToolError("the report needs Jinja: pip install 'pixvoice[evaluate]'") from None
        kitchen = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
        return kitchen.from_string(PAGE.read_text(encoding="utf-8")).render(report=self)

    def write(self, folder: Path) -> list[Path]:
        """Write ``table.md``, ``table.json`` and ``report.html``.  Raises OutputError."""
        make_folder(folder)
        texts = (self.markdown(), json.dumps(self.values, indent=1) + "\n", self.html())
        for name, text in zip(NAMES, texts, strict=True):
            write_bytes_atomically(folder / name, text.encode())
        return [folder / name for name in NAMES]


def curve(name: str, points: Sequence[Sequence[float]]) -> Curve | None:
    """Pairs of step and loss -> a curve; None for fewer than two."""
    if len(points) < 2:
        return None
    steps, losses = zip(*points, strict=True)
    most, least = max(losses), min(losses)
    width, height = steps[-1] - steps[0] or 1, most - least or 1
    places = [(300 * (step - steps[0]) / width, 120 * (most - loss) / height) for step, loss in points]
    label = f"Loss of {name}: {losses[0]:.3f} at step {steps[0]}, {losses[-1]:.3f} at step {steps[-1]}"
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    return Curve(name, label, line, f"{most:.2f}", f"{least:.2f}", f"{steps[0]} to {steps[-1]}")
