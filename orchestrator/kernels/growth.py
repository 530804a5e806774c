"""Where more workers of a running gang go."""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.codes import Topology
from orchestrator.kernels.feasibility import worker_slots
from orchestrator.kernels.jit import kernel, small_kernel
from orchestrator.kernels.place.memo import find_kind
from orchestrator.kernels.slots import device_slots, free_units, put_workers, workers_on
from orchestrator.kernels.tables import job, kind, node, request, uplink, worker

__all__ = ["has_room_for_one", "island_of", "place_more"]

_ONE = np.uint64(1)


@small_kernel
def _stays_close(row, j, n):
    """Whether node ``n`` lies in the topology domain that the gang must not leave."""
    first = worker(row, j, 0).node
    topology = request(row, j).topology
    if topology == Topology.ANY or n == first:
        return True
    if topology == Topology.SPINE:
        return node(row, n).spine == node(row, first).spine
    if topology == Topology.RACK:
        return node(row, n).rack == node(row, first).rack
    return False


@kernel
def island_of(row, j):
    """First device and the end of the island that a gang must stay in; (0, 0) if it need not."""
    if request(row, j).topology != Topology.ISLAND or request(row, j).gpus_per_worker == 0:
        return np.int64(0), np.int64(0)
    size = np.int64(node(row, worker(row, j, 0).node).island)
    devices = worker(row, j, 0).devices
    g = np.int64(0)
    while (devices >> np.uint64(g)) & _ONE == 0:
        g += 1
    first = g // size * size
    return first, first + size


@kernel
def _mates(row, j, n):
    """Workers of the gang that are on node ``n``."""
    count = np.int64(0)
    for w in range(job(row, j).workers_now):
        if worker(row, j, w).node == n:
            count += 1
    return count


@kernel
def _slots(row, j, n, mates, limit):
    """Workers, at most ``limit``, that the gang may add on node ``n``.

    A gang with traffic grows only where it is: on another node, all of its workers would begin to
    need bandwidth.
    """
    ask = request(row, j)
    slots = worker_slots(row, j, n, limit)
    first, last = island_of(row, j)
    if last > 0 and slots > 0:
        slots = device_slots(row, j, n, first, last, slots)
    if ask.bandwidth_mbps == 0 or slots == 0:
        return slots
    if mates == 0:
        return np.int64(0)
    if mates == job(row, j).workers_now:  # on one node no link is used
        return slots
    if node(row, n).bandwidth_mbps > 0:
        slots = min(slots, node(row, n).bandwidth_free_mbps // ask.bandwidth_mbps)
    rack = node(row, n).rack
    if job(row, j).spread < Topology.RACK and rack < row.num_uplinks:
        if uplink(row, rack).capacity_mbps > 0:
            slots = min(slots, uplink(row, rack).free_mbps // ask.bandwidth_mbps)
    return max(slots, np.int64(0))


@kernel
def place_more(row, j, count, nodes):
    """Choose nodes for ``count`` more workers of a running gang.

    Nodes that hold many of the gang come first, then those that hold most of what is left and
    have least to spare; of equals, the first one.

    Parameters
    ----------
    row : ROW_DTYPE record
    j : int
        A running job.
    count : int
        Workers to add.
    nodes : int32 [>= count]
        Filled.

    Returns
    -------
    int
        Workers that found a place, at most ``count``.
    """
    placed = np.int64(0)
    while placed < count:
        left = count - placed
        best, best_slots, best_mates, best_free = (
            np.int64(-1),
            np.int64(0),
            np.int64(0),
            np.int64(0),
        )
        for n in range(row.num_nodes):
            if workers_on(nodes, placed, n) > 0 or not _stays_close(row, j, n):
                continue
            mates = _mates(row, j, n)
            slots = _slots(row, j, n, mates, left)
            if slots == 0:
                continue
            free = free_units(row, n)
            better = mates > best_mates
            if mates == best_mates:
                better = slots > best_slots or (slots == best_slots and free < best_free)
            if best < 0 or better:
                best, best_slots, best_mates, best_free = n, slots, mates, free
        if best < 0:
            break
        placed = put_workers(nodes, placed, best, best_slots)
        if request(row, j).bandwidth_mbps > 0:
            break  # what it takes of a shared uplink is not known until it is reserved
    return placed


@kernel
def has_room_for_one(row, j, nodes):
    """Whether one more worker of a running gang has a place; ``nodes``, int32 [>= 1], is scratch.

    Where it is remembered, nobody looks for it.
    """
    ask = request(row, j)
    if job(row, j).kind > 0 and ask.topology == Topology.ANY and ask.bandwidth_mbps == 0:
        return kind(row, find_kind(row, j)).total > 0
    return place_more(row, j, np.int64(1), nodes) == 1
