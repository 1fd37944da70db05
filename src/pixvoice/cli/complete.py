"""``pixvoice complete``: a photo and the beginning of what is said about it in, the whole of it out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pixvoice.cli.describe import STDIN, Outlet, _key, _play, _source
from pixvoice.errors import OptionError

if TYPE_CHECKING:
    from pixvoice.runtime.describer import Description


def complete(
    photo: Annotated[str, typer.Argument(metavar="PHOTO", help="A photo, or - for a pipe.")],
    beginning: Annotated[
        str, typer.Argument(metavar="BEGINNING.wav", help="Speech to go on from: WAV, FLAC, ..., or - for a pipe.")
    ],
    output: Annotated[
        str | None, typer.Option("-o", "--output", help="A .wav file, a folder, or - for a WAV on standard output.")
    ] = None,
    play: Annotated[
        bool, typer.Option("--play", help="Play through this machine's audio; writes no file without -o.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    length: Annotated[
        Literal["short", "normal", "long"], typer.Option(help="How much to say, the beginning included.")
    ] = "normal",
    seed: Annotated[int | None, typer.Option(help="Makes a bundle that samples say the same again.")] = None,
    bundle: Annotated[Path | None, typer.Option(help="Folder of a bundle; without it, the one that ships.")] = None,
    threads: Annotated[int | None, typer.Option(help="Processor cores to use; 2 at most unless told.")] = None,
) -> None:
    """Go on from the spoken beginning of a description. Without -o, it goes to this folder as PHOTO's name and .wav.

    What is written is the whole utterance, with the beginning as the model's codec says it.

    Example: pixvoice complete beach.jpg a-dog.wav -o beach.wav
    """
    outlet = _outlet(photo, beginning, output, play)
    if outlet.to_stdout and as_json:
        raise OptionError("-o - and --json both write to standard output; use one of them")

    import pixvoice

    describer = pixvoice.load(bundle, threads)
    description = describer.complete(_source(Path(photo)), _source(Path(beginning)), length=length, seed=seed)
    wav = outlet.write(Path(photo), description)
    if play:
        _play(description)
    _report(photo, beginning, wav, description, as_json, err=outlet.to_stdout)


def _outlet(photo: str, beginning: str, output: str | None, play: bool) -> Outlet:
    """Where the utterance goes: never over one of the two files that it is made from."""
    if photo == beginning == str(STDIN):
        raise OptionError("- for both the photo and the beginning: one pipe holds one of them; give the other's file")
    outlet = Outlet.choose([Path(photo)], output, alone=True, play=play)
    if beginning != str(STDIN):
        if outlet.file is not None and _key(outlet.file) == _key(Path(beginning)):
            raise OptionError(f"-o {output}: that is the beginning itself; give another name")
        outlet.taken.add(_key(Path(beginning)))
    return outlet


def _report(photo: str, beginning: str, wav: Path | None, description: Description, as_json: bool, err: bool) -> None:
    """One line on the utterance."""
    if as_json:
        values = {
            "photo": photo,
            "beginning": beginning,
            "wav": None if wav is None else str(wav),
            "seconds": round(description.seconds, 2),
            "generated_from_s": round(description.generated_from_s, 2),
            "confidence": round(description.confidence, 3),
            "log_prob": round(description.log_prob, 4),
            "sample_rate": description.sample_rate,
        }
        typer.echo(json.dumps(values))
    else:
        words = f"{description.confidence_in_words} ({description.confidence:.2f})"
        spans = f"{description.seconds:.1f} s, generated from {description.generated_from_s:.1f} s on"
        typer.echo(f"{wav or photo}  {spans}  {words}", err=err)
