"""Emotion: what a voice is measured by, heads that never met a tested actor, the verb that says how well they do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import tiny
from pixvoice.audio import write_wav
from pixvoice.cli import app, run
from pixvoice.contracts import Audio
from pixvoice.data.ravdess import EMOTIONS, RavdessClip, read_ravdess
from pixvoice.errors import InputError, OptionError
from pixvoice.evaluation.emotion import EmotionTask, evaluate_emotion, read_clips
from pixvoice.retrieve.emotion import LEVEL, LinearHead, Standard, frame_mask, level_and_cut, sum_up
from pixvoice.runtime.bundle import Bundle
from pixvoice.speech.ctc import CTCRecognizer
from pixvoice.speech.prosody import pitch_contour, prosody
from pixvoice.training.emotion import disturb_mel, hear, on_each_actor, recognizer_of
from pixvoice.training.export import export_bundle
from pixvoice.training.trainer import save_model

RATE = 16_000
ACTORS = (1, 2, 19, 20)  # two groups of the eight classes' folds, both sides of the four classes' division


def voice(hertz: float, seconds: float = 0.5, seed: int = 0) -> Audio:
    """A buzz at ``hertz``, with a little noise, and silence around it."""
    time = np.arange(int(seconds * RATE)) / RATE
    buzz = sum(np.sin(2 * np.pi * hertz * k * time) / k for k in range(1, 6))
    noise = np.random.default_rng(seed).standard_normal(len(time)) * 0.01
    return np.pad(0.2 * (buzz + noise), RATE // 10).astype(np.float32)


@pytest.fixture(scope="module")
def recognizer() -> CTCRecognizer:
    """No two of its weights are alike, as in a trained one."""
    torch.manual_seed(0)
    model = CTCRecognizer(tiny.RECOGNIZER)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(scope="module")
def bundle(recognizer: CTCRecognizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with that recognizer."""
    folder, runs = tmp_path_factory.mktemp("bundle"), tiny.runs()
    save_model(recognizer, tiny.RECOGNIZER, "recognizer", folder / "recognizer")
    parts = [runs[task] for task in ("describer", "codec", "student")]
    return export_bundle(*parts, folder / "recognizer", folder / "bundle", dtype="fp16").folder


