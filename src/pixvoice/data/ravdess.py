"""RAVDESS: 24 actors say two sentences in eight emotions (Livingstone and Russo 2018).

    Actor_12/03-01-06-01-02-01-12.wav
        modality (03: audio only) - channel (01: speech) - emotion - intensity - statement - repetition - actor

Odd actors are men, even ones women.  Neutral has no strong intensity: 60 files an actor.  The recordings of
``SAME_AUDIO`` (actor 7, happy, normal) are one and the same; both are read, and since they are of one actor, no
division by actors parts them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pixvoice.errors import InputError

EMOTIONS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")
INTENSITIES = ("normal", "strong")
STATEMENTS = ("Kids are talking by the door", "Dogs are sitting by the door")
N_ACTORS = 24
SAME_AUDIO = ("03-01-03-01-02-01-07", "03-01-03-01-02-02-07")
SUFFIXES = (".wav", ".flac")


@dataclass(frozen=True)
class RavdessClip:
    """One recording, as its name tells: emotion and intensity by name, the sentence said, its repetition, the actor."""

    path: Path
    emotion: str  # one of EMOTIONS
    intensity: str  # one of INTENSITIES
    statement: str  # one of STATEMENTS
    repetition: int  # 1 or 2
    actor: int  # 1 to 24


def read_ravdess(folder: str | Path, on_unknown: Callable[[str], None] = lambda message: None) -> list[RavdessClip]:
    """Every spoken recording below ``folder``, sorted by name; songs and films of RAVDESS are left out.

    ``on_unknown`` is told, in one line each, of the sound files whose names aren't RAVDESS's; they are left out too.
    A name that comes twice (some archives hold everything twice) is taken once.

    Raises InputError when the folder or every recording is missing.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give the folder of RAVDESS that holds Actor_01, Actor_02, ...")
    files = [path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")]
    clips: dict[str, RavdessClip] = {}
    for path in sorted(files, key=lambda path: (len(path.parts), path.name, str(path))):
        values = _fields(path.stem)
        if values is None:
            on_unknown(f"{path}: its name isn't one of RAVDESS (such as 03-01-06-01-02-01-12.wav); left out")
        elif values[:2] == (3, 1):
            clips.setdefault(path.stem, _clip(path, values))
    if not clips:
        raise InputError(f"{root}: no recording of RAVDESS in it; looked for names such as 03-01-06-01-02-01-12.wav")
    return [clips[name] for name in sorted(clips, key=lambda name: (clips[name].actor, name))]


def _fields(name: str) -> tuple[int, ...] | None:
    """The seven numbers of a name; None where it isn't a name of RAVDESS."""
    parts = name.split("-")
    if len(parts) != 7 or not all(len(part) == 2 and part.isascii() and part.isdecimal() for part in parts):
        return None
    values = tuple(map(int, parts))
    most = (3, 2, len(EMOTIONS), len(INTENSITIES), len(STATEMENTS), 2, N_ACTORS)
    return values if all(1 <= value <= limit for value, limit in zip(values, most, strict=True)) else None


def _clip(path: Path, values: tuple[int, ...]) -> RavdessClip:
    _, _, emotion, intensity, statement, repetition, actor = values
    names = EMOTIONS[emotion - 1], INTENSITIES[intensity - 1], STATEMENTS[statement - 1]
    return RavdessClip(path, *names, repetition, actor)
