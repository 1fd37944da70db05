"""A bundle: a folder of ONNX files and ``bundle.json``, which says their sizes, their SHA-256 and how to decode.

One that searches may have a letter model besides, one that says units their byte pairs or words.
``training.export`` writes it.
The decoding options and the confidence may be edited by hand: only the other files are hashed.
"""

from __future__ import annotations

import hashlib
import json
import os
import types
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_origin, get_type_hints

from pixvoice.errors import BundleError, OptionError
from pixvoice.runtime.decoding import DecodingOptions

if TYPE_CHECKING:
    import onnxruntime as ort

T = TypeVar("T")

FORMAT = 1
EMBEDDED = Path(__file__).resolve().parent.parent / "weights"
BUNDLE_JSON = "bundle.json"
IMAGE_ENCODER, DESCRIBER_START, DESCRIBER_STEP = "image_encoder.onnx", "describer_start.onnx", "describer_step.onnx"
CODEC_ENCODER, CODEC_DECODER, RECOGNIZER = "codec_encoder.onnx", "codec_decoder.onnx", "recognizer.onnx"
UNIT_ENCODER, UNIT_DURATIONS, UNIT_VOCODER = "unit_encoder.onnx", "unit_durations.onnx", "unit_vocoder.onnx"
UNIT_PAIRS = "unit_pairs.json"
UNIT_WORDS = "unit_words.safetensors"
SEARCH_PHOTO, SEARCH_SPEECH = "search_photo.onnx", "search_speech.onnx"
SEARCH_LETTERS = "search_letters.safetensors"
LENGTHS = ("short", "normal", "long")


@dataclass(frozen=True)
class ImageSizes:
    """Photo (image_size, image_size) in pixels -> ``patches`` features, each ``embed_dim`` wide."""

    image_size: int
    patches: int
    embed_dim: int


@dataclass(frozen=True)
class DescriberSizes:
    """The language model; ``max_steps`` is the longest sequence.

    A transformer, or, with ``lstm_width``, an LSTM whose state is so wide: it has one layer and one head that looks at
    the photo, by keys ``head_dim`` wide, and one codebook.
    """

    pattern: str
    num_codebooks: int
    codebook_size: int
    layers: int
    heads: int
    head_dim: int
    max_steps: int
    lstm_width: int | None = None


@dataclass(frozen=True)
class CodecSizes:
    """The codec: ``frame_length`` samples a frame; its decoder sees ``context`` frames back and ``lookahead`` ahead."""

    sample_rate: int
    frame_length: int
    num_codebooks: int
    codebook_size: int
    context: int
    lookahead: int


@dataclass(frozen=True)
class UnitSizes:
    """Speech units: one of ``units`` every ``hop`` samples; the describer says them, or byte pairs or words of them.

    It says neighbours that are equal once, and how many frames they last hangs on ``reach`` units either way; where
    ``reach`` is null, it says the unit of every frame.  The vocoder makes sound of ``together`` frames at once, from
    ``context`` times so many before them and ``lookahead`` times so many after.  A change of unit costs
    ``segment_cost`` when speech is encoded.
    """

    sample_rate: int
    hop: int
    units: int
    reach: int | None
    together: int
    context: int
    lookahead: int
    segment_cost: float = 0.0

    @property
    def frame_length(self) -> int:
        """Samples that the vocoder makes at once."""
        return self.hop * self.together


@dataclass(frozen=True)
class RecognizerSizes:
    """The recognizer; the blank comes after the last of ``letters``."""

    sample_rate: int
    letters: str


@dataclass(frozen=True)
class SearchSizes:
    """The dual-channel model: embeddings ``embed_dim`` wide, of the recognizer's frames, ``frame_dim`` wide, and words.

    Frames are heard ``window`` at a time, ``stack`` of them joined; ``buckets`` are those of the words' n-grams.  A
    recording is heard at each of ``speeds``.
    """

    variant: str
    embed_dim: int
    frame_dim: int
    stack: int
    window: int
    buckets: int
    speeds: tuple[float, ...] = (1.0,)

    @property
    def reads(self) -> bool:
        """Whether it takes words."""
        return self.variant != "e2e"

    @property
    def hears(self) -> bool:
        """Whether it takes frames."""
        return self.variant != "pipeline"


@dataclass(frozen=True)
class Confidence:
    """Mean log-probability a token -> confidence in 0..1: a logistic curve with 1/2 at ``centre``."""

    centre: float
    slope: float


