"""Im2Sp on image units, at full size: the stem adaptor by hand, a recipe on tiny checkpoints, and what doesn't fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")
transformers = pytest.importorskip("transformers", reason="needs the train extra")

from safetensors.torch import save_file  # noqa: E402

import towers  # noqa: E402
from pixvoice import cli  # noqa: E402
from pixvoice.audio import write_wav  # noqa: E402
from pixvoice.describe.image_units import UnitsImage, load_units_image  # noqa: E402
from pixvoice.describe.speaker import TorchDescriber  # noqa: E402
from pixvoice.errors import BundleError, InputError, OptionError  # noqa: E402
from pixvoice.manifest import Sample, write_manifest  # noqa: E402
from pixvoice.models import find_models  # noqa: E402
from pixvoice.retrieve.model import count_parameters  # noqa: E402
from pixvoice.training.recipes import load_recipe  # noqa: E402
from pixvoice.training.runs import Run  # noqa: E402
from pixvoice.vision.vit_vqgan import VitVqgan, VitVqganConfig, load_vit_vqgan  # noqa: E402
from speakers import UNITS, checkpoint, make_kmeans  # noqa: E402

RECIPES = Path(__file__).parent.parent / "recipes"
VQGAN = {
    "image_size": 40, "patch_size": 4, "dim": 8, "depth": 1, "heads": 2, "dim_head": 4, "mlp_dim": 8, "embed_dim": 3,
    "n_embed": 20,
}  # fmt: skip


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three photos with a recording each, a ViT-VQGAN of 10 x 10 ids, a k-means, and the photos' units."""
    folder = tmp_path_factory.mktemp("spoken")
    samples = []
    for n, photo in enumerate(towers.photos(3)):
        photo.save(folder / f"{n}.png")
        write_wav(folder / f"{n}.wav", towers.sound(0.3 + n / 20)[0][0].numpy(), towers.RATE)
        samples.append(Sample(folder / f"{n}.png", folder / f"{n}.wav", "a dog runs", None, "train"))
    write_manifest(folder / "manifest.jsonl", samples)
    make_kmeans(folder / "km.safetensors")
    vqgan = folder / "vqgan"
    vqgan.mkdir()
    torch.manual_seed(0)
    weights = VitVqgan(VitVqganConfig(**VQGAN)).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, vqgan / "model.safetensors")
    (vqgan / "config.json").write_text(json.dumps(VQGAN))
    command = ["encode", "--image-units", str(folder / "manifest.jsonl"), "--model", str(vqgan)]
    assert cli.run([*command, "-o", str(folder / "units.npz")]) == 0
    return folder


def recipe_of(spoken: Path, *changes: str) -> Any:
    speech = {"checkpoint": checkpoint("hubert"), "layer": 1, "kmeans": spoken / "km.safetensors", "vocoder": "null"}
    return load_recipe(
        RECIPES / "im2sp-image-units.yaml",
        [
            f"manifests=[{spoken / 'manifest.jsonl'}]", f"decoder={checkpoint('git')}", f"image={checkpoint('vit')}",
            f"image_tokenizer={spoken / 'vqgan'}", f"image_units={spoken / 'units.npz'}", f"cache={spoken / 'cache'}",
            *(f"speech.{key}={value}" for key, value in speech.items()),
            f"model.codebook_size={UNITS}", "model.max_steps=40", "max_frames=30", "train.steps=2",
            "train.batch_size=2", "train.log_every=1", "train.save_every=1", "train.bf16=false", "train.warmup_steps=0",
            *changes,
        ],
    )  # fmt: skip


@torch.inference_mode()
def test_the_middle_of_the_grid_goes_through_the_stem_into_the_layers_of_the_vit(spoken: Path) -> None:
    torch.manual_seed(0)
    image = load_units_image(str(checkpoint("vit")), str(spoken / "vqgan")).eval()
    codes = image.prepare(towers.photos(2))
    side = image.cut // 2
    vectors = load_vit_vqgan(spoken / "vqgan").embed(codes).reshape(2, 10, 10, 3)
    begin = (10 - image.cut) // 2
    middle = vectors[:, begin : begin + image.cut, begin : begin + image.cut].permute(0, 3, 1, 2)
    vit = transformers.ViTModel.from_pretrained(checkpoint("vit"), add_pooling_layer=False).eval()
    patches = image.stem(middle).flatten(2).transpose(1, 2)
    assert patches.shape == (2, side * side, vit.config.hidden_size)
    x = torch.cat([vit.embeddings.cls_token.expand(2, -1, -1), patches], dim=1) + vit.embeddings.position_embeddings
    for layer in vit.layers:
        x = layer(x, None)
    torch.testing.assert_close(image(codes), x)


def test_the_standard_sizes_are_those_of_the_source() -> None:
    with torch.device("meta"):
        image = UnitsImage(
            VitVqgan(VitVqganConfig()), transformers.ViTModel(transformers.ViTConfig(), add_pooling_layer=False)
        )
        features = image.to("meta").stem(torch.empty(1, 32, image.cut, image.cut))
    trained, frozen = count_parameters(image)
    assert [frozen, trained] == [part.parameters for part in find_models(["im2sp-image-units"])[0].parts[:2]]
    assert image.cut == 28 and features.shape == (1, 768, 14, 14) and image.embed_dim == 768


def test_a_recipe_trains_from_units_alone_and_the_run_sees_photos(spoken: Path, tmp_path: Path) -> None:
    away = tmp_path / "away"
    away.mkdir()
    for photo in spoken.glob("*.png"):
        shutil.move(photo, away / photo.name)
    try:
        curve = Run(recipe_of(spoken), tmp_path / "run").train()
    finally:
        for photo in away.glob("*.png"):
            shutil.move(photo, spoken / photo.name)
    assert len(curve) == 2 and all(np.isfinite(entry["loss"]) for entry in curve)
    describer = TorchDescriber.load(tmp_path / "run")
    assert isinstance(describer.model.image, UnitsImage)
    features = describer._see(spoken / "0.png")
    assert features.shape[0] == 1 and features.shape[2] == describer.model.image.embed_dim
    saved = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert saved["image_tokenizer"] == str(spoken / "vqgan") and saved["image"] == str(checkpoint("vit"))


def test_stem_and_layers_learn_and_the_tokenizer_stays(spoken: Path) -> None:
    image = load_units_image(str(checkpoint("vit")), str(spoken / "vqgan"))
    image.train()(image.prepare(towers.photos(1))).sum().backward()
    assert image.stem.weight.grad is not None and image.first.grad is not None
    assert not any(parameter.requires_grad for parameter in image.tokenizer.parameters())
    assert not any(name.startswith("tokenizer") for name in image.state_dict())


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ("image={git}", "holds a git, which is no ViT"),
        ("image_tokenizer={vit}", "is not a whole ViT-VQGAN: .* is missing"),
        ("teacher_steps=5", "teacher_steps: 5, but image_units"),
        ("image_units=null", "image_tokenizer: .* is the ViT-VQGAN of image_units: None"),
    ],
)
def test_what_does_not_fit(change: str, fault: str, spoken: Path, tmp_path: Path) -> None:
    with pytest.raises((BundleError, OptionError, InputError), match=fault):
        Run(recipe_of(spoken, change.format(git=checkpoint("git"), vit=checkpoint("vit"))), tmp_path / "run").train()
