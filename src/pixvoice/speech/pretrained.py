"""The speech tokens that recipes name: EnCodec, or units of HuBERT or our own encoder with their vocoder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pixvoice.contracts import SpeechTokenizer
from pixvoice.errors import BundleError, OptionError

if TYPE_CHECKING:
    from pixvoice.speech.units import UnitFeatures, UnitTokenizer
    from pixvoice.speech.word_tokenizer import WordTokenizer

KINDS = {"encodec": "EncodecModel", "hubert": "HubertModel"}


@dataclass(frozen=True)
class SpeechParts:
    """An EnCodec or a HuBERT checkpoint, a folder or a hub id, and what belongs to it.

    ``sample_rate`` in Hz is what the recipe expects of it.  EnCodec: ``bandwidth`` in kbit/s.  HuBERT: its ``layer``,
    the ``kmeans`` of that layer (safetensors), and the folder of the ``vocoder``, which only speaking needs.
    ``units``, the folder of a training of units, stands in the place of checkpoint, layer and k-means; of its byte
    pairs the first ``unit_pairs`` are used, or its words (``unit_words``).  Units are ``merged`` where neighbours are
    equal, or said frame by frame, as those of words are.
    """

    checkpoint: str | None = None
    sample_rate: int = 24_000
    bandwidth: float | None = None
    layer: int = 6
    kmeans: Path | None = None
    vocoder: Path | None = None
    units: Path | None = None
    unit_pairs: int = 0
    unit_words: bool = False
    merged: bool = True

    @classmethod
    def from_json(cls, **values: Any) -> SpeechParts:
        """From what ``dataclasses.asdict`` and JSON made of it."""
        paths = {key: Path(values[key]) for key in ("kmeans", "vocoder", "units") if values.get(key)}
        return cls(**{**values, **paths})


def load_speech_tokenizer(parts: SpeechParts, num_codebooks: int, codebook_size: int) -> SpeechTokenizer:
    """The tokenizer of ``parts``, for a describer of K codebooks of V.

    Raises:
        BundleError: a checkpoint isn't there, is another architecture's or a pickle; or its parts don't fit together.
        MissingToolError: a package isn't installed.
        OptionError: it has another rate, number or size of codebooks than the recipe says, or no such bandwidth.
    """
    name = str(parts.units or parts.checkpoint)
    tokenizer = _tokenizer(parts)
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


def _tokenizer(parts: SpeechParts) -> SpeechTokenizer:
    if parts.unit_words:
        return word_tokenizer(parts)
    if parts.units is None and parts.checkpoint is not None:
        from pixvoice.retrieve.hf_load import load_config
        from pixvoice.speech.encodec import EncodecTokenizer

        refuse_pickles(parts.checkpoint)
        if load_config(parts.checkpoint, KINDS, "EnCodec or HuBERT").model_type == "encodec":
            return EncodecTokenizer(parts.checkpoint, parts.bandwidth)
    units = unit_tokenizer(parts)
    if not parts.unit_pairs:
        return units
    if parts.units is None:
        raise OptionError("speech.unit_pairs: only units of our own training (speech.units) have byte pairs; give 0")
    if not parts.merged:
        raise OptionError("speech.unit_pairs: byte pairs are of merged units; give 0, or speech.merged: true")
    from pixvoice.speech.unit_encoder import PAIRS
    from pixvoice.speech.unit_pairs import PairTokenizer, UnitPairs

    return PairTokenizer(units, UnitPairs.load(parts.units / PAIRS).first(parts.unit_pairs))


def word_tokenizer(parts: SpeechParts) -> WordTokenizer:
    """The words of units of ``parts``, which has them; without a vocoder they can't be spoken.

    Raises as ``load_speech_tokenizer`` does.
    """
    from pixvoice.speech.unit_encoder import WORDS
    from pixvoice.speech.word_tokenizer import WordTokenizer
    from pixvoice.unit_words import UnitWords

    if parts.units is None:
        raise OptionError("speech.unit_words: only units of our own training (speech.units) have words; leave it out")
    if parts.merged or parts.unit_pairs:
        said = f"speech.merged: {str(parts.merged).lower()} and speech.unit_pairs: {parts.unit_pairs}"
        raise OptionError(f"speech.unit_words: words are of the unit of each frame, not {said}; give false and 0")
    return WordTokenizer(unit_tokenizer(parts), UnitWords.load(parts.units / WORDS))


def unit_tokenizer(parts: SpeechParts) -> UnitTokenizer:
    """The units of ``parts``, without byte pairs and words; without a vocoder they can't be spoken.

    Raises as ``load_speech_tokenizer`` does.
    """
    from pixvoice.speech.latent_vocoder import load_vocoder
    from pixvoice.speech.unit_encoder import KMEANS, OwnFeatures
    from pixvoice.speech.units import HubertFeatures, UnitTokenizer, read_centroids

    features: UnitFeatures
    segment_cost = 0.0
    if parts.units is not None:
        features, kmeans = OwnFeatures.load(parts.units), parts.kmeans or parts.units / KMEANS
        segment_cost = features.encoder.dims.segment_cost
    elif parts.checkpoint is None:
        raise OptionError("speech.checkpoint: is missing; name an EnCodec such as facebook/encodec_24khz, or a HuBERT")
    elif parts.kmeans is None:
        raise OptionError(f"speech.kmeans: is missing; give the k-means of layer {parts.layer} of {parts.checkpoint}")
    else:
        refuse_pickles(parts.checkpoint)
        features, kmeans = HubertFeatures(parts.checkpoint, parts.layer), parts.kmeans
    vocoder = None if parts.vocoder is None else load_vocoder(parts.vocoder)
    return UnitTokenizer(features, read_centroids(kmeans), vocoder, parts.merged, segment_cost)


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
