"""Uploads in: bytes up to a limit, within a time, in memory only; their contents decide what they are."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import Request
from PIL import Image
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from pixvoice.audio import read_audio
from pixvoice.errors import MissingToolError
from pixvoice.images import read_image
from pixvoice.serving.engine import TimedOut
from pixvoice.serving.problems import Problem
from pixvoice.serving.settings import MIB, Settings

MEMORY = 512 * MIB  # bytes of uploads and decoded photos, of all requests together
MAX_SPEECH_S = 60  # seconds of a spoken query
_DECODERS = 2  # photos decoded at once
_FIELD_BYTES = 1024  # of a form's field that isn't the file
_FIELDS = 8
_CLOSE = {"Connection": "close"}  # what is left of the body won't be read
_DRAINED = 16  # times the limit: up to there a client can send on, unheard, and then read why its upload was refused

T = TypeVar("T")


@dataclass
class Upload:
    """What a client sent: the file's bytes, under which name, and the form's other fields."""

    name: str  # photo, speech
    data: bytes
    fields: dict[str, str]


@dataclass
class Form:
    """The files of a form by their names, and its other fields."""

    files: dict[str, bytes]
    fields: dict[str, str]


@dataclass
class Share:
    """The memory that one request holds."""

    of: Uploads
    bytes: int = 0

    def take(self, more: int) -> None:
        """Raises Problem (429) when all requests together would hold too much."""
        if self.of.held + more > MEMORY:
            raise Problem(429, "the service holds as many uploads as it can; send it again in a second", _RETRY)
        self.of.held += more
        self.bytes += more


_RETRY = {"Retry-After": "1", **_CLOSE}


@dataclass
class Uploads:
    """Reads the uploads of all requests, and knows how much memory they hold together."""

    settings: Settings
    held: int = 0
    _decoders: CapacityLimiter = field(default_factory=lambda: CapacityLimiter(_DECODERS))

    @contextmanager
    def share(self) -> Iterator[Share]:
        """The memory of one request, given back at its end."""
        share = Share(self)
        try:
            yield share
        finally:
            self.held -= share.bytes

    async def receive_all(self, request: Request, share: Share, names: tuple[str, ...]) -> Form:
        """A form with a file of each of ``names``.  Raises as ``receive`` does."""
        async with self._in_time(request) as kind:
            if kind != "multipart/form-data":
                given = f"Content-Type {kind[:60]}" if kind else "no Content-Type"
                raise Problem(415, f"{given}: send multipart/form-data with {' and '.join(names)}")
            form = await _read_form(request.headers, self._chunks(request, share), names, len(names))
        for name in names:
            if name not in form.files:
                raise Problem(400, f"there is no {name} in the form; send {' and '.join(names)}")
            _not_empty(name, form.files[name])
        return form

    async def receive(self, request: Request, share: Share, names: tuple[str, ...]) -> Upload:
        """A request's file: a form's field of one of ``names``, or the whole body.

        Raises:
            Problem: the body is of no use (400), late (408), too large (413), or of a type that isn't taken (415).
        """
        async with self._in_time(request) as kind:
            if kind == "multipart/form-data":
                form = await _read_form(request.headers, self._chunks(request, share), names, 1)
                if not form.files:
                    raise Problem(400, f"there is no file in the form; send one as {_listed(names)}")
                ((name, data),) = form.files.items()
                upload = Upload(name, data, form.fields)
            else:
                name = _name(kind, names)
                data = b"".join([chunk async for chunk in self._chunks(request, share)])
                upload = Upload(name, data, {})
        _not_empty(upload.name, upload.data)
        return upload

    @asynccontextmanager
    async def _in_time(self, request: Request) -> AsyncIterator[str]:
        """The type of a request's body, which must be read within the time for uploads."""
        if request.headers.get("content-encoding", "identity").lower() != "identity":
            raise Problem(415, "Content-Encoding: send the file as it is")
        try:
            async with asyncio.timeout(self.settings.upload_s):
                yield request.headers.get("content-type", "").partition(";")[0].strip().lower()
        except TimeoutError:
            limit = f"{self.settings.upload_s:g} seconds"
            raise Problem(408, f"the upload took longer than {limit}; send a smaller file", _CLOSE) from None

    async def photo(self, data: bytes, share: Share, at_least: int) -> Image.Image:
        """The bytes of a photo -> the photo, decoded beside the event loop as by ``read_image``.

        Raises:
            InputError: it is no photo, damaged, or has too many pixels.
            Problem: nothing here reads its format (415), or there is no memory for it now (429).
        """
        limit = self.settings.max_pixels
        try:
            image = await self._beside(lambda: read_image(data, at_least=at_least, max_pixels=limit))
        except MissingToolError:  # a HEIC photo, and nothing here that reads it
            raise Problem(415, "the photo: HEIC can't be read by this service; send a JPEG or PNG") from None
        share.take(3 * image.width * image.height)
        return image

    async def check_speech(self, data: bytes) -> None:
        """Read a recording, beside the event loop.  Raises InputError for one that is too long or damaged."""
        await self._beside(lambda: read_audio(data, max_seconds=MAX_SPEECH_S))

    async def _beside(self, work: Callable[[], T]) -> T:
        """Decode in a thread, when one is free.  Raises TimedOut."""
        try:
            async with asyncio.timeout(self.settings.timeout_s):
                return await to_thread.run_sync(work, limiter=self._decoders)
        except TimeoutError:
            raise TimedOut(self.settings.timeout_s) from None

    async def _chunks(self, request: Request, share: Share) -> AsyncIterator[bytes]:
        """The body, piece by piece; nothing after the limit is read."""
        limit, length, size = self.settings.max_bytes, _length(request.headers), 0
        too_large = f"the upload: larger than {limit // 1_000_000} MB; send a smaller file"
        if length > limit:
            raise Problem(413, too_large, _CLOSE if length > _DRAINED * limit else None)
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise Problem(413, too_large, _CLOSE)
            share.take(len(chunk))
            yield chunk


