"""What ``pixvoice models`` says of every system: the counts are counted again, the figures stand in the docs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from pixvoice.cli import run
from pixvoice.errors import OptionError
from pixvoice.models import Model, all_models, find_models
from pixvoice.runtime.bundle import EMBEDDED, Bundle

ROOT = Path(__file__).resolve().parent.parent
RECIPES = ROOT / "recipes"
DOCS = [EMBEDDED / "MODEL_CARD.md", *(ROOT / "docs").glob("*.md")]
STATUS = ("ships; trained and measured here", "trained and measured here", "only built: no weights of ours, no figures")
ROWS = {model.name: model for model in all_models()}


def figures(scores: Mapping[str, Any]) -> Iterator[float]:
    for value in scores.values():
        yield from figures(value) if isinstance(value, Mapping) else [value]


def ids(model: Model) -> str:
    return model.name


def test_every_recipe_has_a_row() -> None:
    """Add a recipe, and say in src/pixvoice/models.json what it is made of and what has been done with it."""
    assert {path.stem for path in RECIPES.glob("*.yaml")} - set(ROWS) == set()


@pytest.mark.parametrize("model", ROWS.values(), ids=ids)
def test_a_row_is_whole(model: Model) -> None:
    assert model.status in STATUS and model.size in ("small", "full")
    assert model.parts and all(part.licence and part.source for part in (*model.parts, *model.beside))
    assert bool(model.scores) == bool(model.measured) == (model.status != STATUS[2])
    assert 0 <= model.trainable <= model.parameters
    sources = [part.source for part in (*model.parts, *model.beside) if part.source.startswith("recipes/")]
    assert all((ROOT / source).is_file() for source in sources)


@pytest.mark.parametrize("model", [model for model in ROWS.values() if model.scores], ids=ids)
def test_every_figure_stands_in_the_docs(model: Model) -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in DOCS)
    known = set(re.findall(r"\d+(?:\.\d+)?", text))
    assert {f"{value}" for value in figures(model.scores)} - known == set()


# --- counts


def counted(model: Model) -> tuple[int, int]:
    """Parameters that train, and that don't."""
    return model.trainable, model.parameters - model.trainable


def test_the_bundle_that_ships_is_the_one_that_the_rows_describe() -> None:
    """The learned numbers in its ONNX files, but for fixed transforms, folded norms and scales of int8."""
    onnx = pytest.importorskip("onnx", reason="needs the train extra")
    learned = {onnx.TensorProto.FLOAT16, onnx.TensorProto.INT8}

    def elements(*files: str) -> int:
        graphs = [onnx.load(EMBEDDED / file).graph for file in files]
        tensors = [tensor for graph in graphs for tensor in graph.initializer if tensor.data_type in learned]
        return sum(int(onnx.numpy_helper.to_array(tensor).size) for tensor in tensors)

    assert elements("image_encoder.onnx") == pytest.approx(ROWS["student-small"].parameters, rel=0.01)
    info = Bundle.load(EMBEDDED).info
    describer = ROWS[info.name]
    assert describer.status.startswith("ships") and info.codec is None and info.units is not None
    width = info.describer.lstm_width or 0
    folded = (info.describer.codebook_size + 1 - width) * 4 * width  # a table of units in place of the map from them
    stored = elements("describer_start.onnx", "describer_step.onnx")
    assert stored == pytest.approx(describer.trainable + folded, rel=0.01)
    assert elements("recognizer.onnx") == pytest.approx(ROWS["recognizer-voices-small"].parameters, rel=0.01)
    search = ROWS["brewclip-full-small"]
    assert elements("search_photo.onnx", "search_speech.onnx") == pytest.approx(search.trainable, rel=0.06)
    twice = 256 * info.units.units + 960 * 2 * 481  # units in both files of the vocoder, and the inverse STFT
    assert elements("unit_vocoder.onnx", "unit_durations.onnx") - twice == pytest.approx(
        ROWS["vocoder-small"].parameters, rel=0.01
    )
    heard = elements("unit_encoder.onnx") / ROWS["units-small"].parameters
    assert 2 / 3 < heard < 1  # what lies above the frames that are clustered isn't needed
    assert info.search is not None and f"brewclip-{info.search.variant}-small" == search.name


