"""Task ``describer``: photos in, speech tokens out.  It sees photos and audio, never text."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from pixvoice.audio import read_audio
from pixvoice.contracts import Codes, Floats
from pixvoice.describe.model import IGNORE, PixVoxConfig, PixVoxLM
from pixvoice.errors import InputError, OptionError
from pixvoice.patterns import Pattern, make_pattern
from pixvoice.speech.codec import Codec, CodecConfig
from pixvoice.speech.pretrained import SpeechParts
from pixvoice.training import processes
from pixvoice.training.caches import Numbers, fingerprint, photo_features, photo_numbers, photos_of, save_arrays
from pixvoice.training.image_units import UnitFeatures
from pixvoice.training.options import TrainOptions
from pixvoice.training.progress import follow
from pixvoice.training.trainer import load_model, save_model, train


@dataclass(frozen=True)
class DescriberRecipe:
    """What ``task: describer`` takes: manifests with photos and audio, a trained codec and image student.

    ``speech.units``, a training of units, stands in the place of ``codec`` for a describer that says those.

    With ``decoder``, a BLIP or GiT, and the ``speech`` that it learns, it stands on pretrained parts instead, each a
    folder or a hub id; ``image`` is where its image encoder comes from, if not from the same checkpoint.

    With ``image_units``, a file that ``pixvoice encode`` made, no photo is read: the units in it, whose names end as
    the manifests' photos do, are all that is seen.  The tokenizer that made them is ``student`` (image units that we
    trained), or on pretrained parts ``image_tokenizer``, a ViT-VQGAN, and ``image`` a ViT that learns to read them.

    Recordings longer than ``max_frames`` token frames are left out.  The first ``teacher_steps`` steps see the
    teacher's features, which the student's training left in its ``views`` folder, in place of the student's.
    """

    manifests: tuple[Path, ...]
    train: TrainOptions
    codec: Path | None = None
    student: Path | None = None
    image: str | None = None
    decoder: str | None = None
    speech: SpeechParts = field(default_factory=SpeechParts)
    model: PixVoxConfig = field(default_factory=PixVoxConfig)
    split: str = "train"
    crops: int = 2
    max_frames: int = 64
    teacher_views: Path | None = None
    teacher_steps: int = 0
    cache: Path | None = None
    image_units: Path | None = None
    image_tokenizer: Path | None = None


class TokenSizes(Protocol):
    """How many tokens a describer chooses among, and in which order; its special token."""

    @property
    def num_codebooks(self) -> int: ...
    @property
    def codebook_size(self) -> int: ...
    @property
    def pattern(self) -> str: ...
    @property
    def special(self) -> int: ...


class SaysTokens(Protocol):
    """What the recipe of a describer says of its tokens."""

    @property
    def train(self) -> TrainOptions: ...
    @property
    def model(self) -> TokenSizes: ...


class SaysSpeech(SaysTokens, Protocol):
    """And of what they are."""

    @property
    def speech(self) -> SpeechParts: ...


class TakesCaptions(SaysSpeech, Protocol):
    """What the recipe of a describer says of its photos and recordings."""

    @property
    def manifests(self) -> tuple[Path, ...]: ...
    @property
    def split(self) -> str: ...
    @property
    def max_frames(self) -> int: ...
    @property
    def cache(self) -> Path | None: ...


R = TypeVar("R", bound=TakesCaptions)


class SeesPhotos(Protocol):
    """What the recipe of a small describer says of its photos."""

    @property
    def student(self) -> Path | None: ...
    @property
    def crops(self) -> int: ...
    @property
    def teacher_views(self) -> Path | None: ...
    @property
    def teacher_steps(self) -> int: ...


def inputs_and_labels(codes: Codes, pattern: Pattern, special: int) -> tuple[Codes, Codes]:
    """Codes (K, T) -> inputs and labels, each (K, S + 1).

    Labels are the pattern's sequence and one more step; gaps are ignored, and codebook 0 ends with ``special``.
    """
    sequence = pattern.apply(codes, special)
    end = np.full((len(codes), 1), special, dtype=np.int64)
    inputs = np.concatenate([end, sequence], axis=1)
    labels = np.concatenate([sequence, end], axis=1)
    ended = labels[0] == special
    labels = np.where(labels == special, IGNORE, labels)
    labels[0, np.argmax(ended)] = special
    return inputs, labels


class PhotoViews(Protocol):
    """What a batch shows of its photos, and by which name the describer takes it."""

    takes: str

    @property
    def views(self) -> int:
        """How many there are of each photo."""

    def shown(self, photos: Numbers, views: Numbers, step: int) -> Floats | Codes:
        """One of the ``views`` of each of ``photos``, both (B,), at step ``step``: (B, ...), units as int64."""


class Batches(Dataset[Any], ABC):
    """``count`` batches of captions of about equal length; batch i is the same in every run of the same seed.

    Items are batches, or, where processes train together, their ``processes.shares``, one batch after the other.
    """

    def __init__(self, lengths: Sequence[int], photo: list[int], views: PhotoViews, options: TrainOptions) -> None:
        """``lengths`` of the captions, in whatever the describer says, and the number of the ``photo`` of each."""
        self.lengths, self.photo, self.views = np.array(lengths), np.array(photo), views
        self.shares = processes.shares(options)
        self.size, self.seed, self.count = options.batch_size, options.seed, options.steps
        self.per_epoch = max(1, len(lengths) // self.size)
        self._orders: dict[int, npt.NDArray[np.int64]] = {}

    def __len__(self) -> int:
        return self.count * self.shares

    def _batches(self, epoch: int) -> npt.NDArray[np.int64]:
        """Captions of one epoch, (per_epoch, batch size): shuffled, then sorted by length within 32 batches."""
        if epoch not in self._orders:
            rng = np.random.default_rng((self.seed, epoch))
            order = rng.permutation(len(self.lengths))
            parts = np.split(order, range(self.size * 32, len(order), self.size * 32))
            order = np.concatenate([part[np.argsort(self.lengths[part], kind="stable")] for part in parts])
            order = np.resize(order, max(len(order), self.size))
            batches = order[: self.per_epoch * self.size].reshape(self.per_epoch, self.size)
            self._orders[epoch] = rng.permutation(batches)
        return self._orders[epoch]

    def __getitem__(self, item: int) -> dict[str, torch.Tensor]:
        i, share = divmod(item, self.shares)
        epoch, number = divmod(i, self.per_epoch)
        views = np.random.default_rng((self.seed, i)).integers(self.views.views, size=self.size)[share :: self.shares]
        rows = self._batches(epoch)[number][share :: self.shares]
        seen = self.views.shown(self.photo[rows], views, i)
        said = {name: torch.from_numpy(array) for name, array in self.said(rows).items()}
        return {self.views.takes: torch.from_numpy(seen), **said}

    @abstractmethod
    def said(self, rows: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[Any]]:
        """What is said in the captions numbered ``rows`` (B,), by the names that the describer takes it by."""


class CaptionBatches(Batches):
    """Captions as codes (K, T): the inputs and labels of a pattern."""

    def __init__(self, codes: list[Codes], photo: list[int], views: PhotoViews, recipe: SaysTokens) -> None:
        super().__init__([c.shape[1] for c in codes], photo, views, recipe.train)
        self.codes, self.config = codes, recipe.model
        self.pattern = make_pattern(recipe.model.pattern, recipe.model.num_codebooks)

    def said(self, rows: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[Any]]:
        """``tokens`` and ``labels``, each (B, K, S)."""
        pairs = [inputs_and_labels(self.codes[r], self.pattern, self.config.special) for r in rows]
        steps = max(inputs.shape[1] for inputs, _ in pairs)
        inputs = [np.pad(x, ((0, 0), (0, steps - x.shape[1])), constant_values=self.config.special) for x, _ in pairs]
        labels = [np.pad(y, ((0, 0), (0, steps - y.shape[1])), constant_values=IGNORE) for _, y in pairs]
        return {"tokens": np.stack(inputs), "labels": np.stack(labels)}


def kept_captions(lengths: Sequence[int], max_frames: int) -> list[int]:
    """The numbers of the captions that aren't empty and not longer than ``max_frames``.

    Raises InputError if there is none.
    """
    kept = [i for i, length in enumerate(lengths) if 0 < length <= max_frames]
    if not kept:
        raise InputError(f"every recording is empty, or longer than max_frames ({max_frames}): raise it")
    return kept


def train_on(batches: Batches, model: torch.nn.Module, options: TrainOptions, output: Path) -> list[dict[str, float]]:
    """Train ``model`` on whole batches in their order, and return the log.  Raises what ``train`` raises."""
    options = replace(options, batch_size=1)
    return train(model, batches, options, output, collate=lambda items: items[0], in_order=True)


class PhotoFeatures:
    """Image features of 2 + ``crops`` views of each photo: the teacher's in the first steps, then the student's."""

    takes = "features"

    def __init__(self, photos: Sequence[Path], recipe: SeesPhotos, cache: Path) -> None:
        self.photos, self.recipe, self.cache = photos, recipe, cache
        self.views = 2 + recipe.crops

    @cached_property
    def student(self) -> npt.NDArray[np.float16]:
        """(photos * views, P, D) float16, computed at the first call and kept in the cache."""
        assert self.recipe.student is not None  # a rule of recipes
        return photo_features(self.photos, self.recipe.student, self.recipe.crops, self.cache)

    @cached_property
    def teacher(self) -> tuple[npt.NDArray[np.float16], Floats, Floats]:
        """Features (photos * views, P, D), mean (D,) and deviation (D,).  Raises InputError for other photos."""
        folder = self.recipe.teacher_views
        if folder is None or not (folder / "statistics.npz").exists():
            raise InputError(f"no teacher features in {folder}: train the student first, or set teacher_steps to 0")
        statistics = np.load(folder / "statistics.npz")
        features = np.load(folder / "features.npy", mmap_mode="r")
        if (
            list(statistics["photos"]) != [p.name for p in self.photos]
            or len(features) != len(self.photos) * self.views
        ):
            raise InputError(f"{folder} was made from other photos or crops: use the student's manifests and crops")
        return features, statistics["mean"], statistics["std"]

    def shown(self, photos: Numbers, views: Numbers, step: int) -> Floats:
        """Features (B, P, D) float32 of one of the ``views`` of each of ``photos`` at training step ``step``."""
        rows = photos * self.views + views
        if step >= self.recipe.teacher_steps:
            return np.asarray(self.student[rows], dtype=np.float32)
        features, mean, std = self.teacher
        standardised: Floats = (features[rows].astype(np.float32) - mean) / std
        return standardised


def seen_of(photos: Sequence[Path], recipe: DescriberRecipe, cache: Path) -> PhotoViews:
    """What a small describer sees of ``photos``: their features, or their image units alone.

    Raises InputError for units of another model, or without one of the photos.
    """
    if recipe.image_units is None:
        return PhotoFeatures(photos, recipe, cache)
    assert recipe.student is not None  # a rule of recipes
    return UnitFeatures(photos, recipe.image_units, recipe.student)


@dataclass(frozen=True)
class Parts:
    """What a training needs: codes (K, T) of each recording, views of the photos, the model, and its configuration."""

    codes: list[Codes]
    views: PhotoViews
    model: torch.nn.Module
    config: Any


def encode_speech(paths: Sequence[Path], folder: Path, num_codebooks: int, cache: Path) -> list[Codes]:
    """Codes (K, T) of each recording: the first ``num_codebooks`` of those that the codec in ``folder`` gives.

    They are kept in ``cache`` under a name that changes with the codec's weights and the recordings.
    """
    path = cache / f"codes-{fingerprint(folder, paths)}.npz"
    with processes.main_first():
        if not path.exists():
            codes = _encoded(paths, load_model(folder, "codec", CodecConfig, Codec))
            save_arrays(path, flat=np.concatenate(codes, axis=1), lengths=np.array([c.shape[1] for c in codes]))
    saved = np.load(path)
    flat = saved["flat"][:num_codebooks].astype(np.int64)
    if len(flat) < num_codebooks:
        raise OptionError(f"model.num_codebooks is {num_codebooks}, but the codec in {folder} has {len(flat)}")
    return np.split(flat, np.cumsum(saved["lengths"])[:-1], axis=1)


@torch.inference_mode()
def _encoded(paths: Sequence[Path], codec: Codec) -> list[npt.NDArray[np.int16]]:
    """The codes (K, T) of each recording."""
    clips = (torch.from_numpy(read_audio(path, codec.dims.sample_rate)) for path in follow(paths, "speech tokens"))
    return [codec.encode(audio[None])[0].numpy().astype(np.int16) for audio in clips]


def small_parts(recipe: DescriberRecipe, photos: Sequence[Path], audio: Sequence[Path], cache: Path) -> Parts:
    """The tokens of ``audio`` by our codec, our image student's features, and an untrained ``PixVoxLM``."""
    assert recipe.codec is not None  # a rule of recipes
    codes = encode_speech(audio, recipe.codec, recipe.model.num_codebooks, cache)
    told, found = recipe.model.codebook_size, load_model(recipe.codec, "codec", CodecConfig, Codec).dims.codebook_size
    if told != found:
        raise OptionError(f"model.codebook_size: the recipe says {told}, but {recipe.codec} has {found}; give {found}")
    views = seen_of(photos, recipe, cache)
    torch.manual_seed(recipe.train.seed)
    return Parts(codes, views, PixVoxLM(recipe.model), recipe.model)


