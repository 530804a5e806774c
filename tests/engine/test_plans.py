"""Actions and their codes, plans that are carried out whole, and a fleet that shrinks alike."""

from __future__ import annotations

import asyncio
from typing import get_args

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from orchestrator.autoscaler.rehearsal import Rehearsal
from orchestrator.engine.plans import PlanExecutor
from orchestrator.errors import IllegalActionError
from orchestrator.kernels.decide.scale import read_demand
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.state.codes import (
    NO_JOB,
    ActionKind,
    EventKind,
    JobCode,
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
    ScaleFleet,
    ScaleService,
    Wait,
    from_code,
    to_code,
)
from orchestrator.scheduling.rules import RULES
from orchestrator.status import demand_of
from tests.engine.cases import SHAPE, Case, cases, choose, log_of
from tests.engine.drivers import Live, load
from tests.twins.kernel_calls import scale_capacity

# --- codes ---------------------------------------------------------------------------------------

_ACTIONS: tuple[Action, ...] = (
    PlaceJob("b", Placement.FGD),
    PreemptJob("a"),
    ResizeJob("b", 7),
    MigrateJob("a", Placement.SPREAD),
    ScaleService("b", 2),
    ScaleFleet(-2),
    Wait(),
)


@pytest.mark.parametrize("action", _ACTIONS)
def test_an_action_comes_back_from_its_code(action: Action) -> None:
    kind, j, value = to_code(action, ["a", "b"].index)
    assert from_code(kind, "" if j == NO_JOB else ["a", "b"][j], value) == action


def test_every_action_has_a_code_of_its_own() -> None:
    assert {type(action) for action in _ACTIONS} == set(get_args(Action))
    assert len({to_code(action, ["a", "b"].index)[0] for action in _ACTIONS}) == len(_ACTIONS)


def test_a_kind_that_there_is_not_is_no_action() -> None:
    with pytest.raises(IllegalActionError, match="action kind 99: there is no such kind"):
        from_code(99, "", 1)


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
    asked: list[int] = []

    def make_room(done: int) -> int:
        asked.append(done)
        return 0

    assert executor.carry_out(Plan((first, PreemptJob("nobody"))), make_room) != Reason.OK
    assert (state.rows.tobytes(), log_of(state), asked) == (before, log, [])
    assert executor.carry_out(Plan((first, Wait())), make_room) == Reason.OK
    assert asked == [0]  # no effect is written into a row without a ring for them
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
    """The nodes that a live fleet gives up, all being rented, to be smaller; and its demand."""
    await live.clock.advance_to(time_ms)
    engine = live.orchestrator.engine
    rehearsal = Rehearsal(engine, time_ms, RULES["fcfs"])
    return rehearsal.give_up(count, list(engine.nodes.specs)), demand_of(engine).total


def _start_all(state: ClusterState) -> None:
    """Who waits starts, first come, first served, where it fits; nobody is being saved any more."""
    rows, nodes = state.rows, np.zeros(SHAPE.workers, np.int32)
    for record in state.running[0, : rows[0]["running_len"]].copy():
        if state.job[0, record["job"]]["state"] == JobCode.CHECKPOINTING:
            saved, now_ms = int(EventKind.CHECKPOINTED), int(rows[0]["now_ms"])
            entry.apply_event(rows, 0, now_ms, saved, int(record["job"]))
    entry.open_point(rows, 0)
    for record in state.queue[0, : rows[0]["queue_len"]].copy():
        place, best = int(ActionKind.PLACE), int(Placement.BEST_FIT)
        entry.commit(rows, 0, place, int(record["job"]), best, nodes)


def _workers(state: ClusterState) -> NDArray[np.int64]:
    """Workers of each job, but for those that elastic ones have beyond what they asked for."""
    now, ask = state.job[0]["workers_now"].astype(np.int64), state.request[0]
    return np.where(ask["elastic"], np.minimum(now, ask["workers"]), now)


@pytest.mark.property
@given(case=cases(commitment=False), moment=st.integers(0, 100), count=st.integers(1, 3))
def test_a_live_fleet_gives_up_nodes_whose_work_fits_elsewhere(
    case: Case, moment: int, count: int
) -> None:
    """As a simulated fleet does, the cheapest first, but for those whose work does not fit."""
    assume(case.jobs)
    rests = _rests(case)
    assume(len(rests) > 1)
    time_ms = sorted(rests)[moment % (len(rests) - 1)]
    row = rests[time_ms]
    left, demand = asyncio.run(_left_live(Live(case), time_ms, count))
    _, held, waiting = read_demand(row.rows, 0)
    assert round(1000 * demand) == held + waiting
    _start_all(row)
    cheapest = allocate(row.shape)
    entry.copy_row(row.rows, 0, cheapest.rows, 0)
    for name in left:
        before = _workers(row)
        n, now_ms = int(name.removeprefix("node-")), int(row.rows[0]["now_ms"])
        entry.apply_event(row.rows, 0, now_ms, int(EventKind.NODE_DRAIN), n)
        _start_all(row)
        assert row.node[0, n]["state"] == NodeCode.ABSENT
        assert (_workers(row) >= before).all()
    up, before = cheapest.node[0]["state"] == NodeCode.UP, _workers(cheapest)
    if scale_capacity(cheapest.rows, 0, -1) != Reason.OK:
        assert left == []
        return
    (n,) = np.flatnonzero(up & (cheapest.node[0]["state"] != NodeCode.UP))
    _start_all(cheapest)
    if (_workers(cheapest) >= before).all():
        assert left[0] == f"node-{n}"
    else:
        assert f"node-{n}" not in left[:1]
