"""What describers on BLIP and on GiT share: a frozen image encoder, a text decoder that speaks, and K codebooks.

The checkpoint's vocabulary is replaced: the K tokens of a step are embedded and summed, and K heads predict the next
step.  As in both checkpoints' text models, a head's matrix is its codebook's embedding (tied), with a bias of its own;
where the text model transforms hidden states before that matrix (BLIP), each codebook has a copy of the transform.

Sources: Tran and Sakti, "From Pixels to Voice" (PixVoxLM, on BLIP); Kim et al. 2023 (Im2Sp, on GiT, arXiv 2309.08531).

Letters: B batch, K codebooks, S sequence steps, P patches, D width, V codebook size.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache, DynamicLayer

from pixvoice.describe.model import PixVoxConfig, token_loss
from pixvoice.errors import OptionError
from pixvoice.retrieve.hf_load import Frozen

if TYPE_CHECKING:
    from PIL.Image import Image


class PretrainedImage(nn.Module):
    """The frozen image encoder of a BLIP or a GiT, with the preprocessing that its checkpoint asks for."""

    def __init__(self, tower: Any, processor: Any) -> None:
        """A Transformers vision model and its image processor."""
        super().__init__()
        self.tower, self.processor = Frozen(tower), processor
        self.embed_dim = int(tower.config.hidden_size)

    def prepare(self, photos: Sequence[Image]) -> Tensor:
        """Photos (B of them, RGB) -> pixels (B, 3, H, W), resized, cropped and normalised as the checkpoint says."""
        pixels: Tensor = self.processor(images=list(photos), return_tensors="pt")["pixel_values"]
        return pixels

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) -> features (B, P, D)."""
        features: Tensor = self.tower.model(pixel_values=pixels).last_hidden_state
        return features


class PretrainedDescriber(nn.Module):
    """Pixels and codec tokens -> logits of the next step; ``start`` and ``step`` are those of ``PixVoxLM``."""

    accepts_loss_kwargs = True  # the Trainer says how many labels the whole batch has

    def __init__(self, dims: PixVoxConfig, image: PretrainedImage, text: Any, transform: nn.Module) -> None:
        """``text`` is the text model's configuration; ``dims`` gets the sizes that it says.

        Raises OptionError if ``dims.max_steps`` is more than the checkpoint has positions for.
        """
        super().__init__()
        if dims.max_steps > text.max_position_embeddings:
            raise OptionError(
                f"model.max_steps: {dims.max_steps} steps, but the decoder has positions for"
                f" {text.max_position_embeddings}; give so many at most"
            )
        self.image, self.dims = image, sizes_of(dims, image, text)
        width, count = self.dims.width, self.dims.num_codebooks
        self.embeddings = nn.ModuleList([nn.Embedding(dims.codebook_size + 1, width) for _ in range(count)])
        self.transforms = nn.ModuleList([copy.deepcopy(transform) for _ in range(count)])
        self.biases = nn.Parameter(torch.zeros(count, dims.codebook_size + 1))
        for table in self.embeddings.parameters():
            nn.init.normal_(table, std=float(text.initializer_range))

    @abstractmethod
    def decode(self, features: Tensor, embedded: Tensor) -> Tensor:
        """Image features (B, P, D') and embedded steps (B, S, D) -> hidden states of the steps (B, S, D)."""

    @abstractmethod
    def start(self, features: Tensor) -> Tensor:
        """Image features (B, P, D') -> their keys and values (layers, 2, B, heads, P, d)."""

    @abstractmethod
    def decode_step(self, embedded: Tensor, past: Tensor, cross: Tensor) -> tuple[Tensor, Tensor]:
        """One embedded step (B, 1, D), past (layers, 2, B, heads, S, d), cross -> hidden (B, 1, D), past of S + 1."""

    def embed(self, tokens: Tensor) -> Tensor:
        """Tokens (B, K, S) -> (B, S, D), the sum over codebooks."""
        return torch.stack([embedding(tokens[:, k]) for k, embedding in enumerate(self.embeddings)]).sum(0)

    def predict(self, hidden: Tensor) -> Tensor:
        """Hidden states (B, S, D) -> logits (K, B, S, V + 1)."""
        tables = [cast(nn.Embedding, embedding).weight for embedding in self.embeddings]
        heads = zip(self.transforms, tables, self.biases, strict=True)
        return torch.stack([F.linear(transform(hidden), table, bias) for transform, table, bias in heads])

    def logits(self, features: Tensor, tokens: Tensor) -> Tensor:
        """Image features (B, P, D') and inputs (B, K, S) -> logits (K, B, S, V + 1)."""
        return self.predict(self.decode(features, self.embed(tokens)))

    def forward(
        self, pixels: Tensor, tokens: Tensor, labels: Tensor, num_items_in_batch: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Loss of ``labels`` (B, K, S) given pixels (B, 3, H, W) and inputs ``tokens`` (B, K, S); see ``token_loss``.

        The image encoder runs inside the step, without gradients: its features of a data set in many views would fill
        a disk (0.9 MB a view for BLIP at 384 pixels, in fp16).
        """
        return {"loss": token_loss(self.logits(self.image(pixels), tokens), labels, num_items_in_batch)}

    def step(self, tokens: Tensor, past: Tensor, cross: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, K), past (layers, 2, B, heads, S, d), cross -> logits (B, K, V + 1), past with S + 1."""
        hidden, past = self.decode_step(self.embed(tokens[:, :, None]), past, cross)
        return self.predict(hidden)[:, :, 0].transpose(0, 1), past


def sizes_of(dims: PixVoxConfig, image: PretrainedImage, text: Any) -> PixVoxConfig:
    """``dims`` with the sizes that the checkpoints decide."""
    return replace(
        dims,
        width=int(text.hidden_size),
        layers=int(text.num_hidden_layers),
        heads=int(text.num_attention_heads),
        image_dim=image.embed_dim,
        dropout=float(text.hidden_dropout_prob),
    )


def to_cache(keys_values: Tensor) -> DynamicCache:
    """Keys and values (layers, 2, B, heads, S, d) as a cache of Transformers, not copied."""
    cache = DynamicCache()
    for key, value in keys_values:
        layer = DynamicLayer()  # type: ignore[no-untyped-call]
        layer.lazy_initialization(key, value)
        layer.keys, layer.values = key, value
        cache.layers.append(layer)
    return cache


def from_cache(cache: Any) -> Tensor:
    """The keys and values (layers, 2, B, heads, S, d) of a ``DynamicCache`` of Transformers."""
    return torch.stack([torch.stack([layer.keys, layer.values]) for layer in cache.layers])
