"""Spoken captions from written ones, with an engine that is a small script."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import typer
from PIL import Image
from typer.testing import CliRunner, Result

from pixvoice.audio import read_audio, trim_silence
from pixvoice.cli.synthesize import synthesize
from pixvoice.data.spoken import Assign, plan_captions
from pixvoice.errors import InputError, MissingToolError, OptionError, OutputError
from pixvoice.manifest import Sample, check_manifest, read_manifest
from pixvoice.speech.synthesizer import ENGINES, Engine, clean_text, find_engine

ENGINE = """
import sys, wave, array, math, signal
text, voice, out = sys.argv[1:4]
with open(__file__ + ".log", "a") as log:
    log.write(text + "\\n")
if "fail" in text:
    sys.exit("the text can't be spoken")
if "nothing" in text:
    sys.exit(0)
if "hang" in text:
    open(__file__ + ".hangs", "w").close()
    signal.pause()
loud = 0 if "silence" in text else 9000
pitch = 200 if voice == "low" else 400
tone = [round(loud * math.sin(i * pitch * 6.283 / 8000)) for i in range(2000)]
with wave.open(out, "wb") as file:
    file.setnchannels(1), file.setsampwidth(2), file.setframerate(8000)
    file.writeframes(array.array("h", [0] * 4000 + tone + [0] * 4000).tobytes())
