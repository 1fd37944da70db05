"""The five base classes that every room meets at.

They speak numpy, so that a PyTorch module and an ONNX Runtime session stand behind the same contract.

Letters: B batch, K codebooks, T frames, S sequence steps, P patches, D width, L samples, V codebook size.
Audio is float32 in [-1, 1], mono, at ``sample_rate`` Hz.  Codes are int64.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL.Image import Image

Audio = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


class SpeechTokenizer(ABC):
    """Waveform <-> discrete speech tokens."""

    @property
    @abstractmethod
    def sample_rate(self) -> int:
        """Audio samples a second (Hz)."""

    @property
    @abstractmethod
    def frame_rate(self) -> float:
        """Token frames a second (Hz)."""

    @property
    @abstractmethod
    def num_codebooks(self) -> int:
        """K, the tokens of one frame."""

    @property
    @abstractmethod
    def codebook_size(self) -> int:
        """V, the values that one token takes."""

    @abstractmethod
    def encode(self, audio: Audio) -> Codes:
        """Audio (L,) -> codes (K, T)."""

    @abstractmethod
    def decode(self, codes: Codes) -> Audio:
        """Codes (K, T) -> audio (L,)."""

    @abstractmethod
    def decode_stream(self, frames: Iterable[Codes]) -> Iterator[Audio]:
        """Pieces of codes (K, t) -> pieces of audio (l,) as soon as each is certain.

        The pieces joined together equal ``decode`` of the joined codes.
        """

    def encode_first(self, audio: Audio, frames: int) -> Codes:
        """Audio (L,) -> the codes (K, T) of its first ``frames`` frames; the rest is heard, and not said."""
        return self.encode(audio)[:, :frames]

    def start_s(self, codes: Codes, step: int) -> float:
        """Where in ``decode`` of codes (K, T) the ones from ``step`` on begin (seconds)."""
        return step / self.frame_rate


class ImageEncoder(ABC):
    """Photo -> grid of features."""

    @property
    @abstractmethod
    def image_size(self) -> int:
        """Height and width of the pixels taken (pixels)."""

    @property
    @abstractmethod
    def embed_dim(self) -> int:
        """D, the width of one patch's feature."""

    @abstractmethod
    def encode(self, pixels: Floats) -> Floats:
        """Pixels (B, 3, H, W), RGB in [0, 1] -> features (B, P, D), row by row from the top left."""


class SpeechDecoder(ABC):
    """An autoregressive model of speech tokens given image features, one step at a time.

    Token V (``codebook_size``) is the special token: it begins every sequence, fills the gaps of a pattern, and in
    codebook 0 ends the utterance.
    """

    @property
    @abstractmethod
    def num_codebooks(self) -> int:
        """K, tokens taken and predicted at each step."""

    @property
    @abstractmethod
    def codebook_size(self) -> int:
        """V, without the special token."""

    @property
    @abstractmethod
    def max_steps(self) -> int:
        """S, the longest sequence that ``step`` can be called for."""

    @abstractmethod
    def start(self, features: Floats) -> Any:
        """Features (B, P, D) -> the state before the first step."""

    @abstractmethod
    def step(self, tokens: Codes, state: Any) -> tuple[Floats, Any]:
        """Tokens (B, K) and a state -> logits (B, K, V + 1) of the next step, and the state after it."""

    @abstractmethod
    def select(self, state: Any, rows: npt.NDArray[np.int64]) -> Any:
        """The state with its batch rows picked (and repeated) by ``rows`` (B',)."""


class Recognizer(ABC):
    """Speech -> text, for the metrics and for spoken search."""

    @property
    @abstractmethod
    def name(self) -> str:
        """What to call it in a table."""

    @property
    @abstractmethod
    def sample_rate(self) -> int:
        """Audio samples a second (Hz) that ``transcribe`` takes."""

    @abstractmethod
    def transcribe(self, audio: Sequence[Audio]) -> list[str]:
        """Audio clips, each (L,) -> lower-case text, one string a clip."""

    def transcribe_scored(self, audio: Sequence[Audio]) -> tuple[list[str], list[float]]:
        """As ``transcribe``, with the log-probability of each text; 0 for all, where the recognizer doesn't know it."""
        return self.transcribe(audio), [0.0] * len(audio)


class SearchModel(ABC):
    """Speech and photos -> one space, where a photo lies near the speech about it.

    Every embedding is float32 of length 1: the dot product of two is their cosine similarity.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """What to call it in a table."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Changes with the weights: embeddings of two fingerprints can't be compared."""

    @property
    @abstractmethod
    def embed_dim(self) -> int:
        """D, the width of an embedding."""

    @property
    @abstractmethod
    def sample_rate(self) -> int:
        """Audio samples a second (Hz) that ``embed_speech`` takes."""

    @abstractmethod
    def embed_photos(self, photos: Sequence[Image]) -> Floats:
        """Photos (B of them, RGB, any size) -> embeddings (B, D)."""

    @abstractmethod
    def embed_speech(self, audio: Sequence[Audio]) -> tuple[Floats, list[str]]:
        """Audio clips (B of them, each (L,), any length) -> embeddings (B, D) and what the model read in each.

        The texts are empty for a model that reads none.
        """
