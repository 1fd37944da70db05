"""Describers on BLIP and GiT: what Transformers computes, the contract, training and speaking, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")
transformers = pytest.importorskip("transformers", reason="needs the train extra")

import towers  # noqa: E402
from pixvoice import cli  # noqa: E402
from pixvoice.audio import write_wav  # noqa: E402
from pixvoice.describe.build import FullDescriberConfig, full_describer, small_config  # noqa: E402
from pixvoice.describe.decoder import TorchSpeechDecoder  # noqa: E402
from pixvoice.describe.hf_blip import BlipDescriber  # noqa: E402
from pixvoice.describe.model import PixVoxConfig, PixVoxLM  # noqa: E402
from pixvoice.describe.pretrained import PretrainedDescriber, PretrainedImage  # noqa: E402
from pixvoice.describe.speaker import TorchDescriber  # noqa: E402
from pixvoice.errors import BundleError, OptionError  # noqa: E402
from pixvoice.manifest import Sample, write_manifest  # noqa: E402
from pixvoice.patterns import make_pattern  # noqa: E402
from pixvoice.retrieve.model import count_parameters  # noqa: E402
from pixvoice.runtime.decoding import DecodingOptions, generate  # noqa: E402
from pixvoice.training.recipes import load_recipe  # noqa: E402
from pixvoice.training.runs import Run  # noqa: E402
from pixvoice.training.trainer import load_model  # noqa: E402
from speakers import UNITS, checkpoint, make_kmeans, make_vocoder  # noqa: E402

RECIPES = Path(__file__).parent.parent / "recipes"
KINDS = {"blip": 4, "git": 1}
"""Codebooks of the describer on each."""


def describer(kind: str, **changes: Any) -> PretrainedDescriber:
    dims = PixVoxConfig(**{"num_codebooks": KINDS[kind], "codebook_size": 16, "max_steps": 40, **changes})
    torch.manual_seed(0)
    return full_describer(FullDescriberConfig(dims, str(checkpoint(kind)), str(checkpoint(kind)))).eval()


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_hidden_states_are_those_of_transformers(kind: str) -> None:
    ours, embedded = describer(kind), torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0))
    pixels = ours.image.prepare(towers.photos(2))
    assert pixels.shape == (2, 3, 32, 32)
    if kind == "blip":
        whole = transformers.BlipForConditionalGeneration.from_pretrained(checkpoint(kind)).eval()
        seen = whole.vision_model(pixel_values=pixels).last_hidden_state
        theirs = whole.text_decoder.bert(
            inputs_embeds=embedded.clone(), encoder_hidden_states=seen, is_decoder=True
        ).last_hidden_state
    else:
        whole = transformers.GitForCausalLM.from_pretrained(checkpoint(kind)).eval()
        theirs = whole.git(inputs_embeds=embedded.clone(), pixel_values=pixels).last_hidden_state[:, -5:]
    torch.testing.assert_close(ours.decode(ours.image(pixels), embedded), theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_step_by_step_is_all_at_once_and_rows_can_be_picked(kind: str) -> None:
    model = describer(kind)
    decoder, features = TorchSpeechDecoder(model), model.image(model.image.prepare(towers.photos(2)))
    tokens = torch.randint(0, 17, (2, KINDS[kind], 6), generator=torch.Generator().manual_seed(0))
    wanted = model.logits(features, tokens).permute(2, 1, 0, 3).numpy()  # (S, B, K, V + 1)
    state = decoder.start(features.numpy())
    for step in range(6):
        if step == 3:  # from here on the photos have changed places
            state = decoder.select(state, np.array([1, 0]))
            tokens, wanted = tokens.flip(0), wanted[:, ::-1]
        logits, state = decoder.step(tokens[:, :, step].numpy(), state)
        np.testing.assert_allclose(logits, wanted[step], atol=1e-5)


@pytest.mark.parametrize("strategy", ["greedy", "beam", "sample"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_one_decoding_loop_speaks_with_them(kind: str, strategy: str) -> None:
    model = describer(kind)
    with torch.inference_mode():
        features = model.image(model.image.prepare(towers.photos(1))).numpy()
    options = DecodingOptions(strategy=strategy, beam_size=2, min_frames=3, max_frames=5, seed=1)  # type: ignore[arg-type]
    pattern = make_pattern("delay", KINDS[kind])
    said = generate(TorchSpeechDecoder(model), features, pattern, options)
    assert said.codes.shape[0] == KINDS[kind] and 3 <= said.codes.shape[1] <= 5 and said.log_prob < 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_image_encoder_stays_and_all_else_learns(kind: str) -> None:
    model = describer(kind)
    tokens = torch.randint(0, 17, (2, KINDS[kind], 6))
    model.train()
    model(model.image.prepare(towers.photos(2)), tokens, tokens)["loss"].backward()
    still = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert still and all(name.startswith("image.") for name in still)
    assert not any(name.startswith("image.") for name in model.state_dict())


def standard_blip() -> BlipDescriber:
    """The full-size describer on the standard configuration of BLIP; on the meta device it takes no memory."""
    model = transformers.BlipForConditionalGeneration(transformers.BlipConfig(text_config={"num_attention_heads": 12}))
    dims = PixVoxConfig(num_codebooks=8, codebook_size=1024, max_steps=512)
    return BlipDescriber(dims, PretrainedImage(model.vision_model, None), model)


def test_full_size_has_the_parameters_that_the_source_says() -> None:
    with torch.device("meta"):
        trained, frozen = count_parameters(standard_blip())
    assert round(trained / 1e6) == 125 and round((trained + frozen) / 1e6) == 211
    assert (trained, frozen) == (124_858_888, 86_090_496)


# training and speaking through a recipe


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of four photos with a recording each, a k-means and a vocoder beside it."""
    folder = tmp_path_factory.mktemp("spoken")
    samples = []
    for n, photo in enumerate(towers.photos(4)):
        photo.save(folder / f"{n}.png")
        write_wav(folder / f"{n}.wav", towers.sound(0.3 + n / 20)[0][0].numpy(), towers.RATE)
        samples.append(Sample(folder / f"{n}.png", folder / f"{n}.wav", "a dog runs", None, "train"))
    write_manifest(folder / "manifest.jsonl", samples)
    make_kmeans(folder / "km.safetensors")
    make_vocoder(folder / "vocoder")
    return folder


