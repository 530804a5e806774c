"""What may be decided: legality of placements, preemptions, resizes, moves and waiting."""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.codes import EventKind, JobCode, JobKind, QuotaMode, Reason
from orchestrator.kernels.feasibility import fits, least_units, least_workers
from orchestrator.kernels.jit import kernel, part, small_kernel
from orchestrator.kernels.tables import job, queue, request, running, tenant
from orchestrator.kernels.transition.progress import units_of
from orchestrator.kernels.transition.timeline import next_event

__all__ = [
    "can_wait",
    "decision_open",
    "permitted_workers",
    "placement_reason",
    "preemption_reason",
    "quota_workers",
    "resize_reason",
    "start_reason",
]


@small_kernel
def _account_reason(row, j):
    """Whether a waiting job's tenant may start it: quota, and storage for its checkpoints."""
    ask = request(row, j)
    if ask.tenant >= row.num_tenants:
        return Reason.OK
    owner = tenant(row, ask.tenant)
    if row.quota_mode == QuotaMode.HARD and (
        owner.used_units + least_units(row, j) > owner.quota_units
    ):
        return Reason.QUOTA
    limit = owner.storage_quota_mib
    if limit > 0 and job(row, j).first_start_ms < 0:
        if owner.storage_mib + ask.storage_mib > limit:
            return Reason.STORAGE
    return Reason.OK


@kernel
def quota_workers(row, j, workers):
    """How many of ``workers`` more workers of job ``j`` its tenant's quota allows."""
    ask = request(row, j)
    if row.quota_mode != QuotaMode.HARD or ask.tenant >= row.num_tenants:
        return np.int64(workers)
    owner = tenant(row, ask.tenant)
    each = units_of(row, j, np.int64(1))
    if each <= 0:
        return np.int64(workers)
    return max(min(np.int64(workers), (owner.quota_units - owner.used_units) // each), np.int64(0))


@kernel
def permitted_workers(row, j, workers):
    """How many of ``workers`` workers job ``j``'s tenant may start now; 0: fewer than it needs."""
    if row.num_tenants == 0:
        return np.int64(workers)
    if _account_reason(row, j) != Reason.OK:
        return np.int64(0)
    return quota_workers(row, j, workers)


@kernel
def start_reason(row, j):
    """Whether job ``j`` may be placed now, if there is room for it: a ``Reason``."""
    state = job(row, j).state
    if state != JobCode.PENDING and state != JobCode.PREEMPTED:
        return Reason.NOT_QUEUED
    if job(row, j).blocked_point == row.point:
        return Reason.BLOCKED
    if row.num_tenants > 0:
        reason = _account_reason(row, j)
        if reason != Reason.OK:
            return reason
    return Reason.OK


@kernel
def placement_reason(row, j):
    """Whether job ``j`` could be placed now: a ``Reason``."""
    reason = start_reason(row, j)
    if reason != Reason.OK or row.commitment != 0 or fits(row, j):
        return reason
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


@kernel
def resize_reason(row, j, workers):
    """Whether running job ``j`` may have ``workers`` workers from now on: a ``Reason``.

    Room for more workers is not looked for; :func:`~orchestrator.kernels.growth.place_more` does.
    """
    if job(row, j).state != JobCode.RUNNING:
        return Reason.NOT_RUNNING
    ask = request(row, j)
    if ask.elastic == 0:
        return Reason.NOT_ELASTIC
    now = job(row, j).workers_now
    most = min(ask.max_workers, row.max_workers)
    if workers == now or workers < least_workers(row, j) or workers > most:
        return Reason.SIZE_BOUNDS
    if ask.kind != JobKind.SERVICE and row.now_ms - job(row, j).resized_ms < row.min_run_ms:
        return Reason.MIN_RUN_TIME
    if workers > now:
        if units_of(row, j, workers - now) > row.free_units:
            return Reason.NO_CAPACITY
        if quota_workers(row, j, workers - now) < workers - now:
            return Reason.QUOTA
    return Reason.OK


@small_kernel
def can_wait(row):
    """Whether anything is left to wait for, or somebody can be turned away."""
    if row.turn_away != 0 and row.queue_len > 0:
        return True
    _, kind, _ = next_event(row)
    return kind != EventKind.NONE


@part
def _resize_open(row):
    """Whether any running job may be resized, room for it left out of account."""
    for k in range(row.running_len):
        j = running(row, k).job
        if request(row, j).elastic == 0:
            continue
        now = np.int64(job(row, j).workers_now)
        if resize_reason(row, j, now + 1) == Reason.OK:
            return True
        if resize_reason(row, j, now - 1) == Reason.OK:
            return True
    return False


@part
def _placement_open(row):
    """Whether any queued job could be placed now.

    Queues hold many jobs of few shapes: the last four that did not fit are not tried again.
    """
    a, b, c, d = np.uint64(0), np.uint64(0), np.uint64(0), np.uint64(0)
    for q in range(row.queue_len):
        j = queue(row, q).job
        if row.commitment != 0:
            if start_reason(row, j) == Reason.OK:
                return True
            continue
        if least_units(row, j) > row.free_units:
            continue
        shape = job(row, j).shape
        if shape in (a, b, c, d):
            continue
        if start_reason(row, j) != Reason.OK:
            continue
        if fits(row, j):
            return True
        a, b, c, d = shape, a, b, c
    return False


@kernel
def decision_open(row):
    """Whether any action besides waiting is legal now.

    Some queued job must be placeable (under commitment semantics, whether it fits or not), or,
    while jobs wait, some running job must be preemptible, or some running job may be resized.
    """
    length = row.queue_len
    if row.elastics > 0 and _resize_open(row):
        return True
    if length == 0:
        return False
    if _placement_open(row):
        return True
    if row.preemption_limit <= 0:
        return False
    for k in range(row.running_len):
        if preemption_reason(row, running(row, k).job) == Reason.OK:
            return True
    return False
