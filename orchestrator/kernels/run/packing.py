"""Without a timeline: arrivals that are placed or turned away, and a single scheduling cycle."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.change.events import number_point, open_point
from orchestrator.kernels.change.hold import load_typical as _load_typical
from orchestrator.kernels.change.hold import load_uplinks as _load_uplinks
from orchestrator.kernels.change.jobs import admit_job, fail_waiting_job, start_job
from orchestrator.kernels.change.queue import queue_position
from orchestrator.kernels.change.timeline import advance_clock, pop_event
from orchestrator.kernels.decide.commit import commit
from orchestrator.kernels.decide.rules import rule_action
from orchestrator.kernels.lang.jit import entry, kernel, on_row
from orchestrator.kernels.place.generate import place_gang
from orchestrator.kernels.state.access import request
from orchestrator.kernels.state.codes import ActionKind, EventKind, Reason

__all__ = ["admit_arrivals", "load_typical", "load_uplinks", "pack_arrivals", "schedule"]


Rows: TypeAlias = NDArray[np.void]


load_typical: Callable[[Rows, int, NDArray[np.void]], None] = on_row(_load_typical)
"""``(pods)``: typical pods, TYPICAL_DTYPE [n], by which fragmentation is measured."""


load_uplinks: Callable[[Rows, int, NDArray[np.void]], None] = on_row(_load_uplinks)
"""``(uplinks)``: the racks' uplinks, UPLINK_DTYPE [racks]; nobody may run yet."""


@kernel
def _arrive(row, j):
    """Job ``j``, the next one, joins the queue; nothing else happens until then."""
    advance_clock(row, request(row, j).submit_ms)
    pop_event(row, np.int64(EventKind.ARRIVAL))
    admit_job(row, np.int64(j))


@entry
def pack_arrivals(
    rows: Rows,
    e: int,
    last: int,
    generator: int,
    nodes: NDArray[np.int32],
    free: NDArray[np.int64],
) -> int:
    """Place the jobs up to ``last`` (exclusive) one after the other, nobody leaves; how many fit.

    A job that cannot be placed when it arrives fails. Nothing happens but arrivals. ``free``, int64
    [>= last], is filled with the free capacity after each of them, in capacity units.
    """
    row = rows[e]
    count = 0
    for j in range(row.next_arrival, last):
        number_point(row, np.int64(j))
        _arrive(row, j)
        q = queue_position(row, np.int64(j))
        workers = place_gang(row, np.int64(j), np.int64(generator), nodes)
        if workers > 0 and start_job(row, q, nodes, workers, np.int64(generator)):
            count += 1
        else:
            fail_waiting_job(row, queue_position(row, np.int64(j)))
        free[j] = row.free_units
    return count


@entry
def admit_arrivals(rows: Rows, e: int, last: int) -> None:
    """Let the jobs of row ``e`` up to ``last`` (exclusive) join the queue, and open a point."""
    row = rows[e]
    for j in range(row.next_arrival, last):
        _arrive(row, j)
    open_point(row)


@entry
def schedule(
    rows: Rows,
    e: int,
    rules: NDArray[np.void],
    nodes: NDArray[np.int32],
    scratch: NDArray[np.int32],
) -> int:
    """One scheduling cycle: what a rule does until it waits; the number of placements.

    The row is at a decision point; the rule is not preemptive.
    """
    row = rows[e]
    count = 0
    while row.queue_len > 0:
        kind, j, value = rule_action(row, rules[0], scratch)
        if kind != ActionKind.PLACE:
            break
        if commit(row, kind, j, value, nodes) != Reason.OK:
            break
        count += 1
    return count
