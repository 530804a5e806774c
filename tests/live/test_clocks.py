"""Machines disagree about the time: in a cluster it goes on, whoever takes its log over."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator import InfrastructureOrchestrator, VirtualClock
from orchestrator.clock import LogClock
from orchestrator.foundations import (
    HashShardManager,
    HeartbeatFaultDetector,
    InMemoryCheckpoints,
    InMemoryConsensus,
)
from orchestrator.messages import NodeFailed
from tests.engine.builders import HOUR_MS, MINUTE_MS, SHAPE, job, node


class _Cluster:
    """An orchestrator on a log, on a machine with a clock of its own."""

    def __init__(self, log: InMemoryConsensus, now_ms: int, **options: Any) -> None:
        self.clock = VirtualClock(now_ms)
        self.detector = HeartbeatFaultDetector(self.clock, timeout_ms=10_000)
        self.orchestrator = InfrastructureOrchestrator(
            log,
            HashShardManager(),
            self.detector,
            InMemoryCheckpoints(),
            clock=self.clock,
            nodes=[node("n0"), node("n1")],
            shape=SHAPE,
            schedule_on_events=True,
            check=True,
            **options,
        )

    async def wait(self, ms: int) -> None:
        await self.clock.advance_to(self.clock.now_ms() + ms)

    def status(self, name: str) -> dict[str, Any]:
        return self.orchestrator.get_job_status(name)


async def _taken_over(log: InMemoryConsensus, set_back_ms: int, **options: Any) -> _Cluster:
    """A cluster in which a job has run for ten minutes when another machine takes over."""
    first = _Cluster(log, 100 * HOUR_MS)
    await first.orchestrator.submit_job(job("a"))
    await first.wait(10 * MINUTE_MS)
    assert first.status("a")["state"] == "running"
    second = _Cluster(log, first.clock.now_ms() - set_back_ms, **options)
    await second.orchestrator.start()
    return second


@pytest.mark.parametrize("set_back_ms", [-HOUR_MS, 0, MINUTE_MS, HOUR_MS, 99 * HOUR_MS])
async def test_jobs_end_in_their_time_whatever_the_time_of_day(set_back_ms: int) -> None:
    cluster = await _taken_over(InMemoryConsensus(), set_back_ms)
    await cluster.wait(HOUR_MS + 5 * MINUTE_MS)
    assert cluster.status("a")["state"] == "completed"


@pytest.mark.parametrize("set_back_ms", [0, 99 * HOUR_MS])
async def test_a_limit_is_kept_whatever_the_time_of_day(set_back_ms: int) -> None:
    cluster = await _taken_over(InMemoryConsensus(), set_back_ms, time_limit_grace_s=0.0)
    endless = job("b", duration_hours=50.0, max_duration_hours=0.5)
    await cluster.orchestrator.submit_job(endless)
    await cluster.wait(29 * MINUTE_MS)
    assert cluster.status("b")["state"] == "running"
    await cluster.wait(2 * MINUTE_MS)
    assert cluster.status("b")["exit_code"] == 124


@pytest.mark.parametrize("set_back_ms", [0, 99 * HOUR_MS])
async def test_a_victim_gets_its_next_chance_whatever_the_time_of_day(set_back_ms: int) -> None:
    cluster = await _taken_over(InMemoryConsensus(), set_back_ms)
    await cluster.wait(MINUTE_MS)
    run = cluster.orchestrator.engine.runs_of("a")
    assert await cluster.orchestrator.preempt_job("a", "a test")
    await cluster.wait(MINUTE_MS)
    assert cluster.status("a")["state"] == "running"
    assert cluster.orchestrator.engine.runs_of("a") == run + 1


async def test_when_a_node_was_seen_is_told_in_the_time_of_the_log() -> None:
    log = InMemoryConsensus()
    cluster = await _taken_over(log, 99 * HOUR_MS)
    await cluster.wait(5 * MINUTE_MS)
    await cluster.detector.heartbeat("n0")
    seen_ms = cluster.orchestrator.engine.now_ms
    await cluster.wait(MINUTE_MS)
    (failed,) = [e for e in log.entries() if isinstance(e.body, NodeFailed)]
    assert 0 <= failed.time_ms - 10_000 - failed.body.seen_ms <= 1000
    assert failed.body.seen_ms >= seen_ms


async def test_a_clock_that_is_ahead_already_stays_as_it_is() -> None:
    beneath = VirtualClock(1000)
    clock = LogClock(beneath)
    clock.not_before(900)
    assert clock.now_ms() == 1000
    clock.not_before(5000)
    clock.not_before(4000)
    assert (clock.now_ms(), clock.of(1000)) == (5000, 5000)
    rung = list[int]()
    clock.call_at(5500, lambda: rung.append(clock.now_ms()))
    await beneath.advance_to(2000)
    assert rung == [5500]
    await clock.sleep_until(6000)
