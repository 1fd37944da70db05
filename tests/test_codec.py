"""Speech to tokens and back: our codec, its quantizer, and EnCodec, on tiny seeded models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the codec's training form needs torch (the train extra)")
pytest.importorskip("transformers", reason="EnCodec needs transformers (the train extra)")

from transformers import EncodecConfig, EncodecModel  # noqa: E402

from pixvoice.contracts import SpeechTokenizer  # noqa: E402
from pixvoice.errors import BundleError, MissingToolError, OptionError  # noqa: E402
from pixvoice.speech.codec import Codec, CodecConfig  # noqa: E402
from pixvoice.speech.encodec import EncodecTokenizer  # noqa: E402
from pixvoice.speech.quantizer import ResidualVectorQuantizer  # noqa: E402
from pixvoice.speech.spectrogram import InverseSTFTHead, LogMel  # noqa: E402
from pixvoice.speech.tokenizer import CodecTokenizer  # noqa: E402
from pixvoice.training.trainer import load_model, save_model  # noqa: E402

TINY = CodecConfig(
    num_codebooks=4, codebook_size=16, latent_dim=6, width=12, token_width=16, encoder_blocks=1, token_blocks=2,
    decoder_blocks=2, n_mels=20,
)  # fmt: skip
GOLDEN = Path(__file__).parent / "golden" / "codec.json"


def speech(length: int) -> np.ndarray:
    """Audio (L,): a tone that glides and swells, with a little noise."""
    seconds = np.arange(length) / 16_000
    noise = np.random.default_rng(0).standard_normal(length)
    glide = np.sin(2 * np.pi * (200 + 150 * seconds) * seconds) * np.sin(3 * seconds)
    return (0.4 * glide + 0.01 * noise).astype(np.float32)


def filled(config: CodecConfig) -> Codec:
    """A seeded codec with codebooks around the latents of some speech, each finer than the one before."""
    torch.manual_seed(0)
    codec = Codec(config).eval()
    with torch.inference_mode():
        latents = codec.encoder(torch.from_numpy(speech(40 * config.frame_length))[None])[0]
    finer = latents.std(0) * 0.5 ** torch.arange(config.num_codebooks)[:, None, None]
    codec.quantizer.codebooks.copy_(torch.randn_like(codec.quantizer.codebooks) * finer)
    codec.quantizer.codebooks[0] += latents.mean(0)
    return codec


@pytest.fixture(scope="module")
def codec() -> Codec:
    return filled(TINY)


def pieces(codes: np.ndarray, sizes: list[int]) -> Iterator[np.ndarray]:
    """Codes cut into pieces of ``sizes`` by turns."""
    start, turn = 0, 0
    while start < codes.shape[1]:
        yield codes[:, start : start + sizes[turn % len(sizes)]]
        start, turn = start + sizes[turn % len(sizes)], turn + 1


@pytest.mark.parametrize("length", [0, 1, 1280, 1281, 20_000])
def test_lengths(codec: Codec, length: int) -> None:
    tokenizer = CodecTokenizer(codec)
    codes = tokenizer.encode(speech(length))
    assert codes.shape == (4, -(-length // 1280)) and codes.dtype == np.int64
    audio = tokenizer.decode(codes)
    assert audio.shape == (codes.shape[1] * 1280,) and audio.dtype == np.float32
    assert (codes >= 0).all() and (codes < 16).all()


def test_the_contract_tells_rates_and_sizes(codec: Codec) -> None:
    tokenizer: SpeechTokenizer = CodecTokenizer(codec)
    told = tokenizer.sample_rate, tokenizer.frame_rate, tokenizer.num_codebooks, tokenizer.codebook_size
    assert told == (16_000, 12.5, 4, 16)


@pytest.mark.parametrize("sizes", [[1], [3], [1, 7, 2], [100], [0, 1]])
@pytest.mark.parametrize("frames", [0, 1, 2, 3, 25, 70])
def test_streaming_equals_offline(codec: Codec, frames: int, sizes: list[int]) -> None:
    tokenizer = CodecTokenizer(codec)
    codes = np.random.default_rng(frames).integers(16, size=(4, frames))
    streamed = list(tokenizer.decode_stream(pieces(codes, sizes)))
    joined = np.concatenate([np.zeros(0, np.float32), *streamed])
    np.testing.assert_allclose(joined, tokenizer.decode(codes), atol=1e-5)


def test_streaming_equals_offline_at_the_default_sizes() -> None:
    tokenizer = CodecTokenizer(filled(CodecConfig()))
    codes = np.random.default_rng(1).integers(1024, size=(8, 45))
    streamed = list(tokenizer.decode_stream(pieces(codes, [1])))
    np.testing.assert_allclose(np.concatenate(streamed), tokenizer.decode(codes), atol=1e-5)


def test_sound_begins_after_the_lookahead(codec: Codec) -> None:
    given = []

    def frames() -> Iterator[np.ndarray]:
        for t in range(9):
            given.append(t)
            yield np.zeros((4, 1), dtype=np.int64)

    stream = CodecTokenizer(codec).decode_stream(frames())
    first = next(stream)
    assert len(given) == codec.decoder.lookahead + 1 and len(first) == 1280


def test_streaming_keeps_a_bounded_past(codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer, decoded = CodecTokenizer(codec), []
    offline = tokenizer.decode
    monkeypatch.setattr(tokenizer, "decode", lambda codes: decoded.append(codes.shape[1]) or offline(codes))
    list(tokenizer.decode_stream(np.zeros((4, 1), dtype=np.int64) for _ in range(60)))
    assert max(decoded) <= codec.decoder.context + codec.decoder.lookahead + 1


def test_fewer_codebooks(codec: Codec) -> None:
    whole, half = CodecTokenizer(codec), CodecTokenizer(codec, num_codebooks=2)
    audio = speech(10_000)
    np.testing.assert_array_equal(half.encode(audio), whole.encode(audio)[:2])
    assert half.num_codebooks == 2
    np.testing.assert_array_equal(half.decode(half.encode(audio)), whole.decode(whole.encode(audio)[:2]))


@pytest.mark.parametrize("number", [0, 5])
def test_a_number_of_codebooks_that_the_codec_has_not(codec: Codec, number: int) -> None:
    with pytest.raises(OptionError, match="between 1 and the codec's 4"):
        CodecTokenizer(codec, num_codebooks=number)


def test_each_codebook_brings_the_latents_nearer() -> None:
    torch.manual_seed(0)
    quantizer = ResidualVectorQuantizer(4, 32, 5).train()
    latents = torch.randn(8, 50, 5)
    for _ in range(40):
        quantizer(latents, min_codebooks=1)
    codes = quantizer.encode(latents)
    assert codes.shape == (8, 4, 50) and codes.min() >= 0 and codes.max() < 32
    errors = [float((quantizer.decode(codes[:, :k]) - latents).square().mean()) for k in range(1, 5)]
    assert errors == sorted(errors, reverse=True) and errors[3] < 0.5 * errors[0]


def test_quantizer_takes_the_nearest_entry() -> None:
    torch.manual_seed(0)
    quantizer = ResidualVectorQuantizer(1, 16, 3)
    quantizer.codebooks.normal_()
    latents = torch.randn(2, 9, 3)
    naive = torch.cdist(latents, quantizer.codebooks[0]).argmin(-1)
    assert torch.equal(quantizer.encode(latents)[:, 0], naive)


def test_gradient_reaches_the_encoder_through_the_quantizer() -> None:
    torch.manual_seed(0)
    codec = Codec(TINY).train()
    codec(torch.from_numpy(speech(2 * 1280 * 2)).reshape(2, -1))["loss"].backward()
    assert float(codec.encoder.project.weight.grad.abs().sum()) > 0


def test_a_codec_learns_a_short_sound() -> None:
    torch.manual_seed(0)
    codec = Codec(TINY).train()
    audio = torch.from_numpy(speech(6 * 1280))[None].repeat(2, 1)
    optimizer = torch.optim.Adam(codec.parameters(), lr=5e-3)
    losses = []
    for _ in range(40):
        loss = codec(audio)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


def test_log_mel_hears_the_pitch() -> None:
    mel = LogMel(16_000, 1024, 320, 40)
    seconds = torch.arange(16_000) / 16_000
    low, high = (mel(torch.sin(2 * torch.pi * hz * seconds)[None])[0, :, 25].argmax() for hz in (300.0, 3000.0))
    assert low < high
    assert mel(torch.zeros(1, 3200)).shape == (1, 40, 10)


def test_inverse_transform_inverts_the_transform() -> None:
    """With magnitudes and phases of a real sound in place of the projection, the head gives that sound back."""
    head = InverseSTFTHead(4, 960, 320)
    audio = torch.from_numpy(speech(320 * 12))
    padded = torch.nn.functional.pad(audio, (320, 320))
    spectrum = torch.fft.rfft(padded.unfold(0, 960, 320) * torch.hann_window(960))
    head.project = torch.nn.Identity()
    hidden = torch.cat([spectrum.abs().clamp(min=1e-9).log(), spectrum.angle()], dim=-1)[None]
    np.testing.assert_allclose(head(hidden)[0, 320:-320], audio[320:-320], atol=1e-4)


def test_golden_numbers_of_seeded_weights(codec: Codec) -> None:
    """The same weights give the same codes and sound in every version; written by ``python tests/test_codec.py``."""
    expected = json.loads(GOLDEN.read_text())
    codes, audio = golden(codec)
    assert codes == expected["codes"]
    np.testing.assert_allclose(audio, expected["audio"], rtol=1e-3, atol=1e-5)


def golden(codec: Codec) -> tuple[list[list[int]], list[float]]:
    """Codes of a fixed sound, and every 997th sample of what they decode to."""
    tokenizer = CodecTokenizer(codec)
    codes = tokenizer.encode(speech(8 * 1280))
    return codes.tolist(), tokenizer.decode(codes)[::997].tolist()


def test_a_saved_codec_is_the_same(codec: Codec, tmp_path: Path) -> None:
    save_model(codec, TINY, "codec", tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == {"task": "codec", "config": asdict(TINY)}
    audio = speech(5000)
    np.testing.assert_array_equal(CodecTokenizer(tmp_path).encode(audio), CodecTokenizer(codec).encode(audio))


def test_folders_that_hold_no_codec(codec: Codec, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no trained codec"):
        CodecTokenizer(tmp_path)
    save_model(codec, TINY, "codec", tmp_path)
    with pytest.raises(BundleError, match="holds a codec, not a student"):
        load_model(tmp_path, "student", CodecConfig, Codec)
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(BundleError, match="not a usable codec"):
        CodecTokenizer(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(BundleError, match=r"model\.safetensors"):
        CodecTokenizer(tmp_path)


@pytest.fixture(scope="module")
def encodec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny EnCodec checkpoint: 2 filters, 20 samples a frame, at 800 Hz."""
    folder = tmp_path_factory.mktemp("encodec")
    torch.manual_seed(0)
    save_encodec(folder)
    return folder


