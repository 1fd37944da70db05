"""The page as a person meets it: what it stands on, and what a test does to it by hand, voice and keyboard."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
RECORDINGS = Path(__file__).resolve().parent / "browser" / "recordings"
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
DESKTOP = {"viewport": {"width": 1280, "height": 900}}
SMALLEST = {"width": 320, "height": 640}
ZOOMED = {"width": 640, "height": 450}  # what is left of 1280 x 900 at 200 %
WAIT_MS = 60_000.0  # for whatever a busy machine needs

# Notes the peak of every piece that is scheduled, and whether the whole speech had arrived by then.
NOTE_SOUND = """
  window.pieces = [];
  const start = AudioBufferSourceNode.prototype.start;
  AudioBufferSourceNode.prototype.start = function (...when) {
    if (this.context instanceof OfflineAudioContext) return start.apply(this, when);
    const peak = this.buffer.getChannelData(0).reduce((most, sample) => Math.max(most, Math.abs(sample)), 0);
    window.pieces.push({peak, whole: document.querySelector("#audio").hasAttribute("src")});
    return start.apply(this, when);
  };
"""

# The peak of what the <audio> element gives out, as soon as it is loud enough to be speech.
LISTEN = """async () => {
  const audio = document.querySelector("#audio");
  while (audio.paused || audio.readyState < 3) await new Promise(requestAnimationFrame);
  const context = new AudioContext();
  const analyser = context.createAnalyser();
  context.createMediaStreamSource(audio.captureStream()).connect(analyser);
  const samples = new Float32Array(analyser.fftSize);
  const listen = (done) => {
    analyser.getFloatTimeDomainData(samples);
    const peak = Math.max(...samples.map(Math.abs));
    if (peak > 0.05) done(peak); else requestAnimationFrame(() => listen(done));
  };
  return new Promise(listen);
}"""

HAND_OVER = """([kind, bytes, type]) => {
  const transfer = new DataTransfer();
  const file = new File([Uint8Array.from(atob(bytes), (letter) => letter.charCodeAt(0))], "given", {type});
  transfer.items.add(file);
  const event = kind === "drop" ? new DragEvent("drop", {dataTransfer: transfer, bubbles: true, cancelable: true})
                                : new ClipboardEvent("paste", {clipboardData: transfer, bubbles: true});
  document.body.dispatchEvent(event);
}"""


def five_photos(folder: Path) -> Path:
    """The two example photos, and three that are drawn: a slope with a skier, water, and a ball on a lawn."""
    folder.mkdir(parents=True)
    for name in ("moose", "raccoon"):
        with Image.open(EXAMPLES / f"{name}.jpg") as photo:
            photo.save(folder / f"{name}.jpg")
    slope = Image.new("RGB", (320, 240), (150, 190, 240))
    draw = ImageDraw.Draw(slope)
    draw.polygon([(0, 240), (0, 150), (320, 60), (320, 240)], fill=(245, 248, 252))
    draw.ellipse([150, 80, 166, 96], fill=(200, 30, 30))
    draw.rectangle([152, 96, 164, 126], fill=(30, 30, 120))
    slope.save(folder / "slope.jpg")
    depth, waves = np.linspace(0, 1, 240)[:, None], np.random.default_rng(0).normal(0, 12, (240, 320))
    water = np.stack([low + rise * depth + waves for low, rise in ((20, 60), (80, 80), (140, 90))], -1)
    Image.fromarray(water.clip(0, 255).astype(np.uint8)).save(folder / "water.jpg")
    lawn = Image.new("RGB", (320, 240), (40, 140, 50))
    ImageDraw.Draw(lawn).ellipse([120, 80, 200, 160], fill=(250, 250, 250))
    lawn.save(folder / "lawn.jpg")
    return folder


def film(photo: Path, path: Path) -> Path:
    """A photo as one frame of 640 x 480 YUV4MPEG2, which Chromium's fake camera shows again and again."""
    with Image.open(photo) as image:
        frame = image.convert("YCbCr").resize((640, 480))
    full, *halves = frame.split()
    planes = [full.tobytes(), *(half.resize((320, 240)).tobytes() for half in halves)]
    path.write_bytes(b"YUV4MPEG2 W640 H480 F10:1 Ip A1:1 C420jpeg\nFRAME\n" + b"".join(planes))
    return path


