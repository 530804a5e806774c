"""Orders of nodes against a plain twin: who comes, who goes, when, and what it costs."""

from __future__ import annotations

import random
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import InvariantError
from orchestrator.invariants import assert_invariants
from orchestrator.kernels.decide.scale import read_demand
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.see.metrics import Metric
from orchestrator.kernels.state.codes import NO_JOB, ActionKind, EventKind, NodeCode, Reason, Status
from orchestrator.kernels.state.records import NODE_DTYPE, REQUEST_DTYPE
from orchestrator.kernels.state.row import CONFIG_FIELDS, ClusterShape, ClusterState, allocate
from tests.naive.engine import NaiveFleet
from tests.twins.cases import MAX_WORKERS, Case, assert_same, begin, cases, nodes_buffer
from tests.twins.kernel_calls import capacity_reason, read_metric, scale_capacity, step_event

_MAX_ACTIONS = 40


def _with_spares(case: Case, rng: random.Random) -> Case:
    """The same case with prices, and with machines that are described, but absent."""
    spares = case.nodes[: 4 - len(case.nodes)].copy()
    spares["state"] = NodeCode.ABSENT
    nodes = np.concatenate([case.nodes, spares])
    nodes["price_milli"] = [rng.choice([0, 1000, 2500, 30_000]) for _ in nodes]
    bounds = {
        "provision_ms": rng.choice([0, 4000, 15_000]),
        "min_nodes": rng.choice([0, 1, 2]),
        "max_nodes": rng.choice([0, 0, 3]),
    }
    return replace(case, nodes=nodes, config=case.config | bounds)


@pytest.mark.property
@given(case=cases(commitment=0), seed=st.integers(0, 1 << 16))
def test_any_orders_equal_their_twin(case: Case, seed: int) -> None:
    rng, buffer = random.Random(seed), nodes_buffer()
    case = _with_spares(case, rng)
    state, _ = begin(case)
    config = SimpleNamespace(**{name: int(state.rows[0][name]) for name, _ in CONFIG_FIELDS})
    twin = NaiveFleet(
        case.nodes, case.requests, case.incidents, config, case.seed, case.tenants, MAX_WORKERS
    )
    for _ in range(_MAX_ACTIONS):
        assert entry.advance(state.rows, 0, buffer) == twin.advance()
        for delta in range(-4, 5):
            assert capacity_reason(state.rows, 0, delta) == twin.capacity_reason(delta)
        delta = rng.choice([0, 0, 1, 2, -1, -2, 5])
        if delta:
            assert scale_capacity(state.rows, 0, delta) == twin.scale_capacity(delta)
            assert_invariants(state, 0)
        if state.rows[0]["done"]:
            break
        action = (ActionKind.PLACE, rng.randrange(len(case.requests)), 0)
        if rng.random() < 0.3:
            action = (ActionKind.WAIT, NO_JOB, 0)
        assert entry.commit(state.rows, 0, *action, buffer) == twin.commit(*action)
        assert_invariants(state, 0)
    assert_same(state, 0, twin)


# --- scenarios -----------------------------------------------------------------------------------

_MINUTE = 60_000


def _fleet(up: int, absent: int, jobs: list[dict[str, int]] | None = None) -> ClusterState:
    """Two-GPU nodes at 3.6 units of cost an hour; a node on order takes five minutes."""
    nodes = np.zeros(up + absent, NODE_DTYPE)
    nodes["gpus"], nodes["cpu_cap_milli"], nodes["price_milli"] = 2, 8000, 3600
    nodes["state"][:up] = NodeCode.UP
    requests = np.zeros(len(jobs or []), REQUEST_DTYPE)
    for ask, fields in zip(requests, jobs or [], strict=True):
        ask["workers"] = ask["gpus_per_worker"] = 1
        ask["gpu_milli"], ask["duration_ms"] = 1000, 60 * _MINUTE
        for name, value in fields.items():
            ask[name] = value
    state = allocate(ClusterShape(envs=2, jobs=8, workers=4, nodes=up + absent, devices=2))
    state.rows["provision_ms"], state.rows["min_nodes"] = 5 * _MINUTE, 1
    entry.begin_episode(state.rows, 0, 0, nodes, requests)
    buffer = np.zeros(4, np.int32)
    while jobs and entry.advance(state.rows, 0, buffer) == Status.DECISION:
        j = int(state.queue[0, 0]["job"])
        assert entry.commit(state.rows, 0, ActionKind.PLACE, j, 0, buffer) == Reason.OK
        if state.rows[0]["running_len"] == len(jobs):
            break
    return state


