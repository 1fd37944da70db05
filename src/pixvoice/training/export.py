"""The one door between the wings: trained models in PyTorch -> the ONNX bundle that ``pixvoice.runtime`` reads."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto, helper, numpy_helper

from pixvoice.describe.build import UnitDescriberConfig, small_config
from pixvoice.describe.model import PixVoxConfig, PixVoxLM
from pixvoice.describe.sat import SatConfig, SatRunConfig, ShowAttendTell
from pixvoice.errors import BundleError, OptionError, OutputError
from pixvoice.retrieve.build import read_spelling
from pixvoice.retrieve.model import DualChannel
from pixvoice.retrieve.small_parts import SmallConfig, SmallTextPart, small_dual_channel
from pixvoice.runtime import bundle as b
from pixvoice.runtime.decoding import DecodingOptions
from pixvoice.speech.codec import Codec, CodecConfig
from pixvoice.speech.ctc import LETTERS, CTCConfig, CTCRecognizer
from pixvoice.speech.pretrained import SpeechParts
from pixvoice.training.graphs import Trained, graphs
from pixvoice.training.image_encoders import load_image_encoder
from pixvoice.training.search_graphs import Graph
from pixvoice.training.trainer import load_model, trained_task
from pixvoice.training.unit_graphs import SpokenUnits

DType = Literal["fp32", "fp16", "int8"]

SMALL = 1024  # weights with fewer numbers stay fp32
DECODING: dict[str, dict[str, Any]] = {
    "default": {"strategy": "beam", "beam_size": 8, "min_frames": 8, "max_frames": 80},
    "short": {"end_bias": 7.0, "max_frames": 40},
    "normal": {},
    "long": {"end_bias": -4.0, "min_frames": 40},
}
"""Limits in tokens of ``TOKEN_S``: the codec's frames; as long last merged units of which a change costs something."""
LIMITS = ("min_frames", "max_frames")
TOKEN_S = 0.08  # seconds
WORDS_A_TOKEN = 0.5  # words of units last about twice as long
CONFIDENCE = b.Confidence(centre=-1.56, slope=5.2)


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
    _simplify(path)
    if dtype == "int8":
        _quantize(path)
    if dtype != "fp32":
        model = onnx.load(path)
        store_as_fp16(model)
        onnx.save(model, path)


def _simplify(path: Path) -> None:
    """Fold constants and drop what they make needless, in standard ONNX, so that sessions are made faster."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    ort.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])


def store_as_fp16(model: onnx.ModelProto) -> None:
    """Store large weights as fp16 with a cast to fp32 in front, which ONNX Runtime folds when it loads the model.

    Fourier bases that analyse audio stay fp32: the log-mel of silence is sensitive to them.
    """
    convolved = {node.input[1] for node in model.graph.node if node.op_type == "Conv"}
    casts = []
    for weight in model.graph.initializer:
        sizes = list(weight.dims)
        fourier = weight.name in convolved and len(sizes) == 3 and sizes[1] == 1 and sizes[0] == sizes[2] + 2
        if weight.data_type != TensorProto.FLOAT or int(np.prod(sizes)) < SMALL or fourier:
            continue
        half = numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float16), f"{weight.name}.fp16")
        casts.append(helper.make_node("Cast", [half.name], [weight.name], to=TensorProto.FLOAT))
        weight.CopyFrom(half)
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend(casts + nodes)


def _quantize(path: Path) -> None:
    """Matrices as int8, one scale a column; activations are quantized as they come.

    Weights have seven bits: a processor without VNNI adds two products in sixteen, which eight would overflow.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    matrices = ["MatMul", "Gemm"]
    quantize_dynamic(path, path, matrices, per_channel=True, reduce_range=True, weight_type=QuantType.QInt8)


