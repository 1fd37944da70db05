"""Debian's Chromium with a camera and a microphone that play files, and the service with the bundle that ships."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from browsing import DESKTOP, EXAMPLES, RECORDINGS, Visitor, film, five_photos, served
from pixvoice.audio import read_audio, write_wav

RATE = 16_000  # Hz


@pytest.fixture(scope="package")
def chromium() -> str:
    """Where Chromium is."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    return found


@pytest.fixture(scope="package")
def launch(chromium: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Any]]:
    """A browser by what is said into its microphone; one for each recording."""
    reason = "needs Playwright (the dev extra)"
    playwright = pytest.importorskip("playwright.sync_api", reason=reason).sync_playwright().start()
    folder = tmp_path_factory.mktemp("devices")
    camera = film(EXAMPLES / "moose.jpg", folder / "camera.y4m")
    browsers: dict[str, Any] = {}

    def launched(recording: str) -> Any:
        if recording not in browsers:
            said = read_audio(RECORDINGS / f"{recording}.wav", RATE)
            microphone = folder / f"{recording}.wav"
            write_wav(microphone, np.concatenate([np.zeros(RATE, np.float32), said]), RATE)  # time to switch it on
            options = [
                "--use-fake-device-for-media-stream",
                "--use-fake-ui-for-media-stream",
                f"--use-file-for-fake-audio-capture={microphone}%noloop",
                f"--use-file-for-fake-video-capture={camera}",
                *(["--no-sandbox"] if os.geteuid() == 0 else []),
            ]
            browsers[recording] = playwright.chromium.launch(executable_path=chromium, args=options)
        return browsers[recording]

    yield launched
    for browser in browsers.values():
        browser.close()
    playwright.stop()


@pytest.fixture(scope="package")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of five photos, indexed."""
    pytest.importorskip("lancedb", reason="needs the search extra")
    import pixvoice

    folder = five_photos(tmp_path_factory.mktemp("five") / "photos")
    pixvoice.load_searcher(folder).index()
    return folder


@pytest.fixture(scope="package")
def service(chromium: str, photos: Path) -> Iterator[str]:
    """The address of a service that says what the bundle that ships says, and finds five photos."""
    pytest.importorskip("fastapi", reason="needs the serve extra")
    from pixvoice.serving.app import create_app
    from pixvoice.serving.settings import Settings

    with served(create_app(Settings(photos=photos))) as address:
        yield address


@pytest.fixture
def visit(launch: Callable[[str], Any], service: str) -> Iterator[Callable[..., Visitor]]:
    """Opens the page: ``visit(address, recording, **options of the browser's context)``.

    At the end nothing may have gone wrong in any page, and no request to any other host.
    """
    visitors: list[Visitor] = []

    def visited(address: str = service, recording: str = "animal", **options: Any) -> Visitor:
        page = launch(recording).new_context(**(options or DESKTOP)).new_page()
        visitors.append(Visitor(page))
        visitors[-1].go(address)
        if address == service:
            visitors[-1].until("!document.querySelector('#search').hidden")  # the answer has been drawn as well
        return visitors[-1]

    yield visited
    for visitor in visitors:
        visitor.page.context.close()
        assert visitor.faults == []
        hosts = {urlsplit(url).hostname for url in visitor.requests if urlsplit(url).scheme not in ("blob", "data")}
        assert hosts == {"127.0.0.1"}
