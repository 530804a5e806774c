"""Reserve and release: exact inverses of each other, down to the device."""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.codes import NodeCode, Topology
from orchestrator.kernels.jit import kernel, small_kernel
from orchestrator.kernels.scores import worker_kind
from orchestrator.kernels.slots import WHOLE, tightest_island, units_of
from orchestrator.kernels.tables import device, job, node, request, tag, uplink, worker
from orchestrator.kernels.transition.devices import choose_device, device_range
from orchestrator.kernels.transition.layout import touch_node
from orchestrator.kernels.transition.tenants import charge_worker

__all__ = [
    "gang_spread",
    "release_gang",
    "release_traffic",
    "release_worker",
    "reserve_gang",
    "reserve_traffic",
    "reserve_worker",
    "retake_worker",
]

_ONE = np.uint64(1)


@small_kernel
def _count_free(row, n, units):
    """Capacity that is free on a draining node is no longer on offer."""
    if node(row, n).state == NodeCode.UP:
        row.free_units += units


@small_kernel
def _take_device(row, n, g, milli, memory_mib):
    free = device(row, n, g).free_milli
    if free == WHOLE:
        node(row, n).whole_free -= 1
    device(row, n, g).free_milli = free - milli
    device(row, n, g).free_memory_mib -= memory_mib


@small_kernel
def _give_device(row, n, g, milli, memory_mib):
    free = device(row, n, g).free_milli + milli
    device(row, n, g).free_milli = free
    device(row, n, g).free_memory_mib += memory_mib
    if free == WHOLE:
        node(row, n).whole_free += 1


@kernel
def _count_worker(row, j, n, sign):
    """Take (+1) or give back (-1) what a worker holds on its node besides devices."""
    ask = request(row, j)
    node(row, n).cpu_free_milli -= sign * ask.cpu_milli
    node(row, n).memory_free_mib -= sign * ask.memory_mib
    node(row, n).gpu_free_milli -= sign * ask.gpus_per_worker * ask.gpu_milli
    node(row, n).workers += np.int64(sign)
    if ask.gpus_per_worker > 0:
        tag(row, n, worker_kind(row, j)).workers += np.int64(sign)
    units = units_of(row, j, np.int64(1))
    _count_free(row, n, -sign * units)
    charge_worker(row, j, units, np.int64(sign))
    touch_node(row, n)


@kernel
def reserve_worker(row, j, w, n, generator, first, last):
    """Reserve worker ``w`` of job ``j`` on node ``n``.

    Parameters
    ----------
    row : ROW_DTYPE record
    j, w, n : int
        Job, worker and node.
    generator : int
        The ``Placement`` that chose the node: it chooses the devices, too.
    first, last : int
        Devices to choose from, ``last`` exclusive; ``last`` 0: as the generator likes.

    Returns
    -------
    bool
        False, and nothing changed, if the node cannot hold it.
    """
    ask = request(row, j)
    host = node(row, n)
    if host.cpu_free_milli < ask.cpu_milli or host.memory_free_mib < ask.memory_mib:
        return False
    if last == 0:
        first, last = device_range(row, j, n, generator)
    taken = np.uint64(0)
    for _ in range(ask.gpus_per_worker):
        g = choose_device(row, j, n, generator, taken, first, last)
        if g < 0:
            for h in range(host.gpus):
                if (taken >> np.uint64(h)) & _ONE != 0:
                    _give_device(row, n, h, ask.gpu_milli, ask.gpu_memory_mib)
            return False
        _take_device(row, n, g, ask.gpu_milli, ask.gpu_memory_mib)
        taken |= _ONE << np.uint64(g)
    worker(row, j, w).node = n
    worker(row, j, w).devices = taken
    _count_worker(row, j, n, 1)
    return True


@kernel
def release_worker(row, j, w):
    """Give back what worker ``w`` of job ``j`` holds; its record of where stays."""
    ask = request(row, j)
    n = worker(row, j, w).node
    devices = worker(row, j, w).devices
    g = 0
    while devices != 0:
        if devices & _ONE != 0:
            _give_device(row, n, g, ask.gpu_milli, ask.gpu_memory_mib)
        devices >>= _ONE
        g += 1
    _count_worker(row, j, n, -1)


