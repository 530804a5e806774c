"""Whole workloads: advance, commit and replay against their twin, invariants at every step."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.invariants import assert_invariants
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.state.codes import NO_JOB, ActionKind, Reason, Status
from orchestrator.kernels.state.records import TABLES
from orchestrator.kernels.state.row import MEMO_FIELDS
from orchestrator.scheduling.rules import Rule
from tests.naive.random import log_hash
from tests.naive.rules import rule_action
from tests.twins.cases import (
    MAX_WORKERS,
    Case,
    assert_same,
    begin,
    cases,
    log_records,
    nodes_buffer,
    rules,
    scratch,
)

pytestmark = pytest.mark.property
_MAX_ACTIONS = 150


@given(case=cases(), rule=rules)
def test_replay_equals_its_twin(case: Case, rule: Rule) -> None:
    state, twin = begin(case)
    count = entry.replay(state.rows, 0, rule.to_record(), nodes_buffer(), scratch())
    assert count == twin.replay(rule)
    assert_same(state, 0, twin)
    assert_invariants(state, 0)


@given(case=cases(), rule=rules)
def test_log_hash_is_that_of_the_records(case: Case, rule: Rule) -> None:
    state, _ = begin(case)
    entry.replay(state.rows, 0, rule.to_record(), nodes_buffer(), scratch())
    assert int(state.rows[0]["log_hash"]) == log_hash(log_records(state, 0))


@given(case=cases(commitment=0), rule=rules)
def test_rule_step_by_step_equals_its_twin(case: Case, rule: Rule) -> None:
    state, twin = begin(case)
    buffer = nodes_buffer()
    for _ in range(_MAX_ACTIONS):
        status = entry.advance(state.rows, 0, buffer)
        assert status == twin.advance()
        assert_invariants(state, 0)
        if status == Status.DONE:
            break
        action = entry.rule_action(state.rows, 0, rule.to_record(), scratch())
        assert action == rule_action(twin, rule)
        reason = entry.commit(state.rows, 0, *action, buffer)
        assert reason == twin.commit(*action)
        assert_invariants(state, 0)


_KINDS = [
    *[ActionKind.PLACE] * 5,
    *[ActionKind.PREEMPT] * 2,
    *[ActionKind.RESIZE] * 4,
    *[ActionKind.MIGRATE] * 2,
    ActionKind.WAIT,
    7,
]


def _draw_action(rng: random.Random, jobs: int) -> tuple[int, int, int]:
    """Any action, legal or not: (kind, job, generator or number of workers)."""
    kind = int(rng.choice(_KINDS))
    value = rng.randrange(-1, MAX_WORKERS + 2) if kind == ActionKind.RESIZE else rng.randrange(4)
    return kind, rng.randrange(-1, jobs + 1), value


@pytest.mark.slow
@given(case=cases(), seed=st.integers(0, 1 << 16))
def test_any_actions_equal_their_twin(case: Case, seed: int) -> None:
    state, twin = begin(case)
    rng, buffer = random.Random(seed), nodes_buffer()
    for _ in range(_MAX_ACTIONS):
        status = entry.advance(state.rows, 0, buffer)
        assert status == twin.advance()
        if status == Status.DONE:
            break
        action = _draw_action(rng, len(case.requests))
        assert entry.commit(state.rows, 0, *action, buffer) == twin.commit(*action)
        assert_invariants(state, 0)
    assert_same(state, 0, twin)


@given(case=cases(), seed=st.integers(0, 1 << 16), rule=rules)
def test_a_copied_row_evolves_like_the_original(case: Case, seed: int, rule: Rule) -> None:
    state, twin = begin(case)
    rng, buffer = random.Random(seed), nodes_buffer()
    for _ in range(rng.randrange(20)):
        status = entry.advance(state.rows, 0, buffer)
        assert status == twin.advance()
        if status == Status.DONE:
            break
        action = _draw_action(rng, len(case.requests))
        assert entry.commit(state.rows, 0, *action, buffer) == twin.commit(*action)
    before = {name: getattr(state, name)[0].tobytes() for name in ("rows", *TABLES)}
    entry.copy_row(state.rows, 0, state.rows, 1)
    assert_invariants(state, 1)
    count = _play(state.rows, 1, rule)
    assert {name: getattr(state, name)[0].tobytes() for name in ("rows", *TABLES)} == before
    assert _play(state.rows, 0, rule) == count
    _assert_equal_rows(state.rows)
    jobs = len(case.requests)
    np.testing.assert_array_equal(state.job[0, :jobs], state.job[1, :jobs])
    np.testing.assert_array_equal(state.node[0], state.node[1])
    np.testing.assert_array_equal(state.device[0], state.device[1])
    assert_invariants(state, 1)


def _play(rows: np.ndarray, e: int, rule: Rule) -> int:
    """Play on under a rule where it is legal, and wait where it is not."""
    buffer, count = nodes_buffer(), 0
    while entry.advance(rows, e, buffer) == Status.DECISION and count < _MAX_ACTIONS:
        action = entry.rule_action(rows, e, rule.to_record(), scratch())
        done = entry.commit(rows, e, *action, buffer) == Reason.OK
        if not done and entry.commit(rows, e, ActionKind.WAIT, NO_JOB, 0, buffer) != Reason.OK:
            break
        count += 1
    return count


def _assert_equal_rows(rows: np.ndarray) -> None:
    for name in rows.dtype.names:
        if not name.endswith("_at") and name not in (*MEMO_FIELDS, "touched"):
            assert rows[0][name] == rows[1][name], name
