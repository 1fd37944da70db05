"""Describers in PyTorch, from the folder of their run: photo in, spoken description out.

``load_speaker`` is the door by which every row that makes no bundle is heard.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from pixvoice.contracts import Codes, Floats, SpeechTokenizer
from pixvoice.describe.build import FullDescriberConfig, load_run
from pixvoice.describe.decoder import SatSpeechDecoder, TorchSpeechDecoder
from pixvoice.describe.model import PixVoxConfig, PixVoxLM
from pixvoice.describe.pretrained import PretrainedDescriber
from pixvoice.describe.sat import TUNED, SatRunConfig, ShowAttendTell
from pixvoice.errors import BundleError, InputError, OptionError
from pixvoice.images import PhotoSource, read_image, to_pixels
from pixvoice.patterns import make_pattern
from pixvoice.runtime.completion import BeginningSource, beginning_codes
from pixvoice.runtime.decoding import DecodingOptions, generate
from pixvoice.runtime.describer import Description
from pixvoice.speech.pretrained import load_speech_tokenizer
from pixvoice.speech.units import JoinedUnits, UnitTokenizer

if TYPE_CHECKING:
    from PIL.Image import Image

    from pixvoice.describe.sas_speaker import SasDescriber
    from pixvoice.vision.image_units import ImageUnits
    from pixvoice.vision.student import ImageStudent

SMALL = DecodingOptions(strategy="beam", beam_size=8)
"""How the small rows choose their tokens, in bundles too."""


class Sees(Protocol):
    """Photos -> features."""

    def prepare(self, photos: Sequence[Image]) -> Tensor:
        """Photos (B of them, RGB) -> pixels (B, 3, H, W)."""

    def __call__(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) -> features (B, P, D)."""


class StudentSees:
    """Our image student, or the image units in its place."""

    def __init__(self, student: ImageStudent | ImageUnits) -> None:
        self.student = student.eval()

    def prepare(self, photos: Sequence[Image]) -> Tensor:
        """Photos (B of them, RGB) -> pixels (B, 3, H, W) in [0, 1]."""
        size = self.student.dims.image_size
        return torch.from_numpy(np.stack([to_pixels(photo, size) for photo in photos]))

    def __call__(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) -> features (B, P, D)."""
        features: Tensor = self.student(pixels)
        return features


class TorchDescriber:
    """Describes photos aloud; greedy unless told otherwise, as Im2Sp does."""

    def __init__(
        self,
        model: PretrainedDescriber | PixVoxLM | ShowAttendTell,
        tokenizer: SpeechTokenizer,
        options: DecodingOptions | None = None,
        image: Sees | None = None,
    ) -> None:
        """``image`` may be left out for a model that has its own."""
        self.model, self._tokenizer = model.eval(), tokenizer
        self.image: Any = image or model.image
        self.decoder = SatSpeechDecoder(model) if isinstance(model, ShowAttendTell) else TorchSpeechDecoder(model)
        self.pattern = make_pattern(model.dims.pattern, model.dims.num_codebooks)
        self.options = options or DecodingOptions()

    @classmethod
    def load(cls, folder: str | Path) -> TorchDescriber:
        """The describer of a run of ``pixvoice train``: greedy on pretrained parts, a small one by beam search.

        Raises BundleError if the folder holds none, or a part that it names isn't there; OptionError, MissingToolError
        as ``load_speech_tokenizer`` does.
        """
        model, config = load_run(Path(folder))
        if isinstance(config, PixVoxConfig):
            return cls(model, *_small_parts(Path(folder), config))
        dims = config.model
        tokenizer = load_speech_tokenizer(config.speech, dims.num_codebooks, dims.codebook_size)
        if isinstance(config, FullDescriberConfig):
            return cls(model, tokenizer)
        from pixvoice.training.image_encoders import load_image_encoder

        return cls(model, tokenizer, SMALL, StudentSees(load_image_encoder(config.student)))

    @property
    def tokenizer(self) -> SpeechTokenizer:
        """The codec, or the units with their vocoder."""
        return self._tokenizer

    @property
    def sample_rate(self) -> int:
        """Audio samples a second (Hz)."""
        return self._tokenizer.sample_rate

    def describe(self, image: PhotoSource, *, seed: int | None = None, **options: Any) -> Description:
        """Describe one photo; ``options`` are fields of ``DecodingOptions``.

        The description's confidence is the mean probability (geometric) of a token, and not calibrated.

        Raises InputError for a photo that can't be read, OptionError for an option that isn't allowed.
        """
        decoding = self.options.changed(**options, **({} if seed is None else {"seed": seed}))
        said = generate(self.decoder, self._see(image), self.pattern, decoding)
        audio = self._tokenizer.decode(said.codes)
        return Description(audio, self.sample_rate, math.exp(min(0.0, said.log_prob)), said.codes, said.log_prob)

    def complete(
        self, image: PhotoSource, beginning: BeginningSource, *, seed: int | None = None, **options: Any
    ) -> Description:
        """Describe one photo in an utterance that begins with recorded speech; as ``pixvoice.Describer.complete``.

        Raises OptionError for a describer of units, whose beginning has no length before it is spoken, and what
        ``describe`` raises.
        """
        if isinstance(self._tokenizer, UnitTokenizer | JoinedUnits):
            raise OptionError("a describer of units can't go on from a beginning; give one of codec tokens")
        decoding = self.options.changed(**options, **({} if seed is None else {"seed": seed}))
        limit = min(decoding.max_frames, self.decoder.max_steps - self.pattern.max_delay)
        prompt = beginning_codes(beginning, self._tokenizer, limit)
        said = generate(self.decoder, self._see(image), self.pattern, decoding, prompt)
        audio, begins_s = self._tokenizer.decode(said.codes), prompt.shape[1] / self._tokenizer.frame_rate
        confidence = math.exp(min(0.0, said.log_prob))
        return Description(audio, self.sample_rate, confidence, said.codes, said.log_prob, begins_s)

    @torch.inference_mode()
    def attention(self, image: PhotoSource, codes: Codes) -> Floats | None:
        """Where the model looked while it said ``codes`` (K, T) of a photo: weights (T, P), each row summing to 1.

        Patches run row by row from the top left.  With a delay, frame t is where codebook 0 was chosen.  None for a
        model that can't tell.
        """
        look = getattr(self.model, "attention", None)
        if look is None or not codes.shape[1]:
            return None
        special = np.full((len(codes), 1), self.decoder.codebook_size, np.int64)
        tokens = np.concatenate([special, self.pattern.apply(codes, self.decoder.codebook_size)], axis=1)
        tokens = tokens[:, : codes.shape[1]]  # what each frame was chosen after
        weights: Tensor = look(torch.from_numpy(self._see(image)), torch.from_numpy(tokens[None]))
        return np.asarray(weights[0].float().numpy())

    @torch.inference_mode()
    def _see(self, source: PhotoSource) -> Floats:
        """Any photo -> features (1, P, D)."""
        features: Floats = self.image(self.image.prepare([read_image(source)])).numpy()
        return features


def _small_parts(folder: Path, dims: PixVoxConfig) -> tuple[SpeechTokenizer, DecodingOptions, Sees]:
    """What a small describer of codec tokens needs to be heard: the codec and the student of its run's recipe."""
    from pixvoice.speech.tokenizer import CodecTokenizer
    from pixvoice.training.image_encoders import load_image_encoder
    from pixvoice.training.recipes import load_recipe

    try:
        recipe: Any = load_recipe(folder / "recipe.yaml")
    except InputError:
        raise BundleError(
            f"{folder} has no recipe.yaml, which names its codec and student: export all three, and give the bundle"
        ) from None
    tokenizer = CodecTokenizer(recipe.codec, dims.num_codebooks)
    return tokenizer, SMALL, StudentSees(load_image_encoder(recipe.student))