def bundle_info(models: Trained, name: str, files: Mapping[str, str], defaults: Mapping[str, Any]) -> b.BundleInfo:
    """What ``bundle.json`` says of ``models``; ``defaults`` may replace ``decoding`` and ``confidence``."""
    lm, speech, student = models.describer.dims, models.speech, models.student.dims
    decoding = defaults.get("decoding") or _decoding(lm, speech)
    patches = (student.image_size // 32) ** 2
    return b.BundleInfo(
        format=b.FORMAT,
        name=name,
        image=b.ImageSizes(student.image_size, patches, student.embed_dim),
        describer=describer_sizes(lm),
        codec=codec_sizes(speech, lm) if isinstance(speech, Codec) else None,
        recognizer=None
        if models.recognizer is None
        else b.RecognizerSizes(models.recognizer.dims.sample_rate, LETTERS),
        decoding=decoding,
        confidence=b.parse(b.Confidence, defaults["confidence"], "confidence")
        if "confidence" in defaults
        else CONFIDENCE,
        files=dict(files),
        search=None if models.retriever is None else search_sizes(models.retriever),
        units=None if isinstance(speech, Codec) else speech.sizes(),
    )


def describer_sizes(lm: PixVoxConfig | SatConfig) -> b.DescriberSizes:
    """What ``bundle.json`` says of a describer."""
    spoken = (lm.pattern, lm.num_codebooks, lm.codebook_size)
    if isinstance(lm, SatConfig):
        return b.DescriberSizes(*spoken, 1, 1, lm.attention_width, lm.max_steps, lm.width)
    return b.DescriberSizes(*spoken, lm.layers, lm.heads, lm.width // lm.heads, lm.max_steps)


def codec_sizes(codec: Codec, lm: PixVoxConfig | SatConfig) -> b.CodecSizes:
    """What ``bundle.json`` says of a codec, as far as a describer says its codes."""
    c, decoder = codec.dims, codec.decoder
    spoken = (lm.num_codebooks, lm.codebook_size)
    return b.CodecSizes(c.sample_rate, c.frame_length, *spoken, decoder.context, decoder.lookahead)


def search_sizes(model: DualChannel) -> b.SearchSizes:
    """What ``bundle.json`` says of a dual-channel model of small parts."""
    assert model.speech is not None
    buckets = model.text.buckets if isinstance(model.text, SmallTextPart) else 0
    c = model.dims
    return b.SearchSizes(c.variant, c.embed_dim, model.speech.frame_dim, c.stack, c.window, buckets, c.speeds)


def _decoding(lm: PixVoxConfig | SatConfig, speech: Codec | SpokenUnits) -> dict[str, dict[str, Any]]:
    """``DECODING`` with its limits in this describer's tokens, cut to what it can reach."""
    tokens = 1.0
    if isinstance(speech, SpokenUnits) and speech.words is not None:
        tokens = WORDS_A_TOKEN
    elif isinstance(speech, SpokenUnits) and speech.pairs is None and not (speech.merged and speech.segment_cost):
        tokens = TOKEN_S * speech.vocoder.sample_rate / speech.vocoder.hop
    return {
        length: {
            key: min(round(value * tokens), lm.max_steps) if key in LIMITS else value for key, value in values.items()
        }
        for length, values in DECODING.items()
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
    codec: Path | None,
    student: Path,
    recognizer: Path | None,
    output: Path,
    name: str = "pixvoice",
    dtype: DType = "int8",
    defaults: Path | None = None,
    retriever: Path | None = None,
    units: Path | None = None,
    vocoder: Path | None = None,
) -> b.Bundle:
    """Write the bundle of folders that ``save_model`` wrote; without ``recognizer`` it only describes.

    A describer of codec tokens needs the ``codec``, one of units the ``units`` and their ``vocoder`` in its place.

    ``retriever`` adds search, and needs the recognizer and the student that it was trained with; it is a training, or
    another bundle, whose search is taken as it is.  Image units in the place of ``student`` make a bundle that sees a
    photo through them.

    ``dtype``: fp32; fp16 (half the size, computed in fp32); int8 (fp16, but for the describer's step, where most of the
    time goes: it computes in int8).  ``output`` appears whole or not at all.

    Raises BundleError for models that don't fit together, OptionError, OutputError.
    """
    if dtype not in get_args(DType):
        raise OptionError(f"dtype {dtype!r}: use one of {', '.join(get_args(DType))}")
    if output.exists():
        raise OutputError(f"{output}: exists already; give a new folder")
    extra = read_defaults(defaults)
    lm, spoken = _describer(describer)
    searches = b.Bundle.load(retriever) if retriever is not None and b.is_bundle(retriever) else None
    trained = None if searches is not None else retriever
    models = Trained(
        lm,
        _speech(lm.dims, spoken, codec, units, vocoder),
        load_image_encoder(student),
        None if recognizer is None else load_model(recognizer, "recognizer", CTCConfig, CTCRecognizer),
        None if trained is None else load_model(trained, "retriever", SmallConfig.from_json, small_dual_channel),
    )
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".pixvoice-", dir=output.parent))
    except OSError as error:
        raise OutputError(f"{output}: can't be written ({error.strerror}); give another place") from None
    try:
        _write(models, part, name, dtype, extra, trained)
        if searches is not None:
            _take_search(searches, part)
        b.Bundle.load(part)
        part.chmod(0o755)
        part.rename(output)
    except OSError as error:
        raise OutputError(f"{output}: can't be written ({error.strerror}); give another place") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return b.Bundle.load(output)


