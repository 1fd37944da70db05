"""A bundle's ONNX files -> run folders, as ``pixvoice train`` wrote them: what ships, to train on.

An exporter's graph is the same for the same sizes, whatever the weights.  So a model of those sizes with weights drawn
at random is exported beside the bundle: where one of its tensors stands in the graph, the bundle's file has its value.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, numpy_helper
from safetensors.torch import save
from torch import Tensor, nn

from pixvoice.contracts import Floats
from pixvoice.errors import BundleError, OptionError, OutputError
from pixvoice.files import write_bytes_atomically
from pixvoice.runtime import bundle as b
from pixvoice.speech.codec import Codec, CodecConfig
from pixvoice.speech.ctc import LETTERS, CTCConfig, CTCRecognizer
from pixvoice.speech.latent_vocoder import LatentVocoder, LatentVocoderConfig, LatentVocoderSizes
from pixvoice.speech.quantizer import ResidualVectorQuantizer
from pixvoice.speech.unit_encoder import KMEANS, PAIRS, WORDS, UnitEncoder, UnitEncoderConfig
from pixvoice.speech.units import CENTROIDS
from pixvoice.training.export import write_onnx
from pixvoice.training.graphs import codec_graphs, photo_graph, recognizer_graph
from pixvoice.training.search_graphs import Graph
from pixvoice.training.trainer import save_model
from pixvoice.training.unit_graphs import UnitEncoderGraph, unit_encoder_graph, vocoder_graphs
from pixvoice.vision.student import ImageStudent, StudentConfig


@dataclass(frozen=True)
class Sizes:
    """What ``bundle.json`` doesn't say of the models: that they are as large as the small recipes make them."""

    student: StudentConfig = field(default_factory=StudentConfig)
    codec: CodecConfig = field(default_factory=CodecConfig)
    recognizer: CTCConfig = field(default_factory=CTCConfig)
    units: UnitEncoderConfig = field(default_factory=UnitEncoderConfig)
    vocoder: LatentVocoderSizes = field(default_factory=LatentVocoderSizes)


@dataclass(frozen=True)
class Packed:
    """One model of a bundle: its task, which is the run's name too, an untrained model of its sizes, and those sizes.

    ``graphs`` makes its files of the weights that the model has by then.  Weights whose names begin with one of
    ``absent`` are in none of the files, and become 0.
    """

    task: str
    model: nn.Module
    config: object
    graphs: Callable[[], dict[str, Graph]]
    absent: tuple[str, ...] = ()


def unpack(bundle: b.Bundle, runs: Path, sizes: Sizes | None = None) -> list[Path]:
    """Write the models of ``bundle`` into ``runs``, a folder for each, all of them or none; returns the folders.

    They are ``student``, ``recognizer`` if it has one, and ``codec``, or, of a describer of units, ``units`` and
    ``vocoder``: such a bundle has the codec's decoder in its vocoder, but no encoder, and so no codec.

    Weights are those that the bundle stores (fp16 for the most part, so that of two codes that fit a frame about
    equally well the other may be chosen), and a student's batch norms are in its convolutions.  Of codebooks, byte
    pairs and words it has those that its describer says, of an encoder of units the blocks up to the one whose frames
    are clustered.  A vocoder of units that aren't merged has no durations: each lasts one frame.  A describer isn't
    unpacked, since int8 isn't what it was trained in, nor is search.

    Raises:
        OptionError: one of the runs is there already, or ``runs`` is a file.
        BundleError: a model of other sizes than ``sizes``, the ones of this release's recipes unless given.
        OutputError: ``runs`` can't be written.
    """
    if runs.exists() and not runs.is_dir():
        raise OptionError(f"{runs}: a file; give a folder for the runs with -o")
    found = list(_packed(bundle, sizes or Sizes()))
    folders = [runs / one.task for one in found]
    for folder in folders:
        if folder.exists():
            raise OptionError(f"{folder} exists already: give another folder with -o")
    for one in found:
        restore(one, bundle)
    try:
        runs.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".pixvoice-", dir=runs))
    except OSError as error:
        raise OutputError(f"{runs}: can't be written ({error.strerror}); give another place") from None
    try:
        for one in found:
            _save(one, bundle, part / one.task)
        for folder in folders:
            (part / folder.name).rename(folder)
    except OSError as error:
        raise OutputError(f"{runs}: can't be written ({error.strerror}); give another place") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folders


