"""Data sets in the layouts that people have, read as one list of samples.  ``load_dataset`` is the door."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from pixvoice.data.captions import read_kaggle, read_karpathy, read_lists
from pixvoice.data.flickr8k import TOKENS, read_corpus, read_tokens
from pixvoice.data.folders import read_lines
from pixvoice.data.localized_narratives import NARRATIVES, read_narratives
from pixvoice.data.ravdess import RavdessClip, read_ravdess
from pixvoice.data.spokencoco import SPOKENCOCO, read_spokencoco
from pixvoice.errors import InputError, OptionError
from pixvoice.manifest import Sample, read_manifest, select_split

__all__ = ["LAYOUTS", "Layout", "RavdessClip", "load_dataset", "read_ravdess"]


@dataclass(frozen=True)
class Layout:
    """One way that a data set lies on a disk: the file to know it by, and its reader."""

    name: str
    files: tuple[str, ...]  # names looked for in a folder
    patterns: tuple[str, ...]  # names of a file given by itself
    read: Callable[[Path], list[Sample]]
    in_parts: bool = False  # whether a folder's files are all read, one after the other


def _read_json_lines(file: Path) -> list[Sample]:
    """Our manifest, a line a photo with a list of captions, or a line a narrative."""
    _, first = next(read_lines(file), (0, ""))
    if '"voice_recording"' in first or '"timed_caption"' in first:
        return read_narratives(file)
    return read_lists(file) if '"captions"' in first else read_manifest(file)


LAYOUTS = (
    Layout("PixVoice manifest", ("manifest.jsonl",), ("*.jsonl",), _read_json_lines),
    Layout("captions by photo", ("captions.jsonl",), (), _read_json_lines),
    Layout("Flickr8k text files", TOKENS, ("*token*.txt",), read_tokens),
    Layout("Flickr Audio Caption Corpus", ("wav2capt.txt",), ("wav2capt*.txt",), read_corpus),
    Layout("SpokenCOCO", SPOKENCOCO, ("SpokenCOCO*.json",), read_spokencoco, in_parts=True),
    Layout("Localized Narratives", NARRATIVES, (), read_narratives, in_parts=True),
    Layout("Karpathy's JSON", ("dataset_flickr8k.json", "dataset.json"), ("*.json",), read_karpathy),
    Layout("Kaggle's CSV", ("captions.txt", "captions.csv"), ("*.csv", "captions*.txt"), read_kaggle),
)


def load_dataset(path: str | Path, split: str | None = None) -> list[Sample]:
    """Read a data set: a manifest, another layout's own file, or a folder in any layout of ``LAYOUTS``.

    A sample is one caption of one photo.  ``split`` is train, dev (or val), test or extra; None takes all.

    Raises:
        InputError: nothing is there, the layout isn't known, or a file of it is damaged.
        OptionError: no sample is in that split.
    """
    path = Path(path)
    files, layout = _find_in_folder(path) if path.is_dir() else _match_file(path)
    samples = [sample for file in files for sample in layout.read(file)]
    if not samples:
        raise InputError(f"{files[0]}: holds no captions; get the file again")
    try:
        return select_split(samples, split, path if layout.in_parts else files[0])
    except OptionError as error:
        if layout.read is read_kaggle:
            raise OptionError(f"{error}; for the official splits put Flickr_8k.*Images.txt beside the file") from None
        raise


def _find_in_folder(folder: Path) -> tuple[list[Path], Layout]:
    for prefix in ("", "*/"):
        for layout in LAYOUTS:
            if found := [file for name in layout.files for file in sorted(folder.glob(prefix + name))]:
                parts = [file for file in found if file.parent == found[0].parent]
                return parts if layout.in_parts else found[:1], layout
    looked_for = "; ".join(f"{', '.join(layout.files)} ({layout.name})" for layout in LAYOUTS)
    raise InputError(f"{folder}: no data set in a known layout; looked for {looked_for}")


def _match_file(file: Path) -> tuple[list[Path], Layout]:
    if not file.exists():
        raise InputError(f"{file}: no such file or folder; give a data set's folder or a manifest")
    for layout in LAYOUTS:
        if any(fnmatch(file.name, pattern) for pattern in layout.patterns):
            return [file], layout
    known = ", ".join(pattern for layout in LAYOUTS for pattern in layout.patterns)
    raise InputError(f"{file}: not a data set's file by its name; known are {known}, or give the folder")
