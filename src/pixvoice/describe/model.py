"""PixVoxLM: a causal language model of codec tokens with cross-attention to the photo.

The K tokens of a step are embedded and summed; K heads predict the next step.  The order of the codebooks over the
steps is a ``Pattern``.  Source: Tran and Sakti, "From Pixels to Voice" (PixVoxLM).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IGNORE = -100


@dataclass(frozen=True)
class PixVoxConfig:
    """Sizes of the describer; saved beside its weights."""

    num_codebooks: int = 8
    codebook_size: int = 1024
    pattern: str = "delay"
    width: int = 256
    layers: int = 6
    heads: int = 4
    image_dim: int = 1024
    max_steps: int = 160
    dropout: float = 0.1

    @property
    def special(self) -> int:
        """The special token: begins every sequence, fills gaps, and in codebook 0 ends the utterance."""
        return self.codebook_size


def token_loss(logits: Tensor, labels: Tensor, of_batch: Tensor | None = None) -> Tensor:
    """Loss of ``labels`` (B, K, S; -100 is ignored) given ``logits`` (K, B, S, V + 1).

    Cross-entropy summed over codebooks and averaged over steps, in nats a codebook.  Where these are a share of a
    batch with ``of_batch`` labels in all, it is their part of the batch's loss: the parts add up to it.
    """
    losses = [
        F.cross_entropy(of_codebook.flatten(0, 1).float(), target.flatten(), ignore_index=IGNORE)
        for of_codebook, target in zip(logits, labels.transpose(0, 1), strict=True)
    ]
    loss = torch.stack(losses).mean()
    return loss if of_batch is None else loss * ((labels != IGNORE).sum() / of_batch)


class Attention(nn.Module):
    """Multi-head attention of queries (B, S, D) over keys and values (B, S', D)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def split(self, x: Tensor) -> Tensor:
        """(B, S, D) -> (B, heads, S, D / heads)."""
        split: Tensor = x.unflatten(-1, (self.heads, -1))  # type: ignore[no-untyped-call]
        return split.transpose(1, 2)

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, S', D) -> keys and values, each (B, heads, S', D / heads)."""
        key, value = self.key_value(x).chunk(2, dim=-1)
        return self.split(key), self.split(value)

    def forward(self, x: Tensor, key: Tensor, value: Tensor, causal: bool = False) -> Tensor:
        """Queries from x (B, S, D); keys and values (B, heads, S', d) -> (B, S, D).

        Written out: at these lengths four times faster on a CPU than the fused kernel, forward and back.
        """
        mixed = self.weights(x, key, causal).to(value.dtype) @ value
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out

    def weights(self, x: Tensor, key: Tensor, causal: bool = False) -> Tensor:
        """Queries from x (B, S, D); keys (B, heads, S', d) -> what each step takes of each (B, heads, S, S')."""
        query = self.split(self.query(x)) * (x.shape[-1] // self.heads) ** -0.5
        scores = query @ key.transpose(-1, -2)
        if causal:
            scores = scores + torch.full(scores.shape[-2:], -torch.inf, dtype=scores.dtype, device=x.device).triu(1)
        weights: Tensor = scores.softmax(-1)
        return weights


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention, perceptron; each after a LayerNorm and added to its input (B, S, D)."""

    def __init__(self, config: PixVoxConfig) -> None:
        super().__init__()
        width = config.width
        self.self_norm, self.cross_norm, self.mlp_norm = (nn.LayerNorm(width) for _ in range(3))
        self.self_attention = Attention(width, config.heads)
        self.cross_attention = Attention(width, config.heads)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        """Steps (B, S, D), image (B, P, D) -> (B, S, D)."""
        x = self.recall(x)
        x = x + self.dropout(self.cross_attention(self.cross_norm(x), *self.cross_attention.keys_values(image)))
        return self.mlp(x)

    def recall(self, x: Tensor) -> Tensor:
        """What was said so far, added to each step (B, S, D) -> (B, S, D)."""
        normed = self.self_norm(x)
        key, value = self.self_attention.keys_values(normed)
        recalled: Tensor = self.dropout(self.self_attention(normed, key, value, causal=True))
        return x + recalled

    def look(self, x: Tensor, image: Tensor) -> Tensor:
        """Steps (B, S, D), image (B, P, D) -> how much each step looks at each patch (B, S, P), mean over the heads."""
        key, _ = self.cross_attention.keys_values(image)
        return self.cross_attention.weights(self.cross_norm(self.recall(x)), key).mean(1)

    def step(self, x: Tensor, past: Tensor, cross: Tensor) -> tuple[Tensor, Tensor]:
        """One step x (B, 1, D); past (2, B, heads, S, d); cross (2, B, heads, P, d) -> x and past with S + 1."""
        normed = self.self_norm(x)
        key, value = self.self_attention.keys_values(normed)
        past = torch.cat([past, torch.stack([key, value])], dim=3)
        x = x + self.self_attention(normed, past[0], past[1])
        x = x + self.cross_attention(self.cross_norm(x), cross[0], cross[1])
        return self.mlp(x), past

    def mlp(self, x: Tensor) -> Tensor:
        """(B, S, D) -> (B, S, D)."""
        added: Tensor = self.dropout(self.contract(F.gelu(self.expand(self.mlp_norm(x)))))
        return x + added


class PixVoxLM(nn.Module):
    """Image features and codec tokens -> logits of the next step."""

    accepts_loss_kwargs = True  # the Trainer says how many labels the whole batch has
    _no_split_modules = ("DecoderLayer",)  # what FSDP shards one by one

    def __init__(self, config: PixVoxConfig) -> None:
        super().__init__()
        self.dims = config
        c = config
        self.image_norm = nn.LayerNorm(c.image_dim)
        self.image_projection = nn.Linear(c.image_dim, c.width)
        self.embeddings = nn.ModuleList([nn.Embedding(c.codebook_size + 1, c.width) for _ in range(c.num_codebooks)])
        self.positions = nn.Embedding(c.max_steps, c.width)
        self.dropout = nn.Dropout(c.dropout)
        self.layers = nn.ModuleList([DecoderLayer(c) for _ in range(c.layers)])
        self.norm = nn.LayerNorm(c.width)
        self.heads = nn.ModuleList([nn.Linear(c.width, c.codebook_size + 1) for _ in range(c.num_codebooks)])
        self.apply(self._initialise)

    def _initialise(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
        if isinstance(module, DecoderLayer):
            for out in (module.self_attention.out, module.cross_attention.out, module.contract):
                nn.init.normal_(out.weight, std=0.02 / math.sqrt(3 * self.dims.layers))

    def decoder_layers(self) -> Iterator[DecoderLayer]:
        """The layers, from the first to the last."""
        return cast(Iterator[DecoderLayer], iter(self.layers))

    def see(self, features: Tensor) -> Tensor:
        """Image features (B, P, image_dim) -> (B, P, D)."""
        image: Tensor = self.image_projection(self.image_norm(features))
        return image

    def embed(self, tokens: Tensor) -> Tensor:
        """Tokens (B, K, S) -> (B, S, D), the sum over codebooks."""
        return sum((embed(tokens[:, k]) for k, embed in enumerate(self.embeddings)), start=torch.zeros(()))

    def logits(self, features: Tensor, tokens: Tensor) -> Tensor:
        """Image features (B, P, image_dim) and inputs (B, K, S) -> logits (K, B, S, V + 1)."""
        image = self.see(features)
        x = self.dropout(self.embed(tokens) + self.positions.weight[: tokens.shape[2]])
        for layer in self.layers:
            x = layer(x, image)
        x = self.norm(x)
        return torch.stack([head(x) for head in self.heads])

    def attention(self, features: Tensor, tokens: Tensor) -> Tensor:
        """Image features (B, P, image_dim), inputs (B, K, S) -> where the last layer looks at each step (B, S, P)."""
        image = self.see(features)
        x = self.embed(tokens) + self.positions.weight[: tokens.shape[2]]
        *before, last = self.decoder_layers()
        for layer in before:
            x = layer(x, image)
        return last.look(x, image)

    def forward(
        self, features: Tensor, tokens: Tensor, labels: Tensor, num_items_in_batch: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Loss of ``labels`` (B, K, S) given inputs ``tokens`` of the same shape; see ``token_loss``."""
        return {"loss": token_loss(self.logits(features, tokens), labels, num_items_in_batch)}

    def start(self, features: Tensor) -> Tensor:
        """Image features (B, P, image_dim) -> cross keys and values (layers, 2, B, heads, P, d)."""
        image = self.see(features)
        return torch.stack([torch.stack(layer.cross_attention.keys_values(image)) for layer in self.decoder_layers()])

    def step(self, tokens: Tensor, past: Tensor, cross: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (B, K), past (layers, 2, B, heads, S, d), cross -> logits (B, K, V + 1), past with S + 1."""
        x = self.embed(tokens[:, :, None]) + self.positions.weight[past.shape[4]]
        pasts = []
        for i, layer in enumerate(self.decoder_layers()):
            x, past_i = layer.step(x, past[i], cross[i])
            pasts.append(past_i)
        x = self.norm(x)[:, 0]
        return torch.stack([head(x) for head in self.heads], dim=1), torch.stack(pasts)
