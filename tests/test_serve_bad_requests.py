"""Requests that no honest client sends, or every client once: each gets a 4xx with one sentence, and nothing breaks."""

from __future__ import annotations

import asyncio
import io
import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf

pytest.importorskip("fastapi", reason="needs the serve extra")
pytest.importorskip("lancedb", reason="needs the search extra")

from starlette.testclient import TestClient

from pixvoice.audio import wav_bytes, wav_header
from pixvoice.serving import Settings, create_app
from pixvoice.serving.engine import TimedOut
from service import TOKEN, ToneEngine, indexed, jpeg, serving, tone

MAX_BYTES = 200_000
SECRET = "not to be served"
DESCRIBE, SEARCH = "/v1/describe", "/v1/search"
IMAGE = {"Content-Type": "image/jpeg"}
TOKENS = {"Authorization": f"Bearer {TOKEN}"}
END = b"--x--\r\n"
LARGE, LIE = bytes(MAX_BYTES + 1), {"Content-Length": "9" * 12}


def bomb() -> bytes:
    """A PNG of a few bytes that says that it is 60,000 x 60,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(50_000)))
        + chunk(b"IEND", b"")
    )


def long_silence() -> bytes:
    """Ten minutes in a few kilobytes."""
    buffer = io.BytesIO()
    sf.write(buffer, np.zeros(600 * 8000, np.int16), 8000, format="FLAC")
    return buffer.getvalue()


def form(*parts: str, boundary: str = "x", end: str = "--x--\r\n") -> dict[str, Any]:
    """A form as its bytes: each part is its headers, an empty line, its content."""
    body = "".join(f"--x\r\n{part}\r\n" for part in parts) + end
    return {"content": body.encode("latin-1"), "headers": {"Content-Type": f"multipart/form-data; boundary={boundary}"}}


FILE = 'Content-Disposition: form-data; name="{}"; filename="{}"\r\n\r\n{}'


FIELD = 'Content-Disposition: form-data; name="photo"\r\n\r\nx'


def photo(file: bytes, **more: Any) -> dict[str, Any]:
    return {"files": {"photo": ("photo.jpg", file)}, **more}


def speech(file: bytes, **more: Any) -> dict[str, Any]:
    return {"files": {"speech": ("query.wav", file)}, **more}


def site(origin: str) -> dict[str, Any]:
    return photo(GOOD, headers={"Origin": origin})


def host(name: str) -> dict[str, Any]:
    return {"headers": {"Host": name}}


def typed(kind: str, body: bytes | None = None) -> dict[str, Any]:
    return {"content": GOOD if body is None else body, "headers": {"Content-Type": kind}}


GOOD, WAV = jpeg(), wav_bytes(tone())
NAN = (
    struct.pack("<4sI4s4sIHHIIHH4sI", b"RIFF", 44, b"WAVE", b"fmt ", 16, 3, 1, 8000, 32000, 4, 32, b"data", 8)
    + b"\xff" * 8
)

# what it is: method, address, the rest of the request, status, words of the sentence
BAD: dict[str, tuple[str, str, dict[str, Any], int, str]] = {
    # the wrong type
    "no body": ("POST", DESCRIBE, {}, 415, "no Content-Type"),
    "text": ("POST", DESCRIBE, typed("text/plain"), 415, "text/plain"),
    "json": ("POST", DESCRIBE, {"json": {"photo": "x"}}, 415, "multipart/form-data"),
    "a form of words": ("POST", DESCRIBE, {"data": {"photo": "x"}}, 415, "urlencoded"),
    "speech to describe": ("POST", DESCRIBE, typed("audio/wav", WAV), 415, "image/*"),
    "gzip": ("POST", DESCRIBE, {"content": GOOD, "headers": {**IMAGE, "Content-Encoding": "gzip"}}, 415, "Encoding"),
    "octets to search": ("POST", SEARCH, typed("a/b", WAV), 415, "audio/*"),
    "a strange type": ("POST", DESCRIBE, typed("x" * 900), 415, "send multipart"),
    # what is no photo, and no speech
    "an empty photo": ("POST", DESCRIBE, photo(b""), 400, "the file is empty"),
    "an empty body": ("POST", DESCRIBE, {"content": b"", "headers": IMAGE}, 400, "the file is empty"),
    "an empty recording": ("POST", SEARCH, speech(b""), 400, "the file is empty"),
    "text called jpg": ("POST", DESCRIBE, photo(b"hello"), 422, "the photo: not a photo"),
    "a script": ("POST", DESCRIBE, photo(b"<svg onload='alert(1)'/>"), 422, "not a photo"),
    "a PDF": ("POST", DESCRIBE, photo(b"%PDF-1.7\n"), 422, "not a photo"),
    "EPS": ("POST", DESCRIBE, photo(b"%!PS-Adobe-3.0 EPSF-3.0\n"), 422, "not a photo"),
    "a program": ("POST", DESCRIBE, photo(b"\x7fELF" + bytes(99)), 422, "not a photo"),
    "a recording as a photo": ("POST", DESCRIBE, photo(WAV), 422, "not a photo"),
    "a truncated photo": ("POST", DESCRIBE, photo(jpeg((400, 300))[:900]), 422, "the photo: "),
    "a header alone": ("POST", DESCRIBE, photo(GOOD[:20]), 422, "the photo: "),
    "half a PNG": ("POST", DESCRIBE, photo(jpeg(format="PNG")[:60]), 422, "the photo: "),
    "random bytes": ("POST", DESCRIBE, photo(bytes(range(256)) * 9), 422, "not a photo"),
    "a bomb": ("POST", DESCRIBE, photo(bomb()), 422, "megapixels"),
    "a bomb to search": ("POST", SEARCH, photo(bomb()), 422, "megapixels"),
    "more pixels than allowed": ("POST", DESCRIBE, photo(jpeg((1500, 1500), format="PNG")), 422, "2 megapixels"),
    "a photo as speech": ("POST", SEARCH, speech(GOOD), 422, "the recording: not a recording"),
    "text as speech": ("POST", SEARCH, speech(b"find a dog"), 422, "not a recording"),
    "a truncated recording": ("POST", SEARCH, speech(WAV[:44]), 422, "no sound"),
    "half a WAV header": ("POST", SEARCH, speech(WAV[:21]), 422, "the recording: "),
    "silence": ("POST", SEARCH, speech(wav_bytes(np.zeros(8000, np.float32))), 422, "nothing but silence"),
    "ten minutes in a few bytes": ("POST", SEARCH, speech(long_silence()), 422, "longer than 60 seconds"),
    "numbers that are none": ("POST", SEARCH, speech(NAN), 422, "finite"),
    "no rate": ("POST", SEARCH, speech(wav_header(0, 8) + bytes(8)), 422, "the recording: "),
    "an absurd rate": ("POST", SEARCH, speech(wav_header(900_000, 8) + bytes(8)), 422, "samples a second"),
    # too much
    "a huge form": ("POST", DESCRIBE, photo(LARGE), 413, "larger than"),
    "a huge body": ("POST", DESCRIBE, {"content": LARGE, "headers": IMAGE}, 413, "larger than"),
    "a huge recording": ("POST", SEARCH, speech(LARGE), 413, "larger than"),
    "a body without a length": ("POST", DESCRIBE, {"content": iter([LARGE]), "headers": IMAGE}, 413, "larger than"),
    "a length that is a lie": ("POST", DESCRIBE, {"content": GOOD, "headers": {**IMAGE, **LIE}}, 413, ""),
    "two files": ("POST", DESCRIBE, {"files": [("photo", GOOD), ("photo", GOOD)]}, 400, "one file as photo"),
    "fields without end": ("POST", DESCRIBE, photo(GOOD, data={str(n): "" for n in range(99)}), 400, "form"),
    "a huge field": ("POST", DESCRIBE, photo(GOOD, data={"length": "x" * 5000}), 400, "form"),
    "a huge header in a form": ("POST", DESCRIBE, form("X: " + "y" * 60_000 + "\r\n\r\n"), 400, "form"),
    # forms that are none
    "no boundary": ("POST", DESCRIBE, typed("multipart/form-data"), 400, "form"),
    "another boundary": ("POST", DESCRIBE, form(FILE.format("photo", "p", "x"), boundary="y"), 400, "form"),
    "a form cut off": ("POST", DESCRIBE, form(FILE.format("photo", "p", "x"), end=""), 400, "form"),
    "a form without a file": ("POST", DESCRIBE, form(end="--x--\r\n"), 400, "no file"),
    "a photo sent as a field": ("POST", DESCRIBE, form(FIELD), 400, "no file"),
    "a part without a name": ("POST", DESCRIBE, form("Content-Disposition: form-data\r\n\r\nx"), 400, "name"),
    "a file of another name": ("POST", DESCRIBE, {"files": {"image": GOOD}}, 400, "'image'"),
    "speech and photo": ("POST", SEARCH, {"files": {"speech": WAV, "photo": GOOD}}, 400, "speech or photo"),
    "a strange charset": ("POST", DESCRIBE, typed("multipart/form-data; boundary=x; charset=zip", END), 400, "form"),
    # values
    "no such length": ("POST", f"{DESCRIBE}?length=huge", photo(GOOD), 422, "length 'huge'"),
    "no such length in the form": ("POST", DESCRIBE, photo(GOOD, data={"length": "huge"}), 422, "length 'huge'"),
    "a seed under 0": ("POST", f"{DESCRIBE}?seed=-1", photo(GOOD), 422, "seed '-1'"),
    "a seed beyond numbers": ("POST", f"{DESCRIBE}?seed={'9' * 99}", photo(GOOD), 422, "seed"),
    "a parameter mistyped": ("POST", f"{DESCRIBE}?lenght=long", photo(GOOD), 422, "did you mean 'length'"),
    "a field mistyped": ("POST", DESCRIBE, photo(GOOD, data={"sed": "1"}), 422, "did you mean 'seed'"),
    "top 0": ("POST", f"{SEARCH}?top=0", speech(WAV), 422, "top '0'"),
    "top a million": ("POST", f"{SEARCH}?top=1000000", speech(WAV), 422, "less than or equal to 1000"),
    "top in words": ("POST", f"{SEARCH}?top=ten", speech(WAV), 422, "top 'ten'"),
    "no such size": ("GET", f"/v1/photos/{'0' * 20}?size=huge", {}, 422, "size 'huge'"),
    "an answer as a page": ("POST", DESCRIBE, photo(GOOD, headers={"Accept": "text/html"}), 406, "audio/wav"),
    "results as sound": ("POST", SEARCH, speech(WAV, headers={"Accept": "audio/wav"}), 406, "application/json"),
    # addresses and ids
    "no such address": ("GET", "/v2/describe", {}, 404, "/openapi.json"),
    "a slash too many": ("POST", "/v1/describe/", photo(GOOD), 404, "nothing at this address"),
    "an unknown id": ("GET", f"/v1/photos/{'0' * 20}", {}, 404, "no photo with this id"),
    "an id of another form": ("GET", "/v1/photos/1", {}, 422, "id '1'"),
    "the wrong method": ("GET", DESCRIBE, {}, 405, "use POST"),
    "a method of nobody's": ("BREW", DESCRIBE, {}, 405, "doesn't take BREW"),
    "a photo to be changed": ("PUT", f"/v1/photos/{'0' * 20}", {"content": GOOD}, 405, "use GET"),
    # the way up
    "up from an id": ("GET", "/v1/photos/..%2f..%2fsecret.txt", {}, 404, "nothing at this address"),
    "up from an id, twice coded": ("GET", "/v1/photos/%252e%252e%252fsecret.txt", {}, 404, "nothing at this address"),
    "up from the page": ("GET", "/page/..%2f..%2f..%2fsecret.txt", {}, 404, "nothing at this address"),
    "up from the page by dots": ("GET", "/page/%2e%2e", {}, 404, "no file of this name"),
    "the module beside the page": ("GET", "/page/..%5capp.py", {}, 404, "no file of this name"),
    "an absolute path": ("GET", "/page//etc/passwd", {}, 404, "nothing at this address"),
    "a null in a name": ("GET", "/page/app.js%00.png", {}, 404, "no file of this name"),
    "the index itself": ("GET", "/v1/photos/.pixvoice-index", {}, 422, "id '"),
    "up by size": ("GET", f"/v1/photos/{'0' * 20}?size=../../secret.txt", {}, 422, "size '"),
    "up by length": ("POST", f"{DESCRIBE}?length=../../secret.txt", photo(GOOD), 422, "length '"),
    "up by top": ("POST", f"{SEARCH}?top=../../secret.txt", speech(WAV), 422, "top '"),
    "up by a field's name": ("POST", DESCRIBE, photo(GOOD, data={"../../secret.txt": "1"}), 422, "unknown"),
    "up by a file's field": ("POST", DESCRIBE, {"files": {"../secret.txt": GOOD}}, 400, "send it as photo"),
    "up by a file's name": ("POST", DESCRIBE, {"files": {"photo": ("../../secret.txt", b"x")}}, 422, "the photo: "),
    # hosts, pages of other sites, headers
    "another host": ("GET", "/v1/info", host("evil.example"), 400, "Host"),
    "another host that looks like ours": ("GET", "/v1/info", host("127.0.0.1.evil.example"), 400, "Host"),
    "a host with a user": ("GET", "/v1/info", host("evil@127.0.0.1"), 400, "Host"),
    "a host that is none": ("GET", "/v1/info", host("[::1"), 400, "Host"),
    "another site": ("POST", DESCRIBE, site("https://evil.example"), 403, "another site"),
    "a site without a name": ("POST", DESCRIBE, site("null"), 403, "another site"),
    "our site on another port": ("POST", DESCRIBE, site("http://127.0.0.1:9"), 403, "another site"),
    "across sites": ("POST", DESCRIBE, photo(GOOD, headers={"Sec-Fetch-Site": "cross-site"}), 403, "another site"),
    "a line in a value": ("POST", f"{DESCRIBE}?length=x%0d%0aSet-Cookie:%20a=b", photo(GOOD), 422, "length '"),
    "a line in a name": ("GET", "/page/x%0d%0aSet-Cookie:%20a=b", {}, 404, "no file of this name"),
    "a line in a type": ("POST", DESCRIBE, typed("a/b\tc"), 415, "send multipart"),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("outside") / "photos"
    (place.parent / "secret.txt").write_text(SECRET)
    return place


@pytest.fixture(scope="module")
def engine(folder: Path) -> ToneEngine:
    return ToneEngine(indexed(folder))


@pytest.fixture(scope="module")
def client(engine: ToneEngine, folder: Path) -> Iterator[TestClient]:
    with serving(engine, photos=folder, max_bytes=MAX_BYTES, max_pixels=2_000_000) as client:
        yield client


def check(response: Any, status: int, words: str) -> None:
    """A problem with this status and one sentence, which gives nothing away and sets no header of the client's."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    details = response.json()
    assert details["status"] == status and words in details["detail"], details["detail"]
    assert "\n" not in details["detail"] and 10 < len(details["detail"]) < 300
    assert SECRET not in response.text and "Traceback" not in response.text and "/tmp" not in response.text
    assert "set-cookie" not in response.headers


