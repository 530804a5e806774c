"""How good a node is for a worker: the key of each placement, and fragmentation.

F(n) = sum over classes m of typical pods of p_m f(n, m), where f is all idle milli-GPUs if m cannot
run on n or needs no GPU, and else the idle milli-GPUs of devices whose idle share is below m's.
Classes are added up by the reason why they cannot run, and the reasons in a fixed order: scores are
truncated to integers, so that the order of floating-point additions is part of the definition.

Keys depend on the request, on what is on the node, and on nothing else (but for UNIFORM), so that
they can be kept until the node changes. Nodes of equal key are taken in the order of their index.
"""

from __future__ import annotations

import math

import numpy as np

from orchestrator.kernels.lang.jit import kernel, small_kernel
from orchestrator.kernels.lang.numbers import random_bits
from orchestrator.kernels.place.slots import WHOLE, device_shares, free_share, tightest_device
from orchestrator.kernels.state.access import device, node, request, tag, typical
from orchestrator.kernels.state.codes import Placement, Stream

__all__ = [
    "FREE_BITS",
    "MOST_FREE",
    "NO_KEY",
    "buddy_cell",
    "fragmentation",
    "fragmentation_after",
    "gradient_device",
    "gradient_score",
    "node_key",
    "score_change",
    "worker_kind",
]


_NONE = np.uint64(0)


_ONE = np.uint64(1)


_BIT = np.uint32(1)


@small_kernel
def _idle(row, n, g, taken, milli):
    """Idle share of a device, less ``milli`` if it is one of those taken."""
    free = np.int64(device(row, n, g).free_milli)
    if (taken >> np.uint64(g)) & _ONE != 0:
        free -= milli
    return free


@kernel
def fragmentation(row, n, cpu_milli, taken, milli):
    """F of node ``n``, milli-GPUs, if some CPU and ``milli`` of some devices were gone.

    These are ``cpu_milli``, and the devices of the mask ``taken``.
    """
    cpu = node(row, n).cpu_free_milli - cpu_milli
    gpus = node(row, n).gpus
    idle = np.int64(0)
    for g in range(gpus):
        idle += _idle(row, n, g, taken, milli)
    lacks_both, lacks_gpu, lacks_cpu = 0.0, 0.0, 0.0
    no_gpu, no_gpu_no_cpu, no_access = 0.0, 0.0, 0.0
    for t in range(row.num_typical):
        pod = typical(row, t)
        weight = pod.weight
        enough_cpu = cpu >= pod.cpu_milli
        if pod.gpus == 0 or pod.gpu_milli == 0:
            if enough_cpu:
                no_gpu += weight * idle
            else:
                no_gpu_no_cpu += weight * idle
            continue
        mask = pod.model_mask
        if mask != 0 and (mask >> np.uint32(node(row, n).model)) & _BIT == 0:
            no_access += weight * idle
            continue
        able, lost = 0, np.int64(0)
        for g in range(gpus):
            free = _idle(row, n, g, taken, milli)
            if free >= pod.gpu_milli:
                able += 1
            else:
                lost += free
        if able >= pod.gpus:
            if enough_cpu:
                lacks_gpu += weight * lost
            else:
                lacks_cpu += weight * idle
        elif enough_cpu:
            lacks_gpu += weight * idle
        else:
            lacks_both += weight * idle
    return lacks_both + lacks_gpu + lacks_cpu + no_gpu + no_gpu_no_cpu + no_access


@small_kernel
def score_change(before, after):
    """FGD's score of a change of F: 100 sigmoid((F before - F after) / 1000), truncated."""
    return np.int64(1.0 / (1.0 + math.exp(-((before - after) / 1000.0))) * 100.0)


@kernel
def _tightest(row, j, n):
    """Mask of the devices that a worker takes in ascending order of their idle share."""
    taken = _NONE
    for _ in range(request(row, j).gpus_per_worker):
        g = tightest_device(row, j, n, taken, np.int64(0), node(row, n).gpus)
        if g < 0:
            break
        taken |= _ONE << np.uint64(g)
    return taken


