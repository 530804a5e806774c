"""What every runtime promises.

What only a simulated one can promise stands at the end: when, to the millisecond, things happen.
Real workers take the time that they take.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

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
from orchestrator.ports import Runtime
from orchestrator.runtimes import SimulatedRuntime
from orchestrator.types import JobPriority, JobSpec
from tests.runtimes.stage import Stage, until

_MINUTE_MS = 60_000


class Bench(Protocol):
    """A runtime, and how to have something happen to it."""

    heard: list[Event]

    @property
    def runtime(self) -> Runtime: ...

    def start(self, job_id: str, run: int = 1) -> StartJob:
        """A job with one worker, whose work ends when it is let go."""

    async def work(self, *job_ids: str) -> None:
        """Have jobs work for a while; they are not done."""

    async def let_go(self) -> None:
        """Have everything happen that will, and all work come to its end."""


def _start(job_id: str, minutes: float, run: int = 1, command: tuple[str, ...] = ()) -> StartJob:
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
        command=command,
    )
    return StartJob(job_id, run, spec, (WorkerPlacement("n0", (0,)),), 0, 0, 0)


class SimulatedBench:
    """Work takes five minutes."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.runtime: Runtime = SimulatedRuntime(self.clock)
        self.heard: list[Event] = []

    def start(self, job_id: str, run: int = 1) -> StartJob:
        return _start(job_id, 5, run)

    async def work(self, *job_ids: str) -> None:
        await self.clock.advance_to(self.clock.now_ms() + _MINUTE_MS)

    async def let_go(self) -> None:
        await self.clock.run_until_idle()


_WORKER = """
import json, os, socket, sys
me = {"job": os.environ["QUARTERMASTER_JOB_ID"], "run": int(os.environ["QUARTERMASTER_RUN"]),
      "rank": int(os.environ["RANK"])}
line = socket.socket(socket.AF_UNIX)
line.connect(os.environ["QUARTERMASTER_CONTROL"])
def say(what): line.sendall(json.dumps(what).encode() + b"\\n")
say({"hello": me})
text, saved = b"", False
line.settimeout(0.02)
while saved or not os.path.exists(sys.argv[1]):
    try: text += line.recv(4096)
    except TimeoutError: continue
    while b"\\n" in text:
        first, _, text = text.partition(b"\\n")
        said = json.loads(first)
        if "save" in said: say({"saved": said["save"], "step": 1}); saved = True
        if "world" in said: say({"joined": said["world"]["generation"]})
        if "stop" in said: sys.exit(0)
"""


class ProcessBench:
    """Work ends when there is a file."""

    def __init__(self, stage: Stage) -> None:
        self.stage, self.heard = stage, stage.events

    @property
    def runtime(self) -> Runtime:
        return self.stage.runtime

    def start(self, job_id: str, run: int = 1) -> StartJob:
        go = str(self.stage.folder / "go")
        return _start(job_id, 5, run, (sys.executable, "-S", "-c", _WORKER, go))

    async def work(self, *job_ids: str) -> None:
        await until(lambda: all(self.stage.runtime.knows(job_id) for job_id in job_ids))

    async def let_go(self) -> None:
        # Who has been asked to save is let do so before its work is over.
        gangs = self.stage.runtime._gangs
        asked = {job for job, gang in gangs.items() if gang.saving and gang.verdict is None}
        await until(lambda: {event.job_id for event in self.heard} >= asked)
        (self.stage.folder / "go").touch()
        ended = [e.job_id for e in self.heard if isinstance(e, WorkerExited)]
        saved = [e.job_id for e in self.heard if isinstance(e, CheckpointCommitted)]
        here = [job for job in self.runtime.observe() if job not in (*ended, *saved)]
        await until(lambda: {event.job_id for event in self.heard} >= set(here))
        # What comes after all this, on the same node and device, has seen everything before.
        marker = "what comes after"
        self.runtime.carry_out((self.start(marker),))
        if not saved and not here:
            await until(lambda: WorkerExited(marker, 1) in self.heard)
        else:
            self.runtime.carry_out((StopJob(marker, 1, StopReason.UNEXPECTED, 0),))
            await asyncio.sleep(0)
        self.heard[:] = [event for event in self.heard if event.job_id != marker]


@pytest.fixture(params=["simulated", "process"])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    if request.param == "simulated":
        made = SimulatedBench()

        async def deliver(event: Event) -> None:
            made.heard.append(event)

        made.runtime.bind(deliver)
        yield made
        return
    stage = Stage(tmp_path)
    try:
        await stage.open("n0")
        yield ProcessBench(stage)
    finally:
        await stage.close()


async def test_a_job_runs_and_ends(bench: Bench) -> None:
    bench.runtime.carry_out((bench.start("a"),))
    assert bench.runtime.observe() == {"a": 1}
    assert bench.heard == []
    await bench.work("a")
    assert bench.heard == []
    await bench.let_go()
    assert bench.heard == [WorkerExited("a", 1)]
    assert bench.runtime.observe() == {}


async def test_a_stopped_job_reports_nothing(bench: Bench) -> None:
    stop = StopJob("a", 1, StopReason.INTERRUPTED, 0)
    bench.runtime.carry_out((bench.start("a"), stop))
    assert bench.runtime.observe() == {}
    await bench.let_go()
    assert bench.heard == []


async def test_stopping_what_does_not_run_is_fine(bench: Bench) -> None:
    bench.runtime.carry_out((StopJob("a", 1, StopReason.INTERRUPTED, 0), ReleaseNode("n1")))
    await bench.let_go()
    assert bench.heard == []


async def test_a_job_that_is_saved_stands_still(bench: Bench) -> None:
    bench.runtime.carry_out((bench.start("a"),))
    await bench.work("a")
    bench.runtime.carry_out((SaveCheckpoint("a", 1, 30_000, _MINUTE_MS),))
    await bench.let_go()
    assert bench.heard == [CheckpointCommitted("a", 1)]
    assert bench.runtime.observe() == {"a": 1}  # it holds its resources until it is told to stop


async def test_a_restart_is_another_run(bench: Bench) -> None:
    stop = StopJob("a", 1, StopReason.PREEMPTED, 2 * _MINUTE_MS)
    bench.runtime.carry_out((bench.start("a"), stop))
    again = replace(bench.start("a", 2), restart_ms=1000, progress_ms=2 * _MINUTE_MS)
    bench.runtime.carry_out((again,))
    assert bench.runtime.observe() == {"a": 2}
    await bench.let_go()
    assert bench.heard == [WorkerExited("a", 2)]


def _regroup(start: StartJob, **fields: Any) -> RegroupJob:
    values: dict[str, Any] = {
        "workers": (WorkerPlacement("n0", (0,)), WorkerPlacement("n0", (1,))),
        "resume_ms": 0,
        "progress_ms": 0,
        "speed_milli": 2000,
    }
    return RegroupJob(start.job_id, start.run, start.spec, **(values | fields))


async def test_a_regrouped_job_goes_on_in_the_same_run(bench: Bench) -> None:
    start = bench.start("a")
    bench.runtime.carry_out((start,))
    await bench.work("a")
    bench.runtime.carry_out((_regroup(start, progress_ms=_MINUTE_MS),))
    assert bench.runtime.observe() == {"a": 1}
    await bench.let_go()
    assert bench.heard == [WorkerExited("a", 1)]


async def test_of_several_regroups_there_is_one_end(bench: Bench) -> None:
    start = bench.start("a")
    grown = _regroup(start)
    bench.runtime.carry_out((start, grown, _regroup(start, workers=grown.workers[:1])))
    await bench.let_go()
    assert bench.heard == [WorkerExited("a", 1)]


async def test_a_regrouped_job_can_be_saved_and_stopped(bench: Bench) -> None:
    start = bench.start("a")
    bench.runtime.carry_out((start, _regroup(start, moved=True)))
    await bench.work("a")
    bench.runtime.carry_out((SaveCheckpoint("a", 1, 3000, 0),))
    await bench.let_go()
    assert bench.heard == [CheckpointCommitted("a", 1)]
    bench.runtime.carry_out((StopJob("a", 1, StopReason.PREEMPTED, 0),))
    assert bench.runtime.observe() == {}


async def test_events_go_to_whoever_was_bound_last(bench: Bench) -> None:
    bench.runtime.carry_out((bench.start("a"),))
    former, bench.heard = bench.heard, list[Event]()

    async def deliver(event: Event) -> None:
        bench.heard.append(event)

    bench.runtime.bind(deliver)
    await bench.let_go()
    assert former == []
    assert bench.heard == [WorkerExited("a", 1)]


async def test_what_is_told_again_is_not_done_again(bench: Bench) -> None:
    bench.runtime.carry_out((bench.start("a"),))
    await bench.work("a")
    bench.runtime.carry_out((bench.start("a"),))
    save = SaveCheckpoint("a", 1, 30_000, _MINUTE_MS)
    bench.runtime.carry_out((save,))
    bench.runtime.carry_out((bench.start("a"), save))
    await bench.let_go()
    assert bench.heard == [CheckpointCommitted("a", 1)]


