"""What may be decided: legality of placements, preemptions and waiting."""

from __future__ import annotations

from orchestrator.kernels.codes import EventKind, JobCode, Reason
from orchestrator.kernels.feasibility import fits
from orchestrator.kernels.jit import kernel, small_kernel
from orchestrator.kernels.tables import job, queue, request, running
from orchestrator.kernels.transition.timeline import next_event

__all__ = ["can_wait", "decision_open", "placement_reason", "preemption_reason"]


@kernel
def placement_reason(row, j):
    """Whether job ``j`` could be placed now: a ``Reason``."""
    state = job(row, j).state
    if state != JobCode.PENDING and state != JobCode.PREEMPTED:
        return Reason.NOT_QUEUED
    if job(row, j).blocked_point == row.point:
        return Reason.BLOCKED
    if row.commitment != 0 or fits(row, j):
        return Reason.OK
    return Reason.NO_CAPACITY


@kernel
def preemption_reason(row, j):
    """Whether running job ``j`` may be preempted now: a ``Reason``."""
    if job(row, j).state != JobCode.RUNNING:
        return Reason.NOT_RUNNING
    if request(row, j).preemptible == 0:
        return Reason.NOT_PREEMPTIBLE
    if row.now_ms - job(row, j).start_ms < row.min_run_ms:
        return Reason.MIN_RUN_TIME
    if row.preemptions_here >= row.preemption_limit:
        return Reason.PREEMPTION_BOUND
    return Reason.OK


@small_kernel
def can_wait(row):
    """Whether anything is left to wait for."""
    _, kind, _ = next_event(row)
    return kind != EventKind.NONE


@kernel
def decision_open(row):
    """Whether any action besides waiting is legal now.

    Under commitment semantics any queued job may be chosen. Otherwise some queued job must fit,
    or, while jobs wait, some running job must be preemptible.
    """
    length = row.queue_len
    if length == 0:
        return False
    if row.commitment != 0:
        return True
    for q in range(length):
        if placement_reason(row, queue(row, q).job) == Reason.OK:
            return True
    if row.preemption_limit <= 0:
        return False
    for k in range(row.running_len):
        if preemption_reason(row, running(row, k).job) == Reason.OK:
            return True
    return False
