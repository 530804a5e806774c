"""What all changes of a running job's workers have in common, and the loss of single replicas."""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.codes import EffectKind, JobCode, JobKind
from orchestrator.kernels.jit import kernel, small_kernel
from orchestrator.kernels.slots import units_of
from orchestrator.kernels.tables import copy_record, job, request, worker
from orchestrator.kernels.transition.jobs import record_placement, set_state
from orchestrator.kernels.transition.log import job_effect
from orchestrator.kernels.transition.progress import set_pace, settle_progress
from orchestrator.kernels.transition.resources import (
    release_traffic,
    release_worker,
    reserve_traffic,
)

__all__ = ["begin_change", "drop_worker", "drop_workers_on", "end_change"]


@small_kernel
def begin_change(row, j):
    """Stop the clock of a running job; how long the stall it is in still lasts, ms.

    What is left of that stall was counted as lost when it began; :func:`end_change` counts anew.
    """
    stall = max(job(row, j).work_start_ms - row.now_ms, np.int64(0))
    if request(row, j).kind != JobKind.SERVICE:
        row.lost_unit_ms -= stall * job(row, j).units
    settle_progress(row, j)
    release_traffic(row, j, job(row, j).workers_now)
    set_state(row, j, JobCode.SCALING)
    return stall


@small_kernel
def end_change(row, j, stall_ms, kind):
    """A job goes on with other workers after a stall; ``kind`` is REGROUP or MOVE."""
    if not reserve_traffic(row, j, job(row, j).workers_now):
        raise RuntimeError("a gang was spread over links that cannot carry it")
    if request(row, j).kind != JobKind.SERVICE:  # its other replicas go on, and no work is lost
        row.lost_unit_ms += stall_ms * units_of(row, j, job(row, j).workers_now)
    record_placement(row, j)
    set_state(row, j, JobCode.RUNNING)
    set_pace(row, j, row.now_ms + stall_ms)
    job_effect(row, kind, j, stall_ms)


@small_kernel
def drop_worker(row, j, w):
    """Release worker ``w``; the gang's last one takes its number, and its record the last place."""
    release_worker(row, j, w)
    last = np.int64(job(row, j).workers_now - 1)
    job(row, j).workers_now = np.int64(last)
    devices, n = worker(row, j, w).devices, worker(row, j, w).node
    copy_record(worker(row, j, w), worker(row, j, last))
    worker(row, j, last).devices = devices
    worker(row, j, last).node = n


@kernel
def drop_workers_on(row, j, n):
    """A node goes under replicas that do not need each other: only those on it are gone.

    At least one must be on another node.
    """
    stall = begin_change(row, j)
    w = np.int64(0)
    while w < job(row, j).workers_now:
        if worker(row, j, w).node == n:
            drop_worker(row, j, w)
        else:
            w += 1
    end_change(row, j, stall, EffectKind.REGROUP)
