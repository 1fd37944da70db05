"""Unit HiFi-GAN with a duration predictor: speech units -> waveform.

The module has the names and shapes of the published generator ("CodeHiFiGAN": ``dict``, ``conv_pre``, ``ups``,
``resblocks``, ``conv_post``, ``dur_predictor``), so that its weights load as they are, once ``pixvoice convert`` has
made safetensors of the torch file.  Weight norm is folded into the weights there.

Sources: Kong et al. 2020 (HiFi-GAN, arXiv 2010.05646); Polyak et al. 2021 (speech resynthesis from units, arXiv
2104.00355); Lee et al. 2022 (its duration predictor, arXiv 2107.05604).

Letters: T units, F frames, D width, L samples.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from pixvoice.errors import BundleError

SLOPE = 0.1
UNSUPPORTED = ("multispkr", "multistyle", "embedder_params", "f0", "f0_quant_num_bin")


@dataclass(frozen=True)
class VocoderConfig:
    """Sizes of the generator, by the names of the published ``config.json``; the defaults are the published ones."""

    num_embeddings: int = 200
    embedding_dim: int = 128
    model_in_dim: int = 128
    upsample_rates: tuple[int, ...] = (5, 4, 4, 2, 2)
    upsample_kernel_sizes: tuple[int, ...] = (11, 8, 8, 4, 4)
    upsample_initial_channel: int = 512
    resblock_kernel_sizes: tuple[int, ...] = (3, 7, 11)
    resblock_dilation_sizes: tuple[tuple[int, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    sampling_rate: int = 16_000
    code_hop_size: int = 320
    var_pred_hidden_dim: int = 128
    var_pred_kernel_size: int = 3

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> VocoderConfig:
        """From a published configuration, whose keys about training are passed over.

        Raises BundleError for a generator that needs more than units, or has no duration predictor.
        """
        if more := [key for key in UNSUPPORTED if values.get(key)]:
            raise BundleError(f"a vocoder with {more[0]}: give one that speaks from units alone, by a single speaker")
        if not values.get("dur_predictor_params"):
            raise BundleError("a vocoder without a duration predictor: give one that has dur_predictor_params")
        flat = {**values, **values["dur_predictor_params"]}
        names = [field.name for field in fields(cls)]
        if missing := [name for name in names if name not in flat]:
            raise BundleError(f"no {missing[0]} in its config.json: give the one that belongs to a unit HiFi-GAN")
        return cls(**{name: _tuples(flat[name]) for name in names})


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


class ResidualBlock(nn.Module):
    """Three pairs of convolutions, the first of each pair dilated, added to their input (B, D, F)."""

    def __init__(self, channels: int, kernel: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(
            [nn.Conv1d(channels, channels, kernel, dilation=d, padding=(kernel - 1) * d // 2) for d in dilations]
        )
        self.convs2 = nn.ModuleList(
            [nn.Conv1d(channels, channels, kernel, padding=(kernel - 1) // 2) for _ in dilations]
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, F) -> (B, D, F)."""
        for first, second in zip(self.convs1, self.convs2, strict=True):
            x = x + second(F.leaky_relu(first(F.leaky_relu(x, SLOPE)), SLOPE))
        return x


