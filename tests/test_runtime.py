"""The installed product on a tiny bundle: ONNX Runtime says what PyTorch says, streams equal wholes."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import pixvoice
import tiny
from pixvoice.describe.decoder import TorchSpeechDecoder
from pixvoice.errors import BundleError, InputError, OptionError
from pixvoice.patterns import make_pattern
from pixvoice.runtime.bundle import Bundle
from pixvoice.runtime.decoders import OnnxSpeechDecoder
from pixvoice.runtime.decoding import DecodingOptions, generate, generate_batch
from pixvoice.runtime.describer import Describer
from pixvoice.runtime.recognizer import load_recognizer
from pixvoice.runtime.sessions import OnnxImageEncoder, OnnxSpeechTokenizer
from pixvoice.runtime.streaming import generate_stream
from pixvoice.speech.ctc import greedy as greedy_letters

OPTIONS = [
    DecodingOptions(max_frames=20),
    DecodingOptions("beam", max_frames=20),
    DecodingOptions("sample", candidates=3, top_k=20, top_p=0.9, seed=5, max_frames=20),
]


@pytest.fixture(scope="module")
def describer() -> Describer:
    return pixvoice.load(tiny.bundle())


@pytest.fixture
def features() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(3, 4, 16)).astype(np.float32)


def random_codes(frames: int, codebooks: int = tiny.K) -> np.ndarray:
    return np.random.default_rng(frames).integers(0, tiny.V, (codebooks, frames))


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: o.strategy)
@pytest.mark.parametrize("pattern", ["delay", "parallel"])
def test_torch_and_onnx_choose_the_same_tokens(options: DecodingOptions, pattern: str, features: np.ndarray) -> None:
    ours = OnnxSpeechDecoder(Bundle.load(tiny.bundle(pattern)))
    theirs = TorchSpeechDecoder(tiny.models(pattern)["describer"][0])  # type: ignore[arg-type]
    assert [getattr(ours, size) for size in ("num_codebooks", "codebook_size", "max_steps")] == [tiny.K, tiny.V, 40]
    assert (theirs.num_codebooks, theirs.codebook_size, theirs.max_steps) == (tiny.K, tiny.V, 40)
    shape = make_pattern(pattern, tiny.K)
    for one, other in zip(
        generate_batch(ours, features, shape, options), generate_batch(theirs, features, shape, options), strict=True
    ):
        np.testing.assert_array_equal(one.codes, other.codes)
        assert one.log_prob == pytest.approx(other.log_prob, abs=1e-4)


def test_steps_agree_with_the_whole_sequence_of_training(features: np.ndarray) -> None:
    model = tiny.models()["describer"][0]
    tokens = np.random.default_rng(1).integers(0, tiny.V + 1, (3, tiny.K, 9))
    with torch.inference_mode():
        whole = model.logits(torch.from_numpy(features), torch.from_numpy(tokens))  # type: ignore[operator]
    decoder = OnnxSpeechDecoder(Bundle.load(tiny.bundle()))
    state = decoder.start(features)
    for step in range(9):
        logits, state = decoder.step(np.ascontiguousarray(tokens[:, :, step]), state)
        np.testing.assert_allclose(logits, whole[:, :, step].transpose(0, 1), atol=2e-4)


def test_rows_of_the_state_can_be_picked_and_repeated(features: np.ndarray) -> None:
    for decoder in (
        OnnxSpeechDecoder(Bundle.load(tiny.bundle())),
        TorchSpeechDecoder(tiny.models()["describer"][0]),  # type: ignore[arg-type]
    ):
        tokens = np.random.default_rng(2).integers(0, tiny.V, (3, tiny.K))
        _, state = decoder.step(tokens, decoder.start(features))
        logits, _ = decoder.step(tokens, state)
        rows = np.array([2, 0, 2, 1])
        picked, _ = decoder.step(tokens[rows], decoder.select(state, rows))
        np.testing.assert_allclose(picked, logits[rows], atol=1e-5)
        _, alone = decoder.step(tokens[:1], decoder.start(features[:1]))
        many, _ = decoder.step(tokens[[0, 0]], decoder.select(alone, np.array([0, 0])))
        np.testing.assert_allclose(many, logits[[0, 0]], atol=1e-5)


def test_image_features_are_those_of_the_student() -> None:
    encoder = OnnxImageEncoder(Bundle.load(tiny.bundle()))
    pixels = np.random.default_rng(0).random((3, 3, 64, 64), dtype=np.float32)
    with torch.inference_mode():
        expected = tiny.models()["student"][0](torch.from_numpy(pixels))
    assert (encoder.image_size, encoder.embed_dim) == (64, 16)
    np.testing.assert_allclose(encoder.encode(pixels), expected, rtol=1e-4, atol=1e-2)


def test_the_codec_is_the_trained_one() -> None:
    """With the describer's codebooks, which are fewer than the codec's; and with fewer still."""
    tokenizer = OnnxSpeechTokenizer(Bundle.load(tiny.bundle()))
    codec = tiny.models()["codec"][0]
    audio = np.random.default_rng(0).normal(0, 0.1, 5_000).astype(np.float32)
    codes = tokenizer.encode(audio)
    assert (tokenizer.sample_rate, tokenizer.frame_rate) == (16_000, 50.0)
    assert (tokenizer.num_codebooks, tokenizer.codebook_size) == (tiny.K, tiny.V)
    with torch.inference_mode():
        np.testing.assert_array_equal(codes, codec.encode(torch.from_numpy(audio[None]))[0, : tiny.K])  # type: ignore[operator]
        for kept in (1, 3, tiny.K):
            expected = codec.decode(torch.from_numpy(codes[None, :kept]))[0].clamp(-1, 1)  # type: ignore[operator]
            np.testing.assert_allclose(tokenizer.decode(codes[:kept]), expected, atol=1e-5)
    assert tokenizer.encode(np.zeros(0, np.float32)).shape == (tiny.K, 0)
    assert tokenizer.decode(np.zeros((tiny.K, 0), np.int64)).shape == (0,)
    assert tokenizer.encode(audio[:1]).shape == (tiny.K, 1)


@pytest.mark.parametrize("size", [1, 2, 7, 100])
@pytest.mark.parametrize("frames", [0, 1, 2, 3, 20, 61])
def test_streaming_decode_equals_offline_decode(frames: int, size: int) -> None:
    tokenizer = OnnxSpeechTokenizer(Bundle.load(tiny.bundle()))
    codes = random_codes(frames)
    pieces = list(tokenizer.decode_stream(codes[:, i : i + size] for i in range(0, frames, size)))
    joined = np.concatenate([np.zeros(0, np.float32), *pieces])
    np.testing.assert_allclose(joined, tokenizer.decode(codes), atol=1e-6)


def test_sound_comes_as_soon_as_it_is_certain() -> None:
    tokenizer = OnnxSpeechTokenizer(Bundle.load(tiny.bundle()))
    given = []

    def frames() -> Any:
        for i in range(30):
            given.append(i)
            yield random_codes(30)[:, i : i + 1]

    first = next(tokenizer.decode_stream(frames()))
    assert len(given) == 1 + tokenizer.sizes.lookahead
    assert first.shape == (tiny.FRAME_LENGTH,)


def test_the_recognizer_hears_what_the_trained_one_hears(tone: np.ndarray) -> None:
    recognizer = load_recognizer(tiny.bundle())
    noise = np.random.default_rng(0).normal(0, 0.3, 20_000).astype(np.float32)
    clips = [tone, noise, np.concatenate([noise, tone])]
    with torch.inference_mode():
        model = tiny.models()["recognizer"][0]
        expected = [greedy_letters(model.logits(torch.from_numpy(clip[None])))[0] for clip in clips]  # type: ignore[operator]
    assert recognizer.transcribe(clips) == expected
    assert any(expected)
    assert recognizer.sample_rate == 16_000 and recognizer.name
    assert all(isinstance(text, str) for text in recognizer.transcribe([tone[:0], tone[:1], tone[:700]]))


@pytest.mark.parametrize(
    "options", [{}, *({"strategy": s} for s in ("greedy", "beam")), {"strategy": "sample", "seed": 3}]
)
@pytest.mark.parametrize("pattern", ["delay", "parallel"])
def test_the_stream_joined_is_the_description(options: dict[str, Any], pattern: str, photo: Image.Image) -> None:
    describer = pixvoice.load(tiny.bundle(pattern))
    whole = describer.describe(photo, **options)
    chunks = list(describer.stream(photo, **options))
    np.testing.assert_allclose(np.concatenate(chunks), whole.audio, atol=1e-6)
    assert len(chunks) > 1


def test_a_description_says_what_it_is(describer: Describer, photo: Image.Image, tmp_path: Path) -> None:
    description = describer.describe(photo)
    assert description.audio.dtype == np.float32 and np.abs(description.audio).max() <= 1
    assert description.sample_rate == describer.sample_rate == 16_000
    assert description.codes.shape[0] == tiny.K
    assert len(description.audio) == description.codes.shape[1] * tiny.FRAME_LENGTH
    assert description.seconds == len(description.audio) / 16_000
    assert 0 <= description.confidence <= 1 and description.confidence_in_words
    description.save(tmp_path / "said.wav")
    assert (tmp_path / "said.wav").read_bytes()[:4] == b"RIFF"


def test_confidence_grows_with_the_probability(photo: Image.Image) -> None:
    describer = pixvoice.load(tiny.bundle())
    said = [describer.describe(photo, strategy="sample", temperature=t, seed=0) for t in (0.2, 0.8, 2.0, 9.0)]
    by_log_prob = sorted(said, key=lambda d: d.log_prob)
    assert [d.confidence for d in by_log_prob] == sorted(d.confidence for d in said)
    assert by_log_prob[0].confidence < by_log_prob[-1].confidence


def test_every_form_of_a_photo_is_the_same_photo(
    describer: Describer, photo: Image.Image, encoded: Callable[..., bytes], tmp_path: Path
) -> None:
    data = encoded("PNG")
    (tmp_path / "photo.png").write_bytes(data)
    path = tmp_path / "photo.png"
    forms: list[Any] = [path, str(path), data, io.BytesIO(data), photo, np.asarray(photo)]
    said = [describer.describe(form).codes for form in forms]
    assert all(np.array_equal(codes, said[0]) for codes in said)


@pytest.mark.parametrize("array", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_an_array_that_is_no_photo_is_refused(describer: Describer, array: np.ndarray) -> None:
    with pytest.raises(InputError, match="uint8"):
        describer.describe(array)


def test_length_is_controlled(photo: Image.Image, tmp_path: Path) -> None:
    decoding = {
        "default": {},
        "short": {"max_frames": 4},
        "normal": {"min_frames": 5, "max_frames": 9},
        "long": {"min_frames": 12},
    }
    describer = pixvoice.load(tiny.copy_of_bundle(tmp_path / "bundle", decoding=decoding))
    short, normal, long = (describer.describe(photo, length).codes.shape[1] for length in ("short", "normal", "long"))
    assert short <= 4 < 5 <= normal <= 9 < 12 <= long
    assert describer.describe(photo, "short", max_frames=2).codes.shape[1] <= 2


@pytest.mark.parametrize(
    "arguments", [{"length": "endless"}, {"beam": 3}, {"strategy": "sample", "temperature": -1}, {"seed": -1}]
)
def test_an_option_that_is_not_allowed_is_refused_at_once(
    describer: Describer, photo: Image.Image, arguments: dict[str, Any]
) -> None:
    for say in (describer.describe, describer.stream):
        with pytest.raises(OptionError):
            say(photo, **arguments)


def test_a_missing_photo_is_refused_at_once(describer: Describer) -> None:
    with pytest.raises(InputError, match=r"nowhere\.jpg"):
        describer.stream("nowhere.jpg")


def test_the_environment_names_the_bundle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIXVOICE_BUNDLE", str(tiny.bundle()))
    assert pixvoice.load().bundle.info.name == "tiny"
    monkeypatch.setenv("PIXVOICE_BUNDLE", str(tmp_path))
    with pytest.raises(BundleError, match=str(tmp_path)):
        pixvoice.load()
    assert pixvoice.load(tiny.bundle(), threads=1).bundle.threads == 1
    with pytest.raises(OptionError, match="threads"):
        pixvoice.load(tiny.bundle(), threads=0)


def _append(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b" ")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: _append(folder / "image_encoder.onnx"), "SHA-256"),
        (lambda folder: _append(folder / "describer_step.onnx"), "SHA-256"),
        (lambda folder: (folder / "codec_decoder.onnx").unlink(), "codec_decoder.onnx missing"),
        (lambda folder: (folder / "bundle.json").unlink(), "no bundle"),
        (lambda folder: (folder / "bundle.json").write_text("{"), "not JSON"),
        (lambda folder: (folder / "bundle.json").write_text("[]"), "format None"),
    ],
)
def test_a_damaged_bundle_is_one_line(damage: Callable[[Path], Any], said: str, tmp_path: Path) -> None:
    folder = tiny.copy_of_bundle(tmp_path / "bundle")
    damage(folder)
    with pytest.raises(BundleError, match=said) as caught:
        pixvoice.load(folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": 99}, "format 99"),
        ({"image": {"patches": 5}}, "features has shape"),
        ({"describer": {"layers": 3}}, "cross has shape"),
        ({"describer": {"codebook_size": 64}}, "other codebooks"),
        ({"describer": {"heads": "two"}}, "isn't a int"),
        ({"describer": {"wings": 2}}, "must hold"),
        ({"confidence": None}, "must hold"),
        ({"decoding": {"default": {"strategy": "luck"}}}, "luck"),
        ({"decoding": {"normal": {"beams": 2}}}, "beams"),
    ],
)
def test_a_bundle_that_contradicts_itself_is_one_line(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    folder = tiny.copy_of_bundle(tmp_path / "bundle", **changes)
    with pytest.raises(BundleError, match=said) as caught:
        pixvoice.load(folder)
    assert "\n" not in str(caught.value)


def test_what_is_hashed_but_no_model_is_refused(tmp_path: Path) -> None:
    import hashlib

    folder = tiny.copy_of_bundle(tmp_path / "bundle", files={"codec_decoder.onnx": hashlib.sha256(b"no").hexdigest()})
    (folder / "codec_decoder.onnx").write_bytes(b"no")
    with pytest.raises(BundleError, match="not a model"):
        pixvoice.load(folder)


def test_parts_are_loaded_when_they_are_needed(tmp_path: Path, photo: Image.Image) -> None:
    """A damaged recognizer or codec encoder doesn't keep a photo from being described."""
    folder = tiny.copy_of_bundle(tmp_path / "bundle")
    for name in ("recognizer.onnx", "codec_encoder.onnx"):
        _append(folder / name)
    describer = pixvoice.load(folder)
    assert describer.describe(photo).seconds > 0
    with pytest.raises(BundleError, match=r"codec_encoder\.onnx"):
        describer.tokenizer.encode(np.zeros(999, np.float32))
    with pytest.raises(BundleError, match=r"recognizer\.onnx"):
        load_recognizer(folder)


