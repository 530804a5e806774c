"""Reserve and release: devices, nodes, uplinks and tenants' accounts of a gang's workers.

A row without tenants (``num_tenants`` is 0) keeps no accounts.

``lift_gang`` frees what a job holds without changing its state or the log; ``restore_gang`` puts
back the very same devices. Between the two only other lifts and restores may happen.
"""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.lang.jit import kernel, small_kernel
from orchestrator.kernels.lang.memory import copy_record
from orchestrator.kernels.lang.numbers import random_bits
from orchestrator.kernels.place.memo import forget_nodes
from orchestrator.kernels.place.score import buddy_cell, fragmentation, gradient_device, worker_kind
from orchestrator.kernels.place.slots import (
    WHOLE,
    device_shares,
    tightest_device,
    tightest_island,
    units_of,
)
from orchestrator.kernels.state.access import (
    device,
    job,
    node,
    order,
    request,
    room,
    tag,
    tenant,
    touch,
    typical,
    uplink,
    worker,
)
from orchestrator.kernels.state.codes import NODE_CHOICE, NodeCode, Placement, Stream, Topology
from orchestrator.kernels.state.records import TAGS

__all__ = [
    "charge_service",
    "charge_worker",
    "choose_device",
    "device_range",
    "empty_node",
    "free_storage",
    "gang_spread",
    "hold_storage",
    "lift_gang",
    "load_typical",
    "load_uplinks",
    "recount_tenants",
    "release_gang",
    "release_traffic",
    "release_worker",
    "reserve_gang",
    "reserve_traffic",
    "reserve_worker",
    "restore_gang",
    "retake_worker",
    "sort_in",
    "sort_nodes",
    "touch_node",
]


_ONE = np.uint64(1)


_TWO = np.uint64(2)


@kernel
def _roomiest_device(row, j, n, taken, first, last):
    """The device with room for most shares; of those, the one with the least left over."""
    ask = request(row, j)
    best, best_shares, best_free = np.int64(-1), 0, 0
    for g in range(first, last):
        if (taken >> np.uint64(g)) & _ONE != 0:
            continue
        free = device(row, n, g).free_milli
        shares = device_shares(row, n, g, ask.gpu_milli, ask.gpu_memory_mib)
        if shares > best_shares or (shares == best_shares > 0 and free < best_free):
            best, best_shares, best_free = g, shares, free
    return best


@kernel
def _random_device(row, j, n, first, last):
    """Any device that fits, all equally likely."""
    ask = request(row, j)
    counter = (row.point << 32) + j
    best, best_bits = np.int64(-1), np.int64(-1)
    for g in range(first, last):
        if device_shares(row, n, g, ask.gpu_milli, ask.gpu_memory_mib) > 0:
            word = random_bits(row.seed + np.uint64(counter), Stream.PLACEMENT, ~np.int64(g))
            bits = np.int64(word >> _TWO)
            if bits > best_bits:
                best, best_bits = g, bits
    return best


@kernel
def device_range(row, j, n, generator):
    """Range (first, end) to choose a worker's devices from: an aligned cell, an island, or all."""
    ask = request(row, j)
    gpus = np.int64(node(row, n).gpus)
    if ask.gpu_milli == WHOLE and ask.gpus_per_worker > 0:
        if generator == Placement.BUDDY:
            _, first = buddy_cell(row, n, ask.gpus_per_worker)
            if first >= 0:
                return np.int64(first), gpus
        elif generator == Placement.TIGHTEST:
            first = tightest_island(row, j, n, 1)
            if first >= 0:
                return np.int64(first), np.int64(first) + node(row, n).island
    return np.int64(0), gpus


@kernel
def choose_device(row, j, n, generator, taken, first, last):
    """The next device of a worker, from ``first`` to ``last`` (exclusive); -1 if none serves it."""
    ask = request(row, j)
    if ask.gpus_per_worker > 1 and ask.gpu_milli < WHOLE:
        # Were the tightest taken first, those left over could be too few for the next worker of
        # the gang, although `slots.worker_slots` promised it a place.
        if ask.workers > 1 or ask.elastic != 0:
            return _roomiest_device(row, j, n, taken, first, last)
    elif ask.gpu_milli < WHOLE:
        whole_node = first == 0 and last == node(row, n).gpus
        by_gradient = generator == Placement.FGD or generator >= NODE_CHOICE
        if by_gradient and row.num_typical > 0 and whole_node:
            _, best, _ = gradient_device(row, j, n)
            return best
        if generator == Placement.UNIFORM:
            return _random_device(row, j, n, first, last)
    return tightest_device(row, j, n, taken, first, last)


@small_kernel
def _has_account(row, j):
    return request(row, j).tenant < row.num_tenants


@small_kernel
def charge_worker(row, j, units, sign):
    """A worker of job ``j`` was reserved (``sign`` 1) or released (-1)."""
    if _has_account(row, j):
        ask = request(row, j)
        t = ask.tenant
        gpus = np.int64(ask.gpus_per_worker) * ask.gpu_milli
        tenant(row, t).used_units += sign * units
        tenant(row, t).used_gpu_milli += sign * gpus
        tenant(row, t).used_cpu_milli += sign * np.int64(ask.cpu_milli)
        tenant(row, t).used_memory_mib += sign * ask.memory_mib


