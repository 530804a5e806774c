"""Answers that are lost, callers that give up and observers that fail strand nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from orchestrator import InfrastructureOrchestrator, VirtualClock, in_memory
from orchestrator.errors import StorageError
from orchestrator.foundations import InMemoryConsensus
from orchestrator.messages import Effect, Entry, SaveCheckpoint, WorkerExited, WorkersLost
from orchestrator.runtimes import SimulatedRuntime
from tests.engine.builders import HOUR_MS, MINUTE_MS, SHAPE, Stage, job, node, stage


class _Log(InMemoryConsensus):
    """Once it has written an entry it cannot be read for a while, or does not answer at all."""

    def __init__(self) -> None:
        super().__init__()
        self.unread = 0
        self.loses = False
        self.hangs: asyncio.Event | None = None  # set when it does
        self._fails = 0

    async def append(self, entry: Entry) -> int:
        index = await super().append(entry)
        self._fails, self.unread = self.unread, 0
        if self.hangs is not None:
            self.hangs.set()
            self.hangs = None
            await asyncio.Event().wait()
        if self.loses:
            self.loses = False
            raise OSError("no answer")
        return index

    def entries(self, start: int = 0) -> Sequence[Entry]:
        if self._fails > 0:
            self._fails -= 1
            raise OSError("cannot be read")
        return super().entries(start)


def _stage(log: _Log) -> Stage:
    """A cluster on a log, with a job that runs and one that waits for its place."""
    clock = VirtualClock()
    runtime, found = SimulatedRuntime(clock), in_memory(clock)._replace(consensus_engine=log)
    cluster = InfrastructureOrchestrator(
        *found,
        clock=clock,
        nodes=[node("n0")],
        shape=SHAPE,
        runtime=runtime,
        schedule_on_events=True,
        check=True,
    )
    return Stage(clock, runtime, found, cluster)


@pytest.mark.parametrize("loses", [False, True])
@pytest.mark.parametrize("unread", [1, 2, 3, 5, 8])
async def test_an_end_whose_entry_cannot_be_read_gives_its_place_to_the_next(
    unread: int, loses: bool
) -> None:
    log = _Log()
    scene = _stage(log)
    for name in "ab":
        await scene.orchestrator.submit_job(job(name, gpus_per_worker=4))
    await scene.wait(30)
    log.unread, log.loses = unread, loses
    await scene.wait(40)
    assert [scene.state_of(name) for name in "ab"] == ["completed", "running"]


async def _give_up(log: _Log, act: Callable[[], Awaitable[object]]) -> None:
    log.hangs = hangs = asyncio.Event()
    task = asyncio.ensure_future(act())
    await hangs.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


_ACTS: dict[str, Callable[[Stage], Awaitable[object]]] = {
    "submit": lambda scene: scene.orchestrator.submit_job(job("c")),
    "register": lambda scene: scene.orchestrator.register_node(node("n1")),
    "preempt": lambda scene: scene.orchestrator.preempt_job("a", "asked for"),
    "report": lambda scene: scene.report(WorkerExited("a", 1)),
    "failure": lambda scene: scene.orchestrator.handle_node_failure("n0"),
}


@pytest.mark.parametrize(
    ("what", "runs"),
    [("submit", "a"), ("register", "ab"), ("preempt", "a"), ("report", "b"), ("failure", "")],
)
async def test_what_a_caller_gave_up_waiting_for_happens_all_the_same(what: str, runs: str) -> None:
    log = _Log()
    scene = _stage(log)
    for name in "ab":
        await scene.orchestrator.submit_job(job(name, gpus_per_worker=4))
    await scene.wait(30)
    await _give_up(log, lambda: _ACTS[what](scene))
    scene.orchestrator.get_cluster_status()  # reads the log
    await scene.wait(1)
    assert "".join(n for n in "ab" if scene.state_of(n) == "running") == runs
    assert ("c" in scene.orchestrator.jobs) == (what == "submit")
    assert scene.orchestrator.engine.runs_of("a") == 1 + (what == "preempt")


class _Deaf:
    """A port of which some calls fail, after they did what they are for or instead of it."""

    def __init__(self, port: Any, *failing: str, after: bool) -> None:
        self._port, self._failing, self._after = port, failing, after

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._port, name)
        if name not in self._failing:
            return real

        def fail(*args: Any) -> Any:
            if self._after:
                real(*args)
            raise OSError(f"{name} does not answer")

        return fail


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("call", ["report", "forget", "suspects"])
async def test_a_detector_that_fails_strands_no_job(call: str, after: bool) -> None:
    clock = VirtualClock()
    found = in_memory(clock)
    detector = _Deaf(found.fault_detector, call, after=after and call != "report")
    cluster = InfrastructureOrchestrator(
        *found._replace(fault_detector=detector),
        clock=clock,
        nodes=[node("n0")],
        shape=SHAPE,
        schedule_on_events=True,
    )
    await cluster.submit_job(job("a"))
    report = await cluster.handle_node_failure("n0")
    assert report["interrupted_jobs"] == []  # it had not started
    await clock.advance_to(MINUTE_MS)
    await cluster.handle_node_recovery("n0")
    await clock.advance_to(2 * MINUTE_MS)
    assert cluster.get_job_status("a")["state"] == "running"
    await cluster.decommission_node("n0")
    await clock.advance_to(3 * MINUTE_MS)
    assert not cluster.nodes
    assert cluster.get_cluster_status()["errors"]["detector"] > 0


async def test_status_tells_what_it_can() -> None:
    clock = VirtualClock()
    found = in_memory(clock)
    cluster = InfrastructureOrchestrator(
        *found._replace(
            shard_manager=_Deaf(found.shard_manager, "owner", after=False),
            checkpoint_manager=_Deaf(found.checkpoint_manager, "latest", after=False),
        ),
        clock=clock,
        nodes=[node("n0")],
        shape=SHAPE,
        schedule_on_events=True,
    )
    await cluster.submit_job(job("a"))
    await clock.advance_to(MINUTE_MS)
    job_status = cluster.get_job_status("a")
    assert job_status["state"] == "running"
    assert job_status["shard"] == {"error": "OSError: owner does not answer"}
    assert job_status["checkpoint"] == {"error": "OSError: latest does not answer"}
    assert cluster.get_cluster_status()["jobs"]["running"] == 1
    failed = await cluster.handle_node_failure("n0")
    assert failed["checkpoints"] == {"a": {"error": "OSError: latest does not answer"}}


class _Manager:
    def __init__(self, *, fails: bool) -> None:
        self.fails, self.reviews = fails, 0

    def admit(self, spec: Any) -> Any:
        return spec

    async def review(self) -> None:
        self.reviews += 1
        if self.fails:
            raise OSError("a manager fails")


async def test_a_manager_that_fails_keeps_no_other_from_its_review() -> None:
    scene = stage(node("n0"))
    bad, good = _Manager(fails=True), _Manager(fails=False)
    scene.orchestrator.manage(bad, good)
    await scene.orchestrator.auto_scale_cluster()
    assert (bad.reviews, good.reviews) == (1, 1)
    assert scene.orchestrator.get_cluster_status()["errors"]["managers"] == 1


class _Slow(SimulatedRuntime):
    """Starts nothing until a time, and saves nothing where it is told so."""

    def __init__(self, clock: VirtualClock, from_ms: int = 0, *, saves: bool = True) -> None:
        super().__init__(clock)
        self._from_ms, self._saves = from_ms, saves

    def carry_out(self, effects: Sequence[Effect]) -> None:
        if self._clock.now_ms() < self._from_ms:
            raise OSError("the runtime does not answer")
        saved = (e for e in effects if self._saves or not isinstance(e, SaveCheckpoint))
        super().carry_out(list(saved))


@pytest.mark.parametrize("late_ms", [10 * MINUTE_MS, 3 * HOUR_MS])
async def test_who_starts_late_has_all_its_time(late_ms: int) -> None:
    clock = VirtualClock()
    scene = stage(node("n0"), clock=clock, runtime=_Slow(clock, late_ms), schedule_on_events=True)
    await scene.orchestrator.submit_job(job("a"))
    await scene.orchestrator.submit_job(job("b", duration_hours=2.0))
    await clock.advance_to(late_ms + 3 * HOUR_MS)
    assert scene.state_of("a") == "completed"
    ended = scene.orchestrator.get_job_status("b")
    assert ended["state"] == "failed"  # it has no more than its time, either
    assert late_ms < ended["end_ms"] - 65 * MINUTE_MS < late_ms + 2 * MINUTE_MS


async def test_saves_that_hang_are_no_crashes() -> None:
    clock = VirtualClock()
    runtime = _Slow(clock, saves=False)
    scene = stage(node("n0"), clock=clock, runtime=runtime, schedule_on_events=True)
    await scene.orchestrator.submit_job(job("a", max_duration_hours=5.0))
    for _ in range(8):
        await scene.wait(2)
        assert await scene.orchestrator.preempt_job("a", "asked for")
        await scene.wait(2)
    assert runtime._deliver is not None
    await runtime._deliver(WorkersLost("a", 9, "once"))
    await scene.wait(0.1)
    assert (scene.state_of("a"), scene.orchestrator.engine.runs_of("a")) == ("running", 10)


async def test_a_runtime_that_cannot_be_bound_is_bound_later() -> None:
    clock = VirtualClock()

    class Unbound(SimulatedRuntime):
        fails = 0

        def bind(self, deliver: Any) -> None:
            if self.fails > 0:
                self.fails -= 1
                raise OSError("the runtime does not answer")
            super().bind(deliver)

    runtime = Unbound(clock)
    scene = stage(node("n0"), clock=clock, runtime=runtime, schedule_on_events=True)
    runtime.fails = 3
    await scene.orchestrator.submit_job(job("a"))
    await scene.wait(1)
    assert scene.orchestrator._is_settled()
    await scene.wait(60)
    assert scene.state_of("a") == "completed"


async def test_a_report_that_a_full_disk_does_not_take_is_taken_later() -> None:
    """It is no report that makes no sense."""
    log = _Log()
    s = _stage(log)
    await s.orchestrator.submit_job(job("a", gpus_per_worker=4))
    await s.clock.advance_to(s.clock.now_ms())
    assert s.state_of("a") == "running"
    written = log.append

    async def full(entry: Entry) -> int:
        raise StorageError("the log: the disk is full; make room")

    log.append = full
    await s.runtime._deliver(WorkerExited("a", 1))
    assert s.orchestrator.get_cluster_status()["errors"]["reports_waiting"] == 1
    await s.clock.advance_to(s.clock.now_ms() + 10_000)
    assert s.state_of("a") == "running"
    log.append = written
    await s.clock.advance_to(s.clock.now_ms() + MINUTE_MS)
    assert s.state_of("a") == "completed"
    assert s.orchestrator.get_cluster_status()["errors"]["reports_waiting"] == 0
