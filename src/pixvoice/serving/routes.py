"""The addresses: what each takes, asks the engine for, and answers."""

from __future__ import annotations

import asyncio
import base64
import logging
import time
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from pixvoice.audio import pcm16_bytes, wav_bytes, wav_header
from pixvoice.contracts import Audio
from pixvoice.errors import InputError, PixVoiceError
from pixvoice.runtime.describer import Description
from pixvoice.runtime.indexing import PHOTO_SIDE
from pixvoice.runtime.searcher import Match
from pixvoice.serving.accept import choose
from pixvoice.serving.engine import Engine
from pixvoice.serving.metrics import CONTENT_TYPE
from pixvoice.serving.photos import Photos
from pixvoice.serving.problems import Problem, sentence
from pixvoice.serving.schemas import (
    ID_PATTERN,
    Completed,
    DescribeQuery,
    Found,
    Info,
    PhotoQuery,
    Results,
    SearchQuery,
    Spoken,
    Status,
    Timings,
    form_body,
    json_answer,
    problems,
    upload_body,
)
from pixvoice.serving.settings import Settings
from pixvoice.serving.uploads import Uploads

WAV, JSON = "audio/wav", "application/json"
_FRESH = {"Cache-Control": "no-store"}
_LOG = logging.getLogger("pixvoice.serving")
_UPLOAD_PROBLEMS = (400, 401, 403, 404, 406, 408, 413, 415, 422, 429, 503, 504)

T = TypeVar("T")
Q = TypeVar("Q", bound=BaseModel)
router = APIRouter(default_response_class=Response)


@dataclass
class Service:
    """What the addresses stand on."""

    settings: Settings
    engine: Engine
    uploads: Uploads
    photos: Photos


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


Here = Annotated[Service, Depends(_service)]


@router.post(
    "/v1/describe",
    summary="Describe a photo aloud",
    responses={
        200: {
            "description": "Speech: a WAV that comes as it is made (its header leaves the length open), or JSON.",
            "content": {
                WAV: {"schema": {"type": "string", "format": "binary"}},
                JSON: {"schema": {"$ref": "#/components/schemas/Spoken"}},
            },
        },
        **problems(*(status for status in _UPLOAD_PROBLEMS if status != 404)),
    },
    openapi_extra=upload_body({"photo": "The photo: JPEG, PNG, WebP, GIF, TIFF, ..."}, DescribeQuery),
)
async def describe(request: Request, here: Here, query: Annotated[DescribeQuery, Query()]) -> Response:
    """With Accept: audio/wav, greedy speech that begins at once; with application/json, the best there is."""
    kind = choose(request.headers.get("accept"), (WAV, JSON))
    with here.uploads.share() as share:
        upload = await here.uploads.receive(request, share, ("photo",))
        options = _merge(query, upload.fields)
        photo = await here.uploads.photo(upload.data, share, here.engine.photo_side)
        if kind == WAV:
            pieces = here.engine.stream(photo, options.length, options.seed)
            return Speech(await _unless_gone(request, _first(pieces)), pieces, here.engine.sample_rate)
        begun = time.monotonic()
        asked = here.engine.describe_timed(photo, options.length, options.seed)
        spoken, waited_s = await _unless_gone(request, asked)
    return _json(_spoken(spoken, waited_s, begun))


