"""The report of ``pixvoice bench``, opened as a file: whoever can't see or hear, light and dark, large and small."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("jinja2", reason="needs the evaluate extra")
pytest.importorskip("pycocoevalcap", reason="needs the evaluate extra")
pytest.importorskip("yaml", reason="recipes need PyYAML (the train extra)")
pytest.importorskip("transformers", reason="needs the train extra")

from browser.test_access import SMALLEST, ZOOMED, faults
from browsing import DESKTOP
from pixvoice.bench.document import Photo, Report, Table, Voice, curve
from pixvoice.bench.sounds import data_uri, opus


def picture() -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 24), "green").save(buffer, "JPEG")
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def report() -> Report:
    tone = (0.5 * np.sin(np.arange(32_000) / 20)).astype(np.float32)
    voices = tuple(
        Voice(name, data_uri(opus(tone, 16_000), "audio/ogg"), {"ours": "a dog", "sphinx": ""}, picture(), "top left")
        for name in ("pixvox-delay", "im2sp", "a person's caption, spoken")
    )
    photos = tuple(Photo(n, picture(), 32, 24, ("A dog .", "The dog ."), voices) for n in (1, 2))
    heads = ("system", *(f"head {n}" for n in range(8)))
    rows = (("these rows",), *((name, *["10.7 [9.9, 11.5]"] * 8) for name in ("pixvox-delay", "im2sp")))
    tables = (Table("Scores", heads, rows, ("A note.",)), Table("Sizes", heads, rows))
    line = curve("pixvox-delay", [(50, 6.5), (100, 5.0), (150, 4.5)])
    assert line is not None
    return Report("A table", ("What was done.",), tables, {}, (line,), photos, ("One row failed.",))


def test_the_report_has_no_fault_plays_and_asks_nobody(launch: Callable[[str], Any], tmp_path: Path) -> None:
    report().write(tmp_path)
    page = launch("animal").new_context(**DESKTOP).new_page()
    asked: list[str] = []
    wrong: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto((tmp_path / "report.html").as_uri())
    page.set_default_timeout(60_000)
    seconds = page.evaluate(
        """() => new Promise((done, fail) => {
          const audio = document.querySelector("audio");
          audio.onloadedmetadata = () => done(audio.duration);
          audio.onerror = () => fail(audio.error);
          audio.preload = "auto"; audio.load();
        })"""
    )
    assert seconds == pytest.approx(2.0, abs=0.1)
    assert all(url.startswith(("file:", "data:")) for url in asked) and wrong == []
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Tables"
    for size in (DESKTOP["viewport"], ZOOMED, SMALLEST):
        page.set_viewport_size(size)
        scrolled = "document.scrollingElement.scrollWidth - document.scrollingElement.clientWidth"
        assert page.evaluate(scrolled) == 0, size
    page.set_viewport_size(DESKTOP["viewport"])
    assert faults(page) == []
    page.context.close()
