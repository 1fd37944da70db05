"""Speech units: features of one layer of an encoder -> nearest of N centroids -> runs of equal units merged.

The encoder is a HuBERT checkpoint, or one of our own (``unit_encoder``); the vocoder a unit HiFi-GAN, or one of our own
(``latent_vocoder``).

Sources: Hsu et al. 2021 (HuBERT, arXiv 2106.07447); Lakhotia et al. 2021 (units by k-means, arXiv 2102.01192); Kim et
al. 2023 (Im2Sp, arXiv 2309.08531: layer 6, 200 clusters, merged runs).

Letters: N clusters, T units, F frames (HuBERT's last 20 ms), D width, L samples.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file
from torch import Tensor
from transformers import HubertModel, Wav2Vec2FeatureExtractor

from pixvoice.contracts import Audio, Codes, Floats, SpeechTokenizer
from pixvoice.errors import BundleError, OptionError
from pixvoice.retrieve.hf_load import guarded, load_tower
from pixvoice.segments import cheapest_units
from pixvoice.speech.transformers_asr import split_at_pauses

WANTED = "HuBERT"
CENTROIDS = "centroids"


class UnitFeatures(Protocol):
    """Audio -> frames whose clusters are units."""

    @property
    def width(self) -> int:
        """D."""

    @property
    def sample_rate(self) -> int:
        """Audio samples a second (Hz)."""

    @property
    def hop(self) -> int:
        """Samples from one frame to the next."""

    def __call__(self, audio: Audio) -> Floats:
        """Audio (L,) -> frames (F, D)."""


class UnitSpeaker(Protocol):
    """Merged units -> audio."""

    @property
    def units(self) -> int:
        """N."""

    @property
    def sample_rate(self) -> int:
        """Audio samples a second (Hz)."""

    @property
    def hop(self) -> int:
        """Samples that one frame of a unit lasts."""

    def __call__(self, units: Tensor, durations: Tensor | None = None) -> Tensor:
        """Units (T,) and frames of each (T,), predicted if not given -> audio (L,)."""


class HubertFeatures:
    """The hidden frames of one layer of a HuBERT checkpoint."""

    def __init__(self, checkpoint: str | Path, layer: int) -> None:
        """``layer`` counts from 1; 0 is what goes into the first.

        Raises BundleError for a checkpoint that can't be loaded, OptionError for a layer that it doesn't have.
        """
        name = str(checkpoint)
        self.layer = layer
        self.extractor = guarded(name, WANTED, lambda: Wav2Vec2FeatureExtractor.from_pretrained(name))
        self.model: Any = load_tower(name, HubertModel, WANTED).eval().requires_grad_(False)
        config = self.model.config
        if not 0 <= layer <= config.num_hidden_layers:
            raise OptionError(f"speech.layer: {layer}, but {name} has layers 1 to {config.num_hidden_layers}")
        self.width, self.sample_rate = int(config.hidden_size), int(self.extractor.sampling_rate)
        self.model.encoder.layers = self.model.encoder.layers[: layer + 1]  # those above it aren't needed
        self.shortest, self.hop = 1, 1  # samples of the first frame, and from one frame to the next
        for kernel, stride in reversed(list(zip(config.conv_kernel, config.conv_stride, strict=True))):
            self.shortest, self.hop = (self.shortest - 1) * stride + kernel, self.hop * stride

    @torch.inference_mode()
    def __call__(self, audio: Audio) -> Floats:
        """Audio (L,) -> frames (F, D).  A recording of more than 30 s is cut at its quietest places."""
        pieces = [piece for piece in split_at_pauses(audio, self.sample_rate) if len(piece) >= self.shortest]
        frames = [self._frames(piece) for piece in pieces]
        return np.concatenate(frames) if frames else np.zeros((0, self.width), np.float32)

    def _frames(self, piece: Audio) -> Floats:
        inputs = self.extractor(piece, sampling_rate=self.sample_rate, return_tensors="pt")["input_values"]
        found: Floats = self.model(inputs, output_hidden_states=True).hidden_states[self.layer][0].numpy()
        return found


class UnitTokenizer(SpeechTokenizer):
    """Merged units as one codebook; the vocoder's duration predictor gives their lengths back.

    Or the unit of every frame, not ``merged``: as many as there are frames, and nothing to predict.
    """

    def __init__(
        self,
        features: UnitFeatures,
        centroids: Floats,
        vocoder: UnitSpeaker | None = None,
        merged: bool = True,
        segment_cost: float = 0.0,
    ) -> None:
        """``centroids`` (N, D); without ``vocoder`` it only encodes.  ``segment_cost`` as for ``cheapest_units``.

        Raises BundleError if the three don't fit together.
        """
        if centroids.shape[1] != features.width:
            raise BundleError(
                f"speech.kmeans: its centroids are {centroids.shape[1]} wide, the encoder's frames {features.width}:"
                " give the k-means of this encoder's layer"
            )
        self.features, self.centroids, self.vocoder, self.merged = features, centroids, vocoder, merged
        self.segment_cost = segment_cost
        if vocoder is not None:
            self._check(vocoder)

    def _check(self, vocoder: UnitSpeaker) -> None:
        ours = {"units": len(self.centroids), "Hz": self.sample_rate, "samples a frame": self.features.hop}
        theirs = (vocoder.units, vocoder.sample_rate, vocoder.hop)
        for (what, own), other in zip(ours.items(), theirs, strict=True):
            if own != other:
                raise BundleError(
                    f"speech.vocoder: speaks {other} {what}, but encoder and k-means make {own}; give the vocoder that"
                    " was trained on these units"
                )

    @property
    def sample_rate(self) -> int:
        """Audio samples a second (Hz)."""
        return self.features.sample_rate

    @property
    def frame_rate(self) -> float:
        """Frames a second (Hz) before runs are merged: the most units that a second can have."""
        return self.sample_rate / self.features.hop

    @property
    def num_codebooks(self) -> int:
        """K = 1."""
        return 1

    @property
    def codebook_size(self) -> int:
        """V, the clusters."""
        return len(self.centroids)

    def encode(self, audio: Audio) -> Codes:
        """Audio (L,) -> units (1, T): merged, no two neighbours equal."""
        units = self.frame_units(audio)
        return (merge_runs(units)[0] if self.merged else units)[None]

    @property
    def made_by(self) -> bytes:
        """Changes with what makes units of frames."""
        return self.centroids.tobytes() + (str(self.segment_cost).encode() if self.segment_cost else b"")

    def frame_units(self, audio: Audio) -> Codes:
        """Audio (L,) -> the unit of each frame (F,)."""
        return self.units_of(self.frames(audio))

    def frames(self, audio: Audio) -> Floats:
        """Audio (L,) -> frames (F, D)."""
        return self.features(np.asarray(audio, dtype=np.float32))

    def units_of(self, frames: Floats) -> Codes:
        """Frames (F, D) -> the unit of each (F,)."""
        distances = (self.centroids**2).sum(axis=1) - 2 * frames @ self.centroids.T  # |frame|^2 is the same for all
        return cheapest_units(distances, self.segment_cost)

    @torch.inference_mode()
    def decode(self, codes: Codes) -> Audio:
        """Units (1, T) -> audio (L,), merged ones by predicted durations.  Raises OptionError without a vocoder."""
        if self.vocoder is None:
            raise OptionError("speech.vocoder: is missing; give the folder of a unit vocoder (docs/full-size.md)")
        if not codes.shape[1]:
            return np.zeros(0, dtype=np.float32)
        units = torch.from_numpy(codes[0])
        audio: Audio = self.vocoder(units, None if self.merged else torch.ones_like(units)).numpy()
        return audio

    def decode_stream(self, frames: Iterable[Codes]) -> Iterator[Audio]:
        """Pieces of units (1, t) -> the audio, in one piece at the end: the vocoder looks both ways."""
        audio = self.decode(np.concatenate([np.zeros((1, 0), np.int64), *frames], axis=1))
        if len(audio):
            yield audio


class JoinedUnits(SpeechTokenizer):
    """Tokens of one codebook that each are one or several units; everything else is the unit tokenizer's."""

    def __init__(self, speech: UnitTokenizer) -> None:
        self.speech = speech

    @property
    def sample_rate(self) -> int:
        """Audio samples a second (Hz)."""
        return self.speech.sample_rate

    @property
    def frame_rate(self) -> float:
        """The most tokens that a second can have."""
        return self.speech.frame_rate

    @property
    def num_codebooks(self) -> int:
        """K = 1."""
        return 1

    @abstractmethod
    def units_of(self, tokens: Codes) -> Codes:
        """Tokens (T,) -> the units (T',) that they are spoken as."""

    def decode(self, codes: Codes) -> Audio:
        """Tokens (1, T) -> audio (L,).  Raises OptionError without a vocoder."""
        return self.speech.decode(self.units_of(codes[0])[None])

    def decode_stream(self, frames: Iterable[Codes]) -> Iterator[Audio]:
        """Pieces of tokens (1, t) -> the audio, in one piece at the end."""
        return self.speech.decode_stream(self.units_of(piece[0])[None] for piece in frames)


