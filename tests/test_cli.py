"""The command line as a whole: exit status and text, whatever verb comes after."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import typer

from pixvoice import cli
from pixvoice.errors import BundleError, InputError, MissingToolError, OptionError, OutputError

ROOT = Path(__file__).parent.parent


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch) -> typer.Typer:
    """The command line with one verb, ``fail``, that raises what ``raising.error`` holds."""
    app = typer.Typer()

    @app.callback()
    def _options() -> None: ...

    @app.command()
    def fail() -> None:
        raise app.error  # type: ignore[attr-defined]

    monkeypatch.setattr(cli, "app", app)
    return app


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InputError("a.jpg: no such file"), 2),
        (OptionError("--length: 'huge'\nisn't allowed"), 2),
        (BundleError("model.onnx: wrong hash"), 2),
        (MissingToolError("flite isn't installed"), 2),
        (OutputError("out.wav: can't be written"), 1),
    ],
)
def test_what_a_user_can_mend_is_one_line(
    raising: typer.Typer, capsys: pytest.CaptureFixture[str], error: Exception, status: int
) -> None:
    raising.error = error  # type: ignore[attr-defined]
    assert cli.run(["fail"]) == status
    out, err = capsys.readouterr()
    assert out == "" and err == f"error: {' '.join(str(error).split())}\n"


def test_a_verb_ends_with_the_status_it_asks_for(raising: typer.Typer) -> None:
    raising.error = typer.Exit(1)  # type: ignore[attr-defined]
    assert cli.run(["fail"]) == 1


def test_interruption_is_quiet(raising: typer.Typer, capsys: pytest.CaptureFixture[str]) -> None:
    raising.error = KeyboardInterrupt()  # type: ignore[attr-defined]
    assert cli.run(["fail"]) == 130
    assert capsys.readouterr().err == ""


def test_our_own_mistakes_are_not_hidden(raising: typer.Typer) -> None:
    raising.error = ZeroDivisionError()  # type: ignore[attr-defined]
    with pytest.raises(ZeroDivisionError):
        cli.run(["fail"])


@pytest.mark.parametrize("arguments", [["--bogus"], ["nonsense"]])
def test_unknown_option_or_verb_is_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1
    assert arguments[0] in err and "pixvoice --help" in err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out == f"pixvoice {version}\n"


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from pixvoice.cli import run; assert run(['--help']) == 0\n"
        "heavy = {'torch', 'transformers', 'onnxruntime', 'soxr', 'soundfile', 'yaml', 'PIL', 'numpy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage: pixvoice" in done.stdout


def test_a_reader_that_goes_away_is_no_traceback() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with open(write_end, "wb") as output:
        done = subprocess.run(
            [sys.executable, "-m", "pixvoice", "--version"], stdout=output, stderr=subprocess.PIPE, check=False
        )
    assert (done.returncode, done.stderr) == (1, b"")