@kernel
def gradient_device(row, j, n):
    """Where a worker with a share of one GPU goes on node ``n``: (best score, device, F then).

    The device is -1 if none serves the worker.
    """
    ask = request(row, j)
    before = node(row, n).fragmentation
    best, best_score, best_after = np.int64(-1), np.int64(-1), before
    for g in range(node(row, n).gpus):
        if device_shares(row, n, g, ask.gpu_milli, ask.gpu_memory_mib) <= 0:
            continue
        same = False  # as an earlier device, which goes first
        for h in range(g):
            same = same or device(row, n, h).free_milli == device(row, n, g).free_milli
        if same and ask.gpu_memory_mib == 0:
            continue
        after = fragmentation(row, n, ask.cpu_milli, _ONE << np.uint64(g), ask.gpu_milli)
        score = score_change(before, after)
        if score > best_score:
            best, best_score, best_after = g, score, after
    return best_score, best, best_after


@kernel
def fragmentation_after(row, j, n):
    """F of node ``n`` with one worker of job ``j`` on it, and the mask of the devices it takes.

    The worker must fit. Devices are those that it would get if FGD had chosen the node.
    """
    ask = request(row, j)
    if ask.gpus_per_worker == 1 and ask.gpu_milli < WHOLE:
        _, g, after = gradient_device(row, j, n)
        return after, _ONE << np.uint64(g)
    taken = _tightest(row, j, n)
    return fragmentation(row, n, ask.cpu_milli, taken, ask.gpu_milli), taken


@kernel
def gradient_score(row, j, n):
    """FGD's score of one worker of job ``j`` on node ``n``; the highest wins."""
    ask = request(row, j)
    if ask.gpus_per_worker == 1 and ask.gpu_milli < WHOLE:
        score, _, _ = gradient_device(row, j, n)
        return score
    after, _ = fragmentation_after(row, j, n)
    return score_change(node(row, n).fragmentation, after)


NO_KEY = np.int64(-(1 << 62))
"""Below every key: the node cannot hold a worker."""


_MAX_CPU = 128_000.0  # the largest machine of the openb cluster, by which FGD's simulator scales


_MAX_GPU = 8000.0


FREE_BITS = 40


MOST_FREE = (1 << FREE_BITS) - 1


_TWO = np.uint64(2)


_LAST_TAG = 9


@small_kernel
def worker_kind(row, j):
    """Index of a GPU worker's kind among the tags of a node: 0 shared, else its GPUs."""
    ask = request(row, j)
    if ask.gpu_milli < WHOLE:
        return 0
    return min(np.int64(ask.gpus_per_worker), _LAST_TAG)


@kernel
def buddy_cell(row, n, gpus):
    """The free aligned cell for ``gpus`` whole GPUs that is split least (HiveD, OSDI 2020).

    The size of the largest free cell around it, 128 if there is none, and its first device.
    """
    free = np.uint64(0)
    total = node(row, n).gpus
    for g in range(total):
        if device(row, n, g).free_milli == WHOLE:
            free |= _ONE << np.uint64(g)
    size = 1
    while size < gpus:
        size *= 2
    while size <= total:
        cell = ((_ONE << np.uint64(size - 1)) - _ONE) * _TWO + _ONE
        for first in range(0, total - size + 1, size):
            if (free >> np.uint64(first)) & cell != cell:
                continue
            around = first // (2 * size) * 2 * size
            if size < 64 and around + 2 * size <= total:
                twice = ((_ONE << np.uint64(2 * size - 1)) - _ONE) * _TWO + _ONE
                if (free >> np.uint64(around)) & twice == twice:
                    continue  # part of a larger free cell
            return size, first
        size *= 2
    return 128, -1