def merge_runs(units: Codes) -> tuple[Codes, Codes]:
    """Units of frames (F,) -> units with runs of equal ones merged (T,), and the frames of each (T,).

    ``np.repeat`` of the two is the argument again.
    """
    if not len(units):
        return units, np.zeros(0, np.int64)
    first = np.concatenate([[0], np.flatnonzero(units[1:] != units[:-1]) + 1])
    return units[first], np.diff(first, append=len(units))


def read_centroids(path: Path) -> npt.NDArray[np.float32]:
    """The centroids (N, D) in a safetensors file that ``pixvoice convert`` made.

    Raises BundleError for a file that isn't one; a pickle is told how it becomes one.
    """
    if path.suffix != ".safetensors":
        raise BundleError(
            f"{path}: no safetensors, and a pickle can run code when it is read; turn it into one that can't:"
            f" pixvoice convert {path} -o {path.with_suffix('.safetensors')}"
        )
    try:
        found: npt.NDArray[np.float32] = load_file(path)[CENTROIDS].astype(np.float32)
    except (OSError, KeyError, SafetensorError) as error:
        raise BundleError(f"{path}: holds no k-means ({' '.join(str(error).split())}); convert it again") from None
    if found.ndim != 2 or not len(found):
        raise BundleError(f"{path}: centroids of shape {found.shape}; a k-means has (clusters, width)")
    return found
