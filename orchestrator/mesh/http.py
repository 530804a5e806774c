"""A transport of real requests: HTTP/1.1 on connections that are kept.

Services answer ``POST /infer`` and ``GET /healthz``; see
:class:`orchestrator.worker.InferenceServer`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from orchestrator.errors import RequestRejectedError
from orchestrator.mesh.probes import HealthCheck
from orchestrator.worker.inference.http import (
    HttpAnswer,
    HttpError,
    HttpRequest,
    encode_request,
    read_answer,
)

__all__ = ["HttpTransport"]


_IDLE_S = 5.0
_MOST_IDLE = 64  # connections to one endpoint
_LIMIT = 64 * 1024  # bytes that a connection reads ahead
_REFUSED, _FAILED = 400, 500  # and above


_Place: TypeAlias = tuple[str, int]


@dataclass(eq=False)
class _Connection:
    """One that is open, and who closes it if nobody uses it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    loop: asyncio.AbstractEventLoop
    timer: asyncio.TimerHandle | None = None

    @property
    def fresh(self) -> bool:
        """Whether it can be used, here and now."""
        there = self.loop is asyncio.get_running_loop()
        return there and not self.reader.at_eof() and not self.writer.is_closing()

    def close(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        if not self.loop.is_closed():
            self.writer.close()


class HttpTransport:
    """Carries requests to replicas, for :class:`orchestrator.mesh.ServiceMesh`.

    Plain data is sent as JSON to ``POST /infer``, and answered by plain data. A
    :class:`orchestrator.worker.inference.http.HttpRequest` is sent as it is, and answered by an
    ``HttpAnswer``. An answer of 400 to 499 is a :class:`orchestrator.RequestRejectedError`; one of
    500 and more, and a connection that breaks, are failures of the endpoint.

    Parameters
    ----------
    locate : callable
        Host and port of an address; None: nobody answers there.
    idle_s : float, optional
        For how long a connection that nobody uses is kept.
    """

    def __init__(self, locate: Callable[[str], _Place | None], *, idle_s: float = _IDLE_S) -> None:
        self._locate, self._idle_s = locate, idle_s
        self._idle: dict[_Place, list[_Connection]] = {}

    async def __call__(self, address: str, request: Any) -> Any:
        """Get a request answered at an address."""
        place = self._locate(address)
        if place is None:
            raise ConnectionError(f"no replica answers at {address}")
        if isinstance(request, HealthCheck):
            return await self._exchange(place, HttpRequest("GET", "/healthz"))
        if isinstance(request, HttpRequest):
            return await self._exchange(place, request)
        try:
            body = json.dumps(request).encode()
        except (TypeError, ValueError) as error:
            problem = f"the request is no plain data: {error}"
            raise RequestRejectedError(f"{problem}; give what JSON can hold") from None
        headers = {"content-type": "application/json"}
        answer = await self._exchange(place, HttpRequest(body=body, headers=headers))
        try:
            return json.loads(answer.body)
        except ValueError as error:
            raise HttpError(f"'{address}' answers with what is no JSON: {error}") from error

    async def close(self) -> None:
        """Close the connections that nobody uses."""
        for connections in self._idle.values():
            for connection in connections:
                connection.close()
        self._idle.clear()

    async def _exchange(self, place: _Place, request: HttpRequest) -> HttpAnswer:
        """Send a request, and judge the answer."""
        kept = self._take(place)
        answer = None
        if kept is not None:
            # The other side may have closed it meanwhile; then it has not read the request.
            answer = await self._try(place, kept, request)
        if answer is None:
            answer = await self._try(place, await self._connect(place), request)
        if answer is None:
            raise ConnectionError(f"{place[0]}:{place[1]} hung up without an answer")
        if answer.status >= _FAILED:
            raise ConnectionError(f"{place[0]}:{place[1]} answers {_said(answer)}")
        if answer.status >= _REFUSED:
            raise RequestRejectedError(_said(answer))
        return answer

    async def _try(
        self, place: _Place, connection: _Connection, request: HttpRequest
    ) -> HttpAnswer | None:
        """One request on one connection; None if that was closed before there was an answer."""
        answer = None
        try:
            connection.writer.write(encode_request(request, f"{place[0]}:{place[1]}"))
            await connection.writer.drain()
            answer = await read_answer(connection.reader)
        except (ConnectionResetError, BrokenPipeError):
            return None
        finally:
            if answer is not None and answer.keeps and request.keeps:
                self._give(place, connection)
            else:  # whoever has waited is gone, too, and an answer to nobody would be the next one
                connection.close()
        return answer

    async def _connect(self, place: _Place) -> _Connection:
        reader, writer = await asyncio.open_connection(*place, limit=_LIMIT)
        return _Connection(reader, writer, asyncio.get_running_loop())

    def _take(self, place: _Place) -> _Connection | None:
        """A connection that was kept, the last one that was used; None: there is none."""
        connections = self._idle.get(place, [])
        while connections:
            connection = connections.pop()
            if connection.timer is not None:
                connection.timer.cancel()
                connection.timer = None
            if connection.fresh:
                return connection
            connection.close()
        self._idle.pop(place, None)
        return None

    def _give(self, place: _Place, connection: _Connection) -> None:
        """Keep a connection for the next one who asks, or for a while."""
        connections = self._idle.setdefault(place, [])
        if len(connections) >= _MOST_IDLE:
            connection.close()
            return
        connections.append(connection)
        connection.timer = connection.loop.call_later(self._idle_s, self._drop, place, connection)

    def _drop(self, place: _Place, connection: _Connection) -> None:
        connections = self._idle.get(place, [])
        if connection in connections:
            connections.remove(connection)
        if not connections:
            self._idle.pop(place, None)
        connection.close()


def _said(answer: HttpAnswer) -> str:
    """What an answer that is an error says."""
    try:
        told = json.loads(answer.body)["error"]
    except (ValueError, KeyError, TypeError):
        told = answer.body.decode(errors="replace")
    return f"{answer.status}: {told!s:.500}"
