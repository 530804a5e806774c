"""What every runtime promises."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from orchestrator.clock import VirtualClock
from orchestrator.errors import ConfigurationError
from orchestrator.messages import (
    CheckpointCommitted,
    Event,
    RegroupJob,
    ReleaseNode,
    SaveCheckpoint,
    StartJob,
    StopJob,
    StopReason,
    WorkerExited,
    WorkerPlacement,
)
from orchestrator.ports import Clock, Runtime
from orchestrator.runtimes import SimulatedRuntime
from orchestrator.types import JobPriority, JobSpec

_MINUTE_MS = 60_000


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture(params=[SimulatedRuntime])
def runtime(request: pytest.FixtureRequest, clock: VirtualClock) -> Runtime:
    make: Callable[[Clock], Runtime] = request.param
    return make(clock)


@pytest.fixture
def heard(runtime: Runtime, clock: VirtualClock) -> list[tuple[int, Event]]:
    events: list[tuple[int, Event]] = []

    async def deliver(event: Event) -> None:
        events.append((clock.now_ms(), event))

    runtime.bind(deliver)
    return events


def _start(job_id: str, minutes: float, run: int = 1) -> StartJob:
    spec = JobSpec(
        job_id=job_id,
        name="",
        priority=JobPriority.BATCH,
        num_workers=1,
        gpus_per_worker=1,
        memory_per_worker_gb=1.0,
        max_duration_hours=2.0,
        checkpoint_interval_steps=0,
        duration_hours=minutes / 60,
    )
    return StartJob(job_id, run, spec, (WorkerPlacement("node", (0,)),), 0, 0, 0)


async def test_a_job_runs_and_ends(
    clock: VirtualClock, runtime: Runtime, heard: list[tuple[int, Event]]
) -> None:
    runtime.carry_out((_start("a", 5),))
    assert runtime.observe() == {"a": 1}
    assert heard == []
    await clock.run_until_idle()
    assert heard == [(5 * _MINUTE_MS, WorkerExited("a", 1))]
    assert runtime.observe() == {}


async def test_a_stopped_job_reports_nothing(
    clock: VirtualClock, runtime: Runtime, heard: list[tuple[int, Event]]
) -> None:
    runtime.carry_out((_start("a", 5), StopJob("a", 1, StopReason.INTERRUPTED, 0)))
    assert runtime.observe() == {}
    await clock.run_until_idle()
    assert heard == []


async def test_stopping_what_does_not_run_is_fine(
    clock: VirtualClock, runtime: Runtime, heard: list[tuple[int, Event]]
) -> None:
    runtime.carry_out((StopJob("a", 1, StopReason.INTERRUPTED, 0), ReleaseNode("node")))
    await clock.run_until_idle()
    assert heard == []


async def test_a_job_that_is_saved_stands_still(
    clock: VirtualClock, runtime: Runtime, heard: list[tuple[int, Event]]
) -> None:
    runtime.carry_out((_start("a", 5),))
    await clock.advance_to(_MINUTE_MS)
    runtime.carry_out((SaveCheckpoint("a", 1, 30_000, _MINUTE_MS),))
    await clock.run_until_idle()
    assert heard == [(_MINUTE_MS + 30_000, CheckpointCommitted("a", 1))]
    assert runtime.observe() == {"a": 1}  # it holds its resources until it is told to stop


async def test_a_restart_is_another_run(
    clock: VirtualClock, runtime: Runtime, heard: list[tuple[int, Event]]
) -> None:
    runtime.carry_out((_start("a", 5), StopJob("a", 1, StopReason.PREEMPTED, 2 * _MINUTE_MS)))
    again = replace(_start("a", 5, run=2), restart_ms=1000, progress_ms=2 * _MINUTE_MS)
    runtime.carry_out((again,))
    assert runtime.observe() == {"a": 2}
    await clock.run_until_idle()
    assert heard == [(3 * _MINUTE_MS + 1000, WorkerExited("a", 2))]


def _regroup(start: StartJob, **fields: Any) -> RegroupJob:
    values: dict[str, Any] = {
        "workers": (WorkerPlacement("node", (0,)), WorkerPlacement("node", (1,))),
        "resume_ms": 0,
        "progress_ms": 0,
        "speed_milli": 2000,
    }
    return RegroupJob(start.job_id, start.run, start.spec, **(values | fields))


async def test_a_regrouped_job_goes_on_at_another_speed(
    clock: VirtualClock, runtime: Runtime, heard: list[tuple[int, Event]]
) -> None:
    start = _start("a", 5)
    runtime.carry_out((start,))
    await clock.advance_to(_MINUTE_MS)
    resume_ms = _MINUTE_MS + 10_000
    runtime.carry_out((_regroup(start, resume_ms=resume_ms, progress_ms=_MINUTE_MS),))
    assert runtime.observe() == {"a": 1}  # the same run
    await clock.run_until_idle()
    assert heard == [(resume_ms + 2 * _MINUTE_MS, WorkerExited("a", 1))]


async def test_the_last_of_several_regroups_counts(
    clock: VirtualClock, runtime: Runtime, heard: list[tuple[int, Event]]
) -> None:
    start = _start("a", 5)
    grown = _regroup(start)
    runtime.carry_out((start, grown, _regroup(start, speed_milli=500, workers=grown.workers[:1])))
    await clock.run_until_idle()
    assert heard == [(10 * _MINUTE_MS, WorkerExited("a", 1))]


async def test_a_regrouped_job_can_be_saved_and_stopped(
    clock: VirtualClock, runtime: Runtime, heard: list[tuple[int, Event]]
) -> None:
    start = _start("a", 5)
    runtime.carry_out((start, _regroup(start, moved=True), SaveCheckpoint("a", 1, 3000, 0)))
    await clock.run_until_idle()
    assert heard == [(3000, CheckpointCommitted("a", 1))]
    runtime.carry_out((StopJob("a", 1, StopReason.PREEMPTED, 0),))
    assert runtime.observe() == {}


async def test_events_go_to_whoever_was_bound_last(
    clock: VirtualClock, runtime: Runtime, heard: list[tuple[int, Event]]
) -> None:
    runtime.carry_out((_start("a", 5),))
    others: list[Event] = []

    async def deliver(event: Event) -> None:
        others.append(event)

    runtime.bind(deliver)
    await clock.run_until_idle()
    assert heard == []
    assert others == [WorkerExited("a", 1)]


async def test_what_is_told_again_is_not_done_again(
    clock: VirtualClock, runtime: Runtime, heard: list[tuple[int, Event]]
) -> None:
    runtime.carry_out((_start("a", 5),))
    await clock.advance_to(_MINUTE_MS)
    runtime.carry_out((_start("a", 5),))
    save = SaveCheckpoint("a", 1, 30_000, _MINUTE_MS)
    runtime.carry_out((save,))
    await clock.advance_to(_MINUTE_MS + 10_000)
    runtime.carry_out((_start("a", 5), save))
    await clock.run_until_idle()
    assert heard == [(_MINUTE_MS + 30_000, CheckpointCommitted("a", 1))]


async def test_a_stop_is_for_its_own_run(
    clock: VirtualClock, runtime: Runtime, heard: list[tuple[int, Event]]
) -> None:
    runtime.carry_out((_start("a", 5, run=2), StopJob("a", 1, StopReason.PREEMPTED, 0)))
    assert runtime.observe() == {"a": 2}
    await clock.run_until_idle()
    assert heard == [(5 * _MINUTE_MS, WorkerExited("a", 2))]


async def test_work_begins_when_the_start_is_told(
    clock: VirtualClock, runtime: Runtime, heard: list[tuple[int, Event]]
) -> None:
    await clock.advance_to(_MINUTE_MS)
    runtime.carry_out((_start("a", 5),))  # it was to start at 0
    await clock.run_until_idle()
    assert heard == [(6 * _MINUTE_MS, WorkerExited("a", 1))]


@pytest.mark.parametrize("answer", [False, OSError("the log's disk is full")])
@pytest.mark.parametrize("saving", [False, True])
async def test_what_nobody_has_taken_is_reported_to_who_comes_next(
    clock: VirtualClock, runtime: Runtime, answer: object, saving: bool
) -> None:
    told, taken = list[Event](), list[Event]()

    async def refuse(event: Event) -> object:
        told.append(event)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def take(event: Event) -> None:
        taken.append(event)

    runtime.bind(refuse)
    runtime.carry_out((_start("a", 5),))
    if saving:
        runtime.carry_out((SaveCheckpoint("a", 1, 1000, 0),))
    with contextlib.suppress(OSError):
        await clock.advance_to(10 * _MINUTE_MS)
    assert told
    assert runtime.observe() == {"a": 1}
    runtime.bind(take)
    await clock.run_until_idle()
    expected: Event = CheckpointCommitted("a", 1) if saving else WorkerExited("a", 1)
    assert taken == [expected]
    assert runtime.observe() == ({"a": 1} if saving else {})


# --- of the simulated one -------------------------------------------------------------------------


async def test_ties_go_by_kind_then_by_start(
    clock: VirtualClock, runtime: Runtime, heard: list[tuple[int, Event]]
) -> None:
    runtime.carry_out((_start("saved", 9), SaveCheckpoint("saved", 1, _MINUTE_MS, 0)))
    runtime.carry_out((_start("second", 1), _start("first", 1)))
    await clock.run_until_idle()
    assert [event.job_id for _, event in heard] == ["second", "first", "saved"]


async def test_an_event_needs_somebody_to_hear_it(clock: VirtualClock) -> None:
    runtime = SimulatedRuntime(clock)
    runtime.carry_out((_start("a", 5),))
    with pytest.raises(ConfigurationError, match="bind"):
        await clock.run_until_idle()