@pytest.fixture(scope="module")
def ravdess(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four actors whose emotion is heard in their pitch, each at a level and around a pitch of their own."""
    folder = tmp_path_factory.mktemp("ravdess")
    for actor in ACTORS:
        (folder / f"Actor_{actor:02d}").mkdir()
        for emotion in range(1, 9):
            for statement in (1, 2):
                name = f"03-01-{emotion:02d}-01-{statement:02d}-01-{actor:02d}.wav"
                audio = voice(100 * 1.2**emotion + actor, seed=100 * actor + 10 * emotion + statement)
                write_wav(folder / f"Actor_{actor:02d}" / name, audio / actor)
    return folder


def test_the_level_of_a_recording_and_the_silence_around_it_say_nothing() -> None:
    clip = voice(200)
    loud, soft = level_and_cut(clip, RATE), level_and_cut(np.pad(clip, RATE) * 0.01, RATE)
    assert np.sqrt((loud[RATE // 5 : -RATE // 5] ** 2).mean()) == pytest.approx(LEVEL, rel=0.1)
    assert abs(len(loud) - len(soft)) <= RATE // 20
    assert np.sqrt((soft**2).mean()) == pytest.approx(np.sqrt((loud**2).mean()), rel=0.1)


def test_silence_and_a_single_sample_pass() -> None:
    for clip in (np.zeros(RATE, np.float32), np.zeros(1, np.float32), np.full(1, 0.5, np.float32)):
        assert np.isfinite(prosody(level_and_cut(clip, RATE), RATE)).all()


def test_pitch_is_measured_in_semitones() -> None:
    for hertz in (90.0, 200.0, 400.0):
        pitch, periodic, _ = pitch_contour(voice(hertz)[RATE // 5 : -RATE // 5], RATE)
        middle = slice(3, -6)  # away from the padded end
        assert np.median(pitch[middle]) == pytest.approx(12 * np.log2(hertz / 100), abs=0.2)
        assert np.median(periodic[middle]) > 0.9


def test_prosody_has_one_length_whatever_is_heard() -> None:
    noise = np.random.default_rng(0).standard_normal(RATE).astype(np.float32) * 0.1
    found = [prosody(clip, RATE) for clip in (voice(120), noise, np.zeros(RATE, np.float32), noise[:10])]
    assert len({row.shape for row in found}) == 1
    assert all(np.isfinite(row).all() for row in found)


def test_the_recognizer_comes_back_from_its_onnx_file(recognizer: CTCRecognizer, bundle: Path) -> None:
    found = recognizer_of(Bundle.load(bundle))
    audio = torch.from_numpy(voice(200))[None]
    with torch.inference_mode():
        torch.testing.assert_close(found.logits(audio), recognizer.logits(audio), rtol=1e-2, atol=1e-2)  # fp16


def test_statistics_are_of_the_speech_not_of_the_padding() -> None:
    frames = torch.randn(1, 20, 3, generator=torch.Generator().manual_seed(0))
    padded = torch.cat([frames, torch.full((1, 20, 3), 7.0)], dim=1)
    torch.testing.assert_close(
        sum_up([frames], torch.tensor([80]), 80), sum_up([padded], torch.tensor([80]), 160), rtol=1e-5, atol=1e-6
    )
    assert frame_mask(torch.tensor([0]), 10, 5).sum() == 1  # never nothing to average


@pytest.mark.parametrize("rows", [5, 40])
def test_the_head_solves_ridge_regression_from_either_side(rows: int) -> None:
    rng = np.random.default_rng(0)
    features, labels = rng.standard_normal((rows, 12)).astype(np.float32), np.arange(rows) % 3
    (head,) = LinearHead.fit(features, labels, 3, [0.1])
    wanted = np.eye(3)[labels]
    system = features.T @ features / rows + 0.1 * np.eye(12)
    expected = np.linalg.solve(system, features.T @ (wanted - wanted.mean(0)) / rows)
    np.testing.assert_allclose(head.weight, expected, atol=1e-4)


def test_each_group_of_features_has_its_weight() -> None:
    features = np.random.default_rng(0).standard_normal((200, 10)).astype(np.float32) * 50 + 3
    scaled = Standard.of(features, [(8, 1.0), (2, 2.0)])(features)
    assert scaled.mean(0) == pytest.approx(np.zeros(10), abs=1e-4)
    assert scaled[:, :8].var(0).sum() == pytest.approx(1.0, rel=1e-3)
    assert scaled[:, 8:].var(0).sum() == pytest.approx(4.0, rel=1e-3)


def test_per_actor_features_are_centred_on_each_actor() -> None:
    actors = np.repeat([3, 7], 10)
    features = np.random.default_rng(0).standard_normal((2, 20, 4)).astype(np.float32) + actors[None, :, None]
    centred = on_each_actor(features, actors)
    for actor in (3, 7):
        np.testing.assert_allclose(centred[:, actors == actor].mean(axis=1), 0.0, atol=1e-5)


def test_a_disturbed_mel_differs_but_stays_near() -> None:
    mel = torch.randn(16, 60, generator=torch.Generator().manual_seed(0)) * 0.3
    for seed in range(5):
        moved = disturb_mel(mel, np.random.default_rng(seed))
        assert moved.shape[0] == 16 and 0.8 * 60 < moved.shape[1] < 1.2 * 60
        assert abs(float(moved.mean() - mel.mean())) < 0.5


def clips(actors: range) -> list[RavdessClip]:
    return [RavdessClip(Path(), emotion, "normal", "", 1, actor) for actor in actors for emotion in EMOTIONS]


def test_no_actor_is_tested_by_a_head_that_heard_them() -> None:
    eight = EmotionTask(8).folds(range(1, 25))
    assert len(eight) == 6 and set().union(*eight) == set(range(1, 25)) and sum(map(len, eight)) == 24
    assert EmotionTask(4).folds(range(1, 25)) == [{19, 20, 21, 22, 23, 24}]
    assert EmotionTask(4).folds(range(1, 21)) == [{19, 20}]  # whichever are there
    assert {clip.emotion for clip in EmotionTask(4).select(clips(range(1, 2)))} == {
        "neutral", "calm", "happy", "sad", "angry",
    }  # fmt: skip


@pytest.mark.parametrize(("classes", "actors"), [(8, [1, 2]), (4, [1, 2]), (4, [19]), (8, [])])
def test_too_few_actors_are_named(classes: int, actors: list[int]) -> None:
    with pytest.raises(InputError, match="classes need actors"):
        EmotionTask(classes).folds(actors)


def test_options_that_can_not_be_are_refused() -> None:
    for options in ({"classes": 7}, {"mode": "magic"}, {"mode": "all", "per_actor": True}):
        with pytest.raises(OptionError):
            EmotionTask(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", ["prompts", "all"])
def test_a_network_goes_on_from_the_probe_and_leaves_what_it_began_with(
    ravdess: Path, recognizer: CTCRecognizer, mode: str
) -> None:
    task = EmotionTask(4, mode, epochs=1)
    before = {name: value.clone() for name, value in recognizer.state_dict().items()}
    kept: list[RavdessClip] = []
    heard = hear(
        read_clips(task.select(read_ravdess(ravdess)), RATE, kept, lambda error: pytest.fail(str(error))), recognizer
    )
    result = evaluate_emotion(kept, heard, (recognizer, None), task)
    assert (result.mode, result.n_clips, result.n_train) == (mode, 20, 20)
    assert np.sum(result.confusion) == 20
    assert all(torch.equal(value, before[name]) for name, value in recognizer.state_dict().items())


def evaluate(bundle: Path, *arguments: str) -> tuple[int, dict[str, object]]:
    options = ["--bundle", str(bundle), "--threads", "1", "--json"]
    done = CliRunner().invoke(app, ["evaluate", "emotion", *arguments, *options])
    return done.exit_code, json.loads(done.stdout) if done.stdout else {}


def test_the_verb_hears_pitch_and_not_the_sentence(ravdess: Path, bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    status, found = evaluate(bundle, str(ravdess), "--report", str(tmp_path / "report"))
    assert status == 0
    assert (found["classes"], found["n_clips"], found["mode"]) == (8, 64, "probe")
    assert found["accuracy"] > 50  # type: ignore[operator]
    assert found["accuracy"] == pytest.approx(found["unweighted_accuracy"])  # as many recordings of each class
    assert found["sentence_accuracy"] == pytest.approx(100 / 8)
    assert [fold["actors"] for fold in found["folds"]] == [[1, 2], [19, 20]]  # type: ignore[attr-defined]
    assert (tmp_path / "report" / "confusion.png").read_bytes().startswith(b"\x89PNG")


def test_a_damaged_recording_is_left_out_and_told(ravdess: Path, bundle: Path, tmp_path: Path) -> None:
    for path in ravdess.rglob("*.wav"):
        copy = tmp_path / path.relative_to(ravdess)
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(b"RIFF" if path.name == "03-01-05-01-01-01-19.wav" else path.read_bytes())
    status, found = evaluate(bundle, str(tmp_path), "--classes", "4")
    assert status == 1
    assert (found["n_failed"], found["n_clips"], found["classes"]) == (1, 19, 4)


def test_what_can_not_be_used_is_said_in_one_line(
    bundle: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for arguments in ([str(tmp_path / "missing")], [str(tmp_path)], [str(tmp_path), "--classes", "5"]):
        assert run(["evaluate", "emotion", *arguments, "--bundle", str(bundle)]) == 2
        lines = capfd.readouterr().err.strip().splitlines()
        assert len(lines) == 1 and lines[0].startswith("error: ")
