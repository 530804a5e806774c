"""The gate: every request passes it first. Who asks, how often, how much, and what is written down.

What is not said to be open is closed: a route that forgets to say who may use it is still for those
with a token only, and for submitters if it changes something.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastapi import HTTPException
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from orchestrator.clock import WallClock
from orchestrator.errors import ValidationError
from orchestrator.mesh.policies import RateLimiter
from orchestrator.mesh.specs import LimitSpec
from orchestrator.ports import Clock
from orchestrator.server.guard.tokens import LENGTH, Principal, Role, TokenStore
from orchestrator.server.problems import Problem

__all__ = ["BAD_TOKEN", "OPEN_PATHS", "PRINCIPAL", "Gate", "Limits", "Served", "is_open"]


PRINCIPAL = "quartermaster.principal"
"""Where a request's scope has who asks."""

OPEN_PATHS = frozenset({"/", "/healthz", "/readyz", "/api/v1/openapi.json"})
"""What is answered without a token; besides what lies below ``/page/``: files without data."""

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_ASKING = frozenset({"/api/v1/what-if"})  # questions with a body: they change nothing
_STREAMED = re.compile(r"/api/v1/services/[^/]+/call/")  # these bodies go through, and are not kept
_CONTENT_POLICY = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
_LONGEST = 512  # of a path that is written down, characters

_log = logging.getLogger("orchestrator.server.audit")


@dataclass(frozen=True)
class Limits:
    """What one client may ask of the server.

    Parameters
    ----------
    body_bytes : int
        Most bytes of a request's body.
    body_s : float
        Seconds in which it has to be here.
    header_bytes : int
        Most bytes of a request's line and headers.
    header_s : float
        Seconds in which these have to be here, from the first byte on, or from the connection on.
    requests_per_s, burst : float
        Requests of one token, on average and at once; 0 on average: no limit.
    strangers_per_s : float
        Requests without a good token, all together, that are told what is wrong; 0: all.
    connections : int
        Most of them at once.
    streams : int
        Answers without an end, at once.
    """

    body_bytes: int = 1 << 20
    body_s: float = 20.0
    header_bytes: int = 1 << 15
    header_s: float = 10.0
    requests_per_s: float = 1000.0
    burst: float = 2000.0
    strangers_per_s: float = 200.0
    connections: int = 1024
    streams: int = 256

    def __post_init__(self) -> None:
        """Refuse limits that nothing passes."""
        for name, value in vars(self).items():
            least = 0.0 if name.endswith("_per_s") else 1e-3 if name.endswith("_s") else 1
            if not isinstance(value, int | float) or not value >= least:
                problem, remedy = f"is {value!r}", f"give a number of at least {least:g}"
                raise ValidationError("Limits", name, problem, remedy)


@dataclass(frozen=True)
class Served:
    """A request that was answered.

    Parameters
    ----------
    method, route : str
        ``route`` is the template of its path; empty: there is none for it.
    status : int
        Of the answer; 499: the client did not wait for it.
    seconds : float
        Until the answer began.
    """

    method: str
    route: str
    status: int
    seconds: float


def is_open(path: str) -> bool:
    """Whether a path is answered without a token."""
    return path in OPEN_PATHS or path.startswith("/page/")


