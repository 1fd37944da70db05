"""Units of other trainings: a VQ-VAE's codebook, said frame by frame, and clusters that photos had a say in."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the train extra")
pytest.importorskip("transformers", reason="needs the train extra")

from safetensors.torch import load_file  # noqa: E402

import tiny  # noqa: E402
from pixvoice.describe.speaker import load_speaker  # noqa: E402
from pixvoice.errors import BundleError, InputError, OptionError  # noqa: E402
from pixvoice.speech.grounding import GroundedUnits  # noqa: E402
from pixvoice.speech.pretrained import SpeechParts, load_speech_tokenizer  # noqa: E402
from pixvoice.speech.unit_encoder import Cepstra, MaskedUnits, UnitEncoder, UnitEncoderConfig  # noqa: E402
from pixvoice.speech.vq_vae import SpeechVqVae  # noqa: E402
from pixvoice.training.runs import Run  # noqa: E402
from test_small_units import HOP, RATE, UNITS, recipe, sequence, spoken_by, spoken_photos, train  # noqa: E402

VQVAE = "crop_frames: 32\nobjective: reconstruction"
LAST = "model.layer=2"  # of the two blocks
CONFIG = UnitEncoderConfig(hop_length=160, n_mels=16, width=16, blocks=2, layer=2, kernel_size=7, units=8, dropout=0.0)


def tones(count: int) -> torch.Tensor:
    """Recordings (count, L) of one pitch each."""
    pitches = torch.tensor([300.0, 700.0, 1500.0, 3100.0, 500.0, 1100.0])[:count]
    return 0.3 * torch.sin(2 * torch.pi * pitches[:, None] * torch.arange(8000 // 640 * 640) / RATE)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of four photos with tones, and the runs of both units, and what speaks and says the VQ-VAE's."""
    folder = tmp_path_factory.mktemp("objectives")
    spoken_photos(folder)
    train(folder, "units", "units", VQVAE, LAST)  # where the recipes of test_small_units look for them
    train(folder, "units", "grounded", grounded())
    codec = f"crop_frames: 8\nspeech: {{units: {folder / 'units'}, sample_rate: {RATE}}}\ncodec: {tiny.runs()['codec']}"
    train(folder, "vocoder", "vocoder", codec)
    train(folder, "describer", "e-i2s", spoken_by(folder), "speech.merged=false")
    return folder


def grounded() -> str:
    return f"crop_frames: 32\nclusters: 4\ncrops: 0\nstudent: {tiny.runs()['student']}"


def test_a_vq_vae_learns_to_say_again_what_it_heard() -> None:
    torch.manual_seed(0)
    model, audio = SpeechVqVae(UnitEncoder(CONFIG)), tones(4)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    losses = []
    for _ in range(40):
        loss = model(audio)["loss"]
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    assert model.encoder.stem[0].weight.grad.abs().max() > 0  # straight through the quantizer
    model.eval()
    with torch.inference_mode():
        frames = model.encoder(audio, layer=2)
        units = torch.cdist(frames, model.centroids[None]).argmin(-1)
        assert len(units.unique()) > 1 and (units == model.quantizer.encode(frames)[:, 0]).all()


def test_a_frame_is_its_own_mel_frames() -> None:
    model, audio = SpeechVqVae(UnitEncoder(CONFIG)), tones(2)
    mel = model.mel(audio)
    assert mel.shape == (2, 12, 4 * 16) == (*model.encoder(audio).shape[:2], 64)
    torch.testing.assert_close(mel[:, 3, 16:32], (model.encoder.mel(audio)[:, :, 13] + 4) / 4)


def test_its_codebook_is_the_units(place: Path) -> None:
    centroids = load_file(place / "units" / "kmeans.safetensors")["centroids"]
    assert (
        centroids.shape == (UNITS, 16) and json.loads((place / "units" / "config.json").read_text())["task"] == "units"
    )


@pytest.mark.parametrize("merged", [True, False])
def test_units_of_every_frame_keep_their_time(place: Path, merged: bool) -> None:
    parts = SpeechParts(sample_rate=RATE, units=place / "units", vocoder=place / "vocoder", merged=merged)
    tokenizer = load_speech_tokenizer(parts, 1, UNITS)
    audio = sequence(1)
    codes = tokenizer.encode(audio)
    spoken = tokenizer.decode(codes)
    if merged:
        assert (np.diff(codes[0]) != 0).all()
    else:
        assert codes.shape[1] == math.ceil(len(audio) / HOP) and len(spoken) == codes.shape[1] * HOP
    streamed = np.concatenate(list(tokenizer.decode_stream([codes[:, :2], codes[:, 2:]])))
    np.testing.assert_array_equal(streamed, spoken)


