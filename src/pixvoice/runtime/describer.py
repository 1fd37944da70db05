"""Photo in, spoken description out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from pixvoice.audio import write_wav
from pixvoice.contracts import Audio, Codes, Floats, SpeechTokenizer
from pixvoice.errors import InputError
from pixvoice.images import read_image, to_pixels
from pixvoice.patterns import make_pattern
from pixvoice.runtime.bundle import Bundle
from pixvoice.runtime.decoding import DecodingOptions, Utterance, generate, generate_stream
from pixvoice.runtime.sessions import OnnxImageEncoder, OnnxSpeechDecoder, OnnxSpeechTokenizer

ImageSource = str | Path | bytes | BinaryIO | Image.Image | npt.NDArray[np.uint8]

_WORDS = ((0.75, "sure"), (0.5, "fairly sure"), (0.25, "unsure"), (0.0, "a guess"))


@dataclass(frozen=True)
class Description:
    """A spoken description: audio (L,), float32 in [-1, 1], and the codes (K, T) that it was decoded from.

    ``confidence`` in 0..1 grows with ``log_prob``, the mean log-probability (nats) of a token.
    """

    audio: Audio
    sample_rate: int
    confidence: float
    codes: Codes
    log_prob: float

    @property
    def seconds(self) -> float:
        """Length of the speech (seconds)."""
        return len(self.audio) / self.sample_rate

    @property
    def confidence_in_words(self) -> str:
        """``sure``, ``fairly sure``, ``unsure`` or ``a guess``."""
        return next(words for least, words in _WORDS if self.confidence >= least)

    def save(self, path: str | Path) -> None:
        """Write a 16-bit mono WAV.  Raises OutputError; nothing is left behind then."""
        write_wav(path, self.audio, self.sample_rate)


class Describer:
    """Describes photos aloud.  Made by ``pixvoice.load()``; holds its ONNX sessions, for any number of photos."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.pattern = make_pattern(bundle.info.describer.pattern, bundle.info.describer.num_codebooks)
        with ThreadPoolExecutor(bundle.threads) as pool:  # ONNX Runtime makes sessions outside Python's lock
            decoder = pool.submit(OnnxSpeechDecoder, bundle)
            tokenizer = pool.submit(OnnxSpeechTokenizer, bundle)
            image_encoder = pool.submit(OnnxImageEncoder, bundle)
        self.image_encoder, self.decoder = image_encoder.result(), decoder.result()
        self._tokenizer = tokenizer.result()

    @property
    def tokenizer(self) -> SpeechTokenizer:
        """The codec: speech <-> tokens."""
        return self._tokenizer

    @property
    def sample_rate(self) -> int:
        """Audio samples a second (Hz)."""
        return self._tokenizer.sample_rate

    def describe(
        self, image: ImageSource, length: str = "normal", seed: int | None = None, **options: Any
    ) -> Description:
        """Describe one photo: a path, the bytes of a file, an open file, a PIL image, or RGB uint8 (H, W, 3).

        ``length`` is ``short``, ``normal`` or ``long``.  ``options`` are fields of ``DecodingOptions`` and replace the
        bundle's.  ``seed`` makes sampling repeatable; greedy and beam search always say the same.

        Raises:
            InputError: the photo can't be read.
            OptionError: a length or an option that isn't allowed.
        """
        decoding = self._options(length, seed, options)
        utterance = generate(self.decoder, self._see(image), self.pattern, decoding)
        return self._speak(utterance)

    def stream(
        self, image: ImageSource, length: str = "normal", seed: int | None = None, **options: Any
    ) -> Iterator[Audio]:
        """Describe one photo and yield pieces of audio (l,) as soon as they are certain.

        Joined, they are the audio of ``describe`` with the same arguments.  With beam search or several candidates
        nothing is certain before the end; ``strategy="greedy"`` speaks at once.  Raises what ``describe`` raises.
        """
        decoding = self._options(length, seed, options)
        frames = generate_stream(self.decoder, self._see(image), self.pattern, decoding)
        return self._tokenizer.decode_stream(frames)

    def _options(self, length: str, seed: int | None, options: dict[str, Any]) -> DecodingOptions:
        return self.bundle.info.options(length, **options, **({} if seed is None else {"seed": seed}))

    def _see(self, source: ImageSource) -> Floats:
        """Any photo -> features (1, P, D)."""
        size = self.image_encoder.image_size
        if isinstance(source, np.ndarray):
            if source.dtype != np.uint8 or source.ndim != 3 or source.shape[2] != 3 or not source.size:
                raise InputError(f"an array of {source.dtype} {source.shape}: give RGB as uint8 (H, W, 3)")
            source = Image.fromarray(source)
        return self.image_encoder.encode(to_pixels(read_image(source, at_least=2 * size), size)[None])

    def _speak(self, utterance: Utterance) -> Description:
        curve = self.bundle.info.confidence
        confidence = 1.0 / (1.0 + math.exp(-curve.slope * (utterance.log_prob - curve.centre)))
        audio = self._tokenizer.decode(utterance.codes)
        return Description(audio, self.sample_rate, confidence, utterance.codes, utterance.log_prob)


def load(bundle: str | Path | None = None, threads: int | None = None) -> Describer:
    """The describer of the bundle in folder ``bundle``; without, in PIXVOICE_BUNDLE's folder, or the one that ships.

    ``threads`` is the number of processor cores used, 2 at most unless told.  Raises BundleError for a bundle that is
    missing, damaged or of another shape.
    """
    return Describer(Bundle.load(bundle, threads))
