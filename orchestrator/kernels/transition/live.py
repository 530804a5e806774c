"""Transitions that only a live cluster makes: nodes and jobs that nobody knew of beforehand.

An episode loads all its jobs at once and takes completions off its own event queue. A live row
starts empty, grows, and hears of completions from outside; what its event queue holds is then a
prediction, for what-ifs, and nothing here takes events off it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.advance import serve_commitment
from orchestrator.kernels.codes import EventKind, JobCode, NodeCode, Status
from orchestrator.kernels.decisions import decision_open
from orchestrator.kernels.feasibility import can_ever_fit
from orchestrator.kernels.jit import entry, kernel, on_row, small_kernel
from orchestrator.kernels.place.memo import forget_kind, forget_nodes
from orchestrator.kernels.slots import free_units, node_units, units_of
from orchestrator.kernels.tables import (
    copy_record,
    job,
    node,
    queue,
    request,
    running,
)
from orchestrator.kernels.transition.apply import apply_event
from orchestrator.kernels.transition.decide import close_point, count_decision
from orchestrator.kernels.transition.episode import load_job, load_tenants
from orchestrator.kernels.transition.jobs import (
    fail_waiting_job,
    interrupt_job,
)
from orchestrator.kernels.transition.layout import empty_node, sort_nodes
from orchestrator.kernels.transition.nodes import (
    cost_rate,
    drain_node,
    fail_node,
    leave_nodes,
    register_node,
)
from orchestrator.kernels.transition.progress import progress_now
from orchestrator.kernels.transition.queue import queue_position
from orchestrator.kernels.transition.tenants import recount_tenants
from orchestrator.kernels.transition.timeline import advance_clock

__all__ = [
    "admit_live_job",
    "begin_time",
    "complete_live_job",
    "could_ever_fit",
    "fail_live_job",
    "join_node",
    "lose_workers",
    "put_node",
    "put_tenants",
    "remove_node",
    "settle",
    "wait",
    "work_done",
]

Rows: TypeAlias = NDArray[np.void]


@entry
def begin_time(rows: Rows, e: int, time_ms: int) -> None:
    """Set the clock of a row in which nothing has happened yet."""
    rows[e].now_ms = time_ms


@kernel
def _recount(row):
    """Capacity and demand anew, from the tables: the capacity unit may have changed.

    Only a node that joins or is described anew can change it. Integrals over time that were
    counted in the former unit stay as they are.
    """
    gpus = 0
    for n in range(row.num_nodes):
        gpus += node(row, n).gpus
    row.unit = np.uint8(gpus > 0)
    row.capacity_units = 0
    row.nominal_units = 0
    row.nominal_gpu_milli = 0
    row.nominal_cpu_milli = 0
    row.nominal_memory_mib = 0
    row.free_units = 0
    for n in range(row.num_nodes):
        row.nominal_units += node_units(row, n)
        row.nominal_gpu_milli += np.int64(node(row, n).gpus) * 1000
        row.nominal_cpu_milli += node(row, n).cpu_cap_milli
        row.nominal_memory_mib += node(row, n).memory_cap_mib
        if node(row, n).state == NodeCode.UP:
            row.capacity_units += node_units(row, n)
            row.free_units += free_units(row, n)
    row.cost_rate_milli = cost_rate(row)
    for j in range(row.num_jobs):
        workers = np.int64(job(row, j).workers_now)  # of a placed job; others ask for theirs
        job(row, j).units = units_of(row, j, workers if workers > 0 else request(row, j).workers)
    recount_tenants(row)
    for k in range(row.running_len):
        running(row, k).units = job(row, running(row, k).job).units
    row.queued_unit_ms = 0
    for q in range(row.queue_len):
        j = queue(row, q).job
        row.queued_unit_ms += job(row, j).units * request(row, j).requested_ms


@kernel
def _describe_node(row, n, record):
    """Put a node's description into the table, with nobody on it."""
    copy_record(node(row, n), record)
    empty_node(row, n)
    sort_nodes(row)
    forget_nodes(row)


@entry
def put_node(rows: Rows, e: int, n: int, records: NDArray[np.void]) -> None:
    """Describe node ``n`` by ``records[0]`` (NODE_DTYPE), empty and in the record's state.

    Whoever was described there before must be gone or down, and nobody may be placed on it.
    """
    row = rows[e]
    if n < row.num_nodes and node(row, n).workers > 0:
        raise RuntimeError("a node with workers on it cannot be described anew")
    if n < row.num_nodes and node(row, n).state == NodeCode.PROVISIONING:
        raise RuntimeError("a node on order cannot be described anew")
    if n >= row.num_nodes:
        row.num_nodes = n + 1
    _describe_node(row, np.int64(n), records[0])
    _recount(row)


put_tenants: Callable[[Rows, int, NDArray[np.void]], None] = on_row(load_tenants)
"""``(records)``: give a row in which nothing has happened yet its tenants, TENANT_DTYPE [n]."""


@entry
def join_node(rows: Rows, e: int, time_ms: int, n: int) -> None:
    """A node that is described, but absent, joins."""
    advance_clock(rows[e], np.int64(time_ms))
    register_node(rows[e], np.int64(n))


