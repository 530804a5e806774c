"""Lookahead: the best few actions of a player, each tried in the same futures.

At a decision point the row is forked. The player's best actions are carried out on copies of the
fork, in futures that are common to all of them (:mod:`orchestrator.kernels.run.futures`), and each
is rolled on until nothing is left to happen. Another action than the player's own is taken if, over
the futures, its mean gain exceeds so many of its own standard errors, and a share of the cost.
Gains are paired, so that what a future costs whatever is done cancels out.

Actions with the same outcome, such as two placements on the same node, are tried once. One that is
behind by more than its error after two futures or more is tried no further, and where none is left
the player's own is taken at once: most decisions are clear.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.change.episode import (
    copy_row,
    expect_nobody,
    expect_somebody,
    fork_row,
    renew_row,
)
from orchestrator.kernels.change.events import close_point, finish_episode
from orchestrator.kernels.decide.advance import advance
from orchestrator.kernels.decide.commit import commit
from orchestrator.kernels.decide.rules import replay
from orchestrator.kernels.lang.jit import deep_entry, kernel, small_kernel
from orchestrator.kernels.run.futures import Past, draw_future
from orchestrator.kernels.run.roll import (
    Player,
    Until,
    action_limit,
    forget_nodes_seen,
    prepare,
    rank,
    roll,
    set_out,
)
from orchestrator.kernels.see.metrics import cost
from orchestrator.kernels.state.access import queue
from orchestrator.kernels.state.codes import NO_JOB, ActionKind, Placement, Reason, Status
from orchestrator.kernels.state.row import ClusterShape, ClusterState, allocate

__all__ = [
    "Planner",
    "Room",
    "Tally",
    "Trial",
    "fork_shape",
    "make_room",
    "think_ahead",
]

Rows: TypeAlias = NDArray[np.void]


class Trial(NamedTuple):
    """How actions are tried."""

    futures: int
    errors: float  # standard errors of the mean gain that it must exceed
    margin: float  # and share of the cost of the player's own action
    weights: NDArray[np.float64]  # [len(Metric)] cost of one unit of each metric


class Planner(NamedTuple):
    """Who thinks ahead: whose actions are tried, who plays on, in which futures, and how."""

    base: Player
    roller: Player | None  # None: the base
    past: Past
    trial: Trial


class Room(NamedTuple):
    """Memory of one thread that thinks ahead; K actions, F futures, J jobs of a row."""

    rows: Rows  # [3] the fork, the fork in a future, and one in which an action was taken
    place: NDArray[np.int32]  # [J] where each job of the row is in the fork, or -1
    kept: NDArray[np.int32]  # [J + arrivals] jobs of the fork
    found: NDArray[np.int64]  # [K, 3] actions that were tried, the player's own first
    costs: NDArray[np.float64]  # [K, F] of each in each future; inf: it cannot be taken
    marks: NDArray[np.uint64]  # [K, 2] what each came to at once
    gains: NDArray[np.float64]  # [K] mean over the futures
    margins: NDArray[np.float64]  # [K] what the gain must exceed


class Tally(NamedTuple):
    """Counts of one playing, int64 [1] each."""

    decisions: NDArray[np.int64]
    tried: NDArray[np.int64]  # those at which there was something to try
    switched: NDArray[np.int64]  # those at which another action was taken


_FORK, _FUTURE, _TRIAL = 0, 1, 2
_ROUNDING = 1e-9  # costs that differ by less of them are equal: sums depend on their order


def fork_shape(shape: ClusterShape, arrivals: int) -> ClusterShape:
    """Shape of the rows in which rows of a shape are thought ahead."""
    return replace(
        shape, envs=3, jobs=shape.jobs + arrivals, incidents=shape.nodes, log=0, effects=0
    )


def make_room(
    shape: ClusterShape, actions: int, futures: int, arrivals: int
) -> tuple[Room, ClusterState]:
    """Allocate room for thinking ahead on rows of a shape.

    The second result owns the memory of the first one's rows, and has to be kept as long.
    """
    state = allocate(fork_shape(shape, arrivals))
    room = Room(
        rows=state.rows,
        place=np.zeros(shape.jobs, np.int32),
        kept=np.zeros(state.shape.jobs, np.int32),
        found=np.zeros((actions, 3), np.int64),
        costs=np.zeros((actions, futures)),
        marks=np.zeros((actions, 2), np.uint64),
        gains=np.zeros(actions),
        margins=np.zeros(actions),
    )
    return room, state


@small_kernel
def _subject(kept, kind, j):
    """The job of the row that a fork's action is about."""
    about_job = kind != ActionKind.WAIT and kind != ActionKind.CAPACITY
    if about_job and kind != ActionKind.SERVICE and j >= 0:
        return np.int64(kept[j])
    return np.int64(j)


