"""What jobs ask for and nodes have, and how many workers of a job a node can hold.

The capacity of a cluster is counted in its capacity unit: milli-GPUs, or milli-cores where no node
has a GPU (``row.unit``).
"""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.lang.jit import kernel, small_kernel
from orchestrator.kernels.state.access import device, node, request
from orchestrator.kernels.state.codes import NodeCode, Topology

__all__ = [
    "ANY_NUMBER",
    "WHOLE",
    "alone_slots",
    "amount_of",
    "device_shares",
    "device_slots",
    "distinct_nodes",
    "empty_device_shares",
    "free_share",
    "free_units",
    "is_new_node",
    "island_slots",
    "most_on_a_node",
    "node_allows",
    "node_units",
    "put_workers",
    "share_of",
    "tightest_device",
    "tightest_island",
    "units_of",
    "worker_share",
    "worker_slots",
    "worker_slots_when_empty",
    "workers_on",
]


WHOLE = 1000
"""Milli-GPUs of a device."""


ANY_NUMBER = np.int64(1 << 20)
"""Of workers: more than a node holds."""


_ONE = np.uint32(1)


_DEVICE = np.uint64(1)


@small_kernel
def amount_of(row, j, workers, by_gpu):
    """GPUs (``by_gpu``) or cores that ``workers`` workers of job ``j`` hold, thousandths."""
    ask = request(row, j)
    if by_gpu:
        return np.int64(workers) * ask.gpus_per_worker * ask.gpu_milli
    return np.int64(workers) * ask.cpu_milli


@small_kernel
def units_of(row, j, workers):
    """Capacity that ``workers`` workers of job ``j`` hold, in capacity units."""
    return amount_of(row, j, workers, row.unit != 0)


@small_kernel
def node_units(row, n):
    """Capacity of node ``n``, in capacity units."""
    if row.unit != 0:
        return np.int64(node(row, n).gpus) * WHOLE
    return np.int64(node(row, n).cpu_cap_milli)


@small_kernel
def free_units(row, n):
    """Free capacity of node ``n``, in capacity units."""
    if row.unit != 0:
        return np.int64(node(row, n).gpu_free_milli)
    return np.int64(node(row, n).cpu_free_milli)


