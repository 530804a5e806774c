"""Specifications as the records that kernels work on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.codes import NodeCode
from orchestrator.kernels.state import NODE_DTYPE
from orchestrator.types import NodeSpec

__all__ = ["gpu_models", "node_records"]

_MIB_PER_GIB = 1024


def gpu_models(nodes: Sequence[NodeSpec]) -> tuple[str, ...]:
    """GPU models of a cluster in alphabetical order; a record's ``model`` is an index into it."""
    return tuple(sorted({node.gpu_model for node in nodes}))


def node_records(nodes: Sequence[NodeSpec]) -> NDArray[np.void]:
    """Node specifications as NODE_DTYPE records, [len(nodes)], all capacity free."""
    models = gpu_models(nodes)
    records = np.zeros(len(nodes), NODE_DTYPE)
    for record, node in zip(records, nodes, strict=True):
        record["memory_cap_mib"] = int(node.memory_gb * _MIB_PER_GIB)
        record["cpu_cap_milli"] = node.cpu_cores * 1000
        record["gpus"] = node.gpus
        record["gpu_memory_mib"] = int(node.gpu_memory_gb * _MIB_PER_GIB)
        record["bandwidth_mbps"] = round(node.network_bandwidth_gbps * 1000)
        record["rack"] = node.rack
        record["spine"] = node.spine
        record["model"] = models.index(node.gpu_model)
        record["state"] = NodeCode.UP if node.available else NodeCode.DOWN
    return records