def test_a_bundle_without_recognizer_describes(tmp_path: Path, photo: Image.Image) -> None:
    folder = tiny.copy_of_bundle(tmp_path / "bundle", recognizer=None)
    assert pixvoice.load(folder).describe(photo).seconds > 0
    with pytest.raises(BundleError, match="no recognizer"):
        load_recognizer(folder)


def test_generate_and_stream_share_one_loop(describer: Describer, features: np.ndarray) -> None:
    options = DecodingOptions(max_frames=12)
    frames = list(generate_stream(describer.decoder, features[:1], describer.pattern, options))
    whole = generate(describer.decoder, features[:1], describer.pattern, options)
    np.testing.assert_array_equal(np.concatenate(frames, axis=1), whole.codes)


def test_describing_loads_no_torch(tmp_path: Path, encoded: Callable[..., bytes]) -> None:
    (tmp_path / "photo.png").write_bytes(encoded("PNG"))
    code = (
        "import sys, json, pixvoice\n"
        "assert 'numpy' not in sys.modules and 'onnxruntime' not in sys.modules\n"
        "description = pixvoice.load(sys.argv[1]).describe(sys.argv[2])\n"
        "assert isinstance(description, pixvoice.Description)\n"
        "print(json.dumps([name for name in ('torch', 'onnx', 'transformers', 'yaml') if name in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tiny.bundle()), str(tmp_path / "photo.png")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []
