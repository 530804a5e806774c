"""The live mesh on a virtual clock: discovery, balancing, breakers, retries, limits, probes."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from orchestrator.clock import VirtualClock
from orchestrator.errors import (
    AttemptTimeoutError,
    ConfigurationError,
    NoHealthyEndpointError,
    RateLimitedError,
    RequestRejectedError,
    RetriesExhaustedError,
    UnknownServiceError,
    ValidationError,
)
from orchestrator.kernels.requests.breaker import BreakerMode
from orchestrator.mesh import (
    BreakerSpec,
    LimitSpec,
    RetrySpec,
    ServiceDiscovery,
    ServiceMesh,
    ServiceSpec,
)


class Backends:
    """Endpoints that answer, fail, or hang, as told."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self.mode: dict[str, str] = {}
        self.took_ms: dict[str, int] = {}
        self.asked: Counter[str] = Counter()
        self.open: Counter[str] = Counter()
        self.most_open: Counter[str] = Counter()

    async def __call__(self, address: str, request: object) -> tuple[str, object]:
        self.asked[address] += 1
        self.open[address] += 1
        self.most_open[address] = max(self.most_open[address], self.open[address])
        try:
            mode = self.mode.get(address, "well")
            if mode == "hangs":
                await asyncio.get_running_loop().create_future()
            if mode == "rejects":
                raise RequestRejectedError("the prompt is empty; write something")
            if mode == "fails":
                raise ConnectionError(f"{address} is sick")
            took_ms = self.took_ms.get(address, 0)
            if took_ms:
                await self.clock.sleep_until(self.clock.now_ms() + took_ms)
            return address, request
        finally:
            self.open[address] -= 1


def build(spec: ServiceSpec, endpoints: int) -> tuple[VirtualClock, Backends, ServiceMesh]:
    clock = VirtualClock()
    backends = Backends(clock)
    mesh = ServiceMesh(clock, backends)
    mesh.add_service(spec)
    for k in range(endpoints):
        mesh.register(spec.name, f"e{k}")
    return clock, backends, mesh


async def run(clock: VirtualClock, work: object) -> object:
    """Let a coroutine run on virtual time; its result, or its exception."""
    task = asyncio.ensure_future(work)  # type: ignore[call-overload]
    for _ in range(50):  # what is due may make more due
        await clock.run_until_idle()
        if task.done():
            break
    assert task.done(), "still waiting although nothing is due any more"
    return task.exception() or task.result()


async def pass_ms(clock: VirtualClock, time_ms: int) -> None:
    """Let time pass in small steps, in which new tasks get their turn."""
    for _ in range(time_ms):
        await clock.advance_to(clock.now_ms() + 1)


_PLAIN = ServiceSpec("llm", 100.0)


async def test_requests_are_answered_and_spread() -> None:
    clock, backends, mesh = build(_PLAIN, 4)
    backends.took_ms = {f"e{k}": 20 for k in range(4)}
    requests = [mesh.route("llm", k) for k in range(200)]
    answers = await run(clock, asyncio.gather(*requests))
    assert [answer for _, answer in answers] == list(range(200))
    assert max(backends.most_open.values()) <= 53  # of 200 at once: two choices keep them level
    counts = mesh.counts("llm")
    assert (counts.offered, counts.served, counts.within) == (200, 200, 200)


async def test_a_slow_endpoint_gets_fewer_requests() -> None:
    clock, backends, mesh = build(_PLAIN, 4)
    backends.took_ms = {"e0": 200, "e1": 10, "e2": 10, "e3": 10}

    async def client() -> None:
        for _ in range(60):
            await mesh.route("llm", None)

    await run(clock, asyncio.gather(*(client() for _ in range(4))))
    assert backends.asked["e0"] < 0.15 * 240
    assert min(backends.asked[e] for e in ("e1", "e2", "e3")) > 0.2 * 240


