"""ViT-VQGAN: a photo of 256 x 256 pixels as 32 x 32 ids of one codebook, by transformers on both sides.

Weights have the names of the released PyTorch model ("Enhancing Transformers"), which SeiT's and Im2Sp's image units
come from.  Here it is a tokenizer that has been trained elsewhere: the adversarial training isn't built.

Source: Yu et al. 2022, "Vector-quantized image modeling with improved VQGAN" (arXiv 2110.04627).

Letters: B batch, P patches, D width, V codebook size.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pixvoice.errors import BundleError
from pixvoice.vision.image_tokenizer import ImageTokenizer

MODEL_TYPE = "vit_vqgan"


@dataclass(frozen=True)
class VitVqganConfig:
    """Sizes, by the names of the released configuration; the defaults are those of its base model."""

    image_size: int = 256  # pixels
    patch_size: int = 8
    dim: int = 768
    depth: int = 12
    heads: int = 12
    dim_head: int = 64
    mlp_dim: int = 3072
    embed_dim: int = 32
    n_embed: int = 8192


class PreNorm(nn.Module):
    """``fn`` of the normalised input (B, P, D), added to the input."""

    def __init__(self, dim: int, fn: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.fn(self.norm(x))
        return x + added


class Attention(nn.Module):
    """Self-attention over patches (B, P, D)."""

    def __init__(self, config: VitVqganConfig) -> None:
        super().__init__()
        c, inner = config, config.heads * config.dim_head
        self.heads = c.heads
        self.to_qkv = nn.Linear(c.dim, 3 * inner, bias=False)
        self.to_out = nn.Identity() if c.heads == 1 and c.dim_head == c.dim else nn.Linear(inner, c.dim)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.to_qkv(x).chunk(3, dim=-1)
        )
        mixed: Tensor = self.to_out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
        return mixed


class FeedForward(nn.Module):
    """Two maps with a hyperbolic tangent between them."""

    def __init__(self, config: VitVqganConfig) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(config.dim, config.mlp_dim), nn.Tanh(), nn.Linear(config.mlp_dim, config.dim)
        )

    def forward(self, x: Tensor) -> Tensor:
        mapped: Tensor = self.net(x)
        return mapped


class Transformer(nn.Module):
    """``depth`` layers on patches (B, P, D)."""

    def __init__(self, config: VitVqganConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList([PreNorm(config.dim, part(config)) for part in (Attention, FeedForward)])
            for _ in range(config.depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            for part in cast(nn.ModuleList, layer):
                x = part(x)
        return x


class Encoder(nn.Module):
    """Pixels (B, 3, H, W) in [0, 1] -> patches (B, P, D)."""

    def __init__(self, config: VitVqganConfig) -> None:
        super().__init__()
        side = config.patch_size
        self.to_patch_embedding = nn.Sequential(nn.Conv2d(3, config.dim, side, side))
        self.en_pos_embedding = nn.Parameter(positions(config.image_size // side, config.dim)[None], False)
        self.transformer = Transformer(config)
        self.norm = nn.LayerNorm(config.dim)

    def forward(self, pixels: Tensor) -> Tensor:
        patches = self.to_patch_embedding(pixels).flatten(2).transpose(1, 2)
        encoded: Tensor = self.norm(self.transformer(patches + self.en_pos_embedding))
        return encoded


class Decoder(nn.Module):
    """Patches (B, P, D) -> pixels (B, 3, H, W)."""

    def __init__(self, config: VitVqganConfig) -> None:
        super().__init__()
        side = config.patch_size
        self.grid = config.image_size // side
        self.transformer = Transformer(config)
        self.de_pos_embedding = nn.Parameter(positions(self.grid, config.dim)[None], False)
        self.norm = nn.LayerNorm(config.dim)
        self.to_pixel = nn.ModuleDict({"conv_out": nn.ConvTranspose2d(config.dim, 3, side, side)})

    def forward(self, patches: Tensor) -> Tensor:
        x = self.norm(self.transformer(patches + self.de_pos_embedding))
        pixels: Tensor = self.to_pixel["conv_out"](x.transpose(1, 2).unflatten(-1, (self.grid, self.grid)))
        return pixels


class VitVqgan(ImageTokenizer):
    """Photo <-> 32 x 32 ids; ids are compared, and read, as code vectors of length 1."""

    def __init__(self, config: VitVqganConfig) -> None:
        super().__init__()
        self.dims = config
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.pre_quant = nn.Linear(config.dim, config.embed_dim)
        self.post_quant = nn.Linear(config.embed_dim, config.dim)
        self.quantizer = nn.ModuleDict({"embedding": nn.Embedding(config.n_embed, config.embed_dim)})

    @property
    def image_size(self) -> int:
        """Height and width of the pixels taken (pixels)."""
        return self.dims.image_size

    @property
    def patches(self) -> int:
        """P."""
        return (self.dims.image_size // self.dims.patch_size) ** 2

    @property
    def num_codebooks(self) -> int:
        """K = 1."""
        return 1

    @property
    def codebook_size(self) -> int:
        """V."""
        return self.dims.n_embed

    @property
    def embed_dim(self) -> int:
        """D, the width of a code vector."""
        return self.dims.embed_dim

    @property
    def _vectors(self) -> Tensor:
        """Code vectors (V, D) of length 1."""
        return F.normalize(cast(Tensor, self.quantizer["embedding"].weight), dim=-1)

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) in [0, 1] -> codes (B, 1, P): the code vector of the least angle."""
        latents = F.normalize(self.pre_quant(self.encoder(pixels)), dim=-1)
        return (latents @ self._vectors.T).argmax(dim=-1)[:, None]

    def embed(self, codes: Tensor) -> Tensor:
        """Codes (B, 1, P) -> code vectors (B, P, D) of length 1."""
        return F.embedding(codes[:, 0], self._vectors)

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, 1, P) -> pixels (B, 3, H, W), about in [0, 1]."""
        pixels: Tensor = self.decoder(self.post_quant(self.embed(codes)))
        return pixels


def positions(grid: int, dim: int) -> Tensor:
    """Sines and cosines of the places of a ``grid`` x ``grid`` of patches (grid * grid, D): columns first, then rows.

    They are kept in the checkpoint, whose own replace these.
    """
    rates = 10_000.0 ** -(torch.arange(dim // 4, dtype=torch.float64) / (dim / 4))
    angles = torch.arange(grid, dtype=torch.float64)[:, None] * rates
    places = torch.cat([angles.sin(), angles.cos()], dim=1)
    columns, rows = places.repeat(grid, 1), places.repeat_interleave(grid, dim=0)
    return torch.cat([columns, rows], dim=1).float()


def load_vit_vqgan(folder: str | Path) -> VitVqgan:
    """The tokenizer in ``folder``: ``model.safetensors`` with the released names, and its sizes in ``config.json``.

    The checkpoint's loss and discriminator are left out.  Raises BundleError for a folder that holds no such model, or
    one of other sizes.
    """
    place = Path(folder)
    try:
        saved = json.loads((place / "config.json").read_bytes())
        known = {field.name for field in fields(VitVqganConfig)}
        model = VitVqgan(VitVqganConfig(**{key: value for key, value in saved.items() if key in known}))
        weights = load_file(place / "model.safetensors")
        model.load_state_dict({name: weights[name] for name in model.state_dict()})
    except OSError as error:
        reason = f"{Path(error.filename or place / 'model.safetensors').name}: {error.strerror or 'not there'}"
        raise BundleError(
            f"no ViT-VQGAN in {place} ({reason}); give a folder with config.json and model.safetensors"
        ) from None
    except KeyError as error:
        raise BundleError(f"{place} is not a whole ViT-VQGAN: {error.args[0]} is missing") from None
    except (ValueError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise BundleError(f"{place} can't be loaded as a ViT-VQGAN ({reason}); check config.json's sizes") from None
    return model.eval().requires_grad_(False)
