"""The teacher: MobileNet v1 (Howard et al. 2017), blocks 1 to 12, read from a safetensors file with Keras' names.

A distillation target only; its weights never ship.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from pixvoice.errors import BundleError

STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2)
EPSILON = 1e-3


class MobileNetTeacher:
    """Pixels (B, 3, 224, 224) in [0, 1] -> features (B, 49, 1024)."""

    def __init__(self, path: Path) -> None:
        """Raises BundleError if the file isn't there or holds other tensors."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        if not path.is_file():
            raise BundleError(f"no teacher at {path}: give a MobileNet v1 safetensors file, or leave `teacher` out")
        try:
            tensors = load_file(str(path))
        except (SafetensorError, OSError) as error:
            raise BundleError(f"{path} is not a safetensors file that can be read ({error})") from None
        try:
            self.layers = [self._layer(tensors, "conv1", "conv1_bn", 2)]
            for n, stride in enumerate(STRIDES, start=1):
                self.layers.append(self._layer(tensors, f"conv_dw_{n}", f"conv_dw_{n}_bn", stride))
                self.layers.append(self._layer(tensors, f"conv_pw_{n}", f"conv_pw_{n}_bn", 1))
        except KeyError as error:
            raise BundleError(f"{path} has no tensor {error}: not a MobileNet v1 with Keras' names") from None

    @staticmethod
    def _layer(tensors: dict[str, Tensor], conv: str, norm: str, stride: int) -> tuple[Tensor, Tensor, int]:
        """The convolution with its batch norm folded in: weight, bias, stride."""
        scale = tensors[f"{norm}.gamma"] / torch.sqrt(tensors[f"{norm}.moving_variance"] + EPSILON)
        weight = tensors[f"{conv}.weight"] * scale[:, None, None, None]
        bias = tensors[f"{norm}.beta"] - tensors[f"{norm}.moving_mean"] * scale
        return weight.contiguous(memory_format=torch.channels_last), bias, stride

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Tensor:
        x = (pixels * 2.0 - 1.0).contiguous(memory_format=torch.channels_last)
        for weight, bias, stride in self.layers:
            if weight.shape[-1] == 3:
                x = F.pad(x, (0, 1, 0, 1)) if stride == 2 else F.pad(x, (1, 1, 1, 1))
            groups = weight.shape[0] if weight.shape[1] == 1 else 1
            x = F.conv2d(x, weight, bias, stride, groups=groups).clamp(0.0, 6.0)
        return x.flatten(2).transpose(1, 2)
