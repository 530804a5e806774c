"""A port for everybody who speaks HTTP: a reverse proxy whose request path is the mesh's.

``http://HOST:PORT/SERVICE/path``, or any path with ``Host: SERVICE.mesh``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias
from urllib.parse import unquote

from orchestrator.errors import ConfigurationError, QuartermasterError
from orchestrator.mesh.forward import Problem, answer_to, onward
from orchestrator.worker.inference.channel import HttpChannel
from orchestrator.worker.inference.http import (
    CONTINUE,
    LAST_CHUNK,
    HttpAnswer,
    HttpExchange,
    HttpStream,
    chunk,
    encode_answer,
    encode_head,
    first_line,
    framing,
)
from orchestrator.worker.inference.parser import (
    Head,
    HttpError,
    Limits,
    RequestParser,
)

__all__ = ["Authorize", "MeshProxy", "ProxyLimits", "Route"]

_HOST = ".mesh"
_BACKLOG = 512
_NO_BODY = (204, 304)
_log = logging.getLogger(__name__)


Route: TypeAlias = Callable[[str, HttpExchange], Awaitable[Any]]
"""Gets a request to a service answered, by an :class:`HttpStream`:
:meth:`orchestrator.InfrastructureOrchestrator.route_request` for example."""


Authorize: TypeAlias = Callable[[str], str | None]
"""Who has a token; None: nobody. Raises ``PermissionError`` if they may not send requests."""


@dataclass(frozen=True)
class ProxyLimits:
    """How much, and how slow, clients of a :class:`MeshProxy` may be.

    Parameters
    ----------
    head_bytes, body_bytes : int
        Of a request's headers, and of its body.
    buffer_bytes : int
        Of a body that is kept, so that the request can be sent again; a longer one goes on as it
        comes.
    connections : int
        At a time.
    slow_s : float
        For the headers of a request; and how long a client may do nothing in the middle of a body,
        or not read its answer.
    bytes_per_s : float
        Speed that the body of a request must come with, after that.
    idle_s : float
        Between two requests of a connection.
    """

    head_bytes: int = 32 * 1024
    body_bytes: int = 1 << 30
    buffer_bytes: int = 64 * 1024
    connections: int = 4096
    slow_s: float = 10.0
    bytes_per_s: float = 1024.0
    idle_s: float = 60.0


@dataclass(eq=False)
class _Client:
    """A connection, and what it is waited for."""

    channel: HttpChannel
    task: asyncio.Task[None] | None = None
    idle: bool = True
    answered: bool = False  # the answer to its request has begun
    since_s: float = 0.0  # when it became idle, or its request began
    received: int = 0  # bytes until then
    waited_s: float = 0.0  # for it, until then


class MeshProxy:
    """Carries the requests of HTTP clients to services, and answers back, as they come.

    ``X-Request-Timeout-Ms`` is a deadline, which the service gets with what is left of it;
    ``X-Tenant`` says whose bucket a request is taken from; ``X-Request-Id`` goes through, as all
    headers do that are not about one connection. ``Authorization`` is for this port, and stays.

    What goes wrong is said as problem+json: 429 and ``Retry-After`` beyond a limit, 503 and
    ``Retry-After`` if no endpoint answers, 504 if none does in time. An endpoint's own error is
    handed on. An answer that breaks off breaks off for the client, too.

    Parameters
    ----------
    route : callable
        Gets requests answered.
    authorize : callable or None
        Knows tokens; None: nobody needs one.
    host, port : str and int, optional
        Where to listen; port 0: a free one.
    limits : ProxyLimits, optional
        What clients may do.
    """

    def __init__(
        self,
        route: Route,
        authorize: Authorize | None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        limits: ProxyLimits | None = None,
    ) -> None:
        self._route, self._authorize = route, authorize
        self.host, self.port = host, port
        self.limits = limits if limits is not None else ProxyLimits()
        self._clients: set[_Client] = set()
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._closing = False

    @property
    def url(self) -> str:
        """Where it listens."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    async def open(self) -> None:
        """Listen.

        Raises
        ------
        ConfigurationError
            If the port is taken.
        """
        self._closing = False
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                self._new_channel, self.host, self.port, backlog=_BACKLOG
            )
        except OSError as error:
            problem = f"MeshProxy: cannot listen at {self.host}:{self.port} ({error})"
            raise ConfigurationError(f"{problem}; give another port, or 0 for a free one") from None
        self.port = int(self._server.sockets[0].getsockname()[1])
        self._sweep()

    async def close(self, grace_s: float = 5.0) -> None:
        """Take no more requests, and wait for those that are open, for so long."""
        self._closing = True
        if self._server is not None:
            self._server.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
        for client in self._clients:
            if client.idle:
                client.channel.close()
        tasks = [client.task for client in self._clients if client.task is not None]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=grace_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _new_channel(self) -> HttpChannel:
        limits = Limits(self.limits.head_bytes, body_bytes=self.limits.body_bytes)
        return HttpChannel(RequestParser(limits), self._greet)

    def _greet(self, channel: HttpChannel) -> None:
        if self._closing or len(self._clients) >= self.limits.connections:
            detail = f"{len(self._clients)} connections are open; ask later"
            channel.write(_closing(Problem(503, detail, 1.0).answer("/")))
            channel.close()
            return
        client = _Client(channel)
        self._clients.add(client)
        client.task = channel.loop.create_task(self._converse(client))

    async def _converse(self, client: _Client) -> None:
        """Answer the requests of a connection, one after the other."""
        channel = client.channel
        try:
            while not self._closing:
                client.idle, client.answered = True, False
                client.since_s = channel.loop.time()
                head = await channel.head()
                if head is None:
                    return
                client.idle, client.since_s = False, channel.loop.time()
                client.received, client.waited_s = channel.received, channel.waited_s
                if not await self._serve(client, head):
                    return
        except HttpError as error:
            channel.write(_closing(answer_to(error, "/")))
        except (OSError, asyncio.CancelledError):
            channel.abort()  # whoever asked has gone, or nobody waits for them any more
        except Exception:
            _log.exception("a client's connection failed")
            channel.abort()
        finally:
            channel.left = None
            channel.close()
            self._clients.discard(client)

    async def _serve(self, client: _Client, head: Head) -> bool:
        """Get one request answered; whether the connection stays open."""
        channel, answer = client.channel, None
        task = client.task
        try:
            service, exchange = await self._read(channel, head)
            if task is not None and not channel.parser.ended:
                channel.left = partial(_cancel, task)
            answer = await self._route(service, exchange)
        except QuartermasterError as error:
            answer = answer_to(error, head.first[1])
        except _RefusedError as error:
            answer = error.problem.answer(head.first[1])
        except (OSError, asyncio.CancelledError):
            raise
        except Exception:
            _log.exception("a request failed")
            answer = Problem(500, "the mesh failed; see its log").answer(head.first[1])
        keeps = head.keeps and not self._closing and not channel.parser.inside
        client.answered = True
        if isinstance(answer, HttpStream):
            keeps = await _hand_on(channel, head, answer, keeps=keeps)
        else:
            method = head.first[0]
            channel.write(encode_answer(answer, method) if keeps else _closing(answer, method))
            await channel.drain()
        channel.left = None
        return keeps

    async def _read(self, channel: HttpChannel, head: Head) -> tuple[str, HttpExchange]:
        """The service that is asked, and the request as it goes on."""
        self._check_token(head)
        service, path = _target(head)
        fields = onward(head.fields, "authorization", "host")
        headers = dict(fields)
        if len(headers) < len(fields):  # some name comes twice
            headers = {name: head.headers[name] for name in headers}
        method = head.first[0]
        exchange = HttpExchange(method, path, b"", headers)
        _ = exchange.timeout_ms  # what is no number is refused before anything is read
        if head.length == 0:
            channel.at_hand()
            return service, exchange
        if head.headers.get("expect", "").lower() == "100-continue":
            channel.write(CONTINUE)
        body, over = channel.at_hand()
        while not over and len(body) <= self.limits.buffer_bytes:
            piece = await channel.piece()
            body, over = body + piece, not piece
        if over:
            return service, replace(exchange, body=body)
        return service, replace(exchange, rest=_rest(channel, body), length=head.length)

    def _check_token(self, head: Head) -> None:
        if self._authorize is None:
            return
        kind, _, token = head.headers.get("authorization", "").partition(" ")
        try:
            known = kind.lower() == "bearer" and self._authorize(token.strip()) is not None
        except PermissionError as error:
            raise _RefusedError(Problem(403, str(error))) from None
        if not known:
            detail = "no token that is known here; send 'Authorization: Bearer TOKEN'"
            raise _RefusedError(Problem(401, detail, challenge=True))

    # --- slow clients ----------------------------------------------------------------------------

    def _sweep(self) -> None:
        """Hang up on clients that do nothing, or too little."""
        loop = asyncio.get_running_loop()
        for client in list(self._clients):
            self._judge(client, loop.time())
        wait_s = min(self.limits.slow_s, self.limits.idle_s) / 4
        self._sweeper = loop.call_later(wait_s, self._sweep)

    def _judge(self, client: _Client, now_s: float) -> None:
        channel, slow_s = client.channel, self.limits.slow_s
        if channel.writes_since is not None and now_s - channel.writes_since > slow_s:
            channel.abort()
        elif client.idle and not channel.parser.backlog:
            client.received = channel.received
            since_s = channel.reads_since or now_s
            client.waited_s = channel.waited_s + now_s - since_s
            if now_s - client.since_s > self.limits.idle_s:
                channel.close()
        elif channel.reads_since is not None:
            waited_s = channel.waited_s - client.waited_s + now_s - channel.reads_since
            came = 0 if client.idle else channel.received - client.received
            if waited_s <= slow_s + came / self.limits.bytes_per_s:
                return
            if client.answered:
                channel.abort()  # nobody may take a second answer for the rest of the first
            else:
                detail = "the request comes too slowly; send it at once"
                channel.write(_closing(Problem(408, detail).answer("/")))
                channel.close()
                channel.loop.call_later(1.0, channel.abort)


