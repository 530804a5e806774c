"""A replica of an inference service: a small HTTP server around a function.

It listens at a free port, which it tells its agent, and so whoever routes requests. Told to stop,
it takes itself off the routes, finishes what it has and what was on its way, and ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import os
import signal
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from orchestrator.errors import RequestRejectedError, ValidationError
from orchestrator.worker.control import Control, Hangup, Order, SaveOrder, StopOrder
from orchestrator.worker.inference.channel import HttpChannel
from orchestrator.worker.inference.http import (
    CONTINUE,
    LAST_CHUNK,
    HttpAnswer,
    HttpRequest,
    HttpStream,
    chunk,
    encode_answer,
    encode_head,
    first_line,
    framing,
)
from orchestrator.worker.inference.parser import Head, HttpError, RequestParser

__all__ = ["InferenceServer"]

_BACKLOG = 512
_LINGER_S = 0.1  # in which whoever routes requests hears that this replica ends
_MOST_BODY = 64 * 2**20  # bytes
_JSON, _EVENTS = "application/json", "text/event-stream"
_BUSY = {"content-type": _JSON, "retry-after": "1"}
_END = object()


_log = logging.getLogger(__name__)


class InferenceServer:
    """Answers ``POST /infer`` with what a function makes of its body, and ``GET /healthz``.

    ::

        server = InferenceServer(lambda inputs: model(torch.tensor(inputs)).tolist())
        server.serve()

    Bodies are JSON. What a function yields, if it is a generator, is sent as it comes, as
    server-sent events (``data: JSON``); it goes on when whoever asked has read most of it, and is
    closed if they hang up. A function that raises :class:`orchestrator.RequestRejectedError` blames
    the request (400); anything else that it raises is the replica's fault (500).

    Parameters
    ----------
    predict : callable
        Takes a request's body as plain data, and returns plain data. It runs in a thread.
    host : str, optional
        Where to listen; empty: where the agent says that its node is reached, else 127.0.0.1.
    port : int, optional
        0: a free one.
    threads : int, optional
        Requests that are worked on at once.
    most_open : int, optional
        Requests that may be there at once, those that wait included; the others get 503.
    control : Control or None, optional
        The line to the agent; None: as the environment says.
    """

    def __init__(
        self,
        predict: Callable[[Any], Any],
        *,
        host: str = "",
        port: int = 0,
        threads: int = 1,
        most_open: int = 64,
        control: Control | None = None,
    ) -> None:
        for field, value, least in (
            ("threads", threads, 1),
            ("most_open", most_open, 1),
            ("port", port, 0),
        ):
            if value < least:
                problem, remedy = f"is {value}", f"give at least {least}"
                raise ValidationError("InferenceServer", field, problem, remedy)
        self._predict, self._threads, self._most_open = predict, threads, most_open
        self._host = host or os.environ.get("QUARTERMASTER_HOST", "") or "127.0.0.1"
        self.port = port
        """Where it listens, once it does."""
        self.stopped: str | None = None
        """Why it stops; None: it does not."""
        self.answered = 0
        self._control = control if control is not None else Control()
        self._open = 0
        self._closing = False
        self._idle: set[HttpChannel] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def serve(self) -> None:
        """Answer requests until told to stop (by the agent, or SIGTERM), and what is open then."""
        asyncio.run(self.run())

    async def run(self) -> None:
        """As :meth:`serve`, in an event loop of one's own."""
        loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="predict")
        server = await loop.create_server(
            lambda: HttpChannel(RequestParser(), self._greet),
            self._host,
            self.port,
            backlog=_BACKLOG,
        )
        self.port = int(server.sockets[0].getsockname()[1])
        main = threading.current_thread() is threading.main_thread()
        if main:
            loop.add_signal_handler(signal.SIGTERM, self.stop, "terminated")
        try:
            self._control.connect(lambda order: _tell(loop, self._obey, order))
            self._announce(self.port)
            await self._stopping.wait()
            self._announce(0)
            if self._control.connected:  # what was sent here before anybody knew is answered
                await asyncio.sleep(_LINGER_S)
            self._closing = True
            server.close()
            for channel in self._idle:
                channel.close()
            while self._tasks:
                await asyncio.wait(self._tasks)
        finally:
            server.close()
            if main:
                loop.remove_signal_handler(signal.SIGTERM)
            self._pool.shutdown(wait=True)
            self._control.close()

    def stop(self, reason: str = "told to stop") -> None:
        """Finish what is open, and end; to be called in the event loop."""
        self.stopped = self.stopped or reason
        self._stopping.set()

    def _obey(self, order: Order) -> None:
        if isinstance(order, StopOrder):
            self.stop(order.reason)
        elif isinstance(order, SaveOrder):  # there is nothing to save
            self._control.say({"saved": order.number, "step": self.answered})
        elif isinstance(order, Hangup):
            self.stop("the agent has hung up")

    def _announce(self, port: int) -> None:
        """Tell the agent where requests go; 0: nowhere any more."""
        self._control.say({"serving": {"port": port}})

    def _greet(self, channel: HttpChannel) -> None:
        task = asyncio.get_running_loop().create_task(self._converse(channel))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _converse(self, channel: HttpChannel) -> None:
        """Answer the requests of a connection, one after the other."""
        try:
            while not self._closing:
                self._idle.add(channel)
                head = await channel.head()
                self._idle.discard(channel)
                if head is None:
                    return
                answer = await self._answer(await _read(channel, head))
                if not await self._tell(channel, head, answer):
                    return
        except HttpError as error:
            answer = HttpAnswer(error.status, _body(error=str(error)), {"connection": "close"})
            channel.write(encode_answer(answer))
        except OSError:
            pass  # whoever asked has gone
        finally:
            self._idle.discard(channel)
            channel.close()

    async def _tell(
        self, channel: HttpChannel, head: Head, answer: HttpAnswer | HttpStream
    ) -> bool:
        """Send an answer; whether the connection stays open."""
        closes = self.stopped is not None or not head.keeps
        bye = {"connection": "close"} if closes else {}
        if isinstance(answer, HttpAnswer):
            kind = {"content-type": _JSON}
            headers = {**kind, **answer.headers, **bye}
            told = HttpAnswer(answer.status, answer.body, headers)
            channel.write(encode_answer(told, head.first[0]))
            await channel.drain()
            return not closes
        chunked = head.first[2] == "1"  # who speaks 1.0 reads to the end of the connection
        bye = bye if chunked else {"connection": "close"}
        fields = [*answer.fields, *bye.items(), *([framing(None)] if chunked else [])]
        channel.write(encode_head(first_line(answer.status), fields))
        try:
            async with contextlib.aclosing(answer.pieces()) as pieces:
                async for piece in pieces:
                    channel.write(chunk(piece) if chunked else piece)
                    await channel.drain()
        except Exception as error:
            if not isinstance(error, ConnectionResetError):
                _log.exception("a request failed when it was half answered")
            channel.abort()  # nobody may take what there is for all
            return False
        channel.write(LAST_CHUNK if chunked else b"")
        return chunked and not closes

    async def _answer(self, request: HttpRequest) -> HttpAnswer | HttpStream:
        if request.path == "/healthz":
            stopped = _body(stopped=self.stopped)
            return HttpAnswer(200, stopped) if self.stopped is None else HttpAnswer(503, stopped)
        if request.path != "/infer" or request.method != "POST":
            return HttpAnswer(404, _body(error="there are POST /infer and GET /healthz"))
        if self._closing:
            return HttpAnswer(503, _body(error="this replica is about to end"), _BUSY)
        if self._open >= self._most_open:
            return HttpAnswer(503, _body(error=f"{self._open} requests wait already"), _BUSY)
        self._open += 1
        streams = False
        try:
            answer = await self._infer(request)
            streams = isinstance(answer, HttpStream)
            return answer
        finally:
            self._open -= not streams  # a stream is open until its end

    async def _infer(self, request: HttpRequest) -> HttpAnswer | HttpStream:
        loop = asyncio.get_running_loop()
        due_s = time.monotonic() + (request.timeout_ms / 1000 or math.inf)
        try:
            given = json.loads(request.body)
        except ValueError as error:
            return HttpAnswer(400, _body(error=f"the body is no JSON: {error}"))
        try:
            result = await loop.run_in_executor(self._pool, self._predict_by, due_s, given)
            if isinstance(result, Generator):
                first = await loop.run_in_executor(self._pool, next, result, _END)
                pieces = self._pieces(result, first)
                return HttpStream(200, (("content-type", _EVENTS),), b"", pieces)
            body = json.dumps(result).encode()
        except RequestRejectedError as error:
            return HttpAnswer(400, _body(error=str(error)))
        except _LateError:
            return HttpAnswer(504, _body(error="its time was up before it was begun"))
        except Exception as error:
            _log.exception("a request failed")
            return HttpAnswer(500, _body(error=f"{type(error).__name__}: {error}"))
        self.answered += 1
        return HttpAnswer(200, body)

    def _predict_by(self, due_s: float, given: Any) -> Any:
        """In a thread of the pool: what nobody waits for any more is not begun."""
        if time.monotonic() >= due_s:
            raise _LateError
        return self._predict(given)

    async def _pieces(
        self, items: Generator[Any, None, None], item: object
    ) -> AsyncGenerator[bytes, None]:
        """Items of a generator as events, each when the one before it was sent."""
        loop = asyncio.get_running_loop()
        try:
            while item is not _END:
                yield b"data: %b\n\n" % json.dumps(item).encode()
                item = await loop.run_in_executor(self._pool, next, items, _END)
            self.answered += 1
        finally:
            self._open -= 1
            with contextlib.suppress(ValueError):  # a thread may be at work in it still
                items.close()


class _LateError(Exception):
    """The time of a request was up before it was begun."""


async def _read(channel: HttpChannel, head: Head) -> HttpRequest:
    """A request with its body."""
    method, path, _ = head.first
    body, over = channel.at_hand()
    if not over:
        if head.headers.get("expect", "").lower() == "100-continue":
            channel.write(CONTINUE)
        body += await channel.whole(_MOST_BODY)
    return HttpRequest(method, path, body, head.headers)


def _body(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def _tell(loop: asyncio.AbstractEventLoop, listener: Callable[[Order], None], order: Order) -> None:
    """Hand an order from the thread that hears it to the event loop, if that still runs."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(listener, order)
