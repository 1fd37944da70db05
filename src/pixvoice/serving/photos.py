"""The photos of the index by opaque ids: a client can name what a search found, and nothing else on this machine."""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from anyio import CapacityLimiter, to_thread
from PIL import Image
from starlette.responses import FileResponse, Response
from starlette.types import Receive, Scope, Send

from pixvoice.errors import InputError, MissingToolError
from pixvoice.runtime.contact_sheet import thumbnail
from pixvoice.runtime.searcher import Searcher
from pixvoice.serving.problems import Problem

Size = Literal["thumbnail", "original"]

ID_LENGTH = 20  # hexadecimal digits
_REFRESH_S = 10.0  # seconds between two looks into the index for ids that aren't known
_CACHE = {"Cache-Control": "private, max-age=300"}
_SHOWN = {  # what browsers show; others are sent as plain bytes
    "JPEG": "image/jpeg", "MPO": "image/jpeg", "PNG": "image/png", "GIF": "image/gif", "WEBP": "image/webp",
    "BMP": "image/bmp", "AVIF": "image/avif",
}  # fmt: skip
_OPENED = [*(_SHOWN.keys() - {"MPO"}), "TIFF", "PPM", "JPEG2000"]  # an MPO is opened as a JPEG
_NO_PHOTO = "there is no photo with this id; ask for one that a search has found"
_GONE = "the photo is in the index, but its file is gone or can't be read any more"


def photo_id(path: Path) -> str:
    """A name for a photo that says nothing about where it lies; the same after a new start."""
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:ID_LENGTH]


class Photos:
    """Ids -> files of the searcher's index, which is looked into again for an id that isn't known yet."""

    def __init__(self, searcher: Callable[[], Searcher | None]) -> None:
        self._searcher = searcher
        self._paths: dict[str, Path] = {}
        self._looked: float | None = None  # when, by the monotonic clock (seconds)
        self._lock = asyncio.Lock()
        self._makers = CapacityLimiter(2)  # thumbnails made at once

    def add(self, path: Path) -> str:
        """Note a photo that was found, and return its id."""
        name = photo_id(path)
        self._paths[name] = path
        return name

    def count(self) -> int:
        """Photos in the index.  Raises InputError."""
        searcher = self._searcher()
        return 0 if searcher is None else searcher.store.count("photos")

    async def response(self, name: str, size: Size) -> Response:
        """The thumbnail or the file of a photo.  Raises Problem (404)."""
        path = await self._find(name)
        try:
            if size == "thumbnail":
                data, _ = await to_thread.run_sync(thumbnail, path, limiter=self._makers)
                return Response(data, 200, _CACHE, "image/jpeg")
            status, kind = await to_thread.run_sync(_look, path)
            return WholeFile(path, headers=_CACHE, media_type=kind, stat_result=status)
        except (InputError, MissingToolError, OSError):
            raise Problem(404, _GONE) from None

    async def _find(self, name: str) -> Path:
        async with self._lock:
            now = time.monotonic()
            if name not in self._paths and (self._looked is None or now - self._looked > _REFRESH_S):
                self._paths |= await to_thread.run_sync(self._known)
                self._looked = time.monotonic()
        if name not in self._paths:
            raise Problem(404, _NO_PHOTO)
        return self._paths[name]

    def _known(self) -> dict[str, Path]:
        searcher = self._searcher()
        return {} if searcher is None else {photo_id(path): path for path in searcher.store.known("photos")}


class WholeFile(FileResponse):
    """A file, from its beginning to its end, whatever part of it is asked for."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        self.headers["accept-ranges"] = "none"
        headers = [(name, value) for name, value in scope["headers"] if name != b"range"]
        await super().__call__({**scope, "headers": headers}, receive, send)


def _look(path: Path) -> tuple[os.stat_result, str]:
    """A file's facts, and its type by its contents.  Raises OSError for a file that is gone or holds no photo."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise FileNotFoundError
    with Image.open(path, formats=_OPENED) as image:
        return status, _SHOWN.get(image.format or "", "application/octet-stream")
