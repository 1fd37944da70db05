"""``pixvoice serve`` and its client as their users meet them: a process, a port, one line for what is wrong."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile as sf

pytest.importorskip("fastapi", reason="needs the serve extra")
pytest.importorskip("lancedb", reason="needs the search extra")

import uvicorn

import seeing
from pixvoice.cli import run
from pixvoice.client import Client, ServiceError
from pixvoice.errors import InputError, OptionError
from pixvoice.serving import Settings, create_app
from pixvoice.serving.engine import Busy, TimedOut
from service import TOKEN, ToneEngine, indexed, jpeg

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES, RECORDINGS = ROOT / "examples", ROOT / "tests" / "browser" / "recordings"


@contextlib.contextmanager
def listening(engine: ToneEngine, **settings: Any) -> Iterator[str]:
    """The address of a service that listens on a port of its own, in this process."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(create_app(Settings(**settings), engine), http="h11", log_level="critical")  # type: ignore[arg-type]
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> ToneEngine:
    return ToneEngine(indexed(tmp_path_factory.mktemp("photos")))


@pytest.fixture(scope="module")
def client(engine: ToneEngine) -> Iterator[Client]:
    with listening(engine, photos=Path(engine.searcher.folder), max_bytes=100_000) as address:  # type: ignore[union-attr]
        yield Client(address)


def test_the_client_describes(client: Client, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(jpeg())
    spoken = client.describe(tmp_path / "photo.jpg", length="short", seed=1)
    assert (spoken.sample_rate, spoken.seconds, spoken.confidence_in_words) == (16_000, 0.5, "fairly sure")
    streamed = b"".join(client.stream(jpeg()))
    assert streamed[44:] == spoken.wav[44:]
    assert sf.read(io.BytesIO(streamed))[1] == 16_000


def test_the_client_searches(client: Client, tmp_path: Path) -> None:
    results = client.search(speech=seeing.speech(tmp_path / "q.wav", "green"), top=2)
    assert results.heard == "green" and results.results[0].name == "leaf.png"
    assert client.photo(results.results[0].id).startswith(b"\x89PNG")
    assert client.photo(results.results[0].id, thumbnail=True).startswith(b"\xff\xd8")
    assert client.search(photo=jpeg()).heard is None
    assert client.info()["photos"] == 3 and client.ready()


def test_the_client_says_what_the_service_says(client: Client, engine: ToneEngine, tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match=r"^the photo: not a photo that can be read; give a JPEG") as error:
        client.describe(b"no photo")
    assert error.value.status == 422
    with pytest.raises(ServiceError, match="length 'huge'"):
        list(client.stream(jpeg(), length="huge"))
    with pytest.raises(ServiceError, match="larger than"):
        client.describe(bytes(100_001))
    with pytest.raises(ServiceError, match="no photo with this id"):
        client.photo("0" * 20)
    with pytest.raises(InputError, match="no such file"):
        client.describe(tmp_path / "none.jpg")
    with pytest.raises(OptionError, match="one of them"):
        client.search()
    engine.error = Busy(7)
    with pytest.raises(ServiceError) as error:
        client.describe(jpeg())
    engine.error = None
    assert (error.value.status, error.value.retry_after) == (429, 7)


def test_the_client_notices_speech_that_is_cut_off(client: Client, engine: ToneEngine) -> None:
    engine.fail_after, engine.error = 2, TimedOut(1.0)
    pieces = client.stream(jpeg())
    with pytest.raises(ServiceError, match="cut off"):
        list(pieces)
    engine.fail_after = engine.error = None
    assert client.ready()


def test_the_client_without_a_service() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ServiceError, match="is pixvoice serve running there"):
        Client(f"http://127.0.0.1:{port}").info()
    assert not Client(f"http://127.0.0.1:{port}").ready()
    with pytest.raises(OptionError, match="no address of a service"):
        Client("127.0.0.1:8080")


def test_the_client_with_a_token() -> None:
    with listening(ToneEngine(), token=TOKEN) as address:
        assert Client(address, token=TOKEN).info()["search"] is False
        with pytest.raises(ServiceError, match="wants its token"):
            Client(address).info()


def said(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str]:
    """Exit status, and the one line on standard error."""
    status = run(["serve", *map(str, arguments)])
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("error: ") and captured.err.count("\n") == 1
    return status, captured.err


