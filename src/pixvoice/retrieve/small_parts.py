"""The parts of the small size: the recognizer's hidden frames, words as letter n-grams, the image student's grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from pixvoice.contracts import Audio, Recognizer
from pixvoice.ctc_search import best_text, log_softmax
from pixvoice.images import to_pixels
from pixvoice.letter_model import LetterModel
from pixvoice.retrieve.model import DualChannel, RetrieverConfig
from pixvoice.retrieve.parts import ImagePart, SpeechPart, TextPart
from pixvoice.speech.ctc import CTCConfig, CTCRecognizer, greedy
from pixvoice.vision.student import ImageStudent, StudentConfig
from pixvoice.words import table

if TYPE_CHECKING:
    from PIL.Image import Image

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class PartsConfig:
    """Sizes of the small parts; saved beside their weights."""

    buckets: int = 16_384  # letter n-grams are spread over so many vectors
    word_width: int = 192
    text_width: int = 256  # of each direction
    image_width: int = 512
    dropout: float = 0.2
    image_norm: bool = False  # batch normalisation of what the two layers of the photo take; learns faster


class SmallTextPart(TextPart):
    """Words, each the mean of its letter n-grams -> a GRU in both directions -> the largest value over the words.

    A word that a recognizer misspells keeps most of its n-grams.  Prompts come before the words.
    """

    def __init__(self, config: PartsConfig, embed_dim: int) -> None:
        super().__init__()
        self.embed_dim, self.prompt_dim, self.buckets = embed_dim, config.word_width, config.buckets
        self.vectors = nn.EmbeddingBag(config.buckets + 1, config.word_width, mode="mean", padding_idx=config.buckets)
        nn.init.normal_(self.vectors.weight, std=0.5)
        self.dropout = nn.Dropout(config.dropout)
        self.gru = nn.GRU(config.word_width, config.text_width, batch_first=True, bidirectional=True)
        self.out = nn.Linear(2 * config.text_width, embed_dim)

    def tokenize(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Texts (B of them, any length) -> ``ngrams`` (B, N, G) and ``words`` (B,), how many each text has."""
        ngrams, words = table(texts, self.buckets)
        return {"ngrams": torch.from_numpy(ngrams), "words": torch.from_numpy(words)}

    def forward(self, tokens: dict[str, Tensor], prompts: Tensor | None) -> Tensor:
        """Tokens and prompts (M, prompt_dim) -> vectors (B, D), not normalised."""
        ngrams, words = tokens["ngrams"], tokens["words"]
        vectors = self.vectors(ngrams.flatten(0, 1)).reshape(*ngrams.shape[:2], -1)
        sequence = self.after_prompts(self.dropout(vectors), prompts)
        lengths = words.cpu() + (sequence.shape[1] - ngrams.shape[1])
        packed = pack_padded_sequence(sequence, lengths, batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.gru(packed)[0], batch_first=True, padding_value=-math.inf)
        return self.pool(states)

    @staticmethod
    def after_prompts(vectors: Tensor, prompts: Tensor | None) -> Tensor:
        """Word vectors (B, N, D) -> (B, M + N, D)."""
        return vectors if prompts is None else torch.cat([prompts.expand(vectors.shape[0], -1, -1), vectors], dim=1)

    def pool(self, states: Tensor) -> Tensor:
        """GRU states (B, S, 2 * text_width) -> vectors (B, D)."""
        pooled: Tensor = self.out(self.dropout(states.amax(1)))
        return pooled


