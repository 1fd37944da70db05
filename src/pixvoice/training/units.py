"""Task ``units``: an encoder that learns from sound alone, clusters of its frames, and byte pairs over those."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from pixvoice.audio import read_audio
from pixvoice.contracts import Audio, Floats
from pixvoice.errors import InputError, OptionError
from pixvoice.files import write_bytes_atomically
from pixvoice.speech.clusters import fit_kmeans
from pixvoice.speech.unit_encoder import (
    KMEANS,
    PAIRS,
    Cepstra,
    MaskedUnits,
    OwnFeatures,
    UnitEncoder,
    UnitEncoderConfig,
    UnitFrames,
)
from pixvoice.speech.unit_pairs import UnitPairs
from pixvoice.speech.units import CENTROIDS, UnitTokenizer, merge_runs, read_centroids
from pixvoice.training import processes
from pixvoice.training.codec import SpeechCrops
from pixvoice.training.options import TrainOptions
from pixvoice.training.progress import follow, tell
from pixvoice.training.trainer import save_model, train


@dataclass(frozen=True)
class UnitsRecipe:
    """What ``task: units`` takes: manifests with audio, and a crop length in frames.

    The encoder predicts ``clusters`` clusters of cepstra, or, with ``targets``, the units of a finished training in
    that folder.  Clusters and the ``pairs`` byte pairs are those of ``cluster_recordings`` recordings.
    """

    manifests: tuple[Path, ...]
    train: TrainOptions
    model: UnitEncoderConfig = field(default_factory=UnitEncoderConfig)
    split: str = "train"
    crop_frames: int = 64
    targets: Path | None = None
    clusters: int = 100
    cluster_recordings: int = 2000
    pairs: int = 0


def begin(recipe: UnitsRecipe, recordings: Sequence[Path]) -> MaskedUnits:
    """The encoder before its first step, beside its targets.

    Raises InputError for a recording that can't be read, BundleError for ``targets`` that hold no units, OptionError
    for targets at another frame rate.
    """
    encoder = UnitEncoder(recipe.model)
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
    """Train the encoder of ``recipe`` into ``output``, cluster its frames, and return the log.

    Raises what ``begin`` raises, and InputError if a manifest can't be read or there is no recording.
    """
    from pixvoice.data import load_dataset

    torch.set_num_threads(recipe.train.threads)
    torch.manual_seed(recipe.train.seed)
    samples = [s for manifest in recipe.manifests for s in load_dataset(manifest, recipe.split)]
    paths = [s.audio for s in samples if s.audio is not None]
    if not paths:
        raise InputError("no sample has a recording: make some with `pixvoice synthesize`, and name its manifest")
    order = np.random.default_rng(recipe.train.seed).permutation(len(paths))
    some = [paths[i] for i in order[: recipe.cluster_recordings]]
    config = recipe.model
    model = begin(recipe, some)
    count = recipe.train.steps * recipe.train.batch_size
    length = recipe.crop_frames * config.frame_length
    log = train(model, SpeechCrops(paths, config.sample_rate, length, count, recipe.train.seed), recipe.train, output)
    if processes.is_main():
        _cluster(model.encoder, recipe, some, output)
    save_model(model.encoder, config, "units", output)
    return log


def _cluster(encoder: UnitEncoder, recipe: UnitsRecipe, recordings: Sequence[Path], output: Path) -> None:
    """Write the centroids of ``encoder``'s frames, and the byte pairs of their units."""
    features = OwnFeatures(encoder.cpu())
    centroids = fit_kmeans(all_frames(features, recordings, recipe, "frames"), recipe.model.units, recipe.train.seed)
    write_bytes_atomically(output / KMEANS, save({CENTROIDS: centroids}))
    units = UnitTokenizer(features, centroids.numpy())
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
