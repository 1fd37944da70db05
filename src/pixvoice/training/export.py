"""The one door between the wings: trained models in PyTorch -> the ONNX bundle that ``pixvoice.runtime`` reads."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from pixvoice.describe.model import DecoderLayer, PixVoxConfig, PixVoxLM
from pixvoice.errors import BundleError, OptionError, OutputError
from pixvoice.runtime import bundle as b
from pixvoice.runtime.decoding import DecodingOptions
from pixvoice.speech.codec import Codec, CodecConfig
from pixvoice.speech.ctc import LETTERS, CTCConfig, CTCRecognizer
from pixvoice.training.trainer import load_model
from pixvoice.vision.student import ImageStudent, StudentConfig

DType = Literal["fp32", "fp16", "int8"]

SMALL = 1024  # weights with fewer numbers stay fp32
DECODING: dict[str, dict[str, Any]] = {
    "default": {"strategy": "beam", "beam_size": 4, "min_frames": 8, "max_frames": 80},
    "short": {"length_penalty": 0.8, "end_bias": 1.5, "max_frames": 40},
    "normal": {},
    "long": {"length_penalty": 1.2, "end_bias": -1.5, "min_frames": 40},
}
CONFIDENCE = b.Confidence(centre=-2.5, slope=1.5)


@dataclass(frozen=True)
class Trained:
    """The models of one bundle, in evaluation mode."""

    describer: PixVoxLM
    codec: Codec
    student: ImageStudent
    recognizer: CTCRecognizer | None

    def __post_init__(self) -> None:
        spoken, heard, seen = self.describer.dims, self.codec.dims, self.student.dims
        if spoken.num_codebooks > heard.num_codebooks or spoken.codebook_size != heard.codebook_size:
            raise BundleError(
                f"the describer speaks {spoken.num_codebooks} codebooks of {spoken.codebook_size}, the codec has "
                f"{heard.num_codebooks} of {heard.codebook_size}; give the codec that the describer was trained with"
            )
        if spoken.image_dim != seen.embed_dim:
            raise BundleError(
                f"the describer takes image features {spoken.image_dim} wide, the student gives {seen.embed_dim}; give "
                "the student that the describer was trained with"
            )


@dataclass(frozen=True)
class Graph:
    """One ONNX file: a module, an example of each input by name, outputs by name, and the axes of any length."""

    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]
    axes: dict[str, dict[int, str]]


class StepGraph(nn.Module):
    """``PixVoxLM.step`` with the K embeddings in one table and the K heads in one matrix."""

    table: Tensor
    offsets: Tensor

    def __init__(self, model: PixVoxLM) -> None:
        super().__init__()
        self.model, self.codebooks = model, model.dims.num_codebooks
        size = model.dims.codebook_size + 1
        self.register_buffer("table", torch.cat([embed.state_dict()["weight"] for embed in model.embeddings]))
        self.register_buffer("offsets", torch.arange(model.dims.num_codebooks) * size)
        self.head = nn.Linear(model.dims.width, model.dims.num_codebooks * size)
        heads = [head.state_dict() for head in model.heads]
        self.head.load_state_dict({name: torch.cat([head[name] for head in heads]) for name in ("weight", "bias")})

    def forward(self, tokens: Tensor, past: Tensor, cross: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, K), past (layers, 2, B, heads, S, d), cross -> logits (B, K, V + 1), past with S + 1."""
        x = F.embedding(tokens + self.offsets, self.table).sum(1, keepdim=True)
        x = x + self.model.positions.weight[past.shape[4]]
        pasts = []
        for i, layer in enumerate(self.model.layers):
            assert isinstance(layer, DecoderLayer)
            x, past_i = layer.step(x, past[i], cross[i])
            pasts.append(past_i)
        return self.head(self.model.norm(x)[:, 0]).unflatten(-1, (self.codebooks, -1)), torch.stack(pasts)


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


class Logits(nn.Module):
    """Audio (B, L) -> logits (B, T, letters + blank)."""

    def __init__(self, recognizer: CTCRecognizer) -> None:
        super().__init__()
        self.recognizer = recognizer

    def forward(self, audio: Tensor) -> Tensor:
        return self.recognizer.logits(audio)


