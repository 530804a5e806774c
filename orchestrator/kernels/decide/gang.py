"""Start or resize one gang; when the one that is waited for can start, and who may overtake."""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.change.jobs import start_job
from orchestrator.kernels.decide.legal import permitted_workers
from orchestrator.kernels.lang.jit import kernel
from orchestrator.kernels.place.fit import fits, least_units
from orchestrator.kernels.place.generate import place_gang
from orchestrator.kernels.state.access import job, queue, request, running, tenant
from orchestrator.kernels.state.codes import Placement

__all__ = ["backfill_queue", "earliest_start", "leaves_storage", "start_gang"]


@kernel
def start_gang(row, position, generator, nodes):
    """Start the job at a queue position where ``generator`` places it; whether it may and fits.

    It gets as many workers as its tenant may have now.
    """
    j = queue(row, position).job
    workers = permitted_workers(row, j, place_gang(row, j, generator, nodes))
    return workers > 0 and start_job(row, position, nodes, workers, generator)


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
    """Start queued jobs that fit and end before the committed one's reservation; how many.

    They go in submit order.
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
