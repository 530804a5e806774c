"""Changes of a job's state, along the legal-transition table only."""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.codes import (
    LEGAL_TRANSITIONS,
    EffectKind,
    EventKind,
    JobCode,
    JobKind,
    LogKind,
)
from orchestrator.kernels.jit import kernel
from orchestrator.kernels.slots import units_of
from orchestrator.kernels.tables import job, queue, request, worker
from orchestrator.kernels.transition.log import job_effect, record
from orchestrator.kernels.transition.progress import (
    accrue_service,
    progress_now,
    saved_progress,
    set_pace,
)
from orchestrator.kernels.transition.queue import (
    dequeue,
    enqueue,
    list_running,
    unlist_running,
)
from orchestrator.kernels.transition.resources import release_gang, reserve_gang
from orchestrator.kernels.transition.tenants import free_storage, hold_storage
from orchestrator.kernels.transition.timeline import cancel_event, push_event

__all__ = [
    "admit_job",
    "begin_preemption",
    "complete_job",
    "fail_waiting_job",
    "finish_preemption",
    "interrupt_job",
    "record_placement",
    "set_state",
    "start_job",
    "turn_away",
]

_HASH_STEP = np.uint64(0x9E3779B97F4A7C15)


@kernel
def set_state(row, j, state):
    """Move a job to another state; an illegal move is a bug and raises."""
    if LEGAL_TRANSITIONS[job(row, j).state, state] == 0:
        raise RuntimeError("illegal transition of a job's state")
    job(row, j).state = np.uint8(state)
    record(row, LogKind.JOB_STATE, j, state)


@kernel
def admit_job(row, j):
    """A submitted job joins the queue."""
    row.active_jobs += 1
    row.active_services += np.int64(request(row, j).kind == JobKind.SERVICE)
    set_state(row, j, JobCode.PENDING)
    enqueue(row, j)


@kernel
def record_placement(row, j):
    """Record where a gang is now: its nodes and devices, folded into one word."""
    word = np.uint64(job(row, j).workers_now)
    for w in range(job(row, j).workers_now):
        word = (word ^ np.uint64(worker(row, j, w).node + 1)) * _HASH_STEP
        word = (word ^ worker(row, j, w).devices) * _HASH_STEP
    record(row, LogKind.PLACEMENT, j, np.int64(word & np.uint64(0xFFFFFF)))


@kernel
def start_job(row, position, nodes, workers, generator):
    """Start the job at a queue position with ``workers`` workers on ``nodes``, or not at all.

    ``generator``, the ``Placement`` that chose the nodes, chooses the devices, too.

    Returns
    -------
    bool
        False, and nothing changed, if its gang could not be reserved.
    """
    j = queue(row, position).job
    if not reserve_gang(row, j, nodes, workers, generator):
        return False
    dequeue(row, position)
    now = row.now_ms
    restart = np.int64(0)
    if job(row, j).first_start_ms < 0:
        job(row, j).first_start_ms = now
        hold_storage(row, j)
    else:
        restart = request(row, j).restart_ms
        if request(row, j).kind != JobKind.SERVICE:
            row.lost_unit_ms += restart * units_of(row, j, workers)
    job(row, j).runs = np.uint32(job(row, j).runs + 1)
    job(row, j).start_ms = now
    job(row, j).resized_ms = now
    set_state(row, j, JobCode.SCHEDULED)
    record_placement(row, j)
    set_state(row, j, JobCode.RUNNING)
    set_pace(row, j, now + restart)
    job_effect(row, EffectKind.START, j, restart)
    return True


@kernel
def _stop_running(row, j):
    """Take a job off its resources, the running list and the event queue."""
    cancel_event(row, j)
    unlist_running(row, j)
    release_gang(row, j)
    accrue_service(row, j)