class DurationPredictor(nn.Module):
    """Embedded units (B, T, D) -> log(frames + 1) of each (B, T)."""

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        width, kernel = config.var_pred_hidden_dim, config.var_pred_kernel_size
        self.reach = 2 * (kernel // 2)  # units either way that a prediction hangs on
        self.conv1 = nn.Sequential(nn.Conv1d(config.embedding_dim, width, kernel, padding=kernel // 2), nn.ReLU())
        self.ln1 = nn.LayerNorm(width)
        self.conv2 = nn.Sequential(nn.Conv1d(width, width, kernel, padding=kernel // 2), nn.ReLU())
        self.ln2 = nn.LayerNorm(width)
        self.proj = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (B, T); used for inference only, so without the dropout of its training."""
        x = self.ln1(self.conv1(x.transpose(1, 2)).transpose(1, 2))
        x = self.ln2(self.conv2(x.transpose(1, 2)).transpose(1, 2))
        logs: Tensor = self.proj(x)[..., 0]
        return logs


def frames_of(logs: Tensor) -> Tensor:
    """What a ``DurationPredictor`` gives, as whole frames, at least one."""
    return torch.clamp(torch.round(torch.exp(logs) - 1).long(), min=1)


class UnitVocoder(nn.Module):
    """Units -> frames by predicted durations -> waveform, ``code_hop_size`` samples a frame."""

    def __init__(self, config: VocoderConfig) -> None:
        """Raises BundleError if the upsampling doesn't come to ``code_hop_size``."""
        super().__init__()
        product = 1
        for rate in config.upsample_rates:
            product *= rate
        if product != config.code_hop_size:
            raise BundleError(
                f"its upsample_rates make {product} samples a frame, code_hop_size {config.code_hop_size}"
            )
        self.config = config
        self.dict = nn.Embedding(config.num_embeddings, config.embedding_dim)
        channels = [config.upsample_initial_channel // 2**i for i in range(len(config.upsample_rates) + 1)]
        self.conv_pre = nn.Conv1d(config.model_in_dim, channels[0], 7, padding=3)
        self.ups = nn.ModuleList(
            [
                nn.ConvTranspose1d(channels[i], channels[i + 1], kernel, rate, padding=(kernel - rate) // 2)
                for i, (rate, kernel) in enumerate(
                    zip(config.upsample_rates, config.upsample_kernel_sizes, strict=True)
                )
            ]
        )
        shapes = list(zip(config.resblock_kernel_sizes, config.resblock_dilation_sizes, strict=True))
        self.resblocks = nn.ModuleList([ResidualBlock(width, *shape) for width in channels[1:] for shape in shapes])
        self.conv_post = nn.Conv1d(channels[-1], 1, 7, padding=3)
        self.dur_predictor = DurationPredictor(config)

    @classmethod
    def load(cls, folder: str | Path) -> UnitVocoder:
        """The vocoder in a folder with ``config.json`` and ``model.safetensors``.

        Raises BundleError if either is missing, damaged, or of another layout.
        """
        place = Path(folder)
        try:
            config = json.loads((place / "config.json").read_bytes())
            tensors = load_file(place / "model.safetensors")
        except OSError as error:
            raise BundleError(
                f"{place} holds no unit vocoder ({Path(error.filename or 'model.safetensors').name} is missing): put"
                f" its config.json there, and type: pixvoice convert g_00950000 -o {place / 'model.safetensors'}"
            ) from None
        except (ValueError, SafetensorError) as error:
            raise BundleError(f"{place} holds no unit vocoder that can be read ({error}): convert it again") from None
        try:
            model = cls(VocoderConfig.from_json(config))
            model.load_state_dict(fold_weight_norm(tensors))
        except (RuntimeError, TypeError, ValueError, AttributeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise BundleError(f"{place} is no unit HiFi-GAN of its config.json: {reason}") from None
        except BundleError as error:
            raise BundleError(f"{place}: {error}") from None
        return model.eval().requires_grad_(False)

    @property
    def units(self) -> int:
        """N."""
        return self.config.num_embeddings

    @property
    def sample_rate(self) -> int:
        """Audio samples a second (Hz)."""
        return self.config.sampling_rate

    @property
    def hop(self) -> int:
        """Samples that one frame of a unit lasts."""
        return self.config.code_hop_size

    def durations(self, units: Tensor) -> Tensor:
        """Units (T,) -> frames of each (T,), at least one."""
        return frames_of(self.dur_predictor(self.dict(units)[None])[0])

    def forward(self, units: Tensor, durations: Tensor | None = None) -> Tensor:
        """Units (T,) and frames of each (T,), predicted if not given -> audio (L,), L = frames x ``code_hop_size``."""
        frames = units.repeat_interleave(self.durations(units) if durations is None else durations)
        x = self.conv_pre(self.dict(frames).T[None])
        blocks = len(self.config.resblock_kernel_sizes)
        for i, up in enumerate(self.ups):
            x = up(F.leaky_relu(x, SLOPE))
            x = torch.stack([self.resblocks[i * blocks + j](x) for j in range(blocks)]).mean(0)
        audio: Tensor = torch.tanh(self.conv_post(F.leaky_relu(x)))[0, 0]
        return audio


def fold_weight_norm(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``name.weight_g`` and ``name.weight_v`` as ``name.weight``: g v / |v|, the norm over axes where g has size 1."""
    folded = {name: tensor for name, tensor in tensors.items() if not name.endswith((".weight_g", ".weight_v"))}
    for name, direction in tensors.items():
        if not name.endswith(".weight_v"):
            continue
        stem = name.removesuffix("_v")
        if (length := tensors.get(f"{stem}_g")) is None:
            raise BundleError(f"{name} without {stem}_g: the file is not whole")
        axes = [axis for axis, size in enumerate(length.shape) if size == 1]
        folded[stem] = length * direction / torch.linalg.vector_norm(direction, dim=axes, keepdim=True)
    return folded


def is_unit_vocoder(tensors: Mapping[str, Tensor]) -> bool:
    """Whether ``tensors`` are those of a published generator, with weight norm."""
    return "dict.weight" in tensors and "conv_pre.weight_v" in tensors