def _take_search(searches: b.Bundle, folder: Path) -> None:
    """The search of another bundle into the bundle in ``folder``.

    Raises BundleError if it has none, or learned from another student or recognizer.
    """
    if searches.info.search is None:
        raise BundleError(f"{searches.folder}: a bundle without search; give one that searches, or a retriever's run")
    values = json.loads((folder / b.BUNDLE_JSON).read_bytes())
    for file, part in ((b.IMAGE_ENCODER, "student"), (b.RECOGNIZER, "recognizer")):
        if values["files"].get(file) != searches.info.files[file]:
            raise BundleError(f"{searches.folder}: its search needs its own {part}; unpack that, and give its run")
    for file in (b.SEARCH_PHOTO, b.SEARCH_SPEECH, b.SEARCH_LETTERS):
        if file in searches.info.files:
            (folder / file).write_bytes(searches.read(file))
            values["files"][file] = searches.info.files[file]
    values["search"] = asdict(searches.info.search)
    (folder / b.BUNDLE_JSON).write_text(json.dumps(values, indent=2) + "\n")


def _describer(folder: Path) -> tuple[PixVoxLM | ShowAttendTell, SpeechParts | None]:
    """A trained describer, and what units it says, if it does."""
    spoken: list[SpeechParts | None] = []

    def make(config: UnitDescriberConfig | PixVoxConfig | SatRunConfig) -> PixVoxLM | ShowAttendTell:
        spoken.append(None if isinstance(config, PixVoxConfig) else config.speech)
        if isinstance(config, SatRunConfig):
            return ShowAttendTell(config.model)
        return PixVoxLM(config if isinstance(config, PixVoxConfig) else config.model)

    if trained_task(folder) == "sat":
        return load_model(folder, "sat", SatRunConfig.from_json, make), spoken[0]
    return load_model(folder, "describer", small_config, make), spoken[0]


def _speech(
    lm: PixVoxConfig | SatConfig,
    spoken: SpeechParts | None,
    codec: Path | None,
    units: Path | None,
    vocoder: Path | None,
) -> Codec | SpokenUnits:
    """What the describer's tokens are made of and become sound by.  Raises OptionError unless just that was given."""
    if spoken is None:
        if codec is None or units is not None or vocoder is not None:
            raise OptionError("the describer says codec tokens: give its codec, and neither units nor a vocoder")
        return load_model(codec, "codec", CodecConfig, Codec)
    if spoken.units is None:
        hint = "hear it with: pixvoice evaluate describe --bundle RUN"
        raise BundleError(f"a describer of {spoken.checkpoint}'s units makes no bundle; {hint}")
    if units is None or vocoder is None or codec is not None:
        raise OptionError("the describer says units: give the units and the vocoder of its recipe, and no codec")
    return SpokenUnits.load(spoken, units, vocoder, lm)


def _write(
    models: Trained, folder: Path, name: str, dtype: DType, defaults: Mapping[str, Any], retriever: Path | None
) -> None:
    """All files of a bundle into ``folder``, ``bundle.json`` last."""
    files = {}
    for file, graph in graphs(models).items():
        mild = dtype == "int8" and file != b.DESCRIBER_STEP
        write_onnx(graph, folder / file, "fp16" if mild else dtype)
        files[file] = hashlib.sha256((folder / file).read_bytes()).hexdigest()
    if isinstance(models.speech, SpokenUnits) and models.speech.pairs is not None:
        models.speech.pairs.save(folder / b.UNIT_PAIRS)
        files[b.UNIT_PAIRS] = hashlib.sha256((folder / b.UNIT_PAIRS).read_bytes()).hexdigest()
    if isinstance(models.speech, SpokenUnits) and models.speech.words is not None:
        (folder / b.UNIT_WORDS).write_bytes(data := models.speech.words.save())
        files[b.UNIT_WORDS] = hashlib.sha256(data).hexdigest()
    if retriever is not None and (spelling := read_spelling(retriever)):
        (folder / b.SEARCH_LETTERS).write_bytes(data := spelling.save())
        files[b.SEARCH_LETTERS] = hashlib.sha256(data).hexdigest()
    info = asdict(bundle_info(models, name, files, defaults))
    (folder / b.BUNDLE_JSON).write_text(json.dumps(info, indent=2) + "\n")
