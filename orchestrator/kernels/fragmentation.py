"""Fragmentation of a node, and its gradient (Weng et al., USENIX ATC 2023).

F(n) = sum over classes m of typical pods of p_m f(n, m), where f is all idle milli-GPUs if m cannot
run on n or needs no GPU, and else the idle milli-GPUs of devices whose idle share is below m's.
Classes are added up by the reason why they cannot run, and the reasons in a fixed order: scores are
truncated to integers, so that the order of floating-point additions is part of the definition.
"""

from __future__ import annotations

import math

import numpy as np

from orchestrator.kernels.jit import kernel, small_kernel
from orchestrator.kernels.slots import WHOLE, device_shares, tightest_device
from orchestrator.kernels.tables import device, node, request, typical

__all__ = [
    "fragmentation",
    "fragmentation_after",
    "gradient_device",
    "gradient_score",
    "score_change",
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
    """F of node ``n`` if ``cpu_milli`` and ``milli`` of each device in mask ``taken`` were gone.

    Parameters
    ----------
    row : ROW_DTYPE record
    n : int
        Node.
    cpu_milli : int
        CPU that would be gone.
    taken : uint64
        Devices of which a share would be gone.
    milli : int
        That share.

    Returns
    -------
    float
        Milli-GPUs.
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
    """Where a worker with a share of one GPU goes on node ``n``.

    Returns
    -------
    tuple
        The best score and its device, -1 if none serves the worker; and F of the node then.
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
