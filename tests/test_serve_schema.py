"""The service holds what its OpenAPI document says, for whatever schemathesis thinks of."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

pytest.importorskip("fastapi", reason="needs the serve extra")
pytest.importorskip("lancedb", reason="needs the search extra")
pytest.importorskip("schemathesis", reason="needs the dev extra")

import schemathesis
from schemathesis.specs.openapi.checks import negative_data_rejection
from schemathesis.transport.serialization import Binary

from pixvoice.audio import wav_bytes
from pixvoice.serving import Settings, create_app
from service import ToneEngine, indexed, jpeg, tone

UPLOADS = [("POST", "/v1/describe"), ("POST", "/v1/complete"), ("POST", "/v1/search")]
PHOTOS = [("GET", "/v1/photos/{id}")]
PLAIN = [("GET", path) for path in ("/v1/info", "/healthz", "/readyz", "/metrics")]
FILES = {"photo": Binary(jpeg()), "speech": Binary(wav_bytes(tone())), "beginning": Binary(wav_bytes(tone()))}


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The document of a service whose engine is warm."""
    folder = tmp_path_factory.mktemp("photos")
    engine = ToneEngine(indexed(folder))
    engine.ready = True
    app = create_app(Settings(photos=folder), engine)  # type: ignore[arg-type]
    return schemathesis.openapi.from_asgi("/openapi.json", app, headers={"Host": "localhost"})


def check(document: Any, method: str, path: str, mode: str) -> None:
    """Send a few requests, and hold every answer against the document."""

    @given(case=document[path][method].as_strategy(generation_mode=schemathesis.GenerationMode[mode]))
    @settings(max_examples=15, suppress_health_check=list(HealthCheck))
    def holds(case: Any) -> None:
        excluded = []
        if mode == "POSITIVE" and isinstance(case.body, Binary | dict):
            case.body = _usable(case.body, case.media_type)
            excluded = [negative_data_rejection]  # it takes every body that was changed for a bad one
        case.call_and_validate(base_url="http://localhost:8080", excluded_checks=excluded)

    holds()


def _usable(body: Any, media_type: str) -> Any:
    """A body with files that can be read: what is in a file is beyond the document."""
    if isinstance(body, dict):
        return body | {name: FILES[name] for name in body if name in FILES}
    return FILES["photo" if media_type.startswith("image/") else "speech"]


@pytest.mark.parametrize(("method", "path"), UPLOADS + PHOTOS + PLAIN)
def test_what_the_document_allows(document: Any, method: str, path: str) -> None:
    check(document, method, path, "POSITIVE")


@pytest.mark.parametrize(("method", "path"), UPLOADS + PHOTOS)
def test_what_the_document_does_not_allow(document: Any, method: str, path: str) -> None:
    check(document, method, path, "NEGATIVE")


def test_every_address_is_tried(document: Any) -> None:
    assert {path for _, path in UPLOADS + PHOTOS + PLAIN} == set(document)
