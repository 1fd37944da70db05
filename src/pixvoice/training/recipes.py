"""Recipes: one YAML file says all of a training, and is checked whole before any data is read.

    task: codec                            # codec, student, image_units, recognizer, units, vocoder, ...
    manifests: [data/speech/manifest.jsonl]
    train: {steps: 2600, batch_size: 16, learning_rate: 1e-3}

The other keys are the fields of the task's dataclass (``CodecRecipe`` and so on); what is left out keeps its default.
Paths are relative to the folder that the command is typed in, as they are on the command line.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Protocol, cast, get_args, get_origin, get_type_hints

import yaml

from pixvoice.errors import InputError, OptionError
from pixvoice.files import read_bytes
from pixvoice.letter_model import LONGEST
from pixvoice.patterns import PATTERNS
from pixvoice.retrieve.model import VARIANTS
from pixvoice.speeds import FASTEST, SLOWEST
from pixvoice.training.options import TrainOptions

TASKS = {
    "codec": ("pixvoice.training.codec", "CodecRecipe"),
    "student": ("pixvoice.training.student", "StudentRecipe"),
    "image_units": ("pixvoice.training.image_units", "ImageUnitsRecipe"),
    "recognizer": ("pixvoice.training.recognizer", "RecognizerRecipe"),
    "units": ("pixvoice.training.units", "UnitsRecipe"),
    "vocoder": ("pixvoice.training.vocoder", "VocoderRecipe"),
    "describer": ("pixvoice.training.describer", "DescriberRecipe"),
    "sas": ("pixvoice.training.sas", "SasRecipe"),
    "cascade": ("pixvoice.training.cascade", "CascadeRecipe"),
    "sat": ("pixvoice.training.sat", "SatRecipe"),
    "retriever": ("pixvoice.training.retriever", "RetrieverRecipe"),
}
"""Module and dataclass of each task; the module's ``run(recipe, output)`` trains it."""

MAX_BYTES = 1_000_000


class Recipe(Protocol):
    """What every task's dataclass has."""

    @property
    def manifests(self) -> tuple[Path, ...]:
        """The data sets to train on."""

    @property
    def split(self) -> str:
        """The split of them to take."""

    @property
    def train(self) -> TrainOptions:
        """How long and how fast."""


def recipe_class(task: str) -> type[Any]:
    """The dataclass of ``task``."""
    module, name = TASKS[task]
    found: type[Any] = getattr(import_module(module), name)
    return found


def task_of(recipe: Recipe) -> str:
    """The name of the task that ``recipe`` is for."""
    return next(task for task, (_, name) in TASKS.items() if name == type(recipe).__name__)


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, with ``key=value`` overrides such as ``train.steps=100``.

    Raises:
        InputError: there is no such file.
        OptionError: the recipe can't be used; the first line counts the faults, and each has a line of its own.
    """
    values, faults = _read(Path(path))
    for override in overrides:
        faults += _override(values, override)
    task = values.pop("task", None)
    if task is None:
        faults.append(f"task: is missing; use one of {', '.join(TASKS)}")
    elif str(task) not in TASKS:
        faults.append(f"task: {task!r} is not known{_nearest(str(task), TASKS, '')} use one of {', '.join(TASKS)}")
    else:
        checker = _Checker()
        recipe: Recipe = checker.build(recipe_class(task), values)
        faults += [*checker.faults, *_broken_rules(task, {"task": task, **checker.known})]
    if faults:
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise OptionError("\n".join([f"{path}: {count}:", *(f"  - {fault}" for fault in faults)]))
    return recipe


def missing_inputs(recipe: Recipe) -> list[str]:
    """One line for each path that ``recipe`` reads and that isn't there; only speaking needs a vocoder."""
    found = []
    for key, value in flatten(recipe).items():
        paths = value if isinstance(value, tuple) else (value,)
        for path in paths:
            if isinstance(path, Path) and key not in ("cache", "speech.vocoder") and not path.exists():
                found.append(f"{key}: {path} is not there; make it first, or give another path")
    return found


