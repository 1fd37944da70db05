"""The speech tokens of full-size describers, by the names in a recipe: EnCodec, or HuBERT units with their vocoder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixvoice.contracts import SpeechTokenizer
from pixvoice.errors import BundleError, OptionError

KINDS = {"encodec": "EncodecModel", "hubert": "HubertModel"}


@dataclass(frozen=True)
class SpeechParts:
    """An EnCodec or a HuBERT checkpoint, a folder or a hub id, and what belongs to it.

    ``sample_rate`` in Hz is what the recipe expects of it.  EnCodec: ``bandwidth`` in kbit/s.  HuBERT: its ``layer``,
    the ``kmeans`` of that layer (safetensors), and the folder of the ``vocoder``, which only speaking needs.
    """

    checkpoint: str | None = None
    sample_rate: int = 24_000
    bandwidth: float | None = None
    layer: int = 6
    kmeans: Path | None = None
    vocoder: Path | None = None

    @classmethod
    def from_json(cls, **values: Any) -> SpeechParts:
        """From what ``dataclasses.asdict`` and JSON made of it."""
        paths = {key: Path(values[key]) for key in ("kmeans", "vocoder") if values.get(key)}
        return cls(**{**values, **paths})


def load_speech_tokenizer(parts: SpeechParts, num_codebooks: int, codebook_size: int) -> SpeechTokenizer:
    """The tokenizer of ``parts``, for a describer of K codebooks of V.

    Raises:
        BundleError: a checkpoint isn't there, is another architecture's or a pickle; or its parts don't fit together.
        MissingToolError: a package isn't installed.
        OptionError: it has another rate, number or size of codebooks than the recipe says, or no such bandwidth.
    """
    name = parts.checkpoint
    if name is None:
        raise OptionError("speech.checkpoint: is missing; name an EnCodec such as facebook/encodec_24khz, or a HuBERT")
    from pixvoice.retrieve.hf_load import load_config
    from pixvoice.speech.encodec import EncodecTokenizer

    refuse_pickles(name)
    tokenizer: SpeechTokenizer
    if load_config(name, KINDS, "EnCodec or HuBERT").model_type == "encodec":
        tokenizer = EncodecTokenizer(name, parts.bandwidth)
    else:
        tokenizer = _units(name, parts)
    told = {
        "speech.sample_rate": (parts.sample_rate, tokenizer.sample_rate),
        "model.num_codebooks": (num_codebooks, tokenizer.num_codebooks),
        "model.codebook_size": (codebook_size, tokenizer.codebook_size),
    }
    for key, (wanted, found) in told.items():
        if wanted != found:
            at = "" if parts.bandwidth is None else f" at {parts.bandwidth:g} kbit/s"
            raise OptionError(f"{key}: the recipe says {wanted}, but {name}{at} has {found}; give {found}, or another")
    return tokenizer


def _units(name: str, parts: SpeechParts) -> SpeechTokenizer:
    from pixvoice.speech.units import HubertFeatures, UnitTokenizer, read_centroids
    from pixvoice.speech.vocoder import UnitVocoder

    if parts.kmeans is None:
        raise OptionError(f"speech.kmeans: is missing; give the k-means of layer {parts.layer} of {name}")
    centroids = read_centroids(parts.kmeans)
    vocoder = None if parts.vocoder is None else UnitVocoder.load(parts.vocoder)
    return UnitTokenizer(HubertFeatures(name, parts.layer), centroids, vocoder)


def refuse_pickles(checkpoint: str) -> None:
    """Raise BundleError for a folder that holds its weights only as pickles."""
    folder = Path(checkpoint)
    if not folder.is_dir() or any(folder.glob("*.safetensors*")):
        return
    pickles = sorted(folder.glob("*.bin.index.json")) or sorted(folder.glob("*.bin"))
    if pickles:
        raise BundleError(
            f"{folder} holds its weights only as a pickle ({pickles[0].name}), which can run code when it is read; turn"
            f" it into one that can't: pixvoice convert {pickles[0]} -o {folder / 'model.safetensors'}"
        )