def test_there_are_sixty_and_more() -> None:
    assert len(BAD) >= 60


@pytest.mark.parametrize(("method", "address", "request_", "status", "words"), BAD.values(), ids=BAD)
def test_bad_request(
    client: TestClient, method: str, address: str, request_: dict[str, Any], status: int, words: str
) -> None:
    check(client.request(method, address, **request_), status, words)
    assert client.get("/readyz").status_code == 200


@pytest.mark.parametrize(
    "value",
    ["", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", TOKEN, "Bearer \xe9"],
)
def test_a_wrong_token(value: str) -> None:
    with serving(ToneEngine(), host="0.0.0.0", token=TOKEN) as client:
        for method, address in (("POST", DESCRIBE), ("POST", SEARCH), ("GET", "/v1/photos/x"), ("GET", "/metrics")):
            headers = {"Authorization": value.encode("latin-1")} if value else {}
            check(client.request(method, address, headers=headers), 401, "Authorization: Bearer TOKEN")
        assert client.get("/readyz", headers=TOKENS).status_code == 200


def test_after_all_of_them_no_memory_is_held(client: TestClient) -> None:
    assert client.app.state.service.uploads.held == 0  # type: ignore[attr-defined]


async def talk(
    engine: ToneEngine, pieces: list[bytes], headers: dict[str, str], path: str = DESCRIBE, **settings: Any
) -> tuple[list[Any], int]:
    """One request by hand: its body comes in ``pieces``, and then no more -> what was sent, and how much was read."""
    app = create_app(Settings(**settings), engine)  # type: ignore[arg-type]
    engine.ready = True
    raw = [(name.lower().encode(), value.encode()) for name, value in {"Host": "localhost", **headers}.items()]
    scope = {
        "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1", "method": "POST",
        "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "", "headers": raw,
        "client": ("127.0.0.1", 9), "server": ("127.0.0.1", 8080),
    }  # fmt: skip
    sent: list[Any] = []
    read = 0

    async def receive() -> Any:
        nonlocal read
        if read < len(pieces):
            read += 1
            piece = pieces[read - 1]
            return piece if isinstance(piece, dict) else {"type": "http.request", "body": piece, "more_body": True}
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)  # type: ignore[arg-type]
    return sent, read