async def test_a_stop_is_for_its_own_run(bench: Bench) -> None:
    bench.runtime.carry_out((bench.start("a", 1), StopJob("a", 0, StopReason.PREEMPTED, 0)))
    assert bench.runtime.observe() == {"a": 1}
    await bench.let_go()
    assert bench.heard == [WorkerExited("a", 1)]


@pytest.mark.parametrize("answer", [False, OSError("the log's disk is full")])
@pytest.mark.parametrize("saving", [False, True])
async def test_what_nobody_has_taken_is_reported_to_who_comes_next(
    bench: Bench, answer: object, saving: bool
) -> None:
    told, taken = list[Event](), list[Event]()

    async def refuse(event: Event) -> object:
        told.append(event)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def take(event: Event) -> None:
        taken.append(event)

    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # it is raised on purpose
    bench.heard = told
    bench.runtime.bind(refuse)
    bench.runtime.carry_out((bench.start("a"),))
    await bench.work("a")
    if saving:
        bench.runtime.carry_out((SaveCheckpoint("a", 1, 1000, 0),))
    with contextlib.suppress(OSError):
        await _hear_one(bench, told)
    assert told
    assert bench.runtime.observe() == {"a": 1}
    bench.heard = taken
    bench.runtime.bind(take)
    await bench.let_go()
    expected: Event = CheckpointCommitted("a", 1) if saving else WorkerExited("a", 1)
    assert taken == [expected]
    assert bench.runtime.observe() == ({"a": 1} if saving else {})


async def _hear_one(bench: Bench, told: list[Event]) -> None:
    """Go on until something was told, though nobody takes it."""
    if isinstance(bench, SimulatedBench):
        await bench.clock.advance_to(10 * _MINUTE_MS)
    elif isinstance(bench, ProcessBench):
        gangs = bench.stage.runtime._gangs.values()
        await until(lambda: told or not any(gang.saving for gang in gangs))
        (bench.stage.folder / "go").touch()
        await until(lambda: told)


# --- of the simulated one -------------------------------------------------------------------------
#
# When things happen is what it is told, to the millisecond, and ties have an order. Real workers
# are tested in tests/runtimes.


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def runtime(clock: VirtualClock) -> Runtime:
    return SimulatedRuntime(clock)


@pytest.fixture
def heard(runtime: Runtime, clock: VirtualClock) -> list[tuple[int, Event]]:
    events: list[tuple[int, Event]] = []

    async def deliver(event: Event) -> None:
        events.append((clock.now_ms(), event))

    runtime.bind(deliver)
    return events


async def test_work_takes_as_long_as_the_job_says(
    clock: VirtualClock, runtime: Runtime, heard: list[tuple[int, Event]]
) -> None:
    runtime.carry_out((_start("a", 5),))
    await clock.run_until_idle()
    assert heard == [(5 * _MINUTE_MS, WorkerExited("a", 1))]


async def test_a_restart_goes_on_from_what_was_saved(
    clock: VirtualClock, runtime: Runtime, heard: list[tuple[int, Event]]
) -> None:
    again = replace(_start("a", 5, run=2), restart_ms=1000, progress_ms=2 * _MINUTE_MS)
    runtime.carry_out((again,))
    await clock.run_until_idle()
    assert heard == [(3 * _MINUTE_MS + 1000, WorkerExited("a", 2))]


async def test_a_save_takes_its_cost_from_when_it_is_first_told(
    clock: VirtualClock, runtime: Runtime, heard: list[tuple[int, Event]]
) -> None:
    runtime.carry_out((_start("a", 5),))
    await clock.advance_to(_MINUTE_MS)
    save = SaveCheckpoint("a", 1, 30_000, _MINUTE_MS)
    runtime.carry_out((save,))
    await clock.advance_to(_MINUTE_MS + 10_000)
    runtime.carry_out((_start("a", 5), save))
    await clock.run_until_idle()
    assert heard == [(_MINUTE_MS + 30_000, CheckpointCommitted("a", 1))]


async def test_a_regrouped_job_goes_on_at_another_speed(
    clock: VirtualClock, runtime: Runtime, heard: list[tuple[int, Event]]
) -> None:
    start = _start("a", 5)
    runtime.carry_out((start,))
    await clock.advance_to(_MINUTE_MS)
    resume_ms = _MINUTE_MS + 10_000
    runtime.carry_out((_regroup(start, resume_ms=resume_ms, progress_ms=_MINUTE_MS),))
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


async def test_work_begins_when_the_start_is_told(
    clock: VirtualClock, runtime: Runtime, heard: list[tuple[int, Event]]
) -> None:
    await clock.advance_to(_MINUTE_MS)
    runtime.carry_out((_start("a", 5),))  # it was to start at 0
    await clock.run_until_idle()
    assert heard == [(6 * _MINUTE_MS, WorkerExited("a", 1))]


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
