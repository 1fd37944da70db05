"""Task ``vocoder``: speech units in, latents of our codec out, so that its decoder speaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from pixvoice.audio import read_audio
from pixvoice.contracts import Codes
from pixvoice.errors import BundleError, InputError, OptionError
from pixvoice.speech.codec import Codec, CodecConfig
from pixvoice.speech.latent_vocoder import IGNORE, LatentVocoder, LatentVocoderConfig, LatentVocoderSizes, VocoderLoss
from pixvoice.speech.pretrained import SpeechParts, unit_tokenizer, word_tokenizer
from pixvoice.speech.units import UnitTokenizer, merge_runs
from pixvoice.speech.word_tokenizer import WordTokenizer
from pixvoice.training import processes
from pixvoice.training.caches import save_arrays, stamp
from pixvoice.training.describer import encode_speech
from pixvoice.training.options import TrainOptions
from pixvoice.training.progress import follow
from pixvoice.training.trainer import load_model, save_model, train


@dataclass(frozen=True)
class VocoderRecipe:
    """What ``task: vocoder`` takes: manifests with audio by one voice, its codec, the units, a crop in codec frames.

    Recordings shorter than the crop are left out.
    """

    manifests: tuple[Path, ...]
    train: TrainOptions
    codec: Path
    speech: SpeechParts
    model: LatentVocoderSizes = field(default_factory=LatentVocoderSizes)
    split: str = "train"
    crop_frames: int = 24
    cache: Path | None = None


class SpokenUnits(Dataset[Any]):
    """``count`` random crops of recordings with their units and codes; crop i is the same in every run of a seed."""

    def __init__(
        self,
        recordings: Sequence[Path],
        units: list[Codes],
        codes: list[Codes],
        config: LatentVocoderConfig,
        recipe: VocoderRecipe,
    ) -> None:
        """``units`` (F,) of frames and ``codes`` (K, C) of each recording."""
        self.recordings, self.codes, self.codec = recordings, codes, config.codec
        self.length, self.seed = recipe.crop_frames, recipe.train.seed
        self.count = recipe.train.steps * recipe.train.batch_size
        self.ratio = self.codec.frame_length // config.hop
        wanted = [one.shape[1] * self.ratio for one in codes]
        self.units = [np.pad(one, (0, max(0, w - len(one))), "edge") for one, w in zip(units, wanted, strict=True)]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> dict[str, Any]:
        rng = np.random.default_rng((self.seed, i))
        row = int(rng.integers(len(self.recordings)))
        start = int(rng.integers(self.codes[row].shape[1] - self.length + 1))
        end = start + self.length
        frames = self.units[row][start * self.ratio : end * self.ratio]
        samples = self.codec.frame_length
        audio = read_audio(self.recordings[row], self.codec.sample_rate)[start * samples : end * samples]
        merged, durations = merge_runs(frames)
        durations[[0, -1]] = IGNORE  # cut by the crop
        return {
            "frames": frames,
            "codes": self.codes[row][:, start:end],
            "audio": np.pad(audio, (0, self.length * samples - len(audio))),
            "units": merged,
            "durations": durations,
        }


def collate(items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Pad units and durations to the longest of the batch."""
    longest = max(len(item["units"]) for item in items)
    for item in items:
        short = longest - len(item["units"])
        item["units"], item["durations"] = np.pad(item["units"], (0, short)), np.pad(item["durations"], (0, short))
    return {key: torch.from_numpy(np.stack([item[key] for item in items])) for key in items[0]}


def frame_units(recordings: Sequence[Path], tokenizer: UnitTokenizer | WordTokenizer, cache: Path) -> list[Codes]:
    """The unit of each frame (F,) of each recording, kept in ``cache``."""
    path = cache / f"units-{stamp(tokenizer.made_by, recordings)}.npz"
    with processes.main_first():
        if not path.exists():
            rate = tokenizer.sample_rate
            units = [tokenizer.frame_units(read_audio(one, rate)) for one in follow(recordings, "units")]
            save_arrays(path, flat=np.concatenate(units).astype(np.int16), lengths=np.array([len(u) for u in units]))
    saved = np.load(path)
    return np.split(saved["flat"].astype(np.int64), np.cumsum(saved["lengths"])[:-1])


def run(recipe: VocoderRecipe, output: Path) -> list[dict[str, float]]:
    """Train the vocoder of ``recipe`` into ``output`` and return the log.

    Raises InputError if a manifest or a recording can't be read or all are too short, BundleError for a codec or units
    that aren't there or don't fit together, OptionError for units of another sample rate than the recipe says or a crop
    that is too short to compare spectra.
    """
    from pixvoice.data import load_dataset

    torch.set_num_threads(recipe.train.threads)
    samples = [s for manifest in recipe.manifests for s in load_dataset(manifest, recipe.split)]
    paths = [s.audio for s in samples if s.audio is not None]
    if not paths:
        raise InputError("no sample has a recording: make some with `pixvoice synthesize`, and name its manifest")
    codec = load_model(recipe.codec, "codec", CodecConfig, Codec)
    single = unit_tokenizer(recipe.speech)
    tokenizer = word_tokenizer(recipe.speech) if recipe.speech.unit_words else single
    if recipe.speech.sample_rate != tokenizer.sample_rate:
        told, found = recipe.speech.sample_rate, tokenizer.sample_rate
        raise OptionError(f"speech.sample_rate: the recipe says {told}, but the units have {found}; give {found}")
    if codec.dims.sample_rate != tokenizer.sample_rate:
        raise BundleError(f"units at {tokenizer.sample_rate} Hz and a codec at {codec.dims.sample_rate}: use one rate")
    if recipe.crop_frames * codec.dims.frame_length <= 1024:
        raise OptionError(f"crop_frames: {recipe.crop_frames} frames are too short; a crop has more than 1024 samples")
    config = LatentVocoderConfig(single.codebook_size, single.features.hop, recipe.model, codec.dims)
    cache = recipe.cache or output / "cache"
    codes = encode_speech(paths, recipe.codec, codec.dims.num_codebooks, cache)
    units = frame_units(paths, tokenizer, cache)
    kept = [i for i, one in enumerate(codes) if one.shape[1] >= recipe.crop_frames]
    if not kept:
        raise InputError(f"every recording is shorter than crop_frames ({recipe.crop_frames}): give a smaller number")
    torch.manual_seed(recipe.train.seed)
    vocoder = LatentVocoder(config)
    vocoder.decoder.load_state_dict(codec.decoder.state_dict())
    crops = SpokenUnits([paths[i] for i in kept], [units[i] for i in kept], [codes[i] for i in kept], config, recipe)
    log = train(VocoderLoss(vocoder, codec.quantizer.codebooks), crops, recipe.train, output, collate)
    save_model(vocoder, config, "vocoder", output)
    return log
