"""Active probes: what they find out, when, and what they leave alone."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.clock import VirtualClock, WallClock
from orchestrator.errors import ValidationError
from orchestrator.kernels.requests.breaker import BreakerMode
from orchestrator.kernels.state.codes import JobKind
from orchestrator.mesh import HealthCheck, HealthProber, ProbeSpec, ServiceMesh, ServiceSpec
from orchestrator.mesh.policies import CircuitBreaker
from orchestrator.mesh.specs import BreakerSpec
from tests.engine.builders import HOUR_MS, job, node, stage
from tests.mesh.replicas import NO_PROBES, Replicas, ask, detection_ms, serve


@pytest.mark.parametrize("replicas", [2, 3, 8])
@pytest.mark.parametrize("mode", ["hangs", "fails"])
@pytest.mark.parametrize("gap_ms", [20, 100, 500, 3000, 30_000])
async def test_a_sick_replica_is_shut_out_within_100_ms(
    gap_ms: int, mode: str, replicas: int
) -> None:
    """By default, at any rate of requests: from the first one that it might have got on."""
    assert await detection_ms(gap_ms, mode, replicas=replicas) < 100


@pytest.mark.parametrize("gap_ms", [20, 100, 500])
async def test_without_probes_requests_have_to_find_out(gap_ms: int) -> None:
    assert await detection_ms(gap_ms, "fails", probing=NO_PROBES) > 250


@pytest.mark.parametrize("gap_ms", [7, 100])
async def test_requests_are_not_distorted(gap_ms: int) -> None:
    """Neither counts, nor averages, nor the choice of replicas know of probes."""
    seen = []
    for probing in (None, NO_PROBES):
        s, behind = await serve(4, probing)
        behind.took_ms = 13
        await ask(s, gap_ms, 2000)
        own = s.orchestrator.mesh._services["llm"]
        averages = {a: own.balancer.latency_ms(a) for a in s.orchestrator.mesh.discover("llm")}
        seen.append((dict(behind.requests), own.counts, averages))
        assert bool(behind.checks) is (probing is None)
    assert seen[0] == seen[1]


async def test_simulated_replicas_answer_probes() -> None:
    s = stage(node("n0", 8), schedule_on_events=True)
    spec = job("llm", kind=JobKind.SERVICE, num_workers=2, step_seconds=0.05)
    await s.orchestrator.submit_job(spec)
    await s.clock.advance_to(0)
    asking = asyncio.ensure_future(s.orchestrator.route_request("llm", "prompt"))
    await s.clock.advance_to(1000)
    assert asking.done()
    first, second = s.orchestrator.mesh.discover("llm")
    del s.orchestrator._replicas._replicas[first]  # it dies, and nobody says so
    await s.clock.advance_to(1050)
    assert s.orchestrator.mesh.discover("llm") == [second]


async def test_the_last_probe_follows_the_last_request() -> None:
    s, behind = await serve(2)
    await ask(s, 100, 1000)
    await s.clock.advance_to(900 + 5000 + 40)
    assert s.clock.next_ms() == 10_000 * HOUR_MS  # the service's end
    checks = sum(behind.checks.values())
    assert 0.9 * 2 * 5900 / 20 < checks < 1.1 * 2 * 5900 / 20
    await s.wait(60)
    assert sum(behind.checks.values()) == checks


async def test_a_replica_that_is_well_again_is_let_in() -> None:
    s, behind = await serve(2)
    sick, well = await s.orchestrator.discover_service("llm")
    await ask(s, 100, 1000)
    behind.mode[sick] = "fails"
    lost: list[int] = []
    await ask(s, 100, 9000, lost)  # far beyond the time that a breaker stays open
    assert s.orchestrator.mesh.discover("llm") == [well]
    assert lost == []
    assert behind.requests[sick] < 20
    behind.mode.clear()
    await s.clock.advance_to(9100)
    assert s.orchestrator.mesh.discover("llm") == [sick, well]


async def test_probes_do_not_unsay_what_requests_say() -> None:
    """A replica that fails requests and answers probes stays shut out until requests pass."""
    s, _ = await serve(1)
    clock = s.clock
    await ask(s, 100, 500)
    breaker = s.orchestrator.mesh._services["llm"].breaker("llm@n0:0", clock.now_ms())
    for _ in range(5):
        breaker.record(clock.now_ms(), False)
    assert breaker.mode == BreakerMode.OPEN
    await clock.advance_to(clock.now_ms() + 900)
    assert breaker.mode == BreakerMode.OPEN  # 45 probes have passed


def test_a_breaker_that_was_tripped_recovers_or_not() -> None:
    breaker = CircuitBreaker(BreakerSpec(open_ms=100))
    breaker.trip(10)
    assert (breaker.mode, breaker.would_admit(109)) == (BreakerMode.OPEN, False)
    breaker.trip(60)  # still sick
    assert not breaker.would_admit(159)
    assert breaker.would_admit(160)  # nobody looks any more: a request may try
    generation = breaker.generation
    breaker.recover(70)
    assert (breaker.mode, breaker.generation) == (BreakerMode.CLOSED, generation + 1)
    for _ in range(5):
        breaker.record(80, False)
    breaker.trip(90)
    breaker.recover(95)
    assert breaker.mode == BreakerMode.OPEN  # requests had opened it before


@pytest.mark.parametrize("mode", ["deaf", "slow"])
async def test_a_transport_that_knows_no_health_checks_is_left_alone(mode: str) -> None:
    s, behind = await serve(3)
    addresses = await s.orchestrator.discover_service("llm")
    behind.mode = dict.fromkeys(addresses, mode)
    lost: list[int] = []
    await ask(s, 50, 3000, lost)
    assert s.orchestrator.mesh.discover("llm") == addresses
    assert lost == []
    assert sum(behind.checks.values()) <= 10 + 6


async def test_an_endpoint_that_rejects_a_check_is_well() -> None:
    s, behind = await serve(2)
    addresses = await s.orchestrator.discover_service("llm")
    behind.mode = dict.fromkeys(addresses, "rejects")
    await ask(s, 50, 1000)
    assert s.orchestrator.mesh.discover("llm") == addresses
    assert sum(behind.checks.values()) > 80


@pytest.mark.parametrize(("replicas", "left"), [(1, 1), (2, 1), (4, 2), (5, 3)])
async def test_silence_shuts_at_most_half_of_the_replicas_out(replicas: int, left: int) -> None:
    """All silent at once: that is load, or the network, and not each of them."""
    s, behind = await serve(replicas)
    addresses = await s.orchestrator.discover_service("llm")
    await ask(s, 50, 500)
    behind.mode = dict.fromkeys(addresses, "hangs")
    await s.clock.advance_to(700)
    assert len(s.orchestrator.mesh.discover("llm")) == left
    behind.mode = dict.fromkeys(addresses, "fails")  # they say so
    await s.clock.advance_to(900)
    assert s.orchestrator.mesh.discover("llm") == []


async def test_what_the_operator_says_stands() -> None:
    s, _ = await serve(2)
    first, second = await s.orchestrator.discover_service("llm")
    s.orchestrator.mesh.discovery.set_health("llm", first, False)
    await ask(s, 50, 1000)
    assert s.orchestrator.mesh.discover("llm") == [second]


@pytest.mark.parametrize("until_ms", [75, 90, 99])
async def test_probes_of_a_restarted_replica_begin_anew(until_ms: int) -> None:
    clock = VirtualClock()
    behind = Replicas(clock)
    mesh = ServiceMesh(clock, probe=lambda address: behind(address, HealthCheck()))
    mesh.add_service(ServiceSpec("llm", 100.0))
    for name in ("e0", "e1"):
        mesh.register("llm", name)
    prober = HealthProber(mesh, clock)
    prober.start()
    await clock.advance_to(50)
    behind.mode = {"e0": "hangs"}
    await clock.advance_to(85 if until_ms > 85 else 70)  # one has failed, another is out
    mesh.deregister("llm", "e0")
    mesh.register("llm", "e0")
    behind.mode.clear()
    await clock.advance_to(until_ms)
    assert set(mesh.discover("llm")) == {"e0", "e1"}
    await clock.advance_to(300)
    assert set(mesh.discover("llm")) == {"e0", "e1"}
    mesh.remove_service("llm")
    await clock.advance_to(400)
    assert clock.next_ms() is None
    await prober.stop()


async def test_many_endpoints_are_probed_less_often() -> None:
    clock = VirtualClock()
    behind = Replicas(clock)
    mesh = ServiceMesh(clock, behind, probing=ProbeSpec(most_per_s=2000))
    for k in range(10):
        mesh.add_service(ServiceSpec(f"s{k}", 100.0))
        for e in range(40):
            mesh.register(f"s{k}", f"s{k}.{e}")
    prober = HealthProber(mesh, clock)
    prober.start()
    await clock.advance_to(2000)
    assert 3600 <= sum(behind.checks.values()) <= 4400
    assert len(behind.checks) == 400
    assert max(behind.checks.values()) - min(behind.checks.values()) <= 1
    await prober.stop()
    assert clock.next_ms() is None


async def test_a_busy_loop_is_nobodys_silence() -> None:
    """The loop is held for longer than a probe may take, again and again, on a wall clock."""
    clock = WallClock()

    async def probe(address: str) -> None:
        await asyncio.sleep(0.002)
        for _ in range(30):  # an answer comes in pieces
            await asyncio.sleep(0)

    mesh = ServiceMesh(clock, probe=probe)
    mesh.add_service(ServiceSpec("llm", 100.0))
    for name in ("a", "b", "c", "d"):
        mesh.register("llm", name)
    prober = HealthProber(mesh, clock)
    prober.start()
    least = 4
    for _ in range(6):
        until_ms = clock.now_ms() + 70
        while clock.now_ms() < until_ms:
            pass
        await asyncio.sleep(0.001)
        least = min(least, len(mesh.discover("llm")))
    await prober.stop()
    assert least == 4


def test_probing_goes_on_under_another_event_loop() -> None:
    """Timers end with the loop that they were set on."""
    clock = WallClock()
    behind = Replicas(clock)
    mesh = ServiceMesh(clock, behind, probing=ProbeSpec(idle_ms=60_000))
    mesh.add_service(ServiceSpec("llm", 100.0))
    mesh.register("llm", "a")
    prober = HealthProber(mesh, clock)

    async def serve_a_while() -> int:
        before = behind.checks["a"]
        prober.attend("llm")
        await asyncio.sleep(0.1)
        return behind.checks["a"] - before

    assert asyncio.run(serve_a_while()) >= 1
    prober._due_ms -= 2000  # two seconds later
    assert asyncio.run(serve_a_while()) >= 1


@pytest.mark.parametrize(
    ("name", "value"),
    [("timeout_ms", 0), ("interval_ms", -1), ("failures", True), ("idle_ms", 1.5)],
)
def test_probing_needs_positive_times(name: str, value: object) -> None:
    with pytest.raises(ValidationError, match=f"'{name}' is"):
        ProbeSpec(**{name: value})  # type: ignore[arg-type]
