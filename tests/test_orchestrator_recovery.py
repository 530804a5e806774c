"""Starting up is reading the log; concurrent callers share one order; the real clock works too."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import pytest

from orchestrator import (
    InfrastructureOrchestrator,
    NodeSpec,
    Semantics,
    SimulatedRuntime,
    WallClock,
    in_memory,
)
from orchestrator.clock import VirtualClock
from orchestrator.foundations import HashShardManager, HeartbeatFaultDetector, InMemoryConsensus
from orchestrator.foundations.sqlite import SQLiteLog
from orchestrator.messages import Entry, NodeFailed, Submit
from orchestrator.ports import ConsensusEngine
from tests.engine.builders import HOUR_MS, MINUTE_MS, SHAPE, Stage, job, node, stage

_Reopen: TypeAlias = Callable[[], ConsensusEngine]


def _restart(
    s: Stage,
    *nodes: NodeSpec,
    runtime: SimulatedRuntime | None = None,
    log: ConsensusEngine | None = None,
) -> InfrastructureOrchestrator:
    """Another process, on the same log and checkpoints; the workers are still there, or not."""
    return InfrastructureOrchestrator(
        s.foundations.consensus_engine if log is None else log,
        HashShardManager(),
        HeartbeatFaultDetector(s.clock),
        s.foundations.checkpoint_manager,
        clock=s.clock,
        runtime=runtime or s.runtime,
        shape=SHAPE,
        nodes=nodes,
        check=True,
    )


@pytest.fixture(params=["in memory", "sqlite"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[_Reopen]:
    """Gives a log; in a file, each call opens it anew, as another process does."""
    made: list[SQLiteLog] = []
    memory = InMemoryConsensus()

    def open_one() -> ConsensusEngine:
        if request.param == "in memory":
            return memory
        made.append(SQLiteLog(tmp_path / "log", cut_every=5))
        return made[-1]

    yield open_one
    for log in made:
        log.close()


async def _busy(reopen: _Reopen) -> Stage:
    s = stage(node("n0"), log=reopen())
    await s.orchestrator.register_node(node("n1"))
    for name in ("a", "b", "c"):
        await s.orchestrator.submit_job(job(name, gpus_per_worker=4))
    await s.orchestrator.schedule()
    await s.wait(25)
    await s.orchestrator.preempt_job("b", "")
    return s


async def test_a_new_orchestrator_knows_what_the_log_knows(reopen: _Reopen) -> None:
    s = await _busy(reopen)
    other = _restart(s, node("n0"), log=reopen())
    assert other.engine.log_hash == s.orchestrator.engine.log_hash
    assert other.jobs == s.orchestrator.jobs
    assert other.nodes == s.orchestrator.nodes
    before, after = (json.dumps(x.get_cluster_status()) for x in (s.orchestrator, other))
    assert before == after
    for name in ("a", "b", "c"):
        assert other.get_job_status(name) == s.orchestrator.get_job_status(name)


async def test_workers_that_outlive_an_orchestrator_are_taken_over(reopen: _Reopen) -> None:
    s = await _busy(reopen)
    s.orchestrator = _restart(s, node("n0"), log=reopen())
    await s.wait(1)
    assert s.state_of("b") == "preempted"
    await s.orchestrator.schedule()
    await s.clock.run_until_idle()
    assert s.orchestrator.get_job_status("a")["end_ms"] == HOUR_MS
    assert s.orchestrator.get_job_status("a")["starts"] == 1


async def test_workers_that_are_gone_are_noticed_before_anything_else_is_done(
    reopen: _Reopen,
) -> None:
    s = await _busy(reopen)
    s.orchestrator = _restart(s, node("n0"), log=reopen(), runtime=SimulatedRuntime(s.clock))
    await s.orchestrator.start()
    assert (s.state_of("a"), s.state_of("b")) == ("pending", "pending")
    status = s.orchestrator.get_job_status("a")
    assert status["lost_ms"] == 5 * MINUTE_MS
    assert status["checkpoint"]["progress_ms"] == 20 * MINUTE_MS
    assert len(await s.orchestrator.schedule()) == 2


async def test_workers_that_should_not_exist_are_stopped(reopen: _Reopen) -> None:
    s = await _busy(reopen)
    runtime = SimulatedRuntime(s.clock)
    other = stage(node("n0"), runtime=runtime)
    await other.orchestrator.submit_job(job("stranger"))
    await other.orchestrator.schedule()
    assert runtime.observe() == {"stranger": 1}
    s.orchestrator = _restart(s, node("n0"), log=reopen(), runtime=runtime)
    await s.orchestrator.start()
    assert runtime.observe() == {}


async def test_a_decision_that_was_open_is_taken_up_again() -> None:
    semantics = Semantics(commitment=True, backfill=True)
    s = stage(node("n0"), semantics=semantics)
    for name in ("a", "b"):
        await s.orchestrator.submit_job(job(name, gpus_per_worker=4))
    other = InfrastructureOrchestrator(
        *s.foundations,
        clock=s.clock,
        runtime=s.runtime,
        shape=SHAPE,
        nodes=[node("n0")],
        semantics=semantics,
        schedule_on_events=True,
    )
    await asyncio.wait_for(other.schedule(), 5.0)
    assert other.get_job_status("a")["state"] == "running"
    assert other.get_cluster_status()["queue"]["committed_to"] == "b"
    await s.clock.run_until_idle()
    assert other.get_cluster_status()["jobs"]["completed"] == 2


async def test_entries_that_were_refused_are_refused_again(reopen: _Reopen) -> None:
    s = await _busy(reopen)
    log = s.foundations.consensus_engine
    await log.append(Entry(s.clock.now_ms(), Submit(job("a"))))  # another replica's mistake
    await log.append(Entry(s.clock.now_ms(), NodeFailed("nobody")))
    await s.orchestrator.submit_job(job("d"))
    other = _restart(s, node("n0"), log=reopen())
    assert other.engine.log_hash == s.orchestrator.engine.log_hash
    assert set(other.jobs) == {"a", "b", "c", "d"}


async def test_another_replicas_entries_are_applied_in_the_logs_order() -> None:
    s = stage(node("n0"))
    await s.foundations.consensus_engine.append(Entry(5, Submit(job("theirs"))))
    await s.orchestrator.submit_job(job("mine"))
    assert list(s.orchestrator.jobs) == ["theirs", "mine"]
    assert s.orchestrator.get_job_status("mine")["submit_ms"] == 5  # time does not go back


async def test_concurrent_callers_are_served_one_after_the_other() -> None:
    s = stage(node("n0"), node("n1"))
    names = [f"j{number}" for number in range(8)]
    await asyncio.gather(*(s.orchestrator.submit_job(job(name)) for name in names))
    results = await asyncio.gather(*(s.orchestrator.schedule() for _ in range(4)))
    assert sorted(name for result in results for name, _ in result) == names
    again = _restart(s, node("n0"), node("n1"))
    assert again.engine.log_hash == s.orchestrator.engine.log_hash


async def test_the_real_clock_runs_jobs_too() -> None:
    clock = WallClock()
    orchestrator = InfrastructureOrchestrator(
        *in_memory(clock), clock=clock, shape=SHAPE, nodes=[node("n0")], schedule_on_events=True
    )
    spec = replace(job("a"), max_duration_hours=50 / HOUR_MS, checkpoint_interval_steps=0)
    await orchestrator.submit_job(spec)
    for _ in range(200):
        await asyncio.sleep(0.01)
        if orchestrator.get_job_status("a")["state"] == "completed":
            break
    status = orchestrator.get_job_status("a")
    assert status["state"] == "completed"
    assert status["end_ms"] - status["start_ms"] >= 50


async def test_the_defaults_work() -> None:
    orchestrator = InfrastructureOrchestrator(*in_memory(VirtualClock()))
    assert isinstance(orchestrator.clock, WallClock)
    assert await orchestrator.register_node(node("n0"))
    await orchestrator.submit_job(job("a"))
    assert await orchestrator.schedule() == [("a", "n0")]
    assert json.dumps(orchestrator.get_cluster_status())
    assert json.dumps(orchestrator.get_job_status("a"))


def test_importing_the_orchestrator_loads_no_learning() -> None:
    code = (
        "import sys; from orchestrator import InfrastructureOrchestrator;"
        "bad = {'torch', 'gymnasium', 'stable_baselines3', 'pandas', 'hydra'} & set(sys.modules);"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
