"""The fifteen behaviours that the orchestrator's interface promises, on a virtual clock."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from orchestrator import ClusterShape, ScalingDirection, Semantics, TenantSpec, VirtualClock
from orchestrator.autoscaler import HorizontalScaler, PredictiveScaler, ScalingPlan, SeasonalNaive
from orchestrator.errors import NoHealthyEndpointError, UnknownServiceError
from orchestrator.kernels.state.codes import JobKind, Placement, QuotaMode, Topology
from orchestrator.runtimes import SimulatedProvisioner
from orchestrator.scheduling.rules import RULES, BinPacker, TopologyAwareScheduler
from orchestrator.types import JobPriority, JobSpec, ScalingDecision
from tests.engine.builders import HOUR_MS, MINUTE_MS, Stage, job, node, stage
from tests.mesh.replicas import NO_PROBES, ask, detection_ms, serve

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


def _scaled_stage(scaler: Any, *, delay_s: float = 90.0, nodes: int = 1) -> Stage:
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
    )


async def _scale_every(s: Stage, seconds: int, until_s: int) -> list[tuple[int, ScalingDecision]]:
    """Have the cluster scaled at fixed intervals; (time in seconds, decision)."""
    decisions = []
    while s.clock.now_ms() < 1000 * until_s:
        await s.clock.advance_to(s.clock.now_ms() + 1000 * seconds)
        decision = await s.orchestrator.auto_scale_cluster()
        decisions.append((s.clock.now_ms() // 1000, decision))
    return decisions


class TestInfrastructureOrchestrator:
    async def test_bin_packing_optimal_utilization(self) -> None:
        rule = BinPacker(Placement.BEST_FIT).configure(RULES["fcfs"])
        nodes = [node(f"n{k}", 8) for k in range(4)]
        s = stage(*nodes, shape=_LARGE, policy=rule, schedule_on_events=True)
        draw = np.random.default_rng(7)
        for k in range(120):  # awkward sizes, and nothing small to fill gaps with
            workers, gpus = int(draw.choice([1, 2, 3])), int(draw.choice([2, 3, 5, 8]))
            spec = job(
                f"j{k}",
                num_workers=workers,
                gpus_per_worker=gpus,
                max_duration_hours=float(draw.uniform(0.2, 2.0)),
            )
            await s.orchestrator.submit_job(spec)
        await s.wait(4 * 60)
        status = s.orchestrator.get_cluster_status()
        assert status["queue"]["length"] > 0  # the load lasts: what is idle could not be used
        assert status["utilization"]["mean"] > 0.85
        summary = s.orchestrator.metrics.summary(s.clock.now_ms())
        assert summary["utilization"]["mean"] == status["utilization"]["mean"]
        assert summary["scheduling_latency"]["count"] > 20
        # Small jobs share a node, so that one that needs a whole node still finds one.
        packed = stage(node("a", 8), node("b", 8), policy=rule, schedule_on_events=True)
        for k in range(4):
            await packed.orchestrator.submit_job(job(f"small{k}", gpus_per_worker=2))
        await packed.orchestrator.submit_job(job("large", gpus_per_worker=8))
        await packed.clock.advance_to(0)
        assert packed.state_of("large") == "running"
        assert packed.orchestrator.get_cluster_status()["utilization"]["now"] == 1.0

    async def test_priority_preemption(self) -> None:
        s = stage(node("n0", 8), policy=RULES["priority"], schedule_on_events=True)
        low = job("low", gpus_per_worker=8, priority=JobPriority.BEST_EFFORT)
        await s.orchestrator.submit_job(low)
        await s.wait(25)
        urgent = job("urgent", gpus_per_worker=8, priority=JobPriority.CRITICAL)
        await s.orchestrator.submit_job(urgent)
        await s.clock.advance_to(s.clock.now_ms())
        assert (s.state_of("low"), s.state_of("urgent")) == ("checkpointing", "pending")
        assert s.orchestrator.get_job_status("urgent")["why_not"] == "no_capacity"
        await s.clock.advance_to(25 * MINUTE_MS + 10_000)
        assert (s.state_of("low"), s.state_of("urgent")) == ("preempted", "running")
        assert s.orchestrator.get_job_status("urgent")["wait_ms"] == 5000  # the checkpoint's cost
        saved = s.orchestrator.checkpoints.latest("low")
        assert saved is not None
        assert saved.progress_ms == 25 * MINUTE_MS
        await s.clock.run_until_idle()
        status = s.orchestrator.get_job_status("low")
        assert (status["state"], status["starts"], status["lost_ms"]) == ("completed", 2, 0)
        # Equals are not preempted for each other, and nobody below may push anybody out.
        t = stage(node("n0", 8), policy=RULES["priority"], schedule_on_events=True)
        await t.orchestrator.submit_job(urgent)
        await t.wait(1)
        await t.orchestrator.submit_job(low)
        await t.wait(1)
        assert (t.state_of("urgent"), t.state_of("low")) == ("running", "pending")

    async def test_gang_scheduling_all_or_nothing(self) -> None:
        s = stage(node("n0", 4), node("n1", 4), schedule_on_events=True)
        await s.orchestrator.submit_job(job("first", gpus_per_worker=3))
        await s.orchestrator.submit_job(job("gang", num_workers=4, gpus_per_worker=2))
        await s.clock.advance_to(0)
        for _ in range(6):  # room for three of its four workers is not enough, at any time
            assert s.state_of("gang") == "pending"
            assert s.orchestrator.engine.workers_of("gang") == ()
            assert s.orchestrator.get_cluster_status()["gpus"]["allocated"] == 3
            await s.wait(9.9)
        status = s.orchestrator.get_cluster_status()
        assert status["queue"]["why_not"] == {"gang": "no_capacity"}
        await s.wait(1)
        workers = s.orchestrator.engine.workers_of("gang")
        assert len(workers) == 4
        assert len({(w.node_id, g) for w in workers for g in w.gpus}) == 8
        # It goes as a whole too.
        report = await s.orchestrator.handle_node_failure("n1")
        assert report["interrupted_jobs"] == ["gang"]
        assert s.orchestrator.engine.workers_of("gang") == ()
        assert s.orchestrator.get_cluster_status()["gpus"]["allocated"] == 0

    async def test_topology_aware_placement(self) -> None:
        rule = TopologyAwareScheduler().configure(RULES["fcfs"])
        racks = [node(f"n{k}", 4, rack=k // 2, spine=0) for k in range(4)]
        s = stage(*racks, policy=rule, schedule_on_events=True)
        await s.orchestrator.submit_job(job("busy", gpus_per_worker=2))  # somewhere
        await s.clock.advance_to(0)
        (busy,) = s.orchestrator.engine.workers_of("busy")
        other = [n.node_id for n in racks if n.rack != s.orchestrator.nodes[busy.node_id].rack]
        gang = job("gang", num_workers=2, gpus_per_worker=4, topology=Topology.RACK)
        await s.orchestrator.submit_job(gang)
        await s.clock.advance_to(0)
        places = sorted(place.node_id for place in s.orchestrator.engine.workers_of("gang"))
        assert places == other  # the only rack with two whole nodes
        # Preferred only: a gang that asks for nothing still shares a node.
        await s.orchestrator.submit_job(job("near", num_workers=2, gpus_per_worker=2))
        await s.clock.advance_to(0)
        near = {place.node_id for place in s.orchestrator.engine.workers_of("near")}
        assert len(near) == 1
        # Required: four GPUs are not on one node any more, and it waits rather than spread.
        tight = job("tight", num_workers=2, gpus_per_worker=1, topology=Topology.NODE)
        await s.orchestrator.submit_job(tight)
        await s.orchestrator.submit_job(job("filler", gpus_per_worker=1))
        await s.clock.advance_to(0)
        assert len({p.node_id for p in s.orchestrator.engine.workers_of("tight")}) == 1

    async def test_horizontal_auto_scaling(self) -> None:
        scaler = HorizontalScaler(ScalingPlan(4.0, max_size=8, down_window_s=300.0))
        s = _scaled_stage(scaler, delay_s=90.0)
        for k in range(3):
            await s.orchestrator.submit_job(job(f"j{k}", gpus_per_worker=4))
        ((at_s, decision),) = await _scale_every(s, 15, 15)
        assert at_s == 15
        assert (decision.direction, decision.target_nodes) == (ScalingDirection.UP, 4)
        assert s.orchestrator.get_cluster_status()["scaling"]["pending"] == 3
        again = await _scale_every(s, 15, 60)
        assert {d.direction for _, d in again} == {ScalingDirection.NONE}  # they are on their way
        await s.clock.advance_to(105_000)  # decision and delivery: less than two minutes
        status = s.orchestrator.get_cluster_status()
        assert status["nodes"]["up"] == 4
        assert {s.state_of(f"j{k}") for k in range(3)} == {"running"}
        assert s.orchestrator.get_job_status("j2")["wait_ms"] == 105_000
        await s.clock.run_until_idle()  # all done: down to one node, the cheapest first
        decision = await s.orchestrator.auto_scale_cluster()
        assert (decision.direction, decision.target_nodes) == (ScalingDirection.DOWN, 1)
        assert list(s.orchestrator.nodes) == ["n0"]
        summary = s.orchestrator.metrics.scaling.summary()
        assert (summary["nodes_added"], summary["nodes_removed"]) == (3, 3)
        assert summary["delay_s"] == 90.0

    async def test_predictive_scaling_forecast(self) -> None:
        tick_s, day, high = 300, 12, 16

        async def live(scaler: Any) -> Stage:
            """Five days of four GPUs for half a day and sixteen for the other half."""
            s = _scaled_stage(scaler, delay_s=tick_s - 1, nodes=2)
            for tick in range(5 * day):
                await s.clock.advance_to(tick * tick_s * 1000)
                jobs = 1 if tick % day < day // 2 else high // 4
                for k in range(jobs):
                    hours = (tick_s - 2) / 3600
                    spec = job(f"t{tick}.{k}", gpus_per_worker=4, max_duration_hours=hours)
                    await s.orchestrator.submit_job(spec)
                await s.clock.advance_to(s.clock.now_ms())
                await s.orchestrator.auto_scale_cluster()
            return s

        plan = ScalingPlan(4.0, target_utilisation=1.0, max_size=8, down_window_s=0.0)
        reactive = await live(HorizontalScaler(plan))
        predictive_scaler = PredictiveScaler(plan, [SeasonalNaive()], day=day, delay=1)
        predictive = await live(predictive_scaler)
        before = reactive.orchestrator.metrics.scaling.summary()["reactive"]
        after = predictive.orchestrator.metrics.scaling.summary()["reactive"]
        assert before == 10  # every morning, and for what is left over from it
        assert after <= 0.2 * before  # less than 0.5 is asked for
        forecast = predictive_scaler.forecast()
        assert forecast.point >= 4.0
        assert predictive.orchestrator.get_cluster_status()["jobs"]["pending"] == 0

    async def test_scaling_cooldown_prevents_oscillation(self) -> None:
        async def live(window_s: float) -> tuple[int, list[ScalingDecision]]:
            plan = ScalingPlan(
                4.0, target_utilisation=1.0, up_window_s=window_s, down_window_s=window_s
            )
            s = _scaled_stage(HorizontalScaler(plan), delay_s=10.0)
            decisions: list[ScalingDecision] = []
            for minute in range(20):  # work for two nodes every other minute, gone in the next
                await s.clock.advance_to(minute * MINUTE_MS)
                for k in range(2 if minute % 2 == 0 else 0):
                    name, hours = f"m{minute}.{k}", 45 / 3600
                    await s.orchestrator.submit_job(
                        job(name, gpus_per_worker=4, max_duration_hours=hours)
                    )
                await s.clock.advance_to(s.clock.now_ms())
                decisions.append(await s.orchestrator.auto_scale_cluster())
            return sum(d.direction != ScalingDirection.NONE for d in decisions), decisions

        wild, _ = await live(0.0)
        calm, decisions = await live(600.0)
        assert wild == 20
        assert calm == 2
        waiting = [d for d in decisions if d.cooldown_remaining_s > 0]
        assert waiting
        assert {d.direction for d in waiting} == {ScalingDirection.NONE}
        assert "waits for the cooldown" in waiting[0].reason

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
        assert lost == []  # the other one answers, and nobody notices
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
        s.orchestrator.mesh.discovery.set_health("llm", first, False)  # a probe says so
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
        s = stage(node("n0", 8), schedule_on_events=True)
        await s.orchestrator.submit_job(_elastic("a", regroup_seconds=6.0))
        await s.wait(10)
        before = s.orchestrator.engine.workers_of("a")
        assert await s.orchestrator.scale_job("a", 4)
        after = s.orchestrator.engine.workers_of("a")
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

    async def test_elastic_training_scale_down(self) -> None:
        s = stage(node("n0", 8), schedule_on_events=True)
        await s.orchestrator.submit_job(_elastic("a", num_workers=8))
        await s.orchestrator.submit_job(job("b", gpus_per_worker=4))
        await s.wait(30)
        assert s.state_of("b") == "pending"
        before = s.orchestrator.engine.workers_of("a")
        assert await s.orchestrator.scale_job("a", 4)
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

    async def test_node_failure_job_recovery(self) -> None:
        s = stage(node("n0"), node("n1"), schedule_on_events=True)
        await s.orchestrator.submit_job(job("a", gpus_per_worker=4))
        await s.orchestrator.submit_job(job("other", gpus_per_worker=2))
        await s.wait(27)
        (place,) = s.orchestrator.engine.workers_of("a")
        (spare,) = {"n0", "n1"} - {place.node_id}
        assert s.orchestrator.engine.workers_of("other")[0].node_id == spare
        report = await s.orchestrator.handle_node_failure(place.node_id)
        assert report["interrupted_jobs"] == ["a"]
        assert report["lost_work_ms"] == {"a": 7 * MINUTE_MS}  # the interval is ten minutes
        assert report["checkpoints"]["a"]["progress_ms"] == 20 * MINUTE_MS
        await s.clock.advance_to(s.clock.now_ms())
        assert s.state_of("other") == "running"
        assert s.orchestrator.get_job_status("a")["why_not"] == "no_capacity"
        await s.clock.advance_to(HOUR_MS)  # the other one ends, and makes room
        assert s.state_of("a") == "running"
        await s.clock.run_until_idle()
        status = s.orchestrator.get_job_status("a")
        assert status["end_ms"] == HOUR_MS + 40 * MINUTE_MS + 20_000  # what was left, and a restart
        assert (status["starts"], status["interruptions"]) == (2, 1)
        assert status["lost_ms"] == 7 * MINUTE_MS
        assert s.orchestrator.get_cluster_status()["nodes"]["down"] == 1

    async def test_graceful_node_decommission(self) -> None:
        s = stage(node("n0"), node("n1"), node("n2"), schedule_on_events=True)
        await s.orchestrator.submit_job(job("a", gpus_per_worker=4))
        await s.orchestrator.submit_job(job("b", gpus_per_worker=4))
        await s.wait(17)
        (place,) = s.orchestrator.engine.workers_of("a")
        assert await s.orchestrator.decommission_node(place.node_id)
        await s.clock.advance_to(s.clock.now_ms())
        assert s.state_of("a") == "checkpointing"
        states = s.orchestrator.get_cluster_status()["nodes"]["states"]
        assert states[place.node_id] == "draining"
        assert not await s.orchestrator.decommission_node(place.node_id)  # it is leaving already
        await s.clock.advance_to(17 * MINUTE_MS + 5000)
        assert place.node_id not in s.orchestrator.nodes
        assert s.state_of("a") == "running"
        (now,) = s.orchestrator.engine.workers_of("a")
        assert now.node_id != place.node_id
        await s.clock.run_until_idle()
        a, b = (s.orchestrator.get_job_status(name) for name in "ab")
        assert (a["lost_ms"], a["starts"], a["end_ms"]) == (0, 2, HOUR_MS + 25_000)
        assert (b["starts"], b["end_ms"]) == (1, HOUR_MS)  # nobody touched it

    async def test_fair_share_multi_tenant(self) -> None:
        tenants = (TenantSpec("a", weight=1.0), TenantSpec("b", weight=3.0))
        nodes = [node(f"n{k}", 8) for k in range(2)]
        options: dict[str, Any] = {"shape": _LARGE, "schedule_on_events": True}
        s = stage(*nodes, policy=RULES["drf"], tenants=tenants, **options)
        for tenant in ("a", "b"):  # everything of a comes first
            for k in range(16):
                await s.orchestrator.submit_job(job(f"{tenant}{k}", tenant=tenant))
        await s.clock.advance_to(0)
        shares = s.orchestrator.get_cluster_status()["tenants"]
        assert {name: shares[name]["used"] for name in ("a", "b")} == {"a": 4.0, "b": 12.0}
        assert shares["b"]["dominant_share"] == 0.75
        assert s.orchestrator.metrics.fairness_now() == pytest.approx(1.0)
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
        scaler = HorizontalScaler(ScalingPlan(4.0, max_size=6))
        s = _scaled_stage(scaler, nodes=2)
        s.orchestrator.policy = RULES["priority"]
        training = job(
            "llama",
            num_workers=4,
            gpus_per_worker=2,
            max_duration_hours=2.0,
            elastic=True,
            min_workers=2,
            max_workers=4,
        )
        await s.orchestrator.submit_job(training)
        await s.wait(31)
        assert s.state_of("llama") == "running"
        serving = _service("chat", priority=JobPriority.PRODUCTION, min_workers=2)
        await s.orchestrator.submit_job(serving)  # pushes training out, which is saved
        await s.wait(1)
        assert s.state_of("chat") == "running"
        assert len(await s.orchestrator.discover_service("chat")) == 2
        narrow = s.orchestrator.engine.workers_of("llama")
        assert len(narrow) == 2  # it is elastic, and makes do with what is left
        decision = await s.orchestrator.auto_scale_cluster()
        assert decision.direction == ScalingDirection.UP
        await s.wait(2)  # the new node is here
        assert await s.orchestrator.scale_job("llama", 4)
        status = s.orchestrator.get_job_status("llama")
        assert (status["starts"], status["preemptions"], status["lost_ms"]) == (2, 1, 0)
        await s.wait(15)
        victims = {place.node_id for place in s.orchestrator.engine.workers_of("llama")}
        await s.orchestrator.handle_node_failure(sorted(victims)[-1])
        await s.wait(1)
        await s.orchestrator.auto_scale_cluster()
        await s.wait(240)
        status = s.orchestrator.get_job_status("llama")
        assert status["state"] == "completed"
        assert status["lost_ms"] <= 10 * MINUTE_MS * status["interruptions"]
        assert status["preemptions"] == 1
        assert await s.orchestrator.discover_service("chat")
        summary = s.orchestrator.metrics.summary(s.clock.now_ms())
        assert summary["completion"]["rate"] == 1.0
        assert summary["interruptions"] >= 1
        assert summary["node_hours"] > 0