def train_on_captions(
    recipe: R, output: Path, make: Callable[[R, Sequence[Path], Sequence[Path], Path], Parts]
) -> tuple[Parts, list[dict[str, float]]]:
    """Train what ``make`` makes of a recipe, its photos, its recordings and a folder for what is kept.

    Returns the parts, whose model is trained, and the log.  Raises InputError if a manifest, photo or recording can't
    be read, and what ``make`` raises.
    """
    from pixvoice.data import load_dataset

    torch.set_num_threads(recipe.train.threads)
    samples = [s for m in recipe.manifests for s in load_dataset(m, recipe.split) if s.audio is not None]
    if not samples:
        raise InputError("no sample has a recording: make some with `pixvoice synthesize`, and name its manifest")
    photos = photos_of(s.image for s in samples)
    audio = [s.audio for s in samples if s.audio is not None]
    parts = make(recipe, photos, audio, recipe.cache or output / "cache")
    kept = kept_captions([c.shape[1] for c in parts.codes], recipe.max_frames)
    rows = photo_numbers([samples[i].image for i in kept], photos)
    batches = CaptionBatches([parts.codes[i] for i in kept], rows, parts.views, recipe)
    return parts, train_on(batches, parts.model, recipe.train, output)


def run(recipe: DescriberRecipe, output: Path) -> list[dict[str, float]]:
    """Train the describer of ``recipe`` into ``output`` and return the log.

    Raises InputError if a manifest, photo or recording can't be read, BundleError for a codec, image student or
    checkpoint that isn't one, OptionError if the speech tokens have other codebooks than ``recipe.model``.
    """
    from pixvoice.training.full_describer import pretrained_parts
    from pixvoice.training.unit_describer import unit_parts

    make = pretrained_parts if recipe.decoder else small_parts if recipe.codec else unit_parts
    parts, log = train_on_captions(recipe, output, make)
    save_model(parts.model, parts.config, "describer", output)
    return log
