"""The proxy's port, over real sockets: what goes through, what does not, and what is said then."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator

import httpx
import pytest

from orchestrator.errors import ConfigurationError, DeadlineExceededError, RetriesExhaustedError
from orchestrator.kernels.requests.breaker import BreakerMode
from orchestrator.mesh import (
    BreakerSpec,
    LimitSpec,
    MeshProxy,
    ProxyLimits,
    RetrySpec,
    ServiceMesh,
)
from orchestrator.worker.inference.channel import HttpChannel
from orchestrator.worker.inference.http import LAST_CHUNK, HttpExchange, chunk
from orchestrator.worker.inference.parser import Head
from tests.mesh.upstream import Handler, ask_raw, echo, proxied, say
from tests.runtimes.stage import until

_CLOSE = b"Host: x\r\nConnection: close\r\n"


async def _cut(channel: HttpChannel, head: Head) -> bool:
    """Hangs up on every request."""
    await channel.whole(1 << 30)
    channel.abort()
    return False


async def _hang(channel: HttpChannel, head: Head) -> None:
    await channel.whole(1 << 30)
    await asyncio.sleep(60)


async def test_requests_go_through_with_their_headers_but_those_of_the_connection() -> None:
    async with proxied(echo, authorize=lambda token: token or None) as (proxy, _, _ups):
        async with httpx.AsyncClient(base_url=proxy.url) as client:
            headers = {
                "Authorization": "Bearer abc",
                "X-Request-Id": "r1",
                "X-Tenant": "t",
                "Connection": "keep-alive, x-mine",
                "X-Mine": "no",
                "TE": "trailers",
            }
            answer = await client.post("/llm/v1/a%20b?q=1&r", headers=headers, content=b"hello")
            assert answer.status_code == 200
            first, _, body = answer.text.partition("\n\n")
            assert first.startswith("POST /v1/a%20b?q=1&r 1\n")
            assert body == "hello"
            assert "x-request-id: r1" in first
            for gone in ("authorization", "x-mine", "te:", "abc"):
                assert gone not in first
            for path, there in (("/llm", "/"), ("/llm/", "/"), ("/llm?x=/y", "/?x=/y")):
                answer = await client.get(path, headers={"Authorization": "bearer abc"})
                assert answer.text.startswith(f"GET {there} 1\n")
            by_host = {"Host": "llm.mesh:80", "Authorization": "Bearer abc"}
            answer = await client.get("/other/path", headers=by_host)
            assert answer.text.startswith("GET /other/path 1\n")
        assert len(proxy._clients) <= 1


async def test_who_may_not_send_requests() -> None:
    def know(token: str) -> str | None:
        if token == "viewer":
            raise PermissionError("'v' is a viewer; requests need a submitter")
        return "s" if token == "good" else None

    async with proxied(echo, authorize=know) as (proxy, mesh, _):
        async with httpx.AsyncClient(base_url=proxy.url) as client:
            for token, status in (("good", 200), ("viewer", 403), ("bad", 401), ("", 401)):
                said = {"Authorization": f"Bearer {token}"} if token else {}
                answer = await client.get("/llm/", headers=said)
                assert answer.status_code == status
                assert ("www-authenticate" in answer.headers) == (status == 401)
            basic = await client.get("/llm/", headers={"Authorization": "Basic good"})
            assert basic.status_code == 401
        assert mesh.counts("llm").offered == 1


async def test_an_answer_in_pieces_comes_as_it_is_made_and_is_not_asked_for_again() -> None:
    more = asyncio.Event()

    async def tell(channel: HttpChannel, head: Head) -> None:
        channel.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nset-cookie: a\r\n")
        channel.write(b"set-cookie: b\r\ncontent-type: text/event-stream\r\n\r\n")
        channel.write(chunk(b"data: 1\n\n"))
        await more.wait()
        if head.first[1] == "/breaks":
            channel.abort()
            return
        channel.write(chunk(b"data: 2\n\n") + LAST_CHUNK)

    async with proxied(tell, tell) as (proxy, mesh, ups):
        async with httpx.AsyncClient(base_url=proxy.url) as client:
            async with client.stream("GET", "/llm/events") as answer:
                lines = answer.aiter_lines()
                assert await anext(lines) == "data: 1"  # the second is not made yet
                assert answer.headers.get_list("set-cookie") == ["a", "b"]
                open_ones = [mesh._of("llm").balancer.in_flight(e) for e in mesh.discover("llm")]
                assert sorted(open_ones) == [0, 1]
                assert mesh.counts("llm").served == 0
                more.set()
                assert [line async for line in lines if line] == ["data: 2"]
            await until(lambda: mesh.counts("llm").served == 1)
            assert all(mesh.drained("llm", e) for e in mesh.discover("llm"))
            with pytest.raises(httpx.RemoteProtocolError):
                await client.get("/llm/breaks")
        assert sum(len(up.heads) for up in ups) == 2
        counts = mesh.counts("llm")
        assert (counts.offered, counts.served, counts.failed, counts.retried) == (2, 1, 1, 0)


async def test_a_body_goes_on_as_it_comes_and_no_faster_than_it_is_read() -> None:
    taken: list[int] = []
    go = asyncio.Event()

    async def take(channel: HttpChannel, head: Head) -> None:
        assert head.length is None  # it has none, so it comes in chunks here, too
        size = len(await channel.piece())
        taken.append(size)
        await go.wait()
        while piece := await channel.piece():
            size += len(piece)
        channel.write(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n%8d" % size)

    made: list[int] = []

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(640):
            made.append(64 * 1024)
            yield b"x" * 64 * 1024

    async with (
        proxied(take) as (proxy, _, _ups),
        httpx.AsyncClient(base_url=proxy.url, timeout=30) as client,
    ):
        sending = asyncio.ensure_future(client.post("/llm/", content=parts()))
        await until(lambda: taken)
        before = -1
        while before != len(made):  # until nothing moves any more
            before = len(made)
            await asyncio.sleep(0.1)
        assert sum(made) < 30 * 2**20  # buffers of three processes' ends are full
        go.set()
        assert int((await sending).text) == 640 * 64 * 1024


async def test_what_may_be_sent_again_is_and_what_may_not_is_not() -> None:
    retry = RetrySpec(base_ms=1.0, reserve=100.0)
    async with (
        proxied(_cut, _cut, echo, retry=retry, panic=0.0) as (proxy, mesh, _),
        httpx.AsyncClient(base_url=proxy.url, timeout=30) as client,
    ):
        key = {"Idempotency-Key": "k"}
        for k in range(12):
            assert (await client.get(f"/llm/{k}")).status_code == 200
        posts = [(await client.post("/llm/", content=b"x", headers=key)) for _ in range(4)]
        assert [post.status_code for post in posts] == [200] * 4
    async with proxied(_cut, retry=retry) as (proxy, mesh, (up,)):
        async with httpx.AsyncClient(base_url=proxy.url, timeout=30) as client:
            answer = await client.post("/llm/", content=b"x")
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "1"
            assert "must not be sent again" in answer.json()["detail"]
            assert len(up.heads) == 1
            large = await client.put("/llm/", content=b"x" * 4_000_000)  # it is not kept
            assert large.status_code == 503
            assert len(up.heads) == 2
        await up.close()  # nobody listens: nothing is sent, and all may be sent again
        async with httpx.AsyncClient(base_url=proxy.url, timeout=30) as client:
            before = mesh.counts("llm").retried
            assert (await client.post("/llm/", content=b"x")).status_code == 503
            assert mesh.counts("llm").retried == before + 2


def _begun(said: bytes, *, apart: bool) -> Handler:
    """Says the head of an answer, and hangs up after this much of its body, or a moment later."""

    async def handle(channel: HttpChannel, head: Head) -> bool:
        await channel.whole(1 << 30)
        channel.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n" + said)
        if apart:
            await asyncio.sleep(0.02)
        channel.close()
        return False

    return handle


@pytest.mark.parametrize("apart", [False, True])
async def test_an_answer_of_which_only_the_head_has_come_is_asked_for_elsewhere(
    apart: bool,
) -> None:
    retry = RetrySpec(base_ms=1.0, reserve=100.0)
    handlers = [_begun(b"", apart=apart)] * 2 + [say(body=b"pong")]
    async with (
        proxied(*handlers, retry=retry, panic=0.0) as (proxy, mesh, _),
        httpx.AsyncClient(base_url=proxy.url, timeout=30) as client,
    ):
        answers = [await client.get(f"/llm/{k}") for k in range(6)]
        assert [(answer.status_code, answer.text) for answer in answers] == [(200, "pong")] * 6
        assert mesh.counts("llm").retried > 0


@pytest.mark.parametrize(("method", "said"), [("POST", b""), ("GET", b"po")])
async def test_an_answer_that_has_gone_on_in_part_breaks_off(method: str, said: bytes) -> None:
    """What may not be sent again goes on with its head, and the rest with its first piece."""
    async with (
        proxied(_begun(said, apart=True)) as (proxy, mesh, (up,)),
        httpx.AsyncClient(base_url=proxy.url, timeout=30) as client,
    ):
        with pytest.raises(httpx.RemoteProtocolError):
            await client.request(method, "/llm/")
        assert (len(up.heads), mesh.counts("llm").retried) == (1, 0)


async def test_an_endpoint_that_is_busy_is_not_sick() -> None:
    busy = say(503, b"later", retry_after="2", content_type="text/plain")
    retry = RetrySpec(base_ms=1.0, reserve=1000.0)
    async with (
        proxied(busy, echo, retry=retry) as (proxy, mesh, ups),
        httpx.AsyncClient(base_url=proxy.url) as client,
    ):
        for _ in range(20):
            assert (await client.post("/llm/", content=b"x")).status_code == 200
        assert ups[0].heads
        assert len(mesh.discover("llm")) == 2  # no breaker has opened
        ups[1].handle = busy
        answer = await client.post("/llm/", content=b"x")
        assert (answer.status_code, answer.text) == (503, "later")
        assert answer.headers["retry-after"] == "2"
        for up in ups:
            up.handle = say(500, b'{"error": "no"}', content_type="application/json")
        answer = await client.post("/llm/", content=b"x")
        assert (answer.status_code, answer.json()) == (500, {"error": "no"})


async def test_a_deadline_travels_and_ends() -> None:
    async with (
        proxied(echo) as (proxy, mesh, (up,)),
        httpx.AsyncClient(base_url=proxy.url) as client,
    ):
        headers = {"X-Request-Timeout-Ms": "900"}
        answer = await client.get("/llm/", headers=headers)
        left = answer.text.partition("x-request-timeout-ms: ")[2].partition("\n")[0]
        assert 0 < int(left) <= 900
        up.handle = _hang
        headers = {"X-Request-Timeout-Ms": "50"}
        late = await client.get("/llm/", headers=headers)
        assert late.status_code == 504
        assert "within the 50 ms" in late.json()["detail"]
        bad = await client.get("/llm/", headers={"X-Request-Timeout-Ms": "-1"})
        assert bad.status_code == 400

        async def drip(channel: HttpChannel, head: Head) -> None:
            channel.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            while True:
                channel.write(chunk(b"x"))
                await channel.drain()
                await asyncio.sleep(0.01)

        up.handle = drip
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/llm/", headers=headers)
        await until(lambda: mesh.drained("llm", mesh.discover("llm")[0]))


async def test_what_is_left_of_a_deadline_is_passed_on() -> None:
    seen: list[int] = []

    async def slow(channel: HttpChannel, head: Head) -> bool:
        seen.append(int(head.headers["x-request-timeout-ms"]))
        await asyncio.sleep(0.05)
        channel.abort()
        return False

    async with (
        proxied(slow, retry=RetrySpec(base_ms=5.0, jitter=0.0)) as (proxy, _, _ups),
        httpx.AsyncClient(base_url=proxy.url) as client,
    ):
        await client.get("/llm/", headers={"X-Request-Timeout-Ms": "5000"})
    assert seen[0] <= 5000
    assert seen[0] - seen[1] >= 50
    assert seen[1] - seen[2] >= 50


async def test_tenants_have_buckets_of_their_own() -> None:
    rules = {"tenant_limit": LimitSpec(0.01, 2), "tenant_limits": (("big", LimitSpec(0.01, 5)),)}
    async with (
        proxied(echo, limit=LimitSpec(0.01, 8), **rules) as (proxy, _, _ups),
        httpx.AsyncClient(base_url=proxy.url) as client,
    ):

        async def ask(tenant: str) -> list[int]:
            said = {"X-Tenant": tenant}
            return [(await client.get("/llm/", headers=said)).status_code for _ in range(6)]

        assert await ask("a") == [200, 200, 429, 429, 429, 429]
        assert await ask("big") == [200] * 5 + [429]
        assert await ask("c") == [200] + [429] * 5  # the service's own is empty
        refused = await client.get("/llm/", headers={"X-Tenant": "a"})
        assert refused.headers["content-type"] == "application/problem+json"
        assert 90 <= int(refused.headers["retry-after"]) <= 100
        assert "of tenant 'a'" in refused.json()["detail"]


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (b"POST /llm/ HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked", 400),
        (b"POST /llm/ HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 9", 400),
        (b"GET /llm/ HTTP/1.1\r\nHost: a\r\nHost: b", 400),
        (b"GET /llm/ HTTP/1.1", 400),
        (b"GET http://llm/ HTTP/1.1\r\nHost: x", 400),
        (b"CONNECT llm:80 HTTP/1.1\r\nHost: x", 400),
        (b"GET /llm/ HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 40_000, 431),
        (b"POST /llm/ HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000000", 413),
        (b"GET /nobody/ HTTP/1.1\r\nConnection: close\r\nHost: x", 404),
        (b"GET /..%2fllm/ HTTP/1.1\r\nConnection: close\r\nHost: x", 404),
        (b"GET / HTTP/1.1\r\nConnection: close\r\nHost: x", 404),
    ],
)
async def test_what_goes_nowhere_is_said(said: bytes, status: int) -> None:
    async with proxied(echo) as (proxy, _, (up,)):
        answer = await ask_raw(proxy, said + b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 %d " % status)
        assert b"application/problem+json" in answer
        told = json.loads(answer.partition(b"\r\n\r\n")[2])
        assert told["status"] == status
        assert told["detail"]
        assert not up.heads


async def test_requests_one_after_the_other_and_old_clients() -> None:
    async with proxied(echo) as (proxy, _, _ups):
        one = b"POST /llm/%d HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n%d"
        last = b"GET /llm/3 HTTP/1.1\r\n" + _CLOSE + b"\r\n"
        said = await ask_raw(proxy, one % (1, 1) + one % (2, 2) + last)
        assert [said.find(b"/%d 1\n" % k) > 0 for k in (1, 2, 3)] == [True] * 3
        old = await ask_raw(proxy, b"GET /llm/ HTTP/1.0\r\n\r\n")
        assert b"connection: close\r\n" in old
        expects = b"POST /llm/ HTTP/1.1\r\n" + _CLOSE + b"Expect: 100-continue\r\n"
        reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
        writer.write(expects + b"Content-Length: 2\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(b"ab")
        assert (await reader.read()).endswith(b"\n\nab")
        writer.close()
        head = await ask_raw(proxy, b"HEAD /llm/ HTTP/1.1\r\n" + _CLOSE + b"\r\n")
        assert head.endswith(b"\r\n\r\n")


async def test_an_error_for_head_has_no_body_and_the_connection_goes_on() -> None:
    async with proxied(echo) as (proxy, _, _ups):
        asked = b"HEAD /nobody/ HTTP/1.1\r\nHost: x\r\n\r\n"
        said = await ask_raw(proxy, asked + b"GET /llm/ HTTP/1.1\r\n" + _CLOSE + b"\r\n")
        first, _, rest = said.partition(b"\r\n\r\n")
        assert first.startswith(b"HTTP/1.1 404 ")
        assert b"content-length: 0" not in first
        assert rest.startswith(b"HTTP/1.1 200 ")


async def test_an_answer_that_has_begun_is_followed_by_no_other() -> None:
    async def begin(channel: HttpChannel, head: Head) -> None:
        channel.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunk(b"one"))
        await channel.whole(1 << 30)

    limits = ProxyLimits(slow_s=0.2, buffer_bytes=10)
    async with proxied(begin, limits=limits) as (proxy, _, _ups):
        asked = b"POST /llm/ HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n"
        reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
        writer.write(asked + b"x" * 20)
        said = b""
        with contextlib.suppress(ConnectionResetError):
            while more := await asyncio.wait_for(reader.read(1000), 10):
                said += more
        writer.close()
        assert said.endswith(b"one\r\n")
        assert b"408" not in said


async def test_whoever_sends_too_slowly_tells_nothing_against_an_endpoint() -> None:
    async def ignore(channel: HttpChannel, head: Head) -> None:
        await asyncio.sleep(60)

    async def parts(pieces: int) -> AsyncGenerator[bytes, None]:
        for _ in range(pieces):
            yield b"x" * 64 * 1024
        await asyncio.sleep(60)

    async def ask(mesh: ServiceMesh, pieces: int, **time: float) -> None:
        exchange = HttpExchange("POST", "/", rest=parts(pieces))
        with pytest.raises((RetriesExhaustedError, DeadlineExceededError)):
            await mesh.route("llm", exchange, **time)

    rules = {"timeout_ms": 40.0, "breaker": BreakerSpec(failures=3), "panic": 0.0}
    async with proxied(ignore, **rules) as (_, mesh, _ups):
        (address,) = mesh.discover("llm")
        for _ in range(4):
            await ask(mesh, 1)
            await ask(mesh, 1, timeout_ms=20.0)
        assert mesh.breaker_mode("llm", address) == BreakerMode.CLOSED
        assert mesh.drained("llm", address)
        for _ in range(3):  # these wait for the endpoint, which reads nothing
            await ask(mesh, 1000)
        assert mesh.breaker_mode("llm", address) == BreakerMode.OPEN


async def test_slow_clients_are_cut() -> None:
    limits = ProxyLimits(slow_s=0.2, idle_s=0.3, connections=3)
    async with proxied(echo, limits=limits) as (proxy, _, (up,)):
        drips = await ask_raw(proxy, b"GET /llm/ HT")
        assert drips.startswith(b"HTTP/1.1 408 ")
        body = await ask_raw(
            proxy, b"POST /llm/ HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nab"
        )
        assert body.startswith(b"HTTP/1.1 408 ")
        assert await ask_raw(proxy, b"") == b""  # it says nothing
        assert not up.heads

        async def pour(channel: HttpChannel, head: Head) -> None:
            channel.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            while True:
                channel.write(chunk(b"x" * 60_000))
                await channel.drain()

        up.handle = pour
        _, writer = await asyncio.open_connection(proxy.host, proxy.port, limit=1000)
        writer.write(b"GET /llm/ HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: not proxy._clients)  # it does not read
        writer.close()
        others = [await asyncio.open_connection(proxy.host, proxy.port) for _ in range(3)]
        full = await ask_raw(proxy, b"GET /llm/ HTTP/1.1\r\n" + _CLOSE + b"\r\n")
        assert full.startswith(b"HTTP/1.1 503 ")
        for _, one in others:
            one.close()


async def test_a_client_that_leaves_frees_its_request() -> None:
    async with proxied(_hang) as (proxy, mesh, (up,)):
        _, writer = await asyncio.open_connection(proxy.host, proxy.port)
        writer.write(b"GET /llm/ HTTP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: up.heads)
        (address,) = mesh.discover("llm")
        assert not mesh.drained("llm", address)
        writer.close()
        await until(lambda: mesh.drained("llm", address))
        await until(lambda: not proxy._clients)


async def test_it_closes_after_what_is_open_and_says_if_a_port_is_taken() -> None:
    go = asyncio.Event()

    async def wait(channel: HttpChannel, head: Head) -> None:
        await go.wait()
        channel.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    async with proxied(wait) as (proxy, _, (up,)):
        other = MeshProxy(proxy._route, None, port=proxy.port)
        with pytest.raises(ConfigurationError, match="cannot listen at"):
            await other.open()
        asking = asyncio.ensure_future(ask_raw(proxy, b"GET /llm/ HTTP/1.1\r\nHost: x\r\n\r\n"))
        await until(lambda: up.heads)
        closing = asyncio.ensure_future(proxy.close())
        await asyncio.sleep(0.01)
        assert not closing.done()
        go.set()
        await closing
        assert (await asking).endswith(b"ok")
        assert b"connection: close" in await asking
