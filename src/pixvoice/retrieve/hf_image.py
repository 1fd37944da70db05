"""The image towers of CLIP and SigLIP, and plain ViT, with learned prompts behind their patches.

Sources: Radford et al. 2021 (CLIP, arXiv 2103.00020); Zhai et al. 2023 (SigLIP, arXiv 2303.15343); Dosovitskiy et al.
2021 (ViT, arXiv 2010.11929); Khattak et al. 2023 (MaPLe, arXiv 2210.03117), at depth 1, for the prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionModelWithProjection,
    SiglipImageProcessorPil,
    SiglipVisionModel,
    ViTImageProcessorPil,
    ViTModel,
)

from pixvoice.retrieve.hf_load import Frozen, changed_output, guarded, load_config, load_tower
from pixvoice.retrieve.parts import ImagePart

if TYPE_CHECKING:
    from PIL.Image import Image

TOWERS: dict[str, tuple[Any, Any]] = {
    "clip": (CLIPVisionModelWithProjection, CLIPImageProcessorPil),
    "clip_vision_model": (CLIPVisionModelWithProjection, CLIPImageProcessorPil),
    "siglip": (SiglipVisionModel, SiglipImageProcessorPil),
    "siglip_vision_model": (SiglipVisionModel, SiglipImageProcessorPil),
    "vit": (ViTModel, ViTImageProcessorPil),
}
WANTED = "CLIP, SigLIP or ViT with an image tower"


class ClipImage(ImagePart):
    """A frozen image tower of CLIP or SigLIP (its pooled vector), or a ViT (its CLS).

    The prompts follow the patches and take no positions of theirs.
    """

    def __init__(self, tower: Any, processor: Any) -> None:
        """A Transformers tower and its image processor."""
        super().__init__()
        self.tower, self.processor = Frozen(tower), processor
        self.projected = isinstance(tower, CLIPVisionModelWithProjection)
        self.embed_dim = int(tower.config.projection_dim if self.projected else tower.config.hidden_size)
        self.prompt_dim = int(tower.config.hidden_size)

    @classmethod
    def load(cls, checkpoint: str | Path) -> ClipImage:
        """The image tower of a checkpoint, by folder or hub id.

        Raises BundleError if there is no such checkpoint, it is none of the three, or a file is missing or damaged.
        """
        name = str(checkpoint)
        kind = load_config(name, TOWERS, WANTED).model_type
        tower, processor = TOWERS[kind]
        options = {"add_pooling_layer": False} if kind == "vit" else {}
        prepared = guarded(name, WANTED, lambda: processor.from_pretrained(name))
        return cls(load_tower(name, tower, WANTED, **options), prepared)

    def prepare(self, photos: Sequence[Image]) -> Tensor:
        """Photos (B of them, RGB) -> pixels (B, 3, H, W), resized, cropped and normalised as the checkpoint says."""
        pixels: Tensor = self.processor(images=list(photos), return_tensors="pt")["pixel_values"]
        return pixels.to(self.tower.model.device)

    def forward(self, pixels: Tensor, prompts: Tensor | None) -> Tensor:
        """Pixels (B, 3, H, W) and prompts (M, prompt_dim) -> vectors (B, D), not normalised."""
        tower = self.tower.model
        if prompts is None:
            return self._pooled(tower(pixel_values=pixels))

        def append(embedded: Tensor) -> Tensor:
            return torch.cat([embedded, prompts.to(embedded.dtype).expand(len(embedded), -1, -1)], dim=1)

        embeddings = tower.vision_model.embeddings if self.projected else tower.embeddings
        with changed_output(embeddings, append):
            return self._pooled(tower(pixel_values=pixels))

    def _pooled(self, output: Any) -> Tensor:
        vectors: Tensor
        if self.projected:
            vectors = output.image_embeds
        elif isinstance(self.tower.model, ViTModel):
            vectors = output.last_hidden_state[:, 0]
        else:
            vectors = output.pooler_output
        return vectors
