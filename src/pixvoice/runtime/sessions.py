"""The contracts of photo and speech on ONNX Runtime."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from pixvoice.contracts import Audio, Codes, Floats, ImageEncoder, SpeechTokenizer
from pixvoice.runtime.bundle import (
    CODEC_DECODER,
    CODEC_ENCODER,
    IMAGE_ENCODER,
    Bundle,
    CodecSizes,
    UnitSizes,
)

if TYPE_CHECKING:
    import onnxruntime as ort

MAX_CHUNK_FRAMES = 16  # frames that a piece of streamed audio grows to; each costs what it must see besides


class OnnxImageEncoder(ImageEncoder):
    """Photo -> grid of features."""

    def __init__(self, bundle: Bundle) -> None:
        self.sizes = s = bundle.info.image
        shapes = {"pixels": (None, 3, s.image_size, s.image_size), "features": (None, s.patches, s.embed_dim)}
        self._session = bundle.session(IMAGE_ENCODER, shapes)

    @property
    def image_size(self) -> int:
        """Height and width of the pixels taken (pixels)."""
        return self.sizes.image_size

    @property
    def embed_dim(self) -> int:
        """D."""
        return self.sizes.embed_dim

    def encode(self, pixels: Floats) -> Floats:
        """Pixels (B, 3, H, W), RGB in [0, 1] -> features (B, P, D)."""
        return run(self._session, pixels=pixels)


class Speaking(Protocol):
    """Tokens in, piece by piece; audio out as soon as it is certain."""

    def say(self, piece: Codes) -> Audio | None:
        """Codes (K, t) -> the audio (l,) that they make certain, if it is long enough."""

    def end(self) -> Audio | None:
        """What is left."""


class OnnxTokenizer(SpeechTokenizer):
    """What the codec and the units share: streams."""

    @abstractmethod
    def voice(self) -> Speaking:
        """``decode_stream`` for codes that are pushed: one for each stream, of which many can be under way."""

    def decode_stream(self, frames: Iterable[Codes]) -> Iterator[Audio]:
        """Pieces of codes (K, t) -> pieces of audio, the first as soon as it is certain, then longer ones.

        Each piece is decoded with as many frames before and after it as the decoder can see, so that the pieces joined
        together equal ``decode`` of the joined codes.
        """
        voice = self.voice()
        for piece in frames:
            if (audio := voice.say(piece)) is not None:
                yield audio
        if (audio := voice.end()) is not None:
            yield audio


class OnnxSpeechTokenizer(OnnxTokenizer):
    """The codec; its encoder is loaded when it is first needed."""

    def __init__(self, bundle: Bundle) -> None:
        assert bundle.info.codec is not None  # why it was called
        self.sizes = s = bundle.info.codec
        self._bundle = bundle
        self._decoder = bundle.session(CODEC_DECODER, {"codes": (None, s.num_codebooks, None), "audio": (None, None)})

    @cached_property
    def _encoder(self) -> ort.InferenceSession:
        shapes = {"audio": (None, None), "codes": (None, self.sizes.num_codebooks, None)}
        return self._bundle.session(CODEC_ENCODER, shapes)

    @property
    def sample_rate(self) -> int:
        """Audio samples a second (Hz)."""
        return self.sizes.sample_rate

    @property
    def frame_rate(self) -> float:
        """Token frames a second (Hz)."""
        return self.sizes.sample_rate / self.sizes.frame_length

    @property
    def num_codebooks(self) -> int:
        """K."""
        return self.sizes.num_codebooks

    @property
    def codebook_size(self) -> int:
        """V."""
        return self.sizes.codebook_size

    def encode(self, audio: Audio) -> Codes:
        """Audio (L,) -> codes (K, T), the end padded with silence to a whole frame."""
        if not len(audio):
            return np.zeros((self.num_codebooks, 0), np.int64)
        whole = np.pad(audio.astype(np.float32, copy=False), (0, -len(audio) % self.sizes.frame_length))
        codes: Codes = self._encoder.run(("codes",), {"audio": whole[None]})[0][0]
        return codes

    def decode(self, codes: Codes) -> Audio:
        """Codes (K', T), the first K' <= K codebooks -> audio (T * frame_length,)."""
        kept, frames = codes.shape
        if not 1 <= kept <= self.num_codebooks:
            raise ValueError(f"codes of shape {codes.shape} for a codec of {self.num_codebooks} codebooks")
        if not frames:
            return np.zeros(0, np.float32)
        whole = np.pad(codes, ((0, self.num_codebooks - kept), (0, 0)), constant_values=self.codebook_size)
        audio: Audio = run(self._decoder, codes=whole[None])[0]
        return audio.clip(-1.0, 1.0)

    def voice(self) -> Voice:
        """``decode_stream`` for frames that are pushed: one for each stream, of which many can be under way."""
        return Voice(self.decode, self.num_codebooks, self.sizes)


class Voice:
    """Frames in; audio out as soon as it is certain: one frame, then as much as was spoken before, up to sixteen."""

    def __init__(self, decode: Callable[[Codes], Audio], num_codebooks: int, sizes: CodecSizes | UnitSizes) -> None:
        """``decode`` makes sound of codes (K, t), and sees as far as ``sizes`` say."""
        self.decode, self.sizes = decode, sizes
        self.window = np.zeros((num_codebooks, 0), np.int64)  # what the decoder may still have to see
        self.first = 0  # the window's first frame
        self.done = 0  # frames that were spoken

    def say(self, piece: Codes) -> Audio | None:
        """Codes (K, t) -> the audio (l,) that they make certain, if it is long enough."""
        self.window = np.concatenate([self.window, piece], axis=1)
        certain = self.first + self.window.shape[1] - self.sizes.lookahead
        if certain - self.done < min(MAX_CHUNK_FRAMES, max(1, self.done)):
            return None
        audio = self._up_to(certain)
        unseen = max(0, self.done - self.sizes.context - self.first)
        self.window, self.first = self.window[:, unseen:], self.first + unseen
        return audio

    def end(self) -> Audio | None:
        """What is left."""
        last = self.first + self.window.shape[1]
        return self._up_to(last) if last > self.done else None

    def _up_to(self, frame: int) -> Audio:
        """The audio of what isn't spoken before ``frame``."""
        start, end = self.done - self.first, frame - self.first
        self.done = frame
        length = self.sizes.frame_length
        return self.decode(self.window)[start * length : end * length]


def run(session: ort.InferenceSession, **inputs: npt.NDArray[np.generic]) -> Floats:
    """The only output of a session."""
    output: Floats = session.run(None, inputs)[0]
    return output
