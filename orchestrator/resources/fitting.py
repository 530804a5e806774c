"""Which jobs could never start on a cluster, by the very kernel that decides it later."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels import entry
from orchestrator.kernels.records import REQUEST_DTYPE
from orchestrator.kernels.state import ClusterShape, allocate
from orchestrator.resources.records import node_records
from orchestrator.types import NodeSpec

__all__ = ["never_fit"]

_SHAPE_FIELDS = (
    "memory_mib",
    "cpu_milli",
    "workers",
    "min_workers",
    "gpus_per_worker",
    "gpu_milli",
    "gpu_memory_mib",
    "bandwidth_mbps",
    "elastic",
    "topology",
)


def never_fit(requests: NDArray[np.void], nodes: Sequence[NodeSpec]) -> NDArray[np.bool_]:
    """Tell which jobs would not fit even into an empty cluster.

    Parameters
    ----------
    requests : ndarray of REQUEST_DTYPE, shape [jobs]
        The jobs; GPU models are not looked at.
    nodes : sequence of NodeSpec
        The cluster.

    Returns
    -------
    ndarray of bool, shape [jobs]

    Raises
    ------
    ValidationError
        If a rack is under two spines.
    """
    if len(requests) == 0 or len(nodes) == 0:
        return np.ones(len(requests), np.bool_)
    keys = np.stack([requests[name].astype(np.int64) for name in _SHAPE_FIELDS], axis=1)
    kinds, which = np.unique(keys, axis=0, return_inverse=True)
    asks = np.zeros(len(kinds), REQUEST_DTYPE)
    for column, name in enumerate(_SHAPE_FIELDS):
        asks[name] = kinds[:, column]
    shape = ClusterShape(
        envs=1,
        jobs=len(asks),
        workers=1,  # nobody is placed
        nodes=len(nodes),
        devices=max(node.gpus for node in nodes),
        kinds=0,
    )
    state = allocate(shape)
    entry.begin_episode(state.rows, 0, 0, node_records(nodes), asks)
    never = [not entry.can_ever_fit(state.rows, 0, j) for j in range(len(asks))]
    return np.array(never, np.bool_)[which.ravel()]
