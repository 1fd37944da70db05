"""What the README promises, typed as it stands there."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to type in that has ``examples/``, as a checkout does."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def speaks(wav: Path) -> bool:
    """Whether a WAV holds a sentence's worth of sound."""
    audio, sample_rate = soundfile.read(wav, dtype="float32")
    return bool(1.0 < len(audio) / sample_rate < 10.0 and abs(audio).max() > 0.05)


def test_the_speak_command_speaks(checkout: Path) -> None:
    block = re.search(r"<!-- speak-command -->\n```sh\n(.+?)\n```", README, re.DOTALL)
    assert block
    program, *arguments = shlex.split(block[1].split("&&")[-1])
    assert program == "pixvoice"
    done = subprocess.run([sys.executable, "-m", "pixvoice", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert speaks(checkout / "moose.wav")


def test_the_python_lines_speak_and_stream(checkout: Path) -> None:
    names: dict[str, object] = {}
    blocks = re.findall(r"```python\n(.+?)```", README, re.DOTALL)
    assert len(blocks) >= 2
    for block in blocks:
        exec(block, names)  # the README is ours
    assert speaks(checkout / "moose.wav")


def test_every_file_that_the_readme_points_to_is_there() -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", README)
    assert targets
    assert [target for target in targets if not (ROOT / target).exists()] == []