def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()


class _RefusedError(Exception):
    """A request that goes nowhere."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem = problem


def _target(head: Head) -> tuple[str, str]:
    """Service and path that a request is for."""
    target, host = head.first[1], head.headers.get("host")
    if host is None and head.first[2] == "1":
        raise HttpError("the request has no Host; send one")
    if not target.startswith("/"):
        raise HttpError(f"the target is {target!r:.80}; begin it with '/'")
    name = (host or "").partition(":")[0].lower()
    if name.endswith(_HOST):
        return name.removesuffix(_HOST), target
    first, slash, rest = target[1:].partition("/")
    if not slash:
        first, mark, rest = first.partition("?")
        return unquote(first), f"/{mark}{rest}"
    if "?" in first:
        first, _, rest = target[1:].partition("?")
        return unquote(first), f"/?{rest}"
    return unquote(first), f"/{rest}"


async def _rest(channel: HttpChannel, kept: bytes) -> AsyncGenerator[bytes, None]:
    """A body from its beginning, as it comes."""
    yield kept
    while piece := await channel.piece():
        yield piece


def _closing(answer: HttpAnswer, method: str = "GET") -> bytes:
    """The last answer of a connection."""
    headers = {**answer.headers, "connection": "close"}
    return encode_answer(HttpAnswer(answer.status, answer.body, headers), method)


async def _hand_on(channel: HttpChannel, head: Head, answer: HttpStream, *, keeps: bool) -> bool:
    """Send an answer as it comes; whether the connection stays open."""
    fields = onward(answer.fields)
    old = head.first[2] != "1"
    chunked = False
    if head.first[0] == "HEAD":
        fields += [field for field in answer.fields if field[0] == "content-length"]
    elif answer.status not in _NO_BODY:
        chunked = answer.length is None and not old
        if answer.length is not None or chunked:
            fields.append(framing(answer.length))
    keeps = keeps and (chunked or answer.length is not None)
    if not keeps:
        fields.append(("connection", "close"))
    elif old:
        fields.append(("connection", "keep-alive"))
    data = encode_head(first_line(answer.status), fields)
    if answer.whole:
        channel.write(data + answer.body)
        await channel.drain()
        return keeps
    channel.write(data)
    try:
        async with contextlib.aclosing(answer.pieces()) as pieces:
            async for piece in pieces:
                channel.write(chunk(piece) if chunked else piece)
                await channel.drain()
    except Exception as error:
        _log.info("an answer broke off: %s", error)
        channel.abort()  # nobody may take what there is for all
        return False
    channel.write(LAST_CHUNK if chunked else b"")
    return keeps
