"""Units of our own: what is merged comes back, what is trained can be spoken, and a describer says it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

torch = pytest.importorskip("torch", reason="needs the train extra")
pytest.importorskip("transformers", reason="needs the train extra")

import tiny  # noqa: E402
from pixvoice.audio import read_audio, write_wav  # noqa: E402
from pixvoice.contracts import SpeechTokenizer  # noqa: E402
from pixvoice.describe.speaker import load_speaker  # noqa: E402
from pixvoice.errors import BundleError, InputError, OptionError  # noqa: E402
from pixvoice.manifest import Sample, write_manifest  # noqa: E402
from pixvoice.speech.clusters import fit_kmeans, nearest  # noqa: E402
from pixvoice.speech.latent_vocoder import LatentVocoder, LatentVocoderConfig, load_vocoder  # noqa: E402
from pixvoice.speech.pretrained import SpeechParts, load_speech_tokenizer  # noqa: E402
from pixvoice.speech.unit_encoder import (  # noqa: E402
    Cepstra,
    MaskedUnits,
    OwnFeatures,
    UnitEncoder,
    UnitEncoderConfig,
    hidden_spans,
)
from pixvoice.speech.unit_pairs import UnitPairs  # noqa: E402
from pixvoice.speech.units import merge_runs, read_centroids  # noqa: E402
from pixvoice.training.recipes import load_recipe  # noqa: E402
from pixvoice.training.runs import Run  # noqa: E402

RATE, UNITS, HOP = 16_000, 6, 160
TRAIN = "train: {steps: 12, batch_size: 4, learning_rate: 1e-2, warmup_steps: 1, log_every: 6, save_every: 6, bf16: no}"
MODELS = {
    "units": "{hop_length: 40, n_mels: 16, width: 16, blocks: 2, layer: 1, kernel_size: 3, units: 6}",
    "vocoder": "{width: 8, frame_blocks: 1, codec_width: 8, codec_blocks: 1, duration_width: 8}",
    "describer": "{pattern: parallel, num_codebooks: 1, codebook_size: 6, width: 16, layers: 1, heads: 2,"
    " image_dim: 16, max_steps: 60}",
}
units = st.lists(st.integers(0, UNITS - 1), max_size=40).map(lambda values: np.array(values, np.int64))


def sequence(seed: int) -> np.ndarray:
    """Half a second of tones, 50 ms each."""
    pitches = np.random.default_rng(seed).choice([300.0, 700.0, 1500.0, 3100.0], 10)
    return np.concatenate([0.3 * np.sin(2 * np.pi * p * np.arange(800) / RATE) for p in pitches]).astype(np.float32)


def spoken_photos(folder: Path) -> None:
    """A manifest of four photos with tones."""
    samples = []
    for n in range(4):
        noise = np.random.default_rng(n).integers(256, size=(64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{n}.png")
        write_wav(folder / f"{n}.wav", sequence(n), RATE)
        samples.append(Sample(folder / f"{n}.png", folder / f"{n}.wav", None, None, "train"))
    write_manifest(folder / "manifest.jsonl", samples)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of four photos with tones, and the runs of units (twice), vocoder and describers on them."""
    folder = tmp_path_factory.mktemp("small-units")
    spoken_photos(folder)
    train(folder, "units", "first", "crop_frames: 32\nclusters: 4\npairs: 4")
    train(folder, "units", "units", f"crop_frames: 32\npairs: 4\ntargets: {folder / 'first'}")
    train(folder, "vocoder", "vocoder", f"crop_frames: 8\n{speech(folder)}codec: {tiny.runs()['codec']}")
    train(folder, "describer", "im2sp", spoken_by(folder))
    train(folder, "describer", "pairs", spoken_by(folder, 2), "model.codebook_size=8")
    return folder


def recipe(folder: Path, task: str, keys: str, *changes: str) -> Any:
    path = folder / f"{task}.yaml"
    path.write_text(f"task: {task}\nmanifests: [{folder / 'manifest.jsonl'}]\nmodel: {MODELS[task]}\n{TRAIN}\n{keys}\n")
    return load_recipe(path, changes)