def test_small_rows_have_the_parameters_of_their_recipes() -> None:
    torch = pytest.importorskip("torch", reason="needs the train extra")
    from pixvoice.describe.model import PixVoxLM
    from pixvoice.describe.sas import ShowAndSpeak
    from pixvoice.describe.sat import ShowAttendTell
    from pixvoice.retrieve.model import count_parameters
    from pixvoice.retrieve.small_parts import SmallConfig, small_dual_channel
    from pixvoice.speech.codec import Codec
    from pixvoice.speech.ctc import CTCRecognizer
    from pixvoice.speech.latent_vocoder import LatentVocoder, LatentVocoderConfig
    from pixvoice.speech.unit_encoder import UnitEncoder
    from pixvoice.training.recipes import load_recipe
    from pixvoice.vision.student import ImageStudent

    def sizes(name: str) -> Any:
        return load_recipe(RECIPES / f"{name}.yaml")

    recognizers = [name for name in ROWS if name.startswith("recognizer")]
    makers: dict[str, Any] = {"student-small": ImageStudent, "codec-small": Codec}
    makers |= {name: UnitEncoder for name in ("units-small", "vqvae-small")}
    makers |= {name: CTCRecognizer for name in recognizers}
    with torch.device("meta"):
        for name, maker in makers.items():
            assert count_parameters(maker(sizes(name).model)) == counted(ROWS[name]), name
        for name, units in (("vocoder-small", 400), ("vocoder-words-small", 400), ("vocoder-vqvae-small", 256)):
            vocoder = LatentVocoderConfig(units, 640, sizes(name).model, sizes("codec-small").model)
            assert count_parameters(LatentVocoder(vocoder)) == counted(ROWS[name]), name
        units = ("im2sp-small", "im2sp-pairs-small", "im2sp-words-small", "e-i2s-small")
        for name in ("pixvox-delay-small", "pixvox-parallel-small", *units):
            assert count_parameters(PixVoxLM(sizes(name).model))[0] == ROWS[name].trainable
            assert ROWS[name].parameters - ROWS[name].trainable == ROWS["student-small"].parameters
        blind = ROWS["im2sp-image-units-small"]
        assert count_parameters(PixVoxLM(sizes(blind.name).model))[0] == blind.trainable
        assert blind.parameters - blind.trainable == ROWS["image-units-small"].parameters
        assert count_parameters(PixVoxLM(sizes("cascade-small").model))[0] == ROWS["cascade-small"].trainable
        sat = count_parameters(ShowAttendTell(sizes("sat-small").model))[0]
        assert sat == ROWS["sat-small"].trainable and ROWS["sat-ft-small"].trainable == ROWS["sat-small"].parameters
        assert sizes("sat-ft-small").model == sizes("sat-small").model
        assert count_parameters(ShowAndSpeak(sizes("sas-small").model))[0] == ROWS["sas-small"].trainable
        for variant in ("full", "pipeline", "e2e"):
            recipe, row = sizes(f"brewclip-{variant}-small"), ROWS[f"brewclip-{variant}-small"]
            config = SmallConfig(
                recipe.model, recipe.parts, sizes("recognizer-voices-small").model, sizes("student-small").model
            )
            assert count_parameters(small_dual_channel(config)) == counted(row), variant


CLIP_TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "projection_dim": 768}
VIT_LARGE = {
    "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
    "patch_size": 14,
}  # fmt: skip
WHISPER_BASE = {
    "d_model": 512, "encoder_layers": 6, "decoder_layers": 6, "encoder_attention_heads": 8,
    "decoder_attention_heads": 8, "encoder_ffn_dim": 2048, "decoder_ffn_dim": 2048, "vocab_size": 51864,
}  # fmt: skip


def test_full_describers_have_the_parameters_of_the_standard_configurations() -> None:
    torch = pytest.importorskip("torch", reason="needs the train extra")
    transformers = pytest.importorskip("transformers", reason="needs the train extra")
    from pixvoice.describe.hf_blip import BlipDescriber
    from pixvoice.describe.hf_git import GitDescriber
    from pixvoice.describe.pretrained import PretrainedImage
    from pixvoice.retrieve.model import count_parameters
    from pixvoice.speech.vocoder import UnitVocoder, VocoderConfig
    from pixvoice.training.recipes import load_recipe

    with torch.device("meta"):
        config = transformers.BlipConfig(text_config={"num_attention_heads": 12})
        for name in ("pixvoxlm-delay", "pixvoxlm-parallel"):
            blip = transformers.BlipForConditionalGeneration(config)
            sizes = load_recipe(RECIPES / f"{name}.yaml").model  # type: ignore[union-attr]
            model = BlipDescriber(sizes, PretrainedImage(blip.vision_model, None), blip)  # type: ignore[arg-type]
            assert count_parameters(model) == counted(ROWS[name])
        git = transformers.GitForCausalLM(transformers.GitConfig(vision_config=VIT_LARGE))
        sizes = load_recipe(RECIPES / "im2sp.yaml").model  # type: ignore[union-attr]
        model = GitDescriber(sizes, PretrainedImage(git.git.image_encoder, None), git)  # type: ignore[arg-type]
        assert count_parameters(model) == counted(ROWS["im2sp"])
        needed = [
            transformers.EncodecModel(transformers.EncodecConfig()),
            transformers.HubertModel(transformers.HubertConfig()),
            UnitVocoder(VocoderConfig()),
        ]
    encodec, hubert, vocoder = (sum(count_parameters(part)) for part in needed)
    assert [part.parameters for part in ROWS["pixvoxlm-delay"].beside] == [encodec]
    assert [part.parameters for part in ROWS["im2sp"].beside] == [hubert, 200 * 768, vocoder]


