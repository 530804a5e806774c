"""The way into a cluster: what is checked when, and what becomes of others' entries."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from orchestrator import ClusterShape, VirtualClock
from orchestrator.engine.engine import Engine, EngineImage, Outcome
from orchestrator.errors import NotLeaderError, ValidationError
from orchestrator.foundations import InMemoryConsensus
from orchestrator.foundations.sqlite import SQLiteLog
from orchestrator.kernels.state.codes import Reason
from orchestrator.live.journal import Journal
from orchestrator.messages import Command, Entry, Event, Lead, Preempt, Review, Submit
from tests.engine.builders import job, node

_SHAPE = ClusterShape(envs=1, jobs=4, workers=4, nodes=4, devices=4)


class _Watched(Engine):
    """An engine that counts how often it is asked whether something makes sense."""

    checks = 0

    def check(self, body: Command | Event) -> None:
        self.checks += 1
        super().check(body)


class _Shared(InMemoryConsensus):
    """A log to which somebody else appends, just before the next entry of ours."""

    def __init__(self, *theirs: Entry) -> None:
        super().__init__()
        self._theirs = list(theirs)

    async def append(self, entry: Entry) -> int:
        for other in self._theirs:
            await super().append(other)
        self._theirs = []
        return await super().append(entry)


def _journal(consensus: InMemoryConsensus) -> tuple[Journal, _Watched, list[Outcome]]:
    engine, outcomes = _Watched(_SHAPE, nodes=(node("n0"),)), list[Outcome]()
    return Journal(consensus, engine, VirtualClock(), outcomes.append), engine, outcomes


async def test_an_entry_is_checked_once() -> None:
    consensus = InMemoryConsensus()
    journal, engine, outcomes = _journal(consensus)
    await journal.propose(Submit(job("a")))
    assert (engine.checks, len(outcomes)) == (1, 1)
    _, again, _ = _journal(consensus)
    assert (again.checks, again.log_hash) == (1, engine.log_hash)


async def test_what_makes_no_sense_is_not_logged() -> None:
    consensus = InMemoryConsensus()
    journal, _, _ = _journal(consensus)
    with pytest.raises(ValidationError, match="num_workers"):
        await journal.propose(Submit(job("a", num_workers=5)))
    assert len(consensus) == 0


async def test_what_others_logged_first_may_make_an_entry_senseless() -> None:
    consensus = _Shared(Entry(0, Submit(job("a"))), Entry(0, Submit(job("b"))))
    journal, engine, outcomes = _journal(consensus)
    with pytest.raises(ValidationError, match="is taken"):
        await journal.propose(Submit(job("a")))
    assert list(engine.jobs.specs) == ["a", "b"]
    assert (journal.applied, len(consensus), len(outcomes)) == (3, 3, 2)


async def test_a_follower_begins_anew_with_the_snapshot_of_whoever_has_cut_the_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = InMemoryConsensus()
    journal, _, _ = _journal(log)
    follower, follows, _ = _journal(log)
    for name in "ab":
        await journal.propose(Submit(job(name)))
    follower.read()
    log._capacity = 4
    await journal.propose(Submit(job("c")))
    assert log.snapshot is not None
    assert log.snapshot[0] == 2
    follower.read()
    before, whole = follows.log_hash, follows.apply

    def fail(entry: Entry) -> Outcome:
        whole(entry)
        raise RuntimeError("half done")

    monkeypatch.setattr(follows, "handle", fail)
    log._capacity = 100
    await journal.propose(Submit(job("d")))
    monkeypatch.setattr(
        follows, "restore", lambda entries, image: _restored(follows, entries, image)
    )
    follower.read()
    assert list(follows.jobs.specs) == ["a", "b", "c"]
    assert follows.log_hash == before


def _restored(engine: Engine, entries: list[Entry], image: EngineImage) -> None:
    """As an engine restores itself, whose ``handle`` fails."""
    engine.load(image)
    for entry in entries:
        engine.apply(entry)


# --- several under way at once -------------------------------------------------------------------


class _Slow(InMemoryConsensus):
    """A log that writes what it was given when it is told to, and answers then."""

    def __init__(self, capacity: int = 1000) -> None:
        super().__init__(capacity)
        self.given: list[tuple[Entry, asyncio.Future[int]]] = []
        self.cuts: list[int] = []

    async def append(self, entry: Entry) -> int:
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.given.append((entry, answer))
        return await answer

    async def commit(self, *, but: int = -1) -> None:
        """Write all, but perhaps one, which the disk does not take."""
        given, self.given = self.given, []
        for number, (entry, answer) in enumerate(given):
            if number == but:
                answer.set_exception(OSError("no"))
            else:
                index = await super().append(entry)
                if not answer.cancelled():
                    answer.set_result(index)

    async def cut(self, index: int, snapshot: object) -> None:
        await super().cut(index, snapshot)
        self.cuts.append(index)


async def _under_way(journal: Journal, log: _Slow, *bodies: Command) -> list[asyncio.Task[Outcome]]:
    """Have bodies proposed at once, as far as that goes."""
    tasks = [asyncio.ensure_future(journal.propose(body)) for body in bodies]
    await _settle()
    assert len(log.given) == len(bodies)
    return tasks


async def _settle() -> None:
    """Let everybody go on who can."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_what_is_proposed_at_once_is_under_way_at_once_and_each_gets_its_own() -> None:
    log = _Slow()
    journal, engine, outcomes = _journal(log)
    names = ("a", "b", "c")
    tasks = await _under_way(journal, log, *(Submit(job(name)) for name in names))
    assert list(engine.jobs.specs) == []  # nothing is applied before it is durable
    await log.commit()
    answers = await asyncio.gather(*tasks)
    assert [answer.notes[0].job_id for answer in answers] == list(names)
    assert outcomes == answers  # carried out in the log's order, each once
    _, again, _ = _journal(log)
    assert again.log_hash == engine.log_hash