def train(folder: Path, task: str, name: str, keys: str, *changes: str) -> list[dict[str, float]]:
    return Run(recipe(folder, task, keys, *changes), folder / name).train()


def speech(folder: Path, **more: Any) -> str:
    values = {"units": folder / "units", "sample_rate": RATE, **more}
    return f"speech: {{{', '.join(f'{key}: {value}' for key, value in values.items())}}}\n"


def spoken_by(folder: Path, pairs: int = 0) -> str:
    student = tiny.runs()["student"]
    return (
        f"crops: 0\nmax_frames: 50\nstudent: {student}\n{speech(folder, vocoder=folder / 'vocoder', unit_pairs=pairs)}"
    )


def tokenizer_of(folder: Path, pairs: int = 0) -> SpeechTokenizer:
    parts = SpeechParts(sample_rate=RATE, units=folder / "units", vocoder=folder / "vocoder", unit_pairs=pairs)
    return load_speech_tokenizer(parts, 1, UNITS + pairs)


@given(units)
def test_merging_runs_loses_nothing(frames: np.ndarray) -> None:
    merged, durations = merge_runs(frames)
    np.testing.assert_array_equal(np.repeat(merged, durations), frames)
    assert (np.diff(merged) != 0).all() and (durations > 0).all()


@settings(deadline=None, max_examples=40)
@given(st.lists(units, max_size=8), st.integers(0, 12), units)
def test_byte_pairs_lose_nothing(learned_from: list[np.ndarray], count: int, said: np.ndarray) -> None:
    pairs = UnitPairs.learn(learned_from, UNITS, count)
    assert UNITS <= pairs.size <= UNITS + count
    for some in (pairs, *(pairs.first(n) for n in range(pairs.size - UNITS + 1))):
        steps = some.encode(said)
        np.testing.assert_array_equal(some.decode(steps), said)
        assert len(steps) <= len(said) and (steps < some.size).all()


def test_the_commonest_pair_comes_first_and_files_keep_all(tmp_path: Path) -> None:
    pairs = UnitPairs.learn([np.array([1, 2, 1, 2, 3, 1, 2, 3, 0])], UNITS, 2)
    assert pairs.encode(np.array([1, 2, 3, 1, 2, 0])).tolist() == [7, 6, 0]
    assert pairs.first(1).encode(np.array([1, 2, 3, 1, 2, 0])).tolist() == [6, 3, 6, 0]
    pairs.save(tmp_path / "pairs.json")
    assert UnitPairs.load(tmp_path / "pairs.json").names == pairs.names
    with pytest.raises(OptionError, match=r"speech\.unit_pairs: 3, but 2 were learned; give fewer"):
        pairs.first(3)
    with pytest.raises(BundleError, match="train the units with `pairs` above 0"):
        UnitPairs.load(tmp_path / "none.json")
    (tmp_path / "pairs.json").write_text('{"units": 6, "merges": [[[1], [9]]]}')
    with pytest.raises(BundleError, match="no byte pairs that can be read"):
        UnitPairs.load(tmp_path / "pairs.json")


def test_kmeans_finds_what_lies_together() -> None:
    centres = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    frames = centres.repeat(50, 1) + 0.1 * torch.randn(150, 2, generator=torch.Generator().manual_seed(0))
    found = fit_kmeans(frames, 3, seed=1)
    torch.testing.assert_close(found[nearest(centres, found)], centres, atol=0.1, rtol=0.0)
    torch.testing.assert_close(fit_kmeans(frames, 3, seed=1), found)
    assert fit_kmeans(torch.ones(5, 2), 3, seed=0).shape == (3, 2)
    with pytest.raises(InputError, match="2 frames of speech are too few for 3 clusters"):
        fit_kmeans(frames[:2], 3, seed=0)


def test_about_half_of_the_frames_are_hidden() -> None:
    torch.manual_seed(0)
    for frames, rate in ((300, 25.0), (301, 50.0), (2, 100.0)):
        hidden = hidden_spans(torch.Size((20, frames)), rate)
        assert hidden.shape == (20, frames) and hidden.any(1).all()
        assert frames == 2 or 0.4 < hidden.float().mean() < 0.65