def test_full_retrievers_have_the_parameters_of_the_standard_configurations() -> None:
    torch = pytest.importorskip("torch", reason="needs the train extra")
    transformers = pytest.importorskip("transformers", reason="needs the train extra")
    from pixvoice.retrieve.hf_image import ClipImage
    from pixvoice.retrieve.hf_speech import HubertSpeech, WhisperSpeech
    from pixvoice.retrieve.hf_text import ClipText
    from pixvoice.retrieve.model import DualChannel, count_parameters
    from pixvoice.training.recipes import load_recipe

    tokenizer = type("Tokenizer", (), {"__call__": lambda *_, **__: type("Ids", (), {"input_ids": [49406, 49407]})()})()
    tokenizer.pad_token_id = 49407
    extractor = type("Extractor", (), {"sampling_rate": 16_000, "chunk_length": 30, "n_samples": 480_000})()

    def clip(**sizes: Any) -> Any:
        return ClipImage(transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**sizes)), None)

    def parts(name: str, prompts: int) -> tuple[Any, Any, Any]:
        if name == "speechclip-like":
            return None, HubertSpeech(transformers.HubertModel(transformers.HubertConfig()), extractor), clip()
        if name == "fastvgs-like":
            vit = transformers.ViTModel(transformers.ViTConfig(), add_pooling_layer=False)
            return (
                None,
                HubertSpeech(transformers.Wav2Vec2Model(transformers.Wav2Vec2Config()), extractor),
                ClipImage(vit, None),
            )
        text = transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**CLIP_TEXT))
        whisper = transformers.WhisperModel(transformers.WhisperConfig(**WHISPER_BASE))
        speech = WhisperSpeech(whisper.encoder, extractor)
        return ClipText(text, tokenizer, prompts=prompts), speech, clip(**VIT_LARGE, projection_dim=768)

    with torch.device("meta"):
        for name in ("brewclip-full", "brewclip-pipeline", "brewclip-e2e", "speechclip-like", "fastvgs-like"):
            sizes: Any = load_recipe(RECIPES / f"{name}.yaml").model  # type: ignore[union-attr]
            text, speech, image = parts(name, sizes.prompts)
            model = DualChannel(sizes, text if sizes.reads else None, speech if sizes.hears else None, image)
            assert count_parameters(model) == counted(ROWS[name]), name
        whisper = transformers.WhisperModel(transformers.WhisperConfig(**WHISPER_BASE))
    whole, encoder = (sum(count_parameters(part)) for part in (whisper, whisper.encoder))
    assert ROWS["brewclip-full"].beside[0].parameters == whole - encoder
    assert ROWS["brewclip-pipeline"].beside[0].parameters == whole


# --- the command


def test_json_is_a_list_with_what_machines_ask_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list(ROWS)
    assert all({"name", "parameters", "trainable", "size", "status", "scores"} <= set(row) for row in rows)
    by_name = {row["name"]: row for row in rows}
    assert by_name["pixvox-delay-small"]["scores"]["cider"] == 19.3
    assert by_name["pixvoxlm-delay"]["scores"] == {} and by_name["pixvoxlm-delay"]["status"].startswith("only built")


def test_words_say_it_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models"]) == 0
    text = capsys.readouterr().out
    assert all(f"{name}: " in text for name in ROWS)
    assert "210.9 M parameters, of which 124.9 M train" in text
    assert "licence: BSD-3-Clause" in text and "ships; trained and measured here" in text


def test_one_by_name_and_none_by_another(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "codec-small", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == ["codec-small"]
    assert run(["models", "codek-small"]) == 2
    assert "did you mean 'codec-small'?" in capsys.readouterr().err
    with pytest.raises(OptionError):
        find_models(["nothing"])
