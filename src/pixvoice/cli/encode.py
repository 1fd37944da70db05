"""``pixvoice encode``: photos or recordings as units of a few hundred bits, in one file."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pixvoice.errors import MissingToolError, OptionError

if TYPE_CHECKING:
    from pixvoice.encoding import EncodeReport, FileEncoder, Named, Spread


def encode(
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="MANIFEST|FOLDER...", help="Manifests, data sets' folders, or any folders of files."),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="The file of units (.npz).")],
    image_units: Annotated[bool, typer.Option("--image-units", help="Photos, by the tokenizer in --model.")] = False,
    speech_tokens: Annotated[bool, typer.Option("--speech-tokens", help="Recordings, by the bundle's codec.")] = False,
    model: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Run of an image_units training, or a ViT-VQGAN's folder.")
    ] = None,
    views: Annotated[
        int, typer.Option(min=1, help="Views of a photo: 1 whole, 2 and its mirror image, more: random parts.")
    ] = 1,
    split: Annotated[str | None, typer.Option(help="Only this split of the data set.")] = None,
    bundle: Annotated[Path | None, typer.Option(help="Folder of a bundle; without it, the one that ships.")] = None,
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Encode on a Ray cluster: its address, auto, or local."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Write photos (or recordings) as units, each id in as few bits as its codebook needs.

    It may be stopped at any moment; the same command goes on from there. Exit status 1 when a file can't be used;
    the others are still encoded.

    Examples: pixvoice encode --image-units data/flickr8k --model runs/image-units -o units.npz;
    pixvoice encode --speech-tokens data/speech/manifest.jsonl -o tokens.npz
    """
    from pixvoice.encoding import encode_files

    if image_units == speech_tokens:
        raise OptionError("what to encode: give --image-units or --speech-tokens, one of them")
    if output.suffix != ".npz":
        raise OptionError(f"{output}: units are kept in an .npz; give -o {output.with_suffix('.npz')}")
    load = partial(_photos, model, views) if image_units else partial(_recordings, bundle)
    encoder = load()
    files = [file for source in sources for file in _files(source, split, encoder.of.kind)]
    with _spreading(ray, load) as spread, _progress() as on_progress:
        report = encode_files(files, encoder, output, _tell, on_progress, spread)
    _say(report, as_json)
    if report.failures:
        raise typer.Exit(1)


def _spreading(ray: str | None, load: Callable[[], FileEncoder]) -> AbstractContextManager[Spread | None]:
    """Here, or on a cluster."""
    if ray is None:
        return nullcontext()
    from pixvoice.cluster import encode_on_ray

    return encode_on_ray(load, None if ray == "local" else ray)


def _photos(model: Path | None, views: int) -> FileEncoder:
    if model is None:
        raise OptionError(
            "--image-units needs a tokenizer: give --model RUN, made by: pixvoice train image-units-small"
        )
    try:
        from pixvoice.training.photo_units import photo_files
    except ImportError as error:
        raise MissingToolError(f"{error.name} isn't installed; type: pip install 'pixvoice[train]'") from None
    return photo_files(model, views)


def _recordings(bundle: Path | None) -> FileEncoder:
    import pixvoice
    from pixvoice.encoding import SpeechFiles

    describer = pixvoice.load(bundle)
    return SpeechFiles(describer.tokenizer, describer.bundle.info.hears_by)


def _files(source: Path, split: str | None, kind: str) -> Named:
    """Those of a manifest or a known data set; else whatever lies in the folder."""
    from pixvoice.data import load_dataset
    from pixvoice.encoding import files_in, files_of
    from pixvoice.errors import InputError

    try:
        return files_of(load_dataset(source, split), source, kind)
    except InputError:
        if not source.is_dir() or split is not None:
            raise
        return files_in(source, kind)


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("encoding", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _tell(line: str) -> None:
    print(f"error: {line}", file=sys.stderr)


def _say(report: EncodeReport, as_json: bool) -> None:
    each, share = report.bits / report.files, report.bits / (8 * report.file_bytes)
    if as_json:
        counts = {"files": report.files, "failed": len(report.failures), "bits": report.bits}
        facts = {"bits_per_file": round(each, 1), "share_of_file_bits": round(share, 6)}
        typer.echo(json.dumps({"output": str(report.output), **counts, **facts}))
    else:
        bits = f"{each:,.0f} bits a file, {share:.2%} of the files' own"
        typer.echo(f"{report.output}  {report.files} files, {len(report.failures)} failed  {bits}")
