"""Placement generators: for one job, a node for each worker of its gang, or nothing.

All of them fill ``nodes`` [>= workers], a buffer of the caller's, and return how many workers
found a place: as many as the job asks for, or fewer (not below its minimum) if it is elastic, or
none. They read the state and never write it.
"""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.codes import NODE_CHOICE, Placement, Stream
from orchestrator.kernels.domains import is_bound, place_in_domains
from orchestrator.kernels.feasibility import least_units, least_workers
from orchestrator.kernels.index import fill_by_index, has_index
from orchestrator.kernels.jit import kernel, small_kernel
from orchestrator.kernels.randomness import random_below
from orchestrator.kernels.scores import NO_KEY, free_share, node_key
from orchestrator.kernels.slots import alone_slots, worker_slots
from orchestrator.kernels.tables import request

__all__ = ["chosen_node", "place_gang", "place_workers"]


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


@kernel
def _fill_by_key(row, j, workers, generator, nodes):
    """Fill one node after the other, the one of the highest key first."""
    placed = np.int64(0)
    while placed < workers:
        left = workers - placed
        best, best_slots, best_key = np.int64(-1), np.int64(0), NO_KEY
        for n in range(row.num_nodes):
            slots = worker_slots(row, j, n, left)
            if slots <= 0 or (placed > 0 and _taken(nodes, placed, n) > 0):
                continue
            key = node_key(row, j, n, slots, generator)
            if key > best_key:
                best, best_slots, best_key = n, slots, key
        if best < 0:
            break
        placed = _fill(nodes, placed, best, best_slots)
    return placed


@kernel
def _spread(row, j, workers, nodes):
    """One worker at a time on the node with the most room left."""
    for placed in range(workers):
        best, best_room = np.int64(-1), np.int64(0)
        for n in range(row.num_nodes):
            taken = _taken(nodes, placed, n)
            if worker_slots(row, j, n, taken + 1) <= taken:
                continue
            ask = request(row, j)
            room = free_share(row, n) + 1
            room -= taken * (np.int64(ask.gpus_per_worker) * ask.gpu_milli * 1048576)
            room -= taken * (ask.cpu_milli // 1024)
            if best < 0 or room > best_room:
                best, best_room = n, room
        if best < 0:
            return np.int64(placed)
        nodes[placed] = np.int32(best)
    return workers


@kernel
def _fill_node(row, j, workers, n, nodes):
    """As many workers as fit on node ``n``."""
    if n >= row.num_nodes:
        return np.int64(0)
    return _fill(nodes, np.int64(0), n, alone_slots(row, j, n, workers))


@kernel
def place_workers(row, j, workers, generator, nodes):
    """Choose nodes for up to ``workers`` workers of job ``j``; how many found a place.

    Arguments as of :func:`place_gang`.
    """
    if generator >= NODE_CHOICE:
        return _fill_node(row, j, workers, np.int64(generator - NODE_CHOICE), nodes)
    offset = np.int64(0)
    if generator == Placement.RANDOM or generator == Placement.UNIFORM:
        offset = random_below(row.seed, Stream.PLACEMENT, row.point, row.num_nodes)
    if is_bound(row, j) or (generator == Placement.TIGHTEST and workers > 1):
        return place_in_domains(row, j, workers, generator, offset, nodes)
    if generator == Placement.SPREAD:
        return _spread(row, j, workers, nodes)
    key = np.int64(generator)
    if generator == Placement.TIGHTEST:
        key = np.int64(Placement.BEST_FIT)
    by_index = has_index(row) and generator != Placement.UNIFORM
    if generator == Placement.RANDOM or (generator == Placement.FIRST_FIT and not by_index):
        return _first_fit(row, j, workers, nodes, offset)
    if by_index:
        return fill_by_index(row, j, workers, key, nodes)
    return _fill_by_key(row, j, workers, key, nodes)


@kernel
def place_gang(row, j, generator, nodes):
    """Choose a node for each worker of job ``j``.

    Parameters
    ----------
    row : ROW_DTYPE record
    j : int
        Job.
    generator : int
        A ``Placement``, or ``NODE_CHOICE + n`` for node ``n``.
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


@kernel
def chosen_node(row, j, generator, nodes):
    """The node on which a generator places the whole gang of job ``j``, or -1; see place_gang."""
    placed = place_gang(row, j, generator, nodes)
    for w in range(1, placed):
        if nodes[w] != nodes[0]:
            return np.int64(-1)
    return np.int64(nodes[0]) if placed > 0 else np.int64(-1)