"""

app = typer.Typer()
app.command()(synthesize)
run = CliRunner()


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "my engine.py"
    path.write_text(ENGINE)
    return path


@pytest.fixture
def template(script: Path) -> str:
    return f"{shlex.quote(sys.executable)} -S {shlex.quote(str(script))} {{text}} {{voice}} {{out}}"


def data_set(folder: Path, **captions: list[str]) -> Path:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for name in captions:
        Image.new("RGB", (2, 2)).save(folder / "images" / f"{name}.jpg")
    rows = [
        {"image": f"{name}.jpg", "split": "dev" if name == "b" else "train", "captions": texts}
        for name, texts in captions.items()
    ]
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def invoke(*words: object) -> Result:
    return run.invoke(app, [str(word) for word in words])


def calls(script: Path) -> list[str]:
    log = Path(f"{script}.log")
    return log.read_text().splitlines() if log.exists() else []


def test_every_caption_in_every_voice(tmp_path: Path, template: str) -> None:
    data = data_set(tmp_path / "data", a=["A dog .", "Dogs ."], b=["A cat ."])
    out = tmp_path / "out"
    result = invoke(data, "-o", out, "--engine", template, "--voice", "low", "--voice", "high", "--jobs", 2, "--json")
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert (summary["made"], summary["kept"], summary["failed"]) == (6, 0, [])
    samples = read_manifest(out / "manifest.jsonl")
    assert [(str(s.audio.relative_to(out)), s.text, s.speaker, s.split) for s in samples if s.audio] == [
        ("low/a_0.wav", "A dog .", "low", "train"),
        ("high/a_0.wav", "A dog .", "high", "train"),
        ("low/a_1.wav", "Dogs .", "low", "train"),
        ("high/a_1.wav", "Dogs .", "high", "train"),
        ("low/b_0.wav", "A cat .", "low", "dev"),
        ("high/b_0.wav", "A cat .", "high", "dev"),
    ]
    assert check_manifest(out / "manifest.jsonl") == []
    assert sorted(p.name for p in (out / "low").iterdir()) == ["a_0.wav", "a_1.wav", "b_0.wav"]


@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_speech_is_16_khz_mono_and_trimmed(tmp_path: Path, template: str, suffix: str) -> None:
    engine = find_engine(template)
    length_s = engine.synthesize("A dog.", "low", tmp_path / f"a.{suffix}")
    info = sf.info(tmp_path / f"a.{suffix}")
    assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
    assert 0.25 <= length_s == info.duration <= 0.25 + 2 * 0.1 + 0.03  # 0.25 s of tone was in 1.25 s
    audio = read_audio(tmp_path / f"a.{suffix}")
    assert np.abs(audio[: round(0.08 * 16_000)]).max() < 0.01


def test_silence_is_trimmed_only_at_the_edges() -> None:
    tone = np.full(1_600, 0.5, np.float32)
    hush = np.zeros(16_000, np.float32)
    trimmed = trim_silence(np.concatenate([hush, tone, hush, tone, hush]))
    assert len(trimmed) == 1_600 + 1_600 + 16_000 + 1_600 + 1_600
    assert len(trim_silence(tone)) == len(tone)
    assert trim_silence(hush).size == trim_silence(hush[:0]).size == 0


def test_a_second_run_makes_only_what_is_missing(tmp_path: Path, template: str, script: Path) -> None:
    data = data_set(tmp_path / "data", a=["One .", "Two ."], b=["Three ."])
    out = tmp_path / "out"
    arguments = (data, "-o", out, "--engine", template, "--voice", "low")
    assert invoke(*arguments).exit_code == 0
    (out / "low" / "a_1.wav").unlink()
    half = out / "low" / "b_0.wav"
    half.write_bytes(half.read_bytes()[:-100])
    leftover = out / "low" / ".pixvoice-0.tmp"
    leftover.touch()
    os.utime(leftover, (0, 0))
    Path(f"{script}.log").unlink()
    result = invoke(*arguments)
    assert "2 made" in result.stdout and "1 kept" in result.stdout
    assert sorted(calls(script)) == ["Three.", "Two."]
    assert sorted(p.name for p in (out / "low").iterdir()) == ["a_0.wav", "a_1.wav", "b_0.wav"]
    assert len(read_manifest(out / "manifest.jsonl")) == 3


def test_a_changed_caption_is_spoken_again(tmp_path: Path, template: str, script: Path) -> None:
    out = tmp_path / "out"
    for text in ("Old .", "New ."):
        data = data_set(tmp_path / "data", a=["Same .", text])
        assert invoke(data, "-o", out, "--engine", template, "--voice", "low").exit_code == 0
    assert sorted(calls(script)) == ["New.", "Old.", "Same."]
    assert [sample.text for sample in read_manifest(out / "manifest.jsonl")] == ["Same .", "New ."]


def test_splits_and_voices_add_up_in_one_manifest(tmp_path: Path, template: str) -> None:
    data = data_set(tmp_path / "data", a=["One ."], b=["Two ."])
    out = tmp_path / "out"
    for voice, split in (("low", "train"), ("low", "val"), ("high", "dev")):
        result = invoke(data, "-o", out, "--engine", template, "--voice", voice, "--split", split)
        assert "1 made" in result.stdout
    found = {(s.speaker, s.image.name) for s in read_manifest(out / "manifest.jsonl")}
    assert found == {("low", "a.jpg"), ("low", "b.jpg"), ("high", "b.jpg")}


def test_a_failed_caption_is_reported_and_the_others_are_done(tmp_path: Path, template: str) -> None:
    texts = ["This will fail .", "A dog .", "It writes nothing .", "Only silence .", "?!"]
    data = data_set(tmp_path / "data", a=texts)
    result = invoke(data, "-o", tmp_path / "out", "--engine", template, "--voice", "low", "--json")
    assert result.exit_code == 1
    errors = {Path(failure["audio"]).name: failure["error"] for failure in json.loads(result.stdout)["failed"]}
    assert "the text can't be spoken" in errors["a_0.wav"]
    assert "wrote no sound" in errors["a_2.wav"]
    assert "only silence" in errors["a_3.wav"]
    assert "no word to speak" in errors["a_4.wav"]
    assert all(error in result.stderr.replace("\n", " ") for error in errors.values())
    assert [sample.text for sample in read_manifest(tmp_path / "out" / "manifest.jsonl")] == ["A dog ."]
    assert [p.name for p in (tmp_path / "out" / "low").iterdir()] == ["a_1.wav"]


def test_a_killed_run_leaves_no_half_file_and_goes_on(tmp_path: Path, template: str, script: Path) -> None:
    data = data_set(tmp_path / "data", a=["One .", "It will hang .", "Three ."])
    out = tmp_path / "out"
    code = "import sys, typer; from pixvoice.cli.synthesize import synthesize; typer.run(synthesize)"
    words = [sys.executable, "-c", code, data, "-o", out, "--engine", template, "--voice", "low", "--jobs", "1"]
    with subprocess.Popen([*map(str, words)], stderr=subprocess.DEVNULL, start_new_session=True) as process:
        while not Path(f"{script}.hangs").exists():
            assert process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
    assert [p.name for p in (out / "low").iterdir()] == ["a_0.wav"]
    script.write_text(ENGINE.replace('"hang" in text', "False"))
    result = invoke(data, "-o", out, "--engine", template, "--voice", "low")
    assert "2 made" in result.stdout and "1 kept" in result.stdout
    assert check_manifest(out / "manifest.jsonl") == []


def test_round_robin_gives_each_caption_one_voice(tmp_path: Path) -> None:
    samples = [Sample(tmp_path / f"{name}.jpg", text=f"{name}{k}") for name in "abc" for k in range(2)]
    plan = plan_captions(samples, tmp_path, ["x", "y"], assign=Assign.ROUND_ROBIN)
    assert [sample.text for sample in plan] == [sample.text for sample in samples]
    assert [sample.speaker for sample in plan] == ["x", "y", "y", "x", "x", "y"]


def test_the_first_captions_of_each_photo(tmp_path: Path, template: str) -> None:
    data = data_set(tmp_path / "data", a=["One .", "Two ."], b=["Three .", "Four ."])
    out = tmp_path / "out"
    arguments = ("--engine", template, "--voice", "low", "--captions-per-photo", 1)
    assert invoke(data, "-o", out, *arguments).exit_code == 0
    assert [sample.text for sample in read_manifest(out / "manifest.jsonl")] == ["One .", "Three ."]


def test_captions_after_the_first_of_each_photo(tmp_path: Path, template: str) -> None:
    data, out = data_set(tmp_path / "data", a=["One .", "Two .", "Three ."], b=["Four .", "Five ."]), tmp_path / "out"
    arguments = (data, "-o", out, "--engine", template, "--voice", "low", "--skip-captions")
    assert invoke(*arguments, 1, "--captions-per-photo", 1).exit_code == 0
    spoken = read_manifest(out / "manifest.jsonl")
    assert [(sample.text, sample.audio and sample.audio.name) for sample in spoken] == [
        ("Two .", "a_1.wav"),
        ("Five .", "b_1.wav"),
    ]
    assert "skip fewer" in str(invoke(*arguments, 3).exception)


def test_photos_of_one_name_get_recordings_of_their_own(tmp_path: Path) -> None:
    images = [tmp_path / "x" / "1.jpg", tmp_path / "y" / "1.jpg", tmp_path / "y" / "1.png", tmp_path / "y" / "2.jpg"]
    samples = [Sample(image, text="A dog.") for image in images]
    plan = plan_captions(samples, tmp_path / "out", ["v"])
    assert len({sample.audio for sample in plan}) == 4
    assert plan[3].audio == tmp_path / "out" / "v" / "2_0.wav"
    elsewhere = [Sample(Path("/moved") / image.relative_to(tmp_path), text="A dog.") for image in images]
    moved = plan_captions(elsewhere, tmp_path / "out", ["v"])
    assert [sample.audio for sample in moved] == [sample.audio for sample in plan]


def test_a_voice_never_leads_out_of_the_folder(tmp_path: Path) -> None:
    plan = plan_captions([Sample(tmp_path / "a.jpg", text="A dog.")], tmp_path / "out", ["../../x", "/y"])
    assert all(sample.audio and sample.audio.parent.parent == tmp_path / "out" for sample in plan)
    with pytest.raises(OptionError, match="share a folder"):
        plan_captions([Sample(tmp_path / "a.jpg", text="A dog.")], tmp_path, ["a/b", "a_b"])


def test_nothing_to_speak(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to speak"):
        plan_captions([Sample(tmp_path / "a.jpg", audio=tmp_path / "a.wav")], tmp_path, ["v"])


def test_a_folder_that_cannot_be_written(tmp_path: Path, template: str) -> None:
    data = data_set(tmp_path / "data", a=["One ."])
    (tmp_path / "file").touch()
    result = invoke(data, "-o", tmp_path / "file", "--engine", template, "--voice", "low")
    assert isinstance(result.exception, OutputError)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("mytts {text}", "needs {out}"),
        ("mytts {out}", "{text} or {text_file}"),
        ("mytts {txt} {out}", r"has {txt} \(did you mean 'text"),
        ("mytts {} {text} {out}", "has {}"),
        ("mytts {text.__class__} {out}", "allowed: {text}"),
        ("mytts {text!r} {out}", "in its braces"),
        ("mytts {text} {out", "close quotes and braces"),
        ("mytts '{text} {out}", "close quotes and braces"),
        ("flit", r"no engine 'flit' \(did you mean 'flite'\?\)"),
    ],
)
def test_a_faulty_command_is_refused(template: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        find_engine(template)


def test_a_text_is_never_a_part_of_the_command(tmp_path: Path, script: Path) -> None:
    engine = find_engine(f"{shlex.quote(sys.executable)} -S {shlex.quote(str(script))} {{text}} x {{out}}")
    engine.synthesize("-v {out} $(touch x) `y` ; rm * | cat", "default", tmp_path / "a.wav")
    assert calls(script) == ["v {out} $(touch x) `y`; rm * | cat"]


def test_voices_of_a_command(template: str) -> None:
    with pytest.raises(OptionError, match="--voice NAME"):
        _ = find_engine(template).default_voice
    single = find_engine(f"{shlex.quote(sys.executable)} {{text}} {{out}}")
    assert single.default_voice == "default"
    with pytest.raises(OptionError, match=r"no {voice}"):
        single.check_voice("low")


def test_an_engine_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda program: "/bin/flite" if program == "flite" else None)
    for kind in ENGINES:
        if kind.name != "flite":
            with pytest.raises(MissingToolError, match=r"isn't installed: .*apt install .*installed engines: flite"):
                find_engine(kind.name)
    with pytest.raises(MissingToolError, match="mytts isn't installed"):
        find_engine("mytts {text} {out}")
    assert find_engine().name == "flite"
    monkeypatch.setattr(shutil, "which", lambda program: None)
    with pytest.raises(MissingToolError, match="no TTS engine is installed"):
        find_engine()


def test_clean_text() -> None:
    assert clean_text("A dog , and a cat .") == "A dog, and a cat."
    assert clean_text('A sign says " Free hugs " .') == 'A sign says "Free hugs".'
    assert clean_text("The man 's dog does n't run ( fast )") == "The man's dog doesn't run (fast)"
    assert clean_text("- A\u00a0dog\n&\tcat <b>\u201cx\u201d") == 'A dog and cat b "x"'
    with pytest.raises(InputError, match="no word"):
        clean_text(" . - !")


@pytest.mark.parametrize("kind", ENGINES, ids=lambda kind: kind.name)
def test_the_engines_of_this_machine_speak(kind: type[Engine], tmp_path: Path) -> None:
    if not kind().installed or not kind().voices():
        pytest.skip(f"{kind.name} isn't installed on this machine")
    engine = find_engine(kind.name)
    assert 0.3 < engine.synthesize("A dog runs .", engine.default_voice, tmp_path / "a.wav") < 5
    with pytest.raises(OptionError, match=f"no voice 'nosuch' in {kind.name}"):
        engine.speak("A dog.", "nosuch")
