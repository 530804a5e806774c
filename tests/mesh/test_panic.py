"""With most endpoints shut out none is; who is busy is not sick; time limits."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from orchestrator.clock import VirtualClock, WallClock
from orchestrator.errors import (
    DeadlineExceededError,
    NoHealthyEndpointError,
    RateLimitedError,
    RetriesExhaustedError,
    ValidationError,
)
from orchestrator.mesh import (
    AnsweredError,
    EndpointBusyError,
    HealthProber,
    LimitSpec,
    NobodyListensError,
    ProbeSpec,
    RetrySpec,
    ServiceMesh,
    ServiceSpec,
)
from orchestrator.mesh.attempts import within
from orchestrator.worker.inference.http import HttpAnswer, HttpRequest, HttpStream


def _mesh(endpoints: int, **rules: Any) -> tuple[ServiceMesh, Counter[str], set[str]]:
    """A mesh whose endpoints answer, unless they are sick, and who was asked."""
    asked, sick = Counter[str](), set[str]()

    async def carry(address: str, request: object) -> object:
        asked[address] += 1
        if address in sick:
            raise ConnectionError(f"{address} is sick")
        return request

    mesh = ServiceMesh(VirtualClock(), carry)
    mesh.add_service(ServiceSpec("s", 10.0, retry=RetrySpec(attempts=1), **rules))
    for k in range(endpoints):
        mesh.register("s", f"e{k}")
    return mesh, asked, sick


async def _ask(mesh: ServiceMesh, times: int) -> Counter[str]:
    found = Counter[str]()
    for _ in range(times):
        try:
            await mesh.route("s", None)
            found["served"] += 1
        except (RetriesExhaustedError, NoHealthyEndpointError) as error:
            found[type(error).__name__] += 1
    return found


@pytest.mark.parametrize(("out", "panics"), [(1, False), (2, False), (3, True), (4, True)])
async def test_with_more_than_half_shut_out_all_are_asked(out: int, panics: bool) -> None:
    mesh, asked, _ = _mesh(4)
    for k in range(out):
        mesh.shut_out("s", f"e{k}")
    await _ask(mesh, 200)
    assert (sum(asked[f"e{k}"] for k in range(out)) > 0) == panics
    assert len(asked) == (4 if panics else 4 - out)
    for k in range(out):
        mesh.let_in("s", f"e{k}")
    asked.clear()
    await _ask(mesh, 200)
    assert len(asked) == 4


async def test_the_threshold_is_a_rule_and_0_is_never() -> None:
    mesh, asked, _ = _mesh(4, panic=0.0)
    for k in range(4):
        mesh.shut_out("s", f"e{k}")
    assert await _ask(mesh, 20) == {"NoHealthyEndpointError": 20}
    mesh, asked, _ = _mesh(4, panic=1.0)
    mesh.shut_out("s", "e0")
    await _ask(mesh, 100)
    assert asked["e0"]
    with pytest.raises(ValidationError, match="panic"):
        ServiceSpec("s", 10.0, panic=1.5)


async def test_who_drains_or_is_not_there_does_not_count() -> None:
    mesh, asked, _ = _mesh(6)
    mesh.drain("s", "e5")
    mesh.discovery.set_health("s", "e4", False)
    for k in range(3):
        mesh.shut_out("s", f"e{k}")  # three of four that are there
    await _ask(mesh, 200)
    assert set(asked) == {"e0", "e1", "e2", "e3"}


async def test_a_drained_endpoint_that_is_back_begins_anew() -> None:
    mesh, _, sick = _mesh(2)
    sick.add("e0")
    await _ask(mesh, 30)
    assert mesh.discover("s") == ["e1"]
    mesh.drain("s", "e0")
    sick.clear()
    mesh.undrain("s", "e0")
    assert mesh.discover("s") == ["e0", "e1"]
    assert await _ask(mesh, 30) == {"served": 30}


async def test_who_is_busy_is_asked_less_and_no_breaker_opens() -> None:
    asked = Counter[str]()

    async def carry(address: str, request: object) -> object:
        asked[address] += 1
        if address == "e0":
            raise EndpointBusyError("e0 has too much to do", HttpAnswer(503))
        return request

    mesh = ServiceMesh(WallClock(), carry)
    retry = RetrySpec(base_ms=0.0, reserve=1000.0)
    mesh.add_service(ServiceSpec("s", 10.0, retry=retry))
    for address in ("e0", "e1"):
        mesh.register("s", address)
    for _ in range(50):
        await mesh.route("s", HttpRequest())  # a POST, which nobody has worked on
    assert asked["e1"] == 50
    assert asked["e0"] > 0
    assert mesh.discover("s") == ["e0", "e1"]


async def test_a_tenants_bucket_does_not_empty_the_services() -> None:
    mesh, _, _ = _mesh(1, limit=LimitSpec(0.001, 3), tenant_limit=LimitSpec(0.001, 1))
    await mesh.route("s", None, tenant="a")
    for _ in range(5):
        with pytest.raises(RateLimitedError, match="of tenant 'a'"):
            await mesh.route("s", None, tenant="a")
    await mesh.route("s", None, tenant="b")
    await mesh.route("s", None, tenant="c")
    with pytest.raises(RateLimitedError) as caught:
        await mesh.route("s", None, tenant="d")
    assert "tenant" not in str(caught.value)
    assert caught.value.retry_after_s == pytest.approx(1000.0)
    limiter = mesh._of("s").tenants.of("d", 0)
    assert limiter is not None
    assert limiter.tokens == 1.0  # it was given back


async def test_a_deadline_bounds_attempts_and_waits() -> None:
    clock = VirtualClock()

    async def carry(address: str, request: object) -> object:
        await clock.sleep_until(clock.now_ms() + 40)
        raise ConnectionError("sick")

    mesh = ServiceMesh(clock, carry)
    retry = RetrySpec(attempts=64, base_ms=30.0, factor=1.0, jitter=0.0, reserve=100.0)
    mesh.add_service(ServiceSpec("s", 10.0, retry=retry))
    mesh.register("s", "e0")
    asking = asyncio.ensure_future(mesh.route("s", None, timeout_ms=200.0))
    await clock.advance_to(1000)
    with pytest.raises(DeadlineExceededError, match="within the 200 ms"):
        await asking
    assert mesh.counts("s").failed == 3  # at 0, 70 and 140; the next one would begin too late
    assert mesh.drained("s", "e0")


async def test_a_stream_is_open_until_its_end_and_is_cut_at_its_deadline() -> None:
    clock, cut = VirtualClock(), asyncio.Event()

    async def rest() -> object:
        yield b"a"
        await cut.wait()

    async def carry(address: str, request: object) -> object:
        return HttpStream(200, rest=rest(), cut=cut.set)

    mesh = ServiceMesh(clock, carry)
    mesh.add_service(ServiceSpec("s", 10.0))
    mesh.register("s", "e0")
    answer = await mesh.route("s", None, timeout_ms=100.0)
    pieces = answer.pieces()
    assert await anext(pieces) == b"a"
    assert not mesh.drained("s", "e0")
    await clock.advance_to(100)
    with pytest.raises(TimeoutError):
        await anext(pieces)
    assert mesh.drained("s", "e0")
    assert (mesh.counts("s").served, mesh.counts("s").failed) == (0, 1)
    early = await mesh.route("s", None)
    await early.close()  # whoever asked wants no more of it: that is no failure
    assert (mesh.counts("s").served, mesh.counts("s").failed) == (1, 1)


async def test_within_hands_on_what_is_not_its_own() -> None:
    clock = WallClock()

    async def slow() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            raise KeyError("cleaned up") from None
        return "never"

    with pytest.raises(TimeoutError, match="within 5 ms"):
        await within(clock, slow(), 5.0)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    outer = asyncio.ensure_future(within(clock, asyncio.sleep(60), 1000.0))
    await asyncio.sleep(0)
    outer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await outer
    assert await within(clock, asyncio.sleep(0, "done"), 1000.0) == "done"


async def test_one_probe_or_request_is_enough_where_there_is_no_doubt() -> None:
    said: list[Exception] = []

    async def probe(address: str) -> None:
        if address == "e0" and said:
            raise said[0]

    for error, probes in (
        (AnsweredError("e0 answers 503", HttpAnswer(503)), 1),
        (NobodyListensError("nobody"), 1),
        (AnsweredError("e0 answers 500", HttpAnswer(500)), 2),
        (ConnectionError("broken"), 2),
    ):
        clock = VirtualClock()
        mesh = ServiceMesh(clock, probe=probe, probing=ProbeSpec(interval_ms=10, timeout_ms=50))
        mesh.add_service(ServiceSpec("s", 10.0))
        for address in ("e0", "e1", "e2"):
            mesh.register("s", address)
        said.clear()
        prober = HealthProber(mesh, clock)
        prober.start()
        await clock.advance_to(35)
        said.append(error)
        while "e0" in mesh.discover("s"):
            await clock.advance_to(clock.now_ms() + 1)
        assert clock.now_ms() <= 35 + 10 * probes
        assert clock.now_ms() > 35 + 10 * (probes - 1)
        said.clear()
        await clock.advance_to(clock.now_ms() + 30)
        assert "e0" in mesh.discover("s")
        await prober.stop()

    async def carry(address: str, request: object) -> object:
        if address == "e0":
            raise NobodyListensError("nobody")
        return request

    mesh = ServiceMesh(WallClock(), carry)
    mesh.add_service(ServiceSpec("s", 10.0, retry=RetrySpec(base_ms=0.0)))
    for address in ("e0", "e1", "e2"):
        mesh.register("s", address)
    for _ in range(30):
        await mesh.route("s", None)
    assert mesh.counts("s").failed == 1
    assert mesh.discover("s") == ["e1", "e2"]


async def test_a_failed_request_has_its_endpoint_probed_at_once() -> None:
    clock, probed = VirtualClock(), list[tuple[int, str]]()

    async def probe(address: str) -> None:
        probed.append((clock.now_ms(), address))

    async def carry(address: str, request: object) -> object:
        raise ConnectionError("sick")

    mesh = ServiceMesh(clock, carry, probe=probe, probing=ProbeSpec(interval_ms=1000))
    mesh.add_service(ServiceSpec("s", 10.0, retry=RetrySpec(attempts=1)))
    mesh.register("s", "e0")
    prober = HealthProber(mesh, clock)
    prober.start()
    await clock.advance_to(100)
    assert probed == [(0, "e0")]
    await clock.advance_to(130)
    with pytest.raises(RetriesExhaustedError):
        await mesh.route("s", None)
    await clock.advance_to(131)
    assert probed == [(0, "e0"), (130, "e0")]
    await prober.stop()