@contextmanager
def served(app: Any) -> Iterator[str]:
    """The address of an application, served on a port of loopback that was free."""
    import uvicorn

    with socket.create_server(("127.0.0.1", 0)) as door:  # it waits at the door whoever comes too early
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [door]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{door.getsockname()[1]}/"
        finally:
            server.should_exit = True
            thread.join()


def faults(page: Any) -> list[str]:
    """What axe-core finds, in light and in dark."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe (the dev extra)").Axe()
    found = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        found += [
            f"{scheme}: {fault['id']}: {node['html']}"
            for fault in axe.run(page).response["violations"]
            for node in fault["nodes"]
        ]
    return found


class Visitor:
    """A page of the service in a browser of its own, and everything that it asked for."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.requests: list[str] = []
        self.faults: list[str] = []
        page.set_default_timeout(WAIT_MS)
        page.add_init_script(NOTE_SOUND)
        page.on("filechooser", lambda dialog: None)  # from now on a dialog is ours, however soon it comes
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("console", lambda message: message.type == "error" and self.faults.append(message.text))

    def go(self, address: str) -> None:
        """Open the page, and wait until it has asked the service what there is."""
        with self.page.expect_response(lambda response: response.url.endswith("/v1/info")):
            self.page.goto(address)

    def choose(self, file: Path) -> None:
        """Give a photo through the file dialog."""
        with self.page.expect_file_chooser() as dialog:
            self.page.click("#choose")
        dialog.value.set_files(file)

    def hear(self) -> None:
        """Press the large button, and wait until the description and the second look are over."""
        with self.description():
            self.page.click("#hear")

    @contextmanager
    def description(self) -> Iterator[None]:
        """Wait, after what is done inside, until a description is over and the machine has said how sure it is."""
        self.page.evaluate("window.pieces = []")
        yield
        self.until("window.pieces.length > 0")
        self.until("!document.querySelector('#second').hidden")
        self.until("document.querySelector('#hear').textContent === 'Hear the photo'")

    def says(self, words: str, within: str = "#status") -> None:
        """Wait until the page says something."""
        self.until(f"document.querySelector({within!r}).textContent.includes({json.dumps(words)})")

    def until(self, condition: str) -> None:
        """Wait until a condition holds in the page.

        Playwright's own way needs ``eval``, which the service's policy forbids.
        """
        self.page.evaluate(
            f"""() => new Promise((done, fail) => {{
              const late = performance.now() + {WAIT_MS};
              const look = () => {{
                if ({condition}) done();
                else if (performance.now() < late) setTimeout(look, 20);
                else fail(new Error({json.dumps(condition)} + " isn't so; " + document.body.innerText));
              }};
              look();
            }})"""
        )

    def pictures(self) -> None:
        """Wait until every photo that was found shows its thumbnail."""
        self.until("[...document.querySelectorAll('#results img')].every((image) => image.naturalWidth > 0)")

    def listens(self, seconds: float) -> None:
        """Wait until the microphone is on, and leave it on for so long."""
        self.says("Listening", within="#talk")
        self.page.wait_for_timeout(1000 * seconds)

    def results(self) -> list[str]:
        """The names of the photos that were found."""
        return [text.partition(": ")[2] for text in self.page.locator("#results button").all_inner_texts()]

    def focus(self) -> str:
        """The id, or the text, of what has the focus."""
        return str(self.page.evaluate("document.activeElement.id || document.activeElement.textContent"))

    def overflow(self) -> int:
        """By how many pixels the page is wider than the window."""
        return int(self.page.evaluate("document.scrollingElement.scrollWidth - document.scrollingElement.clientWidth"))
