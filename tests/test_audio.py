"""Recordings are read as they are or refused in one line; results are written whole or not at all."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from hypothesis import given
from hypothesis import strategies as st

from pixvoice import audio as audio_module
from pixvoice.audio import play, read_audio, wav_bytes, wav_header, write_bytes_atomically, write_wav
from pixvoice.errors import InputError, MissingToolError, OutputError


def as_file(samples: np.ndarray, rate: int = 16_000, format: str = "WAV", subtype: str | None = None) -> bytes:
    buffer = io.BytesIO()
    sf.write(buffer, samples, rate, format=format, subtype=subtype)
    return buffer.getvalue()


class TestReading:
    def test_reads_path_string_bytes_and_file_alike(self, tmp_path: Path, tone: np.ndarray) -> None:
        path = tmp_path / "tone.wav"
        write_wav(path, tone)
        for source in (path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes())):
            audio = read_audio(source)
            assert audio.dtype == np.float32 and audio.shape == tone.shape
            assert np.abs(audio - tone).max() < 1e-4

    @pytest.mark.parametrize("format", ["WAV", "FLAC", "OGG", "MP3", "AIFF"])
    def test_reads_each_format(self, tone: np.ndarray, format: str) -> None:
        audio = read_audio(as_file(tone, format=format))
        assert audio.ndim == 1 and abs(len(audio) - 8000) < 2500 and 0.4 < np.abs(audio).max() < 0.6

    def test_resamples(self, tone: np.ndarray) -> None:
        audio = read_audio(as_file(tone, 8_000), 16_000)
        assert len(audio) == 16_000
        spectrum = np.abs(np.fft.rfft(audio))
        assert np.argmax(spectrum) == 220  # the tone lasts twice as long, an octave lower

    def test_averages_channels(self, tone: np.ndarray) -> None:
        audio = read_audio(as_file(np.stack([tone, np.zeros_like(tone)], axis=1), subtype="FLOAT"))
        assert np.allclose(audio, tone / 2, atol=1e-6)

    def test_scales_down_what_is_too_loud(self, tone: np.ndarray) -> None:
        audio = read_audio(as_file(tone * 100, subtype="FLOAT"))
        assert np.abs(audio).max() == pytest.approx(1.0) and np.allclose(audio, tone * 2, atol=1e-3)

    def test_reads_what_is_there_of_a_truncated_or_lying_wav(self, tone: np.ndarray) -> None:
        whole = wav_bytes(tone)
        truncated = whole[: 44 + 2 * 3000]
        streamed = wav_header(16_000) + whole[44:]
        assert len(read_audio(truncated)) == 3000
        assert len(read_audio(streamed)) == 8000

    @pytest.mark.parametrize(
        ("data", "message"),
        [
            (b"", "the file is empty"),
            (b"only text, no sound at all", "not a recording"),
            (wav_bytes(np.zeros(0, np.float32)), "no sound"),
            (as_file(np.array([0.1, np.nan, 0.1]), subtype="FLOAT"), "finite"),
            (as_file(np.array([0.1, np.inf, 0.1]), subtype="FLOAT"), "finite"),
            (wav_header(3, 200) + bytes(200), "3 samples a second"),
            (wav_header(2**30, 200) + bytes(200), "samples"),
        ],
    )
    def test_refuses_in_one_line(self, data: bytes, message: str) -> None:
        with pytest.raises(InputError, match=message) as error:
            read_audio(data)
        assert "\n" not in str(error.value) and len(str(error.value)) < 300

    def test_refuses_what_is_missing_or_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"nothing\.wav: no such file"):
            read_audio(tmp_path / "nothing.wav")
        with pytest.raises(InputError, match="a folder"):
            read_audio(tmp_path)

    def test_refuses_what_is_too_long(self, tone: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(audio_module, "MAX_AUDIO_S", 0.4)
        with pytest.raises(InputError, match="longer than"):
            read_audio(as_file(tone))

    @given(st.binary(min_size=1, max_size=300))
    def test_random_bytes_are_refused(self, data: bytes) -> None:
        with pytest.raises(InputError):
            read_audio(data)

    @given(st.data())
    def test_damaged_recordings_are_read_or_refused(self, tone: np.ndarray, data: st.DataObject) -> None:
        format = data.draw(st.sampled_from(["WAV", "FLAC", "OGG", "AIFF"]))
        content = bytearray(as_file(tone[:1000], format=format))
        for _ in range(data.draw(st.integers(1, 6))):
            content[data.draw(st.integers(0, min(len(content), 120) - 1))] = data.draw(st.integers(0, 255))
        try:
            audio = read_audio(bytes(content))
        except InputError:
            return
        assert audio.ndim == 1 and audio.size and np.abs(audio).max() <= 1


class TestWriting:
    def test_is_a_plain_16_bit_wav(self, tmp_path: Path, tone: np.ndarray) -> None:
        write_wav(tmp_path / "tone.wav", tone, 22_050)
        with wave.open(str(tmp_path / "tone.wav")) as file:
            assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 22_050)
            assert file.getnframes() == 8000
        assert os.listdir(tmp_path) == ["tone.wav"]

    def test_clips_instead_of_wrapping(self) -> None:
        samples = struct.unpack("<4h", wav_bytes(np.array([2.0, -2.0, np.nan, 0.5], np.float32))[44:])
        assert samples == (32767, -32767, 0, 16384)

    def test_stream_header_says_the_length_is_unknown(self) -> None:
        assert len(wav_header(16_000)) == 44 and wav_header(16_000)[40:] == b"\xff" * 4

    @given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=50))
    def test_what_is_written_is_read_back(self, samples: list[float]) -> None:
        audio = np.array(samples, np.float32)
        assert np.abs(read_audio(wav_bytes(audio)) - audio).max() < 1e-4

    def test_replaces_a_file_and_follows_a_link(self, tmp_path: Path) -> None:
        (tmp_path / "old").write_bytes(b"old")
        (tmp_path / "link").symlink_to(tmp_path / "old")
        write_bytes_atomically(tmp_path / "link", b"new")
        assert (tmp_path / "old").read_bytes() == b"new" and (tmp_path / "link").is_symlink()

    def test_writes_through_a_device(self) -> None:
        write_bytes_atomically("/dev/null", b"gone")
        assert Path("/dev/null").is_char_device()

    def test_missing_folder_and_folder_as_a_file(self, tmp_path: Path, tone: np.ndarray) -> None:
        with pytest.raises(OutputError, match=r"its folder doesn't exist"):
            write_wav(tmp_path / "no" / "out.wav", tone)
        with pytest.raises(OutputError, match="a folder; give a file name"):
            write_wav(tmp_path, tone)

    def test_no_permission_leaves_nothing_behind(
        self, tmp_path: Path, tone: np.ndarray, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(os, "replace", refuse)
        with pytest.raises(OutputError, match=r"out\.wav: can't be written \(Permission denied\)"):
            write_wav(tmp_path / "out.wav", tone)
        assert os.listdir(tmp_path) == []

    def test_a_full_device_is_one_line(self, tone: np.ndarray) -> None:
        with pytest.raises(OutputError, match="No space left"):
            write_wav("/dev/full", tone)

    def test_a_full_disk_leaves_the_old_file(self, tmp_path: Path) -> None:
        """A limit on file size stands for the full disk: the write itself fails half way."""
        (tmp_path / "out.wav").write_bytes(b"old")
        code = (
            "import resource, sys; from pixvoice.audio import write_bytes_atomically\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
            "from pixvoice.errors import OutputError\n"
            "try: write_bytes_atomically(sys.argv[1], bytes(100_000))\n"
            "except OutputError as error: print(error)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "out.wav")], capture_output=True, text=True, check=True
        )
        assert done.stdout.count("\n") == 1 and "can't be written" in done.stdout
        assert os.listdir(tmp_path) == ["out.wav"] and (tmp_path / "out.wav").read_bytes() == b"old"


class TestPlaying:
    def install(self, folder: Path, name: str, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
        """Put a fake player alone on PATH."""
        program = folder / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(folder))

    def test_streams_samples_to_the_player(
        self, tmp_path: Path, tone: np.ndarray, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.install(tmp_path, "aplay", f'echo "$@" > {tmp_path}/args; exec /bin/cat > {tmp_path}/heard', monkeypatch)
        play(iter([tone[:3000], tone[3000:]]), 16_000)
        assert (tmp_path / "heard").read_bytes() == wav_bytes(tone)[44:]
        assert "-r 16000" in (tmp_path / "args").read_text()

    def test_gives_a_file_to_a_player_that_wants_one(
        self, tmp_path: Path, tone: np.ndarray, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.install(tmp_path, "afplay", f'exec /bin/cp "$1" {tmp_path}/heard', monkeypatch)
        play([tone[:3000], tone[3000:]], 16_000)
        assert (tmp_path / "heard").read_bytes() == wav_bytes(tone)

    def test_a_player_that_fails_is_quoted(
        self, tmp_path: Path, tone: np.ndarray, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.install(tmp_path, "paplay", "echo no sound card >&2; exit 3", monkeypatch)
        with pytest.raises(OutputError, match=r"paplay can't play \(no sound card\); write a file"):
            play([np.tile(tone, 50)], 16_000)

    def test_no_player_says_what_to_install(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(MissingToolError, match="alsa-utils"):
            play([], 16_000)
