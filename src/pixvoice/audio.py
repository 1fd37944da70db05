"""Sound in and out: recordings become float32 mono, results become 16-bit WAV that is whole or not there at all."""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile as sf
import soxr

from pixvoice.contracts import Audio
from pixvoice.errors import InputError, MissingToolError, OutputError
from pixvoice.files import read_bytes
from pixvoice.files import write_bytes_atomically as write_bytes_atomically

AudioSource = str | Path | bytes | BinaryIO

SAMPLE_RATE = 16_000  # Hz
MAX_AUDIO_BYTES = 500_000_000  # bytes of one file, encoded
MAX_AUDIO_S = 900  # seconds of one recording
MIN_RATE, MAX_RATE = 1_000, 192_000  # Hz
EDGE_S = 0.1  # silence left before and after an utterance
_BLOCK = 1 << 18  # values read at once, over all channels
_UNKNOWN_LENGTH = 0xFFFFFFFF  # what a WAV header says when the end isn't known yet
_QUIET = 0.02  # of the loudest sample: below is silence
_SILENT = 1e-3  # a loudest sample under this makes all of it silence


def read_audio(source: AudioSource, sample_rate: int = SAMPLE_RATE, max_seconds: int | None = None) -> Audio:
    """Read one recording (WAV, FLAC, OGG, MP3, ...) -> audio (L,), float32 in [-1, 1], mono at ``sample_rate`` Hz.

    Channels are averaged.  A recording louder than full scale is scaled down.  Of a file that ends early, what is
    there is read.  ``max_seconds`` is a limit on its length in place of ``MAX_AUDIO_S``.

    Raises:
        InputError: the file is missing, empty, too large or too long, damaged, or holds values that aren't numbers.
    """
    name, data = read_bytes(source, "recording", MAX_AUDIO_BYTES)
    try:
        audio, rate = _decode(data, name, max_seconds)
    except (sf.SoundFileError, RuntimeError, ValueError, TypeError, OverflowError, MemoryError) as error:
        raise InputError(f"{name}: not a recording that can be read ({_one_line(error)}); give WAV or FLAC") from None
    if len(audio) * sample_rate < rate:  # not one sample is left after resampling
        raise InputError(f"{name}: there is no sound in the file; give a recording of some length")
    if not np.isfinite(audio).all():
        raise InputError(f"{name}: holds values that aren't finite numbers; export the recording again as 16-bit WAV")
    audio = audio / max(1.0, float(np.abs(audio).max()))
    if rate != sample_rate:
        audio = soxr.resample(audio, rate, sample_rate)
    return np.clip(audio, -1.0, 1.0).astype(np.float32)


def trim_silence(
    audio: Audio, sample_rate: int = SAMPLE_RATE, before_s: float = EDGE_S, after_s: float = EDGE_S
) -> Audio:
    """Audio (L,) -> the same (l,) with at most so many seconds of silence on either side; empty if all is silence.

    Levels are looked at 10 ms at a time.
    """
    block = max(1, sample_rate // 100)
    level = np.abs(np.pad(audio, (0, -len(audio) % block))).reshape(-1, block).max(axis=1, initial=0.0)
    peak = float(level.max(initial=0.0))
    if peak < _SILENT:
        return audio[:0]
    loud = np.flatnonzero(level > _QUIET * peak)
    before, after = round(before_s * sample_rate), round(after_s * sample_rate)
    return audio[max(0, int(loud[0]) * block - before) : (int(loud[-1]) + 1) * block + after]


def pcm16_bytes(audio: Audio) -> bytes:
    """Audio (L,) in [-1, 1] -> 16-bit little-endian samples; what lies outside is clipped, NaN is silence."""
    clipped = np.clip(np.nan_to_num(audio, posinf=1.0, neginf=-1.0), -1.0, 1.0)
    return np.rint(clipped * 32767).astype("<i2").tobytes()


def wav_header(sample_rate: int, n_bytes: int | None = None) -> bytes:
    """Header (44 bytes) of a 16-bit mono WAV with ``n_bytes`` of samples; without, for a stream of unknown length."""
    riff, size = (_UNKNOWN_LENGTH, _UNKNOWN_LENGTH) if n_bytes is None else (36 + n_bytes, n_bytes)
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, sample_rate, 2 * sample_rate, 2, 16)
    return struct.pack("<4sI4s", b"RIFF", riff, b"WAVE") + form + struct.pack("<4sI", b"data", size)


def wav_bytes(audio: Audio, sample_rate: int = SAMPLE_RATE) -> bytes:
    """Audio (L,) at ``sample_rate`` Hz -> the bytes of a 16-bit mono WAV file."""
    samples = pcm16_bytes(audio)
    return wav_header(sample_rate, len(samples)) + samples


