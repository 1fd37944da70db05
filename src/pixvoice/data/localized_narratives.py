"""Localized Narratives of COCO: people describe a photo aloud while pointing at it (Pont-Tuset et al. 2020).

    coco_val_localized_narratives.jsonl, coco_train_localized_narratives-00000-of-00004.jsonl, ...
        {"dataset_id": "mscoco_val2017", "image_id": "137576", "annotator_id": 93, "caption": "In this image ...",
         "timed_caption": [{"utterance": "In this", "start_time": 0.0, "end_time": 0.4}, ...],
         "traces": [[{"x": 0.2086, "y": -0.0533, "t": 0.022}, ...], ...],
         "voice_recording": "coco_val/coco_val_137576_93.ogg"}
    voice-recordings/coco_val/    beside the file (also recordings/, voice_recordings/, or coco_val/ itself)
    val2017/000000137576.jpg      beside the file, beside its folder, or in a folder of photos near it

A narrative is spontaneous and may be long: its recording and its text are one sample, never cut.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pixvoice.data.folders import find_base, find_images, read_json, read_lines, roots
from pixvoice.errors import InputError
from pixvoice.manifest import Sample

NARRATIVES = ("*coco*localized_narratives*.jsonl",)
_VOICES = (".", "voice-recordings", "voice_recordings", "recordings", "localized-narratives/voice-recordings")
_DATASETS = {"mscoco_train2017": ("train2017", "train"), "mscoco_val2017": ("val2017", "dev")}


def read_narratives(file: Path) -> list[Sample]:
    """One file of Localized Narratives -> one sample a narrative; COCO's val photos are ``dev``.

    Without its recordings near, the samples have texts only.  Raises InputError.
    """
    found = [_row(read_json(line, file, number), number, file) for number, line in read_lines(file)]
    names = [f"{folder}/{name}" for folder, name, *_ in found]
    try:
        images, nested = find_images(file, names), True
    except InputError:  # all photos in one folder, as in COCO 2017 unpacked by hand
        images, nested = find_images(file, [name for _, name, *_ in found]), False
    recordings = find_base(
        (root / place for root in roots(file) for place in _VOICES), [voice for *_, voice in found if voice]
    )
    return [
        Sample(
            image=images / folder / name if nested else images / name,
            audio=recordings / voice if recordings and voice else None,
            text=caption or None,
            speaker=speaker,
            split=split,
        )
        for folder, name, split, speaker, caption, voice in found
    ]


def _row(row: Any, number: int, file: Path) -> tuple[str, str, str, str | None, str, str]:
    """One narrative -> folder and name of its photo, split, annotator, text, recording."""
    if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("dataset_id", "caption")):
        raise InputError(f"{file}: line {number} isn't a narrative with dataset_id and caption; get the file again")
    if row["dataset_id"] not in _DATASETS:
        allowed = " or ".join(_DATASETS)
        raise InputError(f"{file}: line {number} is of {row['dataset_id']!r}; the photos of {allowed} can be used")
    image_id = str(row.get("image_id"))
    if not image_id.isdecimal():
        raise InputError(f"{file}: line {number} has the image_id {image_id!r}; COCO's are numbers; get the file again")
    folder, split = _DATASETS[row["dataset_id"]]
    speaker, voice = row.get("annotator_id"), row.get("voice_recording")
    return (
        folder,
        f"{int(image_id):012d}.jpg",
        split,
        None if speaker is None else str(speaker),
        row["caption"].strip(),
        voice if isinstance(voice, str) else "",
    )
