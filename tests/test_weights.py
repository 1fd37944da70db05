"""The bundle that ships: whole, small, described by its card."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

import pixvoice
from pixvoice.audio import SAMPLE_RATE
from pixvoice.runtime.bundle import EMBEDDED, Bundle
from pixvoice.runtime.recognizer import load_recognizer

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def test_every_file_is_the_one_that_the_bundle_and_its_card_name() -> None:
    card = (EMBEDDED / "MODEL_CARD.md").read_text(encoding="utf-8")
    files = Bundle.load(EMBEDDED).info.files
    assert {path.name for path in EMBEDDED.iterdir()} == {*files, "bundle.json", "MODEL_CARD.md"}
    for name, digest in files.items():
        assert hashlib.sha256((EMBEDDED / name).read_bytes()).hexdigest() == digest
        assert digest in card


def test_the_bundle_is_under_100_megabytes() -> None:
    assert sum(path.stat().st_size for path in EMBEDDED.iterdir()) < 100e6


def test_a_description_is_speech_that_its_recognizer_reads() -> None:
    description = pixvoice.load(EMBEDDED).describe(EXAMPLES / "moose.jpg")
    assert description.sample_rate == SAMPLE_RATE
    assert 0.0 < description.confidence < 1.0
    [text] = load_recognizer(EMBEDDED).transcribe([description.audio])
    assert len(text.split()) >= 3


def test_lengths_are_in_order() -> None:
    describer = pixvoice.load(EMBEDDED)
    short, normal, long = (
        describer.describe(EXAMPLES / "raccoon.jpg", length=length).seconds for length in ("short", "normal", "long")
    )
    assert short <= normal <= long
    assert short < long


def test_streamed_pieces_are_the_whole() -> None:
    describer = pixvoice.load(EMBEDDED)
    pieces = list(describer.stream(EXAMPLES / "moose.jpg", strategy="greedy"))
    whole = describer.describe(EXAMPLES / "moose.jpg", strategy="greedy").audio
    assert len(pieces) > 3
    np.testing.assert_allclose(np.concatenate(pieces), whole, atol=1e-4)


def test_units_keep_about_the_length_and_the_level_of_speech() -> None:
    describer = pixvoice.load(EMBEDDED)
    audio = describer.describe(EXAMPLES / "moose.jpg").audio
    again = describer.tokenizer.decode(describer.tokenizer.encode(audio))
    assert 0.8 < len(again) / len(audio) < 1.25
    assert 0.5 < np.sqrt(np.mean(again**2) / np.mean(audio**2)) < 2.0
