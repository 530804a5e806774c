"""What is derived from nodes: free capacity, the order by domain, and what placement remembers."""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.fragmentation import fragmentation
from orchestrator.kernels.jit import kernel, small_kernel
from orchestrator.kernels.packing_state import TAGS
from orchestrator.kernels.place.memo import forget_nodes
from orchestrator.kernels.tables import (
    copy_record,
    device,
    node,
    order,
    room,
    tag,
    touch,
    typical,
    uplink,
)

__all__ = [
    "empty_node",
    "load_typical",
    "load_uplinks",
    "sort_nodes",
    "touch_node",
]

_NOTHING = np.uint64(0)


@small_kernel
def touch_node(row, n):
    """Something on node ``n`` changed that placements depend on."""
    touch(row, row.touched & (row.max_touches - 1)).node = np.int64(n)
    if row.kinds > 0:
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