@router.post(
    "/v1/complete",
    summary="Complete a spoken description",
    responses={
        200: {
            "description": "The whole utterance: a WAV, or JSON.",
            "content": {
                WAV: {"schema": {"type": "string", "format": "binary"}},
                JSON: {"schema": {"$ref": "#/components/schemas/Completed"}},
            },
        },
        **problems(*(status for status in _UPLOAD_PROBLEMS if status != 404)),
    },
    openapi_extra=form_body(
        {"photo": "The photo.", "beginning": "Recorded speech to go on from: WAV, FLAC, OGG, MP3."}, DescribeQuery
    ),
)
async def complete(request: Request, here: Here, query: Annotated[DescribeQuery, Query()]) -> Response:
    """The best utterance about the photo that begins with the recording, as the model's codec says it."""
    kind = choose(request.headers.get("accept"), (WAV, JSON))
    with here.uploads.share() as share:
        form = await here.uploads.receive_all(request, share, ("photo", "beginning"))
        options = _merge(query, form.fields)
        photo = await here.uploads.photo(form.files["photo"], share, here.engine.photo_side)
        beginning = form.files["beginning"]
        await here.uploads.check_speech(beginning)
        begun = time.monotonic()
        asked = here.engine.complete_timed(photo, beginning, options.length, options.seed)
        spoken, waited_s = await _unless_gone(request, asked)
    if kind == WAV:
        return Response(wav_bytes(spoken.audio, spoken.sample_rate), headers=_FRESH, media_type=WAV)
    answer = _spoken(spoken, waited_s, begun)
    return _json(Completed(**answer.model_dump(), generated_from_s=round(spoken.generated_from_s, 3)))


@router.post(
    "/v1/search",
    summary="Find photos by speech, or by a photo",
    responses={**json_answer(Results, "The photos, best first."), **problems(*_UPLOAD_PROBLEMS)},
    openapi_extra=upload_body(
        {"speech": "A recording of the query: WAV, FLAC, OGG, MP3.", "photo": "A photo to find others like it."},
        SearchQuery,
    ),
)
async def search(request: Request, here: Here, query: Annotated[SearchQuery, Query()]) -> Response:
    """The index's photos that are nearest to what is said, or to the photo."""
    choose(request.headers.get("accept"), (JSON,))
    if here.settings.photos is None:
        raise Problem(404, "this service has no photos to search; start it with: pixvoice serve --photos FOLDER")
    with here.uploads.share() as share:
        upload = await here.uploads.receive(request, share, ("speech", "photo"))
        top = _merge(query, upload.fields).top
        heard: str | None = None
        if upload.name == "photo":
            photo = await here.uploads.photo(upload.data, share, PHOTO_SIDE)
            matches = await _unless_gone(request, _of_index(here.engine.search_photo(photo, top)))
        else:
            await here.uploads.check_speech(upload.data)
            asked = here.engine.search_speech(upload.data, top)
            heard, matches = await _unless_gone(request, _of_index(asked))
    return _json(Results(heard=heard, machine_made=True, results=[_found(match, here.photos) for match in matches]))


