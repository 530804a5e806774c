"""A live cluster's scheduling cycle: what a rule does until it waits, and plans carried out.

A plan is a table of actions, int64 [n, 3]: (``ActionKind``, job, value), as
:func:`~orchestrator.kernels.decide.commit.commit` takes them; a place that is left open to the job
has the value :data:`OPEN_PLACE`.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.decide.commit import commit
from orchestrator.kernels.decide.elastic import elastic_action
from orchestrator.kernels.decide.legal import decision_open, placement_reason
from orchestrator.kernels.decide.rules import ask_rule, follow, keeps_order, next_in_order
from orchestrator.kernels.decide.rules import rank_queue as _rank_queue
from orchestrator.kernels.lang.jit import entry, kernel
from orchestrator.kernels.place.generate import are_alike, close_place
from orchestrator.kernels.run.rows import settle, wait
from orchestrator.kernels.state.codes import ActionKind, Placement, Reason, Status

__all__ = [
    "OPEN_PLACE",
    "Desk",
    "carry_out",
    "make_desk",
    "play_rule",
    "rank_queue",
    "wished_place",
]


Rows: TypeAlias = NDArray[np.void]


OPEN_PLACE = -1
"""Value of a placement that leaves the place to the job: best fit, or what it wishes for."""


_OK = int(Reason.OK)


class Desk(NamedTuple):
    """What plans are made and carried out with, besides the row; J jobs, N nodes, W workers."""

    aware: NDArray[np.bool_]  # [J] which jobs are topology-aware
    links: NDArray[np.uint8]  # [N] how good each node's links are
    line: NDArray[np.int64]  # [J] scratch: who may still start
    nodes: NDArray[np.int32]  # [W] scratch
    jobs: NDArray[np.int32]  # [max(J, W)] scratch


def make_desk(aware: NDArray[np.bool_], links: NDArray[np.uint8], jobs: int, workers: int) -> Desk:
    """Allocate what plans for a row of so many jobs, of so many workers each, are made with."""
    return Desk(
        aware=aware,
        links=links,
        line=np.zeros(jobs, np.int64),
        nodes=np.zeros(workers, np.int32),
        jobs=np.zeros(max(jobs, workers), np.int32),
    )


@entry
def rank_queue(
    rows: Rows,
    e: int,
    rules: NDArray[np.void],
    tiers: NDArray[np.float64],
    scores: NDArray[np.float64],
) -> int:
    """Write each waiting job's tier and score; 1 if the queue is in their order already."""
    return int(_rank_queue(rows[e], rules[0], tiers, scores))


@kernel
def _wish(row, j, alike, desk):
    """Where job ``j`` goes if nobody else minds."""
    if j < 0 or j >= row.num_jobs or not desk.aware[j]:
        return np.int64(Placement.BEST_FIT)
    return np.int64(close_place(row, j, desk.links, alike))


@entry
def wished_place(rows: Rows, e: int, j: int, desk: Desk) -> int:
    """Where a job goes if nobody else minds: a ``Placement``, or ``NODE_CHOICE`` and a node."""
    row = rows[e]
    return int(_wish(row, np.int64(j), are_alike(row, desk.links), desk))


@kernel
def _ask_rule(row, rule, line, start, desk):
    """What a rule does now, as ``decide.rules.ask_rule`` says it, and the new ``start``.

    ``start`` below 0: the order of those who wait is not settled beforehand.
    """
    if start < 0:
        kind, j, value, tries = ask_rule(row, rule, desk.jobs)
        return kind, j, value, tries, np.int64(start)
    kind, j, start = next_in_order(row, rule, line, start)
    value = np.int64(rule.placement)
    if kind == ActionKind.WAIT and rule.elastic != 0:
        kind, j, value = elastic_action(row, rule, desk.jobs)
    return kind, j, value, np.int64(0), start


@kernel
def _line_up(order, desk):
    """Everybody who waits may start."""
    for i in range(len(order)):
        desk.line[i] = order[i]


