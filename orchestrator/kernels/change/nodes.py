"""Life of a node: ordered, received, failed, repaired, drained, given up.

Nodes that may be ordered are described in the node table from the start, as ``ABSENT``. An order
makes one ``PROVISIONING``; it arrives ``provision_ms`` later as an event of the row's timeline.
The delay is constant, so the nodes on order wait in a ring, first ordered, first to come.

The *fleet* is what is here and serving or on its way: nodes up or provisioning. A node that is
down is broken, and one that is draining is leaving: neither counts, so both can be replaced.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.change.hold import touch_node
from orchestrator.kernels.change.jobs import (
    begin_preemption,
    drop_workers_on,
    interrupt_job,
    interruption_cost,
)
from orchestrator.kernels.change.log import node_effect, record
from orchestrator.kernels.lang.jit import entry, kernel, small_kernel
from orchestrator.kernels.place.fit import least_workers
from orchestrator.kernels.place.slots import free_units, node_units, units_of
from orchestrator.kernels.state.access import arrival, job, node, request, running, worker
from orchestrator.kernels.state.codes import EffectKind, JobCode, JobKind, LogKind, NodeCode, Reason

__all__ = [
    "capacity_reason",
    "cost_rate",
    "count_fleet",
    "drain_node",
    "fail_node",
    "give_up_nodes",
    "is_paid",
    "job_on_node",
    "leave_nodes",
    "receive_node",
    "recover_node",
    "register_node",
    "retire_if_empty",
    "scale_capacity",
    "set_node_state",
    "survives_without",
]


@small_kernel
def is_paid(state):
    """Whether a node costs its price: from the order until it has left, but not while it is down.

    Most of the provisioning delay is boot and start-up of a machine that is billed already, and
    an order that costs nothing until it arrives would be free to make and to cancel.
    """
    return state == NodeCode.UP or state == NodeCode.DRAINING or state == NodeCode.PROVISIONING


@kernel
def cost_rate(row):
    """Price per hour of all nodes that are paid for, recounted from the table, thousandths."""
    rate = np.int64(0)
    for n in range(row.num_nodes):
        if is_paid(node(row, n).state):
            rate += node(row, n).price_milli
    return rate


@kernel
def set_node_state(row, n, state):
    """Change a node's state; capacity, free or not, counts on nodes that are up only."""
    was_up = node(row, n).state == NodeCode.UP
    is_up = state == NodeCode.UP
    if was_up and not is_up:
        row.capacity_units -= node_units(row, n)
        row.free_units -= free_units(row, n)
    elif is_up and not was_up:
        row.capacity_units += node_units(row, n)
        row.free_units += free_units(row, n)
    if is_paid(node(row, n).state):
        row.cost_rate_milli -= node(row, n).price_milli
    if is_paid(state):
        row.cost_rate_milli += node(row, n).price_milli
    node(row, n).state = np.uint8(state)
    touch_node(row, n)
    record(row, LogKind.NODE_STATE, n, state)
    if state == NodeCode.ABSENT:
        node_effect(row, EffectKind.RELEASE, n)


@kernel
def job_on_node(row, j, n):
    """Whether any worker of a placed job is on node ``n``."""
    for w in range(job(row, j).workers_now):
        if worker(row, j, w).node == n:
            return True
    return False


@kernel
def survives_without(row, j, n):
    """Whether a service keeps replicas enough when those on node ``n`` are gone."""
    if request(row, j).kind != JobKind.SERVICE or job(row, j).state != JobCode.RUNNING:
        return False
    left = 0
    for w in range(job(row, j).workers_now):
        if worker(row, j, w).node != n:
            left += 1
    return left >= least_workers(row, j)


@kernel
def fail_node(row, n):
    """A node fails: every gang with a worker on it is interrupted as a whole."""
    state = node(row, n).state
    if state != NodeCode.UP and state != NodeCode.DRAINING:
        return  # it is not here, or has failed already
    node(row, n).failures += 1
    k = np.int64(0)
    while k < row.running_len:
        j = running(row, k).job
        if not job_on_node(row, j, n):
            k += 1
        elif survives_without(row, j, n):
            job(row, j).interruptions += 1
            row.interruptions += 1
            drop_workers_on(row, j, n)  # lists it anew, perhaps further on
        else:
            workers = job(row, j).workers_now
            interrupt_job(row, j)  # unlists it: the next entry moves into this place
            leave_nodes(row, j, workers)
    if state == NodeCode.DRAINING:
        retire_if_empty(row, n)  # it was on its way out: it does not come back
    else:
        set_node_state(row, n, NodeCode.DOWN)


@kernel
def recover_node(row, n):
    """A node that was down comes back, empty."""
    if node(row, n).state == NodeCode.DOWN:
        set_node_state(row, n, NodeCode.UP)


@kernel
def register_node(row, n):
    """A node joins (its description is already in the table)."""
    if node(row, n).state == NodeCode.ABSENT:
        set_node_state(row, n, NodeCode.UP)


@kernel
def retire_if_empty(row, n):
    """A draining node leaves when its last worker has."""
    if node(row, n).state == NodeCode.DRAINING and node(row, n).workers == 0:
        set_node_state(row, n, NodeCode.ABSENT)


@kernel
def leave_nodes(row, j, workers):
    """A job has left its nodes: those that were waiting for that retire."""
    for w in range(workers):
        retire_if_empty(row, worker(row, j, w).node)


@kernel
def drain_node(row, n):
    """Take a node out of service: its jobs are checkpointed and queue again, replicas just end."""
    state = node(row, n).state
    if state == NodeCode.DOWN:
        set_node_state(row, n, NodeCode.ABSENT)
        return
    if state != NodeCode.UP:
        return
    set_node_state(row, n, NodeCode.DRAINING)
    # Preempting removes or moves the entry at k, so that another one takes its place: look again.
    k = np.int64(0)
    while k < row.running_len:
        j = running(row, k).job
        if job(row, j).state == JobCode.RUNNING and job_on_node(row, j, n):
            if survives_without(row, j, n):
                drop_workers_on(row, j, n)
            else:
                begin_preemption(row, j)
        else:
            k += 1
    retire_if_empty(row, n)


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


@entry
def give_up_nodes(
    rows: NDArray[np.void], e: int, empty_only: bool, nodes: NDArray[np.int32]
) -> int:
    """Give up the nodes that cost least to empty, up to [nodes] of them; how many they were.

    ``nodes``, int32 [as many as are wanted], is filled with them; with ``empty_only`` they are
    nodes without work. One goes after the other: a gang that is being saved for the sake of one is
    not counted for the next.
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
    """Order ``delta`` nodes, or give up ``-delta``: all of it or nothing; a ``Reason``.

    Ordered are the absent nodes of lowest index. Given up are nodes on order, the last ordered
    first, then empty nodes, then, of those whose jobs may all be preempted, those that cost least
    to empty: they drain, and their jobs are checkpointed and queue again. No other node is touched.
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
