"""A replica of an inference service: a small HTTP server around a function.

It listens at a free port, which it tells its agent, and so whoever routes requests. Told to stop,
it takes itself off the routes, finishes what it has, refuses what is new, and ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from orchestrator.errors import RequestRejectedError, ValidationError
from orchestrator.worker.control import Control, Hangup, Order, SaveOrder, StopOrder
from orchestrator.worker.inference.http import (
    HttpAnswer,
    HttpError,
    HttpRequest,
    encode_answer,
    read_request,
)

__all__ = ["InferenceServer"]

_LIMIT = 64 * 1024  # bytes that a connection reads ahead
_BACKLOG = 512


_log = logging.getLogger(__name__)


class InferenceServer:
    """Answers ``POST /infer`` with what a function makes of its body, and ``GET /healthz``.

    ::

        server = InferenceServer(lambda inputs: model(torch.tensor(inputs)).tolist())
        server.serve()

    Bodies are JSON. A function that raises :class:`orchestrator.RequestRejectedError` blames the
    request (400); anything else that it raises is the replica's fault (500).

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
        self._idle: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def serve(self) -> None:
        """Answer requests until told to stop (by the agent, or SIGTERM), and what is open then."""
        asyncio.run(self.run())

    async def run(self) -> None:
        """As :meth:`serve`, in an event loop of one's own."""
        loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="predict")
        server = await asyncio.start_server(
            self._greet, self._host, self.port, limit=_LIMIT, backlog=_BACKLOG
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
            server.close()
            for writer in self._idle:
                writer.close()
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

    def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._converse(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of a connection, one after the other."""
        try:
            while self.stopped is None:
                self._idle.add(writer)
                request = await read_request(reader)
                self._idle.discard(writer)
                if request is None:
                    return
                answer = await self._answer(request)
                closes = self.stopped is not None or not request.keeps
                headers = {"content-type": "application/json"}
                headers |= {"connection": "close"} if closes else {}
                writer.write(encode_answer(HttpAnswer(answer.status, answer.body, headers)))
                await writer.drain()
                if closes:
                    return
        except HttpError as error:
            with contextlib.suppress(OSError):
                headers = {"connection": "close"}
                writer.write(encode_answer(HttpAnswer(400, _body(error=str(error)), headers)))
        except OSError:
            pass  # whoever asked has gone
        finally:
            self._idle.discard(writer)
            writer.close()

    async def _answer(self, request: HttpRequest) -> HttpAnswer:
        if request.path == "/healthz":
            return HttpAnswer(503 if self.stopped is not None else 200, _body(stopped=self.stopped))
        if request.path != "/infer" or request.method != "POST":
            return HttpAnswer(404, _body(error="there are POST /infer and GET /healthz"))
        if self.stopped is not None:
            return HttpAnswer(503, _body(error="this replica is about to end"))
        if self._open >= self._most_open:
            return HttpAnswer(503, _body(error=f"{self._open} requests wait already"))
        self._open += 1
        try:
            return await self._infer(request)
        finally:
            self._open -= 1

    async def _infer(self, request: HttpRequest) -> HttpAnswer:
        loop = asyncio.get_running_loop()
        try:
            given = json.loads(request.body)
        except ValueError as error:
            return HttpAnswer(400, _body(error=f"the body is no JSON: {error}"))
        try:
            result = await loop.run_in_executor(self._pool, self._predict, given)
            body = json.dumps(result).encode()
        except RequestRejectedError as error:
            return HttpAnswer(400, _body(error=str(error)))
        except Exception as error:
            _log.exception("a request failed")
            return HttpAnswer(500, _body(error=f"{type(error).__name__}: {error}"))
        self.answered += 1
        return HttpAnswer(200, body)


def _body(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def _tell(loop: asyncio.AbstractEventLoop, listener: Callable[[Order], None], order: Order) -> None:
    """Hand an order from the thread that hears it to the event loop, if that still runs."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(listener, order)