@entry
def remove_node(rows: Rows, e: int, time_ms: int, n: int) -> None:
    """Take a node out at once: its jobs fall back to their last checkpoints and queue again."""
    row = rows[e]
    advance_clock(row, np.int64(time_ms))
    before = node(row, n).failures
    fail_node(row, np.int64(n))
    node(row, n).failures = before  # it was taken away, it did not fail
    drain_node(row, np.int64(n))


@entry
def could_ever_fit(rows: Rows, e: int, spare: int, asks: NDArray[np.void]) -> bool:
    """Whether a job that is not here would fit into the cluster if it were empty.

    ``spare`` is a row of the job table that no job ever gets: it holds the job for the moment.
    """
    load_job(rows[e], np.int64(spare), asks[0])
    forget_kind(rows[e], np.int64(spare))
    return bool(can_ever_fit(rows[e], np.int64(spare)))


@small_kernel
def _forget_job(row, j):
    """Take an ended job out of the counts of the jobs in the table, into those of the forgotten."""
    if job(row, j).state == JobCode.COMPLETED:
        row.completed_jobs -= 1
        row.forgotten_completed_jobs += 1
    elif job(row, j).state == JobCode.FAILED:
        row.failed_jobs -= 1
        row.forgotten_failed_jobs += 1
    else:
        raise RuntimeError("only a job that has ended can be forgotten")
    row.forgotten_preemptions += job(row, j).preemptions
    row.forgotten_interruptions += job(row, j).interruptions
    row.forgotten_resizes += job(row, j).resizes
    row.forgotten_migrations += job(row, j).migrations
    row.preemptions -= job(row, j).preemptions
    row.interruptions -= job(row, j).interruptions
    row.resizes -= job(row, j).resizes
    row.migrations -= job(row, j).migrations
    row.settled_excess -= job(row, j).excess
    forget_kind(row, j)


@entry
def admit_live_job(rows: Rows, e: int, time_ms: int, j: int, asks: NDArray[np.void]) -> None:
    """A job (``asks[0]``, REQUEST_DTYPE) arrives in row ``j`` of the job table.

    ``j`` is the next unused row, or that of a job that has ended and is forgotten hereby.
    """
    row = rows[e]
    advance_clock(row, np.int64(time_ms))
    if j < row.num_jobs:
        _forget_job(row, np.int64(j))
    else:
        row.num_jobs = j + 1
        row.next_arrival = j + 1
    load_job(row, np.int64(j), asks[0])
    apply_event(row, np.int64(EventKind.ARRIVAL), np.int64(j))


@entry
def complete_live_job(rows: Rows, e: int, time_ms: int, j: int) -> None:
    """A running job has done all its work, sooner or later than predicted, or on time."""
    row = rows[e]
    advance_clock(row, np.int64(time_ms))
    scale = max(request(row, j).duration_ms, row.slowdown_bound_ms)
    excess = max((row.now_ms - request(row, j).submit_ms) / scale - 1.0, 0.0)
    row.settled_excess += excess - job(row, j).excess
    job(row, j).excess = excess
    apply_event(row, np.int64(EventKind.COMPLETION), np.int64(j))


@small_kernel
def _lose(row, j):
    workers = job(row, j).workers_now
    interrupt_job(row, j)
    leave_nodes(row, j, workers)


@entry
def lose_workers(rows: Rows, e: int, time_ms: int, j: int) -> None:
    """The workers of a placed job are gone: it falls back to its last checkpoint and queues."""
    advance_clock(rows[e], np.int64(time_ms))
    _lose(rows[e], np.int64(j))


@entry
def fail_live_job(rows: Rows, e: int, time_ms: int, j: int) -> None:
    """A placed job has failed by itself: it gives up its resources, and is given up."""
    row = rows[e]
    advance_clock(row, np.int64(time_ms))
    _lose(row, np.int64(j))
    fail_waiting_job(row, queue_position(row, np.int64(j)))


@entry
def work_done(rows: Rows, e: int, j: int) -> int:
    """Work that a job has done by now, saved or not, ms."""
    row = rows[e]
    if job(row, j).state == JobCode.RUNNING:
        return int(progress_now(row, np.int64(j)))
    return int(job(row, j).progress_ms + job(row, j).unsaved_ms)


@entry
def wait(rows: Rows, e: int) -> None:
    """Nothing more is decided now. In a live cluster there is always something to wait for."""
    close_point(rows[e])
    count_decision(rows[e])


@entry
def settle(rows: Rows, e: int, nodes: NDArray[np.int32]) -> int:
    """What :func:`orchestrator.kernels.advance.advance` does at one instant: a ``Status``.

    The committed job starts if it fits, or the queue is backfilled around it. ``DECISION`` means
    that a point is open at which there is something to decide; ``DONE`` that there is not, until
    something happens.

    Parameters
    ----------
    rows : ROW_DTYPE [envs]
    e : int
        Row.
    nodes : int32 [>= workers]
        Scratch.
    """
    row = rows[e]
    if row.committed >= 0 and serve_commitment(row, nodes):
        return int(np.int64(Status.DONE))
    if row.point_open != 0:
        if decision_open(row):
            return int(np.int64(Status.DECISION))
        close_point(row)
    return int(np.int64(Status.DONE))
