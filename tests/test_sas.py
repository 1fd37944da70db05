"""Show and speak: mel frames from photos, one step as all steps, an end, and a codec that speaks them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="needs the train extra")
pytest.importorskip("transformers", reason="needs the train extra")

import tiny  # noqa: E402
from pixvoice.audio import write_wav  # noqa: E402
from pixvoice.describe.sas import SasConfig, SasLoss, ShowAndSpeak  # noqa: E402
from pixvoice.describe.sas_speaker import SasDescriber  # noqa: E402
from pixvoice.describe.speaker import load_speaker  # noqa: E402
from pixvoice.errors import BundleError, InputError, OptionError  # noqa: E402
from pixvoice.manifest import Sample, write_manifest  # noqa: E402
from pixvoice.speech.tokenizer import CodecTokenizer  # noqa: E402
from pixvoice.training.recipes import load_recipe  # noqa: E402
from pixvoice.training.runs import Run  # noqa: E402
from pixvoice.training.sas import whole_steps  # noqa: E402

SIZES = SasConfig(
    n_mels=4, frames_per_step=2, image_dim=16, width=8, lstm_width=12, attention_width=6, postnet_width=8,
    postnet_blocks=2, max_steps=9, dropout=0.0, prenet_dropout=0.0, sampled=0.0,
)  # fmt: skip
RECIPE = """
task: sas
manifests: [{place}/manifest.jsonl]
codec: {codec}
student: {student}
crops: 0
max_frames: 30
model: {{n_mels: 20, frames_per_step: 3, image_dim: 16, width: 8, lstm_width: 12, attention_width: 6, postnet_width: 8,
  postnet_blocks: 1, max_steps: 30, sampled: 0.5}}
