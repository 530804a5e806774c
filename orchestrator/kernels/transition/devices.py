"""Reserve, step by step: which devices of its node a worker takes."""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.codes import NODE_CHOICE, Placement, Stream
from orchestrator.kernels.fragmentation import gradient_device
from orchestrator.kernels.jit import kernel
from orchestrator.kernels.randomness import random_bits
from orchestrator.kernels.scores import buddy_cell
from orchestrator.kernels.slots import WHOLE, device_shares, tightest_device, tightest_island
from orchestrator.kernels.tables import device, node, request

__all__ = ["choose_device", "device_range"]

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
    """Devices among which a worker's are chosen: an aligned cell, an island, or all of the node.

    Returns
    -------
    tuple of int
        First device, and the one after the last.
    """
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
