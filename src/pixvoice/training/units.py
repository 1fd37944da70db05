"""Task ``units``: an encoder that learns from sound, or from sound and photos, its frames' units, and byte pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save
from torch import Tensor
from torch.utils.data import Dataset

from pixvoice.audio import read_audio
from pixvoice.contracts import Audio, Floats
from pixvoice.errors import InputError, OptionError
from pixvoice.files import write_bytes_atomically
from pixvoice.manifest import Sample
from pixvoice.speech.clusters import fit_kmeans
from pixvoice.speech.grounding import GroundedUnits
from pixvoice.speech.unit_encoder import (
    KMEANS,
    PAIRS,
    WORDS,
    Cepstra,
    MaskedUnits,
    OwnFeatures,
    UnitEncoder,
    UnitEncoderConfig,
    UnitFrames,
)
from pixvoice.speech.unit_pairs import UnitPairs
from pixvoice.speech.units import CENTROIDS, UnitTokenizer, merge_runs, read_centroids
from pixvoice.speech.vq_vae import SpeechVqVae
from pixvoice.training import processes
from pixvoice.training.caches import photo_features, photo_numbers, photos_of
from pixvoice.training.codec import SpeechCrops
from pixvoice.training.options import TrainOptions
from pixvoice.training.progress import follow, tell
from pixvoice.training.trainer import save_model, train
from pixvoice.unit_words import ROUNDS, UnitWords


@dataclass(frozen=True)
class UnitsRecipe:
    """What ``task: units`` takes: manifests with audio, and a crop length in frames.

    With the objective ``masked``, the encoder predicts ``clusters`` clusters of cepstra of what it can't hear, or, with
    ``targets``, the units of a finished training in that folder; clusters of its frames become the units.  With
    ``reconstruction`` it is the encoder of a VQ-VAE, whose codebook is the units.  Clusters and the ``pairs`` byte
    pairs are those of ``cluster_recordings`` recordings; the units and their pairs of those in the manifests
    ``clustered``, where they are told: one voice's units need tell no voices apart.  ``words`` begin as the pairs,
    are those of ``word_recordings``, and a span of speech costs ``word_price`` (``pixvoice.unit_words``).

    With a ``student``, the units are visually grounded: speech must also tell its photo, as that image student sees it
    in 2 + ``crops`` views, from the others of the batch; ``grounding`` weighs that loss.
    """

    manifests: tuple[Path, ...]
    train: TrainOptions
    model: UnitEncoderConfig = field(default_factory=UnitEncoderConfig)
    split: str = "train"
    objective: str = "masked"
    crop_frames: int = 64
    targets: Path | None = None
    clusters: int = 100
    cluster_recordings: int = 2000
    clustered: tuple[Path, ...] | None = None
    pairs: int = 0
    words: int = 0
    word_price: float = 220.0
    word_recordings: int = 7000
    student: Path | None = None
    grounding: float = 1.0
    crops: int = 2
    cache: Path | None = None


class GroundedCrops(Dataset[Any]):
    """Crops of speech with the photo that each is about; item i is the same in every run of the same seed."""

    def __init__(self, crops: SpeechCrops, samples: Sequence[Sample], recipe: UnitsRecipe, cache: Path) -> None:
        """``samples``: one for each recording of ``crops``.  Raises what ``photo_features`` raises."""
        assert recipe.student is not None  # why it was called
        images = [s.image for s in samples]
        photos = photos_of(images)
        self.crops, self.photo, self.views = crops, photo_numbers(images, photos), 2 + recipe.crops
        self.features: npt.NDArray[np.float16] = photo_features(photos, recipe.student, recipe.crops, cache)

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        photo = self.photo[self.crops.recording(i)]
        view = int(np.random.default_rng((self.crops.seed, i, 1)).integers(self.views))
        grid = self.features[photo * self.views + view].astype(np.float32)
        seen = np.concatenate([grid.mean(axis=0), grid.max(axis=0)])
        return {**self.crops[i], "seen": torch.from_numpy(seen), "photo": torch.tensor(photo)}


def begin(recipe: UnitsRecipe, recordings: Sequence[Path]) -> MaskedUnits | SpeechVqVae:
    """The encoder before its first step, beside its targets, or beside its codebook and decoder.

    Raises InputError for a recording that can't be read, BundleError for ``targets`` that hold no units, OptionError
    for targets at another frame rate.
    """
    encoder = UnitEncoder(recipe.model)
    if recipe.objective == "reconstruction":
        return SpeechVqVae(encoder)
    if recipe.targets is None:
        cepstra = Cepstra(recipe.model).eval()
        frames = all_frames(lambda audio: _cepstra(cepstra, audio, recipe.model), recordings, recipe, "cepstra")
        return MaskedUnits(encoder, cepstra, fit_kmeans(frames, recipe.clusters, recipe.train.seed))
    earlier = OwnFeatures.load(recipe.targets)
    ours, theirs = ((c.sample_rate, c.frame_length) for c in (recipe.model, earlier.encoder.dims))
    if ours != theirs:
        raise OptionError(
            f"targets: {recipe.targets} has frames of {theirs[1]} samples at {theirs[0]} Hz, model {ours[1]} at"
            f" {ours[0]}; give both the same"
        )
    centroids = torch.from_numpy(read_centroids(recipe.targets / KMEANS))
    return MaskedUnits(encoder, UnitFrames(earlier.encoder), centroids)


@torch.inference_mode()
def _cepstra(cepstra: Cepstra, audio: Audio, config: UnitEncoderConfig) -> Floats:
    whole = np.pad(audio, (0, -len(audio) % config.frame_length)).astype(np.float32)
    found: Floats = cepstra(torch.from_numpy(whole)[None])[0].numpy()
    return found


def all_frames(hear: Callable[[Audio], Floats], recordings: Sequence[Path], recipe: UnitsRecipe, said: str) -> Tensor:
    """The frames (F, D) that ``hear`` makes of all ``recordings``, one after the other."""
    rate = recipe.model.sample_rate
    return torch.from_numpy(np.concatenate([hear(read_audio(path, rate)) for path in follow(recordings, said)]))


def run(recipe: UnitsRecipe, output: Path) -> list[dict[str, float]]:
    """Train the encoder of ``recipe`` into ``output``, find its units, and return the log.

    Raises what ``begin`` raises, InputError if a manifest or a photo can't be read or there is no recording, and
    BundleError for a ``student`` that isn't one.
    """
    torch.set_num_threads(recipe.train.threads)
    torch.manual_seed(recipe.train.seed)
    samples, paths = _recordings(recipe.manifests, recipe.split)
    clustered = paths if recipe.clustered is None else _recordings(recipe.clustered, recipe.split)[1]
    config = recipe.model
    model = begin(recipe, _some(paths, recipe.cluster_recordings, recipe.train.seed))
    count = recipe.train.steps * recipe.train.batch_size
    length = recipe.crop_frames * config.frame_length
    crops = SpeechCrops(paths, config.sample_rate, length, count, recipe.train.seed)
    if recipe.student is not None and isinstance(model, MaskedUnits):
        seen = GroundedCrops(crops, samples, recipe, recipe.cache or output / "cache")
        grounded = GroundedUnits(model, seen.features.shape[-1], recipe.grounding)
        log = train(grounded, seen, recipe.train, output)
    else:
        log = train(model, crops, recipe.train, output)
    if processes.is_main():
        units = _keep_units(model, recipe, _some(clustered, recipe.cluster_recordings, recipe.train.seed), output)
        if recipe.words:
            _keep_words(units, recipe, _some(clustered, recipe.word_recordings, recipe.train.seed), output)
    save_model(model.encoder, config, "units", output)
    return log


def _recordings(manifests: Sequence[Path], split: str) -> tuple[list[Sample], list[Path]]:
    """The samples with a recording, and those recordings.  Raises InputError if there is none."""
    from pixvoice.data import load_dataset

    samples = [s for manifest in manifests for s in load_dataset(manifest, split) if s.audio is not None]
    if not samples:
        raise InputError("no sample has a recording: make some with `pixvoice synthesize`, and name its manifest")
    return samples, [s.audio for s in samples if s.audio is not None]


def _some(recordings: Sequence[Path], count: int, seed: int) -> list[Path]:
    """``count`` of the recordings, the same for the same seed."""
    order = np.random.default_rng(seed).permutation(len(recordings))
    return [recordings[i] for i in order[:count]]


def _keep_units(
    model: MaskedUnits | SpeechVqVae, recipe: UnitsRecipe, recordings: Sequence[Path], output: Path
) -> UnitTokenizer:
    """Write the centroids of the encoder's frames, or its codebook, and the byte pairs of the units, which it gives."""
    features = OwnFeatures(model.encoder.cpu())
    if isinstance(model, SpeechVqVae):
        centroids = model.centroids.cpu().contiguous()
    else:
        frames_of_all = all_frames(features, recordings, recipe, "frames")
        centroids = fit_kmeans(frames_of_all, recipe.model.units, recipe.train.seed)
    write_bytes_atomically(output / KMEANS, save({CENTROIDS: centroids}))
    units = UnitTokenizer(features, centroids.numpy(), segment_cost=recipe.model.segment_cost)
    frames = [units.frame_units(read_audio(path, units.sample_rate)) for path in follow(recordings, "units")]
    merged = [merge_runs(one)[0] for one in frames]
    used, kept, all_of_them = len(np.unique(np.concatenate(merged))), sum(map(len, merged)), sum(map(len, frames))
    said = f"{used} of {len(centroids)} units used, {kept / all_of_them * units.frame_rate:.1f} a second once merged"
    if recipe.pairs:
        pairs = UnitPairs.learn(merged, len(centroids), recipe.pairs)
        pairs.save(output / PAIRS)
        steps = sum(len(pairs.encode(one)) for one in merged) / all_of_them * units.frame_rate
        said += f", {steps:.1f} with {pairs.size - pairs.units} byte pairs"
    tell(said)
    return units


def _keep_words(units: UnitTokenizer, recipe: UnitsRecipe, recordings: Sequence[Path], output: Path) -> None:
    """Write the words of the units, which begin as the byte pairs in ``output``."""
    pairs = UnitPairs.load(output / PAIRS)
    heard = [units.frames(read_audio(path, units.sample_rate)) for path in follow(recordings, "frames for words")]
    frames = [units.units_of(one) for one in heard]
    first = [pairs.lengths(pairs.encode(merge_runs(one)[0])) for one in frames]
    turns = partial(follow, range(ROUNDS), "words")
    words = UnitWords.learn(heard, frames, first, recipe.words, recipe.word_price, recipe.train.seed, turns)
    write_bytes_atomically(output / WORDS, words.save())
    steps = sum(len(words.cut(*one)[0]) for one in zip(heard, frames, strict=True))
    tell(f"{words.size} words, {steps / sum(map(len, frames)) * units.frame_rate:.1f} a second")