@kernel
def _roll(row, base, roller):
    if roller is not None:
        forget_nodes_seen(roller)
        return roll(row, roller, np.int64(Until.DRAINED), np.int64(NO_JOB))
    forget_nodes_seen(base)
    return roll(row, base, np.int64(Until.DRAINED), np.int64(NO_JOB))


@kernel
def _prepare_roller(row, roller):
    if roller is not None:
        prepare(row, roller, 0)


@kernel
def _prepare_arrivals(row, base, roller, first):
    if roller is not None:
        prepare(row, roller, first)
    else:
        prepare(row, base, first)


@kernel
def _is_new(room, a, trial):
    """Whether an action that was just taken came to something else than those before it."""
    room.marks[a, 0] = trial.log_hash
    room.marks[a, 1] = np.uint64(trial.committed + 1)
    for b in range(a):
        same = room.marks[b, 0] == room.marks[a, 0] and room.marks[b, 1] == room.marks[a, 1]
        if same and room.costs[b, 0] < np.inf:
            return False
    return True


@kernel
def _try_all(future, planner, room, count, f):
    """What each action costs in a future."""
    row, nodes, fresh = room.rows[_TRIAL], planner.base.nodes, True
    for a in range(count):
        if f > 0 and room.costs[a, f - 1] == np.inf:
            room.costs[a, f] = np.inf
            continue
        if fresh:
            copy_row(future, row)
            fresh = False
        else:
            renew_row(future, row)
        kind, j, value = room.found[a, 0], room.found[a, 1], room.found[a, 2]
        legal = commit(row, kind, j, value, nodes) == Reason.OK
        room.costs[a, f] = np.inf
        if legal and (f > 0 or _is_new(room, a, row)):
            _roll(row, planner.base, planner.roller)
            room.costs[a, f] = cost(row, planner.trial.weights)


@kernel
def _weigh(room, a, futures, trial):
    """Note an action's mean gain over some futures, and what it must exceed.

    Its standard error, and what is nothing but rounding. A gain in one future alone, and none in
    the others, is equal to its error: without the latter, rounding would decide there.
    """
    own, mean, square = 0.0, 0.0, 0.0
    for f in range(futures):
        own += room.costs[0, f] / futures
        mean += (room.costs[0, f] - room.costs[a, f]) / futures
    for f in range(futures):
        square += (room.costs[0, f] - room.costs[a, f] - mean) ** 2
    error = math.sqrt(square / max(futures - 1, 1) / futures)
    room.gains[a] = mean
    rounding = _ROUNDING * abs(own)
    room.margins[a] = trial.errors * error + trial.margin * abs(own) + rounding
    return error, rounding


@kernel
def _drop(room, count, futures, trial):
    """Give up actions that are behind by more than an error after some futures; how many are left.

    What they are worth is noted, and their last cost is no more.
    """
    left = 0
    for a in range(1, count):
        if room.costs[a, futures - 1] == np.inf:
            continue
        error, rounding = _weigh(room, a, futures, trial)
        if room.gains[a] + max(trial.errors, 1.0) * error < -rounding:
            room.costs[a, futures - 1] = np.inf
        else:
            left += 1
    return left


@kernel
def _choose(room, count, trial):
    """Which action is taken: the one of the highest mean gain, if that is enough."""
    taken, most = np.int64(0), 0.0
    for a in range(1, count):
        if room.costs[a, trial.futures - 1] == np.inf:
            continue
        _, rounding = _weigh(room, a, trial.futures, trial)
        if room.gains[a] > room.margins[a] and room.gains[a] > most + rounding:
            taken, most = np.int64(a), room.gains[a]
    return taken