def _packed(bundle: b.Bundle, sizes: Sizes) -> Iterator[Packed]:
    """The models of a bundle that can be unpacked, untrained.  Raises BundleError for sizes that it doesn't have."""
    info = bundle.info
    seen = replace(sizes.student, image_size=info.image.image_size, embed_dim=info.image.embed_dim)
    student = ImageStudent(seen)
    yield Packed("student", student, seen, lambda: {b.IMAGE_ENCODER: photo_graph(student)})
    if info.codec is not None:
        c = info.codec
        kept = {"num_codebooks": c.num_codebooks, "codebook_size": c.codebook_size}
        spoken = replace(sizes.codec, sample_rate=c.sample_rate, **kept)
        codec = Codec(spoken)
        if (codec.decoder.context, codec.decoder.lookahead) != (c.context, c.lookahead):
            raise _unlike(bundle.folder / b.CODEC_DECODER, "codec")
        yield Packed("codec", codec, spoken, lambda: codec_graphs(codec, c.num_codebooks))
    if info.units is not None:
        yield from _of_units(bundle, info.units, sizes)
    if info.recognizer is not None:
        if info.recognizer.letters != LETTERS:
            raise BundleError(f"{bundle.folder}: its recognizer writes other letters than this release's: {LETTERS!r}")
        heard = replace(sizes.recognizer, sample_rate=info.recognizer.sample_rate)
        recognizer = CTCRecognizer(heard)
        yield Packed("recognizer", recognizer, heard, lambda: {b.RECOGNIZER: recognizer_graph(recognizer)})


def _of_units(bundle: b.Bundle, said: b.UnitSizes, sizes: Sizes) -> Iterator[Packed]:
    """The encoder of a bundle's units with their centroids, and their vocoder, untrained."""
    heard = replace(sizes.units, sample_rate=said.sample_rate, units=said.units, segment_cost=said.segment_cost)
    heard = replace(heard, blocks=heard.layer)
    codec = replace(sizes.codec, sample_rate=said.sample_rate)
    if said.hop != heard.frame_length:
        raise _unlike(bundle.folder / b.UNIT_ENCODER, f"units of {heard.frame_length} samples a frame")
    encoder = UnitEncoder(heard)
    units = UnitEncoderGraph(encoder, torch.zeros(said.units, heard.width), b.UNIT_WORDS in bundle.info.files)
    hidden = ("frames.encoder.hidden",)  # stands for what can't be heard, in training alone
    yield Packed("units", units, heard, lambda: {b.UNIT_ENCODER: unit_encoder_graph(units)}, hidden)
    if said.frame_length != codec.frame_length:
        raise _unlike(bundle.folder / b.UNIT_VOCODER, f"vocoder of {codec.frame_length} samples a codec frame")
    spoken = LatentVocoderConfig(said.units, said.hop, sizes.vocoder, codec)
    vocoder, merged = LatentVocoder(spoken), said.reach is not None
    if (vocoder.context, vocoder.lookahead) != (said.context, said.lookahead):
        raise _unlike(bundle.folder / b.UNIT_VOCODER, "vocoder")
    silent = () if merged else ("dur_predictor.",)
    yield Packed("vocoder", vocoder, spoken, lambda: vocoder_graphs(vocoder, merged), silent)


def _unlike(file: Path, wanted: str) -> BundleError:
    """What to say of a model that isn't built as ours is, or was exported by libraries that write another graph."""
    hint = "unpack it with the release and the libraries that made it"
    return BundleError(f"{file}: not the {wanted} of this release's recipes; {hint}")


def _save(packed: Packed, bundle: b.Bundle, folder: Path) -> None:
    """Write one run: its model, and, of units, centroids, byte pairs and words."""
    model = packed.model
    folder.mkdir()
    if isinstance(model, UnitEncoderGraph):
        write_bytes_atomically(folder / KMEANS, save({CENTROIDS: model.centroids}))
        if b.UNIT_PAIRS in bundle.info.files:
            write_bytes_atomically(folder / PAIRS, bundle.read(b.UNIT_PAIRS))
        if b.UNIT_WORDS in bundle.info.files:
            write_bytes_atomically(folder / WORDS, bundle.read(b.UNIT_WORDS))
        model = model.frames.encoder
    save_model(model, packed.config, packed.task, folder)


