"""Seconds of speech from this machine's microphone, through what is installed."""

from __future__ import annotations

import math
import shutil
import subprocess
import tempfile

import numpy as np

from pixvoice.contracts import Audio
from pixvoice.errors import MissingToolError, OptionError

MAX_SECONDS = 60.0
# Programs that write 16-bit little-endian mono samples to standard output until they are stopped.
_RECORDERS = {
    "arecord": ["-q", "-f", "S16_LE", "-c", "1", "-r", "{rate}", "-t", "raw"],
    "parec": ["--raw", "--format=s16le", "--channels=1", "--rate={rate}"],
    "rec": ["-q", "-t", "raw", "-e", "signed-integer", "-b", "16", "-c", "1", "-r", "{rate}", "-"],
}


def record(seconds: float, sample_rate: int) -> Audio:
    """Record ``seconds`` -> audio (L,), mono at ``sample_rate`` Hz.

    Raises:
        OptionError: a length that can't be recorded.
        MissingToolError: there is no microphone, or nothing installed that records.
    """
    if not (math.isfinite(seconds) and 0.5 <= seconds <= MAX_SECONDS):
        raise OptionError(f"--seconds {seconds:g}: give 0.5 to {MAX_SECONDS:g}")
    try:
        import sounddevice
    except (ImportError, OSError):  # OSError: PortAudio, which it stands on, isn't installed
        return _record_by_program(seconds, sample_rate)
    try:
        audio = sounddevice.rec(round(seconds * sample_rate), samplerate=sample_rate, channels=1, blocking=True)
    except sounddevice.PortAudioError as error:
        raise _no_microphone(str(error)) from None
    return np.ascontiguousarray(audio[:, 0], np.float32)


def _record_by_program(seconds: float, sample_rate: int) -> Audio:
    for program, arguments in _RECORDERS.items():
        if found := shutil.which(program):
            return _run([found, *(a.format(rate=sample_rate) for a in arguments)], round(seconds * sample_rate))
    raise MissingToolError(
        f"no way to record (looked for {', '.join(_RECORDERS)}); install one (on Debian: apt install alsa-utils), "
        "or type: pip install sounddevice; or give a recording in place of --mic"
    )


def _run(command: list[str], n_samples: int) -> Audio:
    """Read as many samples as are wanted, then stop the program."""
    with (
        tempfile.TemporaryFile() as errors,  # a file, not a pipe: a program that says much can't block us
        subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors) as program,
    ):
        assert program.stdout is not None
        samples = program.stdout.read(2 * n_samples)
        program.terminate()
        program.wait()
        errors.seek(0)
        said = errors.read().decode(errors="replace")
    if len(samples) < 2 * n_samples:
        raise _no_microphone(said)
    return np.asarray(np.frombuffer(samples, "<i2") / 32768, np.float32)


def _no_microphone(said: str) -> MissingToolError:
    reason = " ".join(said.split())[:160] or "it recorded nothing"
    return MissingToolError(f"no microphone can be used ({reason}); plug one in, or give a recording in place of --mic")
