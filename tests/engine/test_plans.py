"""Actions and their codes, plans that are carried out whole, and a fleet that shrinks alike."""

from __future__ import annotations

import asyncio
from typing import get_args

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from orchestrator.autoscaler import HorizontalScaler, ScalingPlan
from orchestrator.autoscaler.fleet import FleetController
from orchestrator.engine.plans import PlanExecutor
from orchestrator.errors import IllegalActionError
from orchestrator.kernels.decide.scale import read_demand
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.state.codes import (
    NO_JOB,
    ActionKind,
    LogKind,
    NodeCode,
    Placement,
    Reason,
    Status,
)
from orchestrator.kernels.state.row import ClusterState, allocate
from orchestrator.messages import (
    Action,
    MigrateJob,
    PlaceJob,
    Plan,
    PreemptJob,
    ResizeJob,
    Wait,
    from_code,
    to_code,
)
from orchestrator.metrics import ScalingEfficiency
from orchestrator.runtimes import SimulatedProvisioner
from orchestrator.status import demand_of
from tests.engine.builders import node
from tests.engine.cases import SHAPE, Case, cases, choose, log_of
from tests.engine.drivers import Live, load
from tests.twins.kernel_calls import scale_capacity

# --- codes ---------------------------------------------------------------------------------------

_ACTIONS: tuple[Action, ...] = (
    PlaceJob("b", Placement.FGD),
    PreemptJob("a"),
    ResizeJob("b", 7),
    MigrateJob("a", Placement.SPREAD),
    Wait(),
)


@pytest.mark.parametrize("action", _ACTIONS)
def test_an_action_comes_back_from_its_code(action: Action) -> None:
    kind, j, value = to_code(action, ["a", "b"].index)
    assert from_code(kind, "" if j == NO_JOB else ["a", "b"][j], value) == action


def test_every_action_has_a_code_of_its_own() -> None:
    assert {type(action) for action in _ACTIONS} == set(get_args(Action))
    assert len({to_code(action, ["a", "b"].index)[0] for action in _ACTIONS}) == len(_ACTIONS)


@pytest.mark.parametrize("kind", [ActionKind.SERVICE, ActionKind.CAPACITY])
def test_what_policies_do_not_decide_live_is_no_action(kind: ActionKind) -> None:
    with pytest.raises(IllegalActionError, match="leave nodes and replicas to the autoscaler"):
        from_code(kind, "", 1)


# --- plans ---------------------------------------------------------------------------------------


def _waiting(state: ClusterState) -> list[int]:
    return [int(j) for j in state.queue[0, : state.rows[0]["queue_len"]]["job"]]


@pytest.mark.property
@given(case=cases(commitment=False))
def test_a_plan_is_carried_out_whole_or_not_at_all(case: Case) -> None:
    assume(case.jobs)
    state, nodes = load(case), np.zeros(SHAPE.workers, np.int32)
    assume(entry.advance(state.rows, 0, nodes) == Status.DECISION)
    executor = PlanExecutor(state, 0, lambda name: int(name) if name.isdigit() else NO_JOB)
    assume(entry.fits(state.rows, 0, _waiting(state)[0]))
    before, log = state.rows.tobytes(), log_of(state)
    first = PlaceJob(str(_waiting(state)[0]))
    acted: list[int] = []
    reason = executor.carry_out(Plan((first, PreemptJob("nobody"))), lambda: acted.append(1))
    assert reason != Reason.OK
    assert (state.rows.tobytes(), log_of(state), acted) == (before, log, [])
    assert executor.carry_out(Plan((first, Wait())), lambda: acted.append(1)) == Reason.OK
    assert len(acted) == 2
    assert executor.status == Status.DONE
    assert any(kind == LogKind.PLACEMENT for _, kind, _, _ in log_of(state)[len(log) :])


# --- the fleet -----------------------------------------------------------------------------------


def _rests(case: Case) -> dict[int, ClusterState]:
    """A case as the kernels live through it: its state whenever all of an instant is decided."""
    state, nodes = load(case), np.zeros(SHAPE.workers, np.int32)
    rests: dict[int, ClusterState] = {}
    while entry.advance(state.rows, 0, nodes) == Status.DECISION:
        kind, j, value = choose(state, case.semantics, case.seed)
        if entry.commit(state.rows, 0, int(kind), j, value, nodes) != Reason.OK:
            break
        copy = allocate(state.shape)
        entry.copy_row(state.rows, 0, copy.rows, 0)
        rests[int(state.rows[0]["now_ms"])] = copy
    return rests


async def _left_live(live: Live, time_ms: int, count: int) -> tuple[list[str], float]:
    """The nodes that a live fleet gives up when it is to be smaller by so many; and its demand."""
    await live.clock.advance_to(time_ms)
    engine = live.orchestrator.engine
    provisioner = SimulatedProvisioner(live.clock, node("rented", 1))
    fleet = FleetController(engine, live.clock, None, provisioner, ScalingEfficiency())
    size = fleet.size - count
    fleet.scaler = HorizontalScaler(ScalingPlan(1.0, min_size=size, max_size=size))
    left: list[str] = []

    async def decommission(node_id: str) -> None:
        left.append(node_id)

    await fleet.scale(decommission)
    return left, demand_of(engine).total


@pytest.mark.property
@given(case=cases(commitment=False), moment=st.integers(0, 100), count=st.integers(1, 3))
def test_a_live_fleet_gives_up_the_nodes_that_a_simulated_one_does(
    case: Case, moment: int, count: int
) -> None:
    assume(case.jobs)
    rests = _rests(case)
    assume(len(rests) > 1)
    time_ms = sorted(rests)[moment % (len(rests) - 1)]
    row = rests[time_ms]
    up = int((row.node[0, : len(case.nodes)]["state"] == NodeCode.UP).sum())
    assume(up > 1)
    count = min(count, up - 1)
    left, demand = asyncio.run(_left_live(Live(case), time_ms, count))
    _, held, waiting = read_demand(row.rows, 0)
    assert round(1000 * demand) == held + waiting
    found = []
    for _ in range(count):
        before = row.node[0]["state"].copy()
        if scale_capacity(row.rows, 0, -1) != Reason.OK:
            break
        (n,) = np.flatnonzero((before == NodeCode.UP) & (row.node[0]["state"] != NodeCode.UP))
        found.append(f"node-{n}")
    assert left == found
