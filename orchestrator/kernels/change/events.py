"""Events and the decision points that they open: a row's own, and what live clusters report.

An episode loads all its jobs at once and takes completions off its own event queue. A live row
starts empty, grows, and hears of completions from outside; what its event queue holds is then a
prediction, for what-ifs, and nothing here takes events off it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.change.episode import load_job, load_tenants
from orchestrator.kernels.change.hold import empty_node, recount_tenants, sort_in
from orchestrator.kernels.change.jobs import (
    admit_job,
    complete_job,
    fail_waiting_job,
    finish_preemption,
    interrupt_job,
    progress_now,
)
from orchestrator.kernels.change.nodes import (
    cost_rate,
    drain_node,
    fail_node,
    is_paid,
    leave_nodes,
    receive_node,
    recover_node,
    register_node,
)
from orchestrator.kernels.change.queue import queue_position
from orchestrator.kernels.change.services import note_scaling as _note_scaling
from orchestrator.kernels.change.services import serve_tick
from orchestrator.kernels.change.services import tell_services as _tell_services
from orchestrator.kernels.change.timeline import advance_clock, next_event, pop_event
from orchestrator.kernels.lang.jit import entry, kernel, on_row, small_kernel
from orchestrator.kernels.lang.memory import copy_record
from orchestrator.kernels.place.fit import can_ever_fit
from orchestrator.kernels.place.memo import forget_kind, forget_nodes
from orchestrator.kernels.place.slots import free_units, node_units, units_of
from orchestrator.kernels.state.access import arrival, job, node, queue, request, running
from orchestrator.kernels.state.codes import NEVER, NO_JOB, EventKind, JobCode, NodeCode

__all__ = [
    "admit_live_job",
    "apply_event",
    "begin_time",
    "close_point",
    "commit_to",
    "complete_live_job",
    "could_ever_fit",
    "count_decision",
    "count_illegal",
    "date_back",
    "end_commitment",
    "fail_live_job",
    "finish_episode",
    "join_node",
    "lose_workers",
    "note_scaling",
    "number_point",
    "open_point",
    "put_node",
    "put_tenants",
    "remove_node",
    "show_fleet",
    "step_event",
    "tell_services",
    "work_done",
]

Rows: TypeAlias = NDArray[np.void]


_PRICE_MILLI = 1000  # of any node of a live cluster: nobody says what they cost


@small_kernel
def open_point(row):
    """Something happened: there may be something to decide."""
    row.point += 1
    row.point_open = 1
    row.preemptions_here = 0


@small_kernel
def number_point(row, number):
    """What is decided now is decision ``number``: for rows without a timeline."""
    row.point = number


@small_kernel
def close_point(row):
    """Nothing more is decided at this instant."""
    row.point_open = 0
    row.scaling_open = 0


@small_kernel
def commit_to(row, j, reservation_ms):
    """From now on the row waits for job ``j``, expected to fit at ``reservation_ms``."""
    row.committed = j
    row.reservation_ms = reservation_ms


@small_kernel
def end_commitment(row):
    """The committed job has started."""
    row.committed = NO_JOB


@small_kernel
def count_decision(row):
    """An action was carried out."""
    row.decisions += 1


@small_kernel
def count_illegal(row):
    """An action was refused; nothing else changed."""
    row.illegal_actions += 1


@small_kernel
def finish_episode(row):
    """Nothing is left to happen or to decide."""
    row.done = 1


@kernel
def apply_event(row, kind, subject):
    """Apply an event, an ``EventKind``, that happens now.

    ``subject`` is the job or node that it happens to; of a service tick: any.
    """
    if kind == EventKind.ARRIVAL:
        admit_job(row, subject)
    elif kind == EventKind.COMPLETION:
        workers = job(row, subject).workers_now
        complete_job(row, subject)
        leave_nodes(row, subject, workers)
    elif kind == EventKind.CHECKPOINTED:
        workers = job(row, subject).workers_now
        finish_preemption(row, subject)
        leave_nodes(row, subject, workers)
    elif kind == EventKind.NODE_RECOVERY:
        recover_node(row, subject)
    elif kind == EventKind.NODE_FAILURE:
        fail_node(row, subject)
    elif kind == EventKind.NODE_DRAIN:
        drain_node(row, subject)
    elif kind == EventKind.SERVICE_TICK:
        serve_tick(row)
    elif kind == EventKind.NODE_ARRIVAL:
        receive_node(row, subject)


@kernel
def step_event(row):
    """Take the next event of the row's own timeline and apply it; False if none was left."""
    time_ms, kind, subject = next_event(row)
    if kind == EventKind.NONE:
        return False
    advance_clock(row, time_ms)
    pop_event(row, kind)
    apply_event(row, kind, subject)
    return True