def _states(state: ClusterState) -> list[str]:
    return [NodeCode(x).name for x in state.node[0]["state"]]


def test_a_node_on_order_is_no_capacity_until_it_arrives() -> None:
    state = _fleet(up=1, absent=2)
    assert scale_capacity(state.rows, 0, 2) == Reason.OK
    assert _states(state) == ["UP", "PROVISIONING", "PROVISIONING"]
    assert state.rows[0]["capacity_units"] == 2000
    assert_invariants(state, 0)
    assert step_event(state.rows, 0)
    assert (state.rows[0]["now_ms"], state.rows[0]["capacity_units"]) == (5 * _MINUTE, 4000)
    assert step_event(state.rows, 0)
    assert (state.rows[0]["now_ms"], state.rows[0]["capacity_units"]) == (5 * _MINUTE, 6000)
    assert not step_event(state.rows, 0)
    assert_invariants(state, 0)


def test_nodes_on_order_are_paid_for_and_broken_ones_are_not() -> None:
    state = _fleet(up=1, absent=1)
    scale_capacity(state.rows, 0, 1)
    entry.apply_event(state.rows, 0, 60_000, int(EventKind.NODE_FAILURE), 0)
    assert _states(state) == ["DOWN", "PROVISIONING"]
    step_event(state.rows, 0)
    # One minute of two nodes, four minutes of one, 3.6 an hour each.
    assert read_metric(state.rows, 0, Metric.NODE_COST) == pytest.approx(0.06 * 2 + 0.06 * 4)


def test_a_failure_of_a_node_on_order_is_not_one() -> None:
    state = _fleet(up=1, absent=1)
    scale_capacity(state.rows, 0, 1)
    entry.apply_event(state.rows, 0, 1000, int(EventKind.NODE_FAILURE), 1)
    entry.apply_event(state.rows, 0, 1000, int(EventKind.NODE_DRAIN), 1)
    assert (_states(state)[1], state.node[0, 1]["failures"]) == ("PROVISIONING", 0)
    assert_invariants(state, 0)


def test_the_last_order_is_cancelled_first() -> None:
    state = _fleet(up=2, absent=2)
    scale_capacity(state.rows, 0, 1)
    entry.apply_event(state.rows, 0, 1000, int(EventKind.NODE_RECOVERY), 0)  # a second passes
    scale_capacity(state.rows, 0, 1)
    assert scale_capacity(state.rows, 0, -1) == Reason.OK
    assert _states(state) == ["UP", "UP", "PROVISIONING", "ABSENT"]
    assert scale_capacity(state.rows, 0, -2) == Reason.OK
    assert _states(state) == ["UP", "ABSENT", "ABSENT", "ABSENT"]
    assert_invariants(state, 0)


def test_nodes_go_by_what_is_lost_with_them() -> None:
    jobs = [{"preemptible": 0}, {"preemptible": 0}, {"preemptible": 1, "checkpoint_ms": 9000}]
    state = _fleet(up=3, absent=0, jobs=jobs)  # node 0: two that stay; node 1: one that may go
    assert capacity_reason(state.rows, 0, -3) == Reason.NO_NODES
    assert scale_capacity(state.rows, 0, -1) == Reason.OK
    assert _states(state) == ["UP", "UP", "ABSENT"]
    assert scale_capacity(state.rows, 0, -1) == Reason.OK
    assert _states(state) == ["UP", "DRAINING", "ABSENT"]
    assert step_event(state.rows, 0)
    assert _states(state) == ["UP", "ABSENT", "ABSENT"]
    state.rows["min_nodes"] = 0
    assert scale_capacity(state.rows, 0, -1) == Reason.NO_NODES
    assert _states(state)[0] == "UP"
    assert_invariants(state, 0)


