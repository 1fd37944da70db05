"""Models of the standard sizes: one training step and one description or search of each, on a CPU, untrained.

They take up to 4 GB of memory and a minute or two, so they run when asked for: PIXVOICE_FULL_SIZE=1 pytest -m slow
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")
transformers = pytest.importorskip("transformers", reason="needs the train extra")

import towers  # noqa: E402
from pixvoice.describe.decoder import TorchSpeechDecoder  # noqa: E402
from pixvoice.describe.hf_git import GitDescriber  # noqa: E402
from pixvoice.describe.model import PixVoxConfig  # noqa: E402
from pixvoice.describe.pretrained import PretrainedDescriber, PretrainedImage  # noqa: E402
from pixvoice.patterns import make_pattern  # noqa: E402
from pixvoice.retrieve.losses import Contrast, LossOptions  # noqa: E402
from pixvoice.retrieve.model import count_parameters  # noqa: E402
from pixvoice.runtime.decoding import DecodingOptions, generate  # noqa: E402
from pixvoice.speech.encodec import EncodecTokenizer  # noqa: E402
from pixvoice.speech.units import HubertFeatures, UnitTokenizer  # noqa: E402
from pixvoice.speech.vocoder import UnitVocoder, VocoderConfig  # noqa: E402
from pixvoice.training.describer import inputs_and_labels  # noqa: E402
from test_describe_full import standard_blip  # noqa: E402
from test_retrieve_full import standard_brewclip  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.environ.get("PIXVOICE_FULL_SIZE"), reason="takes 4 GB: set PIXVOICE_FULL_SIZE=1"),
]


def standard_git() -> GitDescriber:
    """Im2Sp on the standard configuration of GiT, with 200 units."""
    model = transformers.GitForCausalLM(transformers.GitConfig())
    dims = PixVoxConfig(num_codebooks=1, codebook_size=200, pattern="parallel", max_steps=1024)
    return GitDescriber(dims, PretrainedImage(model.git.image_encoder, None), model)


@pytest.mark.parametrize(
    ("make", "size", "pattern"),
    [(standard_blip, 384, "delay"), (standard_blip, 384, "parallel"), (standard_git, 224, "parallel")],
)
def test_one_step_and_one_description(make: Callable[[], PretrainedDescriber], size: int, pattern: str) -> None:
    torch.manual_seed(0)
    model = make().train()
    order = make_pattern(pattern, model.dims.num_codebooks)
    codes = np.random.default_rng(0).integers(model.dims.codebook_size, size=(model.dims.num_codebooks, 6))
    tokens, labels = (torch.from_numpy(part)[None] for part in inputs_and_labels(codes, order, model.dims.special))
    pixels = torch.rand(1, 3, size, size)
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    learn(learned, lambda: model(pixels, tokens, labels)["loss"])
    with torch.inference_mode():
        features = model.image(pixels).numpy()
    said = generate(TorchSpeechDecoder(model), features, order, DecodingOptions(min_frames=3, max_frames=4))
    assert said.codes.shape[0] == model.dims.num_codebooks and 3 <= said.codes.shape[1] <= 4


def learn(learned: list[Any], loss_of: Callable[[], Any]) -> None:
    """One step, after which the loss is smaller."""
    optimizer = torch.optim.SGD(learned, lr=0.05)
    losses = []
    for _ in range(2):
        losses.append(loss_of())
        optimizer.zero_grad()
        losses[-1].backward()
        torch.nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
    assert losses[1] < losses[0]


def test_brewclip_learns_and_finds() -> None:
    """Whisper base.en and CLIP ViT-L/14: two recordings with their words, against two photos."""
    torch.manual_seed(0)
    vocabulary = {
        letter + end: i for i, (end, letter) in enumerate((e, c) for e in ("", "</w>") for c in towers.LETTERS)
    }
    vocabulary |= {"<|startoftext|>": 49406, "<|endoftext|>": 49407}
    tokenizer = transformers.CLIPTokenizer(vocab=vocabulary, merges=[])
    model = standard_brewclip(
        tokenizer, transformers.WhisperFeatureExtractor(), transformers.CLIPImageProcessorPil()
    ).train()
    audio, lengths = towers.sound(1.0, 1.5)
    photos, words = towers.photos(2), ["a dog", "the child waits"]
    pixels, tokens = model.image.prepare(photos), model.text.tokenize(words)
    contrast = Contrast(model, LossOptions())
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    learn(learned, lambda: contrast(pixels, torch.arange(2), tokens, audio=audio, lengths=lengths)["loss"])
    model.eval()
    with torch.inference_mode():
        heard, seen = model.embed_speech(audio, lengths, words), model.embed_photos(photos)
    assert heard.shape == seen.shape == (2, 768)
    torch.testing.assert_close((heard @ heard.T).diagonal(), torch.ones(2))


def test_im2sp_has_a_frozen_encoder_and_six_layers() -> None:
    with torch.device("meta"):
        model = standard_git()
    trained, frozen = count_parameters(model)
    assert model.dims.layers == 6 and trained < frozen


@pytest.mark.parametrize("bandwidth", [1.5, 3.0, 6.0])
def test_encodec_speaks(bandwidth: float, tmp_path: Any) -> None:
    transformers.EncodecModel(transformers.EncodecConfig()).save_pretrained(tmp_path)
    tokenizer = EncodecTokenizer(tmp_path, bandwidth)
    codes = tokenizer.encode(towers.sound(0.5)[0][0].numpy())
    assert (tokenizer.num_codebooks, tokenizer.frame_rate, tokenizer.codebook_size) == (bandwidth / 0.75, 75.0, 1024)
    assert len(tokenizer.decode(codes)) == codes.shape[1] * 320


def test_hubert_units_are_spoken(tmp_path: Any) -> None:
    transformers.HubertModel(transformers.HubertConfig()).save_pretrained(tmp_path)
    transformers.Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    centroids = np.random.default_rng(0).normal(size=(200, 768)).astype(np.float32)
    tokenizer = UnitTokenizer(HubertFeatures(tmp_path, 6), centroids, UnitVocoder(VocoderConfig()).eval())
    codes = tokenizer.encode(towers.sound(1.0)[0][0].numpy())
    assert 0 < codes.shape[1] <= 49 and codes.max() < 200
    assert len(tokenizer.decode(codes)) >= codes.shape[1] * 320