@small_kernel
def charge_service(row, j, unit_ms):
    """Job ``j`` has held capacity for a time."""
    if _has_account(row, j):
        tenant(row, request(row, j).tenant).attained_unit_ms += unit_ms


@small_kernel
def hold_storage(row, j):
    """From its first start on, a job's checkpoints take their tenant's storage."""
    if _has_account(row, j):
        tenant(row, request(row, j).tenant).storage_mib += request(row, j).storage_mib


@small_kernel
def free_storage(row, j):
    """A job that had started has ended: its checkpoints are deleted."""
    if _has_account(row, j):
        tenant(row, request(row, j).tenant).storage_mib -= request(row, j).storage_mib


@kernel
def recount_tenants(row):
    """What tenants hold, in capacity units, anew: the unit may have changed."""
    for t in range(row.num_tenants):
        by_gpu = row.unit != 0
        tenant(row, t).used_units = (
            tenant(row, t).used_gpu_milli if by_gpu else tenant(row, t).used_cpu_milli
        )


_NOTHING = np.uint64(0)


@small_kernel
def touch_node(row, n):
    """Something on node ``n`` changed that placements depend on."""
    entry = touch(row, row.touched & (row.max_touches - 1))
    entry.node = np.int64(n)
    if row.kinds > 0:
        entry.before = room(row, n).touched
        room(row, n).touched = row.touched
    row.touched += 1
    if row.num_typical > 0:
        node(row, n).fragmentation = fragmentation(row, n, np.int64(0), _NOTHING, np.int64(0))


@kernel
def empty_node(row, n):
    """Make all of a node's capacity free, with nobody on it."""
    host = node(row, n)
    node(row, n).cpu_free_milli = host.cpu_cap_milli
    node(row, n).memory_free_mib = host.memory_cap_mib
    node(row, n).gpu_free_milli = np.int64(host.gpus) * 1000
    node(row, n).whole_free = host.gpus
    node(row, n).bandwidth_free_mbps = host.bandwidth_mbps
    node(row, n).workers = 0
    node(row, n).fragmentation = 0.0
    for g in range(row.max_devices):
        device(row, n, g).free_milli = 1000 if g < host.gpus else 0
        device(row, n, g).free_memory_mib = host.gpu_memory_mib if g < host.gpus else 0
    for kind in range(TAGS):
        tag(row, n, kind).workers = 0
    touch_node(row, n)


@small_kernel
def _after(row, a, b):
    """Whether node ``a`` goes after node ``b`` in the order of (spine, rack, index)."""
    x, y = node(row, a), node(row, b)
    if x.spine != y.spine:
        return x.spine > y.spine
    if x.rack != y.rack:
        return x.rack > y.rack
    return a > b


@kernel
def sort_nodes(row):
    """Put the nodes in the order of (spine, rack, index)."""
    for n in range(row.num_nodes):
        k = n
        while k > 0 and _after(row, order(row, k - 1).node, np.int64(n)):
            order(row, k).node = order(row, k - 1).node
            k -= 1
        order(row, k).node = np.int64(n)


@kernel
def sort_in(row, n, count):
    """Put node ``n`` in its place among the first ``count`` of the order, it being one or not."""
    k, found = np.int64(0), False
    while k < count and not found:
        found = order(row, k).node == n
        k += 1
    if found:
        for i in range(k, count):
            order(row, i - 1).node = order(row, i).node
        count -= 1
    k = np.int64(count)
    while k > 0 and _after(row, order(row, k - 1).node, n):
        order(row, k).node = order(row, k - 1).node
        k -= 1
    order(row, k).node = np.int64(n)


@kernel
def load_typical(row, pods):
    """Give a row its typical pods, TYPICAL_DTYPE [n], and measure every node by them."""
    row.num_typical = pods.shape[0]
    for t in range(pods.shape[0]):
        copy_record(typical(row, t), pods[t])
    for n in range(row.num_nodes):
        node(row, n).fragmentation = 0.0
        touch_node(row, n)
    forget_nodes(row)


@kernel
def load_uplinks(row, uplinks):
    """Give a row the uplinks of its racks, UPLINK_DTYPE [racks], all free. Nobody may run yet."""
    row.num_uplinks = uplinks.shape[0]
    for rack in range(uplinks.shape[0]):
        uplink(row, rack).capacity_mbps = uplinks[rack].capacity_mbps
        uplink(row, rack).free_mbps = uplinks[rack].capacity_mbps


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
    """Reserve worker ``w`` of job ``j`` on node ``n``; False, and no change, if it does not fit.

    ``generator`` chose the node and chooses the devices, too: from ``first`` to ``last``
    (exclusive), or, if ``last`` is 0, as it likes.
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
    """Reserve bandwidth for a gang's first ``workers`` workers, all placed: all (True) or none."""
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
    """Reserve ``workers`` workers of job ``j`` on ``nodes``, a node for each: all (True) or none.

    The gang must be within the domain that the job requires, and have the bandwidth that it needs.
    ``generator`` chose the nodes and chooses the devices, too.
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
