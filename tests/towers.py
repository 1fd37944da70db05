"""Tiny untrained CLIP, SigLIP, ViT, Whisper, HuBERT, wav2vec 2.0 and WavLM, saved as their hub folders are."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

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
    special = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>"]
    ids = {token: 27 + place for place, token in enumerate(special)}
    letters = {letter: place for place, letter in enumerate([*LETTERS, "\u0120"])}
    tokenizer = transformers.WhisperTokenizer(vocab={**letters, **ids}, merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": special[1:]})
    extractor = transformers.WhisperFeatureExtractor(feature_size=8)
    transformers.WhisperProcessor(extractor, tokenizer).save_pretrained(folder)
    config = transformers.WhisperConfig(
        vocab_size=len(tokenizer), num_mel_bins=8, d_model=16, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16,
        max_target_positions=12, pad_token_id=27, bos_token_id=27, eos_token_id=27, decoder_start_token_id=28,
    )  # fmt: skip
    model = transformers.WhisperForConditionalGeneration(config)
    model.generation_config.update(max_length=12, suppress_tokens=[*range(27, 32)], no_timestamps_token_id=31)
    model.save_pretrained(folder)


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

_root = tempfile.TemporaryDirectory(prefix="pixvoice-towers-")  # removed when the process ends


def checkpoint(kind: str) -> Path:
    """The folder of the tiny checkpoint of ``kind``.  Don't change what is in there."""
    folder = Path(_root.name) / kind
    if not folder.exists():
        folder.mkdir()
        torch.manual_seed(1)
        MAKERS[kind](folder)
    return folder


def photos(count: int = 3) -> list[Image.Image]:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 40, 56, 3), dtype=np.uint8)
    return [Image.fromarray(photo) for photo in pixels]


def sound(*seconds: float) -> tuple[Any, Any]:
    """Noise of each length, padded with zeros -> audio (B, L), lengths (B,)."""
    rng = np.random.default_rng(0)
    clips = [torch.from_numpy(rng.standard_normal(round(s * RATE)).astype(np.float32) * 0.1) for s in seconds]
    return torch.nn.utils.rnn.pad_sequence(clips, batch_first=True), torch.tensor([len(clip) for clip in clips])
