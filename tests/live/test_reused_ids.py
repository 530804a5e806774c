"""Ids are used again once their jobs are forgotten: what was said of the old job is not of the new.

The job table is small, so that the first job that ends is forgotten for the next one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchestrator import InfrastructureOrchestrator, VirtualClock
from orchestrator.engine.engine import Engine, Outcome
from orchestrator.foundations import InMemoryConsensus, in_memory
from orchestrator.kernels.state.codes import Reason
from orchestrator.live.crashes import CrashLoops
from orchestrator.live.outbox import Places
from orchestrator.live.retry import Reports
from orchestrator.messages import (
    CheckpointCommitted,
    Decide,
    Entry,
    Event,
    JobOverdue,
    PlaceJob,
    Plan,
    Review,
    StartJob,
    Submit,
    WorkerExited,
    WorkersLost,
)
from tests.engine.builders import SHAPE, Stage, job, node, stage

_SMALL = replace(SHAPE, jobs=2)


async def _run_out(s: Stage, names: str) -> list[int]:
    """Jobs run and end, one after the other; the number of the run of each."""
    runs = []
    for name in names:
        await s.orchestrator.submit_job(job(name, max_duration_hours=0.1))
        await s.wait(1)
        runs.append(s.orchestrator.engine.placed()[name])
        await s.wait(10)
        assert s.state_of(name) == "completed"
    return runs


@pytest.mark.parametrize("said", [WorkerExited, WorkersLost, JobOverdue])
@pytest.mark.parametrize("before", ["abc", "abcabcabc"])
async def test_a_report_of_a_forgotten_job_is_not_one_of_the_next_of_its_id(
    said: type[Event], before: str
) -> None:
    s = stage(node("n0"), shape=_SMALL, schedule_on_events=True)
    runs = await _run_out(s, before)
    assert "a" not in s.orchestrator.jobs
    await s.orchestrator.submit_job(job("a"))
    await s.wait(1)
    for run in runs[::3]:  # those of "a"
        await s.report(said("a", run))
    status = s.orchestrator.get_job_status("a")
    assert (status["state"], status["starts"], status["overdue"]) == ("running", 1, False)
    assert [note["what"] for note in status["history"]] == ["submitted", "started"]
    await s.report(WorkerExited("a", s.orchestrator.engine.run_of("a")))
    assert s.state_of("a") == "completed"


async def test_a_save_of_a_forgotten_job_is_not_one_of_the_next_of_its_id() -> None:
    s = stage(node("n0"), shape=_SMALL, schedule_on_events=True)
    runs = await _run_out(s, "abc")
    await s.orchestrator.submit_job(job("a", checkpoint_seconds=30.0))
    await s.wait(20)
    await s.orchestrator.preempt_job("a", "maintenance")
    await s.report(CheckpointCommitted("a", runs[0]))
    assert s.state_of("a") == "checkpointing"


@pytest.mark.parametrize("capacity", [10_000, 8])
async def test_numbers_of_runs_outlive_restarts_and_snapshots(capacity: int) -> None:
    log = InMemoryConsensus(capacity)
    clock_stage = stage(node("n0"), shape=_SMALL)
    found = in_memory(clock_stage.clock)._replace(consensus_engine=log)

    def begin(**options: Any) -> Stage:
        values = {"shape": _SMALL, "nodes": [node("n0")], "schedule_on_events": True} | options
        runtime, clock = clock_stage.runtime, clock_stage.clock
        cluster = InfrastructureOrchestrator(*found, clock=clock, runtime=runtime, **values)
        return Stage(clock, runtime, found, cluster)

    s = begin()
    first = await _run_out(s, "abcab")
    if capacity < 100:
        assert log.snapshot is not None
    s = begin(shape=replace(_SMALL, jobs=4))  # a larger table, which has room for ids of before
    await s.orchestrator.submit_job(job("c"))
    await s.wait(1)
    assert s.orchestrator.engine.placed()["c"] > first[2]
    replica = begin().orchestrator
    assert replica.engine.placed() == s.orchestrator.engine.placed()
    assert replica.engine.log_hash == s.orchestrator.engine.log_hash


def _engine(names: str) -> tuple[Engine, list[Outcome]]:
    """Jobs that run and complete, minute by minute, and what came of it."""
    engine, outcomes = Engine(_SMALL, nodes=[node("n0")], check=True), []
    for minute, name in enumerate(names):
        now_ms = 60_000 * minute
        for body in (Submit(job(name)), Review(), Decide(Plan((PlaceJob(name),)))):
            outcomes.append(engine.handle(Entry(now_ms, body)))
        outcomes.append(engine.handle(Entry(now_ms, WorkerExited(name, engine.run_of(name)))))
    return engine, outcomes


@pytest.mark.parametrize("names", ["abcabcabc", "abcdabdcadbca", "abcdefga"])
def test_no_two_runs_of_an_id_have_one_number(names: str) -> None:
    engine, outcomes = _engine(names)
    starts = [e for outcome in outcomes for e in outcome.effects if isinstance(e, StartJob)]
    numbers = [(start.job_id, start.run) for start in starts]
    assert len(numbers) == len(set(numbers)) == len(names)
    assert next(run for name, run in numbers if name == "a") == 1
    assert engine.log_hash == _engine(names)[0].log_hash


def test_nothing_is_kept_of_jobs_that_are_forgotten() -> None:
    few, many = _engine("ab")[0].image(), _engine("abcdefgh" * 3)[0].image()
    assert len(many.jobs.runs_before) == len(few.jobs.runs_before) == 2
    assert many.jobs.last_run > 0


@pytest.mark.parametrize("stale", [1, 7])
def test_a_report_that_is_refused_changes_no_counts_and_no_places(stale: int) -> None:
    """Such as one of a run that a stop had overtaken when it was logged."""
    engine, places = Engine(_SMALL, nodes=[node("n0")]), Places()

    async def deliver(event: Event) -> None:
        raise AssertionError(event)

    crashes = CrashLoops(Reports(engine, VirtualClock(), deliver))

    def enter(*bodies: Any) -> Outcome:
        for body in bodies:
            outcome = engine.handle(Entry(engine.now_ms, body))
            for one in (crashes, places):
                one.note(Entry(engine.now_ms, body), outcome)
        return outcome

    place = Review(), Decide(Plan((PlaceJob("a"),)))
    enter(Submit(job("a")), *place, WorkersLost("a", 1), *place)
    assert (crashes.image(), bool(places.of("a", 2))) == ({"a": 1}, True)
    assert enter(WorkerExited("a", stale)).reason == Reason.NOT_RUNNING
    assert (crashes.image(), bool(places.of("a", 2))) == ({"a": 1}, True)
    enter(WorkerExited("a", 2))
    assert (crashes.image(), bool(places.of("a", 2))) == ({}, False)