def write_wav(path: str | Path, audio: Audio, sample_rate: int = SAMPLE_RATE) -> None:
    """Write audio (L,) at ``sample_rate`` Hz as 16-bit mono WAV.

    Raises:
        OutputError: the file can't be written; nothing is left behind.
    """
    write_bytes_atomically(path, wav_bytes(audio, sample_rate))


def play(chunks: Iterable[Audio], sample_rate: int = SAMPLE_RATE) -> None:
    """Play pieces of audio (l,) at ``sample_rate`` Hz as they come, through a player found on this machine.

    Raises:
        MissingToolError: no player is installed.
        OutputError: the player fails, for example because there is no sound card.
    """
    for program, arguments in _STREAM_PLAYERS.items():
        if found := shutil.which(program):
            return _play_stream([found, *(a.format(rate=sample_rate) for a in arguments)], chunks)
    for program, arguments in _FILE_PLAYERS.items():
        if found := shutil.which(program):
            return _play_file([found, *arguments], chunks, sample_rate)
    raise MissingToolError(
        f"no audio player found (looked for {', '.join([*_STREAM_PLAYERS, *_FILE_PLAYERS])}); "
        "install one (on Debian: apt install alsa-utils) or write a file with -o OUT.wav"
    )


# Players that take raw 16-bit mono samples on standard input, and players that want a file.
_STREAM_PLAYERS = {
    "paplay": ["--raw", "--format=s16le", "--channels=1", "--rate={rate}"],
    "aplay": ["-q", "-t", "raw", "-f", "S16_LE", "-c", "1", "-r", "{rate}"],
    "play": ["-q", "-t", "raw", "-e", "signed-integer", "-b", "16", "-c", "1", "-r", "{rate}", "-"],
    "ffplay": ["-nodisp", "-autoexit", "-loglevel", "error", "-f", "s16le", "-sample_rate", "{rate}", "-i", "-"],
}
_FILE_PLAYERS = {
    "afplay": ["{file}"],
    "powershell": ["-NoProfile", "-Command", "(New-Object Media.SoundPlayer '{file}').PlaySync()"],
}


def _play_stream(command: list[str], chunks: Iterable[Audio]) -> None:
    with tempfile.TemporaryFile() as errors:  # a file, not a pipe: a player that says much can't block us
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors) as player:
            assert player.stdin is not None
            with suppress(BrokenPipeError):  # the exit status below says more
                for chunk in chunks:
                    player.stdin.write(pcm16_bytes(chunk))
                    player.stdin.flush()
            with suppress(BrokenPipeError):
                player.stdin.close()
        errors.seek(0)
        _check_player(command, player.returncode, errors.read())


def _play_file(command: list[str], chunks: Iterable[Audio], sample_rate: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "speech.wav"
        write_wav(file, np.concatenate([np.zeros(0, np.float32), *chunks]), sample_rate)
        done = subprocess.run([part.replace("{file}", str(file)) for part in command], capture_output=True, check=False)
    _check_player(command, done.returncode, done.stderr)


def _check_player(command: list[str], status: int, errors: bytes) -> None:
    if status != 0:
        said = " ".join(errors.decode(errors="replace").split())[:200] or f"exit status {status}"
        raise OutputError(f"{Path(command[0]).name} can't play ({said}); write a file with -o OUT.wav")


def _decode(data: bytes, name: str, max_seconds: int | None) -> tuple[Audio, int]:
    """Bytes of a file -> audio (L,) and its own rate (Hz), block by block, because headers lie about lengths."""
    with sf.SoundFile(io.BytesIO(data)) as file:
        rate = int(file.samplerate)
        if not MIN_RATE <= rate <= MAX_RATE:
            raise InputError(f"{name}: {rate} samples a second; {MIN_RATE} to {MAX_RATE} can be read")
        blocks: list[Audio] = []
        length = 0
        while (block := file.read(max(1, _BLOCK // file.channels), dtype="float32", always_2d=True)).size:
            with np.errstate(over="ignore", invalid="ignore"):  # what isn't finite is refused by the caller
                blocks.append(block.mean(axis=1))
            length += len(block)
            if length > (MAX_AUDIO_S if max_seconds is None else max_seconds) * rate:
                limit = f"{MAX_AUDIO_S // 60} minutes" if max_seconds is None else f"{max_seconds} seconds"
                raise InputError(f"{name}: longer than {limit}; cut the recording")
    return (np.concatenate(blocks) if blocks else np.zeros(0, np.float32)), rate


def _one_line(error: Exception) -> str:
    """The reason alone: what libsndfile says of a file in memory begins with an address."""
    return " ".join(str(getattr(error, "error_string", error)).split())[:100].rstrip(".") or type(error).__name__
