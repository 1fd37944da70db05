"""The dual-channel model: what was said and how it sounds -> one vector, near that of the photo it is about.

    recording -> recognizer -> words --> text part --------------------------------------+
        |                                   ^                                             + --> length 1
        +-> speech part -> frames -> [CLS; prompts; frames] -> transformer -> CLS -> Linear
                                            ^
    photo ----> image part <-- the same M prompts in all three ------------------------------> length 1

Source: BrewCLIP (arXiv 2408.10383).  Unlike its released code, this masks padding, and hears recordings of any length.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixvoice.errors import OptionError
from pixvoice.retrieve.parts import ImagePart, SpeechPart, TextPart
from pixvoice.speeds import check_speeds

if TYPE_CHECKING:
    from PIL.Image import Image

VARIANTS = ("pipeline", "e2e", "full")
"""Words alone; sound alone; both."""


@dataclass(frozen=True)
class RetrieverConfig:
    """Sizes of the dual-channel model; saved beside its weights.

    The paper's: ``embed_dim=768, heads=8, feed_forward=4096``, and 1 for ``stack``.
    """

    variant: str = "full"
    embed_dim: int = 256  # D of an embedding, of a prompt and of the acoustic channel
    prompts: int = 4  # M; 0 leaves them out
    layers: int = 1  # of the acoustic channel
    heads: int = 4
    feed_forward: int = 1024
    dropout: float = 0.1
    stack: int = 1  # frames joined into one before the transformer
    window: int = 1500  # frames heard at once; longer recordings are heard in several windows
    speeds: tuple[float, ...] = (1.0,)  # at which a recording is heard when the model is used

    def check(self) -> None:
        """Raise OptionError for what can't be built."""
        if self.variant not in VARIANTS:
            raise OptionError(f"variant {self.variant!r}: use one of {', '.join(VARIANTS)}")
        if self.embed_dim % self.heads:
            raise OptionError(f"embed_dim {self.embed_dim} is not divisible by heads ({self.heads})")
        if self.window % self.stack:
            raise OptionError(f"window {self.window} is not divisible by stack ({self.stack})")
        check_speeds(self.speeds)

    @property
    def reads(self) -> bool:
        """Whether there is a pipeline channel."""
        return self.variant != "e2e"

    @property
    def hears(self) -> bool:
        """Whether there is an acoustic channel."""
        return self.variant != "pipeline"