@router.get(
    "/v1/photos/{id}",
    summary="A photo of the index",
    responses={
        200: {"description": "The photo.", "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}},
        **problems(400, 401, 404, 422),
    },
)
async def photo(
    here: Here,
    id: Annotated[str, Path(description="As a search gave it.", pattern=ID_PATTERN)],
    query: Annotated[PhotoQuery, Query()],
) -> Response:
    """Its thumbnail or its file; only photos of the index have ids."""
    return await here.photos.response(id, query.size)


@router.get(
    "/v1/info",
    summary="What this service is",
    responses={**json_answer(Info, "Version, photos, sample rate."), **problems(400, 401)},
)
async def info(here: Here) -> Response:
    """Version, photos in the index, sample rate."""
    count = await asyncio.to_thread(here.photos.count)
    rate = here.engine.sample_rate
    return _json(Info(version=version("pixvoice"), search=count > 0, photos=count, sample_rate=rate))


@router.get(
    "/healthz",
    summary="Is the process alive?",
    responses={**json_answer(Status, "It is."), **problems(400)},
)
async def healthz() -> Response:
    """Answers as long as the process does."""
    return _json(Status(status="ok"))


@router.get(
    "/readyz",
    summary="Is the service ready?",
    responses={**json_answer(Status, "It is."), **problems(400, 401, 503)},
)
async def readyz(here: Here) -> Response:
    """Answers 200 from when the models are loaded until the service is told to stop."""
    if not here.engine.ready:
        raise Problem(503, "the service isn't ready; ask again in a second", {"Retry-After": "1"})
    return _json(Status(status="ready"))


@router.get(
    "/metrics",
    summary="Figures for Prometheus",
    responses={
        200: {"description": "Counts and times.", "content": {"text/plain": {"schema": {"type": "string"}}}},
        **problems(400, 401),
    },
)
async def metrics(here: Here) -> Response:
    """Counts and times of requests; nothing of what was asked."""
    return Response(here.engine.metrics.render(), headers={**_FRESH, "Content-Type": CONTENT_TYPE})


class Speech(StreamingResponse):
    """A WAV of unknown length, piece by piece; a client that goes away stops the work."""

    def __init__(self, first: Audio | None, pieces: AsyncIterator[Audio], sample_rate: int) -> None:
        self._first, self._pieces, self._rate = first, pieces, sample_rate
        super().__init__(self._bytes(), 200, {**_FRESH, "X-PixVoice-Sample-Rate": str(sample_rate)}, WAV)

    async def _bytes(self) -> AsyncIterator[bytes]:
        yield wav_header(self._rate) + (b"" if self._first is None else pcm16_bytes(self._first))
        async for piece in self._pieces:
            yield pcm16_bytes(piece)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it.  After an error the response stays unfinished: the client sees that the speech is cut off."""
        try:
            await super().__call__(scope, receive, send)
        except PixVoiceError as error:
            _LOG.warning("a description was cut off: %s", error)
        except ClientDisconnect:
            pass
        finally:
            await _close(self._pieces)


async def _first(pieces: AsyncIterator[Audio]) -> Audio | None:
    """The first piece, so that what goes wrong before it still has a status; None for speech without any."""
    try:
        return await anext(pieces, None)
    except BaseException:
        await _close(pieces)
        raise


async def _close(pieces: Any) -> None:
    if hasattr(pieces, "aclose"):
        await pieces.aclose()


async def _unless_gone(request: Request, work: Awaitable[T]) -> T:
    """The result of ``work``, which is cancelled when the client goes away.  Raises ClientDisconnect then."""
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _of_index(work: Awaitable[T]) -> T:
    """What the engine finds; that the index can't be read is the owner's to mend, not the client's."""
    try:
        return await work
    except InputError as error:
        if str(error).startswith("the recording: "):
            raise
        _LOG.error("%s", error)
        raise Problem(503, "the photos can't be searched now; the service's log says why") from None


def _merge(query: Q, fields: dict[str, str]) -> Q:
    """The query with a form's fields, which count where both give a value.  Raises Problem (422)."""
    if not fields:
        return query
    try:
        return type(query).model_validate({**query.model_dump(exclude_unset=True), **fields})
    except ValidationError as error:
        raise Problem(422, sentence(error.errors(), list(type(query).model_fields))) from None


def _found(match: Match, photos: Photos) -> Found:
    name = photos.add(match.path)
    url = f"/v1/photos/{name}"
    return Found(
        id=name,
        score=round(match.score, 4),
        name=match.path.name.encode(errors="replace").decode(),
        url=url,
        thumbnail=f"{url}?size=thumbnail",
        missing=match.missing,
    )


def _spoken(spoken: Description, waited_s: float, begun: float) -> Spoken:
    return Spoken(
        audio=base64.b64encode(wav_bytes(spoken.audio, spoken.sample_rate)).decode(),
        sample_rate=spoken.sample_rate,
        seconds=round(spoken.seconds, 3),
        confidence=round(spoken.confidence, 3),
        confidence_in_words=spoken.confidence_in_words,
        timings=Timings(queue_s=round(waited_s, 4), total_s=round(time.monotonic() - begun, 4)),
    )


def _json(answer: BaseModel) -> Response:
    return JSONResponse(answer.model_dump(), headers=_FRESH)