@pytest.mark.parametrize("pairs", [0, 2])
def test_the_contract(place: Path, pairs: int) -> None:
    tokenizer = tokenizer_of(place, pairs)
    told = tokenizer.sample_rate, tokenizer.frame_rate, tokenizer.num_codebooks, tokenizer.codebook_size
    assert told == (RATE, 100.0, 1, UNITS + pairs)
    assert tokenizer.encode(np.zeros(0, np.float32)).shape == (1, 0)
    codes = tokenizer.encode(sequence(1)[:-50])
    assert codes.dtype == np.int64 and 0 < codes.shape[1] <= 50 and (pairs or (np.diff(codes[0]) != 0).all())
    audio = tokenizer.decode(codes)
    assert audio.dtype == np.float32 and len(audio) % HOP == 0 and len(audio) >= codes.shape[1] * HOP
    streamed = list(tokenizer.decode_stream([codes[:, :1], codes[:, 1:]]))
    np.testing.assert_array_equal(np.concatenate(streamed), audio)
    assert tokenizer.decode(np.zeros((1, 0), np.int64)).shape == (0,)


def test_the_vocoder_takes_durations_or_predicts_them(place: Path) -> None:
    vocoder, said = load_vocoder(place / "vocoder"), torch.tensor([1, 3, 0])
    assert isinstance(vocoder, LatentVocoder)
    with torch.inference_mode():
        assert vocoder(said, torch.tensor([2, 1, 4])).shape == (7 * HOP,)
        torch.testing.assert_close(vocoder(said), vocoder(said, vocoder.durations(said)))
    codec = tiny.models()["codec"][0]
    for name, tensor in vocoder.decoder.state_dict().items():
        torch.testing.assert_close(tensor, codec.state_dict()[f"decoder.{name}"])