def save_encodec(folder: Path, **options: object) -> None:
    config = EncodecConfig(
        sampling_rate=800, upsampling_ratios=[5, 4], num_filters=2, hidden_size=8, codebook_size=16, codebook_dim=8,
        target_bandwidths=[0.16, 0.32, 0.64], **options,
    )  # fmt: skip
    model = EncodecModel(config)
    for layer in model.quantizer.layers:  # a checkpoint that was never trained has zeros
        layer.codebook.embed.normal_()
    model.save_pretrained(folder)


@pytest.mark.parametrize(("bandwidth", "codebooks"), [(None, 1), (0.16, 1), (0.32, 2), (0.64, 4)])
def test_encodec_bandwidth_sets_codebooks(encodec: Path, bandwidth: float | None, codebooks: int) -> None:
    tokenizer: SpeechTokenizer = EncodecTokenizer(encodec, bandwidth)
    told = tokenizer.sample_rate, tokenizer.frame_rate, tokenizer.num_codebooks, tokenizer.codebook_size
    assert told == (800, 40.0, codebooks, 16)
    codes = tokenizer.encode(speech(450))
    assert codes.shape == (codebooks, 23) and codes.dtype == np.int64
    assert (codes >= 0).all() and (codes < 16).all()
    assert tokenizer.decode(codes).shape == (460,) and tokenizer.decode(codes).dtype == np.float32


