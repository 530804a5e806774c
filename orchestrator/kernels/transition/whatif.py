"""Hypothetical removal of a running job, with an exact undo.

``lift_gang`` frees what a job holds without changing its state or the log; ``restore_gang`` puts
back the very same devices. Between the two only other lifts and restores may happen.
"""

from __future__ import annotations

from orchestrator.kernels.jit import kernel
from orchestrator.kernels.tables import job
from orchestrator.kernels.transition.resources import (
    release_traffic,
    release_worker,
    reserve_traffic,
    retake_worker,
)

__all__ = ["lift_gang", "restore_gang"]


@kernel
def lift_gang(row, j):
    """Free the resources of a placed job, for the sake of argument."""
    release_traffic(row, j, job(row, j).workers_now)
    for w in range(job(row, j).workers_now):
        release_worker(row, j, w)


@kernel
def restore_gang(row, j):
    """Undo :func:`lift_gang`."""
    for w in range(job(row, j).workers_now):
        retake_worker(row, j, w)
    reserve_traffic(row, j, job(row, j).workers_now)
