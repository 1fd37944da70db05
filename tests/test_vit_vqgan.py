"""ViT-VQGAN: the released names and positions, the nearest code by angle, and folders that hold something else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")
pytest.importorskip("safetensors", reason="needs the train extra")

from safetensors.torch import load_file, save_file  # noqa: E402

from pixvoice.errors import BundleError  # noqa: E402
from pixvoice.vision.vit_vqgan import VitVqgan, VitVqganConfig, load_vit_vqgan, positions  # noqa: E402

TINY = VitVqganConfig(
    image_size=32, patch_size=8, dim=16, depth=2, heads=2, dim_head=8, mlp_dim=24, embed_dim=4, n_embed=11
)
RELEASED = {  # a sample of the names in the released checkpoint
    "encoder.to_patch_embedding.0.weight", "encoder.en_pos_embedding", "encoder.norm.bias", "pre_quant.weight",
    "encoder.transformer.layers.0.0.norm.weight", "encoder.transformer.layers.0.0.fn.to_qkv.weight",
    "encoder.transformer.layers.1.0.fn.to_out.bias", "encoder.transformer.layers.0.1.fn.net.0.weight",
    "encoder.transformer.layers.1.1.fn.net.2.bias", "quantizer.embedding.weight", "post_quant.bias",
    "decoder.de_pos_embedding", "decoder.transformer.layers.1.1.norm.bias", "decoder.to_pixel.conv_out.weight",
}  # fmt: skip


def tiny() -> VitVqgan:
    torch.manual_seed(0)
    return VitVqgan(TINY).eval()


def save(folder: Path, **changes: object) -> Path:
    """A checkpoint as ``pixvoice convert`` makes it of the released one: weights of its training beside the model."""
    weights = {**tiny().state_dict(), "loss.discriminator.weight": torch.zeros(2)}
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({**vars(TINY), "model_type": "vit_vqgan", **changes}))
    return folder


def pixels(count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_the_standard_size_has_32_x_32_ids_of_13_bits_and_the_released_names() -> None:
    with torch.device("meta"):
        model = VitVqgan(VitVqganConfig())
    assert (model.image_size, model.patches, model.codebook_size, model.embed_dim) == (256, 1024, 8192, 32)
    assert model.bits == 32 * 32 * 13
    assert set(model.state_dict()) >= RELEASED
    assert model.quantizer["embedding"].weight.shape == (8192, 32)


def test_positions_are_columns_then_rows() -> None:
    """By the formula of the sources, one number at a time."""
    grid, dim = 3, 8
    ours = positions(grid, dim).numpy()
    for row in range(grid):
        for column in range(grid):
            rates = [10_000.0 ** (-i / (dim / 4)) for i in range(dim // 4)]
            wanted = [wave(place * rate) for place in (column, row) for wave in (np.sin, np.cos) for rate in rates]
            np.testing.assert_allclose(ours[row * grid + column], wanted, rtol=1e-6, atol=1e-7)


@torch.inference_mode()
def test_a_code_is_the_vector_of_the_least_angle() -> None:
    model = tiny()
    codes = model.encode(pixels())
    latents = model.pre_quant(model.encoder(pixels()))
    vectors = model.quantizer["embedding"].weight
    angles = torch.nn.functional.cosine_similarity(latents[:, :, None], vectors, dim=-1)
    assert codes.shape == (2, 1, 16) and codes.dtype == torch.int64
    assert torch.equal(codes[:, 0], angles.argmax(-1))
    torch.testing.assert_close(model.embed(codes).norm(dim=-1), torch.ones(2, 16))
    assert model.decode(codes).shape == (2, 3, 32, 32)


@torch.inference_mode()
def test_a_folder_is_read_without_the_weights_of_its_training(tmp_path: Path) -> None:
    model = load_vit_vqgan(save(tmp_path))
    assert torch.equal(model.encode(pixels()), tiny().encode(pixels()))
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_folders_with_something_else(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no ViT-VQGAN in .*config\.json: No such file"):
        load_vit_vqgan(tmp_path)
    with pytest.raises(BundleError, match=r"can't be loaded as a ViT-VQGAN \(.*check config\.json's sizes"):
        load_vit_vqgan(save(tmp_path, n_embed=12))
    save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["pre_quant.bias"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(BundleError, match=r"not a whole ViT-VQGAN: pre_quant\.bias is missing"):
        load_vit_vqgan(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(BundleError, match="can't be loaded as a ViT-VQGAN"):
        load_vit_vqgan(tmp_path)
