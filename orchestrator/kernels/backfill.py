"""EASY backfilling (Lifka, 1995), with the commitment semantics of RLScheduler (SC 2020)."""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.codes import Placement
from orchestrator.kernels.feasibility import fits, least_units
from orchestrator.kernels.gangs import start_gang
from orchestrator.kernels.jit import kernel
from orchestrator.kernels.tables import job, queue, request, running, tenant

__all__ = ["backfill_queue", "earliest_start", "leaves_storage"]

_PLACEMENT = np.int64(Placement.FIRST_FIT)


@kernel
def earliest_start(row, units):
    """When ``units`` of capacity will be free, by the running jobs' expected ends, ms.

    Capacity is counted, not placed: fragmentation is ignored. If the running jobs do not free
    enough, the last expected end is returned.
    """
    free = row.free_units
    time_ms = row.now_ms
    for k in range(row.running_len):
        if free >= units:
            break
        free += running(row, k).units
        time_ms = running(row, k).expected_end_ms
    return time_ms


@kernel
def leaves_storage(row, j, committed):
    """Whether, once job ``j`` has started, the committed job's checkpoints still find storage.

    Storage is held until a job ends, however often it is interrupted: a committed job could wait
    for it in vain.
    """
    t = request(row, committed).tenant
    if request(row, j).tenant != t or t >= row.num_tenants or job(row, j).first_start_ms >= 0:
        return True
    limit = tenant(row, t).storage_quota_mib
    if limit <= 0 or job(row, committed).first_start_ms >= 0:
        return True
    wanted = request(row, j).storage_mib + request(row, committed).storage_mib
    return tenant(row, t).storage_mib + wanted <= limit


@kernel
def backfill_queue(row, committed, nodes):
    """Start, in submit order, queued jobs that fit and end before the committed one's reservation.

    Returns
    -------
    int
        Jobs started.
    """
    started = 0
    slack = row.reservation_ms - row.now_ms
    q = np.int64(0)
    while q < row.queue_len:
        j = queue(row, q).job
        if (
            j != committed
            and request(row, j).requested_ms < slack
            and least_units(row, j) <= row.free_units
            and leaves_storage(row, j, committed)
            and fits(row, j)
            and start_gang(row, q, _PLACEMENT, nodes)
        ):
            started += 1
        else:
            q += 1
    return started
