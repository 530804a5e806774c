"""How far a job is, how fast it goes, and when it will be done."""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.codes import EventKind, JobKind
from orchestrator.kernels.jit import kernel, small_kernel
from orchestrator.kernels.slots import units_of
from orchestrator.kernels.tables import job, node, request, worker
from orchestrator.kernels.throughput import speed_milli
from orchestrator.kernels.transition.queue import list_running, unlist_running
from orchestrator.kernels.transition.resources import gang_spread
from orchestrator.kernels.transition.tenants import charge_service
from orchestrator.kernels.transition.timeline import cancel_event, push_event

__all__ = [
    "accrue_service",
    "interruption_cost",
    "progress_now",
    "saved_progress",
    "set_pace",
    "settle_progress",
]


@kernel
def progress_now(row, j):
    """Work that a running job has done by now, ms at nominal speed."""
    run = job(row, j)
    elapsed = max(row.now_ms - run.work_start_ms, np.int64(0))
    done = run.progress_ms + run.unsaved_ms + elapsed * run.speed_milli // 1000
    return min(done, request(row, j).duration_ms)


@kernel
def saved_progress(row, j):
    """Work of a running job that its last periodic checkpoint holds, ms."""
    interval = request(row, j).checkpoint_interval_ms
    base = job(row, j).progress_ms
    if interval <= 0:
        return base
    return base + (progress_now(row, j) - base) // interval * interval


@small_kernel
def interruption_cost(row, v):
    """What preempting running job ``v`` costs, capacity units x ms: work done again, and stalls.

    Work since the last periodic checkpoint counts even though a planned preemption saves it:
    saving takes the longer the more there is, and a failure meanwhile would lose it.
    """
    ask = request(row, v)
    unsaved = progress_now(row, v) - saved_progress(row, v)
    return np.float64(unsaved + ask.checkpoint_ms + ask.restart_ms) * job(row, v).units


@kernel
def _slowest_model(row, j):
    """The GPU model of the worker that all others wait for: the slowest of the gang's."""
    slowest = np.int64(node(row, worker(row, j, 0).node).model)
    spread = np.int64(job(row, j).spread)
    workers = np.int64(job(row, j).workers_now)
    for w in range(1, workers):
        model = np.int64(node(row, worker(row, j, w).node).model)
        if model == slowest:
            continue
        mine = speed_milli(row, j, workers, spread, model)
        if mine < speed_milli(row, j, workers, spread, slowest):
            slowest = model
    return slowest


@small_kernel
def _time_for(work_ms, speed):
    """Time that work takes at a speed in thousandths, rounded up."""
    return (max(work_ms, np.int64(0)) * 1000 + speed - 1) // speed


@kernel
def set_pace(row, j, resume_ms):
    """From ``resume_ms`` on a placed job works at the speed that its workers and places give.

    Sets what follows from that: its demand, expected end and projected slowdown, and puts it into
    the running list and the event queue.
    """
    ask = request(row, j)
    job(row, j).units = units_of(row, j, job(row, j).workers_now)
    job(row, j).spread = np.uint8(gang_spread(row, j, job(row, j).workers_now))
    speed = np.int64(1000)
    if ask.kind != JobKind.SERVICE:  # a service lasts as long as it lasts
        workers = np.int64(job(row, j).workers_now)
        spread = np.int64(job(row, j).spread)
        speed = speed_milli(row, j, workers, spread, _slowest_model(row, j))
    job(row, j).speed_milli = np.int64(speed)
    job(row, j).work_start_ms = resume_ms
    done = job(row, j).progress_ms + job(row, j).unsaved_ms
    end = resume_ms + _time_for(ask.duration_ms - done, speed)
    job(row, j).expected_end_ms = resume_ms + _time_for(ask.requested_ms - done, speed)
    scale = max(ask.duration_ms, row.slowdown_bound_ms)
    excess = max((end - ask.submit_ms) / scale - 1.0, 0.0)
    row.settled_excess += excess - job(row, j).excess
    job(row, j).excess = excess
    list_running(row, j)
    push_event(row, end, EventKind.COMPLETION, j)


@small_kernel
def accrue_service(row, j):
    """Count the capacity that a placed job, and its tenant, have held since its last change."""
    served = (row.now_ms - job(row, j).resized_ms) * job(row, j).units
    job(row, j).attained_unit_ms += served
    charge_service(row, j, served)
    job(row, j).resized_ms = row.now_ms


@kernel
def settle_progress(row, j):
    """Note what a running job has done, and stop its clock; :func:`set_pace` starts it again.

    Work that no checkpoint holds yet stays unsaved.
    """
    done = progress_now(row, j)
    job(row, j).unsaved_ms = done - job(row, j).progress_ms
    job(row, j).work_start_ms = row.now_ms
    accrue_service(row, j)
    cancel_event(row, j)
    unlist_running(row, j)