async def test_discovery_filters_by_health_draining_and_breakers() -> None:
    clock, backends, mesh = build(
        ServiceSpec("llm", 100.0, retry=RetrySpec(attempts=1), panic=0.0), 4
    )
    assert mesh.discover("llm") == ["e0", "e1", "e2", "e3"]
    mesh.discovery.set_health("llm", "e1", False)
    mesh.drain("llm", "e2")
    assert mesh.discover("llm") == ["e0", "e3"]
    mesh.discovery.set_health("llm", "e1", True)
    mesh.deregister("llm", "e2")
    assert mesh.discover("llm") == ["e0", "e1", "e3"]
    backends.mode = {"e0": "fails", "e1": "fails", "e3": "fails"}
    for _ in range(60):
        await run(clock, mesh.route("llm", None))
    assert mesh.discover("llm") == []
    assert {mesh.breaker_mode("llm", e) for e in ("e0", "e1", "e3")} == {BreakerMode.OPEN}
    assert isinstance(await run(clock, mesh.route("llm", None)), NoHealthyEndpointError)
    await clock.advance_to(clock.now_ms() + 1000)
    assert mesh.discover("llm") == ["e0", "e1", "e3"]  # time for a probe


async def test_draining_lets_open_requests_finish() -> None:
    clock, backends, mesh = build(_PLAIN, 1)
    backends.took_ms = {"e0": 50}
    task = asyncio.ensure_future(mesh.route("llm", "last"))
    await clock.advance_to(10)
    mesh.drain("llm", "e0")
    assert not mesh.drained("llm", "e0")
    assert isinstance(await run(clock, mesh.route("llm", "late")), NoHealthyEndpointError)
    assert await task == ("e0", "last")
    assert mesh.drained("llm", "e0")


async def test_a_failure_is_retried_elsewhere_with_backoff() -> None:
    retry = RetrySpec(attempts=3, base_ms=40.0, jitter=0.0)
    clock, backends, mesh = build(ServiceSpec("llm", 100.0, retry=retry), 2)
    backends.mode = {"e0": "fails"}
    before = clock.now_ms()
    answers = [await run(clock, mesh.route("llm", k)) for k in range(8)]
    assert answers == [("e1", k) for k in range(8)]
    retried = mesh.counts("llm").retried
    assert retried == backends.asked["e0"] > 0
    assert clock.now_ms() - before == 40 * retried


async def test_the_last_failure_is_the_cause() -> None:
    clock, backends, mesh = build(_PLAIN, 2)
    backends.mode = {"e0": "fails", "e1": "fails"}
    error = await run(clock, mesh.route("llm", None))
    assert isinstance(error, RetriesExhaustedError)
    assert "service 'llm': 3 attempts failed (e" in str(error)
    assert isinstance(error.__cause__, ConnectionError)
    counts = mesh.counts("llm")
    assert counts.offered + counts.retried == counts.shed + counts.failed + counts.served


async def test_a_wrong_request_is_nobody_elses_fault() -> None:
    clock, backends, mesh = build(_PLAIN, 1)
    backends.mode = {"e0": "rejects"}
    for _ in range(30):
        assert isinstance(await run(clock, mesh.route("llm", None)), RequestRejectedError)
    assert mesh.breaker_mode("llm", "e0") == BreakerMode.CLOSED
    assert mesh.counts("llm").retried == 0


async def test_a_hanging_attempt_is_given_up() -> None:
    spec = ServiceSpec("llm", 100.0, timeout_ms=80.0, retry=RetrySpec(attempts=2, base_ms=5.0))
    clock, backends, mesh = build(spec, 1)
    backends.mode = {"e0": "hangs"}
    error = await run(clock, mesh.route("llm", None))
    assert isinstance(error, RetriesExhaustedError)
    assert isinstance(error.__cause__, AttemptTimeoutError)
    assert 160 <= clock.now_ms() <= 170
    assert backends.open["e0"] == 0  # cancelled, not forgotten