def test_what_cannot_be_served(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, line = said(capsys, "--port", port)
        assert status == 2 and f"--port {port}: " in line and "--port 0" in line
    for arguments, words in (
        (["--host", "0.0.0.0"], "--token-file FILE"),
        (
            ["--host", "no.such.host.invalid", "--token-file", _token(tmp_path, TOKEN)],
            "give an address of this machine",
        ),
        (["--token-file", tmp_path / "none"], "no such file"),
        (["--token-file", _token(tmp_path, "")], "empty"),
        (["--token-file", _token(tmp_path, "short")], "at least 16"),
        (["--token-file", _token(tmp_path, "two words and more than sixteen")], "no token"),
        (["--port", 70_000], "1 to 65535"),
        (["--queue", 0], "queue_size 0"),
        (["--timeout", "nan"], "timeout_s"),
        (["--port", 0, "--bundle", tmp_path / "none"], "bundle"),
    ):
        status, line = said(capsys, *arguments)
        assert status == 2 and words in line, line


def test_photos_that_cannot_be_searched(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pixvoice.runtime.retriever", seeing.retriever(seeing.ColourModel()))
    monkeypatch.setattr("pixvoice.load", lambda *_: None)
    for arguments, words in (
        (["--photos", tmp_path / "none"], "no such folder"),
        (["--photos", tmp_path], "no photo"),
        (["--photos", tmp_path, "--no-index"], "pixvoice index"),
    ):
        status, line = said(capsys, "--port", 0, *arguments)
        assert status == 2 and words in line, line


def test_without_its_packages(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    status, line = said(capsys, "--port", 0)
    assert status == 2 and "pip install 'pixvoice[serve]'" in line


def _token(folder: Path, text: str) -> Path:
    path = folder / f"token-{len(text)}.txt"
    path.write_text(f"{text}\n" if text else "")
    return path


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[str], Client, list[str]]]:
    """The real thing: the weights that ship, the example photos, a free port."""
    folder = tmp_path_factory.mktemp("examples")
    for path in EXAMPLES.glob("*.jpg"):
        (folder / path.name).write_bytes(path.read_bytes())
    command = [sys.executable, "-m", "pixvoice", "serve", "--photos", str(folder), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines = [process.stderr.readline()]
        address = re.search(r"http://127\.0\.0\.1:\d+", lines[0])
        assert address, lines + process.stderr.readlines()
        yield process, Client(address[0]), lines
        process.kill()


def test_the_real_service_speaks_and_finds(process: tuple[subprocess.Popen[str], Client, list[str]]) -> None:
    """What is said of a photo finds that photo, and what it says itself is understood."""
    _, client, _ = process
    while not client.ready():
        pass
    streamed = b"".join(client.stream(EXAMPLES / "moose.jpg"))
    audio, rate = sf.read(io.BytesIO(streamed), dtype="float32")
    assert 1.0 < len(audio) / rate < 10.0 and abs(audio).max() > 0.05
    spoken = client.describe(EXAMPLES / "moose.jpg")
    assert client.search(speech=spoken.wav, top=2).heard
    results = client.search(speech=RECORDINGS / "animal.wav", top=2)
    assert "animal" in results.heard and results.results[0].name == "moose.jpg"
    with pytest.raises(ServiceError, match="the photo: "):
        client.describe(b"no photo")


def test_the_lines_of_the_guide(
    process: tuple[subprocess.Popen[str], Client, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Python of docs/service.md, typed as it stands there."""
    (tmp_path / "examples").symlink_to(EXAMPLES)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.+?)```", (ROOT / "docs" / "service.md").read_text(), re.DOTALL)
    assert len(blocks) == 1
    exec(blocks[0].replace("http://127.0.0.1:8080", process[1].url), {})  # the guide is ours
    assert {path.name for path in tmp_path.glob("*.wav")} == {"moose.wav", "streamed.wav"}


@pytest.mark.parametrize(
    "request_",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: a\x00b\r\n\r\n",
        b"GET / HTTP/1.1\r\nConnection: close\r\nHost: localhost\r\n : x\r\n\r\n",
        b"POST /v1/describe HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/describe HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        b"POST /v1/describe HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /v1/info HTTP/1.1\r\n\r\n",
        b"GET /v1/info HTTP/1.0\r\n\r\n",
        b"GET /page/../../../../etc/passwd HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        b"GET /page/%2e%2e/%2e%2e/app.py HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    ],
    ids=lambda data: data[:30].decode("latin-1").split("\r")[0] + f" {len(data)}",
)
def test_what_is_no_http(process: tuple[subprocess.Popen[str], Client, list[str]], request_: bytes) -> None:
    _, client, _ = process
    address, port = client.url.removeprefix("http://").split(":")
    with socket.create_connection((address, int(port)), timeout=30) as connection:
        connection.sendall(request_)
        answer = connection.makefile("rb").read()
    assert re.match(rb"HTTP/1\.1 4\d\d ", answer) and b"root:" not in answer
    assert client.ready()


def test_it_stops_when_it_is_told_to_and_has_logged_nothing(
    process: tuple[subprocess.Popen[str], Client, list[str]],
) -> None:
    running, client, lines = process
    pieces = client.stream(EXAMPLES / "moose.jpg")
    first = next(pieces)
    os.kill(running.pid, signal.SIGTERM)
    audio, _ = sf.read(io.BytesIO(first + b"".join(pieces)), dtype="float32")  # what has begun is finished
    assert len(audio) > 16_000
    assert running.wait(timeout=60) == 0
    assert running.stderr is not None
    rest = [line for line in running.stderr.read().splitlines() if "Invalid HTTP request received" not in line]
    assert rest == [] and len(lines) == 1