@kernel
def retake_worker(row, j, w):
    """Take again exactly what :func:`release_worker` gave back."""
    ask = request(row, j)
    n = worker(row, j, w).node
    devices = worker(row, j, w).devices
    g = 0
    while devices != 0:
        if devices & _ONE != 0:
            _take_device(row, n, g, ask.gpu_milli, ask.gpu_memory_mib)
        devices >>= _ONE
        g += 1
    _count_worker(row, j, n, 1)


@kernel
def gang_spread(row, j, workers):
    """The narrowest domain that holds the first workers of job ``j``, NODE at best."""
    first = worker(row, j, 0).node
    level = np.int64(Topology.NODE)
    for w in range(1, workers):
        n = worker(row, j, w).node
        if n == first:
            continue
        if node(row, n).spine != node(row, first).spine:
            return np.int64(Topology.ANY)
        if node(row, n).rack != node(row, first).rack:
            level = np.int64(Topology.SPINE)
        else:
            level = min(level, np.int64(Topology.RACK))
    return level


@kernel
def _count_traffic(row, j, workers, sign):
    """Take (+1) or give back (-1) the bandwidth of a gang; whether none is overdrawn."""
    traffic = np.int64(request(row, j).bandwidth_mbps)
    if traffic == 0 or workers == 0:
        return True
    level = gang_spread(row, j, workers)
    enough = True
    for w in range(workers):
        n = worker(row, j, w).node
        if level < Topology.NODE and node(row, n).bandwidth_mbps > 0:
            node(row, n).bandwidth_free_mbps -= sign * traffic
            enough = enough and node(row, n).bandwidth_free_mbps >= 0
        rack = node(row, n).rack
        if level < Topology.RACK and rack < row.num_uplinks and uplink(row, rack).capacity_mbps > 0:
            uplink(row, rack).free_mbps -= sign * traffic
            enough = enough and uplink(row, rack).free_mbps >= 0
    return enough


@kernel
def reserve_traffic(row, j, workers):
    """Reserve the bandwidth of a gang whose first ``workers`` workers are placed, or nothing.

    Returns
    -------
    bool
        Whether there was enough.
    """
    if _count_traffic(row, j, workers, 1):
        return True
    _count_traffic(row, j, workers, -1)
    return False


@kernel
def release_traffic(row, j, workers):
    """Give back what :func:`reserve_traffic` took; the workers must still be where they were."""
    _count_traffic(row, j, workers, -1)


@kernel
def _reserve_workers(row, j, nodes, workers, generator):
    """Reserve the workers of a gang, all or none."""
    first, last = np.int64(0), np.int64(0)
    if request(row, j).topology == Topology.ISLAND and request(row, j).gpus_per_worker > 0:
        first = np.int64(tightest_island(row, j, np.int64(nodes[0]), workers))
        if first < 0:
            return False
        last = first + node(row, nodes[0]).island
    for w in range(workers):
        if not reserve_worker(row, j, w, np.int64(nodes[w]), generator, first, last):
            for undo in range(w):
                release_worker(row, j, undo)
            return False
    return True


@kernel
def reserve_gang(row, j, nodes, workers, generator):
    """Reserve ``workers`` workers of job ``j`` on ``nodes`` [>= workers], or none of them.

    The gang must be within the domain that the job requires, and have the bandwidth that it needs.

    Parameters
    ----------
    row : ROW_DTYPE record
    j : int
        Job.
    nodes : int32 [>= workers]
        A node for each worker.
    workers : int
        How many.
    generator : int
        The ``Placement`` that chose them: it chooses the devices, too.

    Returns
    -------
    bool
        Whether the gang was reserved.
    """
    if not _reserve_workers(row, j, nodes, workers, generator):
        return False
    needed = min(np.int64(request(row, j).topology), np.int64(Topology.NODE))
    bound = needed != Topology.ANY and workers > 1
    if (bound and gang_spread(row, j, workers) < needed) or not reserve_traffic(row, j, workers):
        for undo in range(workers):
            release_worker(row, j, undo)
        return False
    job(row, j).workers_now = np.int64(workers)
    return True


@kernel
def release_gang(row, j):
    """Give back everything that job ``j`` holds."""
    release_traffic(row, j, job(row, j).workers_now)
    for w in range(job(row, j).workers_now):
        release_worker(row, j, w)
    job(row, j).workers_now = 0
