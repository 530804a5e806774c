"""Reserve and release: exact inverses of each other, down to the device."""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.codes import NodeCode
from orchestrator.kernels.jit import kernel, small_kernel
from orchestrator.kernels.tables import device, job, node, request, worker
from orchestrator.kernels.transition.tenants import charge_worker

__all__ = ["release_gang", "release_worker", "reserve_gang", "reserve_worker", "retake_worker"]

WHOLE = 1000
_ONE = np.uint64(1)


@small_kernel
def _worker_units(row, j):
    ask = request(row, j)
    if row.unit != 0:
        return np.int64(ask.gpus_per_worker) * ask.gpu_milli
    return np.int64(ask.cpu_milli)


@small_kernel
def _count_free(row, n, units):
    """Capacity that is free on a draining node is no longer on offer."""
    if node(row, n).state == NodeCode.UP:
        row.free_units += units


@small_kernel
def _take_device(row, n, g, milli):
    free = device(row, n, g).free_milli
    if free == WHOLE:
        node(row, n).whole_free -= 1
    device(row, n, g).free_milli = free - milli


@kernel
def _tightest_device(row, n, milli, taken):
    """The device with the least free share that still fits; -1 if none does."""
    best, best_free = -1, WHOLE + 1
    for g in range(node(row, n).gpus):
        free = device(row, n, g).free_milli
        if milli <= free < best_free and (taken >> np.uint64(g)) & _ONE == 0:
            best, best_free = g, free
    return best


@kernel
def _roomiest_device(row, n, milli, taken):
    """The device with room for most shares; of those, the one with the least left over."""
    best, best_shares, best_free = -1, 0, 0
    for g in range(node(row, n).gpus):
        if (taken >> np.uint64(g)) & _ONE != 0:
            continue
        free = device(row, n, g).free_milli
        shares = free // milli
        if shares > best_shares or (shares == best_shares > 0 and free < best_free):
            best, best_shares, best_free = g, shares, free
    return best


@kernel
def reserve_worker(row, j, w, n):
    """Reserve worker ``w`` of job ``j`` on node ``n``.

    Returns
    -------
    bool
        False, and nothing changed, if the node cannot hold it.
    """
    ask = request(row, j)
    host = node(row, n)
    if host.cpu_free_milli < ask.cpu_milli or host.memory_free_mib < ask.memory_mib:
        return False
    # Workers with several shared GPUs: were the tightest taken first, those left over could be too
    # few for the next worker of the gang, although `feasibility.worker_slots` promised it a place.
    gang = ask.workers > 1 or ask.elastic != 0
    level = gang and ask.gpus_per_worker > 1 and ask.gpu_milli < WHOLE
    taken = np.uint64(0)
    for _ in range(ask.gpus_per_worker):
        if level:
            g = _roomiest_device(row, n, ask.gpu_milli, taken)
        else:
            g = _tightest_device(row, n, ask.gpu_milli, taken)
        if g < 0:
            for h in range(host.gpus):
                if (taken >> np.uint64(h)) & _ONE != 0:
                    _give_device(row, n, h, ask.gpu_milli)
            return False
        _take_device(row, n, g, ask.gpu_milli)
        taken |= _ONE << np.uint64(g)
    node(row, n).cpu_free_milli -= ask.cpu_milli
    node(row, n).memory_free_mib -= ask.memory_mib
    node(row, n).gpu_free_milli -= ask.gpus_per_worker * ask.gpu_milli
    node(row, n).workers += 1
    worker(row, j, w).node = n
    worker(row, j, w).devices = taken
    _count_free(row, n, -_worker_units(row, j))
    charge_worker(row, j, _worker_units(row, j), np.int64(1))
    return True


@small_kernel
def _give_device(row, n, g, milli):
    free = device(row, n, g).free_milli + milli
    device(row, n, g).free_milli = free
    if free == WHOLE:
        node(row, n).whole_free += 1


@kernel
def release_worker(row, j, w):
    """Give back what worker ``w`` of job ``j`` holds; its record of where stays."""
    ask = request(row, j)
    n = worker(row, j, w).node
    devices = worker(row, j, w).devices
    g = 0
    while devices != 0:
        if devices & _ONE != 0:
            _give_device(row, n, g, ask.gpu_milli)
        devices >>= _ONE
        g += 1
    node(row, n).cpu_free_milli += ask.cpu_milli
    node(row, n).memory_free_mib += ask.memory_mib
    node(row, n).gpu_free_milli += ask.gpus_per_worker * ask.gpu_milli
    node(row, n).workers -= 1
    _count_free(row, n, _worker_units(row, j))
    charge_worker(row, j, _worker_units(row, j), np.int64(-1))


@kernel
def retake_worker(row, j, w):
    """Take again exactly what :func:`release_worker` gave back."""
    ask = request(row, j)
    n = worker(row, j, w).node
    devices = worker(row, j, w).devices
    g = 0
    while devices != 0:
        if devices & _ONE != 0:
            _take_device(row, n, g, ask.gpu_milli)
        devices >>= _ONE
        g += 1
    node(row, n).cpu_free_milli -= ask.cpu_milli
    node(row, n).memory_free_mib -= ask.memory_mib
    node(row, n).gpu_free_milli -= ask.gpus_per_worker * ask.gpu_milli
    node(row, n).workers += 1
    _count_free(row, n, -_worker_units(row, j))
    charge_worker(row, j, _worker_units(row, j), np.int64(1))


@kernel
def reserve_gang(row, j, nodes, workers):
    """Reserve ``workers`` workers of job ``j`` on ``nodes`` [>= workers], or none of them.

    Returns
    -------
    bool
        Whether the gang was reserved.
    """
    for w in range(workers):
        if not reserve_worker(row, j, w, nodes[w]):
            for undo in range(w):
                release_worker(row, j, undo)
            return False
    job(row, j).workers_now = np.int32(workers)
    return True


@kernel
def release_gang(row, j):
    """Give back everything that job ``j`` holds."""
    for w in range(job(row, j).workers_now):
        release_worker(row, j, w)
    job(row, j).workers_now = 0
