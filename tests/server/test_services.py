"""Services by HTTP: their rules, how they do, and requests that go through to real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx

from orchestrator.mesh import HttpTransport
from orchestrator.server.guard.tokens import Role
from orchestrator.worker.inference.channel import HttpChannel
from orchestrator.worker.inference.http import LAST_CHUNK, chunk
from orchestrator.worker.inference.parser import Head
from tests.mesh.upstream import Handler, Upstream, echo, place
from tests.server.world import World, problem, until, world

_RULES: dict[str, Any] = {
    "name": "llm",
    "service_ms": 20.0,
    "retry": {"attempts": 1, "methods": ["GET", "POST"]},
    "tenant_limits": {"small": {"rate_rps": 0.001, "burst": 1.0}},
}


@asynccontextmanager
async def _served(handle: Handler) -> AsyncIterator[tuple[World, Upstream]]:
    """A server whose service ``llm`` has one endpoint."""
    upstream, transport = Upstream(handle), HttpTransport(place)
    async with world(transport=transport) as made:
        async with made.client() as client:
            answer = await client.post("/api/v1/services", json=_RULES)
            assert answer.status_code == 201, answer.text
        made.orchestrator.mesh.register("llm", await upstream.open())
        try:
            yield made, upstream
        finally:
            await upstream.close()
            await transport.close()
            await made.orchestrator._replicas.prober.stop()


async def test_a_services_rules_and_how_it_does() -> None:
    async with _served(echo) as (made, _), made.client(Role.VIEWER) as client:
        (known,) = (await client.get("/api/v1/services")).json()["items"]
        assert known["name"] == "llm"
        assert known["rules"]["retry"]["methods"] == ["GET", "POST"]
        assert known["rules"]["tenant_limits"]["small"] == {"rate_rps": 0.001, "burst": 1.0}
        assert (await client.get("/api/v1/services/llm")).json() == known
        assert problem(await client.get("/api/v1/services/no"))["status"] == 404
        assert (await client.post("/api/v1/services", json=_RULES)).status_code == 403
        assert (await client.get("/api/v1/services/llm/call/x")).status_code == 403
        async with made.client() as operator:
            bad = await operator.post("/api/v1/services", json={**_RULES, "panic": 2.0})
            assert problem(bad)["field"] == "panic"
            bad = await operator.post("/api/v1/services", json={**_RULES, "service_ms": 0.0})
            assert problem(bad)["status"] == 422


async def test_requests_go_through_with_what_they_say_but_the_token() -> None:
    async with _served(echo) as (made, _), made.client(Role.SUBMITTER) as client:
        at = "/api/v1/services/llm/call"
        answer = await client.post(f"{at}/v1/a%20b?q=1", content=b"hello", headers={"X-Id": "7"})
        assert answer.status_code == 200
        first, _, body = answer.text.partition("\n\n")
        assert first.startswith("POST /v1/a%20b?q=1 1\n")
        assert "x-id: 7" in first
        assert "authorization" not in first
        assert body == "hello"
        large = b"x" * 300_000
        answer = await client.put(f"{at}/", content=large)
        assert answer.text.endswith("x" * 1000)
        assert len(answer.content) > len(large)
        tenant = {"X-Tenant": "small"}
        codes = [(await client.get(f"{at}/", headers=tenant)).status_code for _ in range(2)]
        assert codes == [200, 429]
        bad = await client.get(f"{at}/", headers={"X-Request-Timeout-Ms": "soon"})
        assert problem(bad)["status"] == 400
        assert problem(await client.get("/api/v1/services/no/call/"))["status"] == 404


async def test_an_answer_comes_as_it_is_made_and_errors_say_why() -> None:
    more = asyncio.Event()

    async def tell(channel: HttpChannel, head: Head) -> bool | None:
        await channel.whole(1 << 20)
        if head.first[1] == "/cut":
            channel.abort()
            return False
        channel.write(b"HTTP/1.1 201 Created\r\nset-cookie: a=b\r\nx-kind: y\r\n")
        channel.write(b"transfer-encoding: chunked\r\n\r\n" + chunk(b"one"))
        await more.wait()
        channel.write(chunk(b"two") + LAST_CHUNK)
        return None

    async with _served(tell) as (made, up), made.client(Role.SUBMITTER) as client:
        at = "/api/v1/services/llm/call"
        asking = asyncio.ensure_future(client.get(f"{at}/events"))
        await until(lambda: up.heads != [])
        assert not asking.done()
        more.set()
        answer = await asking
        assert (answer.status_code, answer.text) == (201, "onetwo")
        assert answer.headers["x-kind"] == "y"
        assert "set-cookie" not in answer.headers
        broken: httpx.Response = await client.get(f"{at}/cut")
        assert problem(broken)["status"] == 503
        assert broken.headers["retry-after"] == "1"


async def test_bodies_go_both_ways_at_once() -> None:
    async def return_all(channel: HttpChannel, head: Head) -> None:
        channel.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while piece := await channel.piece():
            channel.write(chunk(piece))
            await channel.drain()
        channel.write(LAST_CHUNK)

    async def parts() -> AsyncIterator[bytes]:
        for k in range(30):
            yield bytes([k]) * 10_000
            await asyncio.sleep(0.005)  # the answer begins meanwhile

    async with _served(return_all) as (made, _), made.client(Role.SUBMITTER) as client:
        answer = await asyncio.wait_for(
            client.post("/api/v1/services/llm/call/", content=parts()), 10
        )
        assert answer.content == b"".join(bytes([k]) * 10_000 for k in range(30))


async def test_headers_that_come_twice_go_on_together() -> None:
    async with _served(echo) as (made, _), made.client(Role.SUBMITTER) as client:
        twice = [("X-A", "1"), ("X-A", "2"), ("Connection", "x-b"), ("Connection", "x-c")]
        headers = [*client.headers.items(), *twice, ("X-B", "3"), ("X-C", "4")]
        request = httpx.Request("GET", "http://here/api/v1/services/llm/call/", headers=headers)
        answer = await client.send(request)
        assert "x-a: 1, 2\n" in answer.text
        assert "x-b" not in answer.text
        assert "x-c" not in answer.text