class Start(nn.Module):
    """Features (B, P, D) -> cross keys and values (layers, 2, B, heads, P, d)."""

    def __init__(self, model: PixVoxLM) -> None:
        super().__init__()
        self.model = model

    def forward(self, features: Tensor) -> Tensor:
        return self.model.start(features)


def graphs(models: Trained) -> dict[str, Graph]:
    """What the bundle's ONNX files compute, by file name."""
    student, lm, codec = models.student, models.describer, models.codec
    size, kept = student.dims.image_size, lm.dims.num_codebooks
    pixels = torch.zeros(2, 3, size, size)
    features = student(pixels)
    cross = lm.start(features)
    layers, two, batch, heads, _, width = cross.shape
    step_inputs = {
        "tokens": torch.zeros(batch, kept, dtype=torch.int64),
        "past": torch.zeros(layers, two, batch, heads, 3, width),
        "cross": cross,
    }
    past_axes = {2: "batch", 4: "steps"}
    audio = torch.zeros(2, 8 * codec.dims.frame_length)
    codes = torch.zeros(2, kept, 24, dtype=torch.int64)
    sound = {"audio": {0: "batch", 1: "samples"}}
    found = {
        b.IMAGE_ENCODER: Graph(student, {"pixels": pixels}, ("features",), _batched("pixels", "features")),
        b.DESCRIBER_START: Graph(
            Start(lm), {"features": features}, ("cross",), {"features": {0: "batch"}, "cross": {2: "batch"}}
        ),
        b.DESCRIBER_STEP: Graph(
            StepGraph(lm),
            step_inputs,
            ("logits", "next_past"),
            _batched("tokens", "logits")
            | {"past": past_axes, "next_past": {2: "batch", 4: "next_steps"}, "cross": {2: "photos"}},
        ),
        b.CODEC_ENCODER: Graph(
            CodecEncoderGraph(codec, kept), {"audio": audio}, ("codes",), sound | {"codes": {0: "batch", 2: "frames"}}
        ),
        b.CODEC_DECODER: Graph(
            CodecDecoderGraph(codec, kept), {"codes": codes}, ("audio",), sound | {"codes": {0: "batch", 2: "frames"}}
        ),
    }
    if models.recognizer is not None:
        axes = sound | {"logits": {0: "batch", 1: "frames"}}
        found[b.RECOGNIZER] = Graph(Logits(models.recognizer), {"audio": audio}, ("logits",), axes)
    return found


def _batched(*names: str) -> dict[str, dict[int, str]]:
    return {name: {0: "batch"} for name in names}


def write_onnx(graph: Graph, path: Path, dtype: DType) -> None:
    """Write one graph; its shapes are kept where they are fixed."""
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # the tracer warns of every shape that it takes as fixed
        torch.onnx.export(
            graph.module.eval(),
            tuple(graph.inputs.values()),
            str(path),
            input_names=list(graph.inputs),
            output_names=list(graph.outputs),
            dynamic_axes=graph.axes,
            opset_version=17,
            dynamo=False,
        )
    if dtype == "int8":
        _quantize(path)
    elif dtype == "fp16":
        model = onnx.load(path)
        store_as_fp16(model)
        onnx.save(model, path)


def store_as_fp16(model: onnx.ModelProto) -> None:
    """Store large weights as fp16 with a cast to fp32 in front, which ONNX Runtime folds when it loads the model.

    Fourier bases stay fp32: the log-mel is sensitive to them.
    """
    casts = []
    for weight in model.graph.initializer:
        numbers = int(np.prod(weight.dims))
        if weight.data_type != TensorProto.FLOAT or numbers < SMALL or weight.name.endswith("basis"):
            continue
        half = numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float16), f"{weight.name}.fp16")
        casts.append(helper.make_node("Cast", [half.name], [weight.name], to=TensorProto.FLOAT))
        weight.CopyFrom(half)
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(casts + nodes)


