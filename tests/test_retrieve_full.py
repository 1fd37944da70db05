"""CLIP, SigLIP, Whisper and HuBERT inside the dual-channel model, on tiny checkpoints saved in the real format."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")
transformers = pytest.importorskip("transformers", reason="needs the train extra")

from pixvoice.errors import BundleError, OptionError  # noqa: E402
from pixvoice.retrieve.hf_image import ClipImage  # noqa: E402
from pixvoice.retrieve.hf_speech import WhisperSpeech, load_speech  # noqa: E402
from pixvoice.retrieve.hf_text import ClipText  # noqa: E402
from pixvoice.retrieve.losses import Contrast, LossOptions  # noqa: E402
from pixvoice.retrieve.model import DualChannel, RetrieverConfig, count_parameters  # noqa: E402
from towers import LETTERS, RATE, WORDS, checkpoint, photos, sound  # noqa: E402


def prompts_for(part: Any, count: int = 4) -> Any:
    return torch.randn(count, part.prompt_dim, generator=torch.Generator().manual_seed(0))


def close(a: Any, b: Any) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@torch.inference_mode()
def test_without_prompts_words_are_what_transformers_makes_of_them(kind: str) -> None:
    part = ClipText.load(checkpoint(kind), prompts=4)
    whole = transformers.AutoModel.from_pretrained(checkpoint(kind))
    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint(kind))
    texts = ["a dog", "the child waits"]
    padding = {"padding": "max_length", "max_length": 32} if kind == "siglip" else {"padding": True}
    ids = tokenizer(texts, return_tensors="pt", **padding).input_ids
    theirs = whole.get_text_features(input_ids=ids).pooler_output
    ours = part(part.tokenize(texts), None)
    assert close(ours, theirs) and ours.shape == (2, part.embed_dim)


@pytest.mark.parametrize("kind", ["clip", "siglip", "vit"])
@torch.inference_mode()
def test_without_prompts_a_photo_is_what_transformers_makes_of_it(kind: str) -> None:
    part = ClipImage.load(checkpoint(kind))
    pixels = part.prepare(photos())
    assert pixels.shape == (3, 3, 32, 32)
    whole = transformers.AutoModel.from_pretrained(checkpoint(kind))
    if kind == "vit":
        theirs = whole(pixel_values=pixels).last_hidden_state[:, 0]
    else:
        theirs = whole.get_image_features(pixel_values=pixels).pooler_output
    assert close(part(pixels, None), theirs) and theirs.shape == (3, part.embed_dim)


@torch.inference_mode()
def test_prompts_stand_after_the_start_token_and_move_the_words_on() -> None:
    part = ClipText.load(checkpoint("clip"), prompts=3)
    tower = part.tower.model
    table = tower.text_model.embeddings.token_embedding.weight
    letters = torch.tensor([[52, *(LETTERS.index(c) + 26 for c in "cab"), 53]])
    # Three letters as prompts are those three letters in the text: "c a b" before "dog".
    tokens = part.tokenize(["dog"])
    theirs = tower(input_ids=torch.cat([letters[:, :-1], tokens["ids"][0][:, 1:]], dim=1)).text_embeds
    assert close(part(tokens, table[letters[0, 1:-1]]), theirs)
    # One prompt or three: the pooled place is the end of the text, however long its neighbours in the batch are.
    alone = part(tokens, table[letters[0, 1:-1]])
    together = part(part.tokenize(["dog", WORDS]), table[letters[0, 1:-1]])
    assert close(together[:1], alone)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@torch.inference_mode()
def test_prompts_change_words_and_photos(kind: str) -> None:
    text, image = ClipText.load(checkpoint(kind), prompts=4), ClipImage.load(checkpoint(kind))
    tokens, pixels = text.tokenize(["a dog", WORDS, ""]), image.prepare(photos())
    for part, inputs in ((text, tokens), (image, pixels)):
        prompts = prompts_for(part)
        plain, prompted, other = part(inputs, None), part(inputs, prompts), part(inputs, prompts.roll(1, 1))
        assert plain.shape == prompted.shape == (3, part.embed_dim)
        assert not close(plain, prompted) and not close(prompted, other)
        assert close(part(inputs, None), plain), "a prompt stays in the tower"


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@torch.inference_mode()
def test_no_word_is_cut(kind: str) -> None:
    part = ClipText.load(checkpoint(kind), prompts=4)
    prompts = prompts_for(part)
    words = (WORDS.split() * 20)[:200]
    long, short = " ".join(words), " ".join([*words[:-1], "green"])
    batch = part(part.tokenize([long, short, "a dog"]), prompts)
    assert not close(batch[0], batch[1]), "the last word of 200 is heard"
    assert close(batch[2], part(part.tokenize(["a dog"]), prompts)[0]), "a long neighbour changes nothing"
    tokens = part.tokenize([long])
    assert tokens["ids"].shape[-1] + 4 <= part.positions and close(tokens["weights"].sum(), torch.tensor(1.0))
    kept = sum(int((row != part.pad).sum()) - len(part.start) for row in tokens["ids"][0])
    assert kept == len(part.tokenizer(long, add_special_tokens=False).input_ids)


def test_windows_end_where_words_end() -> None:
    part = ClipText.load(checkpoint("clip"), prompts=4)
    ids = part.tokenize([WORDS * 9])["ids"][0]
    last = [row[(row != part.pad).nonzero()[-1]].item() for row in ids]
    assert len(ids) > 3 and all(26 <= token < 52 for token in last), "the last letter of a word"
    one = part.tokenize(["x" * 500])["ids"][0]
    assert len(one) == -(-500 // part.room), "a word longer than a window is cut, not lost"


def test_prompts_that_leave_no_room_are_refused() -> None:
    with pytest.raises(OptionError, match="prompts: 75 leave no room for words in 77 positions"):
        ClipText.load(checkpoint("clip"), prompts=75)


@pytest.mark.parametrize("kind", ["whisper", "hubert", "wav2vec2", "wavlm"])
@torch.inference_mode()
def test_frames_hang_on_their_own_audio_only(kind: str) -> None:
    part = load_speech(checkpoint(kind)).train()
    audio, lengths = sound(0.7, 1.5, 0.01)
    frames, mask = part(audio, lengths)
    assert frames.shape == (*mask.shape, part.frame_dim) and part.sample_rate == RATE
    alone, alone_mask = part(audio[:1, : lengths[0]], lengths[:1])
    assert close(frames[0][mask[0]], alone[0]) and alone_mask.all()
    louder = audio.clone()
    louder[0, lengths[0] :] = 0.5
    assert close(part(louder, lengths)[0][0][mask[0]], alone[0]), "what lies behind the audio isn't heard"
    assert mask[2].sum() == 1, "a hundredth of a second is one frame"
    if kind == "whisper":
        assert mask.sum(1).tolist() == [35, 75, 1]


@pytest.mark.parametrize("kind", ["whisper", "hubert", "wav2vec2"])
@torch.inference_mode()
def test_a_recording_of_40_seconds_is_heard_to_its_end(kind: str) -> None:
    part = load_speech(checkpoint(kind))
    audio, lengths = sound(40.0)
    changed = audio.clone()
    changed[0, 39 * RATE :] *= -0.3
    frames, mask = part(audio, lengths)
    assert mask.all() and frames.shape[1] >= 1990
    others = part(changed, lengths)[0]
    assert not close(frames[0, -40:], others[0, -40:])
    assert close(frames[0, :900], others[0, :900])


def parts(speech: str, image: str = "clip") -> tuple[Any, Any, Any]:
    return (
        ClipText.load(checkpoint(image), prompts=2) if image != "vit" else None,
        load_speech(checkpoint(speech)),
        ClipImage.load(checkpoint(image)),
    )


def model_of(variant: str, speech: str, image: str, layers: int = 1) -> DualChannel:
    torch.manual_seed(0)
    config = RetrieverConfig(variant, embed_dim=12, prompts=2, layers=layers, heads=2, feed_forward=16, dropout=0.0)
    return DualChannel(config, *parts(speech, image))


@pytest.mark.parametrize(
    ("variant", "speech", "image", "layers"),
    [
        ("full", "whisper", "clip", 1),
        ("pipeline", "whisper", "siglip", 1),
        ("e2e", "hubert", "clip", 1),
        ("e2e", "wav2vec2", "vit", 2),
    ],
)
def test_one_step_changes_what_is_trained_and_nothing_else(variant: str, speech: str, image: str, layers: int) -> None:
    model = model_of(variant, speech, image, layers).train()
    before = {name: value.clone() for name, value in model.named_parameters()}
    towers = {name for name in before if ".tower." in name}
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert trained == set(before) - towers
    changed, frozen = count_parameters(model)
    assert frozen == sum(before[name].numel() for name in towers) and changed == sum(before[n].numel() for n in trained)

    audio, lengths = sound(0.5, 0.8, 0.6)
    tokens = model.text.tokenize(["a dog", "the grass", "red"]) if model.text is not None else None
    frames, mask = model.speech(audio, lengths) if model.dims.hears else (None, None)
    optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=0.5)
    contrast = Contrast(model, LossOptions())
    contrast(model.image.prepare(photos()), torch.arange(3), tokens, frames, mask)["loss"].backward()
    optimizer.step()
    after = dict(model.named_parameters())
    moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
    still = {"speech.layer_weights"} if not model.dims.hears else set()
    assert moved == trained - still
    assert not any(module.training for name, module in model.named_modules() if ".tower" in name)


def test_a_trained_model_is_saved_without_its_towers() -> None:
    model = model_of("full", "whisper", "clip").eval()
    saved = {name: value.clone() for name, value in model.state_dict().items()}
    assert saved and set(saved) == {name for name, value in model.named_parameters() if value.requires_grad}
    again = model_of("full", "whisper", "clip").eval()
    with torch.no_grad():
        for value in again.parameters():
            if value.requires_grad:
                value.zero_()
    again.load_state_dict(saved)
    audio, lengths = sound(0.5)
    with torch.inference_mode():
        assert close(again.embed_speech(audio, lengths, ["a dog"]), model.embed_speech(audio, lengths, ["a dog"]))
        assert close(again.embed_photos(photos()), model.embed_photos(photos()))


def _only_a_pickle(folder: Path) -> None:
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def _without_a_shard(folder: Path) -> None:
    model = transformers.CLIPModel.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    sorted(folder.glob("model-*-of-*"))[0].unlink()


def _without_a_weight(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    for name in ("text_projection.weight", "visual_projection.weight"):
        del weights[name]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("part", [ClipText, ClipImage])
@pytest.mark.parametrize(
    ("harm", "fault"),
    [
        (
            _only_a_pickle,
            r"only as a pickle \(pytorch_model.bin\), .* pixvoice convert .*pytorch_model\.bin -o .*clip/model",
        ),
        (_without_a_shard, r"can't be loaded .*model-00001-of"),
        (_without_a_weight, r"is not a whole CLIP.*_projection.weight and 0 more are absent"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"PK"), "can't be loaded .*header"),
        (lambda folder: (folder / "config.json").write_text("{"), "can't be loaded .*JSON"),
        (lambda folder: (folder / "config.json").unlink(), "can't be loaded .*config.json"),
    ],
)
def test_a_damaged_folder_is_one_clear_line(part: Any, harm: Callable[[Path], Any], fault: str, tmp_path: Path) -> None:
    folder = tmp_path / "clip"
    shutil.copytree(checkpoint("clip"), folder)
    harm(folder)
    with pytest.raises(BundleError, match=fault) as caught:
        part.load(folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


def test_a_folder_without_its_tokenizer_or_with_anothers(tmp_path: Path) -> None:
    shutil.copytree(checkpoint("clip"), tmp_path / "clip")
    (tmp_path / "clip" / "tokenizer.json").unlink()
    with pytest.raises(BundleError, match=r"has no tokenizer: put tokenizer.json or"):
        ClipText.load(tmp_path / "clip")
    vocabulary = {letter: place for place, letter in enumerate(LETTERS)} | {"<|startoftext|>": 26, "<|endoftext|>": 27}
    transformers.CLIPTokenizer(vocab=vocabulary, merges=[]).save_pretrained(tmp_path / "clip")
    with pytest.raises(BundleError, match="ends a text with token 27, the tower with 53 of 54: they belong to two"):
        ClipText.load(tmp_path / "clip")


@pytest.mark.parametrize("load", [ClipText.load, ClipImage.load, load_speech])
def test_a_hub_id_without_a_network_says_what_to_do(load: Callable[[str], Any]) -> None:
    with pytest.raises(
        BundleError, match=r"is no folder here, and can't be fetched .*: download it .* give its folder"
    ):
        load("someone/clip-never-downloaded")


def standard_brewclip(tokenizer: Any, extractor: Any, processor: Any) -> DualChannel:
    """Whisper base.en and CLIP ViT-L/14 at their published sizes; on the meta device they take no memory."""
    config = transformers.CLIPConfig(
        text_config={"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "projection_dim": 768},
        vision_config={
            "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16,
            "patch_size": 14, "projection_dim": 768,
        },
    )  # fmt: skip
    whisper = transformers.WhisperConfig(
        d_model=512, encoder_layers=6, decoder_layers=6, encoder_attention_heads=8, decoder_attention_heads=8,
        encoder_ffn_dim=2048, decoder_ffn_dim=2048, vocab_size=51864,
    )  # fmt: skip
    text = ClipText(transformers.CLIPTextModelWithProjection(config.text_config), tokenizer, prompts=4)
    image = ClipImage(transformers.CLIPVisionModelWithProjection(config.vision_config), processor)
    speech = WhisperSpeech(transformers.WhisperModel(whisper).encoder, extractor)
    sizes = RetrieverConfig("full", 768, prompts=4, heads=8, feed_forward=4096, dropout=0.0)
    return DualChannel(sizes, text, speech, image)


def test_the_papers_model_trains_what_the_paper_trains() -> None:
    tokenizer = type("Tokenizer", (), {"__call__": lambda *_, **__: type("Ids", (), {"input_ids": [49406, 49407]})()})()
    tokenizer.pad_token_id = 49407
    extractor = type("Extractor", (), {"sampling_rate": RATE, "chunk_length": 30, "n_samples": 480_000})()
    with torch.device("meta"):
        model = standard_brewclip(tokenizer, extractor, None)
    d, width = 768, 4096
    attention, norms = 3 * d * d + 3 * d + d * d + d, 2 * 2 * d
    layer = attention + norms + (d * width + width) + (width * d + d)
    linears = (512 * d + d) + (d * 1024 + 1024) + (d * d + d)  # frames, prompts to the image tower, the end
    assert count_parameters(model)[0] == 4 * d + d + layer + linears == 10_437_632
    published = {"text": 123_650_304, "image": 303_966_208, "speech": 20_590_592}
    assert {name: count_parameters(part)[1] for name, part in model.named_children() if name in published} == published
