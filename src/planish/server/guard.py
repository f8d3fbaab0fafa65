"""What every request passes first: the Host header, the key and its scope, the content type; and what every answer carries."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from planish.server import keys as ring
from planish.server.loopback import is_loopback
from planish.server.refusal import Refusal

_log = logging.getLogger("planish.server")

ROUTE_SCOPES: dict[str, frozenset[ring.Scope] | None] = {
    "/health/live": None,
    "/health/ready": None,
    "/v1/models": frozenset({"infer", "read"}),
    "/v1/models/{name:path}": frozenset({"infer", "read"}),
    "/v1/chat/completions": frozenset({"infer"}),
    "/v1/completions": frozenset({"infer"}),
    "/v1/feedback": frozenset({"feedback"}),
    "/metrics": frozenset({"read"}),
}
"""Route -> scopes of which a key needs one; None is open to all. A route that is not here is not served."""


class Guard:
    """ASGI middleware. `keys` None means that no key is asked for, which `planish.server.run` allows on loopback only."""

    def __init__(
        self, app: ASGIApp, *, keys: ring.KeyRing | None, hosts: Sequence[str], unproven: bool, seen: Callable[[str, int], None], inside: Callable[[int], None]
    ) -> None:
        self.app = app
        self.keys = keys
        self.hosts = frozenset(host.lower().rstrip(".") for host in hosts)
        self.unproven = unproven
        self.seen = seen
        self.inside = inside

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        route = route_of(scope["path"])

        started = False

        async def answer(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                self.seen(route, message["status"])
                headers = MutableHeaders(scope=message)
                headers["x-content-type-options"] = "nosniff"
                headers["cache-control"] = "no-store"
                if self.unproven:
                    headers["x-planish-unproven"] = "true"
            await send(message)

        self.inside(+1)
        try:
            await self._pass(scope, route, receive, answer)
        except Exception as failure:  # its message and traceback may hold people's text: neither is passed on
            _log.error("%s failed: %s", route, type(failure).__name__)
            if not started:
                refusal = Refusal(500, "the gateway failed", code="internal_error")
                await JSONResponse(refusal.body, refusal.status)(scope, receive, answer)
        finally:
            self.inside(-1)

    async def _pass(self, scope: Scope, route: str, receive: Receive, send: Callable[[Message], Awaitable[None]]) -> None:
        try:
            self._check(Headers(scope=scope), scope["method"], route)
        except Refusal as refusal:
            await JSONResponse(refusal.body, refusal.status, refusal.headers)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _check(self, headers: Headers, method: str, route: str) -> None:
        # Against DNS rebinding: a page on another name must not reach a gateway on loopback through the visitor's browser.
        if not self._known_host(headers.get("host", "")):
            raise Refusal(400, "the Host header names no host of this gateway", code="invalid_host")
        origin = headers.get("origin")
        if origin is not None and not self._known_host(urlsplit(origin).netloc):
            raise Refusal(403, "requests from other origins are refused", code="invalid_origin")
        if route not in ROUTE_SCOPES:
            raise Refusal(404, "there is no such endpoint", code="not_found")
        self._authorise(headers.get("authorization", ""), ROUTE_SCOPES[route])
        if method == "POST" and headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refusal(400, "the content type must be application/json", code="invalid_content_type")

    def _authorise(self, authorization: str, wanted: frozenset[ring.Scope] | None) -> None:
        if self.keys is None or wanted is None:
            return
        scheme, _, secret = authorization.partition(" ")
        held = self.keys.scopes(secret.strip()) if scheme.lower() == "bearer" else None
        if held is None:
            raise Refusal(401, "a valid key is needed: Authorization: Bearer <key>", code="invalid_api_key")
        if not held & wanted:
            raise Refusal(403, "this key lacks the scope " + " or ".join(sorted(wanted)), code="missing_scope")

    def _known_host(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname
        except ValueError:
            return False
        return name is not None and (name.rstrip(".") in self.hosts or is_loopback(name))


def route_of(path: str) -> str:
    """The route a path belongs to, or "other": the metrics' labels are a closed set."""
    if path in ROUTE_SCOPES:
        return path
    return "/v1/models/{name:path}" if path.startswith("/v1/models/") else "other"
