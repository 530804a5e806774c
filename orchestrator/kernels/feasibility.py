"""Filter: how many workers of a job a node can hold, and whether a gang fits at all."""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.codes import NodeCode
from orchestrator.kernels.jit import kernel, small_kernel
from orchestrator.kernels.tables import device, node, request

__all__ = [
    "fits",
    "least_units",
    "least_workers",
    "node_allows",
    "worker_slots",
    "worker_slots_when_empty",
]

_ONE = np.uint32(1)


@small_kernel
def least_workers(row, j):
    """Workers without which job ``j`` does not start: all of them, or an elastic job's minimum."""
    ask = request(row, j)
    return np.int64(max(ask.min_workers, 1) if ask.elastic != 0 else ask.workers)


@small_kernel
def least_units(row, j):
    """Capacity without which job ``j`` cannot start, whatever it holds now."""
    ask = request(row, j)
    if row.unit != 0:
        return least_workers(row, j) * ask.gpus_per_worker * ask.gpu_milli
    return least_workers(row, j) * ask.cpu_milli


@small_kernel
def node_allows(row, j, n):
    """Whether a job's constraints admit node ``n``, however full it is."""
    mask = request(row, j).model_mask
    return mask == 0 or (mask >> np.uint32(node(row, n).model)) & _ONE != 0


@kernel
def _device_slots(row, j, n, limit):
    """Workers (at most ``limit``) whose GPUs node ``n`` has free."""
    gpus = request(row, j).gpus_per_worker
    milli = request(row, j).gpu_milli
    if milli == 1000:
        return min(limit, np.int64(node(row, n).whole_free // gpus))
    # t workers fit if, each device serving a worker at most once, t * gpus shares can be had.
    t = np.int64(0)
    while t < limit:
        shares = 0
        for g in range(node(row, n).gpus):
            shares += min(t + 1, device(row, n, g).free_milli // milli)
        if shares < (t + 1) * gpus:
            break
        t += 1
    return t


@kernel
def worker_slots(row, j, n, limit):
    """Workers of job ``j``, at most ``limit``, that node ``n`` can hold now."""
    if node(row, n).state != NodeCode.UP or not node_allows(row, j, n):
        return np.int64(0)
    ask = request(row, j)
    slots = np.int64(limit)
    if ask.cpu_milli > 0:
        slots = min(slots, node(row, n).cpu_free_milli // ask.cpu_milli)
    if ask.memory_mib > 0:
        slots = min(slots, node(row, n).memory_free_mib // ask.memory_mib)
    if ask.gpus_per_worker > 0 and slots > 0:
        slots = _device_slots(row, j, n, slots)
    return slots


@kernel
def worker_slots_when_empty(row, j, n, limit):
    """Workers of job ``j``, at most ``limit``, that node ``n`` could hold if it were empty."""
    state = node(row, n).state
    leaves = state == NodeCode.ABSENT or state == NodeCode.DRAINING
    if leaves or not node_allows(row, j, n):
        return np.int64(0)
    ask = request(row, j)
    slots = np.int64(limit)
    if ask.cpu_milli > 0:
        slots = min(slots, node(row, n).cpu_cap_milli // ask.cpu_milli)
    if ask.memory_mib > 0:
        slots = min(slots, node(row, n).memory_cap_mib // ask.memory_mib)
    if ask.gpus_per_worker > 0:
        if ask.gpus_per_worker > node(row, n).gpus:
            return np.int64(0)
        shares = np.int64(1000 // ask.gpu_milli) * node(row, n).gpus
        slots = min(slots, shares // ask.gpus_per_worker)
    return slots


@kernel
def _gang_fits(row, j):
    missing = least_workers(row, j)
    for n in range(row.num_nodes):
        missing -= worker_slots(row, j, n, missing)
        if missing <= 0:
            return True
    return False


@kernel
def fits(row, j):
    """Whether the whole gang of job ``j`` could start now."""
    if least_units(row, j) > row.free_units:
        return False
    return _gang_fits(row, j)


@kernel
def can_ever_fit(row, j):
    """Whether the whole gang of job ``j`` would fit into the cluster if it were empty."""
    missing = least_workers(row, j)
    for n in range(row.num_nodes):
        missing -= worker_slots_when_empty(row, j, n, missing)
        if missing <= 0:
            return True
    return False
