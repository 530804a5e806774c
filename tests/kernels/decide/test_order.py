"""Scores of jobs, the first of the queue and backfilling against their twins."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.state.codes import ActionKind, Reason, RuleKey, Status
from orchestrator.kernels.state.row import ClusterState
from tests.naive.engine import NaiveEngine
from tests.naive.order import score
from tests.twins import kernel_calls
from tests.twins.cases import Case, assert_same, begin, cases, nodes_buffer

pytestmark = pytest.mark.property


def _play(state: ClusterState, twin: NaiveEngine, rng: random.Random) -> None:
    """Play a few actions, so that some jobs run, some wait and some were preempted."""
    buffer = nodes_buffer()
    for _ in range(rng.randrange(25)):
        status = entry.advance(state.rows, 0, buffer)
        assert status == twin.advance()
        if status == Status.DONE:
            break
        kind = rng.choice([*ActionKind][:5])
        j = rng.randrange(len(twin.jobs))
        value = rng.randrange(4)
        entry.commit(state.rows, 0, kind, j, value, buffer)
        twin.commit(kind, j, value)


@given(case=cases(), seed=st.integers(0, 1 << 16))
def test_scores_equal_their_twin(case: Case, seed: int) -> None:
    state, twin = begin(case)
    _play(state, twin, random.Random(seed))
    for key in RuleKey:
        scores = {job.index: score(twin, job, key) for job in twin.jobs}
        for j, expected in scores.items():
            found = kernel_calls.job_score(state.rows, 0, j, key)
            assert found == pytest.approx(expected, rel=1e-12, abs=0.0), key.name
        waiting = [job.index for job in twin.queue()]
        first = kernel_calls.first_in_queue(state.rows, 0, key)
        best = min(waiting, key=lambda j: scores[j], default=-1)
        assert (waiting[first] if first >= 0 else -1) == best


@given(case=cases(commitment=1), seed=st.integers(0, 1 << 16))
def test_backfilling_equals_its_twin(case: Case, seed: int) -> None:
    state, twin = begin(case)
    rng = random.Random(seed)
    _play(state, twin, rng)
    for job in twin.queue():
        units = twin.least_units(job)
        assert kernel_calls.earliest_start(state.rows, 0, units) == twin.earliest_start(units)
    if not twin.queue():
        return
    twin.committed = twin.queue()[0].index
    if twin.account_reason(twin.queue()[0]) != Reason.OK:
        return  # nobody commits to a job that its tenant may not start
    # At the edge: a job that would end exactly at the reservation has to wait.
    twin.reservation = twin.now + rng.choice(twin.queue()).ask.requested_ms + rng.choice([0, 1])
    state.rows["committed"] = twin.committed
    state.rows["reservation_ms"] = twin.reservation
    before = len(twin.queue())
    twin.backfill()
    started = kernel_calls.backfill_queue(state.rows, 0, twin.committed, nodes_buffer())
    assert started == before - len(twin.queue())
    assert_same(state, 0, twin)


@given(case=cases(), seed=st.integers(0, 1 << 16))
def test_queue_positions(case: Case, seed: int) -> None:
    state, twin = begin(case)
    _play(state, twin, random.Random(seed))
    waiting = [job.index for job in twin.queue()]
    for j in range(len(twin.jobs)):
        position = kernel_calls.queue_position(state.rows, 0, j)
        assert position == (waiting.index(j) if j in waiting else -1)