def test_the_fleet_keeps_to_its_bounds_whole_or_not_at_all() -> None:
    state = _fleet(up=2, absent=3)
    state.rows["max_nodes"] = 4
    assert scale_capacity(state.rows, 0, 3) == Reason.NO_NODES
    assert scale_capacity(state.rows, 0, -2) == Reason.NO_NODES
    assert scale_capacity(state.rows, 0, 0) == Reason.UNKNOWN_ACTION
    assert _states(state) == ["UP", "UP", "ABSENT", "ABSENT", "ABSENT"]
    assert scale_capacity(state.rows, 0, 2) == Reason.OK


def test_the_ring_wraps_and_is_copied() -> None:
    state = _fleet(up=1, absent=3)
    for _ in range(5):
        assert scale_capacity(state.rows, 0, 3) == Reason.OK
        for _ in range(3):
            step_event(state.rows, 0)
            assert_invariants(state, 0)
        assert scale_capacity(state.rows, 0, -3) == Reason.OK
    scale_capacity(state.rows, 0, 2)
    entry.copy_row(state.rows, 0, state.rows, 1)
    assert_invariants(state, 1)
    assert step_event(state.rows, 1)
    assert (state.rows[0]["arrival_len"], state.rows[1]["arrival_len"]) == (2, 1)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("cost_rate_milli", 1, "cost_rate_milli is 1, should be 10800"),
        ("arrival_head", 1, "nodes on order is"),
        ("arrival_len", 9, "arrival_len is 9, outside 0..3"),
        ("now_ms", 1 << 40, "a node should have arrived"),
    ],
)
def test_broken_orders_are_reported(field: str, value: int, message: str) -> None:
    state = _fleet(up=1, absent=2)
    scale_capacity(state.rows, 0, 2)
    state.rows[0][field] = value
    with pytest.raises(InvariantError) as caught:
        assert_invariants(state, 0)
    assert message in str(caught.value)


def test_what_is_interrupted_counts_and_not_how_many() -> None:
    jobs = [{"preemptible": 1, "checkpoint_ms": cost_ms} for cost_ms in (1000, 1000, 5000)]
    state = _fleet(up=2, absent=0, jobs=jobs)  # node 0: two that are cheap; node 1: one that is not
    assert state.node[0, :2]["workers"].tolist() == [2, 1]
    assert scale_capacity(state.rows, 0, -1) == Reason.OK
    assert _states(state) == ["DRAINING", "UP"]


def test_a_gang_on_several_nodes_is_interrupted_once() -> None:
    wide = {"preemptible": 1, "workers": 4, "checkpoint_ms": 2000}
    jobs = [wide, {"preemptible": 1, "gpus_per_worker": 2, "checkpoint_ms": 3000}]
    state = _fleet(up=3, absent=0, jobs=jobs)  # nodes 0 and 1: four workers; node 2: the other one
    assert scale_capacity(state.rows, 0, -1) == Reason.OK
    assert _states(state) == ["UP", "UP", "DRAINING"]
    state = _fleet(up=3, absent=0, jobs=[wide, {**jobs[1], "checkpoint_ms": 9000}])
    assert scale_capacity(state.rows, 0, -2) == Reason.OK
    assert _states(state) == ["DRAINING", "DRAINING", "UP"]
    assert_invariants(state, 0)


def test_demand_counts_what_jobs_hold_on_nodes_that_leave() -> None:
    state = _fleet(up=2, absent=1, jobs=[{"preemptible": 1, "checkpoint_ms": 9000}])
    assert read_demand(state.rows, 0) == (True, 1000, 0)
    entry.apply_event(state.rows, 0, 1000, int(EventKind.NODE_DRAIN), 0)
    assert _states(state)[0] == "DRAINING"
    assert read_demand(state.rows, 0) == (True, 1000, 0)
    assert step_event(state.rows, 0)  # saved
    assert read_demand(state.rows, 0) == (True, 0, 1000)
