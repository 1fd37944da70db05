"""Photo in, spoken description out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
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
from pixvoice.runtime.completion import BeginningSource, beginning_codes
from pixvoice.runtime.decoders import speech_decoder
from pixvoice.runtime.decoding import DecodingOptions, OnStep, Utterance, generate, generate_batch
from pixvoice.runtime.sessions import OnnxImageEncoder
from pixvoice.runtime.streaming import generate_stream, generate_streams
from pixvoice.runtime.units import speech_tokenizer

ImageSource = str | Path | bytes | BinaryIO | Image.Image | npt.NDArray[np.uint8]

_WORDS = ((0.75, "sure"), (0.5, "fairly sure"), (0.25, "unsure"), (0.0, "a guess"))


@dataclass(frozen=True)
class Description:
    """A spoken description: audio (L,), float32 in [-1, 1], and the codes (K, T) that it was decoded from.

    ``confidence`` in 0..1 grows with ``log_prob``, the mean log-probability (nats) of a token that was generated.  What
    was generated begins at ``generated_from_s`` (seconds): after the beginning that ``complete`` was given, else at 0.
    """

    audio: Audio
    sample_rate: int
    confidence: float
    codes: Codes
    log_prob: float
    generated_from_s: float = 0.0

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
            decoder = pool.submit(speech_decoder, bundle)
            tokenizer = pool.submit(speech_tokenizer, bundle)
            image_encoder = pool.submit(OnnxImageEncoder, bundle)
        self.image_encoder, self.decoder = image_encoder.result(), decoder.result()
        self._tokenizer = tokenizer.result()

    @property
    def tokenizer(self) -> SpeechTokenizer:
        """The codec, or the units with their vocoder: speech <-> tokens."""
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
        return self.describe_batch([image], length, seed, **options)[0]

    def describe_batch(
        self,
        images: Sequence[ImageSource],
        length: str = "normal",
        seed: int | None = None,
        on_step: OnStep | None = None,
        **options: Any,
    ) -> list[Description]:
        """Describe B photos: what ``describe`` says of each, together where that is ``together``, else one by one.

        ``on_step`` is called before each step of decoding; what it raises ends the work.  Raises what ``describe``
        raises.
        """
        decoding = self._options(length, seed, options)
        features = [self._see(image) for image in images]
        if features and self._together(decoding):
            features = [np.concatenate(features)]
        parts = [generate_batch(self.decoder, some, self.pattern, decoding, on_step=on_step) for some in features]
        return [self._speak(utterance) for part in parts for utterance in part]

    def complete(
        self,
        image: ImageSource,
        beginning: BeginningSource,
        length: str = "normal",
        seed: int | None = None,
        on_step: OnStep | None = None,
        **options: Any,
    ) -> Description:
        """Describe one photo in an utterance that begins with recorded speech, and goes on from there.

        ``beginning`` is a recording (a path, the bytes of a file, an open file) or audio (L,) at ``sample_rate`` Hz.
        All of the description is in the model's voice: its beginning is the recording encoded and decoded, without the
        silence around it and its last tenth of a second or so.  Everything else is as in ``describe``.  ``on_step`` is
        called before each step of decoding; what it raises ends the work.

        Raises:
            InputError: the photo or the beginning can't be read, or the beginning is silent, too short or too long.
            OptionError: a length or an option that isn't allowed.
        """
        decoding = self._options(length, seed, options)
        limit = min(decoding.max_frames, self.decoder.max_steps - self.pattern.max_delay)
        prompt = beginning_codes(beginning, self._tokenizer, limit)
        utterance = generate(self.decoder, self._see(image), self.pattern, decoding, prompt, on_step)
        begins_s = self._tokenizer.start_s(utterance.codes, prompt.shape[1])
        return replace(self._speak(utterance), generated_from_s=begins_s)

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

    def stream_batch(
        self,
        images: Sequence[ImageSource],
        length: str = "normal",
        seed: int | None = None,
        wanted: Callable[[int], bool] = lambda photo: True,
        **options: Any,
    ) -> Iterator[tuple[int, Audio | None]]:
        """``stream`` of B photos that start at once: which photo 0..B-1, and its next piece, or None at its end.

        They go on together where that is ``together``, else one after another.  ``wanted`` is asked of each photo at
        each step; nothing more is done for one that isn't.  Raises what ``describe`` raises.
        """
        decoding = self._options(length, seed, options)
        features = [self._see(image) for image in images]
        return self._stream(features, decoding, wanted)

    def together(self, length: str = "normal", **options: Any) -> bool:
        """Whether several photos are described sooner in one batch, with the same words as one by one.

        That is so for greedy decoding.  Beams of several photos take as long together as one after another, samples
        would hang on each other's, and so would any photo with a decoder whose rows aren't ``independent``.
        """
        return self._together(self._options(length, None, options))

    @cached_property
    def independent(self) -> bool:
        """Whether the decoder steps a row as if it were alone.

        In int8 it doesn't: one scale serves the activations of all rows, so that words hang on their company.
        """
        shape = (self.bundle.info.image.patches, self.image_encoder.embed_dim)
        pair = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32) * [[[1.0]], [[4.0]]]
        tokens = np.full((2, self.decoder.num_codebooks), self.decoder.codebook_size, np.int64)
        tokens[1] = 0
        features = pair.astype(np.float32)
        alone, _ = self.decoder.step(tokens[:1], self.decoder.start(features[:1]))
        joined, _ = self.decoder.step(tokens, self.decoder.start(features))
        return bool(np.abs(joined[0] - alone[0]).max() <= 1e-4 * np.abs(alone).max())

    def _together(self, decoding: DecodingOptions) -> bool:
        return decoding.strategy == "greedy" and self.independent

    def _stream(
        self, features: list[Floats], decoding: DecodingOptions, wanted: Callable[[int], bool]
    ) -> Iterator[tuple[int, Audio | None]]:
        if not features or (len(features) > 1 and not self._together(decoding)):
            for photo, one in enumerate(features):
                pieces = self._stream([one], decoding, lambda _, photo=photo: wanted(photo))  # type: ignore[misc]
                yield from ((photo, piece) for _, piece in pieces)
            return
        voices = [self._tokenizer.voice() for _ in features]
        joined = np.concatenate(features)
        for photo, frame in generate_streams(self.decoder, joined, self.pattern, decoding, wanted=wanted):
            piece = voices[photo].end() if frame is None else voices[photo].say(frame)
            if piece is not None:
                yield photo, piece
            if frame is None:
                yield photo, None

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