@small_kernel
def most_on_a_node(row, j):
    """Workers of job ``j`` that no node has the devices to exceed."""
    ask = request(row, j)
    if ask.gpus_per_worker == 0:
        return ANY_NUMBER
    return np.int64(row.max_devices) * (WHOLE // ask.gpu_milli) // ask.gpus_per_worker


@small_kernel
def share_of(gpu_milli, cpu_milli):
    """GPUs and CPU as one number: GPUs first, CPU where there are equally many."""
    return gpu_milli * 1048576 + cpu_milli // 1024


@small_kernel
def free_share(row, n):
    """Free capacity of node ``n``, as :func:`share_of` has it."""
    return share_of(node(row, n).gpu_free_milli, node(row, n).cpu_free_milli)


@small_kernel
def worker_share(row, j):
    """What one worker of job ``j`` takes of it."""
    ask = request(row, j)
    return share_of(np.int64(ask.gpus_per_worker) * ask.gpu_milli, ask.cpu_milli)


@small_kernel
def put_workers(nodes, placed, n, count):
    """Put ``count`` workers of a gang, of which ``placed`` have a node, on node ``n``."""
    for w in range(placed, placed + count):
        nodes[w] = np.int32(n)
    return placed + count


@kernel
def workers_on(nodes, placed, n):
    """Workers of a gang, of which ``placed`` have a node, on node ``n``."""
    count = np.int64(0)
    for w in range(placed):
        count += nodes[w] == n
    return count


@small_kernel
def is_new_node(nodes, w):
    """Whether no worker before worker ``w`` of a gang, on ``nodes`` [workers], is on its node."""
    earlier = w - 1
    while earlier >= 0 and nodes[earlier] != nodes[w]:
        earlier -= 1
    return earlier < 0


@kernel
def distinct_nodes(nodes, workers):
    """Distinct nodes among the first ``workers`` entries."""
    count = 0
    for w in range(workers):
        count += is_new_node(nodes, w)
    return count


@small_kernel
def node_allows(row, j, n):
    """Whether a job's constraints admit node ``n``, however full it is."""
    ask = request(row, j)
    if ask.gpu_memory_mib > node(row, n).gpu_memory_mib and ask.gpus_per_worker > 0:
        return False
    mask = ask.model_mask
    return mask == 0 or (mask >> np.uint32(node(row, n).model)) & _ONE != 0


@small_kernel
def device_shares(row, n, g, milli, memory_mib):
    """Workers of a share (and of GPU memory, if asked for) that a device can still serve."""
    shares = device(row, n, g).free_milli // milli
    if memory_mib > 0:
        shares = min(shares, device(row, n, g).free_memory_mib // memory_mib)
    return shares


@small_kernel
def empty_device_shares(row, n, milli, memory_mib):
    """The same of a device of node ``n`` that is entirely free."""
    shares = np.int64(WHOLE // milli)
    if memory_mib > 0:
        shares = min(shares, np.int64(node(row, n).gpu_memory_mib // memory_mib))
    return shares


@kernel
def tightest_device(row, j, n, taken, first, last):
    """The device with least free that serves a worker of job ``j``, those taken left out, or -1.

    ``taken`` is a mask; devices go from ``first`` to ``last`` (exclusive).
    """
    ask = request(row, j)
    best, best_free = np.int64(-1), WHOLE + 1
    for g in range(first, last):
        free = device(row, n, g).free_milli
        if ask.gpu_milli <= free < best_free and (taken >> np.uint64(g)) & _DEVICE == 0:
            if device_shares(row, n, g, ask.gpu_milli, ask.gpu_memory_mib) > 0:
                best, best_free = np.int64(g), free
    return best


@kernel
def device_slots(row, j, n, first, last, limit):
    """Workers (at most ``limit``) whose GPUs devices ``first`` to ``last`` (exclusive) have."""
    ask = request(row, j)
    gpus, milli, memory = ask.gpus_per_worker, ask.gpu_milli, ask.gpu_memory_mib
    count, g = np.int64(0), np.int64(first)
    if milli == WHOLE:
        while g < last and count < limit * gpus:
            count += device(row, n, g).free_milli == WHOLE
            g += 1
        return min(limit, count // gpus)
    if gpus == 1:
        while g < last and count < limit:
            count += device_shares(row, n, g, milli, memory)
            g += 1
        return min(limit, count)
    # t workers fit if, each device serving a worker at most once, t * gpus shares can be had.
    t = np.int64(0)
    while t < limit:
        count, g = np.int64(0), np.int64(first)
        while g < last and count < (t + 1) * gpus:
            count += min(t + 1, np.int64(device_shares(row, n, g, milli, memory)))
            g += 1
        if count < (t + 1) * gpus:
            break
        t += 1
    return t


@small_kernel
def _host_slots(row, j, n, limit):
    """Workers for which the node has CPU and memory, and which it admits."""
    if node(row, n).state != NodeCode.UP or not node_allows(row, j, n):
        return np.int64(0)
    ask = request(row, j)
    slots = np.int64(limit)
    if ask.cpu_milli > 0:
        slots = min(slots, node(row, n).cpu_free_milli // ask.cpu_milli)
    if ask.memory_mib > 0:
        slots = min(slots, node(row, n).memory_free_mib // ask.memory_mib)
    return slots


@kernel
def worker_slots(row, j, n, limit):
    """Workers of job ``j``, at most ``limit``, that node ``n`` can hold now."""
    slots = _host_slots(row, j, n, limit)
    gpus = request(row, j).gpus_per_worker
    if gpus > 0 and slots > 0:
        if request(row, j).gpu_milli == WHOLE:
            return min(slots, np.int64(node(row, n).whole_free // gpus))
        return device_slots(row, j, n, 0, node(row, n).gpus, slots)
    return slots


@small_kernel
def _capacity_slots(row, j, n, limit):
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
    return slots


@small_kernel
def _slots_of_empty_devices(row, j, n, gpus):
    """Workers that ``gpus`` free devices of node ``n`` serve."""
    ask = request(row, j)
    if ask.gpus_per_worker > gpus:
        return np.int64(0)
    shares = empty_device_shares(row, n, ask.gpu_milli, ask.gpu_memory_mib)
    return shares * gpus // ask.gpus_per_worker


@kernel
def worker_slots_when_empty(row, j, n, limit):
    """Workers of job ``j``, at most ``limit``, that node ``n`` could hold if it were empty."""
    slots = _capacity_slots(row, j, n, limit)
    if request(row, j).gpus_per_worker > 0:
        slots = min(slots, _slots_of_empty_devices(row, j, n, node(row, n).gpus))
    return slots


@kernel
def island_slots(row, j, n, limit, empty):
    """Workers that one NVLink island of node ``n`` can hold, the best one for that.

    A node without islands has none that could; a job without GPUs needs none and counts as on
    a node.
    """
    ask = request(row, j)
    size = node(row, n).island
    if ask.gpus_per_worker == 0:
        if empty:
            return worker_slots_when_empty(row, j, n, limit)
        return worker_slots(row, j, n, limit)
    if size <= 0:
        return np.int64(0)
    if empty:
        slots = _capacity_slots(row, j, n, limit)
        return min(slots, _slots_of_empty_devices(row, j, n, min(size, node(row, n).gpus)))
    slots = _host_slots(row, j, n, limit)
    if slots <= 0:
        return np.int64(0)
    best = np.int64(0)
    first = np.int64(0)
    while first + size <= node(row, n).gpus:
        best = max(best, device_slots(row, j, n, first, first + size, slots))
        first += size
    return best


@kernel
def alone_slots(row, j, n, limit):
    """Workers, at most ``limit``, that node ``n`` can hold now within the domain that they need."""
    if request(row, j).topology == Topology.ISLAND:
        return island_slots(row, j, n, limit, False)
    return worker_slots(row, j, n, limit)


@kernel
def tightest_island(row, j, n, workers):
    """First device of the island with least free that holds the GPUs of ``workers``; -1 if none."""
    size = node(row, n).island
    best, best_free = np.int64(-1), np.int64(0)
    first = np.int64(0)
    while size > 0 and first + size <= node(row, n).gpus:
        if device_slots(row, j, n, first, first + size, np.int64(workers)) >= workers:
            free = 0
            for g in range(first, first + size):
                free += device(row, n, g).free_milli
            if best < 0 or free < best_free:
                best, best_free = first, free
        first += size
    return best