@kernel
def complete_job(row, j):
    """A running job has done all its work."""
    _stop_running(row, j)
    job(row, j).progress_ms = request(row, j).duration_ms
    job(row, j).unsaved_ms = 0
    job(row, j).units = units_of(row, j, request(row, j).workers)
    job(row, j).end_ms = row.now_ms
    free_storage(row, j)
    row.active_jobs -= 1
    row.active_services -= np.int64(request(row, j).kind == JobKind.SERVICE)
    row.completed_jobs += 1
    set_state(row, j, JobCode.COMPLETED)


@kernel
def _requeue(row, j, progress_ms, state):
    """Put a job that stopped early back into the queue with what was saved of its work."""
    row.settled_excess -= job(row, j).excess
    job(row, j).excess = 0.0
    job(row, j).progress_ms = progress_ms
    job(row, j).unsaved_ms = 0
    job(row, j).units = units_of(row, j, request(row, j).workers)
    job(row, j).expected_end_ms = 0
    set_state(row, j, state)
    enqueue(row, j)


@kernel
def begin_preemption(row, j):
    """Stop a running job and save it; with a free checkpoint it leaves at once."""
    job(row, j).preemptions += 1
    job(row, j).blocked_point = row.point
    row.preemptions += 1
    row.preemptions_here += 1
    cost = request(row, j).checkpoint_ms
    saved, done = saved_progress(row, j), progress_now(row, j)
    job(row, j).unsaved_ms = done - saved
    job(row, j).progress_ms = saved
    job(row, j).work_start_ms = row.now_ms
    job(row, j).speed_milli = 0
    set_state(row, j, JobCode.CHECKPOINTING)
    if cost <= 0:
        finish_preemption(row, j)
        return
    unlist_running(row, j)
    job(row, j).expected_end_ms = row.now_ms + cost
    list_running(row, j)
    cancel_event(row, j)
    push_event(row, row.now_ms + cost, EventKind.CHECKPOINTED, j)
    job_effect(row, EffectKind.SAVE, j, cost)


@kernel
def finish_preemption(row, j):
    """The checkpoint is committed: all work is saved, the resources are free."""
    _stop_running(row, j)
    progress = job(row, j).progress_ms + job(row, j).unsaved_ms
    _requeue(row, j, progress, JobCode.PREEMPTED)
    waited = request(row, j).checkpoint_ms > 0
    kind = EffectKind.STOP if waited else EffectKind.SAVE_AND_STOP
    job_effect(row, kind, j, np.int64(0))


@kernel
def interrupt_job(row, j):
    """A node failed under a job: it falls back to its last committed checkpoint."""
    if job(row, j).state == JobCode.CHECKPOINTING:
        saved = job(row, j).progress_ms
        lost = job(row, j).unsaved_ms
    else:
        saved = saved_progress(row, j)
        lost = progress_now(row, j) - saved
    if request(row, j).kind == JobKind.SERVICE:
        lost = np.int64(0)  # replicas hold no work that could be lost
    job(row, j).lost_ms += lost
    job(row, j).interruptions += 1
    row.interruptions += 1
    row.lost_unit_ms += lost * units_of(row, j, request(row, j).workers)
    _stop_running(row, j)
    _requeue(row, j, saved, JobCode.PENDING)
    job_effect(row, EffectKind.INTERRUPT, j, lost)


@kernel
def fail_waiting_job(row, position):
    """Give up on a queued job (cancelled, or never placeable)."""
    j = dequeue(row, position)
    job(row, j).end_ms = row.now_ms
    if job(row, j).first_start_ms >= 0:
        free_storage(row, j)
    row.active_jobs -= 1
    row.active_services -= np.int64(request(row, j).kind == JobKind.SERVICE)
    row.failed_jobs += 1
    set_state(row, j, JobCode.FAILED)


@kernel
def turn_away(row):
    """Give up on all that wait: nobody placed them at the decision point that has closed."""
    while row.queue_len > 0:
        fail_waiting_job(row, row.queue_len - 1)
