"""Speed of a training job by the number of its workers, how close together, and on which GPUs.

The model is that of Qiao et al., "Pollux", OSDI 2021: a step is a gradient, whose time grows with
the local batch, and a synchronisation, whose time grows with the number of workers and depends on
whether they share a node; the two overlap in part. Progress counts goodput: samples per second,
times the statistical efficiency of the batch size.
"""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.lang.jit import kernel, small_kernel
from orchestrator.kernels.place.slots import node_allows
from orchestrator.kernels.state.access import curve, node, request
from orchestrator.kernels.state.codes import Topology
from orchestrator.kernels.state.records import CURVE_MODELS

__all__ = ["MOST_SPEED_MILLI", "nominal_within_node", "speed_milli"]


MOST_SPEED_MILLI = 1_000_000
"""No configuration counts as more than a thousand times the nominal one."""


_NOMINAL_MILLI = 1000


@small_kernel
def _model_milli(shape, model):
    """Speed of a gradient on a GPU model, thousandths of the nominal one."""
    milli = np.int64(0)
    if 0 <= model < CURVE_MODELS:
        milli = np.int64(shape.model_milli[model])
    return milli if milli > 0 else np.int64(_NOMINAL_MILLI)


@kernel
def _goodput(shape, workers, within_node, milli):
    """Useful samples per second of ``workers`` workers on GPUs of speed ``milli``."""
    gradient = shape.grad_fixed_s + shape.grad_per_sample_s * shape.local_batch
    gradient = gradient * _NOMINAL_MILLI / milli
    sync = 0.0
    if workers > 1 and within_node:
        sync = shape.node_fixed_s + shape.node_per_worker_s * (workers - 2)
    elif workers > 1:
        sync = shape.network_fixed_s + shape.network_per_worker_s * (workers - 2)
    longer, shorter = max(gradient, sync, 1e-9), min(gradient, sync)
    overlap = max(shape.overlap, 1.0)
    # (g^p + s^p)^(1/p), scaled so that no power can overflow.
    step = longer * (1.0 + (max(shorter, 0.0) / longer) ** overlap) ** (1.0 / overlap)
    batch = workers * shape.local_batch
    efficiency = 1.0
    if shape.noise_scale > 0.0:
        efficiency = (shape.noise_scale + shape.batch) / (shape.noise_scale + batch)
    return batch / step * efficiency


@kernel
def nominal_within_node(row, j):
    """Whether the requested workers of job ``j`` would fit into one empty node."""
    ask = request(row, j)
    for n in range(row.num_nodes):
        if not node_allows(row, j, n):
            continue
        slots = np.int64(ask.workers)
        if ask.cpu_milli > 0:
            slots = min(slots, node(row, n).cpu_cap_milli // ask.cpu_milli)
        if ask.memory_mib > 0:
            slots = min(slots, node(row, n).memory_cap_mib // ask.memory_mib)
        if ask.gpus_per_worker > 0:
            shares = np.int64(1000 // ask.gpu_milli) * node(row, n).gpus
            slots = min(slots, shares // ask.gpus_per_worker)
            if ask.gpus_per_worker > node(row, n).gpus:
                slots = np.int64(0)
        if slots >= ask.workers:
            return True
    return False


@kernel
def speed_milli(row, j, workers, spread, model):
    """Speed of job ``j`` on ``workers`` workers, int64, thousandths of its nominal one; 0 for none.

    Nominal are its requested workers, in one node if some node could hold them all, on GPUs of
    nominal speed. ``spread`` is the narrowest ``Topology`` that holds ``workers`` (NODE, ISLAND:
    a node, else the network), ``model`` the slowest one's GPU. From 1 to ``MOST_SPEED_MILLI``;
    without a curve in proportion to the workers, whatever the rest.
    """
    ask = request(row, j)
    if workers <= 0:
        return np.int64(0)
    if ask.curve <= 0 or ask.curve >= row.num_curves:
        proportional = np.int64(_NOMINAL_MILLI) * workers // max(ask.workers, 1)
        return min(max(proportional, np.int64(1)), np.int64(MOST_SPEED_MILLI))
    shape = curve(row, ask.curve)
    within_node = spread == Topology.NODE or spread == Topology.ISLAND
    here = _goodput(shape, workers, within_node, _model_milli(shape, model))
    nominal = _goodput(
        shape, np.int64(ask.workers), nominal_within_node(row, j), np.int64(_NOMINAL_MILLI)
    )
    if not nominal > 0.0:
        return np.int64(_NOMINAL_MILLI)
    ratio = min(here / nominal, MOST_SPEED_MILLI / _NOMINAL_MILLI)
    return max(np.int64(_NOMINAL_MILLI * ratio + 0.5), np.int64(1))
