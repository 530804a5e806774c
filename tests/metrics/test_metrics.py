"""What an orchestrator tells of itself, computed by hand for small stories."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from orchestrator import ScalingDecision, ScalingDirection, TenantSpec
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.state.codes import JobKind
from orchestrator.metrics import OrchestratorMetrics, ScalingEfficiency, SchedulingLatency, Series
from orchestrator.status import demand_of, fragmentation, jain_index
from tests.engine.builders import HOUR_MS, MINUTE_MS, job, node, stage


def test_series_forget_what_is_old() -> None:
    series = Series(3)
    assert (series.last, series.highest, len(series)) == (None, None, 0)
    for k in range(5):
        series.add(k, 10.0 - k)
    assert list(series) == [(2, 8.0), (3, 7.0), (4, 6.0)]
    series.add(4, 9.0)
    assert (series.last, series.highest, len(series)) == (9.0, 9.0, 3)
    with pytest.raises(ConfigurationError, match="'limit' is 0"):
        Series(0)


def test_latency_is_that_of_the_last_waits_and_counts_all() -> None:
    latency = SchedulingLatency(limit=101)
    assert latency.summary()["p99_s"] == 0.0
    latency.add(1_000_000)
    for k in range(101):
        latency.add(1000 * k)
    summary = latency.summary()
    assert (summary["count"], summary["p50_s"], summary["p95_s"]) == (102, 50.0, 95.0)
    assert (summary["p99_s"], summary["highest_s"]) == (99.0, 100.0)
    assert summary["mean_s"] == pytest.approx((1000 + 5050) / 102)


def test_fairness_is_that_of_jain() -> None:
    assert jain_index(np.array([1.0, 1.0, 1.0])) == 1.0
    assert jain_index(np.array([1.0, 0.0, 0.0, 0.0])) == 0.25
    assert jain_index(np.array([3.0, 1.0])) == pytest.approx(16 / 20)
    assert jain_index(np.zeros(2)) == 1.0


def _decision(direction: ScalingDirection) -> ScalingDecision:
    return ScalingDecision(direction, 1, "", 0.0, 0.0)


def test_elasticity_is_integrated_between_decisions() -> None:
    account = ScalingEfficiency()
    assert account.summary()["missing"] == 0.0
    account.note(1000, _decision(ScalingDirection.UP), 12.0, 8.0, 1)  # 4 missing for 1 s
    account.note(2000, _decision(ScalingDirection.NONE), 8.0, 8.0, 0)  # as it should be, 1 s
    account.note(3000, _decision(ScalingDirection.DOWN), 2.0, 8.0, 2)  # 6 idle for 2 s
    account.note(5000, _decision(ScalingDirection.UP), 9.0, 10.0, 1)
    account.note_arrival(90_000)
    account.note_arrival(60_000)
    summary = account.summary()
    assert (summary["up"], summary["down"], summary["none"], summary["reactive"]) == (2, 1, 1, 1)
    assert (summary["nodes_added"], summary["nodes_removed"]) == (2, 2)
    assert (summary["missing"], summary["idle"]) == (1.0, 3.0)
    assert (summary["missing_share"], summary["idle_share"]) == (0.25, 0.5)
    assert summary["delay_s"] == 90.0


async def test_a_story_is_summed_up() -> None:
    s = stage(node("n0"), node("n1"), schedule_on_events=True)
    for name in ("a", "b", "c"):
        await s.orchestrator.submit_job(job(name, gpus_per_worker=4))
    await s.wait(15)
    await s.orchestrator.preempt_job("a", "somebody wants to look at it")
    await s.wait(10)
    await s.orchestrator.handle_node_failure("n1")
    await s.wait(60)
    await s.orchestrator.handle_node_recovery("n1")
    await s.clock.run_until_idle()
    now_ms = s.clock.now_ms()
    summary = s.orchestrator.metrics.summary(now_ms)
    status = s.orchestrator.get_cluster_status()
    assert summary["completion"]["completed"] == 3
    assert summary["completion"]["per_hour"] == pytest.approx(3 * HOUR_MS / now_ms)
    assert (summary["preemptions"], summary["interruptions"]) == (1, 1)
    assert summary["scheduling_latency"]["count"] == 3
    assert summary["utilization"]["mean"] == status["utilization"]["mean"]
    assert summary["node_hours"] == pytest.approx((2 * now_ms - HOUR_MS) / HOUR_MS)
    assert summary["node_cost"] == summary["node_hours"]
    lost_ms = sum(s.orchestrator.get_job_status(name)["lost_ms"] for name in "abc")
    assert lost_ms > 0
    assert summary["lost_hours"] >= 4 * lost_ms / HOUR_MS  # and restarts
    samples = list(s.orchestrator.metrics.utilization.series)
    gaps = np.diff([time_ms for time_ms, _ in samples])
    assert gaps.min() >= MINUTE_MS
    assert max(value for _, value in samples) == 1.0
    assert len(s.orchestrator.metrics.queue) == len(samples)


async def test_idle_gpus_beside_busy_ones_are_fragments() -> None:
    s = stage(node("n0"), node("n1"))
    engine = s.orchestrator.engine
    assert fragmentation(engine) == 0.0
    await s.orchestrator.submit_job(job("a", gpus_per_worker=3))
    await s.orchestrator.schedule()
    assert fragmentation(engine) == pytest.approx(1 / 5)
    assert s.orchestrator.get_cluster_status()["fragmentation"] == pytest.approx(1 / 5)
    await s.orchestrator.submit_job(job("b", gpus_per_worker=3))
    await s.orchestrator.schedule()
    await s.orchestrator.submit_job(job("c", gpus_per_worker=2))
    assert fragmentation(engine) == 1.0
    assert s.orchestrator.get_job_status("c")["why_not"] == "fragmented"
    demand = demand_of(engine)
    assert (demand.unit, demand.held, demand.queued, demand.total) == ("gpu", 6.0, 2.0, 8.0)


async def test_a_waiting_job_that_fits_waits_for_its_turn() -> None:
    s = stage(node("n0"))
    for name in ("a", "b"):
        await s.orchestrator.submit_job(job(name, gpus_per_worker=3))
    before = s.orchestrator.engine.log_hash
    why = s.orchestrator.get_cluster_status()["queue"]["why_not"]
    assert why == {"a": "ok", "b": "ok"}  # each by itself
    assert s.orchestrator.engine.log_hash == before
    assert s.orchestrator.get_cluster_status()["decisions"] == 0
    await s.orchestrator.schedule()
    assert s.orchestrator.get_job_status("a")["why_not"] is None
    assert s.orchestrator.get_job_status("b")["why_not"] == "no_capacity"


async def test_tenants_are_told_apart() -> None:
    tenants = (TenantSpec("x", weight=2.0, quota=4.0), TenantSpec("y"))
    s = stage(node("n0", 8), tenants=tenants)
    await s.orchestrator.submit_job(job("a", tenant="x", gpus_per_worker=4))
    await s.orchestrator.submit_job(job("b", tenant="y", gpus_per_worker=1, cpus_per_worker=32.0))
    await s.orchestrator.schedule()
    shares = s.orchestrator.get_cluster_status()["tenants"]
    assert (shares["x"]["used"], shares["x"]["quota"], shares["x"]["weight"]) == (4.0, 4.0, 2.0)
    assert (shares["x"]["dominant_share"], shares["y"]["dominant_share"]) == (0.5, 0.5)
    assert s.orchestrator.metrics.fairness_now() == pytest.approx(jain_index(np.array([1.0, 2.0])))


async def test_services_are_judged_by_their_objective() -> None:
    s = stage(node("n0"), schedule_on_events=True)
    slow = job("slow", kind=JobKind.SERVICE, step_seconds=2.0, max_duration_hours=1e4)
    fast = job("fast", kind=JobKind.SERVICE, step_seconds=0.1, max_duration_hours=1e4)
    for spec in (slow, fast):
        await s.orchestrator.submit_job(spec)
    await s.clock.advance_to(0)
    route = s.orchestrator.route_request
    answers = [asyncio.ensure_future(route(name, k)) for k in range(3) for name in ("slow", "fast")]
    await s.wait(1)
    assert all(answer.done() for answer in answers)
    summary = s.orchestrator.metrics.summary(s.clock.now_ms())
    assert summary["service_attainment"] == {"slow": 0.0, "fast": 1.0}
    assert s.orchestrator.get_cluster_status()["services"]["fast"]["attainment"] == 1.0
    s.orchestrator.mesh.remove_service("slow")  # by hand, while it runs
    await s.orchestrator.decommission_node("n0", drain=False)
    assert await s.orchestrator.discover_service("fast") == []


def test_intervals_are_checked() -> None:
    s = stage(node("n0"))
    with pytest.raises(ConfigurationError, match="'interval_ms' is -1"):
        OrchestratorMetrics(s.orchestrator.engine, interval_ms=-1)