@pytest.mark.parametrize("sizes", [[1], [5, 2], [100]])
@pytest.mark.parametrize("frames", [0, 1, 6, 7, 30])
def test_encodec_streaming_equals_offline(encodec: Path, frames: int, sizes: list[int]) -> None:
    tokenizer = EncodecTokenizer(encodec, 0.64)
    codes = np.random.default_rng(frames).integers(16, size=(4, frames))
    streamed = list(tokenizer.decode_stream(pieces(codes, sizes)))
    joined = np.concatenate([np.zeros(0, np.float32), *streamed])
    np.testing.assert_allclose(joined, tokenizer.decode(codes), atol=1e-5)
    if sizes == [1] and frames == 30:
        assert len(streamed) > 20


def test_encodec_that_looks_ahead_is_decoded_at_the_end(tmp_path: Path) -> None:
    save_encodec(tmp_path, use_causal_conv=False)
    tokenizer = EncodecTokenizer(tmp_path, 0.32)
    codes = np.random.default_rng(0).integers(16, size=(2, 20))
    (whole,) = tokenizer.decode_stream(pieces(codes, [1]))
    np.testing.assert_array_equal(whole, tokenizer.decode(codes))


def test_encodec_without_sound_or_codes(encodec: Path) -> None:
    tokenizer = EncodecTokenizer(encodec, 0.32)
    assert tokenizer.encode(np.zeros(0, np.float32)).shape == (2, 0)
    assert tokenizer.encode(np.zeros(1, np.float32)).shape == (2, 1)
    assert tokenizer.decode(np.zeros((2, 0), np.int64)).shape == (0,)


def test_encodec_bandwidth_that_the_checkpoint_has_not(encodec: Path) -> None:
    with pytest.raises(OptionError, match=r"bandwidth 6 kbit/s .* use 0\.16, 0\.32, 0\.64"):
        EncodecTokenizer(encodec, 6)


def test_encodec_that_is_not_there() -> None:
    with pytest.raises(MissingToolError, match=r"no local folder .* give its folder") as caught:
        EncodecTokenizer("someone/encodec_of_nowhere")
    assert "\n" not in str(caught.value)


def test_folders_that_hold_no_encodec(encodec: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"model\.safetensors"):
        EncodecTokenizer(tmp_path)
    (tmp_path / "config.json").write_text((encodec / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes((encodec / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(BundleError, match="can't be loaded"):
        EncodecTokenizer(tmp_path)


def test_encodec_of_music_is_refused(tmp_path: Path) -> None:
    save_encodec(tmp_path, normalize=True)
    with pytest.raises(BundleError, match="mono"):
        EncodecTokenizer(tmp_path)


if __name__ == "__main__":
    made_codes, made_audio = golden(filled(TINY))
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps({"codes": made_codes, "audio": [round(x, 7) for x in made_audio]}) + "\n")