def _quantize(path: Path) -> None:
    """Matrices as int8, one scale a column; activations are quantized as they come."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(path, path, per_channel=True, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gemm"])


def bundle_info(models: Trained, name: str, files: Mapping[str, str], defaults: Mapping[str, Any]) -> b.BundleInfo:
    """What ``bundle.json`` says of ``models``; ``defaults`` may replace ``decoding`` and ``confidence``."""
    lm, codec, student = models.describer.dims, models.codec, models.student.dims
    decoding = defaults.get("decoding") or _within(lm, DECODING)
    patches = (student.image_size // 32) ** 2
    return b.BundleInfo(
        format=b.FORMAT,
        name=name,
        image=b.ImageSizes(student.image_size, patches, student.embed_dim),
        describer=b.DescriberSizes(
            lm.pattern, lm.num_codebooks, lm.codebook_size, lm.layers, lm.heads, lm.width // lm.heads, lm.max_steps
        ),
        codec=b.CodecSizes(
            codec.dims.sample_rate,
            codec.dims.frame_length,
            lm.num_codebooks,
            lm.codebook_size,
            codec.decoder.context,
            codec.decoder.lookahead,
        ),
        recognizer=None
        if models.recognizer is None
        else b.RecognizerSizes(models.recognizer.dims.sample_rate, LETTERS),
        decoding=decoding,
        confidence=b.parse(b.Confidence, defaults["confidence"], "confidence")
        if "confidence" in defaults
        else CONFIDENCE,
        files=dict(files),
    )


def _within(lm: PixVoxConfig, decoding: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Length limits cut to what the language model can reach."""
    limits = {"min_frames", "max_frames"}
    return {
        length: {key: min(value, lm.max_steps) if key in limits else value for key, value in values.items()}
        for length, values in decoding.items()
    }


def read_defaults(path: Path | None) -> dict[str, Any]:
    """JSON with ``decoding`` and ``confidence`` as in ``bundle.json`` (or a whole ``bundle.json``).

    Raises OptionError for a file that can't be used.
    """
    if path is None:
        return {}
    try:
        values = json.loads(path.read_bytes()).items()
        found = {key: value for key, value in values if key in ("decoding", "confidence")}
        for changes in found.get("decoding", {}).values():
            DecodingOptions().changed(**changes)
        return found
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise OptionError(
            f"{path}: not defaults that can be read ({error}); give JSON with decoding, confidence"
        ) from None


def export_bundle(
    describer: Path,
    codec: Path,
    student: Path,
    recognizer: Path | None,
    output: Path,
    name: str = "pixvoice",
    dtype: DType = "fp16",
    defaults: Path | None = None,
) -> b.Bundle:
    """Write the bundle of four folders that ``save_model`` wrote; without ``recognizer`` it only describes.

    ``dtype``: fp32; fp16 (half the size, computed in fp32); int8 (a quarter; the codec and the image encoder, which
    suffer from it, stay fp16).  ``output`` appears whole or not at all.

    Raises BundleError for models that don't fit together, OptionError, OutputError.
    """
    if dtype not in get_args(DType):
        raise OptionError(f"dtype {dtype!r}: use one of {', '.join(get_args(DType))}")
    if output.exists():
        raise OutputError(f"{output}: exists already; give a new folder")
    extra = read_defaults(defaults)
    models = Trained(
        load_model(describer, "describer", PixVoxConfig, PixVoxLM),
        load_model(codec, "codec", CodecConfig, Codec),
        load_model(student, "student", StudentConfig, ImageStudent),
        None if recognizer is None else load_model(recognizer, "recognizer", CTCConfig, CTCRecognizer),
    )
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".pixvoice-", dir=output.parent))
    except OSError as error:
        raise OutputError(f"{output}: can't be written ({error.strerror}); give another place") from None
    try:
        _write(models, part, name, dtype, extra)
        b.Bundle.load(part)
        part.chmod(0o755)
        part.rename(output)
    except OSError as error:
        raise OutputError(f"{output}: can't be written ({error.strerror}); give another place") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return b.Bundle.load(output)


def _write(models: Trained, folder: Path, name: str, dtype: DType, defaults: Mapping[str, Any]) -> None:
    """All files of a bundle into ``folder``, ``bundle.json`` last."""
    files = {}
    for file, graph in graphs(models).items():
        mild = dtype == "int8" and file in (b.IMAGE_ENCODER, b.CODEC_ENCODER, b.CODEC_DECODER)
        write_onnx(graph, folder / file, "fp16" if mild else dtype)
        files[file] = hashlib.sha256((folder / file).read_bytes()).hexdigest()
    info = asdict(bundle_info(models, name, files, defaults))
    (folder / b.BUNDLE_JSON).write_text(json.dumps(info, indent=2) + "\n")