@entry
def play_rule(
    rows: Rows,
    e: int,
    rules: NDArray[np.void],
    order: NDArray[np.int64],
    actions: NDArray[np.int64],
    desk: Desk,
) -> int:
    """Play a rule until it waits, or ``actions`` is full; how many actions it took.

    The row is at a decision point and is changed: it is a copy, and what is written into
    ``actions`` is the plan for the original. ``rules`` are two records, the rule and room for a
    variant of it. ``order`` holds the waiting jobs in the order in which the rule serves them; it
    is not read where that changes with every start. An action that is refused ends the plan: it is
    part of it only if it is the first one.
    """
    row, rule = rows[e], rules[0]
    alike = are_alike(row, desk.links)
    line, start = desk.line[: len(order)], np.int64(0 if keeps_order(row, rule) else -1)
    if start == 0:
        _line_up(order, desk)
    count = 0
    while count < len(actions):
        kind, j, value, tries, start = _ask_rule(row, rule, line, start, desk)
        choice = value
        if kind == ActionKind.PLACE and value == Placement.BEST_FIT:
            # It has no wishes of its own, unless the job's own would take room kept for another.
            choice, value = _wish(row, j, alike, desk), np.int64(OPEN_PLACE)
            if choice != Placement.BEST_FIT and rule.reservation != 0 and tries > 0:
                rules[1]["placement"] = choice
                again, other, _, _, start = _ask_rule(row, rules[1], line, start, desk)
                if again != kind or other != j:
                    choice = value = np.int64(Placement.BEST_FIT)
        if kind != ActionKind.PLACE and kind != ActionKind.PREEMPT and not decision_open(row):
            break
        actions[count, 0], actions[count, 1], actions[count, 2] = kind, j, value
        count += 1
        if kind == ActionKind.WAIT:
            break
        if follow(row, kind, j, choice, desk.nodes) != Reason.OK:
            return max(count - 1, 1)
        if start >= 0 and kind != ActionKind.PLACE:  # there is more room than before
            _line_up(order, desk)
            start = np.int64(0)
    return count


@kernel
def _settle(rows, e, kind, j, desk):
    """Settle the row; the ``Status``. What is done next tells that there is something to do."""
    row = rows[e]
    if kind == ActionKind.PLACE and row.commitment == 0 and row.point_open != 0:
        if 0 <= j < row.num_jobs and placement_reason(row, j) == Reason.OK:
            return np.int64(Status.DECISION)
    return np.int64(settle(rows, e, desk.nodes))


@entry
def carry_out(
    rows: Rows, e: int, actions: NDArray[np.int64], first: int, effects: int, desk: Desk
) -> tuple[int, int, int]:
    """Carry out a plan from its action ``first`` on; (actions done, ``Reason``, ``Status``).

    It stops at the first action that is refused, with the reason, and before one that finds the
    row's effects more than ``effects`` in number (below 0: whatever they are): somebody has to read
    them first.
    """
    row, alike = rows[e], are_alike(rows[e], desk.links)
    status = np.int64(Status.DONE)
    for k in range(first, len(actions)):
        if k > first and 0 <= effects < row.effect_count:
            return int(k), _OK, int(status)
        kind, j, value = actions[k, 0], actions[k, 1], actions[k, 2]
        if kind == ActionKind.WAIT:  # legal even where nothing is left to wait for
            wait(rows, e)
        else:
            if kind == ActionKind.PLACE and value == OPEN_PLACE:
                value = _wish(row, j, alike, desk)
            reason = commit(row, kind, j, value, desk.nodes)
            if reason != Reason.OK:
                return int(k), int(np.int64(reason)), int(status)
        if k + 1 < len(actions):
            status = _settle(rows, e, actions[k + 1, 0], actions[k + 1, 1], desk)
        else:
            status = np.int64(settle(rows, e, desk.nodes))
    return len(actions), _OK, int(status)
