"""A replica's server and the transport that asks it, over real sockets."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from orchestrator.clock import WallClock
from orchestrator.errors import RequestRejectedError, RetriesExhaustedError, ValidationError
from orchestrator.mesh import (
    AnsweredError,
    EndpointBusyError,
    HealthCheck,
    HttpTransport,
    RetrySpec,
    ServiceMesh,
    ServiceSpec,
)
from orchestrator.mesh.attempts import NotSentError
from orchestrator.worker import InferenceServer
from orchestrator.worker.control import Control, SaveOrder, StopOrder
from orchestrator.worker.inference.http import HttpRequest
from orchestrator.worker.inference.parser import HttpError
from tests.runtimes.stage import until


class _Agent(Control):
    """Hears what a replica says."""

    def __init__(self) -> None:
        super().__init__({})
        self.said: list[Any] = []

    def say(self, message: Any) -> None:
        self.said.append(message)

    @property
    def connected(self) -> bool:
        return True


@asynccontextmanager
async def _served(
    predict: Any = lambda x: 2 * x, **options: Any
) -> AsyncIterator[tuple[InferenceServer, HttpTransport, _Agent]]:
    agent = _Agent()
    server = InferenceServer(predict, control=agent, **options)
    running = asyncio.create_task(server.run())
    await until(lambda: agent.said)
    transport = HttpTransport(lambda address: ("127.0.0.1", server.port))
    try:
        yield server, transport, agent
    finally:
        server.stop()
        await asyncio.wait_for(running, 10)
        await transport.close()


async def test_it_answers_and_keeps_the_connection() -> None:
    async with _served() as (server, ask, agent):
        assert agent.said == [{"serving": {"port": server.port}}]
        assert [await ask("a", x) for x in (1, "ab", [2])] == [2, "abab", [2, 2]]
        assert sum(len(kept) for kept in ask._idle.values()) == 1
        health = await ask("a", HealthCheck())
        assert (health.status, json.loads(health.body)) == (200, {"stopped": None})
        assert server.answered == 3
    assert agent.said[-1] == {"serving": {"port": 0}}


async def test_whose_fault_it_is() -> None:
    def predict(given: Any) -> Any:
        if given == "bad":
            raise RequestRejectedError("bad; be good")
        return 1 / given

    async with _served(predict) as (_, ask, _agent):
        with pytest.raises(RequestRejectedError, match="400: bad; be good"):
            await ask("a", "bad")
        with pytest.raises(ConnectionError, match="500: ZeroDivisionError"):
            await ask("a", 0)
        with pytest.raises(RequestRejectedError, match="no plain data"):
            await ask("a", object())
        with pytest.raises(RequestRejectedError, match="404: there are POST /infer"):
            await ask("a", HttpRequest("GET", "/etc/passwd"))
        with pytest.raises(RequestRejectedError, match="the body is no JSON"):
            await ask("a", HttpRequest(body=b"{"))
        with pytest.raises(HttpError, match="without blanks"):
            await ask("a", HttpRequest(path="/ HTTP/1.1\r\nx: y"))
        assert await ask("a", 4) == 0.25
    with pytest.raises(ConnectionError, match="no replica answers at a"):
        await HttpTransport(lambda address: None)("a", 1)
    with pytest.raises(ValidationError, match="field 'threads' is 0"):
        InferenceServer(predict, threads=0)


async def test_told_to_stop_it_finishes_what_is_open_and_what_was_on_its_way() -> None:
    go = threading.Event()
    async with _served(lambda x: go.wait(10) and x, threads=3) as (server, ask, agent):
        open_one = asyncio.create_task(ask("a", 7))
        await until(lambda: server._open)
        server._obey(SaveOrder(5))
        server._obey(StopOrder("its place is needed"))
        with pytest.raises(AnsweredError, match="503"):  # probes hear of it at once
            await ask("a", HealthCheck())
        late = asyncio.create_task(ask("a", 8))  # whoever sent it could not know
        await until(lambda: server._open == 2)
        await until(lambda: server._closing)
        with pytest.raises(ConnectionError):
            await ask("a", 9)
        go.set()
        assert (await open_one, await late) == (7, 8)
        assert server.stopped == "its place is needed"
        told = [{"serving": {"port": server.port}}, {"saved": 5, "step": 0}]
        assert agent.said == [*told, {"serving": {"port": 0}}]


async def test_what_is_too_much_is_refused_at_once() -> None:
    go = threading.Event()
    async with _served(lambda x: go.wait(10) and x, most_open=2) as (server, ask, _):
        open_ones = [asyncio.create_task(ask("a", x)) for x in (1, 2)]
        await until(lambda: server._open == 2)
        with pytest.raises(EndpointBusyError, match="503: 2 requests wait already"):
            await ask("a", 3)
        await ask("a", HealthCheck())  # it is well all the same
        go.set()
        assert [await one for one in open_ones] == [1, 2]


async def test_an_answer_that_nobody_waits_for_is_not_taken_for_another_one() -> None:
    go = threading.Event()

    def predict(given: Any) -> Any:
        return given if given == "now" else go.wait(10) and given

    async with _served(predict, threads=2) as (server, ask, _):
        assert await ask("a", "now") == "now"
        late = asyncio.create_task(ask("a", "late"))
        await until(lambda: server._open)
        late.cancel()
        assert await ask("a", "now") == "now"
        go.set()
        assert [await ask("a", "now") for _ in range(3)] == ["now"] * 3


async def test_a_connection_that_was_closed_meanwhile_is_no_failure() -> None:
    served: list[asyncio.StreamWriter] = []

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n7")
        await writer.drain()
        writer.close()  # without a word

    server = await asyncio.start_server(once, "127.0.0.1", 0)
    place = server.sockets[0].getsockname()[:2]
    ask = HttpTransport(lambda address: place, idle_s=0.05)
    assert [await ask("a", 1) for _ in range(5)] == [7] * 5
    assert len(served) == 5
    await until(lambda: not ask._idle)  # nobody uses it, and it is closed
    server.close()
    await server.wait_closed()


async def test_what_must_not_be_sent_twice_is_not_on_a_kept_connection_either() -> None:
    first_lines: list[bytes] = []

    async def twice(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers the first request of a connection, and hangs up on the second, which it did."""
        for answer in (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n7", b""):
            first_lines.append((await reader.readuntil(b"\r\n\r\n")).split()[0])
            writer.write(answer)
        writer.close()

    server = await asyncio.start_server(twice, "127.0.0.1", 0)
    place = server.sockets[0].getsockname()[:2]
    ask = HttpTransport(lambda address: place)

    async def asked(method: str, *methods: str) -> int:
        """How often a request came that was sent on a kept connection; below 0: it failed."""
        mesh = ServiceMesh(WallClock(), ask)
        mesh.add_service(ServiceSpec("s", 10.0, retry=RetrySpec(attempts=1, methods=methods)))
        mesh.register("s", "a")
        await ask("a", HttpRequest("GET"))
        first_lines.clear()
        try:
            await mesh.route("s", HttpRequest(method))
        except RetriesExhaustedError as error:
            return -99 if isinstance(error.__cause__, NotSentError) else -len(first_lines)
        finally:
            await ask.close()
        return len(first_lines)

    assert await asked("POST", "GET") == -1
    assert await asked("GET", "POST") == -1
    assert await asked("POST", "POST") == 2
    assert await asked("GET", "GET") == 2
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"hello\r\n\r\n", b"a request begins with"),
        (b"POST /infer HTTP/1.1\r\nno header\r\n\r\n", b"is no header"),
        (b"POST /infer HTTP/1.1\r\ncontent-length: -1\r\n\r\n", b"Content-Length is"),
        (b"POST /infer HTTP/1.1\r\ncontent-length: 99999999999\r\n\r\n", b"413 "),
        (b"POST /infer HTTP/1.1\r\ntransfer-encoding: gzip\r\n\r\n", b"send chunks"),
        (b"x" * 200_000, b"are too long"),
        (b"POST /infer HTTP/1.1\r\ncontent-length: 9\r\n\r\n1", b"in the middle of a body"),
        (b"POST /inf", b"in the middle of a message"),
    ],
)
async def test_noise_is_answered_and_harms_nobody(said: bytes, words: bytes) -> None:
    async with _served() as (_, ask, _agent):
        reader, writer = await asyncio.open_connection(*ask._locate("a"))
        writer.write(said)
        writer.write_eof()
        answer = b""
        try:
            answer = await asyncio.wait_for(reader.read(), 10)
        except ConnectionResetError:
            assert len(said) > 100_000  # it hung up with most of it unread
        else:
            assert answer.startswith(b"HTTP/1.1 4")
            assert words in answer
        writer.close()
        assert await ask("a", 2) == 4


async def test_an_error_for_head_has_no_body_and_the_connection_goes_on() -> None:
    async with _served() as (server, _, _agent):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(
            b"HEAD /no HTTP/1.1\r\nHost: x\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
        )
        first = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        assert first.startswith(b"HTTP/1.1 404 ")
        second = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        assert second.startswith(b"HTTP/1.1 200 ")
        writer.close()
