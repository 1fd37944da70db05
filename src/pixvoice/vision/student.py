"""The image student: a small residual network trained from its own random start, with a teacher's features as target.

Source: He et al. 2016 (residual blocks); Romero et al. 2015, "FitNets" (features as a distillation target).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class StudentConfig:
    """Sizes of the image student; saved beside its weights.  Four stages at strides 4, 8, 16 and 32."""

    image_size: int = 224
    widths: tuple[int, ...] = (32, 64, 192, 384)
    blocks: tuple[int, ...] = (1, 1, 2, 2)
    embed_dim: int = 1024


class ResidualBlock(nn.Module):
    """Maps (B, C, H, W) -> (B, C', H / stride, W / stride): two 3 x 3 convolutions and a shortcut."""

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out_channels, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        same = stride == 1 and channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.shortcut(x) + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))


class ImageStudent(nn.Module):
    """Pixels (B, 3, H, W) in [0, 1] -> features (B, P, D), one a 32 x 32 pixel patch, row by row.

    The features are estimates of the teacher's, standardised; whatever reads the one can read the other.
    """

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.dims = config
        self.stem = nn.Conv2d(3, config.widths[0], 4, 4, bias=False)
        self.norm = nn.BatchNorm2d(config.widths[0])
        blocks, channels = [], config.widths[0]
        for stage, (width, count) in enumerate(zip(config.widths, config.blocks, strict=True)):
            for i in range(count):
                blocks.append(ResidualBlock(channels, width, 2 if stage > 0 and i == 0 else 1))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(channels, config.embed_dim)

    def forward(self, pixels: Tensor) -> Tensor:
        x = (pixels * 2.0 - 1.0).contiguous(memory_format=torch.channels_last)
        grid: Tensor = self.blocks(F.relu(self.norm(self.stem(x))))
        features: Tensor = self.head(grid.flatten(2).transpose(1, 2))
        return features


class Distillation(nn.Module):
    """The student beside the teacher's standardised features."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.student = ImageStudent(config)
        self.register_buffer("mean", torch.zeros(config.embed_dim))
        self.register_buffer("std", torch.ones(config.embed_dim))

    def forward(self, pixels: Tensor, teacher: Tensor) -> dict[str, Tensor]:
        """Pixels (B, 3, H, W) and teacher features (B, P, D) -> ``loss``: the share of variance not explained."""
        target = (teacher.float() - self.mean) / self.std
        return {"loss": F.mse_loss(self.student(pixels).float(), target)}
