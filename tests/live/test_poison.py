"""A log that cannot be poisoned: whatever is said, jobs run on and restarts work."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from orchestrator import InfrastructureOrchestrator, VirtualClock, in_memory
from orchestrator.engine.engine import Engine, Outcome
from orchestrator.engine.snapshot import Snapshot
from orchestrator.errors import InvariantError, QuartermasterError
from orchestrator.foundations import InMemoryConsensus
from orchestrator.live.journal import Journal
from orchestrator.messages import Entry, PlaceJob, Plan, Review, Scale, Submit
from orchestrator.runtimes import SimulatedRuntime
from orchestrator.scheduling.rules import policy_of
from tests.engine.builders import HOUR_MS, SHAPE, job, node
from tests.engine.test_checks import MALFORMED, WELL_FORMED


class _Careless:
    """A policy that returns what is no plan, raises, or plans for jobs that there are not."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._sound = policy_of(None)

    def decide(self, snapshot: Snapshot) -> Any:
        draw = int(self._rng.integers(6))
        if draw == 0:
            raise ZeroDivisionError("the policy divides by zero")
        if draw == 1:
            return [None, "wait", 3, (PlaceJob("a"),)][int(self._rng.integers(4))]
        if draw == 2:
            return Plan((PlaceJob("nobody"),))
        return self._sound.decide(snapshot)


async def _live_on_a_random_day(seed: int) -> None:
    rng, clock = np.random.default_rng(seed), VirtualClock()
    found = in_memory(clock)
    cluster = InfrastructureOrchestrator(
        *found,
        clock=clock,
        nodes=[node("n0"), node("n1")],
        shape=SHAPE,
        policy=_Careless(rng),
        schedule_on_events=True,
        check=True,
    )
    bodies = (*MALFORMED, *WELL_FORMED)
    refused = 0
    for k in range(30):
        try:
            if rng.integers(3) == 0:
                elastic = {"num_workers": 2, "elastic": True, "min_workers": 1, "max_workers": 4}
                await cluster.submit_job(job(f"j{k}", **elastic))
            else:
                await cluster._propose(bodies[int(rng.integers(len(bodies)))])  # type: ignore[arg-type]
        except QuartermasterError:
            refused += 1
        await clock.advance_to(clock.now_ms() + int(rng.integers(HOUR_MS // 6)))
    assert refused > 0
    cluster.policy = policy_of(None)
    await clock.advance_to(clock.now_ms() + 100 * HOUR_MS)
    ended = {name: cluster.get_job_status(name)["state"] for name in cluster.jobs}
    assert set(ended.values()) <= {"completed", "failed"}, ended
    again = InfrastructureOrchestrator(
        found.consensus_engine,
        *in_memory(clock)[1:],
        clock=clock,
        nodes=[node("n0"), node("n1")],
        shape=SHAPE,
        runtime=SimulatedRuntime(clock),
    )
    assert again.engine.log_hash == cluster.engine.log_hash
    assert again.engine.row.tobytes()  # it can be read


@pytest.mark.property
@pytest.mark.parametrize("seed", range(12))
async def test_random_nonsense_poisons_nothing(seed: int) -> None:
    await _live_on_a_random_day(seed)


class _Brittle(Engine):
    """An engine that has a fault: half way through some entries it raises what nobody expects."""

    faulty: Sequence[str] = ()

    def apply(self, entry: Entry) -> Outcome:
        outcome = super().apply(entry)
        if isinstance(entry.body, Submit) and entry.body.spec.job_id in self.faulty:
            raise FloatingPointError(f"cannot digest '{entry.body.spec.job_id}'")
        return outcome


def _brittle(*faulty: str) -> _Brittle:
    engine = _Brittle(SHAPE, nodes=(node("n0"),))
    engine.faulty = faulty
    return engine


@pytest.mark.parametrize("faulty", [("b",), ("a", "c"), ("a", "b", "c", "d")])
async def test_an_entry_that_cannot_be_applied_changes_nothing(faulty: tuple[str, ...]) -> None:
    consensus, clock = InMemoryConsensus(), VirtualClock()
    engine, outcomes = _brittle(*faulty), list[Outcome]()
    journal = Journal(consensus, engine, clock, outcomes.append)
    for name in "abcd":
        if name in faulty:
            with pytest.raises(InvariantError, match=f"cannot digest '{name}'"):
                await journal.propose(Submit(job(name)))
        else:
            await journal.propose(Submit(job(name)))
    await journal.propose(Review())
    sound = _brittle()
    for entry in consensus.entries():
        if not (isinstance(entry.body, Submit) and entry.body.spec.job_id in faulty):
            sound.handle(entry)
    assert list(engine.jobs.specs) == [name for name in "abcd" if name not in faulty]
    assert engine.log_hash == sound.log_hash
    assert len(outcomes) == 5 - len(faulty)
    replica = _brittle(*faulty)
    again = Journal(consensus, replica, clock, outcomes.append)
    assert (again.applied, replica.log_hash) == (journal.applied, engine.log_hash)


async def test_after_an_error_the_cluster_goes_on_from_where_it_was() -> None:
    consensus, clock = InMemoryConsensus(), VirtualClock()
    engine = _brittle("bad")
    journal = Journal(consensus, engine, clock, lambda outcome: None)
    await journal.propose(Submit(job("a", num_workers=2, elastic=True, max_workers=4)))
    with pytest.raises(InvariantError):
        await journal.propose(Submit(job("bad")))
    await journal.propose(Review())
    outcome = await journal.propose(Scale("a", 1))
    assert outcome.reason.name == "NOT_RUNNING"
    assert engine.jobs.code("a").name == "PENDING"


@pytest.mark.parametrize("capacity", [1, 2, 3, 5, 100])
async def test_a_log_that_is_cut_is_not_poisoned_either(capacity: int) -> None:
    consensus, clock = InMemoryConsensus(capacity), VirtualClock()
    engine, sound = _brittle("c", "d", "g"), _brittle()
    journal = Journal(consensus, engine, clock, lambda outcome: None)
    for name in "abcdefgh":
        if name in engine.faulty:
            with pytest.raises(InvariantError, match=f"cannot digest '{name}'"):
                await journal.propose(Submit(job(name)))
        else:
            await journal.propose(Submit(job(name)))
            sound.handle(Entry(0, Submit(job(name))))
        assert engine.log_hash == sound.log_hash
        assert list(engine.jobs.specs) == list(sound.jobs.specs)
        replica = _brittle(*engine.faulty)
        again = Journal(consensus, replica, clock, lambda outcome: None)
        assert (again.applied, replica.log_hash) == (journal.applied, engine.log_hash)
