"""Written captions in one file: Karpathy's JSON, the CSV of Kaggle, and JSON lines with a list of captions a photo."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from pixvoice.data.flickr8k import official_split
from pixvoice.data.folders import find_images, read_json, read_lines, read_text
from pixvoice.errors import InputError
from pixvoice.manifest import SPLITS, Sample, canonical_split

_KARPATHY_SPLITS = {"restval": "train"}  # COCO: what the split's author adds to train


def read_karpathy(file: Path) -> list[Sample]:
    """``{"images": [{"filename", "split", "sentences": [{"raw"}]}]}`` (Karpathy and Fei-Fei, 2015)."""
    data = read_json(read_text(file), file)
    rows = data.get("images") if isinstance(data, dict) else None
    if not isinstance(rows, list):
        raise InputError(f"{file}: has no list of images; give Karpathy's dataset_flickr8k.json or a manifest (.jsonl)")
    found: list[tuple[str, str | None, list[str]]] = []
    for number, row in enumerate(rows, 1):
        try:
            name = str(Path(row.get("filepath", ""), row["filename"]))
            split = _KARPATHY_SPLITS.get(row["split"], row["split"])
            found.append((name, split, [sentence["raw"] for sentence in row["sentences"]]))
        except (KeyError, TypeError, AttributeError):
            raise InputError(f"{file}: image {number} lacks a filename, split or sentences; get it again") from None
    return _samples(file, found)


def read_kaggle(file: Path) -> list[Sample]:
    """``image,caption`` rows.  The file has no splits: the official lists near it are used, else all is ``train``."""
    table = csv.reader(io.StringIO(read_text(file), newline=""))
    header = next(table, [])
    if [cell.strip().lower() for cell in header[:2]] != ["image", "caption"]:
        raise InputError(f"{file}: its first line isn't 'image,caption'; give Kaggle's captions.txt, or a manifest")
    split = official_split(file)
    found: list[tuple[str, str | None, list[str]]] = []
    try:
        for cells in filter(any, table):
            found.append((cells[0].strip(), split(cells[0].strip()) or "train", [",".join(cells[1:])]))
    except csv.Error as error:
        raise InputError(f"{file}: line {table.line_num} isn't CSV ({error}); get the file again") from None
    return _samples(file, found)


def read_lists(file: Path) -> list[Sample]:
    """``{"image", "split", "captions": [...]}``, one line a photo."""
    found: list[tuple[str, str | None, list[str]]] = []
    for number, line in read_lines(file):
        row: Any = read_json(line, file, number)
        captions = row.get("captions") if isinstance(row, dict) else None
        if not isinstance(captions, list) or not isinstance(row.get("image"), str):
            raise InputError(f'{file}: line {number} isn\'t {{"image": "...", "captions": ["..."]}}; mend the line')
        found.append((row["image"], row.get("split"), captions))
    return _samples(file, found)


def _samples(file: Path, found: list[tuple[str, str | None, list[str]]]) -> list[Sample]:
    """Photo, split and captions -> one sample a caption; blank captions are left out."""
    images = find_images(file, (name for name, _, _ in found))
    samples: list[Sample] = []
    for name, given, captions in found:
        split = None if given is None else canonical_split(str(given))
        if split is not None and split not in SPLITS:
            raise InputError(f"{file}: {name} is in the split {given!r}; allowed: {', '.join(SPLITS)} (val is dev)")
        if not all(isinstance(caption, str) for caption in captions):
            raise InputError(f"{file}: {name} has a caption that isn't text; mend the file")
        samples += [Sample(images / name, text=text.strip(), split=split) for text in captions if text.strip()]
    return samples
