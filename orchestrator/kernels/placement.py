"""Placement generators: for one job, a node for each worker of its gang, or nothing.

All of them fill ``nodes`` [>= workers], a buffer of the caller's, and return how many workers
found a place: as many as the job asks for, or fewer (not below its minimum) if it is elastic, or
none. They read the state and never write it.
"""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.codes import Placement, Stream
from orchestrator.kernels.feasibility import least_units, least_workers, worker_slots
from orchestrator.kernels.jit import kernel, small_kernel
from orchestrator.kernels.randomness import random_below
from orchestrator.kernels.tables import node, request

__all__ = ["place_gang", "place_workers"]


@kernel
def _taken(nodes, placed, n):
    """Workers of this gang that are on node ``n`` already."""
    count = np.int64(0)
    for w in range(placed):
        if nodes[w] == n:
            count += 1
    return count


@small_kernel
def _fill(nodes, placed, n, count):
    for w in range(placed, placed + count):
        nodes[w] = np.int32(n)
    return placed + count


@kernel
def _first_fit(row, j, workers, nodes, offset):
    """Nodes in order of their index, starting at ``offset``, each filled up."""
    total = row.num_nodes
    placed = np.int64(0)
    for k in range(total):
        n = (k + offset) % total
        placed = _fill(nodes, placed, n, worker_slots(row, j, n, workers - placed))
        if placed == workers:
            break
    return placed


@small_kernel
def _free_share(row, n):
    """Free capacity of a node: GPUs first, CPU between nodes of equal GPUs."""
    return node(row, n).gpu_free_milli * 1048576 + node(row, n).cpu_free_milli // 1024


@kernel
def _best_fit(row, j, workers, nodes):
    """The tightest node that holds all that is left; if there is none, the one that holds most."""
    placed = np.int64(0)
    while placed < workers:
        left = workers - placed
        best, best_slots, best_free = -1, np.int64(0), np.int64(0)
        for n in range(row.num_nodes):
            slots = np.int64(0)
            if _taken(nodes, placed, n) == 0:
                slots = worker_slots(row, j, n, left)
            free = _free_share(row, n)
            if slots > best_slots or (slots > 0 and slots == best_slots and free < best_free):
                best, best_slots, best_free = n, slots, free
        if best < 0:
            break
        placed = _fill(nodes, placed, best, best_slots)
    return placed


@kernel
def _spread(row, j, workers, nodes):
    """One worker at a time on the node with the most room left."""
    for placed in range(workers):
        best, best_room = -1, np.int64(0)
        for n in range(row.num_nodes):
            taken = _taken(nodes, placed, n)
            if worker_slots(row, j, n, taken + 1) <= taken:
                continue
            ask = request(row, j)
            room = _free_share(row, n) + 1
            room -= taken * (np.int64(ask.gpus_per_worker) * ask.gpu_milli * 1048576)
            room -= taken * (ask.cpu_milli // 1024)
            if best < 0 or room > best_room:
                best, best_room = n, room
        if best < 0:
            return np.int64(placed)
        nodes[placed] = np.int32(best)
    return workers


@kernel
def place_workers(row, j, workers, generator, nodes):
    """Choose nodes for up to ``workers`` workers of job ``j``; how many found a place.

    Arguments as of :func:`place_gang`.
    """
    if generator == Placement.BEST_FIT:
        return _best_fit(row, j, workers, nodes)
    if generator == Placement.SPREAD:
        return _spread(row, j, workers, nodes)
    offset = np.int64(0)
    if generator == Placement.RANDOM:
        counter = (row.point << 32) + j  # the same in a table that grows
        offset = random_below(row.seed, Stream.PLACEMENT, counter, row.num_nodes)
    return _first_fit(row, j, workers, nodes, offset)


@kernel
def place_gang(row, j, generator, nodes):
    """Choose a node for each worker of job ``j``.

    Parameters
    ----------
    row : ROW_DTYPE record
    j : int
        Job.
    generator : int
        A ``Placement``.
    nodes : int32 [>= workers]
        Filled with node indices.

    Returns
    -------
    int
        Workers placed, 0 if fewer than the job needs; ``nodes`` is meaningless beyond.
    """
    if least_units(row, j) > row.free_units:
        return np.int64(0)
    placed = place_workers(row, j, np.int64(request(row, j).workers), generator, nodes)
    return placed if placed >= least_workers(row, j) else np.int64(0)