class SmallSpeechPart(SpeechPart):
    """The recognizer's hidden frames, 25 a second; ``frozen`` keeps its weights as they are."""

    def __init__(self, recognizer: CTCRecognizer, frozen: bool = True) -> None:
        super().__init__()
        self.recognizer, self.frozen = recognizer, frozen
        self.frame_dim, self.sample_rate = recognizer.dims.width, recognizer.dims.sample_rate
        if frozen:
            _freeze(recognizer)

    def forward(self, audio: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Audio (B, L), ``lengths`` (B,) in samples -> frames (B, T, D) and mask (B, T)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            frames = self.recognizer.forward_features(audio)
        mels = lengths // self.recognizer.dims.hop_length
        counts = (mels + 3) // 4  # two convolutions of stride 2
        return frames, torch.arange(frames.shape[1], device=frames.device) < counts[:, None]

    def train(self, mode: bool = True) -> SmallSpeechPart:
        """A frozen recognizer stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.recognizer.eval()
        return self


class SmallImagePart(ImagePart):
    """The image student's grid -> its mean, its largest values, and what the prompts look at -> two layers.

    ``prepare`` runs the student, whose weights stay as they are.
    """

    def __init__(self, config: PartsConfig, student: ImageStudent, embed_dim: int) -> None:
        super().__init__()
        self.student = _freeze(student)
        self.embed_dim, self.prompt_dim = embed_dim, student.dims.embed_dim
        norm = nn.BatchNorm1d if config.image_norm else nn.Identity
        self.pooled_norm, self.looked_norm = norm(2 * self.prompt_dim), norm(self.prompt_dim)
        self.pooled = nn.Linear(2 * self.prompt_dim, config.image_width)
        self.looked = nn.Linear(self.prompt_dim, config.image_width)
        self.dropout = nn.Dropout(config.dropout)
        self.out = nn.Linear(config.image_width, embed_dim)

    def prepare(self, photos: Sequence[Image]) -> Tensor:
        """Photos (B of them, RGB) -> the student's features (B, P, prompt_dim)."""
        size = self.student.dims.image_size
        pixels = torch.from_numpy(np.stack([to_pixels(photo, size) for photo in photos]))
        with torch.no_grad():
            features: Tensor = self.student(pixels.to(self.pooled.weight.device))
        return features

    def forward(self, pixels: Tensor, prompts: Tensor | None) -> Tensor:
        """Features (B, P, prompt_dim) and prompts (M, prompt_dim) -> vectors (B, D), not normalised.

        A prompt looks at the patches that it resembles; of all prompts the largest values are kept.
        """
        pooled = torch.cat([pixels.mean(1), pixels.amax(1)], dim=-1)
        hidden = self.pooled(self.dropout(self.pooled_norm(pooled)))
        if prompts is not None:
            scores = (pixels @ prompts.T).transpose(1, 2) / math.sqrt(self.prompt_dim)
            looked = self.looked_norm((scores.softmax(-1) @ pixels).transpose(1, 2)).transpose(1, 2)
            hidden = hidden + self.looked(looked).amax(1)
        vectors: Tensor = self.out(self.dropout(F.gelu(hidden)))
        return vectors

    def train(self, mode: bool = True) -> SmallImagePart:
        """The student stays in evaluation mode."""
        super().train(mode)
        self.student.eval()
        return self


def _freeze(model: M) -> M:
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model.eval()


@dataclass(frozen=True)
class SmallConfig:
    """All sizes of a small dual-channel model; saved beside its weights."""

    model: RetrieverConfig
    parts: PartsConfig
    recognizer: CTCConfig
    student: StudentConfig

    @classmethod
    def from_json(cls, **sections: dict[str, Any]) -> SmallConfig:
        """What ``dataclasses.asdict`` and JSON made of one.  Raises TypeError or KeyError for anything else."""
        student: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in sections["student"].items()}
        return cls(
            RetrieverConfig(**sections["model"]),
            PartsConfig(**sections["parts"]),
            CTCConfig(**sections["recognizer"]),
            StudentConfig(**student),
        )


def small_dual_channel(
    config: SmallConfig, recognizer: CTCRecognizer | None = None, student: ImageStudent | None = None
) -> DualChannel:
    """A dual-channel model of small parts; without a recognizer or a student, with untrained ones.

    It holds the recognizer in every variant: whoever reads the transcripts needs it.
    """
    width = config.model.embed_dim
    text = SmallTextPart(config.parts, width) if config.model.reads else None
    speech = SmallSpeechPart(recognizer or CTCRecognizer(config.recognizer))
    image = SmallImagePart(config.parts, student or ImageStudent(config.student), width)
    return DualChannel(config.model, text, speech, image)


class SmallRecognizer(Recognizer):
    """A CTC recognizer in PyTorch behind the contract; with ``spelling`` it weighs that against what it hears."""

    def __init__(self, recognizer: CTCRecognizer, name: str = "CTC", spelling: LetterModel | None = None) -> None:
        self.recognizer, self._name, self._spelling = recognizer.eval(), name, spelling

    @property
    def name(self) -> str:
        """What to call it in a table."""
        return self._name

    @property
    def sample_rate(self) -> int:
        """Audio samples a second (Hz)."""
        return self.recognizer.dims.sample_rate

    def transcribe(self, audio: Sequence[Audio]) -> list[str]:
        """Audio clips, each (L,) -> lower-case text; each is heard by itself, with a tenth of a second at least."""
        return self.transcribe_scored(audio)[0]

    def transcribe_scored(self, audio: Sequence[Audio]) -> tuple[list[str], list[float]]:
        """As ``transcribe``, with the score of each text where there is a letter model, and 0 where there is none."""
        heard = [self.hear(clip) for clip in audio]
        return [text for _, text, _ in heard], [score for _, _, score in heard]

    @torch.inference_mode()
    def hear(self, clip: Audio) -> tuple[Tensor, str, float]:
        """Audio (L,) -> hidden frames (T, D), the text and its score, in one pass."""
        missing = max(0, self.sample_rate // 10 - len(clip))
        audio = torch.from_numpy(np.pad(np.asarray(clip, np.float32), (0, missing)))
        hidden = self.recognizer.forward_features(audio[None])[0]
        return hidden, *self.write(hidden)

    @torch.inference_mode()
    def write(self, hidden: Tensor) -> tuple[str, float]:
        """Hidden frames (T, D) -> the text and its score."""
        logits = self.recognizer.head(hidden)
        if self._spelling is None:
            return greedy(logits[None])[0], 0.0
        return best_text(log_softmax(logits.numpy()), self._spelling)