async def test_what_another_one_under_way_makes_senseless_is_refused_alike() -> None:
    log = _Slow()
    journal, engine, outcomes = _journal(log)
    twice = [Submit(job("a", memory_per_worker_gb=gb)) for gb in (1.0, 2.0)]
    tasks = await _under_way(journal, log, *twice)
    await log.commit()
    first, second = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(first, Outcome)
    assert isinstance(second, ValidationError)
    assert (len(outcomes), journal.applied, len(log)) == (1, 2, 2)
    _, again, _ = _journal(log)
    assert again.log_hash == engine.log_hash
    assert again.jobs.specs == engine.jobs.specs


async def test_one_that_the_log_does_not_take_harms_no_other() -> None:
    log = _Slow()
    journal, engine, _ = _journal(log)
    tasks = await _under_way(journal, log, *(Submit(job(name)) for name in "abc"))
    await log.commit(but=1)
    a, b, c = await asyncio.gather(*tasks, return_exceptions=True)
    assert (type(a), type(b), type(c)) == (Outcome, OSError, Outcome)
    assert list(engine.jobs.specs) == ["a", "c"]


async def test_whoever_stops_waiting_leaves_the_others_their_answers() -> None:
    log = _Slow()
    journal, engine, _ = _journal(log)
    tasks = await _under_way(journal, log, *(Submit(job(name)) for name in "abc"))
    tasks[0].cancel()
    await _settle()
    await log.commit()
    assert [(await task).notes[0].job_id for task in tasks[1:]] == ["b", "c"]
    assert list(engine.jobs.specs) == ["a", "b", "c"]  # it was under way, and is in the log


async def test_reading_what_is_durable_takes_nobodys_answer() -> None:
    log = _Slow()
    journal, engine, _ = _journal(log)
    (task,) = await _under_way(journal, log, Submit(job("a")))
    await log.commit()
    journal.read()
    assert list(engine.jobs.specs) == ["a"]
    assert (await task).notes[0].what == "submitted"


class _SlowCut(_Slow):
    """It takes its time to keep a snapshot, too."""

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self.kept = asyncio.Event()

    async def cut(self, index: int, snapshot: object) -> None:
        await self.kept.wait()
        await super().cut(index, snapshot)