def told(sent: list[Any]) -> dict[str, Any]:
    details: dict[str, Any] = json.loads(sent[1]["body"])
    assert sent[0]["status"] == details["status"]
    return details


@pytest.mark.parametrize("kind", ["image/jpeg", "multipart/form-data; boundary=x"])
def test_a_slow_body_is_given_up(kind: str) -> None:
    pieces = [b"--x\r\nContent-Disposition: form-data; name=photo; filename=a\r\n\r\n", GOOD[:50]]
    sent, _ = asyncio.run(talk(ToneEngine(), pieces, {"Content-Type": kind}, upload_s=0.01))
    details = told(sent)
    assert details["status"] == 408 and "longer than 0.01 seconds" in details["detail"]
    assert (b"connection", b"close") in sent[0]["headers"]


def test_what_is_too_large_is_not_read() -> None:
    """Neither when its length says so, nor beyond the limit when no length is given."""
    headers = {"Content-Type": "image/jpeg"}
    pieces = [bytes(40_000)] * 100
    sent, read = asyncio.run(talk(ToneEngine(), pieces, {**headers, "Content-Length": "3000000"}, max_bytes=MAX_BYTES))
    assert told(sent)["status"] == 413 and read == 0
    assert (b"connection", b"close") not in sent[0]["headers"]  # it may send the rest, unheard, and then read why
    sent, read = asyncio.run(talk(ToneEngine(), pieces, {**headers, "Content-Length": "9" * 9}, max_bytes=MAX_BYTES))
    assert told(sent)["status"] == 413 and read == 0
    assert (b"connection", b"close") in sent[0]["headers"]
    sent, read = asyncio.run(talk(ToneEngine(), pieces, headers, max_bytes=MAX_BYTES))
    assert told(sent)["status"] == 413 and read == 6
    assert (b"connection", b"close") in sent[0]["headers"]


