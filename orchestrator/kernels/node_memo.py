"""Memory of how nodes look to requests, so that only nodes that changed are described anew."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.jit import small_kernel

__all__ = ["MODELS", "NODE_NAMES", "NodeMemo", "forget_nodes", "make_node_memo"]

NODE_NAMES = (
    "feasible",
    "gpu_free_before",  # share of its GPUs
    "gpu_free_after",  # the same once the gang is on it; and so on
    "whole_free_after",  # share of its GPUs that are entirely free
    "cpu_free_after",
    "memory_free_after",
    "imbalance_after",  # |share of CPU free - share of GPUs free|
    "device_left",  # free share of the devices taken, once they are
    "fragmentation_before",  # F / its GPUs: what typical pods could not use
    "fragmentation_change",  # of F by the placement, GPUs
    "gradient",  # FGD's score / 50 - 1: the highest, of equals the first, is its choice
    "used",  # somebody is on it
    "size",  # GPUs / 8
    "failures",  # .5 ln(1 + failures)
    "model_free",  # free share of all GPUs of its model
    "model_demand",  # share of typical pods' GPUs that must be of its model (or one of a few)
    "rack_free",  # free share of its rack's GPUs
)
"""Features of a node as a place for a job; all 0 where the job does not fit."""

MODELS = 32
"""GPU models that requests can tell apart."""

_MOST_SHAPES = 256
_BUDGET = 128 << 20  # bytes, of all rows together


class NodeMemo(NamedTuple):
    """What is remembered for each row; E rows, S request shapes, N nodes. No part of the state."""

    features: NDArray[np.float32]  # [E, S, N, len(NODE_NAMES)]; the last three are left out
    shape: NDArray[np.uint64]  # [E, S] as in JOB_DTYPE
    seen: NDArray[np.int64]  # [E, S] touches that it takes account of
    used: NDArray[np.int64]  # [E, S] when last; 0: empty
    clock: NDArray[np.int64]  # [E]
    models: NDArray[np.float64]  # [E, MODELS, 3] scratch: free, capacity, demand


def make_node_memo(envs: int, nodes: int) -> NodeMemo:
    """Allocate an empty memory; ``nodes`` 0: for environments that do not choose nodes."""
    each = max(nodes, 1) * len(NODE_NAMES) * 4 * envs
    shapes = min(max(_BUDGET // each, 1), _MOST_SHAPES) if nodes > 0 else 1
    return NodeMemo(
        features=np.zeros((envs, shapes, max(nodes, 1), len(NODE_NAMES)), np.float32),
        shape=np.zeros((envs, shapes), np.uint64),
        seen=np.zeros((envs, shapes), np.int64),
        used=np.zeros((envs, shapes), np.int64),
        clock=np.zeros(envs, np.int64),
        models=np.zeros((envs, MODELS, 3)),
    )


@small_kernel
def forget_nodes(memo, e):
    """Forget everything about row ``e``: it has become another one."""
    for s in range(memo.used.shape[1]):
        memo.used[e, s] = 0
    memo.clock[e] = 0