train: {{steps: 12, batch_size: 2, learning_rate: 1e-2, warmup_steps: 1, log_every: 6, save_every: 6, bf16: no}}
"""


def made(**changes: Any) -> ShowAndSpeak:
    torch.manual_seed(0)
    return ShowAndSpeak(SasConfig(**{**vars(SIZES), **changes})).eval()


def seen(batch: int = 1, positions: int = 5) -> torch.Tensor:
    return torch.randn(batch, positions, SIZES.image_dim, generator=torch.Generator().manual_seed(1))


def heard(batch: int, steps: int) -> torch.Tensor:
    return torch.randn(batch, steps, SIZES.step_width, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of four spoken photos, and the run of a describer on it."""
    folder = tmp_path_factory.mktemp("sas")
    samples = []
    for n in range(4):
        noise = np.random.default_rng(n).integers(256, size=(64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{n}.png")
        seconds = np.arange(5000 + 700 * n) / 16_000
        write_wav(folder / f"{n}.wav", (0.3 * np.sin(2 * np.pi * (300 + 200 * n) * seconds)).astype(np.float32), 16_000)
        samples.append(Sample(folder / f"{n}.png", folder / f"{n}.wav", None, None, "train"))
    write_manifest(folder / "manifest.jsonl", samples)
    Run(recipe(folder), folder / "run").train()
    return folder


def recipe(folder: Path, *changes: str) -> Any:
    path, runs = folder / "recipe.yaml", tiny.runs()
    path.write_text(RECIPE.format(place=folder, codec=runs["codec"], student=runs["student"]))
    return load_recipe(path, changes)


def test_teacher_forcing_is_step_after_step() -> None:
    model, features, mel = made(), seen(3), heard(3, 6)
    frames, endings, looks = model.follow(model.see(features), mel)
    state, last = model.start(model.see(features)), torch.zeros(3, SIZES.step_width)
    for step in range(6):
        said, ending, state = model.step(model.hear(last), state)
        torch.testing.assert_close(said, frames[:, step])
        torch.testing.assert_close(ending, endings[:, step])
        torch.testing.assert_close(state.looks[..., 0], looks[:, step])
        last = mel[:, step]


def test_what_it_says_is_what_it_would_say_when_told_so_before() -> None:
    model, features = made(), seen()
    said = model.speak(features, min_steps=5, max_steps=5)
    own = torch.zeros(1, 0, SIZES.step_width)
    for _ in range(5):
        padded = torch.cat([own, torch.zeros(1, 1, SIZES.step_width)], dim=1)
        frames, _, looks = model.follow(model.see(features), padded)
        own = frames
    assert own.shape[1] == 5
    torch.testing.assert_close(said.mel, model.mend(own).reshape(-1, SIZES.n_mels))
    torch.testing.assert_close(said.looks, looks[0])


def test_it_ends_where_it_says_so_and_at_its_limit() -> None:
    model, features = made(), seen()
    lengths = [len(model.speak(features, **limits).looks) for limits in (
        {"end_bias": 1e3}, {"end_bias": 1e3, "min_steps": 4}, {"end_bias": -1e3}, {"end_bias": -1e3, "max_steps": 7},
    )]  # fmt: skip
    assert lengths == [1, 4, SIZES.max_steps, 7]
    said = model.speak(features, min_steps=2, max_steps=3)
    assert said.mel.shape == (len(said.looks) * SIZES.frames_per_step, SIZES.n_mels) and said.log_prob < 0


def test_it_looks_at_all_of_the_photo() -> None:
    looks = made().attention(seen(2, 7), heard(2, 3))
    assert looks.shape == (2, 3, 7)
    torch.testing.assert_close(looks.sum(-1), torch.ones(2, 3))


def test_padding_changes_nothing() -> None:
    loss = SasLoss(made()).eval()
    features, mel = seen(2), heard(2, 6)
    mel[1, 4:] = 0.0
    longer = torch.cat([mel, torch.zeros(2, 3, SIZES.step_width)], dim=1)
    lengths = torch.tensor([6, 4])
    torch.testing.assert_close(loss(features, mel, lengths)["loss"], loss(features, longer, lengths)["loss"])
    known = torch.arange(6)[None] < lengths[:, None]
    alone = loss.describer.mend(mel[1:, :4])
    torch.testing.assert_close(loss.describer.mend(mel, known)[1:, :4], alone)


def test_sampled_steps_hear_what_was_said() -> None:
    features, mel = seen(2), heard(2, 5)
    model = made(sampled=1.0).train()
    first, _, _ = model.follow(model.see(features), mel)
    torch.testing.assert_close(model.follow(model.see(features), mel.roll(1, 0))[0], first)
    model.eval()
    assert not torch.allclose(model.follow(model.see(features), mel.roll(1, 0))[0][:, 1:], first[:, 1:])


def test_it_learns_to_say_and_to_end() -> None:
    torch.manual_seed(0)
    loss = SasLoss(made(postnet_blocks=1))
    features, mel = seen(2), 0.5 * heard(2, 4)
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-2)
    losses = []
    for _ in range(80):
        optimizer.zero_grad()
        step = loss(features, mel, torch.tensor([4, 4]))["loss"]
        step.backward()
        optimizer.step()
        losses.append(step.item())
    assert losses[-1] < 0.3 * losses[0]
    assert len(loss.describer.eval().speak(features[:1]).looks) == 4


def test_the_last_frame_fills_the_last_step() -> None:
    frames = np.arange(20, dtype=np.float16).reshape(5, 4)
    steps = whole_steps(frames, SIZES)
    assert steps.shape == (3, 8) and steps.dtype == np.float32
    np.testing.assert_array_equal(steps.reshape(-1, 4)[:5], frames)
    np.testing.assert_array_equal(steps[2, 4:], frames[4])


def test_frames_of_a_recording_are_spoken_as_the_codec_speaks_it(place: Path) -> None:
    tokenizer = CodecTokenizer(tiny.runs()["codec"])
    speaker = load_speaker(place / "run")
    assert isinstance(speaker, SasDescriber)
    audio = np.random.default_rng(0).normal(0.0, 0.1, 9 * tiny.CODEC.frame_length).astype(np.float32)
    frames = tokenizer.codec.encoder.scaled(torch.from_numpy(audio)[None])[0].T
    np.testing.assert_array_equal(speaker.codes(frames), tokenizer.encode(audio))
    assert speaker.codes(frames[:-3]).shape == (tokenizer.num_codebooks, 9)


def test_a_run_describes_photos(place: Path) -> None:
    speaker = load_speaker(place / "run")
    assert isinstance(speaker, SasDescriber) and speaker.sample_rate == 16_000
    said = speaker.describe(place / "0.png", seed=0, min_frames=4, max_frames=9)
    codec = tiny.CODEC
    frames = said.codes.shape[1]
    assert said.codes.shape[0] == codec.num_codebooks and 3 <= frames <= 7 and 0 < said.confidence <= 1
    assert len(said.audio) == frames * codec.frame_length
    again = load_speaker(place / "run").describe(place / "0.png", min_frames=4, max_frames=9)
    np.testing.assert_array_equal(again.audio, said.audio)
    looks = speaker.attention(place / "0.png", said.codes)
    assert looks is not None and looks.shape == (-(-frames * codec.downsample // 3), 4)
    np.testing.assert_allclose(looks.sum(1), 1.0, rtol=1e-5)
    assert speaker.attention(place / "0.png", said.codes[:, :0]) is None


def test_a_training_that_was_stopped_ends_as_if_it_had_not(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "run", tmp_path / "stopped")
    shutil.rmtree(tmp_path / "stopped" / "checkpoints" / "checkpoint-12")
    (tmp_path / "stopped" / "model.safetensors").unlink()
    run = Run(recipe(place), tmp_path / "stopped")
    run.check()
    run.train()
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "stopped" / name).read_bytes() == (place / "run" / name).read_bytes(), name
    assert curve(tmp_path / "stopped") == curve(place / "run")


def curve(run: Path) -> list[tuple[int, float]]:
    return [(row["step"], row["loss"]) for row in map(json.loads, (run / "log.jsonl").read_text().splitlines())]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        (("model.n_mels=8",), r"model\.n_mels: the recipe says 8, but the codec in .* has 20; give 20"),
        (("max_frames=2",), r"longer than max_frames \(2\): raise it"),
        (("codec={place}/run",), "run holds a sas, not a codec"),
        (("max_frames=31",), r"model\.max_steps: 30 is too few for recordings of max_frames \(31\)"),
        (("model.sampled=1",), r"model\.sampled: 1\.0 is not at least 0 and below 1"),
        (("codec={place}/none",), "codec: .*none is not there"),
    ],
)  # fmt: skip
def test_what_does_not_fit(changes: tuple[str, ...], fault: str, place: Path, tmp_path: Path) -> None:
    with pytest.raises((BundleError, InputError, OptionError), match=fault):
        run = Run(recipe(place, *(change.format(place=place) for change in changes)), tmp_path / "run")
        run.check()
        run.train()


def test_what_cannot_be_asked_for(place: Path) -> None:
    speaker = load_speaker(place / "run")
    with pytest.raises(OptionError, match="unknown decoding option 'beam_size': this describer chooses no tokens"):
        speaker.describe(place / "0.png", beam_size=4)
    with pytest.raises(OptionError, match="min_frames 0: use a whole number of at least 1"):
        speaker.describe(place / "0.png", min_frames=0)
    with pytest.raises(BundleError, match="the describer says 4 mel channels, the codec hears 20"):
        SasDescriber(made(), CodecTokenizer(tiny.runs()["codec"]), speaker.image)
