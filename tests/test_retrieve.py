"""The dual-channel model: three variants of one class, its losses, its small parts, its training."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="the dual-channel model's training form needs torch (the train extra)")
pytest.importorskip("transformers", reason="training needs transformers (the train extra)")

from torch import nn  # noqa: E402

import tiny  # noqa: E402
from pixvoice.audio import write_wav  # noqa: E402
from pixvoice.errors import InputError, OptionError  # noqa: E402
from pixvoice.manifest import Sample, read_manifest  # noqa: E402
from pixvoice.retrieve.losses import Contrast, LossOptions, info_nce  # noqa: E402
from pixvoice.retrieve.model import (  # noqa: E402
    AcousticChannel,
    DualChannel,
    EncoderLayer,
    RetrieverConfig,
    count_parameters,
    fuse,
)
from pixvoice.retrieve.search_model import TorchSearchModel  # noqa: E402
from pixvoice.retrieve.small_parts import (  # noqa: E402
    PartsConfig,
    SmallConfig,
    SmallRecognizer,
    SmallSpeechPart,
    SmallTextPart,
    small_dual_channel,
)
from pixvoice.training.options import TrainOptions  # noqa: E402
from pixvoice.training.retriever import (  # noqa: E402
    RetrieverRecipe,
    SpokenPhotos,
    load_retriever,
    pairs,
    recalls,
    run,
)
from pixvoice.training.speech_features import SpeechFeatures, vary  # noqa: E402
from pixvoice.words import ngrams, table  # noqa: E402

SIZES = RetrieverConfig(embed_dim=8, prompts=2, heads=2, feed_forward=16, stack=2, window=12)
PARTS = PartsConfig(buckets=64, word_width=6, text_width=5, image_width=7, dropout=0.0)


def small(**changes: Any) -> DualChannel:
    torch.manual_seed(0)
    config = SmallConfig(replace(SIZES, **changes), PARTS, tiny.RECOGNIZER, tiny.STUDENT)
    return small_dual_channel(config).eval()


def naive_info_nce(a: np.ndarray, b: np.ndarray, photo: list[int], temperature: float) -> float:
    total = 0.0
    for one, other in ((a, b), (b, a)):
        for i in range(len(one)):
            kept = [j for j in range(len(one)) if j == i or photo[j] != photo[i]]
            scores = np.array([one[i] @ other[j] for j in kept]) / temperature
            total -= scores[kept.index(i)] - np.log(np.exp(scores).sum())
    return total / 2 / len(a)


def rows(seed: int, *shape: int) -> np.ndarray:
    found = np.random.default_rng(seed).normal(size=shape)
    return (found / np.linalg.norm(found, axis=-1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("photo", [[0, 1, 2, 3, 4], [0, 0, 1, 2, 1], [3, 3, 3, 3, 3]])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_info_nce_is_what_its_formula_says(photo: list[int], temperature: float) -> None:
    a, b = rows(0, 5, 3), rows(1, 5, 3)
    numbers = torch.tensor(photo)
    loss = info_nce(torch.from_numpy(a), torch.from_numpy(b), numbers[:, None] == numbers[None], temperature)
    assert loss.item() == pytest.approx(naive_info_nce(a, b, photo, temperature), abs=1e-5)


def some_inputs(model: DualChannel, batch: int = 3, frames: int = 9) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(3)
    found: dict[str, Any] = {}
    if model.text is not None:
        found["tokens"] = model.text.tokenize(["a dog runs", "", "two childrn"][:batch])
    if model.dims.hears:
        found["frames"] = torch.randn(batch, frames, 16, generator=generator)
        found["mask"] = torch.arange(frames) < torch.tensor([frames, 4, 7])[:batch, None]
    return found


@pytest.mark.parametrize("options", [LossOptions(), LossOptions(outer=1.0, inner=0.1, temperature=0.5)])
def test_the_inner_and_the_outer_loss_are_weighed(options: LossOptions) -> None:
    model, photo = small(), [0, 1, 0]
    inputs, pixels = some_inputs(model), torch.randn(3, 4, 16)
    loss = Contrast(model, options)(pixels, torch.tensor(photo), **inputs)["loss"]
    with torch.no_grad():
        seen = model.see(pixels).numpy()
        read, heard = (np.asarray(c) for c in model.channels(**inputs))
    read_1, heard_1, both = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (read, heard, read + heard))
    against = naive_info_nce(both, seen, photo, options.temperature)
    inner = naive_info_nce(read_1, heard_1, photo, options.temperature)
    expected = options.outer * against + options.inner * (inner + inner)
    assert loss.item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("words_teach", [True, False])
def test_words_that_teach_the_sound_are_not_moved_by_it(words_teach: bool) -> None:
    model, options = small(), LossOptions(outer=0.0, inner=1.0, words_teach=words_teach)
    Contrast(model, options)(torch.randn(3, 4, 16), torch.arange(3), **some_inputs(model))["loss"].backward()
    moved = {name.partition(".")[0] for name, w in model.named_parameters() if w.grad is not None and w.grad.any()}
    assert "acoustic" in moved and ("text" in moved) is not words_teach


def test_a_learned_temperature_is_a_parameter() -> None:
    contrast = Contrast(small(), LossOptions(learned_temperature=True, temperature=0.1))
    assert contrast.temperature.item() == pytest.approx(0.1)  # type: ignore[union-attr]
    assert count_parameters(contrast)[0] == count_parameters(small())[0] + 1
    assert Contrast(small(), LossOptions(temperature=0.1)).temperature == 0.1


@pytest.mark.parametrize(
    ("variant", "reads", "hears"), [("full", True, True), ("pipeline", True, False), ("e2e", False, True)]
)
@pytest.mark.parametrize("prompts", [0, 2])
def test_three_variants_of_one_class(variant: str, reads: bool, hears: bool, prompts: int) -> None:
    model = small(variant=variant, prompts=prompts)
    inputs = some_inputs(model)
    embeddings = model(inputs.get("tokens"), inputs.get("frames"), inputs.get("mask"))
    assert embeddings.shape == (3, 8)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(3))
    read, heard = model.channels(inputs.get("tokens"), inputs.get("frames"), inputs.get("mask"))
    assert (read is not None, heard is not None) == (reads, hears)
    torch.testing.assert_close(embeddings, fuse(read, heard))
    loss = Contrast(model, LossOptions())(torch.randn(3, 4, 16), torch.arange(3), **inputs)["loss"]
    loss.backward()
    unused = set() if prompts else set(model.image.looked.parameters())  # looks where prompts say
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad and p not in unused)
    assert not any(p.grad is not None for p in model.speech.parameters())  # type: ignore[union-attr]


def test_prompts_reach_all_three_parts() -> None:
    model = small()
    inputs, pixels = some_inputs(model), torch.randn(2, 4, 16)
    with torch.no_grad():
        before = (*model.channels(**inputs), model.see(pixels))
        model.prompts.add_(3.0)  # type: ignore[union-attr]
        after = (*model.channels(**inputs), model.see(pixels))
    for one, other in zip(before, after, strict=True):
        assert (one - other).abs().max() > 1e-4  # type: ignore[operator]


def test_parts_that_are_missing_are_refused() -> None:
    model = small()
    with pytest.raises(OptionError, match="needs a text part"):
        DualChannel(SIZES, None, model.speech, model.image)
    with pytest.raises(OptionError, match="needs a speech part"):
        DualChannel(SIZES, model.text, None, model.image)
    DualChannel(replace(SIZES, variant="pipeline"), model.text, None, model.image)
    for changes, said in (({"variant": "both"}, "variant"), ({"heads": 3}, "divisible"), ({"window": 11}, "divisible")):
        with pytest.raises(OptionError, match=said):
            small(**changes)


def test_padding_changes_nothing() -> None:
    model = small()
    inputs = some_inputs(model)
    with torch.no_grad():
        together = model(**inputs)
        for i, count in enumerate((9, 4, 7)):
            tokens = model.text.tokenize([["a dog runs", "", "two childrn"][i]])  # type: ignore[union-attr]
            frames = inputs["frames"][i : i + 1, :count]
            alone = model(tokens, frames, torch.ones(1, count, dtype=torch.bool))
            torch.testing.assert_close(alone[0], together[i], atol=1e-5, rtol=1e-4)


def test_the_encoder_layer_is_the_one_of_torch() -> None:
    ours = EncoderLayer(SIZES).eval()
    theirs = nn.TransformerEncoderLayer(8, 2, 16, 0.1, "gelu", batch_first=True).eval()
    with torch.no_grad():
        theirs.self_attn.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key_value.weight]))
        theirs.self_attn.in_proj_bias.copy_(torch.cat([ours.query.bias, ours.key_value.bias]))
        for one, other in (
            (theirs.self_attn.out_proj, ours.attended),
            (theirs.norm1, ours.attention_norm),
            (theirs.norm2, ours.norm),
            (theirs.linear1, ours.mlp[0]),
            (theirs.linear2, ours.mlp[3]),
        ):
            one.load_state_dict(other.state_dict())
        x, ignored = torch.randn(2, 5, 8), torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
        expected = theirs(x, src_key_padding_mask=ignored)
        torch.testing.assert_close(ours(x[:, :1], x, ignored), expected[:, :1])


def test_a_long_recording_is_heard_whole() -> None:
    torch.manual_seed(0)
    channel, frames = AcousticChannel(SIZES, 16).eval(), torch.randn(1, 30, 16)
    mask = torch.ones(1, 30, dtype=torch.bool)
    with torch.no_grad():
        whole = channel(frames, mask, None)
        parts = [channel(frames[:, a:b], mask[:, a:b], None) for a, b in ((0, 12), (12, 24), (24, 30))]
        torch.testing.assert_close(whole, (12 * parts[0] + 12 * parts[1] + 6 * parts[2]) / 30)
        tail = frames.clone()
        tail[:, -1] += 1.0
        assert (channel(tail, mask, None) - whole).abs().max() > 1e-4
        longer = torch.cat([frames, torch.randn(1, 40, 16)], 1), torch.arange(70)[None] < 30
        torch.testing.assert_close(channel(*longer, None), whole)


def test_speech_and_photos_are_embedded_from_their_raw_form() -> None:
    model = small()
    assert isinstance(model.speech, SmallSpeechPart)
    search = TorchSearchModel(model, SmallRecognizer(model.speech.recognizer), "tiny", "abc")
    clips = [np.zeros(0, np.float32), rows(0, 20_000) * 50, np.zeros(16_000, np.float32)]
    embeddings, texts = search.embed_speech(clips)
    assert embeddings.shape == (3, 8) and len(texts) == 3 and np.isfinite(embeddings).all()
    lengths = torch.tensor([20_000, 16_000])
    padded = torch.from_numpy(np.stack([clips[1], np.pad(clips[2], (0, 4_000))]))
    frames, mask = model.speech(padded, lengths)
    assert mask.sum(1).tolist() == [frames.shape[1], 25]
    photo = Image.new("RGB", (30, 20), "red")
    assert search.embed_photos([photo, photo]).shape == (2, 8)
    assert search.embed_photos([]).shape == search.embed_speech([])[0].shape == (0, 8)


def test_the_frozen_parts_stay_as_they_are_in_training() -> None:
    model = small().train()
    trained, frozen = count_parameters(model)
    parts = (model.speech.recognizer, model.image.student)  # type: ignore[union-attr]
    assert frozen == sum(p.numel() for part in parts for p in part.parameters()) and trained > 0
    assert not any(part.training for part in parts) and model.text.training  # type: ignore[union-attr]
    thawed = SmallSpeechPart(tiny.models()["recognizer"][0], frozen=False).train()  # type: ignore[arg-type]
    assert thawed.recognizer.training


def test_normalised_photos_forget_the_scale_of_their_features() -> None:
    torch.manual_seed(0)
    parts = replace(PARTS, image_norm=True)
    model = small_dual_channel(SmallConfig(replace(SIZES, prompts=0), parts, tiny.RECOGNIZER, tiny.STUDENT)).train()
    features = torch.randn(6, 4, 16)
    with torch.no_grad():
        seen, larger = model.see(features), model.see(30 * features)
    assert (seen - larger).abs().max() < 1e-2 < (seen[0] - seen[1]).abs().max()


def test_words_are_bags_of_letters() -> None:
    assert ngrams("dog", 1 << 30) == tuple(sorted(ngrams("dog", 1 << 30)))
    assert len(ngrams("dog", 1 << 30)) == 6  # <do dog og> <dog dog> <dog>
    right, wrong, other = (set(ngrams(word, 1 << 30)) for word in ("climbing", "climbin", "playhouse"))
    assert len(right & wrong) > 8 > len(right & other)
    ids, counts = table(["A dog", "", "x" * 300], 64)
    assert ids.shape[:2] == (3, 3) and counts.tolist() == [3, 1, 2]
    assert ids.max() == 64 and (ids[1, 1:] == 64).all() and (ids[:, :, 0] < 64).sum() == 6


def test_a_text_of_any_length_is_read_to_its_end() -> None:
    torch.manual_seed(0)
    part = SmallTextPart(PARTS, 8).eval()
    with torch.no_grad():
        long, changed = (part(part.tokenize([" ".join(["dog"] * 500 + [end])]), None) for end in ("cat", "playhouse"))
    assert (long - changed).abs().max() > 1e-4


def test_recall_is_that_of_a_full_matrix() -> None:
    photo = np.repeat(np.arange(20), 3)[np.random.default_rng(0).permutation(60)]
    speech, photos = rows(0, 60, 4), rows(1, 20, 4)
    found, similar = recalls(speech, photos, photo), speech @ photos.T
    for k in (1, 5, 10):
        hits = [p in np.argsort(-similar[n])[:k] for n, p in enumerate(photo)]
        assert found[f"speech_to_image_r_at_{k}"] == pytest.approx(100 * np.mean(hits))
        hits = [p in photo[np.argsort(-similar[:, p])[:k]] for p in range(20)]
        assert found[f"image_to_speech_r_at_{k}"] == pytest.approx(100 * np.mean(hits))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ten spoken photos, eight to train on, and the tiny recognizer and student."""
    folder = tmp_path_factory.mktemp("data")
    rng, lines = np.random.default_rng(0), []
    for n in range(10):
        Image.fromarray(rng.integers(256, size=(32, 32, 3), dtype=np.uint8)).save(folder / f"{n}.png")
        seconds = np.arange(4000 + 900 * n) / 16_000
        write_wav(folder / f"{n}.wav", (0.3 * np.sin(2 * np.pi * (200 + 90 * n) * seconds)).astype(np.float32), 16_000)
        split = "train" if n < 8 else "dev"
        lines.append({"image": f"{n}.png", "audio": f"{n}.wav", "text": f"dog {n}", "split": split})
    (folder / "manifest.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return folder


def recipe_for(data: Path, **changes: Any) -> RetrieverRecipe:
    options = TrainOptions(8, 4, 3e-3, warmup_steps=2, save_every=4, log_every=2, bf16=False)
    manifests = (data / "manifest.jsonl",)
    runs = tiny.runs()
    recipe = RetrieverRecipe(
        manifests, manifests, options, runs["recognizer"], runs["student"], model=SIZES, parts=PARTS,
        passes=2, evaluate_every=2, cache=data / "cache",
    )  # fmt: skip
    return replace(recipe, **changes)


def test_a_training_that_was_stopped_ends_as_if_it_had_not_been(data: Path, tmp_path: Path) -> None:
    recipe, output = recipe_for(data), tmp_path / "run"
    curve = run(recipe, output)
    assert [entry["step"] for entry in curve] == [2, 4, 6, 8]
    dev = [json.loads(line) for line in (output / "dev.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in dev] == [2, 4, 6, 8]
    assert all(entry["image_to_speech_r_at_10"] == 100 for entry in dev)  # two photos
    whole = load_retriever(output).state_dict()
    for file in ("best.safetensors", "model.safetensors"):
        (output / file).unlink()
    (output / "dev.jsonl").write_text(json.dumps(dev[0]) + "\n")
    shutil.rmtree(output / "checkpoints" / "checkpoint-8")
    shutil.rmtree(output / "checkpoints" / "checkpoint-4")
    assert run(recipe, output) == curve
    again = load_retriever(output).state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())


@pytest.mark.parametrize(
    ("variant", "transcripts"), [("pipeline", "truth"), ("e2e", "recognizer"), ("full", "truth"), ("full", "both")]
)
def test_every_variant_trains_on_either_transcript(data: Path, tmp_path: Path, variant: str, transcripts: str) -> None:
    recipe = recipe_for(data, model=replace(SIZES, variant=variant), transcripts=transcripts)
    curve = run(replace(recipe, train=replace(recipe.train, steps=4)), tmp_path / "run")
    assert np.isfinite([entry["loss"] for entry in curve]).all()
    assert load_retriever(tmp_path / "run").dims.variant == variant


def test_recordings_are_heard_once_a_pass(data: Path, tmp_path: Path) -> None:
    recordings = [data / f"{n}.wav" for n in range(4)]
    folder = tiny.runs()["recognizer"]
    features = SpeechFeatures(recordings, folder, 2, tmp_path)
    frames, mask = features.frames([0, 3, 0], [0, 1, 1])
    assert frames.shape[:1] == mask.shape[:1] == (3,) and not np.allclose(frames[0], frames[2])
    assert len(features.texts) == 2 and len(features.texts[0]) == 4
    written = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again, _ = SpeechFeatures(recordings, folder, 2, tmp_path).frames([0, 3, 0], [0, 1, 1])
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == written
    np.testing.assert_array_equal(again, frames)
    clean = SpeechFeatures(recordings, folder, 0, tmp_path)
    assert clean.passes == 1 and clean.frames([3], [0])[1].sum() == 11  # of 0.42 s


def test_varied_speech_is_still_there(tone: np.ndarray) -> None:
    found = [vary(tone, np.random.default_rng(n)) for n in range(50)]
    assert {x.dtype for x in found} == {np.dtype(np.float32)} and all(np.isfinite(x).all() for x in found)
    assert all(len(tone) / 1.15 < len(x) < len(tone) / 0.87 + 9600 for x in found)
    assert 0 < sum((x == 0).any() for x in found) < 50  # padding is silent in some, noise in others


def test_words_are_those_heard_or_those_written(data: Path, tmp_path: Path) -> None:
    recipe = recipe_for(data, transcripts="both")
    samples = read_manifest(data / "manifest.jsonl")
    photos = SpokenPhotos(samples, recipe, tmp_path, 0, 1)
    rows, passes = np.arange(2), np.zeros(2, np.int64)
    heard = photos.texts[0][:2]
    assert photos.words(rows, passes, None) == heard
    assert photos.words(rows, passes, np.array([True, False])) == [samples[0].text, heard[1]]


def test_recordings_without_text_can_not_be_trained_on_true_texts(data: Path, tmp_path: Path) -> None:
    line = {"image": "0.png", "audio": "0.wav", "split": "train"}
    (data / "silent.jsonl").write_text(json.dumps(line) + "\n")
    recipe = recipe_for(data, manifests=(data / "silent.jsonl",), transcripts="truth")
    with pytest.raises(InputError, match="has no text"):
        run(recipe, tmp_path / "run")
    (data / "mute.jsonl").write_text(json.dumps({"image": "0.png", "text": "a dog", "split": "train"}) + "\n")
    with pytest.raises(InputError, match="no sample has a recording"):
        run(replace(recipe, manifests=(data / "mute.jsonl",)), tmp_path / "run")


def test_one_photo_under_two_names_is_one_photo(tmp_path: Path) -> None:
    (tmp_path / "linked").symlink_to(tmp_path)
    named = [tmp_path / "b.jpg", tmp_path / "linked" / "b.jpg", tmp_path / "x" / ".." / "a.jpg"]
    (tmp_path / "x").mkdir()
    samples = [Sample(image, audio=tmp_path / f"{n}.wav") for n, image in enumerate(named)]
    _, photos, photo = pairs(samples)
    assert [path.name for path in photos] == ["a.jpg", "b.jpg"] and photo.tolist() == [1, 1, 0]
