"""Acceptance criteria that the fifteen tests of the interface do not go through case by case.

Times are virtual: they follow from the specifications, not from the machine that runs this. What
routing adds and how soon a sick replica is shut out is measured on a wall clock by ``suite=speed``.
A check is followed by mutations: with these it must fail.
"""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from orchestrator import ClusterShape, VirtualClock
from orchestrator.kernels.state.codes import JobKind
from orchestrator.mesh import HealthCheck
from orchestrator.messages import RegroupJob, StartJob
from orchestrator.runtimes import SimulatedProvisioner
from orchestrator.scheduling.rules import RULES
from orchestrator.types import JobPriority
from tests.engine.builders import HOUR_MS, MINUTE_MS, job, node, stage
from tests.engine.mortal import BEAT_MS, DAY_MS, machines, must_fail

_SHAPE = ClusterShape(envs=1, jobs=32, workers=8, nodes=8, devices=4)


@pytest.mark.parametrize("seed", range(4))
async def test_every_failure_costs_at_most_an_interval_and_a_restart(seed: int) -> None:
    """Each job ends within its work + failures x (checkpoint interval + restart time)."""
    await _bad_hours(seed, nodes=6)
    await must_fail(_bad_hours(seed, nodes=2))  # nothing is spare: who fails has to wait


async def _bad_hours(seed: int, nodes: int) -> None:
    """Eight jobs, and a node that fails and comes back every few minutes."""
    draw = np.random.default_rng(seed)
    s = stage(*[node(f"n{k}", 4) for k in range(nodes)], shape=_SHAPE, schedule_on_events=True)
    interval_ms, restart_ms = {}, {}
    for k in range(8):
        minutes, restart_s = int(draw.integers(1, 20)), float(draw.integers(5, 120))
        spec = job(
            f"j{k}",
            num_workers=int(draw.integers(1, 3)),
            checkpoint_interval_steps=60 * minutes,
            restart_seconds=restart_s,
            max_duration_hours=float(draw.uniform(0.5, 2.0)),
        )
        interval_ms[spec.job_id] = minutes * MINUTE_MS
        restart_ms[spec.job_id] = round(1000 * restart_s)
        await s.orchestrator.submit_job(spec)
    for _ in range(12):
        await s.wait(float(draw.uniform(1, 10)))
        before = {name: s.orchestrator.get_job_status(name)["progress_ms"] for name in interval_ms}
        failing = f"n{int(draw.integers(nodes))}"
        report = await s.orchestrator.handle_node_failure(failing)
        for name in report["interrupted_jobs"]:
            lost_ms = report["lost_work_ms"][name]
            assert lost_ms <= interval_ms[name]
            saved = report["checkpoints"][name]
            kept_ms = saved["progress_ms"] if saved else 0
            assert kept_ms == before[name] - lost_ms  # nothing else is lost
        await s.clock.advance_to(s.clock.now_ms())
        running = {name for name in report["interrupted_jobs"] if s.state_of(name) == "running"}
        assert running == set(report["interrupted_jobs"])  # at the instant of the failure
        await s.orchestrator.handle_node_recovery(failing)
    await s.clock.run_until_idle()
    interruptions = 0
    for name, interval in interval_ms.items():
        status = s.orchestrator.get_job_status(name)
        work_ms = round(s.orchestrator.jobs[name].max_duration_hours * HOUR_MS)
        bound_ms = work_ms + status["interruptions"] * (interval + restart_ms[name])
        assert status["state"] == "completed"
        assert work_ms <= status["end_ms"] <= bound_ms
        interruptions += status["interruptions"]
    assert interruptions > 0


@pytest.mark.parametrize("seed", range(3))
async def test_every_silent_death_is_found_and_costs_no_more(seed: int) -> None:
    """Machines die without a word, and come back; the bound counts the time of finding out, too."""
    await _silent_hours(seed)
    await must_fail(_silent_hours(seed, timeout_ms=DAY_MS))