def flatten(recipe: Any, prefix: str = "") -> dict[str, Any]:
    """A recipe as dotted keys and values, ``train.steps`` for the field ``steps`` of the field ``train``."""
    flat: dict[str, Any] = {} if prefix else {"task": task_of(recipe)}
    for field in fields(recipe):
        value, key = getattr(recipe, field.name), prefix + field.name
        flat |= flatten(value, f"{key}.") if is_dataclass(value) else {key: value}
    return flat


def to_yaml(recipe: Recipe) -> str:
    """The whole recipe, defaults too, as YAML that ``load_recipe`` reads back to an equal one."""
    nested: dict[str, Any] = {}
    for key, value in flatten(recipe).items():
        *sections, name = key.split(".")
        place = nested
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = _plain(value)
    return yaml.safe_dump(nested, sort_keys=False, width=120)


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping: YAML itself would keep the last without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping of ``node``."""
        seen = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value!r} stands twice", problem_mark=key.start_mark)
            seen.add(str(key.value))
        return super().construct_mapping(node, deep)


def _read(path: Path) -> tuple[dict[str, Any], list[str]]:
    """The mapping in a YAML file; a file that isn't one is a single fault."""
    if path.is_dir():
        raise InputError(f"{path}: a folder; give a recipe (.yaml) in it")
    name, data = read_bytes(path, "recipe", MAX_BYTES)
    try:
        values = yaml.load(data, _Loader)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}" if error.problem_mark else "the file"
        raise OptionError(f"{name}: 1 fault:\n  - {line}: not YAML ({error.problem}); mend it") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise OptionError(f"{name}: 1 fault:\n  - not YAML ({' '.join(str(error).split())}); give a recipe") from None
    if not isinstance(values, dict):
        raise OptionError(f"{name}: 1 fault:\n  - holds no keys; a recipe has lines such as `task: codec`")
    return values, []


def _override(values: dict[str, Any], override: str) -> list[str]:
    """Put ``key=value`` into the nested ``values``; a fault if it can't be read."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        return [f"{override!r}: an override is key=value, such as train.steps=100"]
    try:
        value = yaml.load(text, _Loader)
    except yaml.YAMLError:
        return [f"{key}: the value {text!r} is not YAML; put it in quotes"]
    *sections, name = key.split(".")
    for section in sections:
        if not isinstance(values.get(section), dict):
            values[section] = {}
        values = values[section]
    values[name] = value
    return []


class _Checker:
    """Builds dataclasses from nested values; collects what is wrong, and the good values by dotted key."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.known: dict[str, Any] = {}

    def build(self, kind: type[Any], values: Mapping[Any, Any], prefix: str = "") -> Any:
        """A ``kind`` filled from ``values``, or None if it can't be made."""
        hints, names = get_type_hints(kind), [field.name for field in fields(kind)]
        for key in values:
            if key not in names:
                allowed = names if prefix else ["task", *names]
                self.faults.append(f"{prefix}{key}: unknown key{_nearest(str(key), allowed, prefix)}")
        before = len(self.faults)
        chosen = {
            field.name: self._value(field, hints[field.name], values, prefix + field.name) for field in fields(kind)
        }
        return kind(**chosen) if len(self.faults) == before else None

    def _value(self, field: Field[Any], hint: Any, values: Mapping[Any, Any], key: str) -> Any:
        """The value of one field: given, a section of its own, or the default."""
        default = field.default if field.default_factory is MISSING else field.default_factory()
        given = values.get(field.name, default)
        if is_dataclass(hint):
            if given is default is not MISSING:
                self.known |= flatten(given, f"{key}.")
                return given
            if given is MISSING or isinstance(given, Mapping):
                return self.build(cast(type[Any], hint), {} if given is MISSING else given, f"{key}.")
        if given is MISSING:
            self.faults.append(f"{key}: is missing; give {_describe(hint)}")
            return None
        value, fault = (given, None) if field.name not in values else _convert(given, hint)
        fault = fault or _out_of_range(field.name, value)
        if fault:
            self.faults.append(f"{key}: {fault}")
        else:
            self.known[key] = value
        return value


