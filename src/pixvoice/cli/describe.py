"""``pixvoice describe``: photos in, spoken descriptions out."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Literal

import typer

from pixvoice.errors import InputError, MissingToolError, OptionError, OutputError

if TYPE_CHECKING:
    from pixvoice.runtime.describer import Description

STDIN = Path("-")


def describe(
    photos: Annotated[
        list[str], typer.Argument(metavar="PHOTO...", help="Photos, folders of photos, or - for a pipe.")
    ],
    output: Annotated[
        str | None, typer.Option("-o", "--output", help="A .wav file, a folder, or - for a WAV on standard output.")
    ] = None,
    play: Annotated[
        bool, typer.Option("--play", help="Play through this machine's audio; writes no file without -o.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each photo.")] = False,
    length: Annotated[Literal["short", "normal", "long"], typer.Option(help="How much to say.")] = "normal",
    seed: Annotated[int | None, typer.Option(help="Makes a bundle that samples say the same again.")] = None,
    bundle: Annotated[Path | None, typer.Option(help="Folder of a bundle; without it, the one that ships.")] = None,
    threads: Annotated[int | None, typer.Option(help="Processor cores to use; 2 at most unless told.")] = None,
) -> None:
    """Describe photos aloud. Without -o, each photo's description is written to this folder as its name and .wav.

    Exit status 1 when a photo of several can't be used; the others are still done.

    Examples: pixvoice describe beach.jpg --play; pixvoice describe holidays/ -o spoken/
    """
    inputs = _expand(photos)
    outlet = Outlet.choose(inputs, output, alone=len(photos) == 1 and inputs == [Path(photos[0])], play=play)
    if outlet.to_stdout and as_json:
        raise OptionError("-o - and --json both write to standard output; use one of them")

    import pixvoice

    describer = pixvoice.load(bundle, threads)
    failed = False
    for photo in _progress(inputs):
        try:
            description = describer.describe(_source(photo), length=length, seed=seed)
            wav = outlet.write(photo, description)
            if play:
                _play(description)
        except (InputError, MissingToolError, OutputError) as error:
            if outlet.alone:
                raise
            typer.echo(f"error: {' '.join(str(error).split())}", err=True)
            failed = True
            continue
        _report(photo, wav, description, as_json, err=outlet.to_stdout)
    if failed:
        raise typer.Exit(1)


@dataclass
class Outlet:
    """Where descriptions go: one file, standard output, a folder with one name for each photo, or nowhere."""

    file: Path | None = None
    folder: Path | None = None
    to_stdout: bool = False
    alone: bool = False
    taken: set[Path] = field(default_factory=set)

    @classmethod
    def choose(cls, photos: list[Path], output: str | None, alone: bool, play: bool) -> Outlet:
        """What -o means for these photos.  Raises OptionError for what can't be meant."""
        taken = {_key(photo) for photo in photos if photo != STDIN}
        if output is None:
            return cls(folder=None if play else Path(), alone=alone, taken=taken)
        if output == "-":
            if not alone:
                raise OptionError("-o - takes one photo; give a folder with -o FOLDER for several")
            return cls(to_stdout=True, alone=True)
        place = Path(output)
        if place.is_dir() or output.endswith(("/", "\\")) or not place.suffix:
            return cls(folder=place, alone=alone, taken=taken)
        if place.suffix.lower() != ".wav":
            raise OptionError(f"-o {output}: speech is written as .wav; give a name that ends in .wav, or a folder")
        if not alone:
            raise OptionError(f"-o {output}: one file for several photos; give a folder with -o FOLDER")
        if _key(place) in taken:
            raise OptionError(f"-o {output}: that is the photo itself; give another name")
        return cls(file=place, alone=True)

    def write(self, photo: Path, description: Description) -> Path | None:
        """Write the WAV, whole or not at all, and say where it lies."""
        if self.to_stdout:
            from pixvoice.audio import wav_bytes

            _to_stdout(wav_bytes(description.audio, description.sample_rate))
            return None
        path = self.file or self._name(photo)
        if path is not None:
            description.save(path)
            self.taken.add(_key(path))
        return path

    def _name(self, photo: Path) -> Path | None:
        """``beach.wav``, then ``beach-2.wav``; never the name of a photo or of a file written before."""
        if self.folder is None:
            return None
        _make_folder(self.folder)
        stem = "photo" if photo == STDIN else photo.stem
        path, number = self.folder / f"{stem}.wav", 1
        while _key(path) in self.taken:
            number += 1
            path = self.folder / f"{stem}-{number}.wav"
        return path


def _key(path: Path) -> Path:
    """One key for all names of a file, also where upper and lower case are one."""
    return Path(str(path.resolve()).casefold())


def _to_stdout(data: bytes) -> None:
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left has nowhere to go
        raise OutputError(f"standard output can't be written ({error.strerror}); give -o OUT.wav") from None


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder}: the folder can't be made ({error.strerror}); give another place") from None


def _expand(photos: list[str]) -> list[Path]:
    """Arguments -> photos; ``-`` keeps its place."""
    from pixvoice.images import find_photos

    found = [path for photo in photos for path in ([STDIN] if photo == "-" else find_photos([photo]))]
    return list(dict.fromkeys(found))


def _source(photo: Path) -> Path | BinaryIO:
    return sys.stdin.buffer if photo == STDIN else photo


def _play(description: Description) -> None:
    from pixvoice.audio import play

    play([description.audio], description.sample_rate)


def _progress(photos: list[Path]) -> Iterable[Path]:
    """The photos, with a progress bar where someone watches."""
    if len(photos) < 2 or not sys.stderr.isatty():
        return photos
    from rich.console import Console
    from rich.progress import track

    return track(photos, description="describing", console=Console(stderr=True))


def _report(photo: Path, wav: Path | None, description: Description, as_json: bool, err: bool) -> None:
    """One line on a photo."""
    seconds, confidence = round(description.seconds, 2), round(description.confidence, 3)
    if as_json:
        values: dict[str, Any] = {
            "photo": str(photo),
            "wav": None if wav is None else str(wav),
            "seconds": seconds,
            "confidence": confidence,
            "log_prob": round(description.log_prob, 4),
            "sample_rate": description.sample_rate,
        }
        typer.echo(json.dumps(values))
    else:
        words = f"{description.confidence_in_words} ({confidence:.2f})"
        typer.echo(f"{wav or photo}  {seconds:.1f} s  {words}", err=err)