@dataclass(frozen=True)
class BundleInfo:
    """What ``bundle.json`` holds.

    ``decoding`` has the keys ``default`` and ``short``, ``normal``, ``long``, each with fields of ``DecodingOptions``;
    a length's fields replace the default's.  ``files`` maps each file to its SHA-256.  The describer says the codes of
    ``codec``, or ``units``: the other is null.  ``units`` and ``search`` may be left out.
    """

    format: int
    name: str
    image: ImageSizes
    describer: DescriberSizes
    codec: CodecSizes | None
    recognizer: RecognizerSizes | None
    decoding: dict[str, dict[str, Any]]
    confidence: Confidence
    files: dict[str, str]
    search: SearchSizes | None = None
    units: UnitSizes | None = None

    @property
    def hears_by(self) -> str:
        """12 hexadecimal digits that change with what makes tokens of speech."""
        if self.codec is not None:
            return self.files[CODEC_ENCODER][:12]
        parts = (self.files[UNIT_ENCODER], self.files.get(UNIT_PAIRS, ""), self.files.get(UNIT_WORDS, ""))
        return hashlib.sha256("".join(parts).encode()).hexdigest()[:12]

    def speech_files(self) -> set[str]:
        """The files that speech needs, both ways."""
        if self.units is None:
            return {CODEC_ENCODER, CODEC_DECODER}
        return {UNIT_ENCODER, UNIT_VOCODER} | (set() if self.units.reach is None else {UNIT_DURATIONS})

    def options(self, length: str = "normal", **changes: Any) -> DecodingOptions:
        """The options for a length (``short``, ``normal`` or ``long``) with ``changes``.  Raises OptionError."""
        if length not in LENGTHS:
            raise OptionError(f"length {length!r}: use one of {', '.join(LENGTHS)}")
        return DecodingOptions().changed(
            **{**self.decoding.get("default", {}), **self.decoding.get(length, {}), **changes}
        )


def parse(kind: type[T], values: Any, where: str) -> T:
    """JSON ``values`` -> dataclass ``kind``.  Raises BundleError naming the place of the first fault."""
    hints = get_type_hints(kind)
    needed = {field.name: field.default is MISSING for field in fields(kind)}  # type: ignore[arg-type]
    if not isinstance(values, dict) or any(needed[n] for n in needed if n not in values) or set(values) - set(needed):
        raise BundleError(f"{where}: must hold {', '.join(needed)}; export the bundle again with: pixvoice export")
    return kind(**{name: _value(hints[name], values[name], f"{where}, {name}") for name in needed if name in values})


def _value(hint: Any, value: Any, where: str) -> Any:
    if get_origin(hint) is types.UnionType:
        return None if value is None else _value(get_args(hint)[0], value, where)
    if is_dataclass(hint):
        return parse(hint, value, where)  # type: ignore[arg-type]
    if get_origin(hint) is tuple and isinstance(value, list):
        return tuple(_value(get_args(hint)[0], one, where) for one in value)
    allowed = (int, float) if hint is float else get_origin(hint) or hint
    if not isinstance(value, allowed) or isinstance(value, bool):
        raise BundleError(f"{where}: {value!r} isn't a {hint.__name__}; export the bundle again with: pixvoice export")
    return value


def is_bundle(folder: Path) -> bool:
    """Whether a folder is a bundle's, and not a run's."""
    return (folder / BUNDLE_JSON).is_file()


