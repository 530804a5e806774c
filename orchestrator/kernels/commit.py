"""Commit an action: re-validated against the state as it is now, carried out whole or refused."""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.advance import queue_position
from orchestrator.kernels.backfill import earliest_start
from orchestrator.kernels.codes import ActionKind, Reason
from orchestrator.kernels.decisions import can_wait, placement_reason, preemption_reason
from orchestrator.kernels.jit import kernel
from orchestrator.kernels.placement import place_gang
from orchestrator.kernels.tables import job
from orchestrator.kernels.transition.decide import (
    close_point,
    commit_to,
    count_decision,
    count_illegal,
)
from orchestrator.kernels.transition.jobs import begin_preemption, start_job

__all__ = ["commit"]


@kernel
def _commit_place(row, j, generator, nodes):
    if row.committed >= 0:
        return Reason.COMMITTED
    reason = placement_reason(row, j)
    if reason != Reason.OK:
        return reason
    workers = place_gang(row, j, generator, nodes)
    if workers > 0:
        if start_job(row, queue_position(row, j), nodes, workers, generator):
            return Reason.OK
        return Reason.NO_CAPACITY
    if row.commitment == 0:
        return Reason.NO_CAPACITY
    commit_to(row, j, earliest_start(row, job(row, j).units))
    return Reason.OK


@kernel
def commit(row, kind, job, generator, nodes):
    """Carry out one action of row ``e``.

    Parameters
    ----------
    row : ROW_DTYPE record
    kind : int
        An ``ActionKind``.
    job : int
        The job to place or preempt; ignored when waiting.
    generator : int
        For a placement, the ``Placement`` generator of the chosen candidate.
    nodes : int32 [>= workers]
        Scratch.

    Returns
    -------
    int
        A ``Reason``: ``OK`` if it was carried out. Otherwise nothing changed but the count of
        illegal actions.
    """
    reason = np.int64(Reason.UNKNOWN_ACTION)
    if kind == ActionKind.WAIT:
        reason = np.int64(Reason.OK if can_wait(row) else Reason.NOTHING_TO_WAIT_FOR)
        if reason == Reason.OK:
            close_point(row)
    elif job < 0 or job >= row.num_jobs:
        reason = np.int64(Reason.NOT_QUEUED)
    elif kind == ActionKind.PLACE:
        reason = np.int64(_commit_place(row, job, generator, nodes))
    elif kind == ActionKind.PREEMPT:
        reason = np.int64(preemption_reason(row, job))
        if reason == Reason.OK:
            begin_preemption(row, job)
    if reason == Reason.OK:
        count_decision(row)
    else:
        count_illegal(row)
    return reason
