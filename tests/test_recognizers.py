"""Whisper and wav2vec 2.0 on tiny checkpoints saved in the real format, and PocketSphinx on its own model."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pixvoice.contracts import Audio, Recognizer
from pixvoice.errors import InputError, MissingToolError, OptionError
from pixvoice.evaluation.recognizers import load_recognizer

RATE = 16_000


def babble(seconds: float, seed: int = 0) -> Audio:
    """Noise that swells four times a second, as syllables do."""
    t = np.arange(round(seconds * RATE)) / RATE
    noise = np.random.default_rng(seed).standard_normal(len(t))
    return (0.1 * noise * np.sin(np.pi * 4 * t) ** 2).astype(np.float32)


@pytest.fixture(scope="module")
def whisper_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch", reason="needs the train extra")
    transformers = pytest.importorskip("transformers", reason="needs the train extra")
    import torch

    folder = tmp_path_factory.mktemp("whisper")
    letters = {letter: place for place, letter in enumerate("abcdefghijklmnopqrstuvwxyzABCD\u0120")}
    special = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]
    ids = {token: len(letters) + place for place, token in enumerate(special)}
    tokenizer = transformers.WhisperTokenizer(vocab={**letters, **ids}, merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": special[1:]})
    extractor = transformers.WhisperFeatureExtractor(feature_size=8)
    transformers.WhisperProcessor(extractor, tokenizer).save_pretrained(folder)
    config = transformers.WhisperConfig(
        vocab_size=len(tokenizer), num_mel_bins=8, d_model=16, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16,
        max_target_positions=12, pad_token_id=ids["<|endoftext|>"], bos_token_id=ids["<|endoftext|>"],
        eos_token_id=ids["<|endoftext|>"], decoder_start_token_id=ids["<|startoftranscript|>"],
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.WhisperForConditionalGeneration(config)
    model.generation_config.update(
        is_multilingual=True, lang_to_id={"<|en|>": ids["<|en|>"]}, task_to_id={"transcribe": ids["<|transcribe|>"]},
        no_timestamps_token_id=ids["<|notimestamps|>"], max_length=12, suppress_tokens=list(ids.values())[1:],
    )  # fmt: skip
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def wav2vec2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch", reason="needs the train extra")
    transformers = pytest.importorskip("transformers", reason="needs the train extra")
    import torch

    folder = tmp_path_factory.mktemp("wav2vec2")
    characters = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ'"]
    vocabulary = folder / "vocab.json"
    vocabulary.write_text(json.dumps({character: place for place, character in enumerate(characters)}))
    tokenizer = transformers.Wav2Vec2CTCTokenizer(str(vocabulary))
    extractor = transformers.Wav2Vec2FeatureExtractor(do_normalize=True, return_attention_mask=False)
    transformers.Wav2Vec2Processor(extractor, tokenizer).save_pretrained(folder)
    config = transformers.Wav2Vec2Config(
        vocab_size=len(characters), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        conv_dim=(8, 8), conv_kernel=(10, 8), conv_stride=(5, 64), num_feat_extract_layers=2,
        num_conv_pos_embeddings=8, num_conv_pos_embedding_groups=2, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.Wav2Vec2ForCTC(config)
    with torch.no_grad():
        model.lm_head.weight.mul_(100.0)  # decided enough that different sound gives different letters
    model.save_pretrained(folder)
    return folder


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    return lambda package: monkeypatch.setitem(sys.modules, package, None)


@pytest.fixture(params=["whisper", "wav2vec2"])
def checkpoint(request: pytest.FixtureRequest) -> str:
    return f"{request.param}:{request.getfixturevalue(f'{request.param}_folder')}"


def test_a_local_checkpoint_transcribes_each_clip_by_itself(checkpoint: str) -> None:
    recognizer = load_recognizer(checkpoint)
    clips = [babble(0.5), babble(1.0, seed=1)]
    texts = recognizer.transcribe(clips)
    assert recognizer.sample_rate == RATE
    assert recognizer.name == checkpoint
    assert all(text and text == text.lower() for text in texts)
    assert texts == [recognizer.transcribe([clip])[0] for clip in clips]


def test_no_sound_gives_no_text(checkpoint: str) -> None:
    assert load_recognizer(checkpoint).transcribe([np.zeros(0, np.float32), np.zeros(100, np.float32)]) == ["", ""]
    assert load_recognizer(checkpoint).transcribe([]) == []


def test_a_clip_longer_than_whispers_window_is_heard_to_its_end(whisper_folder: Path) -> None:
    recognizer = load_recognizer(f"whisper:{whisper_folder}")
    one, long = recognizer.transcribe([babble(5.0), babble(70.0)])
    assert len(long.replace(" ", "")) > 2 * len(one.replace(" ", ""))


def test_a_long_clip_is_cut_where_it_is_quiet_and_nothing_is_lost() -> None:
    from pixvoice.speech.transformers_asr import split_at_pauses

    audio = babble(7.0)
    audio[2 * RATE + 6000 : 2 * RATE + 8000] = 0.0
    pieces = split_at_pauses(audio, RATE, window_s=3.0)
    assert np.array_equal(np.concatenate(pieces), audio)
    assert all(0 < len(piece) <= 3 * RATE for piece in pieces)
    assert 2 * RATE + 6000 < len(pieces[0]) < 2 * RATE + 8000
    assert len(split_at_pauses(audio, RATE)) == 1


def test_a_folder_that_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="needs the train extra")
    for kind in ("whisper", "wav2vec2"):
        with pytest.raises(InputError, match=f"can't be loaded as a {kind} checkpoint"):
            load_recognizer(f"{kind}:{tmp_path}")


def test_pickled_weights_are_refused(wav2vec2_folder: Path, tmp_path: Path) -> None:
    for file in wav2vec2_folder.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"not weights")
    with pytest.raises(InputError, match="safetensors") as raised:
        load_recognizer(f"wav2vec2:{tmp_path}")
    assert "\n" not in str(raised.value)


def test_a_hub_id_without_a_network_says_how_to_use_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers", reason="needs the train extra")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(MissingToolError, match="--recognizer whisper:FOLDER") as raised:
        load_recognizer("whisper:nobody/none")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["", "google", "whisper", "whisper:", "sphinx:x", "ours:x"])
def test_an_unknown_recognizer_lists_the_known_ones(name: str) -> None:
    with pytest.raises(OptionError, match="ours, sphinx, whisper:ID or wav2vec2:ID"):
        load_recognizer(name)


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [("sphinx", "pocketsphinx", "sphinx"), ("whisper:x", "transformers", "train"), ("wav2vec2:x", "torch", "train")],
)
def test_a_missing_package_names_its_extra(name: str, package: str, extra: str, without: Callable[[str], None]) -> None:
    without(package)
    with pytest.raises(MissingToolError, match=rf"pip install 'pixvoice\[{extra}\]'"):
        load_recognizer(name)


def test_sphinx_hears_a_clip_the_same_whatever_came_before() -> None:
    pytest.importorskip("pocketsphinx", reason="needs the sphinx extra")
    sphinx: Recognizer = load_recognizer("sphinx")
    assert (sphinx.name, sphinx.sample_rate) == ("sphinx", RATE)
    clips = [babble(0.6), babble(0.9, seed=1)]
    assert sphinx.transcribe(clips) == sphinx.transcribe(clips[::-1])[::-1]
    assert sphinx.transcribe([np.zeros(0, np.float32)]) == [""]
