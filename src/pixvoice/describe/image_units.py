"""Im2Sp on image units: the ids of a ViT-VQGAN in place of pixels, and a ViT that learns to read them.

The stem adaptor is one convolution over the grid of code vectors: 32 x 32 of them, cut to the middle 28 x 28, become
14 x 14 patches, which the layers of a ViT-base read as their own.  The tokenizer stays frozen and is never saved; where
the units are on disk, training doesn't run it.

Sources: Kim et al. 2023 (Im2Sp, arXiv 2309.08531); Park et al. 2023 (SeiT, arXiv 2303.11114: the stem adaptor).

Letters: B batch, K codebooks, P patches, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import ViTModel
from transformers.models.git.modeling_git import GitProjection

from pixvoice.errors import BundleError
from pixvoice.images import to_pixels
from pixvoice.retrieve.hf_load import Frozen, load_config, load_tower
from pixvoice.vision.image_tokenizer import ImageTokenizer
from pixvoice.vision.vit_vqgan import load_vit_vqgan

if TYPE_CHECKING:
    from PIL.Image import Image

WANTED = "ViT"


class UnitsImage(nn.Module):
    """Image units (B, K, P) -> features (B, 1 + 14 * 14, D): a stem adaptor and the layers of a ViT."""

    def __init__(self, tokenizer: ImageTokenizer, vit: Any) -> None:
        """``vit`` is a Transformers ViT; its patch embedding and last norm aren't used, as in the source.

        Raises BundleError for a tokenizer with fewer patches than the ViT reads.
        """
        super().__init__()
        self.tokenizer = Frozen(tokenizer)
        self.embed_dim = int(vit.config.hidden_size)
        self.grid, side = int(tokenizer.patches**0.5), int(vit.config.image_size) // int(vit.config.patch_size)
        self.cut = 2 * side
        if self.cut > self.grid:
            raise BundleError(
                f"the ViT reads {side} x {side} patches, the image units have {self.grid} x {self.grid} ids: give a ViT"
                f" of at most {self.grid // 2} x {self.grid // 2} patches"
            )
        self.stem = nn.Conv2d(tokenizer.embed_dim, self.embed_dim, kernel_size=4, stride=2, padding=1)
        self.first, self.positions = vit.embeddings.cls_token, vit.embeddings.position_embeddings
        self.dropout, self.layers = vit.embeddings.dropout, vit.layers

    @torch.no_grad()
    def prepare(self, photos: Sequence[Image]) -> Tensor:
        """Photos (B of them, RGB) -> codes (B, K, P); the aspect ratio isn't kept."""
        size = self.tokenizer.model.image_size
        codes: Tensor = self.tokenizer.model.encode(
            torch.from_numpy(np.stack([to_pixels(photo, size) for photo in photos]))
        )
        return codes

    def forward(self, codes: Tensor) -> Tensor:
        """Codes (B, K, P) -> features (B, 1 + 14 * 14, D)."""
        vectors = self.tokenizer.model.embed(codes).transpose(1, 2)
        begin = (self.grid - self.cut) // 2
        kept = slice(begin, begin + self.cut)
        patches = self.stem(vectors.unflatten(-1, (self.grid, self.grid))[:, :, kept, kept]).flatten(2).transpose(1, 2)
        x = self.dropout(torch.cat([self.first.expand(len(codes), -1, -1), patches], dim=1) + self.positions)
        for layer in self.layers:
            x = layer(x, None)
        features: Tensor = x
        return features


def load_units_image(image: str, tokenizer: str) -> UnitsImage:
    """The reader of units that begins as the ViT ``image``, a folder or hub id, of the ViT-VQGAN in ``tokenizer``.

    Raises BundleError if either isn't there, is something else, or they don't fit together.
    """
    units = load_vit_vqgan(tokenizer)
    load_config(image, {"vit": ViTModel}, WANTED)
    return UnitsImage(units, load_tower(image, ViTModel, WANTED, add_pooling_layer=False))


def fit_projection(model: Any, width: int) -> None:
    """Give a GiT a new projection if its image encoder was wider or narrower than ``width``."""
    if model.config.vision_config.hidden_size != width:
        model.config.vision_config.hidden_size = width
        model.git.visual_projection = GitProjection(model.config)
