"""Specifications as the records that kernels work on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import ValidationError
from orchestrator.kernels.codes import NodeCode
from orchestrator.kernels.records import NODE_DTYPE
from orchestrator.types import NodeSpec

__all__ = ["check_racks", "gpu_models", "node_records"]

_MIB_PER_GIB = 1024


def gpu_models(nodes: Sequence[NodeSpec]) -> tuple[str, ...]:
    """GPU models of a cluster in alphabetical order; a record's ``model`` is an index into it."""
    return tuple(sorted({node.gpu_model for node in nodes}))


def check_racks(nodes: Sequence[NodeSpec]) -> None:
    """Raise :class:`ValidationError` if a rack is under two spines."""
    spines: dict[int, NodeSpec] = {}
    for node in nodes:
        first = spines.setdefault(node.rack, node)
        if first.spine != node.spine:
            raise ValidationError(
                f"NodeSpec '{node.node_id}'",
                "rack",
                f"is {node.rack} under spine {node.spine}, but under spine {first.spine} "
                f"for node '{first.node_id}'",
                "give every rack a number of its own",
            )


def node_records(nodes: Sequence[NodeSpec]) -> NDArray[np.void]:
    """Node specifications as NODE_DTYPE records, [len(nodes)], all capacity free.

    Raises
    ------
    ValidationError
        If a rack is under two spines.
    """
    check_racks(nodes)
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
        record["island"] = node.island_gpus
        record["model"] = models.index(node.gpu_model)
        record["state"] = NodeCode.UP if node.available else NodeCode.DOWN
    return records
