"""The way into a cluster: what is checked when, and what becomes of others' entries."""

from __future__ import annotations

import pytest

from orchestrator import ClusterShape, VirtualClock
from orchestrator.engine.engine import Engine, Outcome
from orchestrator.errors import ValidationError
from orchestrator.foundations import InMemoryConsensus
from orchestrator.live.journal import Journal
from orchestrator.messages import Command, Entry, Event, Submit
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
