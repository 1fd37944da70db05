"""A client of ``pixvoice serve``, of the standard library alone.

from pixvoice.client import Client

client = Client("http://127.0.0.1:8080")
spoken = client.describe("photo.jpg")
Path("photo.wav").write_bytes(spoken.wav)
for found in client.search(speech="query.wav").results:
    print(found.score, found.name)
"""

from __future__ import annotations

import base64
import http.client
import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from pixvoice.errors import OptionError, PixVoiceError
from pixvoice.files import read_bytes

MAX_BYTES = 500_000_000  # of a file that is sent; the service has a limit of its own
_PIECE = 1 << 14  # bytes of a stream read at once, at most

Source = str | Path | bytes


class ServiceError(PixVoiceError):
    """What the service refused, in its own sentence; ``status`` is 0 where none answered.

    ``retry_after`` is when to come back (seconds), for a service that is busy.
    """

    def __init__(self, message: str, status: int = 0, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


@dataclass(frozen=True)
class Spoken:
    """A spoken description: a 16-bit mono WAV file at ``sample_rate`` Hz, and how sure the machine is."""

    wav: bytes
    sample_rate: int
    seconds: float
    confidence: float
    confidence_in_words: str
    timings: dict[str, float]
    generated_from_s: float = 0.0  # seconds of it that a completed description was begun with


@dataclass(frozen=True)
class Found:
    """A photo that was found; ``score`` is its cosine similarity to the query, ``missing`` that its file is gone."""

    id: str
    score: float
    name: str
    url: str
    thumbnail: str
    missing: bool


@dataclass(frozen=True)
class Results:
    """Photos, best first, and what a machine heard in the speech (None for a search by photo)."""

    heard: str | None
    results: list[Found]


class Client:
    """Asks the service at ``url``; ``token`` is its secret if it has one, ``timeout_s`` how long to wait (seconds).

    Every method raises ServiceError for what the service refuses or when none answers, and InputError for a file that
    can't be read.
    """

    def __init__(self, url: str = "http://127.0.0.1:8080", token: str | None = None, timeout_s: float = 60.0) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise OptionError(f"{url}: no address of a service; give one such as http://127.0.0.1:8080")
        self.url, self.token, self.timeout_s = url.rstrip("/"), token, timeout_s

    def describe(self, photo: Source, length: str = "normal", seed: int | None = None) -> Spoken:
        """The best description of a photo (a path, or the bytes of a file), whole."""
        answer = self._json("POST", self._describe(length, seed), {"photo": photo})
        wav = base64.b64decode(answer.pop("audio"))
        return Spoken(wav, **answer)

    def stream(self, photo: Source, length: str = "normal", seed: int | None = None) -> Iterator[bytes]:
        """A description while it is made: pieces of a WAV whose header (the first 44 bytes) leaves its length open."""
        with self._ask("POST", self._describe(length, seed), {"photo": photo}, "audio/wav") as response:
            while piece := response.read1(_PIECE):
                yield piece

    def complete(self, photo: Source, beginning: Source, length: str = "normal", seed: int | None = None) -> Spoken:
        """The best description of a photo that begins with recorded speech; ``generated_from_s`` says where it ends."""
        path = self._describe(length, seed).replace("describe", "complete", 1)
        answer = self._json("POST", path, {"photo": photo, "beginning": beginning})
        wav = base64.b64decode(answer.pop("audio"))
        return Spoken(wav, **answer)

    def search(self, speech: Source | None = None, photo: Source | None = None, top: int = 10) -> Results:
        """The ``top`` photos nearest to a recording of speech, or most like a photo."""
        if (speech is None) == (photo is None):
            raise OptionError("search with speech or with a photo: give one of them")
        file: dict[str, Source] = {"photo": photo} if photo is not None else {"speech": speech or b""}
        answer = self._json("POST", f"/v1/search?top={top}", file)
        return Results(answer["heard"], [Found(**found) for found in answer["results"]])

    def photo(self, id: str, thumbnail: bool = False) -> bytes:
        """The file of a photo that was found, or a JPEG of it, 320 pixels at most."""
        with self._ask("GET", f"/v1/photos/{quote(id, safe='')}{'?size=thumbnail' if thumbnail else ''}") as response:
            return response.read()

    def info(self) -> dict[str, Any]:
        """``version``, ``search`` (whether there are photos to search), ``photos`` (how many), ``sample_rate`` (Hz)."""
        return self._json("GET", "/v1/info")

    def ready(self) -> bool:
        """Whether the service answers and has its models loaded."""
        try:
            return bool(self._json("GET", "/readyz")["status"] == "ready")
        except ServiceError:
            return False

    def _describe(self, length: str, seed: int | None) -> str:
        return "/v1/describe?" + urlencode({"length": length, **({} if seed is None else {"seed": seed})})

    def _json(self, method: str, path: str, file: dict[str, Source] | None = None) -> dict[str, Any]:
        with self._ask(method, path, file) as response:
            data = response.read()
        try:
            answer: dict[str, Any] = json.loads(data)
        except ValueError:
            raise ServiceError(f"{self.url}: answers, but not as pixvoice serve does; check the address") from None
        return answer

    @contextmanager
    def _ask(
        self, method: str, path: str, file: dict[str, Source] | None = None, accept: str = "*/*"
    ) -> Iterator[http.client.HTTPResponse]:
        """The answer to one request, open for reading; closing it early tells the service to stop."""
        body, headers = _form(file) if file else (None, {})
        headers["Accept"] = "application/json" if accept == "*/*" and method == "POST" else accept
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        parts = urlsplit(self.url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=self.timeout_s)
        try:
            connection.request(method, parts.path + path, body, headers)
            response = connection.getresponse()
            if response.status != 200:
                raise _refusal(response)
            yield response
        except (OSError, http.client.HTTPException) as error:
            raise ServiceError(f"{self.url}: {_reason(error)}; is pixvoice serve running there?") from None
        finally:
            connection.close()


def _form(files: dict[str, Source]) -> tuple[bytes, dict[str, str]]:
    """A form with files, under neutral names: their own stay here."""
    boundary = secrets.token_hex(16)
    body = b""
    for field, source in files.items():
        _, data = read_bytes(source, "photo" if field == "photo" else "recording", MAX_BYTES)
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"; filename="{field}"\r\n\r\n'
        body += head.encode() + data + b"\r\n"
    body += f"--{boundary}--\r\n".encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}


def _refusal(response: http.client.HTTPResponse) -> ServiceError:
    """The problem's own sentence."""
    try:
        detail = str(json.loads(response.read(1 << 16))["detail"])
    except (ValueError, KeyError, TypeError):
        detail = f"the service answered {response.status} {response.reason}"
    wait = response.headers.get("Retry-After", "")
    return ServiceError(" ".join(detail.split()), response.status, int(wait) if wait.isdecimal() else None)


def _reason(error: Exception) -> str:
    if isinstance(error, http.client.IncompleteRead):
        return "the answer was cut off"
    said = error.strerror if isinstance(error, OSError) else None
    return said or " ".join(str(error).split()) or type(error).__name__