class Gate:
    """Stands before the application; pure ASGI, so that answers stream through it.

    Parameters
    ----------
    app : ASGIApp
        Behind it.
    tokens : TokenStore
        Who may come in.
    limits : Limits
    served : callable
        Told of every request.
    clock : Clock or None
        Of the rate limits; None: real time.
    """

    def __init__(
        self,
        app: ASGIApp,
        tokens: TokenStore,
        limits: Limits,
        served: Callable[[Served], None] = lambda request: None,
        clock: Clock | None = None,
    ) -> None:
        self._app, self._tokens, self._limits, self._served = app, tokens, limits, served
        self._clock: Clock = WallClock() if clock is None else clock
        self._rates: dict[str, RateLimiter] = {}
        self._strangers = self._limiter(limits.strangers_per_s, max(limits.strangers_per_s, 1.0))

    def _limiter(self, rate: float, burst: float) -> RateLimiter:
        return RateLimiter(LimitSpec(rate, burst), self._clock.now_ms())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
                return
            await self._app(scope, receive, send)
            return
        visit = _Visit(scope, send)
        try:
            refused = self._refusal(visit)
            if refused is not None:
                await refused.response(visit.path)(scope, receive, visit.send)
            else:
                await self._app(scope, self._bounded(visit, receive), visit.send)
        finally:
            self._note(visit)

    # --- who ------------------------------------------------------------------------------------

    def _refusal(self, visit: _Visit) -> Problem | None:
        """Why a request is not let in; None: it is."""
        now_ms = self._clock.now_ms()
        if visit.header_bytes() > self._limits.header_bytes:
            detail = f"the headers exceed {self._limits.header_bytes} bytes; send less"
            return Problem("headers too large", 431, detail)
        if visit.method not in _SAFE and not visit.is_of_own_origin():
            detail = "the request comes from a page of another origin; send it from a program"
            return Problem("another origin", 403, detail)
        if is_open(visit.path):
            return None if visit.method in _SAFE else _NO_TOKEN
        text = visit.header(b"authorization")
        scheme, _, token = text.partition(" ")
        who = self._tokens.principal(token.strip()) if scheme.lower() == "bearer" else None
        if who is None:
            known = self._strangers.allow(now_ms)
            return (BAD_TOKEN if text else _NO_TOKEN) if known else _TOO_MANY
        visit.scope[PRINCIPAL] = visit.who = who
        if not self._rate_of(who).allow(now_ms):
            return _TOO_MANY
        changes = visit.method not in _SAFE and visit.path not in _ASKING
        if changes and who.role < Role.SUBMITTER:
            return too_low(who, Role.SUBMITTER)
        return self._too_large(visit)

    def _rate_of(self, who: Principal) -> RateLimiter:
        found = self._rates.get(who.name)
        if found is None:
            if len(self._rates) > 2 * len(self._tokens) + 16:
                self._rates.clear()  # of tokens that are gone
            found = self._limiter(self._limits.requests_per_s, self._limits.burst)
            self._rates[who.name] = found
        return found

    # --- how much -------------------------------------------------------------------------------

    def _too_large(self, visit: _Visit) -> Problem | None:
        length = visit.header(b"content-length")
        if visit.streams or not length.isdigit() or int(length) <= self._limits.body_bytes:
            return None
        return Problem("body too large", 413, self._too_large_text())

    def _too_large_text(self) -> str:
        return f"body: it is larger than {self._limits.body_bytes} bytes; send less"

    def _bounded(self, visit: _Visit, receive: Receive) -> Receive:
        """Receive a body that is neither too large nor too slow."""
        if visit.method in _SAFE:
            return receive
        limits, taken = self._limits, 0
        begun_s = time.monotonic()

        async def take() -> Message:
            nonlocal taken
            if visit.body_is_here:
                return await receive()  # says when the client leaves, which may be never
            left_s = limits.body_s if visit.streams else begun_s + limits.body_s - time.monotonic()
            try:
                async with asyncio.timeout(max(left_s, 0.0)):
                    message = await receive()
            except TimeoutError:
                detail = f"body: it did not come within {limits.body_s:g} s; send it faster"
                raise HTTPException(408, detail, {"Connection": "close"}) from None
            taken += len(message.get("body", b""))
            visit.body_is_here = not message.get("more_body", False)
            if taken > limits.body_bytes and not visit.streams:
                raise HTTPException(413, self._too_large_text(), {"Connection": "close"})
            return message

        return take

    # --- what is written down -------------------------------------------------------------------

    def _note(self, visit: _Visit) -> None:
        route = getattr(visit.scope.get("route"), "path", "")
        status = visit.status or 499
        self._served(Served(visit.method, route, status, visit.seconds))
        changes = visit.method not in _SAFE
        level = logging.INFO if changes or status in (401, 403, 429) else logging.DEBUG
        if not _log.isEnabledFor(level):
            return
        told: dict[str, Any] = {
            "who": visit.who.name if visit.who is not None else None,
            "role": visit.who.role.name.lower() if visit.who is not None else None,
            "method": visit.method,
            "path": self._without_tokens(visit.path),
            "status": status,
            "ms": round(1000 * visit.seconds, 3),
        }
        told |= visit.scope.get("state", {}).get("audit", {})
        _log.log(level, "request", extra={"fields": told})

    def _without_tokens(self, path: str) -> str:
        """A path as it may be written down: somebody may put a token there by mistake."""
        parts = path[: _LONGEST + LENGTH].split("/")
        if len(path) > _LONGEST + LENGTH:
            parts[-1] = "..."  # it may be half a token
        hidden = [
            "(token)" if len(part) == LENGTH and self._tokens.principal(part) else part
            for part in parts
        ]
        return "/".join(hidden)[:_LONGEST]


def too_low(who: Principal, role: Role) -> Problem:
    """A token does not allow something."""
    needed, has = role.name.lower(), who.role.name.lower()
    detail = f"token '{who.name}' is a {has}'s, and this needs a {needed}'s; use one of those"
    return Problem("not allowed", 403, detail)


_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="quartermaster"'}
_NO_TOKEN = Problem(
    "no token",
    401,
    "no token was sent; send the header Authorization: Bearer TOKEN",
    "",
    "",
    _CHALLENGE,
)
BAD_TOKEN = Problem(
    "bad token",
    401,
    "the token is unknown or has expired; ask the operator for one",
    "",
    "",
    _CHALLENGE,
)
_TOO_MANY = Problem(
    "too many requests", 429, "too many requests; wait a second", "", "", {"Retry-After": "1"}
)


class _Visit:
    """A request on its way through."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.scope, self._send = scope, send
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.streams = _STREAMED.match(self.path) is not None
        self.who: Principal | None = None
        self.status = 0
        self.seconds = 0.0
        self.body_is_here = False
        self._begun_s = time.perf_counter()

    def header(self, name: bytes) -> str:
        """A header of the request; empty if there is none."""
        for key, value in self.scope["headers"]:
            if key == name:
                return str(value.decode("latin-1"))
        return ""

    def header_bytes(self) -> int:
        """How large the request's line and headers are."""
        sizes = (len(name) + len(value) for name, value in self.scope["headers"])
        return sum(sizes) + len(self.scope.get("raw_path") or b"") + len(self.scope["query_string"])

    def is_of_own_origin(self) -> bool:
        """Whether no browser sends it for a page from elsewhere."""
        origin = self.header(b"origin")
        own = f"{self.scope.get('scheme', 'http')}://{self.header(b'host')}"
        return not origin or origin.lower() == own.lower()

    async def send(self, message: Message) -> None:
        """Pass a part of the answer on; its beginning with what browsers have to know."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.seconds = time.perf_counter() - self._begun_s
            headers = MutableHeaders(scope=message)
            headers["X-Content-Type-Options"] = "nosniff"
            if is_open(self.path):
                headers["Content-Security-Policy"] = _CONTENT_POLICY
                headers["Referrer-Policy"] = "no-referrer"
                headers["X-Frame-Options"] = "DENY"
            else:
                headers.setdefault("Cache-Control", "no-store")
        await self._send(message)
