"""PixVoxLM at full size: the frozen image encoder of a BLIP captioner, and its text decoder with K codebooks.

Sources: Li et al. 2022 (BLIP, arXiv 2201.12086); Tran and Sakti, "From Pixels to Voice" (PixVoxLM).

What is counted, for BLIP-base and K = 8 codebooks of 1024 with the special token: 125 M train (twelve layers with
cross-attention 113.4 M, positions 0.4 M, eight tied tables 6.3 M, eight copies of BLIP's own prediction transform
4.7 M) and the frozen ViT-B/16 at 384 pixels has 86 M: 211 M, as the source says.  The source doesn't say how its heads
are made; untied tables behind one transform would be 127 M of 213 M, so we take the tied heads that BLIP itself has.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import EncoderDecoderCache

from pixvoice.describe.model import PixVoxConfig
from pixvoice.describe.pretrained import PretrainedDescriber, PretrainedImage, from_cache, to_cache
from pixvoice.errors import BundleError


class BlipDescriber(PretrainedDescriber):
    """A describer on the text decoder of a ``BlipForConditionalGeneration``, with cross-attention to the photo."""

    _no_split_modules = ("BlipTextLayer",)  # what FSDP shards one by one

    def __init__(self, dims: PixVoxConfig, image: PretrainedImage, model: Any) -> None:
        """Takes the decoder out of ``model``, without its vocabulary.

        Raises BundleError if it takes image features of another width, OptionError for too many steps.
        """
        config = model.config.text_config
        if image.embed_dim != config.encoder_hidden_size:
            raise BundleError(
                f"the decoder takes image features {config.encoder_hidden_size} wide, the image encoder gives"
                f" {image.embed_dim}; give image and decoder of one checkpoint"
            )
        super().__init__(dims, image, config, model.text_decoder.cls.predictions.transform)
        self.text = model.text_decoder.bert
        self.text.embeddings.word_embeddings = None

    def decode(self, features: Tensor, embedded: Tensor) -> Tensor:
        """Image features (B, P, D') and embedded steps (B, S, D) -> hidden states of the steps (B, S, D)."""
        hidden: Tensor = self.text(
            inputs_embeds=embedded, encoder_hidden_states=features, is_decoder=True, use_cache=False
        ).last_hidden_state
        return hidden

    def start(self, features: Tensor) -> Tensor:
        """Image features (B, P, D') -> cross keys and values (layers, 2, B, heads, P, d)."""
        return torch.stack([_keys_values(layer.crossattention.self, features) for layer in self.text.encoder.layer])

    def decode_step(self, embedded: Tensor, past: Tensor, cross: Tensor) -> tuple[Tensor, Tensor]:
        """One embedded step (B, 1, D), past (layers, 2, B, heads, S, d), cross -> hidden (B, 1, D), past of S + 1."""
        cache = EncoderDecoderCache(to_cache(past), to_cache(cross))
        seen = embedded  # stands for the image features, whose keys and values are in the cache
        hidden = self.text(
            inputs_embeds=embedded, encoder_hidden_states=seen, past_key_values=cache, is_decoder=True, use_cache=True
        ).last_hidden_state
        return hidden, from_cache(cache.self_attention_cache)


def _keys_values(attention: Any, features: Tensor) -> Tensor:
    """Features (B, P, D') -> keys and values (2, B, heads, P, d) of one layer's cross-attention."""
    made = torch.stack([attention.key(features), attention.value(features)])
    split: Tensor = made.unflatten(-1, (attention.num_attention_heads, -1))  # type: ignore[no-untyped-call]
    return split.transpose(2, 3)
