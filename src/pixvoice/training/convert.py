"""Published weights as safetensors: a torch file, several, or a k-means of scikit-learn; none of its code is run."""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from pixvoice.errors import InputError, OptionError
from pixvoice.files import read_bytes, write_bytes_atomically
from pixvoice.speech.kmeans_pickle import read_kmeans_pickle
from pixvoice.speech.units import CENTROIDS
from pixvoice.speech.vocoder import fold_weight_norm, is_unit_vocoder

PLACES = ("state_dict", "model_state_dict", "generator", "model")
"""Where published files keep their weights, if not at the top."""
OLD_TORCH = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."  # the first bytes of a torch file that is no zip
MAX_KMEANS_BYTES = 500_000_000
INDEX = ".index.json"


@dataclass(frozen=True)
class Converted:
    """How many tensors were written, and one line for each thing that was left out or changed."""

    tensors: int
    numbers: int
    notes: tuple[str, ...]


def convert(source: Path, output: Path) -> Converted:
    """Write the tensors of ``source`` to ``output``, a safetensors file, whole or not at all.

    ``source``: a torch file (.pt, .bin, .ckpt, no suffix), the ``.index.json`` of several, or a pickled k-means.

    Raises:
        InputError: it can't be read, holds objects that aren't tensors, or no tensors at all.
        OptionError: ``output`` doesn't end in .safetensors.
        OutputError: it can't be written.
    """
    if output.suffix != ".safetensors":
        raise OptionError(f"{output}: give a name that ends in .safetensors")
    tensors, notes = _of_index(source) if source.name.endswith(INDEX) else _of_file(source)
    if is_unit_vocoder(tensors):
        tensors = fold_weight_norm(tensors)
        notes.append("a unit HiFi-GAN: its weight norm is folded into the weights")
    whole = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}  # none shares its memory
    write_bytes_atomically(output, save(whole, metadata={"format": "pt"}))
    return Converted(len(whole), sum(tensor.numel() for tensor in whole.values()), tuple(notes))


def _of_index(source: Path) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of all shards that an index names."""
    name, data = read_bytes(source, "index of shards", 100_000_000)
    try:
        shards = sorted(set(json.loads(data)["weight_map"].values()))
        places = [source.parent / Path(shard).name for shard in shards]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{name}: no index of shards ({error}); give a torch file, or its .index.json") from None
    tensors: dict[str, Tensor] = {}
    notes: list[str] = []
    for place in places:
        if not place.exists():
            raise InputError(f"{place}: a shard that {source.name} names is missing; fetch it into the same folder")
        found, said = _of_file(place)
        tensors |= found
        notes += said
    return tensors, notes


def _of_file(source: Path) -> tuple[dict[str, Tensor], list[str]]:
    if not source.is_file():
        raise InputError(f"{source}: no such file; give a torch file, its .index.json, or a pickled k-means")
    with source.open("rb") as file:
        begin = file.read(len(OLD_TORCH))
    if not zipfile.is_zipfile(source) and begin != OLD_TORCH:
        name, data = read_bytes(source, "k-means", MAX_KMEANS_BYTES)
        return {CENTROIDS: torch.from_numpy(read_kmeans_pickle(data, name))}, []
    try:
        saved = torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = f" ({named.group(1)})" if named else ""
        raise InputError(
            f"{source}: holds objects{what} beside its tensors, and reading those can run code: nothing of it was read;"
            " get a file of the weights alone (a state dict)"
        ) from None
    except Exception as error:  # a damaged file: torch's reader raises errors of many kinds
        reason = " ".join(str(error).split())[:150]
        raise InputError(f"{source}: can't be read as a torch file ({reason}); fetch it again") from None
    return tensors_of(saved, str(source))


def tensors_of(saved: Any, name: str) -> tuple[dict[str, Tensor], list[str]]:
    """The named tensors of what torch read, and a line for each thing beside them.

    Raises InputError, which begins with ``name``, if there are none.
    """
    notes: list[str] = []
    place = next((key for key in PLACES if isinstance(saved, Mapping) and isinstance(saved.get(key), Mapping)), None)
    if place is not None:
        notes += [f"{key}: left out, only {place} is taken" for key in saved if key != place]
        saved = saved[place]
    if not isinstance(saved, Mapping):
        raise InputError(f"{name}: holds a {type(saved).__name__}, not tensors with names; give a state dict")
    tensors: dict[str, Tensor] = {}
    for key, value in saved.items():
        if isinstance(value, Tensor) and value.layout == torch.strided and not value.is_quantized:
            tensors[str(key)] = value
        else:
            notes.append(f"{key}: left out, not a plain tensor ({type(value).__name__})")
    if not tensors:
        raise InputError(f"{name}: holds no tensors with names, only {', '.join(map(str, saved)) or 'nothing'}"[:300])
    return tensors, notes
