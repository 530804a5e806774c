"""A synthetic GPU-sharing cluster: pods that ask for parts of GPUs, on machines of several kinds.

A small stand-in for clusters such as Alibaba's openb: more is asked for than there is, nobody
leaves, and what counts is how much finds a place. Its numbers are made up; results are reported on
the real trace.
"""

from __future__ import annotations

import numpy as np

from envs.checks import check_whole
from envs.workloads.table import blank_requests
from envs.workloads.trace import Trace
from orchestrator.engine.records import gpu_models
from orchestrator.kernels.state.codes import FOREVER_MS, Stream
from orchestrator.types import NodeSpec

__all__ = ["gpu_pods"]

_KINDS = (("large", 8, 96, 512.0), ("small", 2, 32, 128.0), ("middle", 4, 48, 256.0))
"""GPU model, GPUs, cores and memory (GiB) of each kind of machine."""
_MACHINES = (0, 1, 2, 1)  # kinds, in turn

_SIZES = (  # share of the pods, GPUs, share of each (milli)
    (0.05, 0, 1000),
    (0.14, 1, 250),
    (0.10, 1, 330),
    (0.14, 1, 500),
    (0.07, 1, 800),
    (0.33, 1, 1000),
    (0.09, 2, 1000),
    (0.05, 4, 1000),
    (0.03, 8, 1000),
)
_CORES_PER_GPU = (2.0, 4.0, 8.0, 12.0)
_GIB_PER_CORE = 4
_BOUND = 0.2  # share of the GPU pods that only one model serves
_GAP_S = 60.0


def gpu_pods(pods: int, seed: int, *, nodes: int = 16) -> Trace:
    """Draw pods that stay for ever, and the heterogeneous cluster that they come to.

    Parameters
    ----------
    pods : int
        Number of pods, at least 1; one worker each.
    seed : int
        Not negative; the same seed gives the same trace.
    nodes : int, optional
        Machines: of 8, 2, 4 and 2 GPUs in turn.

    Returns
    -------
    Trace
        A pod a minute, on average.

    Raises
    ------
    ConfigurationError
        For numbers out of range.
    """
    for name, value, low in (("pods", pods, 1), ("seed", seed, 0), ("nodes", nodes, 1)):
        check_whole(f"gpu_pods: '{name}'", value, low)
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, Stream.WORKLOAD])))
    machines = _cluster(nodes)
    shares, gpus, milli = (np.array(column) for column in zip(*_SIZES, strict=True))
    most = max(node.gpus for node in machines)
    shares = np.where(gpus <= most, shares, 0.0)
    size = rng.choice(len(shares), pods, p=shares / shares.sum())
    requests = blank_requests(pods)
    requests["gpus_per_worker"], requests["gpu_milli"] = gpus[size], milli[size]
    demand = np.maximum(gpus[size] * milli[size] / 1000.0, 0.25)
    cores = np.maximum(rng.choice(_CORES_PER_GPU, pods) * demand, 1.0)
    requests["cpu_milli"] = 1000 * np.rint(cores)
    requests["memory_mib"] = requests["cpu_milli"] // 1000 * _GIB_PER_CORE * 1024
    models = gpu_models(machines)
    for name, held, *_ in _KINDS:
        # Whoever is bound to a model fits its machines.
        if name in models:
            bound = (gpus[size] > 0) & (gpus[size] <= held) & (rng.random(pods) < _BOUND / 2)
            requests["model_mask"][bound] = 1 << models.index(name)
    requests["duration_ms"] = requests["requested_ms"] = FOREVER_MS
    gaps = rng.exponential(_GAP_S * 1000, pods)
    requests["submit_ms"] = np.rint(np.cumsum(gaps) - gaps[0])
    requests["source_id"] = np.arange(pods)
    return Trace(f"gpu-pods-{nodes}-{seed}", requests, nodes=machines)


def _cluster(nodes: int) -> tuple[NodeSpec, ...]:
    kinds = [_KINDS[_MACHINES[i % len(_MACHINES)]] for i in range(nodes)]
    return tuple(
        NodeSpec(
            node_id=f"node-{i:05d}",
            gpus=gpus,
            gpu_memory_gb=0.0,
            cpu_cores=cores,
            memory_gb=memory_gb,
            network_bandwidth_gbps=0.0,
            gpu_topology="PCIe",
            gpu_model=model,
            rack=i // 8,
        )
        for i, (model, gpus, cores, memory_gb) in enumerate(kinds)
    )
