"""The service as an app builder meets it: what each address takes and answers."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
from PIL import Image

import seeing

pytest.importorskip("fastapi", reason="needs the serve extra")
pytest.importorskip("lancedb", reason="needs the search extra")

from starlette.testclient import TestClient

from pixvoice.audio import wav_bytes
from pixvoice.errors import InputError, OptionError
from pixvoice.serving import Settings
from pixvoice.serving.accept import choose
from pixvoice.serving.engine import Busy, NotReady, TimedOut
from pixvoice.serving.problems import Problem
from pixvoice.serving.security import HEADERS
from service import RATE, TOKEN, ToneEngine, indexed, jpeg, serving, tone


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("photos")


@pytest.fixture(scope="module")
def engine(folder: Path) -> ToneEngine:
    return ToneEngine(indexed(folder))


@pytest.fixture(scope="module")
def client(engine: ToneEngine, folder: Path) -> Iterator[TestClient]:
    with serving(engine, photos=folder) as client:
        yield client


def spoken(colour: str, folder: Path) -> bytes:
    return seeing.speech(folder / f".{colour}.wav", colour).read_bytes()


def problem(response: Any) -> dict[str, Any]:
    """The problem details of an answer, which must hold all of them."""
    assert response.headers["content-type"] == "application/problem+json"
    details: dict[str, Any] = response.json()
    assert set(details) == {"type", "title", "status", "detail"} and details["status"] == response.status_code
    assert details["detail"] and "\n" not in details["detail"]
    return details


def test_describe_streams_a_wav(client: TestClient, engine: ToneEngine) -> None:
    response = client.post("/v1/describe?length=short&seed=3", files={"photo": ("x.jpg", jpeg())})
    assert response.status_code == 200
    assert response.headers["content-type"] == "audio/wav"
    assert response.headers["x-pixvoice-sample-rate"] == str(RATE)
    assert "content-length" not in response.headers
    assert response.content[:4] == b"RIFF" and response.content[4:8] == b"\xff" * 4
    audio, rate = sf.read(io.BytesIO(response.content), dtype="float32")
    assert rate == RATE and np.allclose(audio, tone(), atol=1e-4)
    assert engine.asked[-1] == ((48, 32), "short", 3)


def test_describe_answers_in_json(client: TestClient) -> None:
    response = client.post("/v1/describe", files={"photo": jpeg()}, headers={"Accept": "application/json"})
    answer = response.json()
    audio, rate = sf.read(io.BytesIO(base64.b64decode(answer.pop("audio"))), dtype="float32")
    assert np.allclose(audio, tone(), atol=1e-4)
    timings = answer.pop("timings")
    assert set(timings) == {"queue_s", "total_s"} and timings["total_s"] >= timings["queue_s"] >= 0
    assert answer == {"sample_rate": rate, "seconds": 0.5, "confidence": 0.6, "confidence_in_words": "fairly sure"}


def test_a_beginning_is_completed(client: TestClient, engine: ToneEngine) -> None:
    files = {"photo": ("x.jpg", jpeg()), "beginning": ("y.wav", wav_bytes(tone()))}
    response = client.post("/v1/complete", files=files, data={"length": "long"})
    assert response.headers["content-type"] == "audio/wav"
    audio, rate = sf.read(io.BytesIO(response.content), dtype="float32")
    assert rate == RATE and np.allclose(audio, tone(), atol=1e-4)
    assert engine.asked[-1] == ((48, 32), wav_bytes(tone()), "long", None)
    answer = client.post("/v1/complete", files=files, headers={"Accept": "application/json"}).json()
    assert answer["generated_from_s"] == 0.2 and answer["seconds"] == 0.5


@pytest.mark.parametrize(
    ("files", "kind", "status", "said"),
    [
        ({"photo": jpeg()}, None, 400, "there is no beginning"),
        ({"photo": jpeg(), "beginning": b""}, None, 400, "the beginning: the file is empty"),
        ({"photo": jpeg(), "beginning": b"noise"}, None, 422, "the recording"),
        ({"photo": b"noise", "beginning": wav_bytes(tone())}, None, 422, "the photo"),
        ({"photo": jpeg(), "speech": wav_bytes(tone())}, None, 400, "'speech'"),
        (None, "image/jpeg", 415, "photo and beginning"),
    ],
)
def test_what_can_not_be_completed(
    client: TestClient, files: dict[str, bytes] | None, kind: str | None, status: int, said: str
) -> None:
    if files is None:
        response = client.post("/v1/complete", content=jpeg(), headers={"Content-Type": kind or ""})
    else:
        response = client.post("/v1/complete", files=files)
    assert response.status_code == status and said in problem(response)["detail"]


@pytest.mark.parametrize("kind", ["image/jpeg", "image/png", "image/*", "IMAGE/WEBP; q=1"])
def test_a_photo_may_be_the_body(client: TestClient, kind: str) -> None:
    """Its bytes say what it is, whatever its type is called."""
    assert client.post("/v1/describe", content=jpeg(), headers={"Content-Type": kind}).status_code == 200


def test_a_form_may_hold_the_parameters(client: TestClient, engine: ToneEngine) -> None:
    sent = client.post("/v1/describe", files={"photo": jpeg()}, data={"length": "long", "seed": "7"})
    assert sent.status_code == 200
    assert engine.asked[-1] == ((48, 32), "long", 7)


def test_photos_are_turned_upright(client: TestClient, engine: ToneEngine) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn right
    assert client.post("/v1/describe", files={"photo": jpeg(exif=exif)}).status_code == 200
    assert engine.asked[-1][0] == (32, 48)


def test_a_large_upload_stays_in_memory(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several megabytes, where form parsers begin to write files."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a temporary file was made")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    monkeypatch.setattr("tempfile._io.open", refuse)
    noise = np.random.default_rng(0).integers(0, 256, (1100, 1100, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG", compress_level=0)
    assert len(buffer.getvalue()) > 3_000_000
    assert client.post("/v1/describe", files={"photo": buffer.getvalue()}).status_code == 200


@pytest.mark.parametrize(("colour", "name"), [("red", "rose.png"), ("green", "leaf.png"), ("blue", "sea.png")])
def test_search_by_speech(client: TestClient, tmp_path: Path, colour: str, name: str) -> None:
    response = client.post("/v1/search?top=2", files={"speech": spoken(colour, tmp_path)})
    answer = response.json()
    assert (answer["heard"], answer["machine_made"]) == (colour, True)
    first, second = answer["results"]
    assert first["name"] == name and first["score"] > second["score"] and first["missing"] is False
    assert first["url"] == f"/v1/photos/{first['id']}" and first["thumbnail"] == first["url"] + "?size=thumbnail"


def test_search_by_photo_and_by_body(client: TestClient, tmp_path: Path) -> None:
    answer = client.post("/v1/search", files={"photo": jpeg(colour="blue")}).json()
    assert answer["heard"] is None and answer["results"][0]["name"] == "sea.png"
    body, kind = spoken("green", tmp_path), {"Content-Type": "audio/wav"}
    assert client.post("/v1/search", content=body, headers=kind).json()["results"][0]["name"] == "leaf.png"
    assert client.post("/v1/search", files={"photo": jpeg()}, data={"top": "1"}).json()["results"][1:] == []


def test_photos_are_served_by_their_ids(client: TestClient, folder: Path) -> None:
    found = client.post("/v1/search", files={"photo": jpeg()}).json()["results"][0]
    whole = client.get(found["url"])
    assert whole.content == (folder / found["name"]).read_bytes()
    assert whole.headers["content-type"] == "image/png" and "private" in whole.headers["cache-control"]
    thumbnail = client.get(found["thumbnail"])
    assert thumbnail.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(thumbnail.content)).size == (16, 12)


@pytest.mark.parametrize(
    "value", ["bytes=0-3", "bytes=9-1", "bytes=" + "0-1," * 2000, "lines=1-2", "bytes=-99999999999"]
)
def test_a_range_gets_the_whole_photo(client: TestClient, value: str) -> None:
    found = client.post("/v1/search", files={"photo": jpeg()}).json()["results"][0]
    response = client.get(found["url"], headers={"Range": value})
    assert response.status_code == 200 and response.content == client.get(found["url"]).content


def test_ids_hold_after_a_new_start(client: TestClient, folder: Path) -> None:
    url = client.post("/v1/search", files={"photo": jpeg()}).json()["results"][0]["url"]
    with serving(ToneEngine(indexed(folder)), photos=folder) as another:
        assert another.get(url).content == client.get(url).content


def test_a_photo_whose_file_is_gone(tmp_path: Path) -> None:
    with serving(ToneEngine(indexed(tmp_path)), photos=tmp_path) as client:
        url = client.post("/v1/search", files={"photo": jpeg()}).json()["results"][0]["url"]
        (tmp_path / "rose.png").unlink()
        for address in (url, f"{url}?size=thumbnail"):
            response = client.get(address)
            assert response.status_code == 404 and "gone" in problem(response)["detail"]
        assert client.post("/v1/search", files={"photo": jpeg()}).json()["results"][0]["missing"] is True


def test_info_health_and_readiness(client: TestClient, engine: ToneEngine) -> None:
    info = client.get("/v1/info").json()
    assert info.pop("version") and info == {"search": True, "photos": 3, "sample_rate": RATE}
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready"}
    engine.ready = False
    response = client.get("/readyz")
    engine.ready = True
    assert response.status_code == 503 and response.headers["retry-after"] == "1" and problem(response)
    assert client.get("/healthz").status_code == 200


def test_metrics_are_prometheus_text(client: TestClient) -> None:
    response = client.get("/metrics")
    assert response.status_code == 200 and response.headers["content-type"].startswith("text/plain")
    assert 'pixvoice_requests_total{endpoint="/healthz",status="200"}' in response.text


def test_a_service_without_photos_describes_and_says_so() -> None:
    with serving(ToneEngine()) as client:
        assert client.get("/v1/info").json()["search"] is False
        assert client.post("/v1/describe", files={"photo": jpeg()}).status_code == 200
        response = client.post("/v1/search", files={"photo": jpeg()})
        assert response.status_code == 404 and "--photos FOLDER" in problem(response)["detail"]


def test_head_and_options(client: TestClient) -> None:
    get, head = client.get("/v1/info"), client.head("/v1/info")
    assert head.status_code == 200 and head.content == b""
    assert head.headers["content-length"] == get.headers["content-length"]
    options = client.options("/v1/describe")
    assert options.status_code == 405 and options.headers["allow"] == "POST"


def test_the_page_and_nothing_beside_it(client: TestClient) -> None:
    assert client.get("/").headers["content-type"].startswith("text/html")
    script = client.get("/page/strings.js")
    assert script.status_code == 200 and script.headers["content-type"].startswith("text/javascript")


@pytest.mark.parametrize(
    "path", ["/", "/page/strings.js", "/healthz", "/v1/info", "/nothing", "/v1/photos/x", "/openapi.json"]
)
def test_every_answer_has_the_security_headers(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    assert {name: headers[name] for name in HEADERS} == HEADERS
    assert "server" not in headers and "access-control-allow-origin" not in headers


@pytest.mark.parametrize(
    ("error", "status", "headers"),
    [
        (Busy(2), 429, {"retry-after": "2"}),
        (NotReady(), 503, {"retry-after": "1"}),
        (TimedOut(30.0), 504, {}),
        (OptionError("length 'x': use one of short, normal, long"), 422, {}),
        (InputError("the photo: not a photo"), 422, {}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("accept", ["audio/wav", "application/json"])
def test_what_the_engine_refuses(error: Exception, status: int, headers: dict[str, str], accept: str) -> None:
    engine = ToneEngine()
    engine.error = error
    with serving(engine) as client:
        response = client.post("/v1/describe", files={"photo": jpeg()}, headers={"Accept": accept})
        assert response.status_code == status and problem(response)["detail"] == str(error)
        assert {name: response.headers[name] for name in headers} == headers
        engine.error = None
        assert client.post("/v1/describe", files={"photo": jpeg()}).status_code == 200


def test_a_failure_is_a_problem_that_tells_nothing() -> None:
    engine = ToneEngine()
    engine.error = RuntimeError("/secret/path")
    with serving(engine) as client:
        response = client.post("/v1/describe", files={"photo": jpeg()})
        assert response.status_code == 500 and "secret" not in problem(response)["detail"]
        assert client.get("/readyz").status_code == 200


def test_an_index_that_breaks_is_not_the_clients_fault(folder: Path, tmp_path: Path) -> None:
    engine = ToneEngine(indexed(folder))
    engine.error = InputError(f"{folder}: the index can't be read")
    with serving(engine, photos=folder) as client:
        response = client.post("/v1/search", files={"speech": spoken("red", tmp_path)})
        assert response.status_code == 503 and str(folder) not in problem(response)["detail"]


def test_the_document_describes_every_address(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert set(document["paths"]) == {
        "/v1/describe", "/v1/complete", "/v1/search", "/v1/photos/{id}", "/v1/info", "/healthz", "/readyz", "/metrics",
    }  # fmt: skip
    for path, operations in document["paths"].items():
        for operation in operations.values():
            assert operation["summary"] and "200" in operation["responses"], path
    assert "HTTPValidationError" not in json.dumps(document)


def test_a_token_opens_what_it_should() -> None:
    with serving(ToneEngine(), host="0.0.0.0", token=TOKEN) as client:
        for path in ("/", "/page/strings.js", "/healthz"):
            assert client.get(path).status_code == 200
        for path in ("/readyz", "/metrics", "/v1/info", "/openapi.json", "/nothing"):
            response = client.get(path)
            assert response.status_code == 401 and problem(response)
            assert response.headers["www-authenticate"].startswith("Bearer")
        for scheme in ("Bearer", "bearer"):
            headers = {"Authorization": f"{scheme} {TOKEN}", "Host": "photos.example"}
            assert client.get("/v1/info", headers=headers).status_code == 200


def test_settings_refuse_what_is_not_safe() -> None:
    for host in ("0.0.0.0", "::", "192.168.1.5", "photos.example"):
        with pytest.raises(OptionError, match="--token-file"):
            Settings(host=host)
    for host in ("127.0.0.1", "::1", "localhost", "127.0.0.5"):
        assert Settings(host=host).is_local
    with pytest.raises(OptionError, match="--port 70000"):
        Settings(port=70_000)
    with pytest.raises(OptionError, match="timeout_s"):
        Settings(timeout_s=0)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (None, "audio/wav"), ("", "audio/wav"), ("*/*", "audio/wav"), ("audio/*", "audio/wav"),
        ("application/json", "application/json"), ("application/*;q=0.9, audio/wav;q=0.5", "application/json"),
        ("audio/wav;q=0, */*", "application/json"), ("text/html, */*;q=0.1", "audio/wav"),
        ("AUDIO/WAV", "audio/wav"), ("application/json;q=x", "application/json"),
    ],
)  # fmt: skip
def test_accept(accept: str | None, expected: str) -> None:
    assert choose(accept, ("audio/wav", "application/json")) == expected


@pytest.mark.parametrize("accept", ["text/html", "audio/mpeg", "*/*;q=0", "image/*, text/*", ","])
def test_accept_refused(accept: str) -> None:
    with pytest.raises(Problem, match="answers with"):
        choose(accept, ("audio/wav", "application/json"))
