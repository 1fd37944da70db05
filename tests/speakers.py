"""Tiny untrained BLIP, GiT, EnCodec, HuBERT, k-means and unit HiFi-GAN, saved as their published folders are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from torch import nn

import towers
from pixvoice.speech.vocoder import UnitVocoder, VocoderConfig

SEEN = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SAID = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 30}
PICTURE = {"image_size": 32, "patch_size": 16}
SQUARE = {"height": 32, "width": 32}
UNITS = 6
VOCODER = VocoderConfig(
    num_embeddings=UNITS, embedding_dim=8, model_in_dim=8, upsample_rates=(16, 20), upsample_kernel_sizes=(32, 40),
    upsample_initial_channel=8, resblock_kernel_sizes=(3, 5), resblock_dilation_sizes=((1, 3), (1, 3)),
    var_pred_hidden_dim=8,
)  # fmt: skip


def make_blip(folder: Path) -> None:
    tokens = {"bos_token_id": 27, "sep_token_id": 28, "pad_token_id": 0, "eos_token_id": 28}
    config = transformers.BlipConfig(
        text_config={**SAID, **tokens, "encoder_hidden_size": 24, "max_position_embeddings": 40},
        vision_config={**SEEN, **PICTURE, "initializer_range": 0.2},
        projection_dim=12,
    )
    transformers.BlipForConditionalGeneration(config).save_pretrained(folder)
    transformers.BlipImageProcessorPil(size=SQUARE).save_pretrained(folder)


def make_git(folder: Path) -> None:
    config = transformers.GitConfig(
        **SAID, vision_config={**SEEN, **PICTURE}, max_position_embeddings=40, bos_token_id=27, eos_token_id=28,
    )  # fmt: skip
    transformers.GitForCausalLM(config).save_pretrained(folder)
    transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=SQUARE).save_pretrained(folder)


def make_encodec(folder: Path) -> None:
    config = transformers.EncodecConfig(
        sampling_rate=800, upsampling_ratios=[5, 4], num_filters=2, hidden_size=8, codebook_size=16, codebook_dim=8,
        target_bandwidths=[0.16, 0.32, 0.64],
    )  # fmt: skip
    model = transformers.EncodecModel(config)
    for layer in model.quantizer.layers:  # a checkpoint that was never trained has zeros
        layer.codebook.embed.normal_()
    model.save_pretrained(folder)


MAKERS: dict[str, Callable[[Path], None]] = {"blip": make_blip, "git": make_git, "encodec": make_encodec}


def checkpoint(kind: str) -> Path:
    """The folder of the tiny checkpoint of ``kind``, ours or a tower.  Don't change what is in there."""
    towers.MAKERS.update(MAKERS)
    return towers.checkpoint(kind)


def make_kmeans(path: Path, width: int = 16, count: int = UNITS) -> Path:
    """Centroids among the frames that the tiny HuBERT gives."""
    generator = torch.Generator().manual_seed(0)
    save_file({"centroids": torch.randn(count, width, generator=generator)}, path)
    return path


def published_vocoder(seed: int = 0) -> tuple[UnitVocoder, dict[str, torch.Tensor]]:
    """A tiny generator, and its weights as the published torch file has them: with weight norm."""
    torch.manual_seed(seed)
    model = UnitVocoder(VOCODER).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    tensors: dict[str, torch.Tensor] = {}
    for name, value in model.state_dict().items():
        if name.endswith("weight") and name.startswith(("conv_", "ups.", "resblocks.")):
            tensors[f"{name}_g"] = value.norm(dim=(1, 2), keepdim=True)
            tensors[f"{name}_v"] = value * 3
        else:
            tensors[name] = value
    return model, tensors


def vocoder_json(**changes: Any) -> str:
    """The published config.json, with keys of its training."""
    values = {**vars(VOCODER), "f0": False, "segment_size": 8960, "lr_decay": 0.999}
    predictor = {"encoder_embed_dim": 8, "var_pred_dropout": 0.5}
    predictor |= {key: values.pop(key) for key in ("var_pred_hidden_dim", "var_pred_kernel_size")}
    return json.dumps({**values, "dur_predictor_params": predictor, **changes})


def make_vocoder(folder: Path) -> Path:
    folder.mkdir()
    save_file(published_vocoder()[1], folder / "model.safetensors")
    (folder / "config.json").write_text(vocoder_json())
    return folder