def _convert(value: Any, hint: Any) -> tuple[Any, str | None]:
    """``value`` as type ``hint``, and what is wrong with it if anything is."""
    wrong = None, f"{value!r} is not {_describe(hint)}"
    if isinstance(hint, UnionType):
        if value is None:
            return (None, None) if NoneType in get_args(hint) else wrong
        converted, fault = _convert(value, next(part for part in get_args(hint) if part is not NoneType))
        return wrong if fault else (converted, None)
    if get_origin(hint) is tuple:
        if not isinstance(value, list) or not value:
            return wrong
        pairs = [_convert(item, get_args(hint)[0]) for item in value]
        return wrong if any(fault for _, fault in pairs) else (tuple(item for item, _ in pairs), None)
    if hint is float and not isinstance(value, bool):
        try:  # YAML 1.1 takes 1e-3, without a point, for text
            return float(value), None
        except (TypeError, ValueError):
            return wrong
    if hint is Path:
        return (Path(value), None) if isinstance(value, str) and value else wrong
    return (value, None) if type(value) is hint else wrong


def _describe(hint: Any) -> str:
    """A type in words."""
    if isinstance(hint, UnionType):
        return _describe(next(part for part in get_args(hint) if part is not NoneType)) + ", or null"
    if get_origin(hint) is tuple:
        return f"a list in [brackets], each {_describe(get_args(hint)[0])}"
    if is_dataclass(hint):
        return f"its keys: {', '.join(field.name for field in fields(hint))}"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a text", Path: "a path"}[hint]


def _nearest(name: str, allowed: Sequence[str] | Mapping[str, Any], prefix: str) -> str:
    found = difflib.get_close_matches(name.lower(), list(allowed), 1, cutoff=0.0)
    return f"; did you mean {prefix}{found[0]}?" if found else ""


ZERO_ALLOWED = {
    "seed", "warmup_steps", "weight_decay", "clip_norm", "crops", "teacher_steps", "speed_change", "passes", "prompts",
    "inner", "each", "layer", "agreement", "pairs", "unit_pairs", "coverage", "spelling", "segment_cost", "words",
}  # fmt: skip
ONE_OF = {
    "pattern": tuple(PATTERNS), "variant": VARIANTS, "transcripts": ("recognizer", "truth", "both"),
    "objective": ("masked", "reconstruction"),
}  # fmt: skip


def _out_of_range(name: str, value: Any) -> str | None:
    """What is wrong with the value of the field ``name`` taken by itself."""
    if (allowed := ONE_OF.get(name)) and value not in allowed:
        return f"{value!r} is not known{_nearest(value, allowed, '')} use one of {', '.join(allowed)}"
    if name in ("dropout", "prenet_dropout", "sampled", "average"):
        return None if 0 <= value < 1 else f"{value} is not at least 0 and below 1"
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, bool) or not isinstance(number, int | float):
            continue
        inside = number >= 0 if name in ZERO_ALLOWED else number > 0
        if not inside or not math.isfinite(number):
            return f"{number} is not {'at least 0' if name in ZERO_ALLOWED else 'above 0'}"
    return "is empty; give a text" if value == "" else None


@dataclass(frozen=True)
class Rule:
    """What values must be to each other: ``holds`` takes the values of ``keys``, as ``message`` does."""

    task: str | None
    keys: tuple[str, ...]
    holds: Callable[..., bool]
    message: str