class EncoderLayer(nn.Module):
    """What ``nn.TransformerEncoderLayer`` computes (post-norm, GELU), but for the asked positions only.

    The last layer is asked for CLS alone; and unlike that class it can be exported for any length.
    """

    def __init__(self, config: RetrieverConfig) -> None:
        super().__init__()
        width, self.heads = config.embed_dim, config.heads
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.attended = nn.Linear(width, width)
        self.attention_norm, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, config.feed_forward),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.feed_forward, width),
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, some: Tensor, x: Tensor, ignored: Tensor) -> Tensor:
        """Asked positions (N, S', D) of x (N, S, D); ``ignored`` (N, S) True where there is nothing -> (N, S', D)."""
        key, value = self.key_value(x).chunk(2, dim=-1)
        query, key, value = self._split(self.query(some)), self._split(key), self._split(value)
        scores = query @ key.transpose(2, 3) / math.sqrt(query.shape[3])
        shares = self.dropout(scores.masked_fill(ignored[:, None, None], -math.inf).softmax(-1))
        seen = (shares @ value).transpose(1, 2).flatten(2)
        y = self.attention_norm(some + self.dropout(self.attended(seen)))
        result: Tensor = self.norm(y + self.dropout(self.mlp(y)))
        return result

    def _split(self, x: Tensor) -> Tensor:
        """(N, S, D) -> (N, heads, S, D / heads)."""
        return x.reshape(x.shape[0], -1, self.heads, x.shape[2] // self.heads).transpose(1, 2)


class AcousticChannel(nn.Module):
    """Frames (B, T, frame_dim) -> vectors (B, D), not normalised, through a transformer over [CLS; prompts; frames]."""

    def __init__(self, config: RetrieverConfig, frame_dim: int) -> None:
        super().__init__()
        self.stack, self.window = config.stack, config.window
        self.project = nn.Linear(frame_dim * config.stack, config.embed_dim)
        self.cls = nn.Parameter(torch.randn(1, config.embed_dim) * 0.02)
        self.layers = nn.ModuleList([EncoderLayer(config) for _ in range(config.layers)])
        self.out = nn.Linear(config.embed_dim, config.embed_dim)
        nn.init.normal_(self.out.weight, std=0.002)  # so that an untrained ear doesn't drown the words
        nn.init.zeros_(self.out.bias)

    def forward(self, frames: Tensor, mask: Tensor, prompts: Tensor | None) -> Tensor:
        """Frames (B, T, frame_dim), mask (B, T) True where there is speech, prompts (M, D) -> vectors (B, D).

        Windows of a long recording are heard one by one and averaged, each weighing as much as it has frames.
        """
        rows, count = len(frames), max(1, -(-frames.shape[1] // self.window))
        multiple = self.window if count > 1 else self.stack
        missing = -frames.shape[1] % multiple
        frames, mask = F.pad(frames, (0, 0, 0, missing)), F.pad(mask, (0, missing))
        seen, weights = self.hear(
            frames.reshape(rows * count, -1, frames.shape[2]), mask.reshape(rows * count, -1), prompts
        )
        seen, weights = seen.reshape(rows, count, -1), weights.reshape(rows, count, 1)
        mean: Tensor = (seen * weights).sum(1) / weights.sum(1)
        return mean

    def hear(self, frames: Tensor, mask: Tensor, prompts: Tensor | None) -> tuple[Tensor, Tensor]:
        """Windows of frames (N, W, frame_dim), mask (N, W) -> vectors (N, D), weights (N,); ``stack`` divides W."""
        frames, count = frames * mask[:, :, None], frames.shape[0]
        stacked = frames.reshape(count, -1, self.stack * frames.shape[2])
        heard = mask.reshape(count, -1, self.stack).any(-1)
        first = self.cls if prompts is None else torch.cat([self.cls, prompts])
        x = torch.cat([first.expand(count, -1, -1), self.project(stacked)], dim=1)
        ignored = F.pad(~heard, (first.shape[0], 0), value=False)
        last = len(self.layers) - 1
        for i, layer in enumerate(self.layers):
            x = layer(x[:, :1] if i == last else x, x, ignored)
        vectors: Tensor = self.out(x[:, 0])
        return vectors, mask.to(vectors.dtype).sum(1).clamp(min=1e-3)


def _fit(width: int, wanted: int) -> nn.Module:
    """A Linear where two widths differ, nothing where they are the same."""
    return nn.Identity() if width == wanted else nn.Linear(width, wanted)


class DualChannel(nn.Module):
    """All three variants.  A part that the variant doesn't need may be None.

    Raises OptionError for a part that is missing, or sizes that can't be.
    """

    def __init__(
        self, config: RetrieverConfig, text: TextPart | None, speech: SpeechPart | None, image: ImagePart
    ) -> None:
        super().__init__()
        config.check()
        if config.reads and text is None:
            raise OptionError(f"variant {config.variant} needs a text part; give one, or use variant e2e")
        if config.hears and speech is None:
            raise OptionError(f"variant {config.variant} needs a speech part; give one, or use variant pipeline")
        self.dims = config
        self.text, self.speech, self.image = text if config.reads else None, speech, image
        self.prompts = nn.Parameter(torch.randn(config.prompts, config.embed_dim) * 0.02) if config.prompts else None
        if self.text is not None:
            self.text_prompts = _fit(config.embed_dim, self.text.prompt_dim) if config.prompts else nn.Identity()
            self.text_out = _fit(self.text.embed_dim, config.embed_dim)
        if config.hears and speech is not None:
            self.acoustic = AcousticChannel(config, speech.frame_dim)
        self.image_prompts = _fit(config.embed_dim, image.prompt_dim) if config.prompts else nn.Identity()
        self.image_out = _fit(image.embed_dim, config.embed_dim)

    def read(self, tokens: dict[str, Tensor]) -> Tensor:
        """The pipeline channel: tokens of B texts -> vectors (B, D), not normalised."""
        assert self.text is not None
        vectors: Tensor = self.text_out(self.text(tokens, self._prompts(self.text_prompts)))
        return vectors

    def hear(self, frames: Tensor, mask: Tensor) -> Tensor:
        """The acoustic channel: frames (B, T, frame_dim), mask (B, T) -> vectors (B, D), not normalised."""
        vectors: Tensor = self.acoustic(frames, mask, self.prompts)
        return vectors

    def see(self, pixels: Tensor) -> Tensor:
        """What the image part's ``prepare`` gave, (B, ...) -> embeddings (B, D) of length 1."""
        vectors: Tensor = self.image_out(self.image(pixels, self._prompts(self.image_prompts)))
        return F.normalize(vectors, dim=-1)

    def channels(
        self, tokens: dict[str, Tensor] | None, frames: Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None]:
        """The vectors (B, D) of the pipeline and of the acoustic channel, None for one that the variant leaves out."""
        read = self.read(tokens) if self.dims.reads and tokens is not None else None
        heard = self.hear(frames, mask) if self.dims.hears and frames is not None and mask is not None else None
        return read, heard

    def forward(self, tokens: dict[str, Tensor] | None, frames: Tensor | None, mask: Tensor | None) -> Tensor:
        """Tokens of B texts, frames (B, T, frame_dim) and mask (B, T) -> embeddings (B, D) of length 1."""
        return fuse(*self.channels(tokens, frames, mask))

    def embed_speech(self, audio: Tensor, lengths: Tensor, texts: Sequence[str]) -> Tensor:
        """Audio (B, L), ``lengths`` (B,) in samples, and what was read in them -> embeddings (B, D) of length 1."""
        tokens = None if self.text is None else self.text.tokenize(texts)
        if tokens is not None:
            tokens = {name: tensor.to(audio.device) for name, tensor in tokens.items()}
        frames, mask = self.speech(audio, lengths) if self.dims.hears and self.speech is not None else (None, None)
        return fuse(*self.channels(tokens, frames, mask))

    def embed_photos(self, photos: Sequence[Image]) -> Tensor:
        """Photos (B of them, RGB) -> embeddings (B, D) of length 1."""
        return self.see(self.image.prepare(photos))

    def _prompts(self, fit: nn.Module) -> Tensor | None:
        return None if self.prompts is None else fit(self.prompts)


def fuse(read: Tensor | None, heard: Tensor | None) -> Tensor:
    """Vectors (B, D) of the channels that there are -> their sum, of length 1."""
    vectors = [channel for channel in (read, heard) if channel is not None]
    if not vectors:
        raise OptionError("neither words nor sound: give the tokens of a text, or frames and their mask")
    return F.normalize(sum(vectors[1:], vectors[0]), dim=-1)


def count_parameters(model: nn.Module) -> tuple[int, int]:
    """How many numbers of ``model`` a training changes, and how many it leaves as they are."""
    counts = [0, 0]
    for parameter in model.parameters():
        counts[0 if parameter.requires_grad else 1] += parameter.numel()
    return counts[0], counts[1]
