"""Order nodes and give them up: the fleet grows after a delay, and shrinks where least is lost.

Nodes that may be ordered are described in the node table from the start, as ``ABSENT``. An order
makes one ``PROVISIONING``; it arrives ``provision_ms`` later as an event of the row's timeline.
The delay is constant, so the nodes on order wait in a ring, first ordered, first to come.

The *fleet* is what is here and serving or on its way: nodes up or provisioning. A node that is
down is broken, and one that is draining is leaving: neither counts, so both can be replaced.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.codes import JobCode, NodeCode, Reason
from orchestrator.kernels.jit import kernel, small_kernel
from orchestrator.kernels.tables import arrival, job, node, request, running, worker
from orchestrator.kernels.transition.nodes import (
    drain_node,
    job_on_node,
    set_node_state,
    survives_without,
)
from orchestrator.kernels.transition.progress import interruption_cost, units_of

__all__ = [
    "capacity_reason",
    "count_fleet",
    "give_up_nodes",
    "receive_node",
    "scale_capacity",
]


@kernel
def count_fleet(row):
    """Nodes that are up or on order."""
    count = np.int64(row.arrival_len)
    for n in range(row.num_nodes):
        if node(row, n).state == NodeCode.UP:
            count += 1
    return count


@kernel
def _count_absent(row):
    count = np.int64(0)
    for n in range(row.num_nodes):
        if node(row, n).state == NodeCode.ABSENT:
            count += 1
    return count


@kernel
def _may_empty(row, n):
    """Whether a node that is up holds only jobs that may be preempted, or are being saved."""
    if node(row, n).state != NodeCode.UP:
        return False
    if node(row, n).workers == 0:
        return True
    for k in range(row.running_len):
        j = running(row, k).job
        stays = request(row, j).preemptible == 0 and job(row, j).state != JobCode.CHECKPOINTING
        if stays and job_on_node(row, j, n):
            return False
    return True


@kernel
def _count_spare(row, wanted):
    """Nodes that could be given up; counting stops when ``wanted`` are found.

    The cheap looks come first: only if nodes on order and empty nodes are too few does every
    running job have to be asked whether it may be preempted.
    """
    count = np.int64(row.arrival_len)
    for n in range(row.num_nodes):
        if node(row, n).state == NodeCode.UP and node(row, n).workers == 0:
            count += 1
    n = np.int64(0)
    while count < wanted and n < row.num_nodes:
        if node(row, n).workers > 0 and _may_empty(row, n):
            count += 1
        n += 1
    return count


@kernel
def capacity_reason(row, delta):
    """Whether ``delta`` nodes may be ordered (given up, if negative) now: a ``Reason``.

    ``NO_NODES`` if the table describes too few absent nodes, too few nodes can be given up, or
    the fleet would leave ``min_nodes`` .. ``max_nodes``. A fleet that failures have brought below
    ``min_nodes`` may still grow towards it. A change by 0 is an ``UNKNOWN_ACTION``.
    """
    if delta == 0:
        return Reason.UNKNOWN_ACTION
    fleet = count_fleet(row) + delta
    if delta > 0:
        if row.max_nodes > 0 and fleet > row.max_nodes:
            return Reason.NO_NODES
        if _count_absent(row) < delta:
            return Reason.NO_NODES
        return Reason.OK
    if fleet < row.min_nodes or _count_spare(row, -delta) < -delta:
        return Reason.NO_NODES
    return Reason.OK


@kernel
def _order_node(row, n):
    node(row, n).arrive_ms = row.now_ms + row.provision_ms
    set_node_state(row, n, NodeCode.PROVISIONING)
    row.arrival_len += 1
    arrival(row, row.arrival_len - 1).node = np.int64(n)


@small_kernel
def _cancel_last_order(row):
    """The node that was ordered last, and is furthest away, does not come."""
    n = np.int64(arrival(row, row.arrival_len - 1).node)
    row.arrival_len -= 1
    set_node_state(row, n, NodeCode.ABSENT)


@kernel
def _replicas_loss(row, j, n):
    """What the replicas of a service on node ``n`` cost until others have started elsewhere."""
    here = np.int64(0)
    for w in range(job(row, j).workers_now):
        if worker(row, j, w).node == n:
            here += 1
    return np.float64(request(row, j).restart_ms) * units_of(row, j, here)


@kernel
def _emptying_cost(row, n):
    """What giving up node ``n`` interrupts, capacity units x ms; a gang counts once, and whole.

    Jobs that are being saved leave anyway. Of services that keep replicas enough, only those on the
    node are lost.
    """
    cost = 0.0
    for k in range(row.running_len):
        j = np.int64(running(row, k).job)
        if job(row, j).state != JobCode.RUNNING or not job_on_node(row, j, n):
            continue
        if survives_without(row, j, n):
            cost += _replicas_loss(row, j, n)
        else:
            cost += interruption_cost(row, j)
    return cost


@kernel
def _cheapest_to_empty(row, empty_only):
    """The node that costs least to empty, or -1: of equals that with fewest workers, the last one.

    Nodes without workers cost nothing, and go before all others.
    """
    best, fewest, least = np.int64(-1), np.int64(0), 0.0
    for n in range(row.num_nodes):
        workers = np.int64(node(row, n).workers)
        if workers > 0 and (empty_only or (best >= 0 and fewest == 0)):
            continue
        if not _may_empty(row, n):
            continue
        cost = _emptying_cost(row, n) if workers > 0 else 0.0
        if best < 0 or cost < least or (cost == least and workers <= fewest):
            best, fewest, least = np.int64(n), workers, cost
    return best


@kernel
def give_up_nodes(
    rows: NDArray[np.void], e: int, empty_only: bool, nodes: NDArray[np.int32]
) -> int:
    """Give up the nodes of row ``e`` that cost least to empty, as many as may be, up to [nodes].

    One after the other: a gang that is being saved for the sake of one is not counted for the next.

    Parameters
    ----------
    rows : ROW_DTYPE [envs]
    e : int
        Row.
    empty_only : bool
        Only nodes without work.
    nodes : int32 [count]
        As many as are wanted; filled with those that were given up.

    Returns
    -------
    int
        How many were.
    """
    row = rows[e]
    count = 0
    while count < nodes.shape[0]:
        n = _cheapest_to_empty(row, empty_only)
        if n < 0:
            break
        drain_node(row, n)
        nodes[count] = np.int32(n)
        count += 1
    return count


@kernel
def scale_capacity(row, delta):
    """Order ``delta`` nodes, or give up ``-delta``: all of it or nothing.

    Ordered are the absent nodes of lowest index. Given up are nodes on order, the last ordered
    first, then empty nodes, then, of those whose jobs may all be preempted, those that cost least
    to empty: they drain, and their jobs are checkpointed and queue again. No other node is touched.

    Returns
    -------
    int
        A ``Reason``; unless it is ``OK``, nothing has changed.
    """
    reason = capacity_reason(row, delta)
    if reason != Reason.OK:
        return reason
    row.scaled_ms = row.now_ms
    row.scaled_by = delta
    n = np.int64(0)
    while delta > 0:
        if node(row, n).state == NodeCode.ABSENT:
            _order_node(row, n)
            delta -= 1
        n += 1
    while delta < 0:
        if row.arrival_len > 0:
            _cancel_last_order(row)
        else:
            n = _cheapest_to_empty(row, False)
            if n < 0:
                raise RuntimeError("fewer nodes can be given up than were counted")
            drain_node(row, n)
        delta += 1
    return reason


@kernel
def receive_node(row, n):
    """A node on order is here."""
    if node(row, n).state == NodeCode.PROVISIONING:
        set_node_state(row, n, NodeCode.UP)