def test_a_describer_of_codes_says_one_a_frame(place: Path) -> None:
    said = load_speaker(place / "e-i2s").describe(place / "0.png", min_frames=3, max_frames=9)
    assert 3 <= said.codes.shape[1] <= 9 and len(said.audio) == said.codes.shape[1] * HOP


def test_speech_comes_to_lie_near_its_photo() -> None:
    torch.manual_seed(0)
    audio, seen, photo = tones(6), torch.randn(6, 10), torch.arange(6)
    cepstra = Cepstra(CONFIG)
    model = GroundedUnits(MaskedUnits(UnitEncoder(CONFIG), cepstra, cepstra(audio).flatten(0, 1)[::20]), 5, 1.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    near = []
    for _ in range(40):
        torch.manual_seed(1)  # the same frames are hidden in both
        predicted = model.masked.predict(audio)[1].item()
        torch.manual_seed(1)
        loss = model(audio, seen, photo)["loss"]
        near.append(loss.item() - predicted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert near[0] > 0.5 * math.log(6) and near[-1] < 0.2 * near[0]
    assert model.encoder.blocks[0].expand.weight.grad.abs().max() > 0


def test_recordings_of_one_photo_are_not_told_apart() -> None:
    torch.manual_seed(0)
    cepstra = Cepstra(CONFIG)
    audio, seen = tones(2), torch.randn(1, 10).repeat(2, 1)
    model = GroundedUnits(MaskedUnits(UnitEncoder(CONFIG), cepstra, cepstra(audio)[0][:4]), 5, 1.0).eval()
    torch.manual_seed(1)
    predicted = model.masked.predict(audio)[1]
    torch.manual_seed(1)
    torch.testing.assert_close(model(audio, seen, torch.tensor([3, 3]))["loss"], predicted)


def test_grounded_units_are_units_like_others(place: Path) -> None:
    tokenizer = load_speech_tokenizer(SpeechParts(sample_rate=RATE, units=place / "grounded"), 1, UNITS)
    codes = tokenizer.encode(sequence(2))
    assert codes.shape[0] == 1 and 0 <= codes.min() <= codes.max() < UNITS
    saved = load_file(place / "grounded" / "model.safetensors")
    assert not [name for name in saved if "photo" in name or "speech" in name]  # the encoder alone


@pytest.mark.parametrize(("name", "keys", "changes"), [("units", VQVAE, (LAST,)), ("grounded", None, ())])
def test_a_training_that_was_stopped_ends_as_if_it_had_not(
    place: Path, tmp_path: Path, name: str, keys: str | None, changes: tuple[str, ...]
) -> None:
    shutil.copytree(place / name, tmp_path / name)
    shutil.rmtree(tmp_path / name / "checkpoints" / "checkpoint-12")
    Run(recipe(place, "units", keys or grounded(), *changes), tmp_path / name).train()
    for file in ("model.safetensors", "kmeans.safetensors", "log.jsonl"):
        assert (tmp_path / name / file).read_bytes() == (place / name / file).read_bytes(), file


@pytest.mark.parametrize(
    ("task", "keys", "changes", "fault"),
    [
        ("units", VQVAE, (), r"model\.layer: 1 of 2 blocks .* the last one's frames are units"),
        ("units", VQVAE, (LAST, "targets={place}/units"), r"learns from sound alone; leave out targets \(.*units\)"),
        ("units", VQVAE, (LAST, "student={place}/units"), r"leave out targets \(None\) and student \(.*units\)"),
        ("units", "objective: reconstruct", (), "'reconstruct' is not known; did you mean reconstruction"),
        ("units", "clusters: 4\nstudent: {place}/units", (), "units holds a units, not a student"),
        ("units", "clusters: 4\nstudent: {place}/none", (), "student: .*none is not there"),
        ("units", "clusters: 4", ("grounding=0",), "grounding: 0.0 is not above 0"),
        ("describer", "{spoken}", ("speech.merged=false", "speech.unit_pairs=1"), "byte pairs are of merged units"),
    ],
)  # fmt: skip
def test_what_does_not_fit(
    task: str, keys: str, changes: tuple[str, ...], fault: str, place: Path, tmp_path: Path
) -> None:
    names = {"place": place, "spoken": spoken_by(place)}
    with pytest.raises((BundleError, InputError, OptionError), match=fault):
        run = Run(recipe(place, task, keys.format(**names), *(c.format(**names) for c in changes)), tmp_path / "run")
        run.check()
        run.train()
