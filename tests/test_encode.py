"""``pixvoice encode``: what is written, what goes on after a stop, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from PIL import Image

from pixvoice import cli, encoding
from pixvoice.contracts import Codes
from pixvoice.encoding import encode_files, files_in, files_of
from pixvoice.errors import InputError
from pixvoice.images import read_image
from pixvoice.manifest import Sample, write_manifest
from pixvoice.packed import PackedUnits, UnitsOf

SPEECH = Path(__file__).resolve().parent / "browser" / "recordings" / "animal.wav"


class Corner:
    """The red of a photo's first pixels as units; counts what it encodes, and stops after ``patience`` calls."""

    of = UnitsOf("image", "corner", num_codebooks=1, codebook_size=256)

    def __init__(self, patience: int = 1000) -> None:
        self.patience, self.encoded = patience, 0

    def read(self, name: str, path: Path) -> Any:
        return np.asarray(read_image(path))[:1, :3, 0].astype(np.int64)

    def encode(self, contents: Sequence[Any]) -> list[Codes]:
        if not self.patience:
            raise KeyboardInterrupt
        self.patience -= 1
        self.encoded += len(contents)
        return list(contents)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with seven photos."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for n in range(7):
        Image.new("RGB", (8, 8), (10 * n, 0, 0)).save(folder / ("more" if n > 4 else "") / f"{n}.png")
    return folder


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "PART", 2)


def test_each_photo_is_a_row_named_as_it_lies_in_the_folder(photos: Path, tmp_path: Path) -> None:
    report = encode_files(files_in(photos, "image"), Corner(), tmp_path / "units.npz")
    units = PackedUnits.load(tmp_path / "units.npz")
    assert (report.files, report.bits, report.failures) == (7, 7 * 3 * 8, [])
    assert report.file_bytes == sum(path.stat().st_size for path in photos.rglob("*.png"))
    assert units.names == ("0.png", "1.png", "2.png", "3.png", "4.png", "more/5.png", "more/6.png")
    assert units.of == Corner.of and units.codes(6).tolist() == [[60, 60, 60]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "units.npz"]


def test_a_stopped_run_goes_on_where_it_was(photos: Path, tmp_path: Path) -> None:
    files = files_in(photos, "image")
    first, second = Corner(patience=2), Corner()
    with pytest.raises(KeyboardInterrupt):
        encode_files(files, first, tmp_path / "units.npz")
    assert first.encoded == 4 and not (tmp_path / "units.npz").exists()
    progress: list[tuple[int, int]] = []
    encode_files(files, second, tmp_path / "units.npz", on_progress=lambda *done: progress.append(done))
    assert second.encoded == 3 and progress == [(2, 7), (4, 7), (6, 7), (7, 7)]
    encode_files(files, Corner(), tmp_path / "whole.npz")
    assert (tmp_path / "units.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()


def test_a_part_whose_photo_changed_or_that_is_damaged_is_made_again(photos: Path, tmp_path: Path) -> None:
    files = files_in(photos, "image")
    with pytest.raises(KeyboardInterrupt):
        encode_files(files, Corner(patience=3), tmp_path / "units.npz")
    parts = sorted((tmp_path / "units.npz.parts").glob("*.npz"))
    assert len(parts) == 3
    parts[0].write_bytes(b"PK")
    Image.new("RGB", (9, 9), (200, 0, 0)).save(photos / "0.png")
    again = Corner()
    encode_files(files, again, tmp_path / "units.npz")
    assert again.encoded in (3, 5)  # the damaged part may be that of the changed photo
    assert PackedUnits.load(tmp_path / "units.npz").codes(0).tolist() == [[200, 200, 200]]


def test_bad_photos_are_one_line_each_also_after_a_stop(photos: Path, tmp_path: Path) -> None:
    (photos / "1.png").write_bytes(b"no photo")
    told: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        encode_files(files_in(photos, "image"), Corner(patience=1), tmp_path / "units.npz", told.append)
    report = encode_files(files_in(photos, "image"), Corner(), tmp_path / "units.npz", told.append)
    assert len(report.failures) == 1 and "1.png: not a photo" in report.failures[0] and "\n" not in told[0]
    assert told == report.failures * 2
    assert "1.png" not in PackedUnits.load(tmp_path / "units.npz").names


def test_a_manifest_names_each_photo_once_seen_from_its_folder(photos: Path, tmp_path: Path) -> None:
    samples = [Sample(photos / name, None, text) for name in ("more/5.png", "0.png") for text in ("a", "b")]
    files = files_of(samples, tmp_path / "data" / "manifest.jsonl", "image")
    assert [name for name, _ in files] == ["../photos/more/5.png", "../photos/0.png"]
    with pytest.raises(InputError, match="no sample has a recording"):
        files_of(samples, tmp_path, "speech")


def test_where_nothing_can_be_used_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"")
    with pytest.raises(InputError, match="not one of 1 files could be used"):
        encode_files(files_in(tmp_path / "photos", "image"), Corner(), tmp_path / "units.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]
    with pytest.raises(InputError, match="no recordings in it"):
        files_in(tmp_path / "photos", "speech")


# the command


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ((), "give --image-units or --speech-tokens, one of them"),
        (("--image-units", "--speech-tokens"), "give --image-units or --speech-tokens, one of them"),
        (("--image-units",), "--image-units needs a tokenizer: give --model RUN"),
    ],
)
def test_options_that_do_not_go_together(
    arguments: tuple[str, ...], fault: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["encode", str(photos), "-o", str(tmp_path / "units.npz"), *arguments]) == 2
    err = capsys.readouterr().err
    assert fault in err and err.count("\n") == 1


def test_the_file_is_an_npz(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["encode", str(photos), "--image-units", "-o", "units.bin"]) == 2
    assert "give -o units.npz" in capsys.readouterr().err


def test_recordings_become_the_units_that_ship(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(SPEECH, tmp_path / "animal.wav")
    (tmp_path / "bad.wav").write_bytes(b"no sound")
    samples = [Sample(tmp_path / "a.jpg", tmp_path / f"{name}.wav", "a tone") for name in ("animal", "bad")]
    write_manifest(tmp_path / "manifest.jsonl", samples)
    output = tmp_path / "tokens.npz"
    status = cli.run(["encode", "--speech-tokens", str(tmp_path / "manifest.jsonl"), "-o", str(output), "--json"])
    said = capsys.readouterr()
    assert status == 1 and said.err.count("error: ") == 1 and "bad.wav" in said.err
    values, units = json.loads(said.out), PackedUnits.load(output)
    assert units.names == ("animal.wav",) and units.of.num_codebooks == 1 and units.of.codebook_size == 400
    [merged] = units.codes(0)
    assert 6 * sf.info(SPEECH).duration < len(merged) < 20 * sf.info(SPEECH).duration
    assert (merged < 400).all() and (merged[1:] != merged[:-1]).all()
    assert (values["files"], values["failed"], values["bits"]) == (1, 1, len(merged) * 9)
    assert cli.run(["encode", "--speech-tokens", str(tmp_path), "-o", str(tmp_path / "folder.npz")]) == 1
    assert f"1 files, 1 failed  {len(merged) * 9} bits a file" in capsys.readouterr().out