@kernel
def _try_in_futures(row, planner, room, jobs, count):
    """Try the actions that were found in all futures, as long as any is left to try."""
    forked, future = room.rows[_FORK], room.rows[_FUTURE]
    for a in range(count):
        room.gains[a], room.margins[a] = -np.inf if a > 0 else 0.0, 0.0
    for f in range(planner.trial.futures):
        copy_row(forked, future)
        draw_future(row, future, planner.past, np.int64(f))
        _prepare_arrivals(future, planner.base, planner.roller, jobs)
        _try_all(future, planner, room, count, f)
        if f > 0 and _drop(room, count, f + 1, planner.trial) == 0:
            return np.int64(0)
    return _choose(room, count, planner.trial)


@kernel
def _rank_fork(forked, base, ranker, found, coming):
    """The best few actions at a fork; who may wait sees whether anybody is still to come."""
    if ranker is None:
        if coming:
            expect_somebody(forked)
            prepare(forked, base, forked.num_jobs - 1)
            count = rank(forked, base, found)
            expect_nobody(forked)
            return count
    return rank(forked, base, found)


@kernel
def look_ahead(row, planner, room):
    """Number of the action of ``room.found`` to take at the decision point of a row, and of all.

    The actions are as :func:`~orchestrator.kernels.decide.commit.commit` takes them. If there are
    none, the player sees nothing to choose and goes on.
    """
    forked = room.rows[_FORK]
    jobs = fork_row(row, forked, room.place, room.kept)
    prepare(forked, planner.base, 0)
    forget_nodes_seen(planner.base)
    coming = row.next_arrival < row.num_jobs
    count = _rank_fork(forked, planner.base, planner.base.ranker, room.found, coming)
    taken = np.int64(0)
    if count > 1:
        _prepare_roller(forked, planner.roller)
        taken = _try_in_futures(row, planner, room, jobs, count)
    for a in range(count):
        room.found[a, 1] = _subject(room.kept, room.found[a, 0], room.found[a, 1])
    return taken, count


# --- whole episodes ------------------------------------------------------------------------------


@kernel
def _set_out(planner_base, roller):
    set_out(planner_base)
    if roller is not None:
        set_out(roller)


@kernel
def _play(row, planner, room, tally):
    """Play a row to its end, thinking ahead at every decision that leaves a choice."""
    nodes = planner.base.nodes
    count, limit = np.int64(0), action_limit(planner.base.scorer)
    while advance(row, nodes) == Status.DECISION:
        if count == limit:
            replay(row, planner.base.rules[0], nodes, planner.base.jobs)
            break
        count += 1
        kind, j = np.int64(ActionKind.PLACE), np.int64(NO_JOB)
        value = np.int64(Placement.FIRST_FIT)
        if row.commitment != 0 and row.queue_len == 1:
            j = np.int64(queue(row, 0).job)
        else:
            taken, found = look_ahead(row, planner, room)
            if found == 0:
                close_point(row)
                continue
            tally.tried[0] += found > 1
            tally.switched[0] += taken > 0
            kind, j, value = room.found[taken, 0], room.found[taken, 1], room.found[taken, 2]
        tally.decisions[0] += 1
        if commit(row, kind, j, value, nodes) != Reason.OK:
            if kind == ActionKind.WAIT:
                finish_episode(row)
                break
            raise RuntimeError("an action that is legal in a fork is refused by its row")


@deep_entry
def think_ahead(
    rows: Rows, e: int, planner: Planner, room: Room, tally: Tally, whole: bool
) -> tuple[int, int]:
    """Which action to take at the decision point of a row: its number in ``room.found``.

    And how many there are: 0 if the player sees nothing to choose. ``whole``: the row, just begun,
    is played to its end instead, and ``tally`` counted up; the result is then (0, 0). One entry
    for both, since each is compiled with all that a player needs.
    """
    _set_out(planner.base, planner.roller)
    if whole:
        _play(rows[e], planner, room, tally)
        return 0, 0
    taken, count = look_ahead(rows[e], planner, room)
    return int(taken), int(count)
