"""Task ``sas``: photos in, log-mel frames out.  It sees photos and audio, never text, and no tokens of either."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from pixvoice.audio import read_audio
from pixvoice.contracts import Floats
from pixvoice.describe.sas import SasConfig, SasLoss, SasRunConfig, ShowAndSpeak
from pixvoice.errors import InputError, OptionError
from pixvoice.speech.codec import Codec, CodecConfig
from pixvoice.training import processes
from pixvoice.training.caches import fingerprint, photo_numbers, photos_of, save_arrays
from pixvoice.training.describer import Batches, PhotoFeatures, PhotoViews, kept_captions, train_on
from pixvoice.training.options import TrainOptions
from pixvoice.training.progress import follow
from pixvoice.training.trainer import load_model, save_model

PART = 4096  # recordings in one file of the cache: what a killed run loses at most
Halves = npt.NDArray[np.float16]


@dataclass(frozen=True)
class SasRecipe:
    """What ``task: sas`` takes: manifests with photos and audio, a trained image student, and a codec.

    The codec's encoder begins with the log-mel frames that are learned here, so that the codec speaks them.

    Recordings of more than ``max_frames`` steps are left out.  The first ``teacher_steps`` steps of the training see
    the teacher's features, which the student's training left in its ``views`` folder, in place of the student's.
    """

    manifests: tuple[Path, ...]
    train: TrainOptions
    codec: Path
    student: Path
    model: SasConfig = field(default_factory=SasConfig)
    split: str = "train"
    crops: int = 2
    max_frames: int = 64
    teacher_views: Path | None = None
    teacher_steps: int = 0
    cache: Path | None = None


class Spectrograms:
    """Log-mel frames (F, M) of recordings as the codec in ``folder`` begins with, kept in ``cache`` by parts."""

    def __init__(self, recordings: Sequence[Path], folder: Path, cache: Path) -> None:
        """Raises BundleError for a codec that isn't there, InputError for a recording that can't be read."""
        self.codec = load_model(folder, "codec", CodecConfig, Codec)
        self.frames: list[Halves] = []
        for start in range(0, len(recordings), PART):
            part = recordings[start : start + PART]
            path = cache / f"mel-{fingerprint(folder, part)}"
            with processes.main_first():
                if not path.with_suffix(".npz").exists():
                    heard = [self._hear(one) for one in follow(part, "spectrograms")]
                    save_arrays(path.with_suffix(".npy"), np.concatenate(heard))
                    save_arrays(path.with_suffix(".npz"), lengths=np.array([len(one) for one in heard]))
            ends = np.cumsum(np.load(path.with_suffix(".npz"))["lengths"])
            self.frames += np.split(np.load(path.with_suffix(".npy"), mmap_mode="r"), ends[:-1])

    @torch.inference_mode()
    def _hear(self, recording: Path) -> Halves:
        """The frames of a recording whose end is padded to a whole token frame."""
        audio = read_audio(recording, self.codec.dims.sample_rate)
        whole = np.pad(audio, (0, -len(audio) % self.codec.dims.frame_length))
        return self.codec.encoder.scaled(torch.from_numpy(whole)[None])[0].T.half().numpy()


class SpectrogramBatches(Batches):
    """Captions as steps of R mel frames."""

    def __init__(self, frames: list[Halves], photo: list[int], views: PhotoViews, recipe: SasRecipe) -> None:
        """``frames`` (F, M) of each recording."""
        self.frames, self.config = frames, recipe.model
        super().__init__([self.steps(one) for one in frames], photo, views, recipe.train)

    def steps(self, frames: Halves) -> int:
        """How many steps the frames (F, M) take."""
        return -(-len(frames) // self.config.frames_per_step)

    def said(self, rows: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[Any]]:
        """``mel`` (B, T, R M), the end of the last step filled with its last frame, and ``lengths`` (B,) in steps."""
        lengths = self.lengths[rows]
        mel = np.zeros((len(rows), lengths.max(), self.config.step_width), np.float32)
        for one, row, length in zip(mel, rows, lengths, strict=True):
            one[:length] = whole_steps(self.frames[row], self.config)
        return {"mel": mel, "lengths": lengths}


def whole_steps(frames: Halves | Floats, config: SasConfig) -> Floats:
    """Frames (F, M) -> steps (T, R M); the last frame fills the last step."""
    short = -len(frames) % config.frames_per_step
    padded = np.pad(frames, ((0, short), (0, 0)), "edge")
    return padded.reshape(-1, config.step_width).astype(np.float32)


def run(recipe: SasRecipe, output: Path) -> list[dict[str, float]]:
    """Train the describer of ``recipe`` into ``output`` and return the log.

    Raises InputError if a manifest, photo or recording can't be read, BundleError for a codec or image student that
    isn't one, OptionError for another number of mel channels than the codec's.
    """
    from pixvoice.data import load_dataset

    torch.set_num_threads(recipe.train.threads)
    samples = [s for m in recipe.manifests for s in load_dataset(m, recipe.split) if s.audio is not None]
    if not samples:
        raise InputError("no sample has a recording: make some with `pixvoice synthesize`, and name its manifest")
    told, found = recipe.model.n_mels, load_model(recipe.codec, "codec", CodecConfig, Codec).dims.n_mels
    if told != found:
        raise OptionError(
            f"model.n_mels: the recipe says {told}, but the codec in {recipe.codec} has {found}; give {found}"
        )
    photos = photos_of(s.image for s in samples)
    cache = recipe.cache or output / "cache"
    frames = Spectrograms([s.audio for s in samples if s.audio is not None], recipe.codec, cache).frames
    kept = kept_captions([-(-len(one) // recipe.model.frames_per_step) for one in frames], recipe.max_frames)
    rows = photo_numbers([samples[i].image for i in kept], photos)
    views = PhotoFeatures(photos, recipe, cache)
    torch.manual_seed(recipe.train.seed)
    describer = ShowAndSpeak(recipe.model)
    batches = SpectrogramBatches([frames[i] for i in kept], rows, views, recipe)
    log = train_on(batches, SasLoss(describer), recipe.train, output)
    save_model(describer, SasRunConfig(recipe.model, recipe.student, recipe.codec), "sas", output)
    return log
