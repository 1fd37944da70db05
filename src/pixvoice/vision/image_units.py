"""Small image units: the features of the image student, each patch as K ids, each codebook refining those before it.

Features, not pixels, are quantized: what the student threw away no describer reads, so that no bit is spent on it.
Convolutions over the 7 x 7 patches on both sides let the ids of neighbours share what they have in common.

Sources: van den Oord et al. 2017 (VQ-VAE); Zeghidour et al. 2021 (residual quantization); Kim et al. 2023 (Im2Sp: a
photo kept as ids alone).

Letters: B batch, K codebooks, P patches, D width.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pixvoice.speech.quantizer import ResidualVectorQuantizer
from pixvoice.vision.image_tokenizer import ImageTokenizer
from pixvoice.vision.student import ImageStudent, StudentConfig

COMMITMENT = 0.25


@dataclass(frozen=True)
class ImageUnitsConfig:
    """Sizes of the quantizer, and of the student whose features it quantizes; saved beside the weights."""

    num_codebooks: int = 8
    codebook_size: int = 1024
    latent_dim: int = 128
    width: int = 256
    blocks: int = 2
    student: StudentConfig = field(default_factory=StudentConfig)

    @classmethod
    def from_json(cls, student: dict[str, Any], **sizes: Any) -> ImageUnitsConfig:
        """From what ``dataclasses.asdict`` and JSON made of it.  Raises TypeError for anything else."""
        read: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in student.items()
        }
        return cls(**sizes, student=StudentConfig(**read))

    @property
    def grid(self) -> int:
        """Patches along each side."""
        return self.student.image_size // 32


class Block(nn.Module):
    """A 3 x 3 convolution over the patches of each channel, and a perceptron over the channels, added to the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.spread = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm = nn.LayerNorm(width)
        self.expand, self.contract = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, P, D) -> (B, P, D); P is a square number."""
        side = int(x.shape[1] ** 0.5)
        grid = x.transpose(1, 2).reshape(-1, x.shape[2], side, side)
        spread = self.spread(grid).flatten(2).transpose(1, 2)
        added: Tensor = self.contract(F.gelu(self.expand(self.norm(spread))))
        return x + added


class FeatureQuantizer(nn.Module):
    """Features (B, P, D) <-> codes (B, K, P).  ``mean`` (D,) and ``scale`` () bring features to unit variance."""

    mean: Tensor
    scale: Tensor

    def __init__(self, config: ImageUnitsConfig) -> None:
        super().__init__()
        c, width = config, config.student.embed_dim
        self.encoder = nn.Sequential(
            nn.Linear(width, c.width), *(Block(c.width) for _ in range(c.blocks)), nn.Linear(c.width, c.latent_dim)
        )
        self.quantizer = ResidualVectorQuantizer(c.num_codebooks, c.codebook_size, c.latent_dim)
        self.decoder = nn.Sequential(
            nn.Linear(c.latent_dim, c.width), *(Block(c.width) for _ in range(c.blocks)), nn.Linear(c.width, width)
        )
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(()))

    def encode(self, features: Tensor) -> Tensor:
        """Features (B, P, D) -> codes (B, K, P)."""
        return self.quantizer.encode(self.encoder((features - self.mean) / self.scale))

    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, K', P) with K' <= K -> features (B, P, D)."""
        features: Tensor = self.decoder(self.quantizer.decode(codes)) * self.scale + self.mean
        return features

    def forward(self, features: Tensor) -> dict[str, Tensor]:
        """Features (B, P, D) -> ``loss``: the share of their variance that is lost, and how far latents lie from codes.

        Half of the batch uses a random number of codebooks, so that the first few say most.
        """
        normal = (features - self.mean) / self.scale
        quantized, commitment = self.quantizer(self.encoder(normal).float(), 1)
        return {"loss": F.mse_loss(self.decoder(quantized).float(), normal) + COMMITMENT * commitment}


class ImageUnits(ImageTokenizer):
    """The student and the quantizer of its features; pixels in, features out, it stands where a student stands."""

    def __init__(self, config: ImageUnitsConfig) -> None:
        super().__init__()
        self.sizes = config
        self.student, self.quantizer = ImageStudent(config.student), FeatureQuantizer(config)

    @property
    def dims(self) -> StudentConfig:
        """The student's sizes."""
        return self.sizes.student

    @property
    def image_size(self) -> int:
        """Height and width of the pixels taken (pixels)."""
        return self.dims.image_size

    @property
    def patches(self) -> int:
        """P."""
        return self.sizes.grid**2

    @property
    def num_codebooks(self) -> int:
        """K."""
        return self.sizes.num_codebooks

    @property
    def codebook_size(self) -> int:
        """V."""
        return self.sizes.codebook_size

    @property
    def embed_dim(self) -> int:
        """D."""
        return self.dims.embed_dim

    def encode(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) in [0, 1] -> codes (B, K, P)."""
        return self.quantizer.encode(self.student(pixels))

    def embed(self, codes: Tensor) -> Tensor:
        """Codes (B, K, P) -> features (B, P, D) in the student's space."""
        return self.quantizer.decode(codes)

    def forward(self, pixels: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) in [0, 1] -> the features (B, P, D) that are left of them in the units."""
        return self.embed(self.encode(pixels))
