"""What a bundle's ONNX files compute: trained models as graphs with named inputs, outputs and free axes."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixvoice.describe.model import PixVoxLM
from pixvoice.describe.sat import ShowAttendTell
from pixvoice.errors import BundleError
from pixvoice.retrieve.model import DualChannel
from pixvoice.retrieve.small_parts import SmallImagePart, SmallSpeechPart
from pixvoice.runtime import bundle as b
from pixvoice.speech.codec import Codec
from pixvoice.speech.ctc import CTCRecognizer
from pixvoice.training.describer_graphs import describer_graphs, sat_graphs
from pixvoice.training.search_graphs import Graph, search_graphs
from pixvoice.training.unit_graphs import SpokenUnits, unit_graphs
from pixvoice.vision.image_units import ImageUnits
from pixvoice.vision.student import ImageStudent


@dataclass(frozen=True)
class Trained:
    """The models of one bundle, in evaluation mode; the describer says what ``speech`` makes sound of."""

    describer: PixVoxLM | ShowAttendTell
    speech: Codec | SpokenUnits
    student: ImageStudent | ImageUnits
    recognizer: CTCRecognizer | None
    retriever: DualChannel | None = None

    def __post_init__(self) -> None:
        if self.retriever is not None:
            self._check_retriever(self.retriever)
        spoken, seen = self.describer.dims, self.student.dims
        if isinstance(self.speech, Codec):
            self._check_codec(self.speech)
        if spoken.image_dim != seen.embed_dim:
            raise BundleError(
                f"the describer takes image features {spoken.image_dim} wide, the student gives {seen.embed_dim}; give "
                "the student that the describer was trained with"
            )

    def _check_codec(self, codec: Codec) -> None:
        """Raise BundleError unless it has the describer's codebooks."""
        spoken, heard = self.describer.dims, codec.dims
        if spoken.num_codebooks > heard.num_codebooks or spoken.codebook_size != heard.codebook_size:
            raise BundleError(
                f"the describer speaks {spoken.num_codebooks} codebooks of {spoken.codebook_size}, the codec has "
                f"{heard.num_codebooks} of {heard.codebook_size}; give the codec that the describer was trained with"
            )

    def _check_retriever(self, retriever: DualChannel) -> None:
        """Raise BundleError unless it was trained on what this bundle's recognizer and image student give."""
        speech, image = retriever.speech, retriever.image
        parts = {
            "recognizer": (speech.recognizer if isinstance(speech, SmallSpeechPart) else None, self.recognizer),
            "student": (image.student if isinstance(image, SmallImagePart) else None, self.student),
        }
        for name, (own, given) in parts.items():
            if own is None or given is None or not _same_weights(own, given):
                raise BundleError(f"the retriever was trained with another {name}; give the {name} of its recipe")


def _same_weights(one: nn.Module, other: nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class CodecEncoderGraph(nn.Module):
    """Audio (B, L), whole frames -> codes (B, K', T) of the first K' codebooks."""

    def __init__(self, codec: Codec, num_codebooks: int) -> None:
        super().__init__()
        self.encoder, self.quantizer = codec.encoder, copy.copy(codec.quantizer)
        self.quantizer.num_codebooks = num_codebooks

    def forward(self, audio: Tensor) -> Tensor:
        return self.quantizer.encode(self.encoder(audio))


class CodecDecoderGraph(nn.Module):
    """Codes (B, K', T) -> audio (B, L); code V adds nothing, so that fewer codebooks can be decoded."""

    tables: Tensor

    def __init__(self, codec: Codec, num_codebooks: int) -> None:
        super().__init__()
        self.decoder = codec.decoder
        self.register_buffer("tables", F.pad(codec.quantizer.codebooks[:num_codebooks], (0, 0, 0, 1)))

    def forward(self, codes: Tensor) -> Tensor:
        latents = [F.embedding(codes[:, k], table) for k, table in enumerate(self.tables)]
        audio: Tensor = self.decoder(torch.stack(latents).sum(0))
        return audio


class Hear(nn.Module):
    """Audio (B, L) -> logits (B, T, letters + blank) and the hidden frames (B, T, D) that they come from."""

    def __init__(self, recognizer: CTCRecognizer) -> None:
        super().__init__()
        self.recognizer = recognizer

    def forward(self, audio: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.recognizer.forward_features(audio)
        return self.recognizer.head(hidden), hidden


def graphs(models: Trained) -> dict[str, Graph]:
    """What the bundle's ONNX files compute, by file name."""
    student, lm, speech = models.student, models.describer, models.speech
    kept, photo = lm.dims.num_codebooks, photo_graph(student)
    features = student(photo.inputs["pixels"])
    found = {b.IMAGE_ENCODER: photo}
    found |= sat_graphs(lm, features) if isinstance(lm, ShowAttendTell) else describer_graphs(lm, features)
    found |= codec_graphs(speech, kept) if isinstance(speech, Codec) else unit_graphs(speech)
    if models.recognizer is not None:
        found[b.RECOGNIZER] = recognizer_graph(models.recognizer)
    if models.retriever is not None:
        found |= search_graphs(models.retriever, features)
    return found


def photo_graph(student: ImageStudent | ImageUnits) -> Graph:
    """The file of the image student, or of image units in its place."""
    size = student.dims.image_size
    pixels = torch.zeros(2, 3, size, size)
    return Graph(student, {"pixels": pixels}, ("features",), _batched("pixels", "features"))


def recognizer_graph(recognizer: CTCRecognizer) -> Graph:
    """The recognizer's file."""
    axes = {"audio": {0: "batch", 1: "samples"}}
    axes |= {name: {0: "batch", 1: "frames"} for name in ("logits", "hidden")}
    return Graph(Hear(recognizer), {"audio": torch.zeros(2, 10_240)}, ("logits", "hidden"), axes)


def codec_graphs(codec: Codec, kept: int) -> dict[str, Graph]:
    """The codec's two files, for its first ``kept`` codebooks."""
    audio = torch.zeros(2, 8 * codec.dims.frame_length)
    codes = torch.zeros(2, kept, 24, dtype=torch.int64)
    axes = {"audio": {0: "batch", 1: "samples"}, "codes": {0: "batch", 2: "frames"}}
    return {
        b.CODEC_ENCODER: Graph(CodecEncoderGraph(codec, kept), {"audio": audio}, ("codes",), axes),
        b.CODEC_DECODER: Graph(CodecDecoderGraph(codec, kept), {"codes": codes}, ("audio",), axes),
    }


def _batched(*names: str) -> dict[str, dict[int, str]]:
    return {name: {0: "batch"} for name in names}
