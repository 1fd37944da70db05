"""What goes wrong, as a client is told it: problem details (RFC 9457) with the sentence of the command line."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from pixvoice.errors import InputError, MissingToolError, OptionError, PixVoiceError
from pixvoice.manifest import nearest
from pixvoice.serving.engine import Busy, NotReady, TimedOut

MEDIA_TYPE = "application/problem+json"
_LOG = logging.getLogger("pixvoice.serving")
_SHOWN = 60  # characters of a client's value that are repeated to it
_CLOSED = 499  # nobody reads it: the client went away before the answer


class Problem(PixVoiceError):
    """An answer other than the one that was asked for: a status, one sentence, and headers that belong to it."""

    def __init__(self, status: int, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.headers = dict(headers or {})


def problem_response(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """Status and sentence as application/problem+json."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    return Response(json.dumps(body), status, {"Cache-Control": "no-store", **(headers or {})}, MEDIA_TYPE)


def as_problem(error: PixVoiceError) -> Problem:
    """Which status an error has: 4xx for what the client can mend, 429 and 503 for what time or the owner can."""
    detail = " ".join(str(error).split())
    match error:
        case Problem():
            return error
        case Busy():
            return Problem(429, detail, {"Retry-After": str(error.retry_after)})
        case NotReady():
            return Problem(503, detail, {"Retry-After": "1"})
        case TimedOut():
            return Problem(504, detail)
        case InputError() | OptionError():
            return Problem(422, detail)
        case MissingToolError():
            return Problem(503, detail)
        case _:
            _LOG.error("%s", detail)
            return Problem(503, "the service can't do this now; its log says why")


def add_handlers(app: FastAPI) -> None:
    """Let every error of a route, and of the router itself, become a problem."""
    app.add_exception_handler(PixVoiceError, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(ClientDisconnect, _on_disconnect)
    app.add_exception_handler(Exception, _on_failure)


def sentence(errors: Sequence[Any], allowed: Sequence[str] = ()) -> str:
    """What is wrong in a query or form, from pydantic's list of errors: the first, and how many more there are."""
    first = errors[0]
    name = str(first["loc"][-1]) if first["loc"] else "the query"
    if first["type"] == "extra_forbidden":
        said = (
            f"{name[:_SHOWN]!r}: unknown{nearest(name[:_SHOWN], allowed)}; use {', '.join(allowed) or 'no parameter'}"
        )
    else:
        message = first["msg"].removeprefix("Input ").removeprefix("Value error, ")
        said = f"{name} {str(first['input'])[:_SHOWN]!r}: {message[:1].lower()}{message[1:]}"
    return said if len(errors) == 1 else f"{said} (and {len(errors) - 1} more)"


def _on_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, PixVoiceError)
    problem = as_problem(error)
    return problem_response(problem.status, str(problem), problem.headers)


def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    route = request.scope.get("route")
    dependant = getattr(route, "dependant", None)
    models = [field.field_info.annotation for field in getattr(dependant, "query_params", [])]
    allowed = [name for model in models for name in getattr(model, "model_fields", {})]
    return problem_response(422, sentence(error.errors(), allowed))


def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = error.headers or {}
    match error.status_code:
        case 404:
            detail = "there is nothing at this address; /openapi.json lists the addresses of this service"
        case 405:
            detail = (
                f"this address doesn't take {request.method[:_SHOWN]}; use {headers.get('Allow', 'another method')}"
            )
        case _:
            detail = str(error.detail)
    return problem_response(error.status_code, detail, headers)


def _on_disconnect(request: Request, error: Exception) -> Response:
    return Response(status_code=_CLOSED)


def _on_failure(request: Request, error: Exception) -> Response:
    return problem_response(500, "the service failed at this request; its log says where")
