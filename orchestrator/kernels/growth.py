"""Where more workers of a running gang go."""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.codes import Topology
from orchestrator.kernels.feasibility import worker_slots
from orchestrator.kernels.jit import kernel, small_kernel
from orchestrator.kernels.tables import job, node, request, worker

__all__ = ["place_more"]


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
def _mates(row, j, n):
    """Workers of the gang that are on node ``n``."""
    count = np.int64(0)
    for w in range(job(row, j).workers_now):
        if worker(row, j, w).node == n:
            count += 1
    return count


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
        best, best_slots, best_mates, best_free = -1, np.int64(0), np.int64(0), np.int64(0)
        for n in range(row.num_nodes):
            chosen = False
            for k in range(placed):
                chosen = chosen or nodes[k] == n
            if chosen or not _stays_close(row, j, n):
                continue
            slots = worker_slots(row, j, n, left)
            if slots == 0:
                continue
            mates = _mates(row, j, n)
            free = node(row, n).gpu_free_milli if row.unit != 0 else node(row, n).cpu_free_milli
            better = mates > best_mates
            if mates == best_mates:
                better = slots > best_slots or (slots == best_slots and free < best_free)
            if best < 0 or better:
                best, best_slots, best_mates, best_free = n, slots, mates, free
        if best < 0:
            break
        for k in range(placed, placed + best_slots):
            nodes[k] = np.int32(best)
        placed += best_slots
    return placed
