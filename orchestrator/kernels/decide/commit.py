"""Commit an action: re-validated against the state as it is now, carried out whole or refused."""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.change.elastic import migrate_job
from orchestrator.kernels.change.events import close_point, commit_to, count_decision, count_illegal
from orchestrator.kernels.change.jobs import begin_preemption, start_job
from orchestrator.kernels.change.queue import queue_position
from orchestrator.kernels.decide.elastic import change_size
from orchestrator.kernels.decide.gang import earliest_start
from orchestrator.kernels.decide.legal import (
    can_wait,
    permitted_workers,
    placement_reason,
    preemption_reason,
    resize_reason,
)
from orchestrator.kernels.decide.scale import commit_capacity, commit_service
from orchestrator.kernels.decide.whatif import migration_reason, plan_migration
from orchestrator.kernels.lang.jit import kernel, part
from orchestrator.kernels.place.fit import least_units
from orchestrator.kernels.place.generate import place_gang
from orchestrator.kernels.state.codes import ActionKind, Reason

__all__ = ["commit"]


@part
def _commit_place(row, j, generator, nodes):
    if row.committed >= 0:
        return np.int64(Reason.COMMITTED)
    reason = np.int64(placement_reason(row, j))
    if reason != Reason.OK:
        return reason
    workers = place_gang(row, j, generator, nodes)
    if workers > 0:
        workers = permitted_workers(row, j, workers)
        if start_job(row, queue_position(row, j), nodes, workers, generator):
            return np.int64(Reason.OK)
        return np.int64(Reason.NO_CAPACITY)
    if row.commitment == 0:
        return np.int64(Reason.NO_CAPACITY)
    commit_to(row, j, earliest_start(row, least_units(row, j)))
    return np.int64(Reason.OK)


@part
def _commit_migrate(row, j, generator, nodes):
    reason = np.int64(migration_reason(row, j))
    if reason != Reason.OK:
        return reason
    if not plan_migration(row, j, generator, nodes):
        return np.int64(Reason.NO_BETTER_PLACE)
    migrate_job(row, j, nodes, generator)
    return reason


@kernel
def commit(row, kind, j, value, nodes):
    """Carry out one action; a ``Reason``: unless OK, only the count of illegal actions changed.

    ``kind`` is an ``ActionKind``, ``j`` the job or the service, ignored for capacity and when
    waiting. ``value`` is, for a placement or a move, the ``Placement`` generator of the chosen
    candidate; for a resize, the new number of workers; for a service, of replicas; for capacity,
    the nodes to order, or to give up if negative.
    """
    reason = np.int64(Reason.UNKNOWN_ACTION)
    if kind == ActionKind.WAIT:
        reason = np.int64(Reason.OK if can_wait(row) else Reason.NOTHING_TO_WAIT_FOR)
        if reason == Reason.OK:
            close_point(row)
    elif kind == ActionKind.CAPACITY:
        reason = commit_capacity(row, value)
    elif kind == ActionKind.SERVICE:
        reason = commit_service(row, j, value, nodes)
    elif j < 0 or j >= row.num_jobs:
        reason = np.int64(Reason.NOT_QUEUED)
    elif kind == ActionKind.PLACE:
        reason = _commit_place(row, j, value, nodes)
    elif kind == ActionKind.PREEMPT:
        reason = np.int64(preemption_reason(row, j))
        if reason == Reason.OK:
            begin_preemption(row, j)
    elif kind == ActionKind.RESIZE:
        reason = np.int64(resize_reason(row, j, value))
        if reason == Reason.OK:
            reason = change_size(row, j, value, nodes)
    elif kind == ActionKind.MIGRATE:
        reason = _commit_migrate(row, j, value, nodes)
    if reason == Reason.OK:
        count_decision(row)
    else:
        count_illegal(row)
    return reason
