"""Who may ask, and what a browser may do with the answers: one gate in front of every address."""

from __future__ import annotations

import hmac
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pixvoice.serving.metrics import Metrics
from pixvoice.serving.problems import Problem, problem_response
from pixvoice.serving.settings import Settings

OPEN = ("/", "/healthz")  # and the page's files: what a person needs before there is a token
OPEN_BELOW = "/page/"
LOCAL_HOSTS = frozenset({"127.0.0.1", "localhost", "::1"})
_POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; script-src 'self'; style-src 'self'; "
    "object-src 'none'; base-uri 'none'; frame-ancestors 'none'; form-action 'none'"
)
HEADERS = {
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(self), geolocation=(), payment=(), usb=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_RAW_HEADERS = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]


class Gate:
    """Middleware: refuses strange hosts, foreign pages and missing tokens; adds security headers; answers HEAD; counts.

    A page of another site that a person opens in the same browser can reach a service on loopback: by name (DNS
    rebinding), which the check of Host refuses, and by address, which the check of Origin refuses.
    """

    def __init__(self, app: ASGIApp, settings: Settings, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics
        self.hosts = LOCAL_HOSTS | {settings.host.lower()} if settings.is_local else None
        self.token = settings.token.encode() if settings.token else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send) if scope["type"] == "lifespan" else None
        head = scope["method"] == "HEAD"  # a GET without its body
        scope = {**scope, "method": "GET"} if head else scope

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.metrics.request(getattr(scope.get("route"), "path", "other"), message["status"])
                message = {**message, "headers": [*message["headers"], *_RAW_HEADERS]}
            elif head and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        try:
            self._check(scope["method"], scope["path"], Headers(scope=scope))
        except Problem as problem:
            return await problem_response(problem.status, str(problem), problem.headers)(scope, receive, answer)
        await self.app(scope, receive, answer)

    def _check(self, method: str, path: str, headers: Headers) -> None:
        """Raises Problem for a request that isn't let in."""
        if self.hosts is not None and _host(headers.get("host", "")) not in self.hosts:
            raise Problem(400, "Host isn't this machine; ask for 127.0.0.1 or localhost")
        if method not in ("GET", "OPTIONS") and not _same_origin(headers):
            raise Problem(403, "Origin is another site; only this service's own page and programs may send")
        if self.token is not None and path not in OPEN and not path.startswith(OPEN_BELOW):
            self._check_token(headers.get("authorization", ""))

    def _check_token(self, given: str) -> None:
        scheme, _, token = given.partition(" ")
        assert self.token is not None
        known = hmac.compare_digest(
            token.strip().encode(), self.token
        )  # takes as long for a near miss as for a far one
        if scheme.lower() != "bearer" or not known:
            said = "this token isn't the service's" if given else "the service wants its token"
            challenge = {"WWW-Authenticate": 'Bearer realm="pixvoice"'}
            raise Problem(401, f"{said}; send the header Authorization: Bearer TOKEN", challenge)


def _host(value: str) -> str:
    """The name in a Host header, lower case, without a port; "" for what isn't one."""
    try:
        return (urlsplit(f"//{value}").hostname or "") if "@" not in value else ""
    except ValueError:
        return ""


def _same_origin(headers: Headers) -> bool:
    """Whether no other site's page sends this: programs send no Origin, and the page its own."""
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    if origin is None:
        return True
    try:
        return urlsplit(origin).netloc.lower() == headers.get("host", "").lower() != ""
    except ValueError:
        return False
