"""``pixvoice evaluate storage``: bits counted by hand, on files made for it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pixvoice import cli
from pixvoice.audio import write_wav
from pixvoice.contracts import Audio, Codes
from pixvoice.errors import InputError, PixVoiceError
from pixvoice.evaluation.storage import ImageUnitSizes, measure_storage
from pixvoice.manifest import Sample, write_manifest


class TwoASecond:
    """Two frames a second of three codebooks of 200."""

    sample_rate, num_codebooks, codebook_size = 8_000, 3, 200

    def encode(self, audio: Audio) -> Codes:
        return np.zeros((3, round(len(audio) / 4000)), np.int64)


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for n, side in enumerate((10, 30)):
        Image.new("RGB", (side, 20)).save(tmp_path / f"{n}.bmp")
        write_wav(tmp_path / f"{n}.wav", np.full(16_000 * (n + 1), 0.1, np.float32), 16_000)
    samples = [Sample(tmp_path / f"{n}.bmp", tmp_path / f"{n}.wav", "a") for n in range(2)]
    write_manifest(tmp_path / "manifest.jsonl", samples)
    return tmp_path


def test_bits_by_hand(files: Path) -> None:
    photos, recordings = ([files / f"{n}.{kind}" for n in range(2)] for kind in ("bmp", "wav"))
    units = ImageUnitSizes("some units", patches=4, num_codebooks=2, codebook_size=17)
    result = measure_storage(photos, recordings, {"some tokens": TwoASecond()}, [units])  # type: ignore[dict-item]
    rows = {(row.kind, row.name): row for row in result.rows}
    assert (result.n_photos, result.n_recordings, result.n_failed) == (2, 2, 0)
    assert result.seconds_per_recording == 1.5
    assert rows["photo", "pixels at their own size"].bits == (10 + 30) / 2 * 20 * 24
    assert rows["photo", "pixels at 224 x 224"].bits == 1_204_224
    assert rows["photo", "file"].bits == 8 * np.mean([path.stat().st_size for path in photos])
    assert rows["photo", "some units"].bits == 4 * 2 * 5
    assert rows["photo", "some units"].of_raw == pytest.approx(100 * 40 / 1_204_224)
    assert rows["speech", "samples, 16 bit at 16 kHz"].bits == 1.5 * 256_000
    assert rows["speech", "some tokens"].bits == 3 * 3 * 8
    assert rows["speech", "some tokens"].bits_per_second == 48
    assert rows["speech", "some tokens"].of_raw == pytest.approx(100 * 72 / 384_000)


def test_the_standard_image_units_are_counted_without_weights(files: Path) -> None:
    rows = {row.name: row for row in measure_storage([files / "0.bmp"], [], {}).rows}
    assert rows["ViT-VQGAN, 32 x 32 ids of 8,192"].bits == 32 * 32 * 13
    small = rows["ours, small: 7 x 7 x 8 ids of 1,024"]
    assert small.bits == 3920 and small.of_raw < 1.0


def test_files_that_can_not_be_read_are_told_and_left_out(files: Path) -> None:
    told: list[PixVoiceError] = []
    (files / "1.bmp").write_bytes(b"no photo")
    photos, recordings = [files / "0.bmp", files / "1.bmp"], [files / "none.wav"]
    result = measure_storage(photos, recordings, {}, on_failure=told.append)
    assert (result.n_photos, result.n_recordings, result.n_failed) == (1, 0, 2)
    assert ["1.bmp" in str(told[0]), "none.wav" in str(told[1])] == [True, True]
    with pytest.raises(InputError, match="not one photo or recording could be measured"):
        measure_storage([files / "1.bmp"], [], {})


def test_the_command_measures_the_units_that_ship(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = str(files / "manifest.jsonl")
    assert cli.run(["evaluate", "storage", manifest, "--json"]) == 0
    values = json.loads(capsys.readouterr().out)
    rows = {row["name"]: row for row in values["rows"]}
    units = rows["the bundle's units, 400"]
    assert 9 <= units["bits"] <= 1.5 * 25 * 9 and units["bits"] == pytest.approx(1.5 * units["bits_per_second"])
    assert units["of_raw"] == pytest.approx(100 * units["bits"] / rows["samples, 16 bit at 16 kHz"]["bits"], abs=1e-4)
    (files / "1.wav").unlink()
    assert cli.run(["evaluate", "storage", manifest]) == 1
    said = capsys.readouterr()
    assert "photo, mean of 2" in said.out and "speech, mean of 1" in said.out and "1.wav" in said.err
