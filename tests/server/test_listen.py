"""Clients that are slow, or send too much, on real connections."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from orchestrator.errors import ConfigurationError
from orchestrator.server.guard.gate import Limits
from orchestrator.server.guard.listen import HttpServer, bind
from orchestrator.server.guard.tokens import Role
from tests.server.world import World, until, world

_LIMITS = Limits(
    body_bytes=1000, body_s=0.3, header_bytes=2000, header_s=0.3, requests_per_s=0.0, streams=1
)


@asynccontextmanager
async def _listening(limits: Limits = _LIMITS) -> AsyncIterator[tuple[World, int]]:
    async with world(limits) as here:
        server = HttpServer(here.app, bind("127.0.0.1", 0), limits, stop_s=1)
        await server.open()
        try:
            yield here, server.port
        finally:
            here.parts.streams.close()
            await server.close()


async def _said(port: int, *parts: bytes, pause_s: float = 0.0) -> bytes:
    """What is answered to parts of a request until the connection is closed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause_s)
        async with asyncio.timeout(10):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


def _head(here: World, method: str, path: str, *more: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: here", "Connection: close"]
    lines.append(f"Authorization: Bearer {here.texts[Role.OPERATOR]}")
    return "\r\n".join([*lines, *more, "", ""]).encode()


def _status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


def _problem(answer: bytes) -> dict[str, Any]:
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head.lower()
    told: dict[str, Any] = json.loads(body)
    return told


async def test_a_request_is_answered_and_another_on_the_same_connection() -> None:
    async with _listening() as (here, port):
        request = _head(here, "GET", "/api/v1/version").replace(b"Connection: close\r\n", b"")
        last = _head(here, "GET", "/api/v1/version")
        answer = await _said(port, request, last)
        assert answer.count(b"HTTP/1.1 200") == 2
        assert b"server:" not in answer.lower()


async def test_who_says_nothing_is_cut_off() -> None:
    async with _listening() as (_, port):
        assert await _said(port) == b""


async def test_who_drips_headers_is_cut_off() -> None:
    """A slow loris: the time counts from the first byte, however often another one comes."""
    async with _listening() as (here, port):
        head = _head(here, "GET", "/api/v1/version")[:-4]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        sent = 0
        with contextlib.suppress(ConnectionError):
            while sent < 60 and not reader.at_eof():
                writer.write(head[sent : sent + 1])
                await writer.drain()
                sent += 1
                await asyncio.sleep(0.05)
            assert await reader.read() == b""
        writer.close()
        assert sent < 30  # it was cut off after 0.3 s, and a drip takes 0.05 s or more


async def test_who_drips_a_body_is_told_and_cut_off() -> None:
    async with _listening() as (here, port):
        head = _head(here, "POST", "/api/v1/jobs", "Content-Length: 500")
        answer = await _said(port, head, b'{"name"')
        assert _status(answer) == 408
        assert "did not come within 0.3 s" in _problem(answer)["detail"]
        assert here.orchestrator.jobs == {}


async def test_headers_that_are_too_large_are_refused() -> None:
    async with _listening() as (here, port):
        answer = await _said(port, _head(here, "GET", "/api/v1/version", "X: " + 4000 * "y"))
        assert _status(answer) == 431
        assert "2000 bytes" in _problem(answer)["detail"]


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    ],
)
async def test_what_is_no_request_is_refused(request_bytes: bytes) -> None:
    async with _listening() as (_, port):
        answer = await _said(port, request_bytes)
        assert _status(answer) == 400
        assert _problem(answer)["title"] == "not a request"


async def test_streams_are_bounded_and_end_with_the_server() -> None:
    async with _listening() as (here, port):
        head = _head(here, "GET", "/api/v1/events/stream")
        first = asyncio.create_task(_said(port, head))
        await until(lambda: here.parts.streams.open > 0)
        second = await _said(port, head)
        assert _status(second) == 503
        assert "being streamed" in _problem(second)["detail"]
        here.parts.streams.close()
        assert _status(await first) == 200
        third = await _said(port, head)
        assert "going down" in _problem(third)["detail"]


async def test_a_client_that_leaves_frees_its_stream() -> None:
    async with _listening() as (here, port):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(_head(here, "GET", "/api/v1/events/stream"))
        await reader.readuntil(b": begin")
        assert here.parts.streams.open == 1
        writer.close()
        await until(lambda: here.parts.streams.open == 0)


async def test_a_port_in_use_is_said() -> None:
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"port {port} of 127.0.0.1 is in use; give"):
            bind("127.0.0.1", port)


def test_an_address_of_another_machine_is_said() -> None:
    with pytest.raises(ConfigurationError, match="give another 'host'"):
        bind("192.0.2.1", 0)
