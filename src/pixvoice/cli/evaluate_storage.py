"""``pixvoice evaluate storage``: what photos and speech take, as files and as units."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pixvoice.cli.evaluate import Bundle, Json, Limit, Manifest, Split, _print, _progress, _samples, _tell
from pixvoice.errors import MissingToolError

if TYPE_CHECKING:
    from pixvoice.contracts import SpeechTokenizer
    from pixvoice.evaluation.storage import ImageUnitSizes


def storage(
    manifest: Manifest,
    split: Split = None,
    bundle: Bundle = None,
    limit: Limit = None,
    image_units: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Image units to count beside the standard ones.")
    ] = None,
    speech_units: Annotated[
        Path | None, typer.Option(metavar="RUN", help="A training of speech units, counted with runs merged.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure photos and recordings in bits: files, raw, image units, codec tokens, speech units.

    Exit status 1 when a file could not be read; the others are still measured.

    Example: pixvoice evaluate storage flickr8k --split dev --limit 50
    """
    import pixvoice
    from pixvoice.evaluation.storage import IMAGE_UNITS, measure_storage
    from pixvoice.evaluation.tables import storage_table

    samples = _samples(manifest, split)
    photos = list(dict.fromkeys(sample.image for sample in samples))[:limit]
    recordings = list(dict.fromkeys(sample.audio for sample in samples if sample.audio is not None))[:limit]
    tokenizers: dict[str, SpeechTokenizer] = {}
    if recordings:
        describer = pixvoice.load(bundle)
        told, size = describer.tokenizer, f"{describer.tokenizer.codebook_size:,}"
        by_codec = describer.bundle.info.codec is not None
        said = f"codec tokens, {told.num_codebooks} codebooks of {size}" if by_codec else f"the bundle's units, {size}"
        tokenizers[said] = told
        if speech_units is not None:
            units = _speech_units(speech_units)
            tokenizers[f"speech units of {units.codebook_size:,}, runs merged"] = units
    sizes = (*IMAGE_UNITS, *([] if image_units is None else [_image_units(image_units)]))
    result = measure_storage(_progress(photos, "photos"), _progress(recordings, "recordings"), tokenizers, sizes, _tell)
    _print(result.as_dict(), as_json, lambda: storage_table(result))
    if result.n_failed:
        raise typer.Exit(1)


def _image_units(folder: Path) -> ImageUnitSizes:
    try:
        from pixvoice.training.photo_units import load_image_tokenizer
    except ImportError as error:
        raise _missing(error) from None
    from pixvoice.evaluation.storage import ImageUnitSizes

    of = load_image_tokenizer(folder)
    return ImageUnitSizes(f"image units in {folder}", of.patches, of.num_codebooks, of.codebook_size)


def _speech_units(folder: Path) -> SpeechTokenizer:
    try:
        from pixvoice.speech.pretrained import SpeechParts, unit_tokenizer
    except ImportError as error:
        raise _missing(error) from None
    return unit_tokenizer(SpeechParts(units=folder))


def _missing(error: ImportError) -> MissingToolError:
    return MissingToolError(f"{error.name} isn't installed; type: pip install 'pixvoice[train]'")
