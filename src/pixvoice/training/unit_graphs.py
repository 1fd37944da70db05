"""What the ONNX files of speech units compute: audio to units, units to durations, and units of frames to audio."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from pixvoice.describe.model import PixVoxConfig
from pixvoice.describe.sat import SatConfig
from pixvoice.errors import BundleError
from pixvoice.runtime import bundle as b
from pixvoice.speech.latent_vocoder import LatentVocoder
from pixvoice.speech.pretrained import SpeechParts, load_speech_tokenizer
from pixvoice.speech.unit_encoder import OwnFeatures, UnitEncoder, UnitFrames
from pixvoice.speech.unit_pairs import PairTokenizer, UnitPairs
from pixvoice.speech.units import JoinedUnits, UnitTokenizer
from pixvoice.speech.vocoder import frames_of
from pixvoice.speech.word_tokenizer import WordTokenizer
from pixvoice.training.search_graphs import Graph
from pixvoice.unit_words import UnitWords


@dataclass(frozen=True)
class SpokenUnits:
    """What a describer of units hears and speaks with: ``centroids`` (N, D) of the encoder's frames are its units."""

    encoder: UnitEncoder
    centroids: Tensor
    vocoder: LatentVocoder
    pairs: UnitPairs | None
    words: UnitWords | None
    merged: bool
    segment_cost: float

    @classmethod
    def load(cls, speech: SpeechParts, units: Path, vocoder: Path, dims: PixVoxConfig | SatConfig) -> SpokenUnits:
        """From the folders of two trainings, in place of those that a describer of ``dims`` learned ``speech`` from.

        Raises BundleError for folders that hold something else or don't fit together, OptionError if there are other
        units or fewer pairs than the describer says.
        """
        parts = replace(speech, units=units, vocoder=vocoder)
        tokenizer = load_speech_tokenizer(parts, dims.num_codebooks, dims.codebook_size)
        pairs = tokenizer.pairs if isinstance(tokenizer, PairTokenizer) else None
        words = tokenizer.words if isinstance(tokenizer, WordTokenizer) else None
        single = tokenizer.speech if isinstance(tokenizer, JoinedUnits) else tokenizer
        assert isinstance(single, UnitTokenizer) and isinstance(single.features, OwnFeatures)  # those of a training
        if not isinstance(single.vocoder, LatentVocoder):
            raise BundleError(f"{vocoder}: a vocoder that no bundle holds; give the run of a training of task: vocoder")
        centroids = torch.from_numpy(single.centroids)
        encoder, cost = single.features.encoder, single.segment_cost
        return cls(encoder, centroids, single.vocoder, pairs, words, single.merged, cost)

    def sizes(self) -> b.UnitSizes:
        """What ``bundle.json`` says of them."""
        v = self.vocoder
        reach = v.dur_predictor.reach if self.merged else None
        return b.UnitSizes(v.sample_rate, v.hop, v.units, reach, v.ratio, v.context, v.lookahead, self.segment_cost)


class UnitEncoderGraph(nn.Module):
    """Audio (B, L), whole frames -> their squared distances from the units (B, F, N), less each frame's own square.

    Where words are to be cut, the frames (B, F, D) beside them.
    """

    centroids: Tensor

    def __init__(self, encoder: UnitEncoder, centroids: Tensor, cut: bool = False) -> None:
        """``centroids`` (N, D) of the encoder's frames."""
        super().__init__()
        self.frames, self.cut = UnitFrames(encoder), cut
        self.register_buffer("centroids", centroids)

    def forward(self, audio: Tensor) -> tuple[Tensor, ...]:
        frames = self.frames(audio)
        distances = self.centroids.square().sum(-1) - 2.0 * frames @ self.centroids.T
        return (distances, frames) if self.cut else (distances,)


class DurationsGraph(nn.Module):
    """Units (B, T) -> frames that each lasts (B, T), at least one."""

    def __init__(self, vocoder: LatentVocoder) -> None:
        super().__init__()
        self.embed, self.predictor = vocoder.embed, vocoder.dur_predictor

    def forward(self, units: Tensor) -> Tensor:
        return frames_of(self.predictor(self.embed(units)))


class UnitVocoderGraph(nn.Module):
    """The unit of each frame, R of them side by side (B, R, C) -> audio (B, L)."""

    def __init__(self, vocoder: LatentVocoder) -> None:
        super().__init__()
        self.vocoder = vocoder

    def forward(self, units: Tensor) -> Tensor:
        audio: Tensor = self.vocoder.decoder(self.vocoder.latents(units.transpose(1, 2).flatten(1)))
        return audio


def unit_graphs(units: SpokenUnits) -> dict[str, Graph]:
    """The files of speech, by name."""
    heard = unit_encoder_graph(UnitEncoderGraph(units.encoder, units.centroids, units.words is not None))
    return {b.UNIT_ENCODER: heard} | vocoder_graphs(units.vocoder, units.merged)


def unit_encoder_graph(units: UnitEncoderGraph) -> Graph:
    """The encoder's file."""
    audio = torch.zeros(2, 8 * units.frames.encoder.dims.frame_length)
    outputs = ("distances", "frames") if units.cut else ("distances",)
    axes = {"audio": {0: "batch", 1: "samples"}} | {name: {0: "batch", 1: "frames"} for name in outputs}
    return Graph(units, {"audio": audio}, outputs, axes)


def vocoder_graphs(vocoder: LatentVocoder, merged: bool) -> dict[str, Graph]:
    """The vocoder's file, and that of its durations if neighbours are ``merged``."""
    folded = torch.zeros(2, vocoder.ratio, 24, dtype=torch.int64)
    sound = {"units": {0: "batch", 2: "frames"}, "audio": {0: "batch", 1: "samples"}}
    found = {b.UNIT_VOCODER: Graph(UnitVocoderGraph(vocoder), {"units": folded}, ("audio",), sound)}
    if merged:
        said, row = torch.zeros(2, 24, dtype=torch.int64), {0: "batch", 1: "units"}
        axes = {"units": row, "durations": row}
        found[b.UNIT_DURATIONS] = Graph(DurationsGraph(vocoder), {"units": said}, ("durations",), axes)
    return found
