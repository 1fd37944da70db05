"""HuBERT units and the unit vocoder: what is merged, what is spoken, and what doesn't fit together."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")
transformers = pytest.importorskip("transformers", reason="needs the train extra")

from pixvoice.contracts import SpeechTokenizer  # noqa: E402
from pixvoice.errors import BundleError, OptionError  # noqa: E402
from pixvoice.speech.pretrained import SpeechParts, load_speech_tokenizer  # noqa: E402
from pixvoice.speech.units import HubertFeatures, merge_runs, read_centroids  # noqa: E402
from pixvoice.speech.vocoder import UnitVocoder  # noqa: E402
from speakers import UNITS, checkpoint, make_kmeans, make_vocoder, vocoder_json  # noqa: E402

RATE = 16_000


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> SpeechParts:
    folder = tmp_path_factory.mktemp("units")
    kmeans, vocoder = make_kmeans(folder / "km.safetensors"), make_vocoder(folder / "vocoder")
    return SpeechParts(str(checkpoint("hubert")), RATE, None, 1, kmeans, vocoder)


def noise(seconds: float) -> np.ndarray:
    return np.random.default_rng(0).normal(0, 0.1, round(seconds * RATE)).astype(np.float32)


def test_runs_are_merged_and_come_back_with_their_durations() -> None:
    units = np.array([3, 3, 1, 1, 1, 3, 0])
    merged, durations = merge_runs(units)
    assert merged.tolist() == [3, 1, 3, 0] and durations.tolist() == [2, 3, 1, 1]
    np.testing.assert_array_equal(np.repeat(merged, durations), units)
    assert [part.tolist() for part in merge_runs(units[:0])] == [[], []]


def test_units_are_the_nearest_centroids_of_the_layer(parts: SpeechParts) -> None:
    tokenizer = load_speech_tokenizer(parts, 1, UNITS)
    model = transformers.HubertModel.from_pretrained(checkpoint("hubert"))
    audio = noise(0.7)
    inputs = torch.from_numpy((audio - audio.mean()) / np.sqrt(audio.var() + 1e-7))[None]
    with torch.inference_mode():
        frames = model(inputs, output_hidden_states=True).hidden_states[1][0]
    assert parts.kmeans is not None
    wanted = torch.cdist(frames, torch.from_numpy(read_centroids(parts.kmeans))).argmin(1).numpy()
    codes = tokenizer.encode(audio)
    np.testing.assert_array_equal(codes[0], merge_runs(wanted)[0])
    assert codes.dtype == np.int64 and (np.diff(codes[0]) != 0).all()


def test_the_contract(parts: SpeechParts) -> None:
    tokenizer: SpeechTokenizer = load_speech_tokenizer(parts, 1, UNITS)
    told = tokenizer.sample_rate, tokenizer.frame_rate, tokenizer.num_codebooks, tokenizer.codebook_size
    assert told == (RATE, 50.0, 1, UNITS)
    assert tokenizer.encode(np.zeros(0, np.float32)).shape == (1, 0)
    assert tokenizer.decode(np.zeros((1, 0), np.int64)).shape == (0,)
    codes = np.array([[2, 0, 5, 1]])
    audio = tokenizer.decode(codes)
    assert audio.dtype == np.float32 and len(audio) % 320 == 0 and len(audio) >= 4 * 320 and np.abs(audio).max() <= 1
    streamed = list(tokenizer.decode_stream([codes[:, :1], codes[:, 1:]]))
    np.testing.assert_array_equal(np.concatenate(streamed), audio)


def test_the_vocoder_takes_durations_or_predicts_them(parts: SpeechParts) -> None:
    assert parts.vocoder is not None
    vocoder, units = UnitVocoder.load(parts.vocoder), torch.tensor([1, 3, 0])
    with torch.inference_mode():
        assert (vocoder.durations(units) >= 1).all()
        assert vocoder(units, torch.tensor([2, 1, 4])).shape == (7 * 320,)
        torch.testing.assert_close(vocoder(units), vocoder(units, vocoder.durations(units)))


def test_without_a_vocoder_there_are_only_units(parts: SpeechParts) -> None:
    mute = load_speech_tokenizer(SpeechParts(parts.checkpoint, RATE, None, 1, parts.kmeans), 1, UNITS)
    assert mute.encode(noise(0.3)).shape[1] > 0
    with pytest.raises(OptionError, match=r"speech\.vocoder: is missing"):
        mute.decode(np.zeros((1, 2), np.int64))


def test_a_long_recording_is_heard_in_pieces() -> None:
    features = HubertFeatures(checkpoint("hubert"), 2)
    frames = features(noise(31))
    assert frames.shape == (pytest.approx(31 * 50, abs=4), 16)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"layer": 9}, r"speech\.layer: 9, but .* has layers 1 to 2"),
        ({"kmeans": None}, r"speech\.kmeans: is missing; give the k-means of layer 1"),
        ({"kmeans": "wide"}, r"speech\.kmeans: its centroids are 12 wide, the encoder's frames 16"),
        ({"kmeans": "few"}, r"speech\.vocoder: speaks 6 units, but encoder and k-means make 5"),
        ({"kmeans": "km.bin"}, r"no safetensors.*pixvoice convert .*km\.bin -o .*km\.safetensors"),
        ({"kmeans": "other"}, r"holds no k-means .* convert it again"),
        ({"sample_rate": 8000}, r"speech\.sample_rate: the recipe says 8000, but .*hubert has 16000; give 16000"),
        ({"size": 100}, r"model\.codebook_size: the recipe says 100, but .* has 6; give 6"),
        ({"codebooks": 2}, r"model\.num_codebooks: the recipe says 2, but .* has 1"),
        ({"checkpoint": None}, r"speech\.checkpoint: is missing; name an EnCodec"),
        ({"checkpoint": "clip"}, r"clip holds a clip, which is no EnCodec or HuBERT: use a checkpoint of encodec"),
        ({"checkpoint": "someone/no-hubert"}, r"no folder here, and can't be fetched .* and give its folder"),
    ],
)
def test_parts_that_do_not_fit(changes: dict[str, Any], fault: str, parts: SpeechParts, tmp_path: Path) -> None:
    values = {**vars(parts), **changes}
    count, size = values.pop("codebooks", 1), values.pop("size", UNITS)
    if isinstance(values["kmeans"], str):
        values["kmeans"] = kmeans_called(values["kmeans"], tmp_path)
    if values["checkpoint"] == "clip":
        values["checkpoint"] = str(checkpoint("clip"))
    with pytest.raises((BundleError, OptionError), match=fault) as caught:
        load_speech_tokenizer(SpeechParts(**values), count, size)
    assert "\n" not in str(caught.value)


def kmeans_called(name: str, folder: Path) -> Path:
    if name == "wide":
        return make_kmeans(folder / "km.safetensors", width=12)
    if name == "few":
        return make_kmeans(folder / "km.safetensors", count=5)
    if name == "other":
        return checkpoint("hubert") / "model.safetensors"
    return folder / name


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"f0": True}, "a vocoder with f0: give one that speaks from units alone"),
        ({"multispkr": "_"}, "a vocoder with multispkr"),
        ({"dur_predictor_params": None}, "without a duration predictor"),
        ({"upsample_rates": [5, 4]}, "upsample_rates make 20 samples a frame, code_hop_size 320"),
        ({"num_embeddings": 9}, "no unit HiFi-GAN of its config.json: .*size mismatch for dict.weight"),
    ],
)
def test_vocoders_of_another_layout(changes: dict[str, Any], fault: str, parts: SpeechParts, tmp_path: Path) -> None:
    assert parts.vocoder is not None
    shutil.copytree(parts.vocoder, tmp_path / "vocoder")
    (tmp_path / "vocoder" / "config.json").write_text(vocoder_json(**changes))
    with pytest.raises(BundleError, match=fault) as caught:
        UnitVocoder.load(tmp_path / "vocoder")
    assert "\n" not in str(caught.value)


def test_vocoders_that_are_damaged(parts: SpeechParts, tmp_path: Path) -> None:
    assert parts.vocoder is not None
    folder = tmp_path / "vocoder"
    shutil.copytree(parts.vocoder, folder)
    values = json.loads((folder / "config.json").read_text())
    del values["upsample_initial_channel"]
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(BundleError, match=r"no upsample_initial_channel in its config\.json"):
        UnitVocoder.load(folder)
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-9])
    with pytest.raises(BundleError, match="convert it again"):
        UnitVocoder.load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(BundleError, match=r"config\.json is missing"):
        UnitVocoder.load(folder)
