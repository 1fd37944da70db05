"""From the names in a recipe to a dual-channel model: small parts, or towers of Hugging Face Transformers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixvoice.errors import BundleError, OptionError
from pixvoice.letter_model import FILE, LetterModel
from pixvoice.retrieve.model import DualChannel, RetrieverConfig
from pixvoice.retrieve.search_model import TorchSearchModel
from pixvoice.retrieve.small_parts import SmallConfig, SmallRecognizer, SmallSpeechPart, small_dual_channel
from pixvoice.speech.ctc import LETTERS


@dataclass(frozen=True)
class FullConfig:
    """A dual-channel model on pretrained towers, each a folder or a hub id; saved beside its weights.

    ``speech`` is heard, and where the variant reads, it is a Whisper that writes the transcripts too.
    """

    model: RetrieverConfig
    image: str
    text: str | None = None
    speech: str | None = None

    def check(self) -> None:
        """Raise OptionError for a tower that the variant needs and that isn't named."""
        variant = self.model.variant
        if self.model.reads and not self.text:
            raise OptionError(f"text: variant {variant} needs a CLIP or SigLIP, such as openai/clip-vit-large-patch14")
        if not self.speech:
            raise OptionError("speech: is missing; name a Whisper such as openai/whisper-base.en, or for e2e a HuBERT")


def config_from_json(**sections: Any) -> SmallConfig | FullConfig:
    """What ``dataclasses.asdict`` and JSON made of either.  Raises TypeError or KeyError for anything else."""
    if "image" not in sections:
        return SmallConfig.from_json(**sections)
    return FullConfig(**{**sections, "model": RetrieverConfig(**sections["model"])})


def full_dual_channel(config: FullConfig) -> DualChannel:
    """The model of ``config``, its towers loaded, the rest untrained.

    Raises:
        BundleError: a checkpoint isn't there, is another architecture's, or lacks a file.
        MissingToolError: a tokenizer needs a package that isn't installed.
        OptionError: a tower that the variant needs isn't named, or the prompts leave no room for words.
    """
    from pixvoice.retrieve.hf_image import ClipImage
    from pixvoice.retrieve.hf_speech import load_speech
    from pixvoice.retrieve.hf_text import ClipText

    config.check()
    dims = config.model
    text = ClipText.load(config.text, dims.prompts) if dims.reads and config.text else None
    speech = load_speech(config.speech) if dims.hears and config.speech else None
    return DualChannel(dims, text, speech, ClipImage.load(config.image))


def build(config: SmallConfig | FullConfig) -> DualChannel:
    """The untrained model of either configuration.  Raises as ``full_dual_channel`` does."""
    return full_dual_channel(config) if isinstance(config, FullConfig) else small_dual_channel(config)


def load_search_model(folder: Path) -> TorchSearchModel:
    """A trained retriever of either size, from the folder of its run, with what writes its transcripts.

    Raises BundleError if the folder holds none, or a checkpoint that it was trained on isn't there.
    """
    from pixvoice.speech.transformers_asr import WhisperRecognizer
    from pixvoice.training.trainer import load_model

    read: list[SmallConfig | FullConfig] = []

    def keep(config: SmallConfig | FullConfig) -> DualChannel:
        read.append(config)
        return build(config)

    model = load_model(folder, "retriever", config_from_json, keep)
    files = [folder / file for file in ("model.safetensors", "config.json", FILE) if (folder / file).is_file()]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files))
    name, fingerprint = folder.name, digest.hexdigest()[:12]
    if not model.dims.reads:
        return TorchSearchModel(model, None, name, fingerprint)
    if isinstance(read[0], FullConfig):
        return TorchSearchModel(model, WhisperRecognizer(str(read[0].speech)), name, fingerprint)
    if not isinstance(model.speech, SmallSpeechPart):
        raise BundleError(f"{folder} has no recognizer: train it again")
    spelling = read_spelling(folder)
    return TorchSearchModel(model, SmallRecognizer(model.speech.recognizer, spelling=spelling), name, fingerprint)


def read_spelling(folder: Path) -> LetterModel | None:
    """The letter model that a retriever's training left in its folder, if it did.  Raises BundleError."""
    path = folder / FILE
    return LetterModel.load(path.read_bytes(), LETTERS, path) if path.is_file() else None