class _Form(MultiPartParser):
    spool_max_size = sys.maxsize  # bytes: a file stays in memory, and the limit on the body is its limit

    def close(self) -> None:
        """Let go of the files, those of a form that broke off among them."""
        for file in self._files_to_close_on_error:
            file.close()


async def _read_form(headers: Headers, chunks: AsyncIterator[bytes], names: tuple[str, ...], most: int) -> Form:
    parser = _Form(headers, chunks, max_files=most, max_fields=_FIELDS, max_part_size=_FIELD_BYTES)  # type: ignore[arg-type]
    try:
        return await _sort_out(await parser.parse(), names)
    except MultiPartException as error:
        said = error.message.rstrip(".")
        raise Problem(400, f"the form can't be read ({said}); send one file as {_listed(names)}") from None
    except (ValueError, LookupError):
        raise Problem(400, f"the form can't be read; send one file as {_listed(names)}") from None
    finally:
        parser.close()


async def _sort_out(form: FormData, names: tuple[str, ...]) -> Form:
    """The files of a form, and its fields."""
    fields: dict[str, str] = {}
    files: dict[str, bytes] = {}
    for key, value in form.multi_items():
        if isinstance(value, UploadFile):
            if key not in names:
                raise Problem(400, f"the file is called {key[:40]!r}; send it as {_listed(names)}")
            if key in files:
                raise Problem(400, f"{key[:40]!r} is given twice; give it once")
            files[key] = await value.read()
        elif key in fields:
            raise Problem(400, f"{key[:40]!r} is given twice; give it once")
        else:
            fields[key] = value
    return Form(files, fields)


def _not_empty(name: str, data: bytes) -> None:
    if not data:
        raise Problem(400, f"the {name}: the file is empty; send a {name}")


def _listed(names: tuple[str, ...]) -> str:
    return " or ".join(names)


def _name(kind: str, names: tuple[str, ...]) -> str:
    """What a body that is no form holds, by the family of its type; its contents are looked at later."""
    family = {"image": "photo", "audio": "speech"}.get(kind.partition("/")[0])
    if family in names:
        return str(family)
    types = " or ".join({"photo": "image/*", "speech": "audio/*"}[name] for name in names)
    given = f"Content-Type {kind[:60]}" if kind else "no Content-Type"
    raise Problem(415, f"{given}: send multipart/form-data with {_listed(names)}, or the file itself as {types}")


def _length(headers: Headers) -> int:
    value = headers.get("content-length", "0")
    return int(value) if value.isdecimal() and len(value) < 20 else 0
