"""CLIP, SigLIP, Whisper and HuBERT inside the dual-channel model, on tiny checkpoints saved in the real format."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="needs the train extra")
transformers = pytest.importorskip("transformers", reason="needs the train extra")

from pixvoice.errors import OptionError  # noqa: E402
from pixvoice.retrieve.hf_image import ClipImage  # noqa: E402
from pixvoice.retrieve.hf_speech import load_speech  # noqa: E402
from pixvoice.retrieve.hf_text import ClipText  # noqa: E402
from pixvoice.retrieve.losses import Contrast, LossOptions  # noqa: E402
from pixvoice.retrieve.model import DualChannel, RetrieverConfig, count_parameters  # noqa: E402

RATE = 16_000
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
PICTURE = {"hidden_size": 24, "image_size": 32, "patch_size": 8}
PROCESSOR = {"size": {"height": 32, "width": 32}}
WORDS = "a dog runs over the green grass and a child in red waits"


def make_clip(folder: Path) -> None:
    vocabulary = {letter + end: i for i, (end, letter) in enumerate((e, c) for e in ("", "</w>") for c in LETTERS)}
    vocabulary |= {"<|startoftext|>": 52, "<|endoftext|>": 53}
    transformers.CLIPTokenizer(vocab=vocabulary, merges=[]).save_pretrained(folder)
    transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=PROCESSOR["size"]).save_pretrained(folder)
    tokens = {"vocab_size": 54, "bos_token_id": 52, "eos_token_id": 53, "pad_token_id": 53}
    config = transformers.CLIPConfig(
        text_config={**SIZES, **tokens, "projection_dim": 12},
        vision_config={**SIZES, **PICTURE, "projection_dim": 12},
        projection_dim=12,
    )
    transformers.CLIPModel(config).save_pretrained(folder)


def make_siglip(folder: Path) -> None:
    spm = pytest.importorskip("sentencepiece", reason="needs the train extra")
    written = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter([WORDS] * 20), model_writer=written, vocab_size=32, model_type="unigram",
        pad_id=-1, bos_id=-1, eos_id=1, unk_id=2, minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    (folder / "spiece.model").write_bytes(written.getvalue())
    transformers.SiglipTokenizer(str(folder / "spiece.model")).save_pretrained(folder)
    transformers.SiglipImageProcessorPil(**PROCESSOR).save_pretrained(folder)
    tokens = {"vocab_size": 40, "bos_token_id": 39, "eos_token_id": 1, "pad_token_id": 1, "max_position_embeddings": 32}
    config = transformers.SiglipConfig(
        text_config={**SIZES, **tokens, "projection_size": 24}, vision_config={**SIZES, **PICTURE}
    )
    transformers.SiglipModel(config).save_pretrained(folder)


def make_vit(folder: Path) -> None:
    transformers.ViTImageProcessorPil(**PROCESSOR).save_pretrained(folder)
    transformers.ViTModel(transformers.ViTConfig(**SIZES | PICTURE)).save_pretrained(folder)


def make_whisper(folder: Path) -> None:
    transformers.WhisperFeatureExtractor(feature_size=8).save_pretrained(folder)
    config = transformers.WhisperConfig(
        vocab_size=20, num_mel_bins=8, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, max_target_positions=12,
        pad_token_id=0, bos_token_id=0, eos_token_id=0, decoder_start_token_id=1, suppress_tokens=None,
        begin_suppress_tokens=None,
    )  # fmt: skip
    transformers.WhisperForConditionalGeneration(config).save_pretrained(folder)


def make_waves(kind: str, norm: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        transformers.Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)
        config = transformers.AutoConfig.for_model(
            kind, **SIZES, conv_dim=(8, 8), conv_kernel=(10, 8), conv_stride=(5, 64), num_feat_extract_layers=2,
            num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2, feat_extract_norm=norm,
            do_stable_layer_norm=norm == "layer",
        )  # fmt: skip
        transformers.AutoModel.from_config(config).save_pretrained(folder)

    return make


MAKERS: dict[str, Callable[[Path], None]] = {
    "clip": make_clip,
    "siglip": make_siglip,
    "vit": make_vit,
    "whisper": make_whisper,
    "hubert": make_waves("hubert", "group"),
    "wav2vec2": make_waves("wav2vec2", "layer"),
    "wavlm": make_waves("wavlm", "group"),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Kind -> the folder of its tiny checkpoint.  Don't change what is in there."""
    made: dict[str, Path] = {}

    def get(kind: str) -> Path:
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            torch.manual_seed(1)
            MAKERS[kind](folder)
            made[kind] = folder
        return made[kind]

    return get


def photos(count: int = 3) -> list[Image.Image]:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 40, 56, 3), dtype=np.uint8)
    return [Image.fromarray(photo) for photo in pixels]