async def test_a_caller_that_goes_away_blames_nobody() -> None:
    spec = ServiceSpec("llm", 100.0, timeout_ms=1000.0, breaker=BreakerSpec(failures=1))
    clock, backends, mesh = build(spec, 1)
    backends.mode = {"e0": "hangs"}
    task = asyncio.ensure_future(mesh.route("llm", None))
    await clock.advance_to(10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert mesh.breaker_mode("llm", "e0") == BreakerMode.CLOSED
    assert mesh.drained("llm", "e0")


async def test_the_limiter_sheds_what_is_too_much() -> None:
    clock, backends, mesh = build(ServiceSpec("llm", 100.0, limit=LimitSpec(10.0, 5.0)), 2)
    answers = [await run(clock, mesh.route("llm", k)) for k in range(20)]
    assert sum(isinstance(answer, RateLimitedError) for answer in answers) == 15
    assert sum(backends.asked.values()) == 5
    await clock.advance_to(300)
    assert await run(clock, mesh.route("llm", "later")) in (("e0", "later"), ("e1", "later"))
    assert mesh.counts("llm").shed == 15


async def test_a_sick_backend_cannot_cascade() -> None:
    """One of five fails: its breaker opens, the others get its load only, retries are bounded."""
    spec = ServiceSpec(
        "llm",
        20.0,
        retry=RetrySpec(attempts=3, base_ms=1.0, jitter=0.0, budget=0.1, reserve=5.0),
        breaker=BreakerSpec(failures=5, ratio=0.0, open_ms=2000),
    )
    clock, backends, mesh = build(spec, 5)
    backends.took_ms = {f"e{k}": 20 for k in range(5)}
    backends.mode = {"e0": "fails"}

    async def ask(at_ms: int) -> object:
        await clock.sleep_until(at_ms)
        return await mesh.route("llm", None)

    requests = [ask(5 * k) for k in range(2000)]  # 200 requests/s for ten seconds
    answers = await run(clock, asyncio.gather(*requests, return_exceptions=True))
    failed = [answer for answer in answers if isinstance(answer, BaseException)]
    counts = mesh.counts("llm")
    assert counts.retried <= 5 + 0.1 * 2000
    assert backends.asked["e0"] <= 5 + 10_000 // 2000 + 1  # until it opens, then probes
    assert len(failed) <= 5
    # 4 requests in flight on average, over four backends; no pile-up anywhere
    assert max(backends.most_open.values()) <= 5
    assert mesh.breaker_mode("llm", "e0") == BreakerMode.OPEN
    assert counts.offered + counts.retried == counts.shed + counts.failed + counts.served


async def test_a_backend_that_recovers_is_used_again() -> None:
    clock, backends, mesh = build(
        ServiceSpec("llm", 100.0, retry=RetrySpec(attempts=1), panic=0.0), 1
    )
    backends.mode = {"e0": "fails"}
    for _ in range(5):
        await run(clock, mesh.route("llm", None))
    assert mesh.breaker_mode("llm", "e0") == BreakerMode.OPEN
    backends.mode = {}
    await clock.advance_to(999)
    assert isinstance(await run(clock, mesh.route("llm", None)), NoHealthyEndpointError)
    await clock.advance_to(1000)
    assert await run(clock, mesh.route("llm", 1)) == ("e0", 1)
    assert mesh.breaker_mode("llm", "e0") == BreakerMode.CLOSED


async def test_unknown_services_and_endpoints_are_named() -> None:
    _, _, mesh = build(_PLAIN, 1)
    with pytest.raises(UnknownServiceError, match=r"unknown .* 'lm'; register it .* known: llm"):
        mesh.discover("lm")
    with pytest.raises(UnknownServiceError, match="'e7'"):
        mesh.drain("llm", "e7")
    with pytest.raises(UnknownServiceError):
        await mesh.route("lm", None)
    with pytest.raises(ValidationError, match="'address' is empty"):
        mesh.register("llm", "")
    other = ServiceMesh(VirtualClock())
    other.add_service(_PLAIN)
    with pytest.raises(ConfigurationError, match="no transport"):
        await other.route("llm", None)
    mesh.remove_service("llm")
    assert mesh.services == mesh.discovery.services == []


async def test_same_seed_same_choices() -> None:
    async def trail(seed: int) -> list[object]:
        clock = VirtualClock()
        mesh = ServiceMesh(clock, Backends(clock), seed=seed)
        mesh.add_service(_PLAIN)
        for k in range(6):
            mesh.register("llm", f"e{k}")
        return [(await mesh.route("llm", None))[0] for _ in range(40)]

    assert await trail(3) == await trail(3)
    assert await trail(3) != await trail(4)


def test_a_register_forgets_and_lists() -> None:
    register = ServiceDiscovery()
    register.register("a", "1")
    register.register("a", "2", healthy=False)
    register.declare("b")
    assert (register.lookup("a"), register.lookup("b")) == (["1"], [])
    assert [e.address for e in register.endpoints("a")] == ["1", "2"]
    register.forget("a")
    with pytest.raises(UnknownServiceError, match=r"'a'.*known: b"):
        register.lookup("a")


async def _drive(
    clock: VirtualClock, mesh: ServiceMesh, times_ms: range, until_ms: int
) -> list[asyncio.Task[object]]:
    """Send a request at each time, and let time pass."""

    async def ask(at_ms: int) -> object:
        await clock.sleep_until(at_ms)
        return await mesh.route("llm", None)

    tasks = [asyncio.ensure_future(ask(at_ms)) for at_ms in times_ms]
    await asyncio.sleep(0)
    await clock.advance_to(until_ms)
    return tasks


@pytest.mark.parametrize(("stall_ms", "others"), [(30_000, 1), (5000, 2), (60_000, 3)])
async def test_an_endpoint_that_was_slow_once_gets_its_part_again(
    stall_ms: int, others: int
) -> None:
    clock, backends, mesh = build(_PLAIN, 1 + others)
    backends.took_ms = {f"e{k}": 20 for k in range(1 + others)} | {"e0": stall_ms}
    clock.call_at(stall_ms, lambda: backends.took_ms.update(e0=20))
    clock.call_at(300_000, lambda: backends.asked.clear())
    await _drive(clock, mesh, range(0, 600_000, 1000), 700_000)
    assert backends.asked["e0"] >= 0.5 * 300 / (1 + others)


@pytest.mark.parametrize(("gap_ms", "took_ms"), [(10, 50), (5, 100), (2, 40)])
async def test_a_new_replica_gets_few_requests_until_it_has_answered(
    gap_ms: int, took_ms: int
) -> None:
    clock, backends, mesh = build(_PLAIN, 3)
    backends.took_ms = {f"e{k}": took_ms for k in range(3)} | {"new": 5000}
    clock.call_at(2000, lambda: mesh.register("llm", "new"))
    await _drive(clock, mesh, range(0, 6000, gap_ms), 20_000)
    assert 1 <= backends.most_open["new"] <= 6


async def test_a_restarted_replica_starts_anew() -> None:
    spec = ServiceSpec("llm", 20.0, retry=RetrySpec(attempts=1), breaker=BreakerSpec(failures=1))
    clock, backends, mesh = build(spec, 1)
    backends.took_ms = {"e0": 3000}
    late = asyncio.ensure_future(mesh.route("llm", "late"))
    await clock.advance_to(10)
    for restart in (lambda: mesh.deregister("llm", "e0"), lambda: None):
        restart()
        mesh.register("llm", "e0")
        assert mesh.drained("llm", "e0")
    fresh = asyncio.ensure_future(mesh.route("llm", "fresh"))
    await clock.advance_to(3005)
    assert late.done()
    assert not mesh.drained("llm", "e0")  # the late answer was not that of the new one's request
    assert not fresh.done()
    mesh.register("llm", "e1")
    backends.took_ms = {"e0": 10, "e1": 10}
    backends.asked.clear()
    await clock.advance_to(4000)
    mesh.register("llm", "e0")
    await _drive(clock, mesh, range(4000, 5000, 10), 6000)
    assert backends.asked["e0"] > 30


@pytest.mark.parametrize("good", [True, False])
async def test_a_late_answer_of_an_earlier_state_changes_nothing(good: bool) -> None:
    clock = VirtualClock()

    async def carry(address: str, request: tuple[int, bool]) -> str:
        await clock.sleep_until(clock.now_ms() + request[0])
        if not request[1]:
            raise ConnectionError("no")
        return address

    mesh = ServiceMesh(clock, carry)
    rules = BreakerSpec(failures=3, ratio=0.0, open_ms=1000)
    mesh.add_service(ServiceSpec("llm", 10.0, retry=RetrySpec(attempts=1), breaker=rules))
    mesh.register("llm", "e0")
    requests = {0: (1500, good), 10: (1, False), 20: (1, False), 30: (1, False), 1100: (700, True)}
    tasks = []
    for at_ms, request in requests.items():
        await clock.advance_to(at_ms)
        tasks.append(asyncio.ensure_future(mesh.route("llm", request)))
        await asyncio.sleep(0)
    await clock.advance_to(1600)
    assert tasks[0].done()
    assert mesh.breaker_mode("llm", "e0") == BreakerMode.HALF_OPEN
    await clock.advance_to(1900)
    assert mesh.breaker_mode("llm", "e0") == BreakerMode.CLOSED
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.parametrize(("objective_ms", "in_time"), [(60.0, 0), (61.0, 1), (1000.0, 1)])
async def test_the_objective_counts_from_the_arrival(objective_ms: float, in_time: int) -> None:
    retry = RetrySpec(attempts=2, base_ms=41.0, jitter=0.0)
    clock, backends, mesh = build(
        ServiceSpec("llm", 20.0, retry=retry, objective_ms=objective_ms), 1
    )
    backends.took_ms = {"e0": 20}
    backends.mode = {"e0": "fails"}
    clock.call_at(5, lambda: backends.mode.clear())
    await run(clock, mesh.route("llm", None))
    assert clock.now_ms() == 61
    assert mesh.counts("llm").within == in_time


@pytest.mark.parametrize("timeout_ms", [0.0, 80.0])
@pytest.mark.parametrize("kind", [TimeoutError, asyncio.CancelledError])
async def test_a_transports_own_timeout_is_reported_as_such(
    timeout_ms: float, kind: type[BaseException]
) -> None:
    clock = VirtualClock()

    async def carry(address: str, request: object) -> None:
        await clock.sleep_until(clock.now_ms() + 5)
        raise kind("the socket's")

    mesh = ServiceMesh(clock, carry)
    retry = RetrySpec(attempts=1)
    mesh.add_service(ServiceSpec("llm", 20.0, timeout_ms=timeout_ms, retry=retry))
    mesh.register("llm", "e0")
    error = await run(clock, mesh.route("llm", None))
    assert isinstance(error, RetriesExhaustedError)
    assert not isinstance(error.__cause__, AttemptTimeoutError)
    assert "did not answer within" not in str(error)
    assert mesh.counts("llm").failed == 1


async def test_an_error_upon_cancellation_is_a_timeout() -> None:
    clock = VirtualClock()

    async def carry(address: str, request: object) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            raise ConnectionError("closed") from None

    mesh = ServiceMesh(clock, carry)
    mesh.add_service(ServiceSpec("llm", 20.0, timeout_ms=0.5, retry=RetrySpec(attempts=1)))
    mesh.register("llm", "e0")
    error = await run(clock, mesh.route("llm", None))
    assert isinstance(error, BaseException)
    assert isinstance(error.__cause__, AttemptTimeoutError)
    assert clock.now_ms() == 1


@pytest.mark.parametrize(
    ("service_ms", "took_ms", "waited_ms", "mode"),
    [
        (1000.0, 5, 10, BreakerMode.OPEN),  # its peer answers sooner
        (1000.0, 50, 40, BreakerMode.CLOSED),
        (20.0, 50, 60, BreakerMode.OPEN),
        (20.0, None, 30, BreakerMode.OPEN),  # nobody has answered: what an answer should take
        (20.0, None, 15, BreakerMode.CLOSED),
    ],
)
async def test_callers_that_give_up_after_long_teach_the_breaker(
    service_ms: float, took_ms: int | None, waited_ms: int, mode: BreakerMode
) -> None:
    spec = ServiceSpec("llm", service_ms, breaker=BreakerSpec(failures=3, open_ms=60_000))
    clock, backends, mesh = build(spec, 1)
    backends.mode = {"e0": "hangs"}
    if took_ms is not None:
        backends.took_ms = {"e1": took_ms}
        mesh.discovery.set_health("llm", "e0", False)
        mesh.register("llm", "e1")
        await run(clock, mesh.route("llm", None))
        mesh.deregister("llm", "e0")
        mesh.discovery.set_health("llm", "e1", False)
        mesh.register("llm", "e0")
    for _ in range(3):
        task = asyncio.ensure_future(mesh.route("llm", None))
        await clock.advance_to(clock.now_ms() + waited_ms)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert mesh.breaker_mode("llm", "e0") == mode
    assert mesh.drained("llm", "e0")


async def test_a_probe_whose_caller_leaves_makes_room_for_another() -> None:
    spec = ServiceSpec("llm", 100.0, retry=RetrySpec(attempts=1), breaker=BreakerSpec(failures=1))
    clock, backends, mesh = build(spec, 1)
    backends.mode = {"e0": "fails"}
    await run(clock, mesh.route("llm", None))
    backends.mode = {"e0": "hangs"}
    await clock.advance_to(1000)
    task = asyncio.ensure_future(mesh.route("llm", None))
    await clock.advance_to(1005)
    assert mesh.discover("llm") == []
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert mesh.discover("llm") == ["e0"]