@pytest.mark.parametrize("name", ["vocoder", "im2sp"])
def test_losses_fall(place: Path, name: str) -> None:
    losses = [json.loads(line)["loss"] for line in (place / name / "log.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0]


def test_the_encoder_learns_what_it_cannot_see() -> None:
    config = UnitEncoderConfig(hop_length=160, n_mels=16, width=16, blocks=2, layer=1, kernel_size=7)
    pitches = torch.tensor([300.0, 700.0, 1500.0, 3100.0])
    audio = 0.3 * torch.sin(2 * torch.pi * pitches[:, None] * torch.arange(8000 // 640 * 640) / RATE)
    torch.manual_seed(0)
    cepstra = Cepstra(config)
    model = MaskedUnits(UnitEncoder(config), cepstra, fit_kmeans(cepstra(audio).flatten(0, 1), 4, seed=0))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        loss = model(audio)["loss"]
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])


@pytest.mark.parametrize(("run", "size"), [("im2sp", UNITS), ("pairs", UNITS + 2)])
def test_a_run_describes_photos(place: Path, run: str, size: int) -> None:
    speaker = load_speaker(place / run)
    said = speaker.describe(place / "0.png", min_frames=3, max_frames=9)
    assert 3 <= said.codes.shape[1] <= 9 and said.codes.max() < size and said.sample_rate == RATE
    assert said.seconds > 0 and 0 < said.confidence <= 1
    again = load_speaker(place / run).describe(place / "0.png", min_frames=3, max_frames=9)
    np.testing.assert_array_equal(again.audio, said.audio)


def test_a_training_of_units_that_was_stopped_ends_as_if_it_had_not(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "first", tmp_path / "stopped")
    shutil.rmtree(tmp_path / "stopped" / "checkpoints" / "checkpoint-12")
    Run(recipe(place, "units", "crop_frames: 32\nclusters: 4\npairs: 4"), tmp_path / "stopped").train()
    for name in ("model.safetensors", "kmeans.safetensors", "pairs.json", "log.jsonl"):
        assert (tmp_path / "stopped" / name).read_bytes() == (place / "first" / name).read_bytes(), name


def test_runs_that_describe_nothing(place: Path, tmp_path: Path) -> None:
    from pixvoice.training.export import export_bundle

    with pytest.raises(BundleError, match="units holds a units, which describes no photos: use a run of describer"):
        load_speaker(place / "units")
    with pytest.raises(BundleError, match="no trained describer in"):
        load_speaker(tmp_path)
    runs = tiny.runs()
    with pytest.raises(OptionError, match="the describer says units: give the units and the vocoder of its recipe"):
        export_bundle(place / "im2sp", runs["codec"], runs["student"], None, tmp_path / "bundle")


@pytest.mark.parametrize(
    ("task", "keys", "changes", "fault"),
    [
        ("units", "targets: {place}/vocoder", (), "vocoder holds a vocoder, not a units"),
        ("units", "targets: {place}/units", ("model.strides=[2, 1]",), r"has frames of 160 samples .* model 80 at"),
        ("units", "clusters: 10000", (), "too few for 10000 clusters"),
        ("vocoder", "{speech}codec: {codec}\ncrop_frames: 2", (), "crop_frames: 2 frames are too short"),
        ("vocoder", "{speech}codec: {place}/units", (), "units holds a units, not a codec"),
        ("vocoder", "{speech}codec: {codec}\ncrop_frames: 99", (), r"shorter than crop_frames \(99\)"),
        ("vocoder", "{speech}codec: {codec}", ("speech.sample_rate=8000",), "says 8000, but the units have 16000"),
        ("describer", "{spoken}", ("model.codebook_size=7",), r"codebook_size: the recipe says 7, but .*units has 6"),
        ("describer", "{spoken}", ("speech.unit_pairs=99",), r"unit_pairs: 99, but \d were learned; give fewer"),
        ("describer", "{spoken}", ("speech.vocoder={place}/units",), "units holds a units, not a vocoder"),
        ("describer", "{spoken}", ("speech.units={place}/none",), r"speech\.units: .*none is not there"),
    ],
)  # fmt: skip
def test_what_does_not_fit(
    task: str, keys: str, changes: tuple[str, ...], fault: str, place: Path, tmp_path: Path
) -> None:
    names = {"place": place, "codec": tiny.runs()["codec"], "speech": speech(place), "spoken": spoken_by(place)}
    run = Run(recipe(place, task, keys.format(**names), *(c.format(**names) for c in changes)), tmp_path / "run")
    with pytest.raises((BundleError, InputError, OptionError), match=fault):
        run.check()
        run.train()


def test_units_that_do_not_fill_a_codec_frame() -> None:
    with pytest.raises(BundleError, match="units of 300 samples a frame don't fill the codec's 320"):
        LatentVocoder(LatentVocoderConfig(UNITS, 300, codec=tiny.CODEC))


def test_units_may_be_those_of_some_of_the_recordings(place: Path) -> None:
    """All teach the encoder; only the recordings of ``clustered`` become units."""
    samples = [json.loads(line) for line in (place / "manifest.jsonl").read_text().splitlines()]
    (place / "one.jsonl").write_text(json.dumps(samples[2]) + "\n")
    train(place, "units", "one-voice", f"crop_frames: 32\nclusters: 4\nclustered: [{place / 'one.jsonl'}]\npairs: 4")
    encoder = {name: (place / name / "model.safetensors").read_bytes() for name in ("first", "one-voice")}
    assert encoder["one-voice"] == encoder["first"]
    frames = torch.from_numpy(OwnFeatures.load(place / "one-voice")(read_audio(place / "2.wav", RATE)))
    wanted = fit_kmeans(frames, UNITS, 0).numpy()
    np.testing.assert_allclose(read_centroids(place / "one-voice" / "kmeans.safetensors"), wanted, atol=1e-5)


def test_units_that_cost_something_to_change_last_longer(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "units", tmp_path / "units")
    config = json.loads((tmp_path / "units" / "config.json").read_text())
    config["config"]["segment_cost"] = 30.0
    (tmp_path / "units" / "config.json").write_text(json.dumps(config))
    said = [
        load_speech_tokenizer(SpeechParts(sample_rate=RATE, units=folder / "units"), 1, UNITS).encode(sequence(1))
        for folder in (place, tmp_path)
    ]
    assert 1 < said[1].shape[1] < said[0].shape[1]
