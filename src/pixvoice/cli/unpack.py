"""``pixvoice unpack``: what a bundle sees, speaks and hears with, as runs to train on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pixvoice.errors import MissingToolError


def unpack(
    bundle: Annotated[Path | None, typer.Argument(help="A bundle's folder; the one that ships if not given.")] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder for the runs.")] = Path("runs"),
) -> None:
    """Turn a bundle's image student, codec and recognizer back into runs, so that describers can be trained on them.

    Example: pixvoice unpack -o runs
    """
    try:
        from pixvoice.training.unpack import unpack as run
    except ImportError as error:
        raise MissingToolError(f"{error.name} isn't installed; type: pip install 'pixvoice[train]'") from None
    from pixvoice.runtime.bundle import Bundle

    for folder in run(Bundle.load(bundle), output):
        typer.echo(folder)
