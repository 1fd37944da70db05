"""The service as one ASGI application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from pydantic.json_schema import models_json_schema
from starlette.requests import Request
from starlette.responses import Response

from pixvoice.serving.engine import Engine
from pixvoice.serving.photos import Photos
from pixvoice.serving.problems import Problem, add_handlers
from pixvoice.serving.routes import Service, router
from pixvoice.serving.schemas import SCHEMAS
from pixvoice.serving.security import OPEN, Gate
from pixvoice.serving.settings import Settings
from pixvoice.serving.uploads import Uploads

PAGE = Path(__file__).parent / "page"
_PAGE_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".webmanifest": "application/manifest+json",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
_NO_TELEMETRY: Any = {  # nothing of a request is told to anyone, whatever the environment says
    **dict.fromkeys(("tracing", "metrics", "logs", "operation_spans", "auto_configure"), False),
    "exclude": lambda scope: True,
}
_DESCRIPTION = "Pictures that speak: a photo goes in, a spoken description comes out; speech goes in, photos come out."


def create_app(settings: Settings, engine: Engine | None = None) -> FastAPI:
    """The service for ``settings``, with an ``engine`` of its own unless one is given; it starts and stops it."""
    engine = engine or Engine(settings)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if not engine.ready:
            await engine.start()
        try:
            yield
        finally:
            await engine.stop()

    app = FastAPI(
        title="PixVoice",
        version=version("pixvoice"),
        description=_DESCRIPTION,
        docs_url=None,  # FastAPI's own pages fetch their scripts from another host
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        telemetry=_NO_TELEMETRY,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    app.state.service = Service(settings, engine, Uploads(settings), Photos(lambda: engine.searcher))
    app.include_router(router)
    _add_page(app)
    add_handlers(app)
    app.add_middleware(Gate, settings=settings, metrics=engine.metrics)
    _describe_api(app, settings)
    return app


def _add_page(app: FastAPI) -> None:
    """The page's files by name, read once: a name that isn't one of them leads nowhere."""
    files = {file.name: file.read_bytes() for file in PAGE.glob("*") if file.suffix in _PAGE_TYPES}

    @app.get("/", include_in_schema=False)
    @app.get("/page/{name}", include_in_schema=False)
    async def page(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in files:
            raise Problem(404, "the page has no file of this name")
        return Response(files[name], 200, {"Cache-Control": "no-cache"}, _PAGE_TYPES[Path(name).suffix])


def _describe_api(app: FastAPI, settings: Settings) -> None:
    """Put the schemas of the answers into the OpenAPI document, and the token where one is required."""
    document = app.openapi()
    schemas = models_json_schema(
        [(model, "serialization") for model in SCHEMAS], ref_template="#/components/schemas/{model}"
    )
    components = document.setdefault("components", {})
    components.setdefault("schemas", {}).update(schemas[1]["$defs"])
    if settings.token:
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        for path, operations in document["paths"].items():
            if path not in OPEN:
                for operation in operations.values():
                    operation["security"] = [{"token": []}]
