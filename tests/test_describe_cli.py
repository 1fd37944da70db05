"""``pixvoice describe`` as its users meet it: files, folders, pipes, batches with bad photos, exit status and text."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile as sf

import tiny
from pixvoice.cli import run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoded: Callable[..., bytes]) -> Path:
    """The current folder, with two photos; the tiny bundle takes the place of the one that ships."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PIXVOICE_BUNDLE", str(tiny.bundle()))
    for name in ("beach.jpg", "dog.jpg"):
        (tmp_path / name).write_bytes(encoded("JPEG"))
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, list[str], list[str]]:
    """Exit status, lines on standard output, lines on standard error."""
    status = run(["describe", *map(str, arguments)])
    captured = capsys.readouterr()
    return status, captured.out.splitlines(), captured.err.splitlines()


def wavs(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.wav"))


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def pipe(*arguments: str, data: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "pixvoice", "describe", *arguments]
    return subprocess.run(command, input=data, capture_output=True, check=False)


def test_one_photo_becomes_its_name_and_wav_here(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = said(capsys, "beach.jpg")
    assert (status, len(out), err) == (0, 1, [])
    assert out[0].startswith("beach.wav  ") and " s  " in out[0] and out[0].endswith(")")
    info = sf.info(folder / "beach.wav")
    assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
    assert f"{info.duration:.1f} s" in out[0]
    assert files(folder) == ["beach.jpg", "beach.wav", "dog.jpg"]


@pytest.mark.parametrize("place", ["said.wav", "said.WAV"])
def test_a_file_of_ones_own(folder: Path, capsys: pytest.CaptureFixture[str], place: str) -> None:
    assert said(capsys, "beach.jpg", "-o", place)[0] == 0
    assert files(folder) == ["beach.jpg", "dog.jpg", place]


@pytest.mark.parametrize("place", ["out", "out/", "out/deep"])
def test_several_photos_go_into_a_folder(folder: Path, capsys: pytest.CaptureFixture[str], place: str) -> None:
    status, out, _ = said(capsys, "beach.jpg", "dog.jpg", "-o", place)
    assert (status, len(out)) == (0, 2)
    assert wavs(folder / place) == ["beach.wav", "dog.wav"] == wavs(folder / "out" / place[4:])


def test_a_folder_of_photos(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "notes.txt").write_text("no photo")
    status, out, err = said(capsys, folder, "-o", "spoken")
    assert (status, len(out), err) == (0, 2, [])
    assert wavs(folder) == ["spoken/beach.wav", "spoken/dog.wav"]


def test_photos_of_one_name_are_kept_apart(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place in ("a", "b"):
        (folder / place).mkdir()
        for name in ("beach.jpg", "Beach.png"):
            (folder / place / name).write_bytes((folder / "beach.jpg").read_bytes())
    status, out, _ = said(capsys, "a", "b", "beach.jpg", "-o", "out")
    assert status == 0
    assert wavs(folder) == [f"out/{name}.wav" for name in ("Beach-3", "Beach", "beach-2", "beach-4", "beach-5")]
    assert len({line.split("  ")[0] for line in out}) == 5


def test_a_photo_given_twice_is_described_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(said(capsys, "beach.jpg", "beach.jpg")[1]) == 1


def test_no_photo_is_ever_overwritten(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not even one that is called .wav."""
    photo = (folder / "beach.jpg").rename(folder / "beach.wav")
    before = photo.read_bytes()
    assert said(capsys, "beach.wav")[0] == 0
    assert photo.read_bytes() == before and (folder / "beach-2.wav").exists()
    status, _, err = said(capsys, "beach.wav", "-o", "beach.wav")
    assert (status, photo.read_bytes()) == (2, before)
    assert "the photo itself" in err[0]


def test_json_is_one_object_a_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = said(capsys, "beach.jpg", "dog.jpg", "--json")
    values = [json.loads(line) for line in out]
    assert status == 0
    assert [(v["photo"], v["wav"]) for v in values] == [("beach.jpg", "beach.wav"), ("dog.jpg", "dog.wav")]
    assert all(0 <= v["confidence"] <= 1 and v["sample_rate"] == 16_000 for v in values)
    assert values[0]["seconds"] == pytest.approx(sf.info(folder / "beach.wav").duration, abs=0.01)


def test_a_bad_photo_of_several_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("no photo")
    (folder / "short.jpg").write_bytes((folder / "beach.jpg").read_bytes()[:-200])
    names = ["beach.jpg", "empty.jpg", "text.jpg", "short.jpg", "nowhere.jpg", "dog.jpg"]
    status, out, err = said(capsys, *names)
    assert (status, len(out), len(err)) == (1, 2, 4)
    assert all(line.startswith(f"error: {name}") for line, name in zip(err, names[1:5], strict=True))
    assert wavs(folder) == ["beach.wav", "dog.wav"]
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize("name", ["nowhere.jpg", "text.jpg", "empty"])
def test_one_bad_photo_alone_is_bad_input(folder: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    (folder / "text.jpg").write_text("no photo")
    (folder / "empty").mkdir()
    status, out, err = said(capsys, name, "-o", "out.wav")
    assert (status, out, len(err)) == (2, [], 1)
    assert err[0].startswith(f"error: {name}")
    assert not wavs(folder)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--length", "huge"], "huge"),
        (["--seed", "-1"], "-1"),
        (["--seed", "x"], "x"),
        (["--threads", "0"], "0"),
        (["-o", "out.mp3"], ".wav"),
        (["dog.jpg", "-o", "out.wav"], "-o FOLDER"),
        (["dog.jpg", "-o", "-"], "-o FOLDER"),
        (["-o", "-", "--json"], "--json"),
        (["--bundle", "nowhere"], "nowhere"),
    ],
)
def test_an_option_that_can_not_be_meant_is_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], named: str
) -> None:
    status, out, err = said(capsys, "beach.jpg", *arguments)
    assert (status, out, len(err)) == (2, [], 1)
    assert err[0].startswith("error: ") and named in err[0]
    assert files(folder) == ["beach.jpg", "dog.jpg"]


def test_a_damaged_bundle_stops_at_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = tiny.copy_of_bundle(folder / "bundle")
    (bundle / "codec_decoder.onnx").write_bytes(b"damaged")
    status, out, err = said(capsys, "beach.jpg", "dog.jpg", "--bundle", bundle)
    assert (status, out, len(err)) == (2, [], 1)
    assert "codec_decoder.onnx" in err[0] and "SHA-256" in err[0]


def test_a_place_that_can_not_be_written_is_exit_status_1(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "file").write_text("not a folder")
    for place in ("file/out.wav", "file", "nowhere/out.wav"):
        status, out, err = said(capsys, "beach.jpg", "-o", place)
        assert (status, out, len(err)) == (1, [], 1), place
        assert "file" in err[0] or "nowhere" in err[0]
    assert (folder / "file").read_text() == "not a folder"


def test_length_and_seed_are_obeyed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    decoding = {"default": {"strategy": "sample"}, "short": {"max_frames": 5}, "long": {"min_frames": 20}}
    bundle = tiny.copy_of_bundle(folder / "bundle", decoding=decoding)

    def speech(*arguments: str) -> bytes:
        assert said(capsys, "beach.jpg", "--bundle", bundle, *arguments)[0] == 0
        return (folder / "beach.wav").read_bytes()

    assert len(speech("--length", "short")) < 44 + 2 * 6 * tiny.FRAME_LENGTH
    assert len(speech("--length", "long")) > 2 * 19 * tiny.FRAME_LENGTH
    assert speech("--seed", "1") == speech("--seed", "1") != speech("--seed", "2")


def test_playing_writes_no_file(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    played: list[Any] = []
    monkeypatch.setattr("pixvoice.audio.play", lambda chunks, rate: played.append((list(chunks), rate)))
    status, out, _ = said(capsys, "beach.jpg", "--play")
    assert (status, wavs(folder), len(played)) == (0, [], 1)
    assert out[0].startswith("beach.jpg  ") and played[0][1] == 16_000
    assert said(capsys, "beach.jpg", "--play", "-o", "too.wav")[0] == 0
    assert wavs(folder) == ["too.wav"]


def test_a_machine_without_player_is_told_so(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    status, _, err = said(capsys, "beach.jpg", "--play")
    assert (status, len(err)) == (2, 1) and "-o OUT.wav" in err[0]


def test_a_photo_from_a_pipe_and_a_wav_into_a_pipe(folder: Path) -> None:
    photo = (folder / "beach.jpg").read_bytes()
    done = pipe("-", "-o", "-", data=photo)
    assert done.returncode == 0, done.stderr
    audio, rate = sf.read(io.BytesIO(done.stdout))
    assert rate == 16_000 and len(audio) % tiny.FRAME_LENGTH == 0 and len(audio)
    assert done.stderr.count(b"\n") == 1
    named = pipe("-", data=photo)
    assert named.returncode == 0 and named.stdout.startswith(b"photo.wav  ")
    assert (folder / "photo.wav").read_bytes() == done.stdout


@pytest.mark.parametrize("data", [b"", b"no photo"])
def test_a_pipe_without_photo_is_one_line(folder: Path, data: bytes) -> None:
    done = pipe("-", data=data)
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (2, b"", 1)
    assert done.stderr.startswith(b"error: ")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk_is_one_line(folder: Path) -> None:
    with open("/dev/full", "wb") as full:
        command = [sys.executable, "-m", "pixvoice", "describe", "beach.jpg", "-o", "-"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1 and done.stderr.startswith(b"error: ")