RULES = (
    Rule(None, ("train.save_every", "train.log_every"), lambda save, log: save % log == 0,
         "train.save_every: {0} is not a multiple of train.log_every ({1}), so a resumed run would log another curve"),
    Rule(None, ("train.batch_size", "train.accumulate"), lambda size, parts: size % parts == 0,
         "train.batch_size: {0} can't be cut into {1} equal parts (train.accumulate)"),
    Rule("retriever", ("train.accumulate",), lambda parts: parts == 1,
         "train.accumulate: {0}, but the whole of a batch is compared at once; give 1, and share it by more processes"),
    Rule(None, ("task", "train.fsdp"), lambda task, fsdp: task == "describer" or not fsdp,
         "train.fsdp: is for describers; a {0} fits into one process: give false"),
    Rule("codec", ("model.num_codebooks",), lambda k: k >= 2, "model.num_codebooks: {0} is not at least 2"),
    Rule("codec", ("model.n_fft", "model.hop_length"), lambda n, hop: n >= 3 * hop and n % (2 * hop) == hop,
         "model.n_fft: {0} is not 3, 5, 7, ... times model.hop_length ({1})"),
    Rule("codec", ("crop_frames", "model.downsample", "model.hop_length"), lambda t, d, hop: t * d * hop > 1024,
         "crop_frames: {0} frames of {1} x {2} samples are too short; a crop has more than 1024 samples"),
    Rule("codec", ("model.hop_length",), lambda hop: hop % 2 == 0 and hop <= 1024,
         "model.hop_length: {0} is not an even number of at most 1024"),
    Rule("recognizer", ("model.hop_length",), lambda hop: hop % 2 == 0 and hop <= 512,
         "model.hop_length: {0} is not an even number of at most 512"),
    Rule("recognizer", ("speed_change",), lambda change: change <= 0.5, "speed_change: {0} is not at most 0.5"),
    Rule("student", ("model.image_size",), lambda size: size % 32 == 0, "model.image_size: {0} is not divisible by 32"),
    Rule("student", ("model.widths", "model.blocks"), lambda widths, blocks: len(widths) == len(blocks) == 4,
         "model.widths: {0} and model.blocks: {1} must have four numbers each, one a stage"),
    Rule("units", ("model.hop_length",), lambda hop: hop % 2 == 0 and hop <= 512,
         "model.hop_length: {0} is not an even number of at most 512"),
    Rule("units", ("model.layer", "model.blocks"), lambda layer, blocks: 1 <= layer <= blocks,
         "model.layer: {0} is not one of the blocks 1 to {1} (model.blocks)"),
    Rule("units", ("objective", "targets", "student"),
         lambda objective, *others: objective == "masked" or not any(others),
         "objective: {0} learns from sound alone; leave out targets ({1}) and student ({2})"),
    Rule("units", ("objective", "model.layer", "model.blocks"),
         lambda objective, layer, blocks: objective == "masked" or layer == blocks,
         "model.layer: {1} of {2} blocks (model.blocks), but with the objective {0} the last one's frames are units"),
    Rule("units", ("words", "pairs"), lambda words, pairs: pairs or not words, "words: {0} need pairs, not pairs: {1}"),
    Rule("vocoder", ("speech.units", "speech.checkpoint"), lambda *units: any(units),
         "speech.units: {0} must be the run of a training of units, or speech.checkpoint: {1} a HuBERT"),
    Rule("sat", ("speech.units", "speech.checkpoint"), lambda *units: any(units),
         "speech.units: {0} must be the run of a training of units, or speech.checkpoint: {1} a HuBERT"),
    Rule("sat", ("tune_student", "teacher_steps"), lambda tuned, steps: not (tuned and steps),
         "teacher_steps: {1}, but a student that learns (tune_student) sees photos; give 0"),
    Rule("sat", ("model.max_steps", "max_frames"), lambda steps, frames: steps > frames,
         "model.max_steps: {0} is too few for max_frames ({1}) and the end"),
    Rule("describer", ("codec", "student", "decoder", "speech.checkpoint", "speech.units"),
         lambda codec, student, decoder, *speech: not (codec or student) and any(speech) if decoder
         else bool(student) and bool(codec) != any(speech),
         "codec: {0} and student: {1} must both be paths, or, without them, decoder: {2} and speech.checkpoint: {3}"
         " name pretrained parts; speech.units: {4} may stand for the codec or for the checkpoint"),
    Rule("describer", ("image_units", "teacher_steps"), lambda units, steps: not (units and steps),
         "teacher_steps: {1}, but image_units ({0}) hold nothing of a teacher; give 0"),
    Rule("describer", ("image_units", "image_tokenizer", "decoder"),
         lambda units, tokenizer, decoder: bool(tokenizer) == bool(units and decoder),
         "image_tokenizer: {1} is the ViT-VQGAN of image_units: {0} on pretrained parts (decoder: {2}), and of nothing"
         " else"),
    Rule("describer", ("model.width", "model.heads"), lambda width, heads: width % heads == 0,
         "model.width: {0} is not divisible by model.heads ({1})"),
    Rule("sas", ("model.max_steps", "max_frames"), lambda steps, frames: steps >= frames,
         "model.max_steps: {0} is too few for recordings of max_frames ({1})"),
    Rule("cascade", ("model.num_codebooks",), lambda codebooks: codebooks == 1,
         "model.num_codebooks: {0}, but text is one codebook; give 1"),
    Rule("cascade", ("model.codebook_size",), lambda size: size >= 256,
         "model.codebook_size: {0} is too few for the 256 bytes that text is made of"),
    Rule("cascade", ("model.width", "model.heads"), lambda width, heads: width % heads == 0,
         "model.width: {0} is not divisible by model.heads ({1})"),
    Rule("cascade", ("model.max_steps", "max_frames"), lambda steps, frames: steps > frames,
         "model.max_steps: {0} is too few for max_frames ({1}) and the end"),
    Rule("retriever", ("image", "recognizer", "student"), lambda image, *small: image or all(small),
         "recognizer: {1} and student: {2} must both be paths, or text, speech and image name pretrained towers"),
    Rule("retriever", ("keep_start", "start_from"), lambda keep, start: bool(start) or not keep,
         "keep_start: {0}, but start_from: {1} names nothing to keep; give the folder of a finished retriever"),
    Rule("retriever", ("spelling",), lambda order: order <= LONGEST,
         f"spelling: n-grams of {{0}} letters are too long; give at most {LONGEST}, or 0 for none"),
    Rule("retriever", ("spelling", "image", "model.variant"),
         lambda order, image, variant: not order or (not image and variant != "e2e"),
         "spelling: {0}, but nothing reads letters (image: {1}, model.variant: {2}); give 0"),
    Rule("retriever", ("loudness", "model.variant"),
         lambda loudness, variant: variant == "full" or tuple(loudness) == (1.0,),
         "loudness: {0} is of the sound beside the words, but variant {1} has one channel; leave loudness out"),
    Rule("retriever", ("model.embed_dim", "model.heads"), lambda width, heads: width % heads == 0,
         "model.embed_dim: {0} is not divisible by model.heads ({1})"),
    Rule("retriever", ("model.speeds",), lambda speeds: speeds and all(SLOWEST <= s <= FASTEST for s in speeds),
         f"model.speeds: {{0}}; give one or more, each {SLOWEST:g} to {FASTEST:g}"),
    Rule("retriever", ("model.window", "model.stack"), lambda window, stack: window % stack == 0,
         "model.window: {0} is not divisible by model.stack ({1})"),
    Rule("describer", ("model.max_steps", "max_frames", "model.pattern", "model.num_codebooks"),
         lambda steps, frames, pattern, k: steps > frames + PATTERNS[pattern](k).max_delay,
         "model.max_steps: {0} is too few for max_frames ({1}) in the {2} pattern of {3} codebooks and the end"),
)  # fmt: skip


def _broken_rules(task: str, known: Mapping[str, Any]) -> Iterator[str]:
    """The rules that don't hold; one whose values are missing or faulty themselves isn't asked."""
    for rule in RULES:
        if rule.task in (None, task) and all(key in known for key in rule.keys):
            values = [known[key] for key in rule.keys]
            if not rule.holds(*values):
                yield rule.message.format(*values)
