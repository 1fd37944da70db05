"""The commands in the recipes' README: what makes which folder or file, and what the runs are called."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from pixvoice.files import read_bytes

README = "README.md"
MAX_BYTES = 1_000_000
_BLOCK = re.compile(r"^```sh\n(.*?)^```", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Commands:
    """``makers``: what is made, and the command that makes it; ``runs``: a recipe's name, and its run's."""

    makers: Mapping[Path, str]
    runs: Mapping[str, str]

    def maker(self, path: Path) -> str | None:
        """The command that makes ``path``, or a folder that it lies in."""
        return next((self.makers[place] for place in (path, *path.parents) if place in self.makers), None)

    def run_of(self, recipe: str) -> str:
        """What the run of a recipe is called: as the README has it, else as the recipe without its size."""
        return self.runs.get(recipe, recipe.removesuffix("-small"))

    def recipe_of(self, run: str) -> str:
        """The recipe whose run is called so; one of the small size, where the README doesn't say."""
        return next((recipe for recipe, name in self.runs.items() if name == run), f"{run}-small")


def read_commands(recipes: Path) -> Commands:
    """The commands of the README in the folder ``recipes``.  Raises InputError if there is none."""
    _, data = read_bytes(recipes / README, "README of recipes", MAX_BYTES)
    makers: dict[Path, str] = {}
    runs: dict[str, str] = {}
    for words in _commands(data.decode(errors="replace")):
        output = _output(words)
        if output is None:
            continue
        makers.setdefault(output, shlex.join(words))
        if words[1] == "train":
            runs.setdefault(Path(words[2]).stem, output.name)
    return Commands(makers, runs)


def _commands(text: str) -> Iterator[list[str]]:
    """The words of each ``pixvoice`` command, its continued lines joined."""
    for block in _BLOCK.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("pixvoice "):
                yield shlex.split(line, comments=True)


def _output(words: list[str]) -> Path | None:
    return next((Path(value) for option, value in pairwise(words) if option == "-o"), None)
