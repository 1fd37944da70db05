"""Show, attend and tell as a bundle: ONNX Runtime steps as PyTorch does, and other sizes are refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the train extra")
pytest.importorskip("transformers", reason="needs the train extra")

import pixvoice
import tiny_units
from pixvoice.cli import run
from pixvoice.describe.decoder import SatSpeechDecoder
from pixvoice.describe.speaker import load_sat
from pixvoice.errors import BundleError
from pixvoice.runtime.bundle import Bundle
from pixvoice.runtime.decoders import speech_decoder


def test_it_says_what_it_says_in_its_training() -> None:
    """One step after another, many photos at once, rows of one photo, and rows that are picked."""
    theirs = load_sat(tiny_units.runs("sat")["describer"]).decoder
    ours = speech_decoder(Bundle.load(tiny_units.bundle("sat")))
    assert isinstance(theirs, SatSpeechDecoder)
    sizes = ("num_codebooks", "codebook_size", "max_steps")
    assert [getattr(ours, size) for size in sizes] == [getattr(theirs, size) for size in sizes] == [1, 6, 40]
    draw = np.random.default_rng(0)
    for photos, rows in ((3, [2, 0, 2, 1]), (1, [0, 0])):
        features = draw.normal(size=(photos, 4, 16)).astype(np.float32)
        their_state, our_state = theirs.start(features), ours.start(features)
        for picked in (np.arange(photos), np.array(rows), np.arange(len(rows))):
            tokens = draw.integers(0, 7, (len(picked), 1))
            expected, their_state = theirs.step(tokens, theirs.select(their_state, picked))
            logits, our_state = ours.step(tokens, ours.select(our_state, picked))
            assert logits.shape == (len(picked), 1, 7) and np.ptp(logits) > 0.5
            np.testing.assert_allclose(logits, expected, atol=1e-4)


@pytest.mark.parametrize("dtype", ["fp16", "int8"])
def test_smaller_weights_stay_close(dtype: str) -> None:
    features = np.random.default_rng(0).normal(size=(1, 4, 16)).astype(np.float32)
    whole, small = (speech_decoder(Bundle.load(tiny_units.bundle("sat", kind))) for kind in ("fp32", dtype))
    logits = [decoder.step(np.array([[2]]), decoder.start(features))[0] for decoder in (whole, small)]
    np.testing.assert_allclose(*logits, atol=0.05 * np.abs(logits[0]).max())


def test_export_tells_it_from_a_transformer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["export", *map(str, tiny_units.runs("sat").values()), "-o", str(tmp_path / "bundle")]) == 0
    assert pixvoice.load(tmp_path / "bundle").bundle.info.describer.lstm_width == 20
    both = [tiny_units.runs("sat"), {"describer": tiny_units.runs("merged")["describer"]}]
    folders = [str(folder) for one in both for folder in one.values()]
    assert run(["export", *folders, "-o", str(tmp_path / "other")]) == 2
    assert "both hold a describer" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"lstm_width": 21}, "hidden has shape"),
        ({"head_dim": 3}, "keys has shape"),
        ({"lstm_width": None}, "cross has shape None"),
        ({"lstm_width": "wide"}, "isn't a int"),
    ],
)
def test_other_sizes_than_the_bundle_says_are_one_line(changes: dict[str, Any], fault: str, tmp_path: Path) -> None:
    shutil.copytree(tiny_units.bundle("sat"), tmp_path / "bundle")
    place = tmp_path / "bundle" / "bundle.json"
    info = json.loads(place.read_text())
    info["describer"] |= changes
    place.write_text(json.dumps(info))
    with pytest.raises(BundleError, match=fault) as caught:
        pixvoice.load(tmp_path / "bundle")
    assert "\n" not in str(caught.value)