def speech_of(kind: str, spoken: Path) -> dict[str, Any]:
    if kind == "blip":
        return {"checkpoint": checkpoint("encodec"), "sample_rate": 800, "bandwidth": 0.64}
    units = {"layer": 1, "kmeans": spoken / "km.safetensors", "vocoder": spoken / "vocoder"}
    return {"checkpoint": checkpoint("hubert"), "sample_rate": 16000, **units}


def recipe_of(kind: str, spoken: Path, *changes: str, steps: int = 2) -> Any:
    """The recipe of the full-size row that stands on ``kind``, with tiny checkpoints."""
    name = {"blip": "pixvoxlm-delay", "git": "im2sp"}[kind]
    size = {"blip": "model.codebook_size=16", "git": f"model.codebook_size={UNITS}"}[kind]
    return load_recipe(
        RECIPES / f"{name}.yaml",
        [
            f"manifests=[{spoken / 'manifest.jsonl'}]", f"decoder={checkpoint(kind)}", f"cache={spoken / 'cache'}",
            *(f"speech.{key}={value}" for key, value in speech_of(kind, spoken).items()),
            size, f"model.num_codebooks={KINDS[kind]}", "model.max_steps=40", "max_frames=30",
            f"train.steps={steps}", "train.batch_size=2", "train.log_every=1", "train.save_every=1", "train.bf16=false",
            "train.warmup_steps=0", *changes,
        ],
    )  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_recipe_trains_on_checkpoints_and_the_run_speaks(
    kind: str, spoken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    curve = Run(recipe_of(kind, spoken), tmp_path / "run").train()
    assert [entry["step"] for entry in curve] == [1, 2] and all(np.isfinite(entry["loss"]) for entry in curve)
    assert "trainable " in capsys.readouterr().err
    assert len(list((spoken / "cache").glob("codes-*.npz"))) >= 1

    speaker = TorchDescriber.load(tmp_path / "run")
    again = TorchDescriber.load(tmp_path / "run").describe(spoken / "0.png", max_frames=4)
    said = speaker.describe(spoken / "0.png", max_frames=4)
    np.testing.assert_array_equal(said.codes, again.codes)
    assert said.codes.shape[0] == KINDS[kind] and 0 < said.confidence <= 1
    assert said.sample_rate == speaker.tokenizer.sample_rate and len(said.audio) > 0
    saved = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert saved["decoder"] == saved["image"] == str(checkpoint(kind))
    with pytest.raises(BundleError, match="on pretrained parts makes no bundle"):
        load_model(tmp_path / "run", "describer", small_config, PixVoxLM)


def test_a_run_that_was_stopped_ends_as_if_it_had_not(spoken: Path, tmp_path: Path) -> None:
    recipe = recipe_of("git", spoken, steps=3)
    curve = Run(recipe, tmp_path / "whole").train()
    Run(recipe, tmp_path / "stopped").train()
    shutil.rmtree(tmp_path / "stopped" / "checkpoints" / "checkpoint-3")
    assert Run(recipe, tmp_path / "stopped").done == 2
    again = Run(recipe, tmp_path / "stopped").train()
    assert [entry["loss"] for entry in again] == pytest.approx([entry["loss"] for entry in curve])


def test_a_run_is_evaluated_as_a_bundle_is(java: None, spoken: Path, tmp_path: Path, capsys: Any) -> None:
    Run(recipe_of("git", spoken, steps=1), tmp_path / "run").train()
    arguments = ["evaluate", "describe", str(spoken / "manifest.jsonl"), "--split", "train", "--limit", "1", "--json"]
    assert cli.run([*arguments, "--bundle", str(tmp_path / "run")]) == 0
    assert json.loads(capsys.readouterr().out)["n_photos"] == 1


# what is refused


def copy_of(kind: str, folder: Path) -> Path:
    shutil.copytree(checkpoint(kind), folder / kind)
    return folder / kind


def as_pickle(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def as_shards(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    index = {"metadata": {"total_size": 1}, "weight_map": {"output.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def cut(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


@pytest.mark.parametrize(
    ("kind", "change", "fault"),
    [
        (
            "blip",
            as_pickle,
            r"only as a pickle \(pytorch_model.bin\).* pixvoice convert .*pytorch_model\.bin -o .*model",
        ),
        ("git", as_shards, r"can't be loaded as a BLIP or GiT .*model-00001-of-00002\.safetensors"),
        ("blip", cut, "can't be loaded as a BLIP or GiT"),
    ],
)
def test_checkpoints_that_are_not_whole(
    kind: str, change: Callable[[Path], None], fault: str, spoken: Path, tmp_path: Path
) -> None:
    folder = copy_of(kind, tmp_path)
    change(folder)
    with pytest.raises(BundleError, match=fault) as caught:
        Run(recipe_of(kind, spoken, f"decoder={folder}"), tmp_path / "run").train()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "change", "fault"),
    [
        ("blip", "decoder={clip}", "clip holds a clip, which is no BLIP or GiT that captions photos"),
        ("blip", "image={clip}", "clip holds a clip, which is no BLIP or GiT that captions photos"),
        ("blip", "decoder=someone/no-blip", "is no folder here, and can't be fetched .* and give its folder"),
        ("blip", "speech.checkpoint={clip}", "clip holds a clip, which is no EnCodec or HuBERT"),
        ("blip", "speech.sample_rate=24000", r"speech\.sample_rate: the recipe says 24000, but .*encodec .* has 800"),
        ("blip", "speech.bandwidth=0.32", r"model\.num_codebooks: the recipe says 4, but .* at 0\.32 kbit/s has 2"),
        ("blip", "speech.bandwidth=6", r"bandwidth 6 kbit/s is not one of .*: use 0\.16, 0\.32, 0\.64"),
        ("git", "model.codebook_size=9", r"model\.codebook_size: the recipe says 9, but .* has 6"),
        ("git", "model.max_steps=41", r"model\.max_steps: 41 steps, but the decoder has positions for 40"),
        ("git", "max_frames=1", r"longer than max_frames \(1\)"),
    ],
)
def test_parts_that_do_not_fit_the_recipe(kind: str, change: str, fault: str, spoken: Path, tmp_path: Path) -> None:
    from pixvoice.errors import PixVoiceError

    changed = change.format(clip=checkpoint("clip"))
    with pytest.raises(PixVoiceError, match=fault) as caught:
        Run(recipe_of(kind, spoken, changed), tmp_path / "run").train()
    assert "\n" not in str(caught.value)


def test_names_of_both_sizes_are_a_fault_of_the_recipe(spoken: Path) -> None:
    with pytest.raises(OptionError, match="codec: runs/codec and student: None must both be paths, or, without them"):
        recipe_of("blip", spoken, "codec=runs/codec")