def test_all_uploads_together_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pixvoice.serving.uploads.MEMORY", 100_000)
    sent, read = asyncio.run(talk(ToneEngine(), [bytes(40_000)] * 9, {"Content-Type": "image/jpeg"}))
    assert told(sent)["status"] == 429 and read == 3
    assert (b"retry-after", b"1") in sent[0]["headers"]


GONE: Any = {"type": "http.disconnect"}
WHOLE: Any = {"type": "http.request", "body": GOOD, "more_body": False}


def test_a_client_that_goes_away_while_it_sends() -> None:
    engine = ToneEngine()
    asyncio.run(talk(engine, [GOOD[:50], GONE], {"Content-Type": "image/jpeg"}))
    assert engine.asked == []


@pytest.mark.parametrize("accept", ["audio/wav", "application/json"])
def test_a_client_that_goes_away_while_it_waits(accept: str) -> None:
    """Its work is cancelled, before anything was sent."""
    engine = ToneEngine()
    engine.hold = asyncio.Event()
    headers = {"Content-Type": "image/jpeg", "Accept": accept}
    asyncio.run(talk(engine, [WHOLE, GONE], headers))
    assert engine.cancelled == 1


def test_a_stream_that_fails_is_cut_off() -> None:
    """The client must be able to tell it from a description that is whole."""
    engine = ToneEngine()
    engine.fail_after, engine.error = 2, TimedOut(30.0)
    sent, _ = asyncio.run(talk(engine, [WHOLE], {"Content-Type": "image/jpeg"}))
    assert sent[0]["status"] == 200 and sum(len(message["body"]) for message in sent[1:]) == 44 + 2 * 4000
    assert all(message["more_body"] for message in sent[1:])
    assert engine.closed == 1