@kernel
def _dot_product_score(row, j, n):
    """Tetris: int(100 (1 - free . request / 2)), both in shares of the largest machine."""
    ask = request(row, j)
    milli = np.int64(ask.gpus_per_worker) * ask.gpu_milli
    product = node(row, n).cpu_free_milli / _MAX_CPU * (ask.cpu_milli / _MAX_CPU)
    product += node(row, n).gpu_free_milli / _MAX_GPU * (milli / _MAX_GPU)
    return np.int64(100.0 * (1.0 - product / 2.0))


@kernel
def _best_fit_score(row, j, n):
    """int(100 (1 - half the CPU left - half the GPUs left)), in shares of the largest machine."""
    ask = request(row, j)
    milli = np.int64(ask.gpus_per_worker) * ask.gpu_milli
    left = 0.0
    left += (node(row, n).cpu_free_milli - ask.cpu_milli) / _MAX_CPU * 0.5
    left += (node(row, n).gpu_free_milli - milli) / _MAX_GPU * 0.5
    return np.int64((1.0 - left) * 100.0)


@kernel
def _packing_score(row, j, n):
    """GPUs in use (50..100, the fuller the better), nodes in use (33..50), empty nodes (0..33)."""
    ask = request(row, j)
    gpus = node(row, n).gpus
    if ask.gpus_per_worker == 0:
        return np.int64(0)
    whole = np.int64(node(row, n).whole_free)
    if whole == gpus:
        return max(33 - whole, whole)
    taken = np.uint64(0)
    fresh, idle_percent = np.int64(0), np.int64(0)
    for _ in range(ask.gpus_per_worker):
        g = tightest_device(row, j, n, taken, np.int64(0), gpus)
        if g < 0:
            break
        taken |= _ONE << np.uint64(g)
        fresh += device(row, n, g).free_milli == WHOLE
        idle_percent += device(row, n, g).free_milli * 100 // WHOLE
    if fresh > 0:
        return max(50 - fresh, np.int64(33))
    return max(100 - idle_percent // 10, np.int64(50))


@kernel
def _clustering_score(row, j, n):
    """Quarters: only workers of the same kind, some, an empty node, none; the fuller the better."""
    if request(row, j).gpus_per_worker == 0:
        return np.int64(0)
    score = 25 * (8000 - node(row, n).gpu_free_milli) // 8000
    kinds = 0
    for kind in range(_LAST_TAG + 1):
        kinds += tag(row, n, kind).workers > 0
    if tag(row, n, worker_kind(row, j)).workers > 0:
        return score + (75 if kinds == 1 else 50)
    return score + (25 if kinds == 0 else 0)


@kernel
def node_key(row, j, n, slots, generator):
    """The key of a node that can hold ``slots`` workers, at least 1, of job ``j``.

    ``slots`` are at most as many as are left to place.
    """
    if generator == Placement.FIRST_FIT:
        return np.int64(-n)
    if generator == Placement.FGD:
        return gradient_score(row, j, n)
    if generator == Placement.BEST_FIT_FGD:
        return _best_fit_score(row, j, n)
    if generator == Placement.DOT_PRODUCT:
        return _dot_product_score(row, j, n)
    if generator == Placement.GPU_PACKING:
        return _packing_score(row, j, n)
    if generator == Placement.GPU_CLUSTERING:
        return _clustering_score(row, j, n)
    if generator == Placement.UNIFORM:
        counter = (row.point << 32) + j
        bits = random_bits(row.seed + np.uint64(counter), Stream.PLACEMENT, n)
        return np.int64(bits >> _TWO)
    free = min(free_share(row, n), np.int64(MOST_FREE))
    if generator == Placement.WORST_FIT or generator == Placement.SPREAD:
        return free
    if generator == Placement.BUDDY:
        size = 0
        if request(row, j).gpu_milli == WHOLE and request(row, j).gpus_per_worker > 0:
            size, _ = buddy_cell(row, n, request(row, j).gpus_per_worker)
        return -((np.int64(size) << FREE_BITS) + free)
    # Best fit: a node that holds all that is left, the tightest one; else the one that holds most.
    return (np.int64(slots) << FREE_BITS) - free
