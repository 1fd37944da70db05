"""``pixvoice convert``: published weights -> safetensors, without running anything that the file holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pixvoice.errors import MissingToolError


def convert(
    file: Annotated[
        Path, typer.Argument(help="A torch file (.pt, .bin, .ckpt), its .index.json, or a pickled k-means (km.bin).")
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The file to write, ending in .safetensors.")],
) -> None:
    """Turn a published torch file into safetensors, which can't run code.

    Nothing but tensors is read: a file with other objects in it is refused. A unit HiFi-GAN's weight norm is folded.

    Example: pixvoice convert models/hubert/pytorch_model.bin -o models/hubert/model.safetensors
    """
    try:
        from pixvoice.training.convert import convert as run
    except ImportError as error:
        raise MissingToolError(f"{error.name} isn't installed; type: pip install 'pixvoice[train]'") from None
    done = run(file, output)
    for note in done.notes:
        typer.echo(note, err=True)
    typer.echo(f"{output}  {done.tensors} tensors, {done.numbers:,} numbers")
