"""A full-size describer in PyTorch: photo in, spoken description out, through the one decoding loop."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from pixvoice.contracts import Floats, SpeechTokenizer
from pixvoice.describe.build import load_full
from pixvoice.describe.decoder import TorchSpeechDecoder
from pixvoice.describe.pretrained import PretrainedDescriber
from pixvoice.images import PhotoSource, read_image
from pixvoice.patterns import make_pattern
from pixvoice.runtime.decoding import DecodingOptions, generate
from pixvoice.runtime.describer import Description
from pixvoice.speech.pretrained import load_speech_tokenizer


class TorchDescriber:
    """Describes photos aloud with a trained ``PretrainedDescriber``; greedy unless told otherwise, as Im2Sp does."""

    def __init__(
        self, model: PretrainedDescriber, tokenizer: SpeechTokenizer, options: DecodingOptions | None = None
    ) -> None:
        self.model, self._tokenizer = model.eval(), tokenizer
        self.decoder = TorchSpeechDecoder(model)
        self.pattern = make_pattern(model.dims.pattern, model.dims.num_codebooks)
        self.options = options or DecodingOptions()

    @classmethod
    def load(cls, folder: str | Path) -> TorchDescriber:
        """The describer of a run of ``pixvoice train`` on pretrained parts.

        Raises BundleError if the folder holds none, or a part that it names isn't there; OptionError, MissingToolError
        as ``load_speech_tokenizer`` does.
        """
        model, config = load_full(Path(folder))
        dims = config.model
        return cls(model, load_speech_tokenizer(config.speech, dims.num_codebooks, dims.codebook_size))

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

    @torch.inference_mode()
    def _see(self, source: PhotoSource) -> Floats:
        """Any photo -> features (1, P, D)."""
        features: Floats = self.model.image(self.model.image.prepare([read_image(source)])).numpy()
        return features