def restore(packed: Packed, bundle: b.Bundle) -> None:
    """Give an untrained model the weights that its files in ``bundle`` hold.

    Raises BundleError if a file isn't the graph of such a model, or a weight can't be found in any.
    """
    marks = _mark(packed.model.eval())
    values: dict[str, Floats] = {}
    for file, graph in packed.graphs().items():
        ours, theirs = _exported(graph), _read(bundle, file)
        if _shape(ours) != _shape(theirs):
            raise _unlike(bundle.folder / file, packed.task)
        for stands, value in zip(_constants(ours), _constants(theirs), strict=True):
            for name in marks.keys() - values.keys():
                if (found := _value(marks[name], stands, value)) is not None:
                    values[name] = found
    if lost := [name for name in marks.keys() - values.keys() if not name.startswith(packed.absent)]:
        raise BundleError(f"{bundle.folder}: no {min(lost)} of a {packed.task} is in its files; export it again")
    for name, tensor in _weights(packed.model):
        tensor.copy_(torch.from_numpy(values[name].copy()) if name in values else torch.zeros(()))
    for module in packed.model.modules():
        if isinstance(module, ResidualVectorQuantizer):  # as if each entry had been used once
            module.usage.fill_(1.0)
            module.sums.copy_(module.codebooks)


def _mark(model: nn.Module) -> dict[str, Floats]:
    """Draw all weights at random, so that each can be told from all others; returns them by name.

    A batch norm only adds its bias, so that a convolution that takes it up keeps its own weights.
    """
    drawn = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            nn.init.zeros_(module.running_mean)
            nn.init.constant_(module.running_var, 1.0 - module.eps)
            nn.init.ones_(module.weight)
    for _, tensor in _weights(model):
        tensor.copy_(torch.randn(tensor.shape, generator=drawn) * 0.1)
    return {name: tensor.numpy().copy() for name, tensor in _weights(model)}


def _weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The tensors that a bundle has, by name, without gradient; of each codebook its own."""
    for name, module in model.named_modules():
        own: dict[str, Tensor] = dict(module.named_parameters(name, recurse=False))
        if isinstance(module, nn.BatchNorm2d):
            del own[f"{name}.weight"]
        if isinstance(module, ResidualVectorQuantizer):
            own |= {f"{name}.codebooks.{k}": codebook for k, codebook in enumerate(module.codebooks)}
        if isinstance(module, UnitEncoderGraph):
            own["centroids"] = module.centroids
        yield from ((each, tensor.detach()) for each, tensor in own.items())


def _exported(graph: Graph) -> onnx.ModelProto:
    """The ONNX model that ``graph`` becomes."""
    with tempfile.TemporaryDirectory(prefix="pixvoice-") as folder:
        path = Path(folder, "model.onnx")
        write_onnx(graph, path, "fp32")
        return onnx.load(path)


def _read(bundle: b.Bundle, file: str) -> onnx.ModelProto:
    """The ONNX model in a file of a bundle.  Raises BundleError if it isn't one, or has another hash."""
    data = bundle.read(file)
    try:
        return onnx.load_from_string(data)
    except Exception as error:  # protobuf's errors have no common base
        raise BundleError(f"{bundle.folder / file}: not a model that can be read ({str(error)[:100]})") from None


def _value(mark: Floats, stands: Floats, value: Floats) -> Floats | None:
    """``value`` as the tensor whose mark ``stands`` is, as it is or transposed; None if that is another tensor."""
    for turned, seen in ((value, stands), (value.T, stands.T)):
        if seen.shape == mark.shape and np.allclose(seen, mark, rtol=1e-5, atol=1e-7):
            return turned
    return None


def _shape(model: onnx.ModelProto) -> list[Any]:
    """What two graphs of models of the same sizes have in common: shapes of constants, strides of convolutions."""
    convolutions = [node for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose")]
    strides = [list(each.ints) for node in convolutions for each in node.attribute if each.name == "strides"]
    return [*(each.shape for each in _constants(model)), *strides]


def _constants(model: onnx.ModelProto) -> list[Floats]:
    """The graph's constants of at least one dimension, float32, in the order in which its nodes take them."""
    stored = {each.name: each for each in model.graph.initializer}
    halves = {n.output[0]: n.input[0] for n in model.graph.node if n.op_type == "Cast" and n.input[0] in stored}
    taken = [halves.get(name, name) for node in model.graph.node if node.op_type != "Cast" for name in node.input]
    tensors = [stored[name] for name in taken if name in stored]
    floats = (TensorProto.FLOAT, TensorProto.FLOAT16)
    return [numpy_helper.to_array(t).astype(np.float32) for t in tensors if t.dims and t.data_type in floats]