async def test_commands_go_on_while_the_log_is_cut() -> None:
    log = _SlowCut(capacity=4)
    journal, engine, outcomes = _journal(log)
    for name in "ab":
        (task,) = await _under_way(journal, log, Submit(job(name)))
        await log.commit()
        await task
    tasks = await _under_way(journal, log, *(Preempt(name, "") for name in "ab"))
    assert (log.cut_due, log.cuts) == (True, [])
    await log.commit()
    await asyncio.gather(*tasks)  # answered, though no snapshot is kept yet
    assert (journal.applied, len(outcomes), len(log)) == (4, 4, 4)
    log._capacity = 100
    log.kept.set()
    await _settle()
    assert (log.cuts, len(log)) == ([2], 2)  # as things were when it was due, and no later
    (task,) = await _under_way(journal, log, Submit(job("c")))
    await log.commit()
    await task
    follower, again, _ = _journal(log)
    assert (follower.applied, again.log_hash) == (5, engine.log_hash)
    assert list(again.jobs.specs) == ["a", "b", "c"]


async def test_the_log_is_cut_behind_an_entry_whose_answer_is_lost() -> None:
    log = _SlowCut(capacity=2)
    journal, engine, _ = _journal(log)
    lost, other = await _under_way(journal, log, Submit(job("a")), Submit(job("b")))
    (entry, answer), _ = log.given
    await InMemoryConsensus.append(log, entry)  # written, and not answered for
    del log.given[0]
    await log.commit()
    await other
    (third,) = await _under_way(journal, log, Submit(job("c")))
    log._capacity = 100
    log.kept.set()
    await _settle()
    assert (log.cuts, len(log)) == ([2], 0)
    answer.set_exception(OSError("the answer is lost"))
    assert (await lost).notes[0].job_id == "a"
    await log.commit()
    await third
    assert list(engine.jobs.specs) == ["a", "b", "c"]


async def test_answers_are_not_kept_for_ever_though_something_is_always_under_way() -> None:
    log = _Slow()
    journal, _, outcomes = _journal(log)
    proposals = []
    for _ in range(60):
        proposals += [asyncio.ensure_future(journal.propose(Review())) for _ in range(50)]
        await _settle()
        held, log.given = log.given[-25:], log.given[:-25]
        await log.commit()
        log.given = held
        await _settle()
        assert journal._flying  # so that the answers are never cleared at once
        assert len(journal._answers) < 1200
    while not all(one.done() for one in proposals):
        await log.commit()
        await _settle()
    assert all(one.result().reason == Reason.OK for one in proposals)
    assert len(outcomes) == 3000


async def test_what_is_under_way_when_another_takes_over_is_refused() -> None:
    log = _Slow()
    journal, engine, outcomes = _journal(log)
    leading = asyncio.ensure_future(journal.lead("first"))
    await _settle()
    await log.commit()
    await leading
    tasks = await _under_way(journal, log, Submit(job("a")), Submit(job("b")))
    await InMemoryConsensus.append(log, Entry(0, Lead("second"), journal.term))
    await log.commit()
    for task in tasks:
        with pytest.raises(NotLeaderError, match="'second' leads"):
            await task
    assert (list(engine.jobs.specs), outcomes) == ([], [])


async def test_a_log_in_a_file_commits_together_what_is_proposed_at_once(tmp_path: Path) -> None:
    with SQLiteLog(tmp_path / "log") as log:
        engine = Engine(ClusterShape(envs=1, jobs=100, workers=1, devices=4), nodes=(node("n0"),))
        journal = Journal(log, engine, VirtualClock(), lambda outcome: None)
        said: list[str] = []
        log._database._writer.set_trace_callback(said.append)
        bodies = [Submit(job(f"j{number}")) for number in range(64)]
        await asyncio.gather(*(journal.propose(body) for body in bodies))
        # How many depends on the disk; alone, each of the 64 would have one.
        assert said.count("COMMIT") <= 32
        assert [entry.body for entry in log.entries()] == bodies
        assert list(engine.jobs.specs) == [body.spec.job_id for body in bodies]