def sound(*seconds: float) -> tuple[Any, Any]:
    """Noise of each length, padded with zeros -> audio (B, L), lengths (B,)."""
    rng = np.random.default_rng(0)
    clips = [torch.from_numpy(rng.standard_normal(round(s * RATE)).astype(np.float32) * 0.1) for s in seconds]
    return torch.nn.utils.rnn.pad_sequence(clips, batch_first=True), torch.tensor([len(clip) for clip in clips])


def prompts_for(part: Any, count: int = 4) -> Any:
    return torch.randn(count, part.prompt_dim, generator=torch.Generator().manual_seed(0))


def close(a: Any, b: Any) -> bool:
    return a.shape == b.shape and torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@torch.inference_mode()
def test_without_prompts_words_are_what_transformers_makes_of_them(
    kind: str, checkpoint: Callable[[str], Path]
) -> None:
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
def test_without_prompts_a_photo_is_what_transformers_makes_of_it(kind: str, checkpoint: Callable[[str], Path]) -> None:
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
def test_prompts_stand_after_the_start_token_and_move_the_words_on(checkpoint: Callable[[str], Path]) -> None:
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
def test_prompts_change_words_and_photos(kind: str, checkpoint: Callable[[str], Path]) -> None:
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
def test_no_word_is_cut(kind: str, checkpoint: Callable[[str], Path]) -> None:
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


def test_windows_end_where_words_end(checkpoint: Callable[[str], Path]) -> None:
    part = ClipText.load(checkpoint("clip"), prompts=4)
    ids = part.tokenize([WORDS * 9])["ids"][0]
    last = [row[(row != part.pad).nonzero()[-1]].item() for row in ids]
    assert len(ids) > 3 and all(26 <= token < 52 for token in last), "the last letter of a word"
    one = part.tokenize(["x" * 500])["ids"][0]
    assert len(one) == -(-500 // part.room), "a word longer than a window is cut, not lost"


def test_prompts_that_leave_no_room_are_refused(checkpoint: Callable[[str], Path]) -> None:
    with pytest.raises(OptionError, match="prompts: 75 leave no room for words in 77 positions"):
        ClipText.load(checkpoint("clip"), prompts=75)


@pytest.mark.parametrize("kind", ["whisper", "hubert", "wav2vec2", "wavlm"])
@torch.inference_mode()
def test_frames_hang_on_their_own_audio_only(kind: str, checkpoint: Callable[[str], Path]) -> None:
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
def test_a_recording_of_40_seconds_is_heard_to_its_end(kind: str, checkpoint: Callable[[str], Path]) -> None:
    part = load_speech(checkpoint(kind))
    audio, lengths = sound(40.0)
    changed = audio.clone()
    changed[0, 39 * RATE :] *= -0.3
    frames, mask = part(audio, lengths)
    assert mask.all() and frames.shape[1] >= 1990
    others = part(changed, lengths)[0]
    assert not close(frames[0, -40:], others[0, -40:])
    assert close(frames[0, :900], others[0, :900])


def parts(checkpoint: Callable[[str], Path], speech: str, image: str = "clip") -> tuple[Any, Any, Any]:
    return (
        ClipText.load(checkpoint(image), prompts=2) if image != "vit" else None,
        load_speech(checkpoint(speech)),
        ClipImage.load(checkpoint(image)),
    )


def model_of(variant: str, checkpoint: Callable[[str], Path], speech: str, image: str, layers: int = 1) -> DualChannel:
    torch.manual_seed(0)
    config = RetrieverConfig(variant, embed_dim=12, prompts=2, layers=layers, heads=2, feed_forward=16, dropout=0.0)
    return DualChannel(config, *parts(checkpoint, speech, image))


@pytest.mark.parametrize(
    ("variant", "speech", "image", "layers"),
    [
        ("full", "whisper", "clip", 1),
        ("pipeline", "whisper", "siglip", 1),
        ("e2e", "hubert", "clip", 1),
        ("e2e", "wav2vec2", "vit", 2),
    ],
)
def test_one_step_changes_what_is_trained_and_nothing_else(
    variant: str, speech: str, image: str, layers: int, checkpoint: Callable[[str], Path]
) -> None:
    model = model_of(variant, checkpoint, speech, image, layers).train()
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


def test_a_trained_model_is_saved_without_its_towers(checkpoint: Callable[[str], Path]) -> None:
    model = model_of("full", checkpoint, "whisper", "clip").eval()
    saved = {name: value.clone() for name, value in model.state_dict().items()}
    assert saved and set(saved) == {name for name, value in model.named_parameters() if value.requires_grad}
    again = model_of("full", checkpoint, "whisper", "clip").eval()
    with torch.no_grad():
        for value in again.parameters():
            if value.requires_grad:
                value.zero_()
    again.load_state_dict(saved)
    audio, lengths = sound(0.5)
    with torch.inference_mode():
        assert close(again.embed_speech(audio, lengths, ["a dog"]), model.embed_speech(audio, lengths, ["a dog"]))
        assert close(again.embed_photos(photos()), model.embed_photos(photos()))