@entry
def begin_time(rows: Rows, e: int, time_ms: int) -> None:
    """Begin with a row in which nothing has happened yet."""
    rows[e].now_ms = rows[e].begin_ms = time_ms


@entry
def date_back(rows: Rows, e: int, time_ms: int) -> None:
    """Set the clock for something that happened earlier than it was heard of; or set it right."""
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
    forget_nodes(row)


@kernel
def _count_node(row, n, sign):
    """Count a node's capacity in (+1) or out (-1), as :func:`_recount` does of all."""
    units, paid = node_units(row, n), is_paid(node(row, n).state)
    row.nominal_units += sign * units
    row.nominal_gpu_milli += sign * np.int64(node(row, n).gpus) * 1000
    row.nominal_cpu_milli += sign * node(row, n).cpu_cap_milli
    row.nominal_memory_mib += sign * node(row, n).memory_cap_mib
    if node(row, n).state == NodeCode.UP:
        row.capacity_units += sign * units
        row.free_units += sign * free_units(row, n)
    if paid:
        row.cost_rate_milli += sign * node(row, n).price_milli


@kernel
def _put(row, n, record):
    """Describe node ``n`` anew."""
    known = n < row.num_nodes
    if known and node(row, n).workers > 0:
        raise RuntimeError("a node with workers on it cannot be described anew")
    if known and node(row, n).state == NodeCode.PROVISIONING:
        raise RuntimeError("a node on order cannot be described anew")
    in_order, gpus_before = np.int64(row.num_nodes), np.int64(0)
    if known:
        gpus_before = np.int64(node(row, n).gpus)
        _count_node(row, n, np.int64(-1))
    else:
        row.num_nodes = n + 1
    _describe_node(row, n, record)
    sort_in(row, n, in_order)
    gpus = np.int64(node(row, n).gpus)
    if (gpus > 0) != (row.unit != 0) and (gpus > 0 or gpus_before > 0):
        _recount(row)  # it may be the first with GPUs, or the last
    else:
        _count_node(row, n, np.int64(1))


@entry
def put_node(rows: Rows, e: int, n: int, records: NDArray[np.void]) -> None:
    """Describe node ``n`` by ``records[0]`` (NODE_DTYPE), empty and in the record's state.

    Whoever was described there before must be gone or down, and nobody may be placed on it.
    """
    _put(rows[e], np.int64(n), records[0])


tell_services: Callable[[Rows, int, NDArray[np.void], NDArray[np.void]], None] = on_row(
    _tell_services
)
"""``(services, plans)``: a tick of a live cluster's services has passed; see ``services``."""


note_scaling: Callable[[Rows, int, int, int], None] = on_row(_note_scaling)
"""``(service, more)``: somebody has given a service so many more replicas, or fewer."""


@entry
def show_fleet(
    rows: Rows, e: int, at: NDArray[np.int64], nodes: NDArray[np.void], fleets: NDArray[np.void]
) -> None:
    """Show a copy of a live row nodes that are not in its table, and what its fleet may do.

    ``nodes``, NODE_DTYPE [n], go to the places ``at``, int64 [n], of its table: first those on
    order, ``PROVISIONING``, then those that may be ordered, ``ABSENT``. ``fleets[0]`` is a
    FLEET_DTYPE record. All nodes cost alike, and ticks go on from now.
    """
    row, fleet = rows[e], fleets[0]
    for n in range(row.num_nodes):
        node(row, n).price_milli = 0 if node(row, n).state == NodeCode.ABSENT else _PRICE_MILLI
    for k in range(at.shape[0]):
        _put(row, at[k], nodes[k])
        node(row, at[k]).price_milli = _PRICE_MILLI
        if nodes[k].state == NodeCode.PROVISIONING:
            node(row, at[k]).arrive_ms = row.now_ms + fleet.tick_ms
            row.arrival_len += 1
            arrival(row, row.arrival_len - 1).node = at[k]
    row.all_prices_milli = 0
    for n in range(row.num_nodes):
        row.all_prices_milli += node(row, n).price_milli
    row.cost_rate_milli = cost_rate(row)
    row.min_nodes, row.max_nodes = fleet.min_nodes, fleet.max_nodes
    row.provision_ms = row.tick_ms = fleet.tick_ms
    row.scaled_ms, row.scaled_by = fleet.scaled_ms, fleet.scaled_by
    row.series_first = row.now_ms // fleet.tick_ms  # so that the time of day is the clock's
    row.series_stop = NEVER
    row.tick = 0
    row.next_tick_ms = (row.series_first + 1) * fleet.tick_ms


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
