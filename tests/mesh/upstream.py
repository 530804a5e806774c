"""A mesh over real sockets: upstream servers that do as they are told, and a proxy before them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, TypeAlias

from orchestrator.clock import WallClock
from orchestrator.mesh import HttpTransport, MeshProxy, ServiceMesh, ServiceSpec
from orchestrator.worker.inference.channel import HttpChannel
from orchestrator.worker.inference.http import HttpAnswer, encode_answer
from orchestrator.worker.inference.parser import Head, RequestParser

Handler: TypeAlias = Callable[[HttpChannel, Head], Awaitable[bool | None]]
"""Answers a request; False: the connection ends with it."""


def say(status: int = 200, body: bytes = b"", **headers: str) -> Handler:
    """Answers everything like this, once its body is read."""

    async def handle(channel: HttpChannel, head: Head) -> None:
        await channel.whole(1 << 30)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        channel.write(encode_answer(HttpAnswer(status, body, named)))

    return handle


async def echo(channel: HttpChannel, head: Head) -> None:
    """Answers by the request: first line, headers, body."""
    body = await channel.whole(1 << 30)
    said = "\n".join([" ".join(head.first), *[f"{name}: {value}" for name, value in head.fields]])
    channel.write(encode_answer(HttpAnswer(200, f"{said}\n\n".encode() + body)))


class Upstream:
    """A server on a free port."""

    def __init__(self, handle: Handler) -> None:
        self.handle = handle
        self.heads: list[Head] = []
        self.channels: list[HttpChannel] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> str:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: HttpChannel(RequestParser(), self._greet), "127.0.0.1", 0
        )
        host, port = self._server.sockets[0].getsockname()
        return f"{host}:{port}"

    def _greet(self, channel: HttpChannel) -> None:
        self.channels.append(channel)
        task = channel.loop.create_task(self._converse(channel))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _converse(self, channel: HttpChannel) -> None:
        with suppress(OSError):
            while (head := await channel.head()) is not None:
                self.heads.append(head)
                if await self.handle(channel, head) is False:
                    break
        channel.close()

    async def close(self) -> None:
        self._server.close()
        for channel in self.channels:
            channel.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def place(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)


@asynccontextmanager
async def proxied(
    *handlers: Handler, authorize: Any = None, limits: Any = None, **rules: Any
) -> AsyncIterator[tuple[MeshProxy, ServiceMesh, list[Upstream]]]:
    """A proxy before service ``llm`` of one endpoint for each handler."""
    async with AsyncExitStack() as stack:
        transport = HttpTransport(place)
        stack.push_async_callback(transport.close)
        mesh = ServiceMesh(WallClock(), transport)
        mesh.add_service(ServiceSpec("llm", 10.0, **rules))
        upstreams = [Upstream(handle) for handle in handlers]
        for upstream in upstreams:
            mesh.register("llm", await upstream.open())
            stack.push_async_callback(upstream.close)
        proxy = MeshProxy(mesh.route, authorize, limits=limits)
        await proxy.open()
        stack.push_async_callback(proxy.close)
        yield proxy, mesh, upstreams


async def ask_raw(proxy: MeshProxy, said: bytes, *, until: bytes | None = None) -> bytes:
    """What comes back for some bytes: all until the connection ends, or until some bytes."""
    reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
    try:
        writer.write(said)
        if until is not None:
            return await asyncio.wait_for(reader.readuntil(until), 10)
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()
