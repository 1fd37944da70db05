"""Every recording that people bring is heard as it is, or refused in one clear line."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
from hypothesis import given
from hypothesis import strategies as st

from pixvoice import audio as audio_module
from pixvoice.audio import read_audio, wav_bytes, wav_header
from pixvoice.contracts import Audio
from pixvoice.errors import InputError

RATE = 16_000
HZ = 440.0


def tone(seconds: float, rate: int) -> np.ndarray:
    """A tone (L,) of 440 Hz, peak 0.5."""
    return 0.5 * np.sin(2 * np.pi * HZ * np.arange(round(seconds * rate)) / rate)


def write(path: Path, samples: np.ndarray, rate: int = RATE, subtype: str | None = None) -> Path:
    sf.write(path, samples, rate, subtype=subtype)
    return path


def is_the_tone(audio: Audio, seconds: float, edge_s: float = 0.0) -> bool:
    """Whether audio (L,) is the tone for so long (to ``edge_s``, which lossy formats add), at its pitch and level."""
    right = audio.dtype == np.float32 and audio.ndim == 1 and abs(len(audio) / RATE - seconds) <= edge_s + 2 / RATE
    middle = audio[len(audio) // 4 : -len(audio) // 4]
    pitch = float(np.abs(np.fft.rfft(middle * np.hanning(len(middle)))).argmax()) * RATE / len(middle)
    level = float(np.sqrt(np.mean(middle**2)))
    return right and abs(pitch - HZ) < 2 * RATE / len(middle) and abs(level - 0.5 / np.sqrt(2)) < 0.03 + edge_s


def refusal(source: Path | bytes) -> str:
    with pytest.raises(InputError) as error:
        read_audio(source)
    message = str(error.value)
    assert "\n" not in message and len(message) < 300 and "object at 0x" not in message
    return message


class TestIsHeard:
    @pytest.mark.parametrize("rate", [1_000, 8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000, 192_000])
    def test_at_any_rate(self, rate: int, tmp_path: Path) -> None:
        assert is_the_tone(read_audio(write(tmp_path / "a.wav", tone(0.5, rate), rate)), 0.5)

    @pytest.mark.parametrize(
        ("name", "subtype"),
        [
            ("a.wav", "PCM_U8"), ("a.wav", "PCM_16"), ("a.wav", "PCM_24"), ("a.wav", "PCM_32"), ("a.wav", "FLOAT"),
            ("a.wav", "DOUBLE"), ("a.wav", "ULAW"), ("a.wav", "ALAW"), ("a.wav", "IMA_ADPCM"), ("a.flac", "PCM_16"),
            ("a.flac", "PCM_24"), ("a.ogg", "VORBIS"), ("a.ogg", "OPUS"), ("a.mp3", None), ("a.aiff", "PCM_16"),
            ("a.caf", "PCM_24"), ("a.w64", "FLOAT"), ("a.rf64", "PCM_16"), ("a.au", "PCM_16"),
        ],
    )  # fmt: skip
    @pytest.mark.parametrize("rate", [16_000, 48_000])
    def test_in_any_format(self, name: str, subtype: str | None, rate: int, tmp_path: Path) -> None:
        path = write(tmp_path / name, tone(1.0, rate), rate, subtype)
        lossy = path.suffix in (".mp3", ".ogg") or subtype == "IMA_ADPCM"
        assert is_the_tone(read_audio(path), 1.0, 0.15 if lossy else 0.0)

    @pytest.mark.parametrize("channels", [2, 6, 64, 1000])
    def test_of_many_channels(self, channels: int, tmp_path: Path) -> None:
        samples = np.repeat(tone(0.1, RATE)[:, None], channels, axis=1)
        assert is_the_tone(read_audio(write(tmp_path / "a.wav", samples, subtype="FLOAT")), 0.1)

    def test_whatever_its_name(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.flac", tone(0.5, RATE))
        assert is_the_tone(read_audio(path.rename(tmp_path / "photo.jpg")), 0.5)

    def test_when_there_is_little_or_nothing_in_it(self, tmp_path: Path) -> None:
        assert len(read_audio(write(tmp_path / "short.wav", tone(0.1, RATE)))) == 1600
        assert len(read_audio(write(tmp_path / "one.wav", np.array([0.5])))) == 1
        silence = read_audio(write(tmp_path / "silence.wav", np.zeros(RATE)))
        assert silence.shape == (RATE,) and not silence.any()

    def test_when_it_is_music_as_loud_as_can_be(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        chord = sum(np.sign(np.sin(2 * np.pi * hz * np.arange(RATE) / RATE)) for hz in (220, 277, 330))
        audio = read_audio(write(tmp_path / "a.wav", 3 * chord + rng.standard_normal(RATE), subtype="FLOAT"))
        assert np.abs(audio).max() == pytest.approx(1.0) and np.isfinite(audio).all()

    def test_when_it_lasts_ten_minutes(self, tmp_path: Path) -> None:
        path = write(tmp_path / "long.wav", np.tile(tone(1.0, 8_000), 600), 8_000)
        audio = read_audio(path)
        assert len(audio) == 600 * RATE and is_the_tone(audio[-RATE:], 1.0)

    def test_when_tags_stand_around_the_sound(self) -> None:
        whole = wav_bytes(tone(0.5, RATE).astype(np.float32))
        note = b"LIST" + struct.pack("<I", 30) + b"INFOINAM" + struct.pack("<I", 18) + b"a note of a phone\0"
        assert is_the_tone(read_audio(whole[:36] + note + whole[36:] + note), 0.5)


class TestIsHeardAsFarAsItGoes:
    @pytest.mark.parametrize("part", [0.9, 0.5, 0.3])
    @pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
    def test_a_truncated_wav(self, part: float, subtype: str, tmp_path: Path) -> None:
        path = write(tmp_path / "a.wav", tone(1.0, RATE), subtype=subtype)
        path.write_bytes(path.read_bytes()[: round(path.stat().st_size * part)])
        assert is_the_tone(read_audio(path), part, edge_s=0.01)

    @pytest.mark.parametrize("name", ["a.flac", "a.ogg", "a.mp3"])
    def test_another_truncated_file(self, name: str, tmp_path: Path) -> None:
        path = write(tmp_path / name, tone(4.0, RATE))
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
        try:
            audio = read_audio(path)
        except InputError as error:
            assert "\n" not in str(error)
        else:
            assert 1.5 * RATE < len(audio) < 3.5 * RATE

    @pytest.mark.parametrize("told", [0, 2, 1_000, 15_998, 16_002, 10**6, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1])
    def test_a_header_that_lies_about_the_length(self, told: int) -> None:
        samples = wav_bytes(tone(0.5, RATE).astype(np.float32))[44:]
        header = bytearray(wav_header(RATE, len(samples)))
        header[40:44] = struct.pack("<I", told)
        if told < 2:  # nothing is said to be there
            assert "no sound" in refusal(bytes(header) + samples)
        else:
            assert len(read_audio(bytes(header) + samples)) == min(told, len(samples)) // 2

    @given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
    def test_any_two_lengths_in_the_header(self, whole: int, data: int) -> None:
        samples = wav_bytes(tone(0.05, RATE).astype(np.float32))[44:]
        header = bytearray(wav_header(RATE, len(samples)))
        header[4:8], header[40:44] = struct.pack("<I", whole), struct.pack("<I", data)
        try:
            audio = read_audio(bytes(header) + samples)
        except InputError as error:
            assert "\n" not in str(error)
        else:
            assert 0 < len(audio) <= len(samples) // 2 + 1


class TestIsRefused:
    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
    def test_samples_that_are_no_numbers(self, bad: float, subtype: str, tmp_path: Path) -> None:
        samples = tone(0.5, RATE)
        samples[4000] = bad
        assert "finite" in refusal(write(tmp_path / "a.wav", samples, subtype=subtype))

    def test_a_double_that_float32_can_not_hold(self, tmp_path: Path) -> None:
        assert "finite" in refusal(write(tmp_path / "a.wav", np.array([1e300, -1e300] * 99), subtype="DOUBLE"))

    @pytest.mark.parametrize("content", ["dear diary", "RIFF", "RIFF....WAVEfmt ", "{}", "<html></html>", "\0" * 5000])
    def test_a_text_called_wav(self, content: str, tmp_path: Path) -> None:
        (tmp_path / "a.wav").write_text(content)
        assert "a.wav: not a recording that can be read" in refusal(tmp_path / "a.wav")

    def test_an_empty_file_and_one_without_samples(self, tmp_path: Path) -> None:
        (tmp_path / "a.wav").write_bytes(b"")
        assert "the file is empty" in refusal(tmp_path / "a.wav")
        assert "no sound" in refusal(write(tmp_path / "b.wav", np.zeros(0)))
        assert "empty" in refusal(write(tmp_path / "c.flac", np.zeros(0)))

    @pytest.mark.parametrize("channels", [0, 1025, 65_535])
    def test_channels_that_nobody_has(self, channels: int) -> None:
        header = bytearray(wav_header(RATE, 60_000))
        header[22:24] = struct.pack("<H", channels)
        header[32:34] = struct.pack("<H", channels * 2 % 2**16)
        refusal(bytes(header) + bytes(60_000))

    @pytest.mark.parametrize("rate", [0, 1, 999, 192_001, 2**31 - 1, 2**32 - 1])
    def test_a_rate_that_nobody_has(self, rate: int) -> None:
        refusal(wav_header(rate % 2**31, 2000)[:24] + struct.pack("<I", rate) + wav_header(1, 2000)[28:] + bytes(2000))

    def test_what_lasts_too_long(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(audio_module, "MAX_AUDIO_S", 1)
        assert "longer than" in refusal(write(tmp_path / "a.wav", tone(1.1, RATE)))

    def test_a_compressed_hour_stops_at_the_limit(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Silence compresses to nearly nothing: what counts is how long it plays."""
        monkeypatch.setattr(audio_module, "MAX_AUDIO_S", 60)
        path = write(tmp_path / "a.flac", np.zeros(3600 * 1_000, np.int16), 1_000)
        assert path.stat().st_size < 200_000
        assert "longer than 1 minutes; cut the recording" in refusal(path)
