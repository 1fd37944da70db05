"""The house rules: small files, small functions, walls, one version, a README whose commands can be found."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
PYTHON_FILES = sorted(
    path for folder in ("src", "tests", "scripts", "benchmarks") for path in (ROOT / folder).rglob("*.py")
)


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize("path", PYTHON_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") < MAX_FILE_LINES
    lengths = {f.name: (f.end_lineno or f.lineno) - f.lineno + 1 for f in functions(ast.parse(text))}
    assert not {name: lines for name, lines in lengths.items() if lines >= MAX_FUNCTION_LINES}


def test_importing_the_package_loads_no_torch() -> None:
    """Nor any other package that the base install doesn't bring."""
    code = (
        "import sys; import pixvoice, pixvoice.cli, pixvoice.audio, pixvoice.images\n"
        "assert not {'torch', 'transformers', 'yaml', 'scipy', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_changelog_and_package_have_one_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    headings = [line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## [")]
    assert headings[0] == "## [Unreleased]"
    assert headings[1].startswith(f"## [{version}]")


def test_torch_is_pinned_and_comes_first() -> None:
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert pins[0].startswith("torch==")
    assert all(pin.count("==") == 1 and " " not in pin and "/" not in pin for pin in pins)


def test_example_photos_are_small_and_name_their_source() -> None:
    notes = (ROOT / "examples" / "README.md").read_text()
    photos = list((ROOT / "examples").glob("*.jpg"))
    assert photos
    for photo in photos:
        assert photo.stat().st_size <= 100_000
        assert f"`{photo.name}`" in notes


def test_readme_command_joins_the_lines_of_its_block(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(
        "text\n<!-- test-command -->\n```sh\n# a note\nmake a && \\\n  make b\n$ make c\n```\n```sh\nno\n```\n"
    )
    commands = script("readme_command")
    assert commands.main(["test", str(readme)]) == 0
    assert capsys.readouterr().out.split() == ["make", "a", "&&", "make", "b", "&&", "make", "c"]
    assert commands.main(["speak", str(readme)]) == 2
    assert "no block after <!-- speak-command -->" in capsys.readouterr().err


def test_large_files_are_refused_outside_the_weights(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    for path in (weights / "model.onnx", tmp_path / "large.bin"):
        path.write_bytes(bytes(500_001))
    check = script("check_file_size").check
    faults = check([weights / "model.onnx", tmp_path / "large.bin", tmp_path / "deleted"], weights)
    assert len(faults) == 1 and "large.bin: 500,001 bytes" in faults[0]
