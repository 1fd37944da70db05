"""Im2Sp at full size: the frozen image encoder of a GiT captioner, and its text decoder re-used for speech units.

GiT has no cross-attention: the projected patches stand in front of the steps, see one another and nothing else, and
every step sees all of them and the steps before it.  The projection belongs to the decoder here, and trains.

Sources: Wang et al. 2022 (GiT, arXiv 2205.14100); Kim et al. 2023 (Im2Sp, arXiv 2309.08531).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache

from pixvoice.describe.model import PixVoxConfig
from pixvoice.describe.pretrained import PretrainedDescriber, PretrainedImage, from_cache, to_cache
from pixvoice.errors import BundleError


class GitDescriber(PretrainedDescriber):
    """A describer on the text decoder of a ``GitForCausalLM``."""

    _no_split_modules = ("GitLayer",)  # what FSDP shards one by one

    def __init__(self, dims: PixVoxConfig, image: PretrainedImage, model: Any) -> None:
        """Takes the decoder out of ``model``, without its vocabulary.

        Raises BundleError if it takes image features of another width, OptionError for too many steps.
        """
        config = model.config
        if image.embed_dim != config.vision_config.hidden_size:
            raise BundleError(
                f"the decoder takes image features {config.vision_config.hidden_size} wide, the image encoder gives"
                f" {image.embed_dim}; give image and decoder of one checkpoint"
            )
        super().__init__(dims, image, config, nn.Identity())
        self.projection, self.positions, self.encoder = (
            model.git.visual_projection,
            model.git.embeddings,
            model.git.encoder,
        )
        self.positions.word_embeddings = None

    def decode(self, features: Tensor, embedded: Tensor) -> Tensor:
        """Image features (B, P, D') and embedded steps (B, S, D) -> hidden states of the steps (B, S, D)."""
        patches = self.projection(features)
        joined = torch.cat([patches, self.positions(inputs_embeds=embedded)], dim=1)
        mask = _mask(patches.shape[1], embedded.shape[1], joined)
        hidden: Tensor = self.encoder(joined, attention_mask=mask).last_hidden_state
        return hidden[:, patches.shape[1] :]

    def start(self, features: Tensor) -> Tensor:
        """Image features (B, P, D') -> keys and values of the patches (layers, 2, B, heads, P, d)."""
        cache = DynamicCache()
        self.encoder(self.projection(features), past_key_values=cache)
        return from_cache(cache)

    def decode_step(self, embedded: Tensor, past: Tensor, cross: Tensor) -> tuple[Tensor, Tensor]:
        """One embedded step (B, 1, D), past (layers, 2, B, heads, S, d), cross -> hidden (B, 1, D), past of S + 1."""
        rows, patches, steps = past.shape[2], cross.shape[4], past.shape[4]
        cache = to_cache(torch.cat([cross.expand(-1, -1, rows, -1, -1, -1), past], dim=4))
        placed = self.positions(inputs_embeds=embedded, past_key_values_length=steps)
        hidden = self.encoder(placed, past_key_values=cache).last_hidden_state
        return hidden, from_cache(cache)[:, :, :, :, patches:]


def _mask(patches: int, steps: int, like: Tensor) -> Tensor:
    """What is added to attention scores (P + S, P + S): 0 where a row may look, -inf where it may not."""
    total = patches + steps
    allowed = torch.ones(total, total, dtype=torch.bool, device=like.device).tril()
    allowed[:, :patches] = True
    return torch.zeros(total, total, dtype=like.dtype, device=like.device).masked_fill(~allowed, -torch.inf)
