"""Listening: the application on a port, in the event loop that is there, against slow clients."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import sys
from collections.abc import Iterator
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from orchestrator.errors import ConfigurationError
from orchestrator.server.guard.gate import Limits
from orchestrator.server.problems import PROBLEM_TYPE, Problem

__all__ = ["HttpServer", "bind"]


def bind(host: str, port: int) -> socket.socket:
    """A socket that is bound and does not listen yet.

    Parameters
    ----------
    host : str
        An address of this machine.
    port : int
        0: a free one.

    Raises
    ------
    ConfigurationError
        If the port is in use, or the address is not this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        problem = f"serve: host '{host}' is unknown ({error.strerror})"
        raise ConfigurationError(f"{problem}; give an address of this machine") from error
    bound = socket.socket(family, kind, protocol)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.setblocking(False)
    except OSError as error:
        bound.close()
        if error.errno == errno.EADDRINUSE:
            problem = f"serve: port {port} of {host} is in use"
            raise ConfigurationError(
                f"{problem}; give another 'port', or 0 for a free one"
            ) from error
        problem = f"serve: cannot listen on {host}:{port} ({error.strerror})"
        raise ConfigurationError(f"{problem}; give another 'host' or 'port'") from error
    return bound


class _Impatient(H11Protocol):
    """A connection whose requests have to begin, and to be told in full, within a time."""

    header_s = Limits().header_s
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Somebody has connected."""
        super().connection_made(transport)
        self._expect_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Somebody has left."""
        self._expect_nothing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        super().data_received(data)
        if self.transport.is_closing():
            return
        if str(self.conn.their_state) != "IDLE":
            self._expect_nothing()
        elif self._deadline is None:
            self._expect_headers()

    def _expect_headers(self) -> None:
        self._deadline = self.loop.call_later(self.header_s, self._give_up)

    def _expect_nothing(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        if not self.transport.is_closing():
            self.transport.abort()

    def send_400_response(self, msg: str) -> None:
        """What has come is not a request, or is too long for one."""
        error: Any = sys.exc_info()[1]
        status = getattr(error, "error_status_hint", 400)
        title, detail = "not a request", "the request is not HTTP as it should be; correct it"
        if status == 431:
            limit = self.config.h11_max_incomplete_event_size
            title, detail = "headers too large", f"line and headers exceed {limit} bytes; send less"
        answer = Problem(title, status if status in (400, 431) else 400, detail).response("")
        body = bytes(answer.body)
        head = f"HTTP/1.1 {answer.status_code} {title.title()}\r\ncontent-type: {PROBLEM_TYPE}\r\n"
        head += f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        self.transport.write(head.encode() + body)
        self.transport.close()


class _Server(uvicorn.Server):
    """Leaves signals to whoever runs it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


class HttpServer:
    """An application that answers on a socket, as long as it is open.

    Parameters
    ----------
    app : ASGIApp
    bound : socket.socket
        See :func:`bind`; closed with this.
    limits : Limits
    stop_s : int
        For how long answers that have begun may go on when it is closed.
    """

    def __init__(
        self, app: ASGIApp, bound: socket.socket, limits: Limits, *, stop_s: int = 2
    ) -> None:
        self._socket = bound
        config = uvicorn.Config(
            app,
            http=type("_Timed", (_Impatient,), {"header_s": limits.header_s}),
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=limits.connections,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=stop_s,
            h11_max_incomplete_event_size=limits.header_bytes,
        )
        self._server = _Server(config)
        self._serving: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._socket.getsockname()[1])

    async def open(self) -> None:
        """Begin to answer."""
        self._serving = asyncio.create_task(self._server.serve([self._socket]), name="http")
        while not self._server.started:
            if self._serving.done():
                self._serving.result()
            await asyncio.sleep(0.005)

    async def close(self) -> None:
        """Take no more requests, let those under way be answered, and leave."""
        if self._serving is None:
            self._socket.close()
            return
        self._server.should_exit = True
        await self._serving
        self._serving = None
