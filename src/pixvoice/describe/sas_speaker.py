"""Show and speak, heard: photo in, mel frames, and the codec that speaks them.

The frames are those that our codec's encoder begins with.  So what is said goes through the rest of that encoder, its
quantizer, which puts a sound of real speech in the place of a blurred one, and its decoder: no vocoder is trained.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pixvoice.contracts import Codes, Floats
from pixvoice.describe.sas import SasRunConfig, ShowAndSpeak
from pixvoice.errors import BundleError, OptionError
from pixvoice.images import PhotoSource, read_image
from pixvoice.runtime.decoding import DecodingOptions
from pixvoice.runtime.describer import Description
from pixvoice.speech.tokenizer import CodecTokenizer

if TYPE_CHECKING:
    from pixvoice.describe.speaker import Sees

OPTIONS = ("min_frames", "max_frames", "end_bias")
"""The fields of ``DecodingOptions`` that mean something where no token is chosen; a frame is a step here."""


class SasDescriber:
    """Describes photos aloud.  The prenet's dropout works here too, by ``seed``: one seed, one description."""

    def __init__(self, model: ShowAndSpeak, tokenizer: CodecTokenizer, image: Sees) -> None:
        """Raises BundleError for a codec of another number of mel channels."""
        theirs = tokenizer.codec.dims.n_mels
        if theirs != model.dims.n_mels:
            raise BundleError(f"the describer says {model.dims.n_mels} mel channels, the codec hears {theirs}")
        self.model, self._tokenizer, self.image = model.eval(), tokenizer, image

    @classmethod
    def load(cls, folder: Path) -> SasDescriber:
        """The describer of a finished training.

        Raises BundleError if the folder holds none, or its codec or image student isn't there.
        """
        from pixvoice.describe.speaker import StudentSees
        from pixvoice.training.image_encoders import load_image_encoder
        from pixvoice.training.trainer import load_model

        read: list[SasRunConfig] = []

        def make(config: SasRunConfig) -> ShowAndSpeak:
            read.append(config)
            return ShowAndSpeak(config.model)

        model = load_model(folder, "sas", SasRunConfig.from_json, make)
        return cls(model, CodecTokenizer(read[0].codec), StudentSees(load_image_encoder(read[0].student)))

    @property
    def tokenizer(self) -> CodecTokenizer:
        """The codec."""
        return self._tokenizer

    @property
    def sample_rate(self) -> int:
        """Audio samples a second (Hz)."""
        return self._tokenizer.sample_rate

    def describe(self, image: PhotoSource, *, seed: int | None = None, **options: Any) -> Description:
        """Describe one photo.

        ``options`` are those fields of ``DecodingOptions`` that ``OPTIONS`` names; a frame is a step of the describer.
        The description's confidence is that of its decisions to go on and to end: frames have no probability.

        Raises InputError for a photo that can't be read, OptionError for an option that isn't allowed.
        """
        for name in options:
            if name not in OPTIONS:
                raise OptionError(
                    f"unknown decoding option {name!r}: this describer chooses no tokens; use {', '.join(OPTIONS)}"
                )
        limits = DecodingOptions(**options)
        with _seeded(seed):
            said = self.model.speak(self._see(image), limits.min_frames, limits.max_frames, limits.end_bias)
        codes = self.codes(said.mel)
        audio = self._tokenizer.decode(codes)
        return Description(audio, self.sample_rate, math.exp(said.log_prob), codes, said.log_prob)

    @torch.inference_mode()
    def attention(self, image: PhotoSource, codes: Codes) -> Floats | None:
        """Where the model looks while it hears ``codes`` (K, T), as ``describe`` gave them: weights (T', P).

        T' steps of the describer, each row summing to 1; positions run row by row from the top left.  None for nothing.
        """
        if not codes.shape[1]:
            return None
        audio = torch.from_numpy(self._tokenizer.decode(codes))
        mel = self._tokenizer.codec.encoder.scaled(audio[None])[0].T
        steps = F.pad(mel, (0, 0, 0, -len(mel) % self.model.dims.frames_per_step))
        with _seeded(None):
            weights = self.model.attention(self._see(image), steps.reshape(1, -1, self.model.dims.step_width))
        return np.asarray(weights[0].float().numpy())

    @torch.inference_mode()
    def codes(self, mel: Tensor) -> Codes:
        """Mel frames (F, M) as the codec's encoder begins with -> codes (K, T), the end filled with the last frame."""
        codec = self._tokenizer.codec
        whole = torch.cat([mel, mel[-1:].expand(-len(mel) % codec.dims.downsample, -1)])
        codes: Codes = codec.quantizer.encode(codec.encoder.latents(whole.T[None]))[0].numpy()
        return codes

    @torch.inference_mode()
    def _see(self, source: PhotoSource) -> Tensor:
        """Any photo -> features (1, P, image_dim)."""
        return self.image(self.image.prepare([read_image(source)]))


@contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    """The same draws at each call with a seed, and none taken from anybody else."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed or 0)
        yield
