"""A transport of real requests: HTTP/1.1 on connections that are kept.

Bodies may come in pieces, both ways, and go on as they come. Services answer ``POST /infer`` and
``GET /healthz``; see :class:`orchestrator.worker.InferenceServer`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, cast

from orchestrator.errors import RequestRejectedError
from orchestrator.mesh.attempts import (
    AnsweredError,
    EndpointBusyError,
    NobodyListensError,
    NotSentError,
)
from orchestrator.mesh.probes import HealthCheck
from orchestrator.worker.inference.channel import HttpChannel
from orchestrator.worker.inference.http import (
    LAST_CHUNK,
    HttpAnswer,
    HttpExchange,
    HttpRequest,
    HttpStream,
    chunk,
    encode_request,
)
from orchestrator.worker.inference.parser import AnswerParser, Head, HttpError, Limits

__all__ = ["HttpTransport"]


_IDLE_S = 5.0
_MOST_IDLE = 64  # connections to one endpoint
_MOST_TOLD = 64 * 1024  # bytes of an answer that is an error
_REFUSED, _FAILED = 400, 500  # and above
_BUSY = 503
_MOST_BODY = 64 * 2**20  # bytes of an answer that is read at once
_ANY = ("POST",)  # plain data: any request of it may be sent twice
_ENDLESS = Limits(body_bytes=1 << 60)


_Place: TypeAlias = tuple[str, int]


@dataclass(eq=False)
class _Kept:
    """A connection that nobody uses, and since when."""

    channel: HttpChannel
    since_s: float

    def close(self) -> None:
        if not self.channel.loop.is_closed():
            self.channel.close()


class HttpTransport:
    """Carries requests to replicas, for :class:`orchestrator.mesh.ServiceMesh`.

    Plain data is sent as JSON to ``POST /infer``, and answered by plain data. A
    :class:`orchestrator.worker.inference.http.HttpRequest` is sent as it is, and answered by an
    ``HttpAnswer``; an ``HttpExchange`` by an ``HttpStream`` as soon as the answer begins, whatever
    its status below 500: with the head, or with the first of a body that has a length where the
    request may be sent again, so that it is if nothing but the head comes. For the others an answer
    of 400 to 499 is a :class:`orchestrator.RequestRejectedError`. One of 500 and more, and a
    connection that breaks, are failures of the endpoint; 503 with ``Retry-After`` says that it is
    well and has too much to do.

    Parameters
    ----------
    locate : callable
        Host and port of an address; None: nobody answers there.
    idle_s : float, optional
        For how long a connection that nobody uses is kept.
    """

    def __init__(self, locate: Callable[[str], _Place | None], *, idle_s: float = _IDLE_S) -> None:
        self._locate, self._idle_s = locate, idle_s
        self._idle: dict[_Place, list[_Kept]] = {}
        self._sweeper: tuple[asyncio.AbstractEventLoop, asyncio.TimerHandle] | None = None

    async def __call__(self, address: str, request: Any) -> Any:
        """Get a request answered at an address."""
        place = self._locate(address)
        if place is None:
            raise NotSentError(f"no replica answers at {address}")
        if isinstance(request, HttpExchange):
            return await self._stream(place, request)
        if isinstance(request, HealthCheck):
            return await self._whole(place, HttpRequest("GET", "/healthz"))
        if isinstance(request, HttpRequest):
            return await self._whole(place, request)
        try:
            body = json.dumps(request).encode()
        except (TypeError, ValueError) as error:
            problem = f"the request is no plain data: {error}"
            raise RequestRejectedError(f"{problem}; give what JSON can hold") from None
        headers = {"content-type": "application/json"}
        answer = await self._whole(place, HttpRequest(body=body, headers=headers, methods=_ANY))
        try:
            return json.loads(answer.body)
        except ValueError as error:
            raise HttpError(f"'{address}' answers with what is no JSON: {error}") from error

    async def close(self) -> None:
        """Close the connections that nobody uses."""
        if self._sweeper is not None:
            self._sweeper[1].cancel()
            self._sweeper = None
        for kept in self._idle.values():
            for one in kept:
                one.close()
        self._idle.clear()

    async def _whole(self, place: _Place, request: HttpRequest) -> HttpAnswer:
        """Send a request, read the whole answer, and judge it."""
        channel, head = await self._ask(place, request)
        status, answer = int(head.first[1]), None
        try:
            body, over = channel.at_hand()
            body += b"" if over else await channel.whole(_MOST_BODY)
            answer = HttpAnswer(status, body)
        finally:
            self._part(place, channel, keeps=answer is not None and head.keeps and request.keeps)
        answer = replace(answer, headers=head.headers)
        if status >= _FAILED:
            raise _failure(place, answer)
        if status >= _REFUSED:
            raise RequestRejectedError(_said(answer))
        return answer

    async def _stream(self, place: _Place, request: HttpExchange) -> HttpStream:
        """Send a request, and hand its answer on as soon as it begins."""
        pump: asyncio.Task[None] | None = None
        rest = request.rest

        def send_rest(channel: HttpChannel) -> None:
            nonlocal pump
            if rest is not None:
                pump = asyncio.ensure_future(_pump(channel, request, rest))

        try:
            channel, head = await self._ask(place, request, None if rest is None else send_rest)
        except BaseException as error:
            broken = await _broken(pump)
            if broken is not None and isinstance(error, Exception):
                raise RequestRejectedError(f"its body broke off: {broken}") from broken
            raise
        status = int(head.first[1])
        if status >= _FAILED:
            raise _failure(place, await self._read_little(place, channel, head, pump))
        try:
            body, over = channel.at_hand()
        except HttpError:
            channel.abort()
            await _broken(pump)
            raise
        if over and pump is None:
            self._part(place, channel, keeps=head.keeps)
            return HttpStream(status, head.fields, body, length=len(body))
        pieces = self._pieces(place, channel, head, pump)
        await anext(pieces)  # from now on its end is seen
        if not (body or over) and head.length and request.may_repeat(request.methods):
            # What has a length follows soon. Until it does, another endpoint can be asked; what
            # comes in chunks may be events, and whoever waits for them has its head now.
            body = await anext(pieces)
        return HttpStream(status, head.fields, body, pieces, head.length, channel.abort)

    async def _pieces(
        self,
        place: _Place,
        channel: HttpChannel,
        head: Head,
        pump: asyncio.Task[None] | None,
    ) -> AsyncGenerator[bytes, None]:
        """An empty piece, and those of an answer; then the connection is kept if it is clean."""
        ended = False
        try:
            yield b""
            while piece := await channel.piece():
                yield piece
            ended = True
        finally:
            sent = pump is None or (pump.done() and not pump.cancelled())
            self._part(place, channel, keeps=ended and sent and head.keeps)
            if pump is not None:
                pump.cancel()
                await asyncio.gather(pump, return_exceptions=True)

    async def _read_little(
        self,
        place: _Place,
        channel: HttpChannel,
        head: Head,
        pump: asyncio.Task[None] | None,
    ) -> HttpAnswer:
        """The beginning of an answer that is an error."""
        told, pieces = b"", self._pieces(place, channel, head, pump)
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                told += piece
                if len(told) > _MOST_TOLD:
                    break
        return HttpAnswer(int(head.first[1]), told[:_MOST_TOLD], head.headers)

    async def _ask(
        self,
        place: _Place,
        request: HttpRequest,
        send_rest: Callable[[HttpChannel], None] | None = None,
    ) -> tuple[HttpChannel, Head]:
        """Send a request, and wait for the beginning of its answer.

        Who has closed a connection that was kept has not read the request, most likely: if it may
        be sent again, it is.
        """
        data = encode_request(request, f"{place[0]}:{place[1]}")
        kept = self._take(place) if send_rest is None else None
        if kept is not None:
            head = await _send(kept, request, data, send_rest)
            if head is not None:
                return kept, head
            if request.may_repeat(request.methods):
                kept = None
        if kept is None:
            channel = await self._connect(place)
            head = await _send(channel, request, data, send_rest)
            if head is not None:
                return channel, head
        raise ConnectionError(f"{place[0]}:{place[1]} hung up without an answer")

    async def _connect(self, place: _Place) -> HttpChannel:
        loop = asyncio.get_running_loop()
        try:
            _, channel = await loop.create_connection(_new_channel, *place)
        except ConnectionRefusedError as error:
            problem = f"nobody listens at {place[0]}:{place[1]}"
            raise NobodyListensError(problem) from error
        except OSError as error:
            raise NotSentError(f"{place[0]}:{place[1]} is not reached: {error}") from error
        return channel

    def _take(self, place: _Place) -> HttpChannel | None:
        """A connection that was kept, the last one that was used; None: there is none."""
        kept = self._idle.get(place, [])
        loop = asyncio.get_running_loop()
        while kept:
            one = kept.pop()
            if one.channel.loop is loop and one.channel.fresh:
                return one.channel
            one.close()
        return None

    def _part(self, place: _Place, channel: HttpChannel, *, keeps: bool) -> None:
        """Keep a connection for the next one who asks, or for a while; or hang up.

        Whoever has waited is gone, too, and an answer to nobody would be the next one's.
        """
        kept = self._idle.setdefault(place, [])
        if not keeps or len(kept) >= _MOST_IDLE or not channel.fresh:
            channel.abort()
            return
        kept.append(_Kept(channel, channel.loop.time()))
        if self._sweeper is None or self._sweeper[0] is not channel.loop:
            timer = channel.loop.call_later(self._idle_s, self._sweep)
            self._sweeper = channel.loop, timer

    def _sweep(self) -> None:
        """Close what nobody has used for long."""
        loop = asyncio.get_running_loop()
        self._sweeper = None
        oldest_s = loop.time()
        for place, kept in list(self._idle.items()):
            for one in list(kept):
                gone = one.channel.loop is not loop or not one.channel.fresh
                if gone or loop.time() - one.since_s >= self._idle_s:
                    kept.remove(one)
                    one.close()
            if not kept:
                del self._idle[place]
            oldest_s = min([oldest_s, *[one.since_s for one in kept]])
        if self._idle:
            wait_s = max(self._idle_s - (loop.time() - oldest_s), 0.01)
            self._sweeper = loop, loop.call_later(wait_s, self._sweep)


def _new_channel() -> HttpChannel:
    return HttpChannel(AnswerParser(_ENDLESS))


async def _send(
    channel: HttpChannel,
    request: HttpRequest,
    data: bytes,
    send_rest: Callable[[HttpChannel], None] | None,
) -> Head | None:
    """Head of the answer to a request; None: the connection was closed before there was one."""
    head = None
    try:
        cast(AnswerParser, channel.parser).method = request.method
        channel.write(data)
        if send_rest is not None:
            send_rest(channel)
        head = await channel.head()
        while head is not None and head.first[1].startswith("1"):  # there is more to come
            head = await channel.head()
    finally:
        if head is None:
            channel.abort()
    return head


async def _pump(
    channel: HttpChannel, request: HttpExchange, rest: AsyncGenerator[bytes, None]
) -> None:
    """Send the rest of a request's body, no faster than it is read."""
    chunked = request.length is None
    try:
        async for piece in rest:
            channel.write(chunk(piece) if chunked else piece)
            await channel.drain()
        if chunked:
            channel.write(LAST_CHUNK)
    except ConnectionResetError:
        pass  # who reads no more may have answered
    except Exception:
        channel.abort()  # whoever sends it has failed, and nobody may take it for all
        raise


async def _broken(pump: asyncio.Task[None] | None) -> Exception | None:
    """By what the body of a request that has failed broke off; None: it did not."""
    if pump is None:
        return None
    pump.cancel()
    (said,) = await asyncio.gather(pump, return_exceptions=True)
    return said if isinstance(said, Exception) else None


def _failure(place: _Place, answer: HttpAnswer) -> AnsweredError:
    busy = answer.status == _BUSY and "retry-after" in answer.headers
    kind = EndpointBusyError if busy else AnsweredError
    return kind(f"{place[0]}:{place[1]} answers {_said(answer)}", answer)


def _said(answer: HttpAnswer) -> str:
    """What an answer that is an error says."""
    try:
        told = json.loads(answer.body)["error"]
    except (ValueError, KeyError, TypeError):
        told = answer.body.decode(errors="replace")
    return f"{answer.status}: {told!s:.500}"
