"""A running job's workers change in number or place; it is not restarted.

Each change is one instant in the log (SCALING, the new placement, RUNNING). Work stands still for
the regroup, or, where workers move, for a checkpoint and a restart.
"""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.change.hold import (
    release_traffic,
    release_worker,
    reserve_gang,
    reserve_traffic,
    reserve_worker,
    retake_worker,
)
from orchestrator.kernels.change.jobs import begin_change, drop_worker, end_change, progress_now
from orchestrator.kernels.change.nodes import retire_if_empty
from orchestrator.kernels.lang.jit import kernel
from orchestrator.kernels.lang.memory import copy_record
from orchestrator.kernels.state.access import job, request, worker
from orchestrator.kernels.state.codes import EffectKind, Placement

__all__ = ["grow_job", "lift_workers", "migrate_job", "restore_workers", "shrink_job"]


_TIGHT = np.int64(Placement.BEST_FIT)
"""Added workers take the tightest devices."""


@kernel
def grow_job(row, j, nodes, count, first, last):
    """Add ``count`` workers on ``nodes`` [>= count] to a running elastic job: all (True) or none.

    Devices are chosen from ``first`` to ``last`` (exclusive); ``last`` 0: from all of a node's.
    """
    before = np.int64(job(row, j).workers_now)
    for k in range(count):
        if not reserve_worker(row, j, before + k, np.int64(nodes[k]), _TIGHT, first, last):
            for undo in range(k):
                release_worker(row, j, before + undo)
            return False
    release_traffic(row, j, before)
    carried = reserve_traffic(row, j, before + count)
    if carried:
        release_traffic(row, j, before + count)
    reserve_traffic(row, j, before)
    if not carried:
        for undo in range(count):
            release_worker(row, j, before + undo)
        return False
    stall = begin_change(row, j)
    job(row, j).workers_now = np.int64(before + count)
    job(row, j).resizes += 1
    row.resizes += 1
    end_change(row, j, max(stall, request(row, j).regroup_ms), EffectKind.REGROUP)
    return True


@kernel
def _loneliest_worker(row, j, workers):
    """The last worker on the node that holds the fewest of the gang's first ``workers``."""
    best, best_mates = np.int64(workers - 1), workers + 1
    for w in range(workers - 1, -1, -1):
        mates = 0
        for other in range(workers):
            if worker(row, j, other).node == worker(row, j, w).node:
                mates += 1
        if mates < best_mates:
            best, best_mates = np.int64(w), mates
    return best


@kernel
def shrink_job(row, j, count):
    """Take ``count`` workers from a running elastic job, the most scattered ones first."""
    stall = begin_change(row, j)
    for _ in range(count):
        drop_worker(row, j, _loneliest_worker(row, j, np.int64(job(row, j).workers_now)))
    for w in range(count):
        retire_if_empty(row, worker(row, j, job(row, j).workers_now + w).node)
    job(row, j).resizes += 1
    row.resizes += 1
    end_change(row, j, max(stall, request(row, j).regroup_ms), EffectKind.REGROUP)


@kernel
def lift_workers(row, j, count, dropped):
    """Free the ``count`` workers that shrinking a job would take, for the sake of argument.

    Which ones is noted in ``dropped`` [>= count], for :func:`restore_workers`.
    """
    release_traffic(row, j, job(row, j).workers_now)
    for k in range(count):
        w = _loneliest_worker(row, j, np.int64(job(row, j).workers_now))
        dropped[k] = np.int32(w)
        drop_worker(row, j, w)
    reserve_traffic(row, j, job(row, j).workers_now)


@kernel
def restore_workers(row, j, count, dropped):
    """Undo :func:`lift_workers`: every worker is where it was, under its number."""
    release_traffic(row, j, job(row, j).workers_now)
    for k in range(count - 1, -1, -1):
        w, last = np.int64(dropped[k]), np.int64(job(row, j).workers_now)
        retake_worker(row, j, last)
        devices, n = worker(row, j, w).devices, worker(row, j, w).node
        copy_record(worker(row, j, w), worker(row, j, last))
        worker(row, j, last).devices = devices
        worker(row, j, last).node = n
        job(row, j).workers_now = last + 1
    reserve_traffic(row, j, job(row, j).workers_now)


@kernel
def migrate_job(row, j, nodes, generator):
    """Move a running job to ``nodes`` [workers]: saved where it is, started again where it goes.

    There must be room for it once it has left its place.
    """
    workers = np.int64(job(row, j).workers_now)
    done = progress_now(row, j)
    stall = begin_change(row, j)
    for w in range(workers):
        release_worker(row, j, w)
    for n in range(row.num_nodes):
        retire_if_empty(row, n)
    if not reserve_gang(row, j, nodes, workers, generator):
        raise RuntimeError("a job was moved to where there is no room")
    job(row, j).progress_ms = done  # all of it is saved
    job(row, j).unsaved_ms = 0
    job(row, j).migrations += 1
    row.migrations += 1
    release_traffic(row, j, workers)  # what reserving took: the end of the change takes it again
    stall += request(row, j).checkpoint_ms + request(row, j).restart_ms
    end_change(row, j, stall, EffectKind.MOVE)