async def _silent_hours(seed: int, timeout_ms: int | None = None) -> None:
    draw = np.random.default_rng(seed)
    found_ms = 10_000 + BEAT_MS
    s = machines(*[node(f"n{k}", 4) for k in range(6)], timeout_ms=timeout_ms)
    await s.beat()
    interval_ms, work_ms = {}, {}
    for k in range(8):  # a gang on up to two nodes each, and two nodes are spare
        minutes, hours = int(draw.integers(1, 20)), float(draw.uniform(0.5, 2.0))
        spec = job(
            f"j{k}",
            num_workers=int(draw.integers(1, 3)),
            checkpoint_interval_steps=60 * minutes,
            max_duration_hours=hours,
        )
        interval_ms[spec.job_id], work_ms[spec.job_id] = minutes * MINUTE_MS, hours * HOUR_MS
        await s.orchestrator.submit_job(spec)
    for _ in range(8):
        await s.wait(float(draw.uniform(1, 8)))
        dying = f"n{int(draw.integers(6))}"
        hit = [
            name
            for name in interval_ms
            if dying in {place.node_id for place in s.orchestrator.engine.workers_of(name)}
        ]
        runs = {name: s.orchestrator.get_job_status(name)["starts"] for name in hit}
        await s.kill(dying)
        await s.clock.advance_to(s.clock.now_ms() + found_ms)
        assert s.orchestrator.get_cluster_status()["suspects"] == [dying]
        for name in hit:
            status = s.orchestrator.get_job_status(name)
            assert (status["state"], status["starts"]) == ("running", runs[name] + 1)
            assert dying not in {place["node"] for place in status["workers"]}
        s.runtime.dead.discard(dying)
        await s.clock.advance_to(s.clock.now_ms() + BEAT_MS)
        assert s.orchestrator.get_cluster_status()["suspects"] == []
    await s.clock.advance_to(6 * HOUR_MS)
    interruptions = 0
    for name, interval in interval_ms.items():
        status = s.orchestrator.get_job_status(name)
        cost_ms = interval + found_ms + 20_000
        assert status["state"] == "completed"
        assert status["end_ms"] <= work_ms[name] + status["interruptions"] * cost_ms + 1
        interruptions += status["interruptions"]
    assert interruptions > 0


@pytest.mark.parametrize("checkpoint_s", [0.0, 5.0, 25.0])
async def test_preemption_takes_as_long_as_the_checkpoint(checkpoint_s: float) -> None:
    s = stage(node("n0", 4), policy=RULES["priority"], schedule_on_events=True)
    victim = job("low", gpus_per_worker=4, checkpoint_seconds=checkpoint_s)
    await s.orchestrator.submit_job(victim)
    await s.wait(13)
    urgent = job("high", gpus_per_worker=4, priority=JobPriority.CRITICAL)
    await s.orchestrator.submit_job(urgent)
    await s.clock.advance_to(13 * MINUTE_MS + 30_000)
    status = s.orchestrator.get_job_status("high")
    assert status["state"] == "running"
    assert status["wait_ms"] == 1000 * checkpoint_s
    assert s.orchestrator.get_job_status("low")["progress_ms"] == 13 * MINUTE_MS


async def test_no_gang_is_ever_partly_placed() -> None:
    """Rigid and elastic gangs, a random load, failures: none ever has less than it needs."""
    await _gangs_under_failures(partial=False)
    await must_fail(_gangs_under_failures(partial=True))


async def _gangs_under_failures(*, partial: bool) -> None:
    """Watch what is started and resized; ``partial``: one worker is enough, and nobody says so."""
    draw = np.random.default_rng(3)
    s = stage(*[node(f"n{k}", 4) for k in range(4)], shape=_SHAPE, schedule_on_events=True)
    seen: list[StartJob | RegroupJob] = []
    carry_out = s.runtime.carry_out

    def watch(effects: Any) -> None:
        seen.extend(effect for effect in effects if isinstance(effect, StartJob | RegroupJob))
        carry_out(effects)

    s.runtime.carry_out = watch  # type: ignore[method-assign]
    least = {}
    for k in range(32):
        workers, gpus = int(draw.integers(2, 6)), int(draw.integers(1, 4))
        elastic = bool(draw.random() < 0.5)
        if workers * gpus <= 12:
            name = f"j{k}"
            least[name] = max(workers - 1, 2) if elastic else workers
            fields = {"elastic": elastic, "min_workers": least[name], "max_workers": workers}
            if partial:
                fields |= {"elastic": True, "min_workers": 1}
            spec = job(name, num_workers=workers, gpus_per_worker=gpus, **fields)
            await s.orchestrator.submit_job(spec)
        await s.wait(float(draw.uniform(1, 20)))
        held = {name: len(s.orchestrator.engine.workers_of(name)) for name in least}
        assert {name: n for name, n in held.items() if 0 < n < least[name]} == {}
        if k % 7 == 6:
            failing = f"n{k % 4}"
            await s.orchestrator.handle_node_failure(failing)
            await s.orchestrator.handle_node_recovery(failing)
    await s.clock.run_until_idle()
    assert sum(isinstance(effect, StartJob) for effect in seen) > 25
    sizes = [len(effect.workers) for effect in seen]
    assert all(n >= least[effect.job_id] for n, effect in zip(sizes, seen, strict=True))
    taken = [{(w.node_id, g) for w in effect.workers for g in w.gpus} for effect in seen]
    asked = [n * effect.spec.gpus_per_worker for n, effect in zip(sizes, seen, strict=True)]
    assert [len(gpus) for gpus in taken] == asked


