"""SpokenCOCO: COCO's captions read aloud by many people (Hsu et al. 2021, arXiv 2012.15454).

    SpokenCOCO_train.json, SpokenCOCO_val.json
        {"data": [{"image": "val2014/COCO_val2014_000000325114.jpg",
                   "captions": [{"text": "A URINAL ...", "speaker": "m1vjq8cayvs6c9", "uttid": "...",
                                 "wav": "wavs/val/0/m1vjq8cayvs6c9-32KTQ2V7RDFP25PU1AP8KXEZU8I9MO_92648_385961.wav"}]}]}
    wavs/                         beside the JSON
    train2014/, val2014/          beside the JSON, beside its folder, or in a folder of photos near it
    dataset_coco.json             Karpathy's division, if it is near: 5,000 photos of val are test, 5,000 are dev

Some copies of the JSON begin with "image_base_path" and "audio_base_path"; they count where such folders exist.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pixvoice.data.folders import find_base, find_file, find_images, read_json, read_text
from pixvoice.errors import InputError
from pixvoice.manifest import Sample

SPOKENCOCO = ("SpokenCOCO_train.json", "SpokenCOCO_val.json", "SpokenCOCO_test.json")
_KARPATHY = ("dataset_coco.json",)
_KARPATHY_SPLITS = {"train": "train", "restval": "train", "val": "dev", "test": "test"}
_SPLITS_BY_NAME = {"test": "test", "val": "dev", "dev": "dev", "train": "train"}


def read_spokencoco(file: Path) -> list[Sample]:
    """One part of SpokenCOCO -> one sample a spoken caption.  The texts are upper case, as published.

    Without its recordings near, the samples have texts only.  Raises InputError.
    """
    data = read_json(read_text(file), file)
    rows = data.get("data") if isinstance(data, dict) else None
    if not isinstance(rows, list) or not rows:
        raise InputError(f'{file}: has no list "data" of photos; give SpokenCOCO_train.json or SpokenCOCO_val.json')
    found = [_row(row, number, file) for number, row in enumerate(rows, 1)]
    names = [image for image, _ in found]
    images = find_base(_given(file, data.get("image_base_path")), names) or find_images(file, names)
    wavs = [caption["wav"] for _, captions in found for caption in captions]
    recordings = find_base((*_given(file, data.get("audio_base_path")), file.parent), wavs)
    split = _division(file)
    return [
        Sample(
            image=images / image,
            audio=recordings / caption["wav"] if recordings else None,
            text=caption["text"].strip() or None,
            speaker=caption.get("speaker") or None,
            split=split(image),
        )
        for image, captions in found
        for caption in captions
    ]


def _row(row: Any, number: int, file: Path) -> tuple[str, list[dict[str, str]]]:
    try:
        image, captions = row["image"], row["captions"]
        texts = [part for caption in captions for part in (caption["text"], caption["wav"])]
        speakers = [caption.get("speaker") for caption in captions]
        if not all(isinstance(part, str) for part in (image, *texts, *(s for s in speakers if s is not None))):
            raise TypeError
    except (KeyError, TypeError, AttributeError):
        raise InputError(
            f"{file}: photo {number} lacks an image, or captions with text and wav; get the file again"
        ) from None
    return image, captions


def _given(file: Path, base: Any) -> tuple[Path, ...]:
    """The folder that the JSON itself names, seen from where it lies."""
    return (file.parent / base,) if isinstance(base, str) and base else ()


def _division(file: Path) -> Callable[[str], str | None]:
    """Name of a photo -> its split: Karpathy's, else the one that the file is named after."""
    named = next((split for word, split in _SPLITS_BY_NAME.items() if word in file.stem.lower()), None)
    lists = find_file(file, _KARPATHY)
    if lists is None:
        return lambda image: named
    rows = read_json(read_text(lists), lists)
    try:
        splits = {row["filename"]: _KARPATHY_SPLITS[row["split"]] for row in rows["images"]}
    except (KeyError, TypeError):
        raise InputError(f"{lists}: isn't Karpathy's division of COCO; get it again, or take it away") from None
    return lambda image: splits.get(Path(image).name, named)