def load_sat(folder: Path) -> TorchDescriber:
    """The describer of a run of ``task: sat``, by beam search; a student that was tuned with it lies in the run.

    Raises as ``TorchDescriber.load`` does.
    """
    from pixvoice.training.image_encoders import load_image_encoder
    from pixvoice.training.trainer import load_model

    read: list[SatRunConfig] = []

    def make(config: SatRunConfig) -> ShowAttendTell:
        read.append(config)
        return ShowAttendTell(config.model)

    model = load_model(folder, "sat", SatRunConfig.from_json, make)
    speech, student = read[0].speech, read[0].student or folder / TUNED
    tokenizer = load_speech_tokenizer(speech, model.dims.num_codebooks, model.dims.codebook_size)
    return TorchDescriber(model, tokenizer, SMALL, StudentSees(load_image_encoder(student)))


def _cascade(folder: Path) -> TorchDescriber:
    from pixvoice.describe.cascade import load_cascade
    from pixvoice.training.image_encoders import load_image_encoder

    model, tokenizer, student = load_cascade(folder)
    return TorchDescriber(model, tokenizer, SMALL, StudentSees(load_image_encoder(student)))


def _sas(folder: Path) -> SasDescriber:
    from pixvoice.describe.sas_speaker import SasDescriber

    return SasDescriber.load(folder)


SPEAKERS: Mapping[str, Callable[[Path], TorchDescriber | SasDescriber]] = {
    "describer": TorchDescriber.load,
    "sat": load_sat,
    "sas": _sas,
    "cascade": _cascade,
}
"""Who speaks for the run of each task."""


def load_speaker(folder: Path) -> TorchDescriber | SasDescriber:
    """What describes photos with the run in ``folder``, by the task in its ``config.json``.

    Raises BundleError if the folder holds nothing that describes photos, and what the loader of its task raises.
    """
    from pixvoice.training.trainer import trained_task

    task = trained_task(folder)
    if task is None:
        raise BundleError(f"no trained describer in {folder}: give the folder of a finished training")
    if task not in SPEAKERS:
        raise BundleError(f"{folder} holds a {task}, which describes no photos: use a run of {', '.join(SPEAKERS)}")
    return SPEAKERS[task](folder)
