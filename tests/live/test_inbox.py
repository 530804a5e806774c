"""Reports on their way into the log: many at once, each job's in order, and none is lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from orchestrator import ClusterShape, VirtualClock
from orchestrator.engine.engine import Engine
from orchestrator.errors import InvariantError, NotLeaderError, ValidationError
from orchestrator.foundations.sqlite import SQLiteLog
from orchestrator.live.journal import Journal
from orchestrator.live.retry import Inbox
from orchestrator.messages import CheckpointCommitted, Event, Submit, WorkerExited
from tests.engine.builders import job, node

_LATER_MS = 60_000


class _Taker:
    """Takes reports when it is told to, and refuses those of some jobs."""

    def __init__(self) -> None:
        self.taken: list[Event] = []
        self.under_way: list[Event] = []
        self.go = asyncio.Event()
        self.errors: dict[str, Exception] = {}

    async def __call__(self, event: Event) -> None:
        self.under_way.append(event)
        try:
            await self.go.wait()
            if event.job_id in self.errors:
                raise self.errors[event.job_id]
            self.taken.append(event)
        finally:
            self.under_way.remove(event)


def _inbox() -> tuple[Inbox[Event], _Taker, VirtualClock]:
    taker, clock = _Taker(), VirtualClock()
    return Inbox(taker, clock, lambda event: event.job_id), taker, clock


async def _delivered(inbox: Inbox[Event], *events: Event) -> list[asyncio.Task[bool]]:
    tasks = [asyncio.ensure_future(inbox.deliver(event)) for event in events]
    for _ in range(5):
        await asyncio.sleep(0)
    return tasks


async def test_reports_of_different_jobs_are_taken_at_once_and_those_of_one_in_order() -> None:
    inbox, taker, _ = _inbox()
    saved, ended = CheckpointCommitted("a", 1), WorkerExited("a", 1)
    others = [WorkerExited(name, 1) for name in "bc"]
    tasks = await _delivered(inbox, saved, *others, ended)
    assert taker.under_way == [saved, *others]  # the end of 'a' waits for its save
    assert len(inbox) == 4
    taker.go.set()
    assert (await asyncio.gather(*tasks))[:3] == [True, True, True]
    assert [event for event in taker.taken if event.job_id == "a"] == [saved, ended]
    assert [event for event in taker.taken if event.job_id != "a"] == others
    assert len(inbox) == 0


async def test_a_report_that_comes_twice_is_taken_once() -> None:
    inbox, taker, _ = _inbox()
    tasks = await _delivered(inbox, WorkerExited("a", 1), WorkerExited("a", 1))
    taker.go.set()
    assert await asyncio.gather(*tasks) == [True, False]  # whoever is told so says it again
    assert taker.taken == [WorkerExited("a", 1)]


async def test_one_that_cannot_be_logged_now_holds_up_its_own_job_only() -> None:
    inbox, taker, clock = _inbox()
    taker.errors = {"a": OSError("no"), "b": ValidationError("job", "b", "is senseless", "stop")}
    taker.go.set()
    reports = [WorkerExited(name, 1) for name in "abc"]
    a_later = WorkerExited("a", 2)
    taken = await asyncio.gather(*(inbox.deliver(report) for report in [*reports, a_later]))
    assert taken == [False, True, True, False]  # what makes no sense is dropped
    assert taker.taken == [reports[2]]
    assert (len(inbox), inbox.errors > 0) == (2, True)
    taker.errors = {}
    await clock.advance_to(_LATER_MS)
    assert taker.taken == [reports[2], reports[0], a_later]
    assert len(inbox) == 0


@pytest.mark.parametrize("other", [OSError("no"), ValidationError("job", "b", "is", "stop")])
async def test_a_fault_of_our_own_is_raised_whatever_else_fails(other: Exception) -> None:
    inbox, taker, _ = _inbox()
    taker.errors = {"a": other, "b": InvariantError("two and two are five")}
    waits = await _delivered(inbox, WorkerExited("z", 1))
    inbox._waiting |= {WorkerExited(name, 1): WorkerExited(name, 1) for name in "ab"}
    taker.go.set()
    with pytest.raises(InvariantError, match="five"):
        await inbox.deliver(WorkerExited("c", 1))
    await asyncio.gather(*waits, return_exceptions=True)
    assert WorkerExited("b", 1) not in inbox._waiting  # it would do the same again
    assert WorkerExited("c", 1) in taker.taken


async def test_whoever_is_replaced_takes_nothing_more() -> None:
    inbox, taker, _ = _inbox()
    taker.errors = {"a": NotLeaderError("other", 3)}
    tasks = await _delivered(inbox, *(WorkerExited(name, 1) for name in "ab"))
    taker.go.set()
    assert await asyncio.gather(*tasks) == [False, False]
    assert len(inbox) == 0  # the new leader is told


async def test_ends_that_come_at_once_are_committed_together(tmp_path: Path) -> None:
    with SQLiteLog(tmp_path / "log") as log:
        shape = ClusterShape(envs=1, jobs=64, workers=1, nodes=1, devices=8)
        engine = Engine(shape, nodes=[node("n0")])
        journal = Journal(log, engine, VirtualClock(), lambda outcome: None)
        names = [f"j{k}" for k in range(64)]
        await asyncio.gather(*(journal.propose(Submit(job(name))) for name in names))
        commits: list[int] = []
        write = log._database._commit
        log._database._commit = lambda group: (commits.append(len(group)), write(group))[1]
        inbox = Inbox(journal.propose, VirtualClock(), lambda event: event.job_id)
        events = [WorkerExited(name, 1) for name in names]
        assert all(await asyncio.gather(*(inbox.deliver(event) for event in events)))
        assert sum(commits) == 64
        assert len(commits) < 64  # how few depends on the disk
