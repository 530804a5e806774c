"""Changes of a node's state: failure, recovery, draining; and what that costs."""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.codes import EffectKind, JobCode, JobKind, LogKind, NodeCode
from orchestrator.kernels.feasibility import least_workers
from orchestrator.kernels.jit import kernel, small_kernel
from orchestrator.kernels.slots import free_units, node_units
from orchestrator.kernels.tables import job, node, request, running, worker
from orchestrator.kernels.transition.jobs import begin_preemption, interrupt_job
from orchestrator.kernels.transition.layout import touch_node
from orchestrator.kernels.transition.log import node_effect, record
from orchestrator.kernels.transition.regroup import drop_workers_on

__all__ = [
    "cost_rate",
    "drain_node",
    "fail_node",
    "job_on_node",
    "leave_nodes",
    "recover_node",
    "register_node",
    "retire_if_empty",
    "set_node_state",
    "survives_without",
]


@small_kernel
def _is_paid(state):
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
        if _is_paid(node(row, n).state):
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
    if _is_paid(node(row, n).state):
        row.cost_rate_milli -= node(row, n).price_milli
    if _is_paid(state):
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
