"""What a machine offers, as it says itself: a node's specification without declaring it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import psutil

from orchestrator.errors import ConfigurationError
from orchestrator.node.gpus import GpuReader
from orchestrator.types import NodeSpec

__all__ = ["discover_node"]


_GIB = 2**30
_MIB_OF_GIB = 1024
_MBIT_OF_GBIT = 1000
_LEAST_GBPS = 1.0  # of a machine whose links do not say


def discover_node(node_id: str, *, reader: GpuReader | None = None, **fields: Any) -> NodeSpec:
    """Describe this machine as a node: its GPUs (by NVML), memory, cores and fastest link.

    Without ``nvidia-ml-py``, or without a driver, it has no GPUs; declare them, if they are there
    all the same, by ``gpus`` and ``gpu_memory_gb``.

    Parameters
    ----------
    node_id : str
        What it is called.
    reader : GpuReader or None, optional
        Who reads GPUs; None: a new one.
    **fields
        Fields of :class:`orchestrator.NodeSpec` that are known better: the rack, for example.

    Raises
    ------
    ConfigurationError
        If its GPUs are of several models: a node's are alike.
    """
    own = GpuReader() if reader is None else reader
    try:
        gpus, linked = own.read() or (), own.linked
    finally:
        if reader is None:
            own.close()
    models = sorted({gpu.name for gpu in gpus})
    if len(models) > 1 and "gpu_model" not in fields:
        problem = f"node '{node_id}' has GPUs of several models ({', '.join(models)})"
        remedy = "run an agent for each kind, with CUDA_VISIBLE_DEVICES, or name 'gpu_model'"
        raise ConfigurationError(f"{problem}; {remedy}")
    spec = NodeSpec(
        node_id=node_id,
        gpus=len(gpus),
        gpu_memory_gb=min((gpu.memory_mb for gpu in gpus), default=0) / _MIB_OF_GIB,
        cpu_cores=psutil.cpu_count() or 1,
        memory_gb=round(psutil.virtual_memory().total / _GIB, 3),
        network_bandwidth_gbps=_fastest_link_gbps(),
        gpu_topology="NVLink" if linked else "PCIe",
        gpu_model=models[0] if models else "generic",
    )
    return replace(spec, **fields)


def _fastest_link_gbps() -> float:
    """Of the links that are up, but for the machine's own; as the driver says, if it does."""
    links = psutil.net_if_stats()
    speeds = [link.speed for name, link in links.items() if link.isup and name != "lo"]
    return max([speed / _MBIT_OF_GBIT for speed in speeds if speed > 0], default=_LEAST_GBPS)