async def test_capacity_follows_demand_within_two_minutes() -> None:
    """A decision every 15 s and nodes that take 90 s: at most 105 s from demand to capacity."""
    await _step_up(every_ms=15_000, delay_s=90.0)
    await must_fail(_step_up(every_ms=60_000, delay_s=90.0))
    await must_fail(_step_up(every_ms=15_000, delay_s=120.0))


async def _step_up(every_ms: int, delay_s: float) -> None:
    """Jobs that need a node each come one after the other; the scaler is the default one."""
    clock = VirtualClock()
    s = stage(
        node("n0", 4),
        clock=clock,
        shape=_SHAPE,
        provisioner=SimulatedProvisioner(clock, node("rented", 4), delay_s=delay_s),
        schedule_on_events=True,
    )

    async def tick() -> None:
        await s.orchestrator.auto_scale_cluster()
        clock.call_at(clock.now_ms() + every_ms, tick)

    clock.call_at(0, tick)
    for k, second in enumerate((1, 61, 64, 122, 200, 333)):
        await clock.advance_to(1000 * second)
        await s.orchestrator.submit_job(job(f"j{k}", gpus_per_worker=4))
    await clock.advance_to(HOUR_MS // 2)
    waits_ms = [s.orchestrator.get_job_status(f"j{k}")["wait_ms"] for k in range(6)]
    assert waits_ms[0] == 0
    assert max(waits_ms) <= 105_000


@pytest.mark.parametrize(("others", "replicas"), [(0, 4), (5, 8)])
async def test_a_request_costs_one_call_and_no_time(others: int, replicas: int) -> None:
    """Whatever the mesh does around it, probing and the replicas of other services included."""
    await _route(others, replicas, slowed_ms=0)
    await must_fail(_route(others, replicas, slowed_ms=1))


async def _route(others: int, replicas: int, slowed_ms: int) -> None:
    clock = VirtualClock()
    calls: list[tuple[str, object]] = []

    async def transport(address: str, request: object) -> object:
        if isinstance(request, HealthCheck):
            return "well"
        calls.append((address, request))
        await clock.sleep_until(clock.now_ms() + 50 + slowed_ms)
        return request

    s = stage(
        *[node(f"n{k}", 8) for k in range(8)],
        clock=clock,
        shape=ClusterShape(envs=1, jobs=32, workers=8, nodes=8, devices=8),
        transport=transport,
        schedule_on_events=True,
    )
    for k in range(others + 1):
        spec = job(f"s{k}", kind=JobKind.SERVICE, num_workers=replicas, max_duration_hours=1e4)
        await s.orchestrator.submit_job(spec)
    await clock.advance_to(0)
    asking = []
    for k in range(40):
        asking.append(
            asyncio.ensure_future(s.orchestrator.route_request(f"s{k % min(others + 1, 2)}", k))
        )
        await clock.advance_to(clock.now_ms() + 50)
        assert asking[-1].done()
    assert [answer.result() for answer in asking] == list(range(40))
    assert [request for _, request in calls] == list(range(40))
    served = [s.orchestrator.mesh.counts(f"s{k}").served for k in range(others + 1)]
    assert served == ([20, 20, *[0] * (others - 1)] if others else [40])


async def test_elastic_jobs_change_size_many_times_in_one_run() -> None:
    s = stage(node("n0", 8), schedule_on_events=True)
    spec = job("a", num_workers=2, elastic=True, max_workers=8, max_duration_hours=4.0)
    await s.orchestrator.submit_job(spec)
    await s.clock.advance_to(0)
    done_ms = 0.0
    for workers in (4, 8, 1, 3, 2):
        assert await s.orchestrator.scale_job("a", workers)
        await s.wait(10)
        done_ms += 10 * MINUTE_MS * workers / 2
        progress_ms = s.orchestrator.get_job_status("a")["progress_ms"]
        assert progress_ms == pytest.approx(done_ms, abs=5)
    status = s.orchestrator.get_job_status("a")
    assert (status["starts"], status["lost_ms"]) == (1, 0)
    assert s.runtime.observe() == {"a": 1}
