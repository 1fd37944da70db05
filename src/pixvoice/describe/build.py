"""From the names in a recipe to a describer: PixVoxLM on BLIP, Im2Sp on GiT, or the small size of either."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import BlipForConditionalGeneration, BlipImageProcessorPil, CLIPImageProcessorPil, GitForCausalLM

from pixvoice.describe.hf_blip import BlipDescriber
from pixvoice.describe.hf_git import GitDescriber
from pixvoice.describe.image_units import fit_projection, load_units_image
from pixvoice.describe.model import PixVoxConfig, PixVoxLM
from pixvoice.describe.pretrained import PretrainedDescriber, PretrainedImage
from pixvoice.errors import BundleError
from pixvoice.retrieve.hf_load import guarded, load_config, load_tower
from pixvoice.speech.pretrained import SpeechParts, refuse_pickles

MODELS: Mapping[str, Any] = {"blip": BlipForConditionalGeneration, "git": GitForCausalLM}
PROCESSORS: Mapping[str, Any] = {"blip": BlipImageProcessorPil, "git": CLIPImageProcessorPil}
DESCRIBERS: Mapping[str, Any] = {"blip": BlipDescriber, "git": GitDescriber}
WANTED = "BLIP or GiT that captions photos"


@dataclass(frozen=True)
class FullDescriberConfig:
    """A describer on pretrained parts, each a folder or a hub id; saved beside its weights.

    ``image`` is frozen and never saved; ``decoder`` is where the text decoder began.  With ``image_tokenizer``, a
    ViT-VQGAN, ``image`` is where the ViT began that learns to read its units.
    """

    model: PixVoxConfig
    image: str
    decoder: str
    speech: SpeechParts = field(default_factory=SpeechParts)
    image_tokenizer: str | None = None


@dataclass(frozen=True)
class UnitDescriberConfig:
    """A small describer that says the units of ``speech``: Im2Sp in the small size; saved beside its weights.

    ``student`` is the folder of the image student.
    """

    model: PixVoxConfig
    student: Path
    speech: SpeechParts


DescriberConfig = FullDescriberConfig | UnitDescriberConfig | PixVoxConfig


def describer_from_json(**sections: Any) -> DescriberConfig:
    """What ``dataclasses.asdict`` and JSON made of any.  Raises TypeError or KeyError for anything else."""
    if "speech" not in sections:
        return PixVoxConfig(**sections)
    speech, model = SpeechParts.from_json(**sections["speech"]), PixVoxConfig(**sections["model"])
    if "student" in sections:
        return UnitDescriberConfig(model, Path(sections["student"]), speech)
    return FullDescriberConfig(model, sections["image"], sections["decoder"], speech, sections.get("image_tokenizer"))


def small_config(**sections: Any) -> UnitDescriberConfig | PixVoxConfig:
    """As ``describer_from_json``, if a bundle can hold it.  Raises BundleError for one on pretrained parts."""
    config = describer_from_json(**sections)
    if isinstance(config, FullDescriberConfig):
        hint = "hear it with: pixvoice evaluate describe --bundle RUN"
        raise BundleError(f"a describer on pretrained parts makes no bundle; {hint}")
    return config


def load_captioner(checkpoint: str) -> tuple[str, Any]:
    """The kind (``blip`` or ``git``) and the model of a checkpoint, by folder or hub id.

    Raises BundleError if there is no such checkpoint, it is neither, or a file is missing, damaged or a pickle.
    """
    refuse_pickles(checkpoint)
    kind = str(load_config(checkpoint, MODELS, WANTED).model_type)
    return kind, load_tower(checkpoint, MODELS[kind], WANTED)


def image_part(checkpoint: str, kind: str, model: Any) -> PretrainedImage:
    """The image encoder of a captioner, with the preprocessing of its checkpoint."""
    tower = model.vision_model if kind == "blip" else model.git.image_encoder
    return PretrainedImage(tower, guarded(checkpoint, WANTED, lambda: PROCESSORS[kind].from_pretrained(checkpoint)))


def full_describer(config: FullDescriberConfig) -> PretrainedDescriber:
    """The describer of ``config``, its checkpoints loaded, its codebooks untrained.

    Raises:
        BundleError: as ``load_captioner``, or image encoder and decoder don't fit together.
        OptionError: the decoder has too few positions for ``model.max_steps``.
    """
    kind, model = load_captioner(config.decoder)
    if config.image_tokenizer is not None:
        units = load_units_image(config.image, config.image_tokenizer)
        if kind == "git":
            fit_projection(model, units.embed_dim)
        reader: PretrainedDescriber = DESCRIBERS[kind](config.model, units, model)
        return reader
    seen = (kind, model) if config.image == config.decoder else load_captioner(config.image)
    describer: PretrainedDescriber = DESCRIBERS[kind](config.model, image_part(config.image, *seen), model)
    return describer


def build(config: DescriberConfig) -> PretrainedDescriber | PixVoxLM:
    """The untrained describer of any configuration.  Raises as ``full_describer`` does."""
    if isinstance(config, FullDescriberConfig):
        return full_describer(config)
    return PixVoxLM(config.model if isinstance(config, UnitDescriberConfig) else config)


def load_run(folder: Path) -> tuple[PretrainedDescriber | PixVoxLM, DescriberConfig]:
    """A trained describer, from the folder of its run, and its configuration.

    Raises BundleError if the folder holds none, or a checkpoint that it was trained on isn't there.
    """
    from pixvoice.training.trainer import load_model

    read: list[DescriberConfig] = []

    def make(config: DescriberConfig) -> PretrainedDescriber | PixVoxLM:
        read.append(config)
        return build(config)

    model = load_model(folder, "describer", describer_from_json, make)
    return model, read[0]
