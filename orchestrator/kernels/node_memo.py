"""Memory of how nodes look to requests, so that only nodes that changed are described anew."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.jit import small_kernel

__all__ = ["MODELS", "NodeMemo", "forget_nodes", "make_node_memo"]

MODELS = 32
"""GPU models that requests can tell apart."""

_MOST_SHAPES = 256
_BUDGET = 128 << 20  # bytes, of all rows together


class NodeMemo(NamedTuple):
    """What is remembered for each row; E rows, S request shapes, N nodes. No part of the state."""

    features: NDArray[np.float32]  # [E, S, N, features]; what other nodes tell of one is left out
    shape: NDArray[np.uint64]  # [E, S] as in JOB_DTYPE
    seen: NDArray[np.int64]  # [E, S] touches that it takes account of
    used: NDArray[np.int64]  # [E, S] when last; 0: empty
    clock: NDArray[np.int64]  # [E]
    models: NDArray[np.float64]  # [E, MODELS, 3] scratch: free, capacity, demand


def make_node_memo(envs: int, nodes: int, features: int) -> NodeMemo:
    """Allocate an empty memory of so many features of each node.

    ``nodes`` 0: for environments that do not choose nodes.
    """
    each = max(nodes, 1) * features * 4 * envs
    shapes = min(max(_BUDGET // each, 1), _MOST_SHAPES) if nodes > 0 else 1
    return NodeMemo(
        features=np.zeros((envs, shapes, max(nodes, 1), features), np.float32),
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