class Bundle:
    """An opened bundle.  Sessions are made on demand; each file is hashed when it is read."""

    def __init__(self, folder: Path, info: BundleInfo, threads: int | None = None) -> None:
        if threads is not None and threads < 1:
            raise OptionError(f"threads {threads}: use a whole number of at least 1")
        self.folder, self.info = folder, info
        self.threads = threads or min(2, os.cpu_count() or 1)

    @classmethod
    def load(cls, folder: str | Path | None = None, threads: int | None = None) -> Bundle:
        """The bundle in ``folder``; without, in the folder that PIXVOICE_BUNDLE names, or the one that ships.

        Raises BundleError when a file is missing or ``bundle.json`` can't be used.
        """
        place = Path(folder or os.environ.get("PIXVOICE_BUNDLE") or EMBEDDED)
        try:
            values = json.loads((place / BUNDLE_JSON).read_bytes())
        except OSError:
            hint = "give --bundle FOLDER, or make one with: pixvoice export"
            raise BundleError(f"{place}: no bundle there ({BUNDLE_JSON} can't be read); {hint}") from None
        except ValueError:
            raise BundleError(
                f"{place / BUNDLE_JSON}: not JSON; export the bundle again with: pixvoice export"
            ) from None
        found = values.get("format") if isinstance(values, dict) else None
        if found != FORMAT:
            hint = "install a version of pixvoice that fits, or export it again"
            raise BundleError(f"{place}: a bundle of format {found}, this version reads {FORMAT}; {hint}")
        bundle = cls(place, parse(BundleInfo, values, str(place / BUNDLE_JSON)), threads)
        bundle._check()
        return bundle

    def _check(self) -> None:
        """Raise BundleError for missing files, parts that don't fit together, or bad decoding options."""
        info = self.info
        if (info.codec is None) == (info.units is None):
            raise BundleError(f"{self.folder}: a bundle has a codec or units, one of them; export it again")
        needed = {IMAGE_ENCODER, DESCRIBER_START, DESCRIBER_STEP} | info.speech_files()
        needed |= {RECOGNIZER, SEARCH_PHOTO, SEARCH_SPEECH} if info.search else set()
        missing = sorted(n for n in needed | set(info.files) if n not in info.files or not (self.folder / n).is_file())
        if missing:
            raise BundleError(f"{self.folder}: {', '.join(missing)} missing; copy the whole folder again, or reinstall")
        if info.search and info.recognizer is None:
            raise BundleError(f"{self.folder}: search without a recognizer; export the bundle again with one")
        self._check_speech()
        try:
            for length in LENGTHS:
                info.options(length)
        except (OptionError, TypeError) as error:
            raise BundleError(f"{self.folder / BUNDLE_JSON}, decoding: {error}") from None

    def _check_speech(self) -> None:
        """Raise BundleError if the describer says other tokens than codec or units have."""
        info = self.info
        spoken = (info.describer.num_codebooks, info.describer.codebook_size)
        if info.codec is not None and spoken != (info.codec.num_codebooks, info.codec.codebook_size):
            raise BundleError(f"{self.folder}: describer and codec have other codebooks; export them together")
        joined = UNIT_PAIRS in info.files or UNIT_WORDS in info.files  # how many, their readers know
        if info.units is not None and not joined and spoken != (1, info.units.units):
            raise BundleError(f"{self.folder}: describer and vocoder have other units; export them together")

    def read(self, file: str) -> bytes:
        """What ``file`` holds.  Raises BundleError if it can't be read or has another hash."""
        try:
            data = (self.folder / file).read_bytes()
        except OSError as error:
            raise BundleError(
                f"{self.folder / file}: can't be read ({error.strerror}); reinstall, or copy it again"
            ) from None
        if hashlib.sha256(data).hexdigest() != self.info.files[file]:
            hint = "reinstall, or copy the bundle again"
            raise BundleError(f"{self.folder / file}: damaged (its SHA-256 isn't the one in {BUNDLE_JSON}); {hint}")
        return data

    def session(
        self, file: str, shapes: Mapping[str, tuple[int | None, ...]], threads: int | None = None
    ) -> ort.InferenceSession:
        """ONNX ``file`` as a session whose inputs and outputs have ``shapes`` (None: any length).

        It runs on the bundle's number of threads, or on ``threads``.  They sleep while they wait: spinning is a little
        faster on an idle machine and many times slower on a busy one.

        Raises BundleError for a file with another hash, another shape, or that isn't a model.
        """
        import onnxruntime as ort

        data = self.read(file)
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads or self.threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors have no common base
            raise BundleError(f"{self.folder / file}: not a model that can be run ({str(error)[:100]})") from None
        found = {value.name: value.shape for value in (*session.get_inputs(), *session.get_outputs())}
        for name, shape in shapes.items():
            if not _fits(found.get(name), shape):
                said = f"{name} has shape {found.get(name)}, {BUNDLE_JSON} says {shape}"
                raise BundleError(f"{self.folder / file}: {said}; export the bundle again with: pixvoice export")
        return session


def _fits(found: list[int | str] | None, wanted: tuple[int | None, ...]) -> bool:
    """Whether each length that both know is the same."""
    return (
        found is not None
        and len(found) == len(wanted)
        and all(
            not isinstance(ours, int) or theirs is None or ours == theirs
            for ours, theirs in zip(found, wanted, strict=True)
        )
    )
