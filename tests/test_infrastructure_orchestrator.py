"""The fifteen behaviours that the orchestrator's interface promises, on a virtual clock.

With defaults where there are any, at rates that occur, and within bounds. A check is followed by
mutations: with these it must fail. What takes real time is measured by ``suite=speed``.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import pytest

from orchestrator import ClusterShape, ScalingDirection, Semantics, TenantSpec, VirtualClock
from orchestrator.autoscaler import (
    Forecaster,
    HorizontalScaler,
    Persistence,
    PredictiveScaler,
    ScalingPlan,
    SeasonalNaive,
)
from orchestrator.errors import NoHealthyEndpointError, UnknownServiceError
from orchestrator.kernels.state.codes import JobKind, Placement, QuotaMode, Topology
from orchestrator.runtimes import SimulatedProvisioner
from orchestrator.scheduling.rules import (
    RULES,
    FairShareScheduler,
    Rule,
    Scheduler,
    TopologyAwareScheduler,
)
from orchestrator.types import JobPriority, JobSpec, ScalingDecision
from tests.engine.builders import HOUR_MS, MINUTE_MS, Stage, job, node, stage
from tests.engine.mortal import BEAT_MS, DAY_MS, flaky, machines, must_fail
from tests.mesh.replicas import NO_PROBES, ask, detection_ms, serve

_T = TypeVar("_T")
_LARGE = ClusterShape(envs=1, jobs=256, workers=8, nodes=16, devices=8)
_RENTED = ClusterShape(envs=1, jobs=32, workers=8, nodes=8, devices=4)


def _service(job_id: str = "llm", **fields: Any) -> JobSpec:
    """Two replicas on two GPUs each, for as long as anybody looks."""
    values: dict[str, Any] = {
        "kind": JobKind.SERVICE,
        "num_workers": 2,
        "gpus_per_worker": 2,
        "elastic": True,
        "max_workers": 4,
        "max_duration_hours": 10_000.0,
    }
    return job(job_id, **(values | fields))


def _elastic(job_id: str, **fields: Any) -> JobSpec:
    values = {"num_workers": 2, "elastic": True, "min_workers": 1, "max_workers": 8}
    return job(job_id, **(values | fields))


def _scaled_stage(
    scaler: Any, *, delay_s: float = 90.0, nodes: int = 1, check: bool = True
) -> Stage:
    """A cluster whose nodes are rented."""
    clock = VirtualClock()
    provisioner = SimulatedProvisioner(clock, node("rented"), delay_s=delay_s)
    return stage(
        *[node(f"n{k}") for k in range(nodes)],
        clock=clock,
        shape=_RENTED,
        autoscaler=scaler,
        provisioner=provisioner,
        schedule_on_events=True,
        check=check,
    )


async def _scale_every(s: Stage, seconds: int, until_s: int) -> list[tuple[int, ScalingDecision]]:
    """Have the cluster scaled at fixed intervals; (time in seconds, decision)."""
    decisions = []
    while s.clock.now_ms() < 1000 * until_s:
        await s.clock.advance_to(s.clock.now_ms() + 1000 * seconds)
        decision = await s.orchestrator.auto_scale_cluster()
        decisions.append((s.clock.now_ms() // 1000, decision))
    return decisions


_NO_ROOM = ("no_capacity", "fragmented")
_DAY = 12  # ticks
_TICK_S = 300
_LLAMA = job(
    "llama",
    num_workers=4,
    gpus_per_worker=2,
    max_duration_hours=2.0,
    elastic=True,
    min_workers=2,
    max_workers=4,
)


async def _insist(s: Stage, act: Callable[[], Awaitable[_T]]) -> _T:
    """A client that asks again, a second later, until it is answered."""
    for _ in range(10):
        try:
            return await act()
        except OSError:
            await s.clock.advance_to(s.clock.now_ms() + 1000)
    raise AssertionError("ten times no answer")


async def _mixed_load(policy: Rule | None, seed: int) -> dict[str, Any]:
    """The state of eight nodes after eight hours; utilisation counts from when gangs wait."""
    s = stage(*[node(f"n{k}", 8) for k in range(8)], shape=_LARGE, policy=policy, check=False)
    draw, number = np.random.default_rng(seed), itertools.count()

    async def submit(kind: JobKind, hours: tuple[float, float], **fields: Any) -> None:
        name = f"j{next(number)}"
        took = float(draw.uniform(*hours))
        await s.orchestrator.submit_job(job(name, kind=kind, max_duration_hours=took, **fields))
        await s.orchestrator.schedule()

    async def serve_one() -> None:
        fields = {"gpus_per_worker": int(draw.integers(1, 3)), "preemptible": False}
        await submit(JobKind.SERVICE, (2.0, 8.0), priority=JobPriority.PRODUCTION, **fields)

    for _ in range(16):
        await serve_one()
        await s.wait(0.5)
    before = s.orchestrator.engine.state_at(s.clock.now_ms()).rows[0].copy()
    for _ in range(60):
        workers, gpus = int(draw.choice([1, 1, 2])), int(draw.choice([4, 8, 8]))
        fields = {"num_workers": workers, "gpus_per_worker": gpus}
        await submit(JobKind.TRAINING, (0.5, 2.0), priority=JobPriority.BEST_EFFORT, **fields)
    s.orchestrator._cycle.on_events = True
    while s.clock.now_ms() < 8 * HOUR_MS:
        await s.wait(float(draw.exponential(60 / 3.2)))
        await serve_one()
    status = s.orchestrator.get_cluster_status()
    after = s.orchestrator.engine.state_at(s.clock.now_ms()).rows[0]
    busy, there = (after[x] - before[x] for x in ("busy_unit_ms", "capacity_unit_ms"))
    status["utilization"]["mean"] = float(busy) / float(there)
    return status


def _days() -> list[list[int]]:
    """Five days of jobs of four GPUs: half a day of load, one with noise, one that grows."""
    draw = np.random.default_rng(5)
    ticks = range(5 * _DAY)
    wave = [2.5 - 2.0 * math.cos(2.0 * math.pi * (t % _DAY) / _DAY) for t in ticks]
    return [
        [1 if t % _DAY < _DAY // 2 else 4 for t in ticks],
        [max(round(x + draw.normal(0.0, 0.5)), 0) for x in wave],
        [(1 if t % _DAY < _DAY // 2 else 3) + t // (2 * _DAY) for t in ticks],
    ]


async def _scaled_days(scaler: Any, jobs_at: list[int]) -> tuple[int, float]:
    """Live through a series; events of scaling that came too late, and node hours."""
    s = _scaled_stage(scaler, delay_s=_TICK_S - 1, nodes=2, check=False)
    for tick, jobs in enumerate(jobs_at):
        await s.clock.advance_to(tick * _TICK_S * 1000)
        for k in range(jobs):
            hours = (_TICK_S - 2) / 3600
            spec = job(f"t{tick}.{k}", gpus_per_worker=4, max_duration_hours=hours)
            await s.orchestrator.submit_job(spec)
        await s.clock.advance_to(s.clock.now_ms())
        await s.orchestrator.auto_scale_cluster()
    assert s.orchestrator.get_cluster_status()["jobs"]["pending"] == 0
    metrics = s.orchestrator.metrics
    return metrics.scaling.summary()["reactive"], metrics.node_hours(s.clock.now_ms())


class TestInfrastructureOrchestrator:
    async def test_bin_packing_optimal_utilization(self) -> None:
        """Services come and go one by one, and gangs for whole nodes wait for what they leave."""

        async def check(policy: Rule | None) -> None:
            for seed in range(4):
                status = await _mixed_load(policy, seed)
                assert status["queue"]["length"] > 0  # what is idle could not be used
                assert status["utilization"]["mean"] > 0.85

        await check(None)
        for scattering in (Placement.RANDOM, Placement.UNIFORM, Placement.SPREAD):
            await must_fail(check(replace(RULES["priority"], placement=scattering)))

    @pytest.mark.parametrize("victims", [1, 2, 8])
    async def test_priority_preemption(self, victims: int) -> None:
        async def check(policy: Rule | None, save_s: float) -> None:
            s = stage(node("n0", 8), policy=policy, schedule_on_events=True)
            for k in range(victims):
                low = job(
                    f"low{k}",
                    gpus_per_worker=8 // victims,
                    priority=JobPriority.BEST_EFFORT,
                    checkpoint_seconds=save_s,
                )
                await s.orchestrator.submit_job(low)
            await s.wait(25)
            urgent = job("urgent", gpus_per_worker=8, priority=JobPriority.CRITICAL)
            await s.orchestrator.submit_job(urgent)
            await s.clock.advance_to(25 * MINUTE_MS + 30_000)
            assert s.state_of("urgent") == "running"  # all of them saved and gone by then
            assert s.orchestrator.get_job_status("urgent")["wait_ms"] == 1000 * save_s
            for k in range(victims):
                saved = s.orchestrator.checkpoints.latest(f"low{k}")
                assert saved is not None
                assert saved.progress_ms == 25 * MINUTE_MS
            await s.clock.run_until_idle()
            for k in range(victims):
                status = s.orchestrator.get_job_status(f"low{k}")
                told = (status["state"], status["starts"], status["lost_ms"])
                assert told == ("completed", 2, 0)

        await check(None, 5.0)
        await must_fail(check(RULES["fcfs"], 5.0))
        await must_fail(check(None, 31.0))  # the bound binds
        # Equals are not preempted for each other, and nobody below may push anybody out.
        t = stage(node("n0", 8), schedule_on_events=True)
        for k, priority in enumerate((JobPriority.CRITICAL, *JobPriority)):
            await t.orchestrator.submit_job(job(f"j{k}", gpus_per_worker=8, priority=priority))
            await t.wait(1)
        assert t.orchestrator.get_cluster_status()["jobs"]["running"] == 1
        assert t.state_of("j0") == "running"

    @pytest.mark.parametrize(
        ("asks", "least"),
        [
            ({"num_workers": 4}, 4),
            ({"num_workers": 4, "elastic": True, "min_workers": 4}, 4),
            ({"num_workers": 6, "elastic": True, "min_workers": 4}, 4),
        ],
    )
    async def test_gang_scheduling_all_or_nothing(self, asks: dict[str, Any], least: int) -> None:
        """Rigid gangs and elastic ones, of which the least that they can work with is whole."""

        async def check(**fields: Any) -> None:
            s = stage(node("n0", 4), node("n1", 4), schedule_on_events=True)
            await s.orchestrator.submit_job(job("first", gpus_per_worker=3))
            await s.orchestrator.submit_job(job("gang", gpus_per_worker=2, **(asks | fields)))
            await s.clock.advance_to(0)
            for _ in range(6):  # room for three of its workers is not enough, at any time
                assert s.state_of("gang") == "pending"
                assert s.orchestrator.engine.workers_of("gang") == ()
                assert s.orchestrator.get_cluster_status()["gpus"]["allocated"] == 3
                await s.wait(9.9)
            assert s.orchestrator.get_job_status("gang")["why_not"] in _NO_ROOM
            await s.wait(1)
            workers = s.orchestrator.engine.workers_of("gang")
            assert len(workers) == least  # eight GPUs hold no more
            assert len({(w.node_id, g) for w in workers for g in w.gpus}) == 8
            # It goes as a whole too.
            report = await s.orchestrator.handle_node_failure("n1")
            assert report["interrupted_jobs"] == ["gang"]
            assert s.orchestrator.engine.workers_of("gang") == ()
            assert s.orchestrator.get_cluster_status()["gpus"]["allocated"] == 0

        await check()
        await must_fail(check(elastic=True, min_workers=1))  # it need not be whole

    async def test_topology_aware_placement(self) -> None:
        """Two nodes of one rack are needed: two of different racks are free half an hour sooner."""

        async def check(topology: Topology, *, racks: int = 2) -> None:
            nodes = [node(f"n{k}", 4, rack=k * racks // 4, spine=0) for k in range(4)]
            s = stage(*nodes, schedule_on_events=True)
            for k, hours in enumerate((1.0, 0.5, 2.0)):  # on n0, n1 and n2
                busy = job(f"busy{k}", gpus_per_worker=4, max_duration_hours=hours)
                await s.orchestrator.submit_job(busy)
            gang = job("gang", num_workers=2, gpus_per_worker=4, topology=topology)
            await s.orchestrator.submit_job(gang)
            await s.wait(29)
            assert s.orchestrator.get_job_status("gang")["why_not"] in _NO_ROOM
            for _ in range(5):
                await s.wait(6)
                assert s.state_of("gang") == "pending"  # n1 and n3 are idle: it waits
                assert s.orchestrator.get_job_status("gang")["why_not"] == "topology"
            await s.wait(2)
            places = s.orchestrator.engine.workers_of("gang")
            assert sorted(place.node_id for place in places) == ["n0", "n1"]

        await check(Topology.RACK)
        await must_fail(check(Topology.ANY))
        await must_fail(check(Topology.RACK, racks=1))  # all nodes are in one: nothing to wait for

    async def test_topology_aware_placement_prefers_the_narrowest_domain(self) -> None:
        async def check(policy: Rule | Scheduler) -> None:
            racks = [node(f"n{k}", 4, rack=k // 2, spine=0) for k in range(4)]
            s = stage(*racks, policy=policy, schedule_on_events=True)
            await s.orchestrator.submit_job(job("busy", gpus_per_worker=2))
            for name, gpus in (("rack", 4), ("node", 2)):
                gang = job(name, num_workers=2, gpus_per_worker=gpus)
                await s.orchestrator.submit_job(gang)
            await s.clock.advance_to(0)
            engine, nodes = s.orchestrator.engine, s.orchestrator.nodes
            assert len({nodes[p.node_id].rack for p in engine.workers_of("rack")}) == 1
            assert len({p.node_id for p in engine.workers_of("node")}) == 1

        await check(Scheduler(topology=TopologyAwareScheduler()))
        await must_fail(check(replace(RULES["priority"], placement=Placement.SPREAD)))

    async def test_horizontal_auto_scaling(self) -> None:
        """Three jobs that need a node each, one of which is there; a node takes 90 s to come."""

        async def check(scaler: HorizontalScaler | None, every_s: int) -> Stage:
            s = _scaled_stage(scaler, delay_s=90.0)
            await s.orchestrator.submit_job(job("before", gpus_per_worker=4))
            await _scale_every(s, every_s, 600)
            for k in range(3):
                await s.orchestrator.submit_job(job(f"j{k}", gpus_per_worker=4))
            await _scale_every(s, every_s, 720)
            assert {s.state_of(f"j{k}") for k in range(3)} == {"running"}  # within two minutes
            return s

        s = await check(None, 15)  # the default one
        summary = s.orchestrator.metrics.scaling.summary()
        assert summary["delay_s"] == 90.0
        up = int(summary["nodes_added"])
        assert 3 <= up <= 4  # what they need, and at most the margin that is aimed for
        assert s.orchestrator.get_cluster_status()["nodes"]["up"] == 1 + up
        await s.clock.run_until_idle()  # all done: down to one node, and never the one we own
        decisions = await _scale_every(s, 15, s.clock.now_ms() // 1000 + 900)
        assert ScalingDirection.DOWN in {decision.direction for _, decision in decisions}
        assert list(s.orchestrator.nodes) == ["n0"]
        assert s.orchestrator.metrics.scaling.summary()["nodes_removed"] == up
        await must_fail(check(None, 60))  # looks too seldom
        await must_fail(check(HorizontalScaler(ScalingPlan(4.0, max_size=2)), 15))
        slow = ScalingPlan(4.0, step_up=1, up_window_s=300.0)
        await must_fail(check(HorizontalScaler(slow), 15))

    async def test_predictive_scaling_forecast(self) -> None:
        """Half the events at most, for at most a tenth more node hours, over three series."""
        plan = ScalingPlan(4.0, max_size=8)  # its defaults are those of the cluster
        reactive = [await _scaled_days(HorizontalScaler(plan), one) for one in _days()]

        def forecasting(forecaster: Forecaster) -> PredictiveScaler:
            return PredictiveScaler(plan, [forecaster], day=_DAY, delay=1)

        async def check(make: Callable[[], Any]) -> None:
            made = [await _scaled_days(make(), one) for one in _days()]
            events, hours = (sum(one[k] for one in made) for k in range(2))
            assert events < 0.5 * sum(one[0] for one in reactive)
            assert hours <= 1.1 * sum(one[1] for one in reactive)

        await check(lambda: forecasting(SeasonalNaive()))
        await must_fail(check(lambda: HorizontalScaler(plan)))
        await must_fail(check(lambda: forecasting(Persistence())))  # foresees nothing
        always = replace(plan, min_size=8)  # no events at all, at any price
        assert (await _scaled_days(HorizontalScaler(always), _days()[0]))[0] == 0
        await must_fail(check(lambda: HorizontalScaler(always)))

    async def test_scaling_cooldown_prevents_oscillation(self) -> None:
        """Work for two more nodes every other minute, gone in the next."""

        async def check(plan: ScalingPlan) -> list[ScalingDecision]:
            s = _scaled_stage(HorizontalScaler(plan), delay_s=10.0)
            decisions: list[ScalingDecision] = []
            for minute in range(20):
                await s.clock.advance_to(minute * MINUTE_MS)
                for k in range(3 if minute % 2 == 0 else 0):
                    name, hours = f"m{minute}.{k}", 45 / 3600
                    await s.orchestrator.submit_job(
                        job(name, gpus_per_worker=4, max_duration_hours=hours)
                    )
                await s.clock.advance_to(s.clock.now_ms())
                decisions.append(await s.orchestrator.auto_scale_cluster())
            assert sum(d.direction != ScalingDirection.NONE for d in decisions) <= 3
            return decisions

        decisions = await check(ScalingPlan(4.0))  # by default
        waiting = [d for d in decisions if d.cooldown_remaining_s > 0]
        assert waiting
        assert {d.direction for d in waiting} == {ScalingDirection.NONE}
        assert "waits for the cooldown" in waiting[0].reason
        await must_fail(check(ScalingPlan(4.0, down_window_s=0.0)))

    @pytest.mark.parametrize("mode", ["fails", "hangs"])
    @pytest.mark.parametrize("gap_ms", [20, 100, 500])
    async def test_circuit_breaker_on_failure(self, gap_ms: int, mode: str) -> None:
        """Default rules, one request every so often, one of two replicas sick."""
        assert await detection_ms(gap_ms, mode) < 100
        assert await detection_ms(gap_ms, mode, probing=NO_PROBES) > 250  # nobody asks them
        s, behind = await serve(2)
        sick, well = await s.orchestrator.discover_service("llm")
        await ask(s, gap_ms, 1000)
        behind.mode[sick] = mode
        before, lost = behind.requests[sick], list[int]()
        await ask(s, gap_ms, 4000, lost)  # longer than a breaker stays open
        assert behind.requests[sick] - before <= 100 / gap_ms  # what it got before it was shut out
        assert lost == []  # the other one answers: nobody gets an error
        assert await s.orchestrator.discover_service("llm") == [well]
        behind.mode.clear()
        await ask(s, gap_ms, 5000)
        assert await s.orchestrator.discover_service("llm") == [sick, well]

    async def test_service_discovery_health_filtering(self) -> None:
        nodes = [node(f"n{k}", 2) for k in range(4)]
        s = stage(*nodes, schedule_on_events=True)
        spec = _service(num_workers=3, min_workers=1, regroup_seconds=30.0, step_seconds=0.2)
        with pytest.raises(UnknownServiceError, match="llm"):
            await s.orchestrator.discover_service("llm")
        await s.orchestrator.submit_job(spec)
        await s.clock.advance_to(29_000)
        assert await s.orchestrator.discover_service("llm") == []  # they are starting up
        with pytest.raises(NoHealthyEndpointError):
            await s.orchestrator.route_request("llm", None)
        await s.clock.advance_to(30_000)
        first, second, third = await s.orchestrator.discover_service("llm")
        assert [first, second, third] == [f"llm@n{k}:0" for k in range(3)]
        answer = asyncio.ensure_future(s.orchestrator.route_request("llm", "prompt"))
        await s.clock.advance_to(30_200)  # the service's time
        assert answer.done()
        assert answer.result()["request"] == "prompt"
        s.orchestrator.mesh.discovery.set_health("llm", first, False)  # somebody says so
        assert await s.orchestrator.discover_service("llm") == [second, third]
        await s.orchestrator.handle_node_failure("n1")
        assert await s.orchestrator.discover_service("llm") == [third]
        assert s.orchestrator.get_job_status("llm")["starts"] == 1  # the others went on
        s.orchestrator.mesh.drain("llm", third)
        assert await s.orchestrator.discover_service("llm") == []
        s.orchestrator.mesh.discovery.set_health("llm", first, True)
        assert await s.orchestrator.discover_service("llm") == [first]
        states = s.orchestrator.get_cluster_status()["services"]["llm"]["endpoints"]
        assert states == {first: "healthy", third: "draining"}

    async def test_elastic_training_scale_up(self) -> None:
        async def check(grow: Callable[[Stage], Awaitable[object]]) -> None:
            s = stage(node("n0", 8), schedule_on_events=True)
            await s.orchestrator.submit_job(_elastic("a", regroup_seconds=6.0))
            await s.wait(10)
            before = s.orchestrator.engine.workers_of("a")
            await grow(s)
            await s.clock.advance_to(s.clock.now_ms())
            after = s.orchestrator.engine.workers_of("a")
            assert len(after) == 4
            assert after[:2] == before  # those that were there stay where they are
            assert s.runtime.observe() == {"a": 1}  # the same run
            status = s.orchestrator.get_job_status("a")
            assert (status["starts"], status["preemptions"], status["lost_ms"]) == (1, 0, 0)
            assert status["progress_ms"] == 10 * MINUTE_MS  # it goes on from where it was
            assert s.orchestrator.checkpoints.latest("a") is None
            assert not await s.orchestrator.scale_job("a", 9)  # beyond its bounds
            await s.clock.run_until_idle()
            status = s.orchestrator.get_job_status("a")
            assert status["end_ms"] == (10 + 50 / 2) * MINUTE_MS + 6000  # twice as fast
            assert status["starts"] == 1

        async def restart(s: Stage) -> None:
            await s.orchestrator.preempt_job("a", "to give it more")
            await s.clock.advance_to(s.clock.now_ms() + 6000)
            await s.orchestrator.scale_job("a", 4)

        await check(lambda s: s.orchestrator.scale_job("a", 4))
        await must_fail(check(restart))

    async def test_elastic_training_scale_down(self) -> None:
        async def check(workers: int) -> None:
            s = stage(node("n0", 8), schedule_on_events=True)
            await s.orchestrator.submit_job(_elastic("a", num_workers=8))
            await s.orchestrator.submit_job(job("b", gpus_per_worker=4))
            await s.wait(30)
            assert s.state_of("b") == "pending"
            before = s.orchestrator.engine.workers_of("a")
            assert await s.orchestrator.scale_job("a", workers)
            await s.clock.advance_to(s.clock.now_ms())
            assert set(s.orchestrator.engine.workers_of("a")) < set(before)
            assert s.state_of("b") == "running"  # in the room that was given up
            status = s.orchestrator.get_job_status("a")
            assert (status["state"], status["starts"], status["lost_ms"]) == ("running", 1, 0)
            assert status["progress_ms"] == 30 * MINUTE_MS
            assert not await s.orchestrator.scale_job("a", 0)
            await s.clock.run_until_idle()
            status = s.orchestrator.get_job_status("a")
            assert (status["end_ms"], status["starts"]) == ((30 + 30 * 2) * MINUTE_MS, 1)

        await check(4)
        await must_fail(check(5))  # three GPUs are no room for it

    @pytest.mark.parametrize(
        "killed_s",
        [
            27 * 60,
            35 * 60 + 1,
            20 * 60 - 3,
        ],
    )
    async def test_node_failure_job_recovery(self, killed_s: int) -> None:
        """A machine dies in silence: nobody says so, its workers neither write nor report."""

        async def check(*, timeout_ms: int | None = None, spare: int = 1) -> None:
            s = machines(*[node(f"n{k}") for k in range(2 + spare)], timeout_ms=timeout_ms)
            await s.beat()
            for name in ("a", "b"):
                await s.orchestrator.submit_job(job(name, gpus_per_worker=4))
            await s.clock.advance_to(1000 * killed_s)
            (place,) = s.orchestrator.engine.workers_of("a")
            (other,) = s.orchestrator.engine.workers_of("b")
            await s.kill(place.node_id)
            found_ms = 10_000 + BEAT_MS  # the detector's patience, and a beat
            await s.clock.advance_to(1000 * killed_s + found_ms)
            status = s.orchestrator.get_job_status("a")
            assert (status["interruptions"], status["starts"]) == (1, 2)
            assert s.orchestrator.get_cluster_status()["suspects"] == [place.node_id]
            assert s.orchestrator.engine.workers_of("b") == (other,)
            saved = s.orchestrator.checkpoints.latest("a")
            assert saved is not None
            assert saved.progress_ms == s.runtime.written["a"]  # what was written, and no more
            assert 0 <= 1000 * killed_s - saved.progress_ms <= 10 * MINUTE_MS  # the interval
            await s.clock.advance_to(2 * HOUR_MS)
            status = s.orchestrator.get_job_status("a")
            assert status["state"] == "completed"
            bound_ms = HOUR_MS + 10 * MINUTE_MS + found_ms + 20_000
            assert status["end_ms"] <= bound_ms
            assert s.orchestrator.get_job_status("b")["end_ms"] == HOUR_MS

        await check()
        await must_fail(check(timeout_ms=DAY_MS))  # nobody misses it
        await must_fail(check(spare=0))  # it is found out, and there is nowhere to go

    async def test_node_failure_job_recovery_when_it_is_announced(self) -> None:
        s = stage(node("n0"), node("n1"), schedule_on_events=True)
        await s.orchestrator.submit_job(job("a", gpus_per_worker=4))
        await s.orchestrator.submit_job(job("other", gpus_per_worker=2))
        await s.wait(27)
        (place,) = s.orchestrator.engine.workers_of("a")
        report = await s.orchestrator.handle_node_failure(place.node_id)
        assert report["interrupted_jobs"] == ["a"]
        assert report["lost_work_ms"] == {"a": 7 * MINUTE_MS}  # the interval is ten minutes
        assert report["checkpoints"]["a"]["progress_ms"] == 20 * MINUTE_MS
        await s.clock.advance_to(HOUR_MS)  # the other one ends, and makes room
        assert s.state_of("a") == "running"
        await s.clock.run_until_idle()
        status = s.orchestrator.get_job_status("a")
        assert status["end_ms"] == HOUR_MS + 40 * MINUTE_MS + 20_000  # what was left, and a restart
        assert (status["starts"], status["interruptions"]) == (2, 1)
        assert status["lost_ms"] == 7 * MINUTE_MS
        assert s.orchestrator.get_cluster_status()["nodes"]["down"] == 1

    async def test_graceful_node_decommission(self) -> None:
        async def check(*, drain: bool = True) -> None:
            s = stage(node("n0"), node("n1"), node("n2"), schedule_on_events=True)
            await s.orchestrator.submit_job(job("a", gpus_per_worker=4))
            await s.orchestrator.submit_job(job("b", gpus_per_worker=4))
            await s.wait(17)
            (place,) = s.orchestrator.engine.workers_of("a")
            assert await s.orchestrator.decommission_node(place.node_id, drain=drain)
            await s.clock.advance_to(s.clock.now_ms())
            assert s.state_of("a") == "checkpointing"
            states = s.orchestrator.get_cluster_status()["nodes"]["states"]
            assert states[place.node_id] == "draining"
            assert not await s.orchestrator.decommission_node(place.node_id)  # it is leaving
            await s.clock.advance_to(17 * MINUTE_MS + 5000)
            assert place.node_id not in s.orchestrator.nodes
            assert s.state_of("a") == "running"
            (now,) = s.orchestrator.engine.workers_of("a")
            assert now.node_id != place.node_id
            await s.clock.run_until_idle()
            a, b = (s.orchestrator.get_job_status(name) for name in "ab")
            assert (a["lost_ms"], a["starts"], a["end_ms"]) == (0, 2, HOUR_MS + 25_000)
            assert (b["starts"], b["end_ms"]) == (1, HOUR_MS)  # nobody touched it

        await check()
        await must_fail(check(drain=False))

    async def test_fair_share_multi_tenant(self) -> None:
        nodes = [node(f"n{k}", 8) for k in range(2)]
        options: dict[str, Any] = {"shape": _LARGE, "schedule_on_events": True}

        async def check(policy: Rule | Scheduler) -> None:
            tenants = (TenantSpec("a", weight=1.0), TenantSpec("b", weight=3.0))
            s = stage(*nodes, policy=policy, tenants=tenants, **options)
            for tenant in ("a", "b"):  # everything of a comes first
                for k in range(16):
                    await s.orchestrator.submit_job(job(f"{tenant}{k}", tenant=tenant))
            await s.clock.advance_to(0)
            shares = s.orchestrator.get_cluster_status()["tenants"]
            assert {name: shares[name]["used"] for name in ("a", "b")} == {"a": 4.0, "b": 12.0}
            assert shares["b"]["dominant_share"] == 0.75
            assert s.orchestrator.metrics.fairness_now() == pytest.approx(1.0)

        await check(Scheduler(queue=FairShareScheduler()))
        await check(RULES["drf"])
        await must_fail(check(RULES["priority"]))
        # Quotas: what is idle may be borrowed, and is given back when its owner asks.
        owners = (TenantSpec("a", quota=8.0), TenantSpec("b", quota=8.0))
        borrow = Semantics(quota_mode=QuotaMode.BORROW)
        t = stage(*nodes, policy=RULES["reclaim"], tenants=owners, semantics=borrow, **options)
        for k in range(16):
            await t.orchestrator.submit_job(job(f"a{k}", tenant="a"))
        await t.wait(12)
        assert t.orchestrator.get_cluster_status()["tenants"]["a"]["used"] == 16.0
        for k in range(8):
            await t.orchestrator.submit_job(job(f"b{k}", tenant="b"))
        await t.wait(1)
        held = t.orchestrator.get_cluster_status()["tenants"]
        assert (held["a"]["used"], held["b"]["used"]) == (8.0, 8.0)
        assert t.orchestrator.get_cluster_status()["preemptions"] == 8
        waits_ms = [t.orchestrator.get_job_status(f"b{k}")["wait_ms"] for k in range(8)]
        assert waits_ms == [5000 * (k + 1) for k in range(8)]  # a victim is saved for one at a time
        # A hard quota is never exceeded.
        hard = Semantics(quota_mode=QuotaMode.HARD)
        u = stage(*nodes, tenants=owners, semantics=hard, **options)
        for k in range(16):
            await u.orchestrator.submit_job(job(f"a{k}", tenant="a"))
        await u.clock.advance_to(0)
        assert u.orchestrator.get_cluster_status()["tenants"]["a"]["used"] == 8.0
        assert u.orchestrator.get_job_status("a15")["why_not"] == "quota"

    async def test_end_to_end_distributed_training(self) -> None:
        """Training, a service, scaling and a failure, while all that it depends on fails at times.

        The log fails at every 7th entry, the checkpoint store at every 2nd call, whoever delivers
        nodes at every 2nd, the runtime at every 5th.
        """

        async def check(every: tuple[int, int, int, int]) -> None:
            s = _scaled_stage(None, nodes=2)
            log, store, cloud, workers = every
            flaky(s.foundations.consensus_engine, log, "append")
            flaky(s.foundations.checkpoint_manager, store, "save", "commit")
            flaky(s.orchestrator._fleet.provisioner, cloud, "order", "release")
            flaky(s.runtime, workers, "carry_out")
            o = s.orchestrator
            await _insist(s, lambda: o.submit_job(_LLAMA))
            await s.wait(31)
            assert s.state_of("llama") == "running"
            serving = _service("chat", priority=JobPriority.PRODUCTION, min_workers=2)
            await _insist(s, lambda: o.submit_job(serving))  # pushes training out, which is saved
            await s.wait(2)
            assert s.state_of("chat") == "running"
            assert len(await o.discover_service("chat")) == 2
            narrow = o.engine.workers_of("llama")
            assert len(narrow) == 2  # it is elastic, and makes do with what is left
            decision = await _insist(s, o.auto_scale_cluster)
            assert decision.direction == ScalingDirection.UP
            await s.wait(4)  # the new node is here
            await _insist(s, lambda: o.scale_job("llama", 4))
            status = o.get_job_status("llama")
            assert (status["starts"], status["preemptions"], status["lost_ms"]) == (2, 1, 0)
            saved = o.checkpoints.latest("llama")
            assert saved is not None
            assert saved.progress_ms >= 30 * MINUTE_MS  # of when it was pushed out
            assert len(o.engine.workers_of("llama")) == 4
            await s.wait(15)
            victims = {place.node_id for place in o.engine.workers_of("llama")}
            await _insist(s, lambda: o.handle_node_failure(sorted(victims)[-1]))
            await s.wait(2)
            await _insist(s, o.auto_scale_cluster)
            await s.wait(240)
            status = o.get_job_status("llama")
            assert status["state"] == "completed"
            assert status["lost_ms"] <= 10 * MINUTE_MS * status["interruptions"]
            assert status["preemptions"] == 1
            assert await o.discover_service("chat")
            summary = o.metrics.summary(s.clock.now_ms())
            assert summary["completion"]["rate"] == 1.0
            assert summary["interruptions"] >= 1
            assert summary["node_hours"] > 0
            told = o.get_cluster_status()["errors"]
            assert (told["effects_waiting"], told["reports_waiting"]) == (0, 0)
            assert told["runtime"] + told["checkpoints"] > 0

        await check((7, 2, 2, 5))
        for port in range(4):  # one of them never answers again
            broken = [7, 2, 2, 5]
            broken[port] = 1
            await must_fail(check(tuple(broken)))  # type: ignore[arg-type]
