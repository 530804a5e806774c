"""Whether a trace's jobs fit the cluster at all, and what tables have to have room for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from envs.workloads.trace import Trace, unplaceable
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.codes import Topology
from orchestrator.resources.records import gpu_models

__all__ = ["check_fit", "most_workers"]


def most_workers(trace: Trace) -> int:
    """Most workers that any job of a trace may have."""
    elastic = trace.requests["elastic"] != 0
    grown = trace.requests["max_workers"][elastic].max(initial=1)
    gpus = sum(node.gpus for node in trace.nodes)
    cores = sum(node.cpu_cores for node in trace.nodes)
    # Nobody has more workers than there are GPUs or cores: a lavish maximum costs no memory.
    return int(max(trace.requests["workers"].max(), min(int(grown), max(gpus, cores, 1))))


def check_fit(trace: Trace, one_node: bool) -> None:
    """Refuse a trace with jobs that could not run even if its cluster were empty.

    Parameters
    ----------
    trace : Trace
    one_node : bool
        Whether all of a job's workers must be on the same node.

    Raises
    ------
    ConfigurationError
        Naming the first such job and the field that is too large.
    """
    requests = trace.requests
    if one_node:
        requests = requests.copy()
        requests["topology"] = np.maximum(requests["topology"], Topology.NODE)
    never = np.flatnonzero(_never_fits(trace, requests))
    if len(never) > 0:
        job = requests[never[:1]]
        field = _too_large_field(trace, job, one_node)
        place = "any single node of its cluster" if one_node else "its cluster"
        raise ConfigurationError(
            f"trace '{trace.name}': job {job['source_id'][0]} can never fit into {place} "
            f"('{field}' is {job[field][0]}), nor can {len(never) - 1} others; drop them or "
            f"enlarge 'nodes'"
        )


def _never_fits(trace: Trace, requests: NDArray[np.void]) -> NDArray[np.bool_]:
    """Which jobs could not run even if the trace's cluster were empty, bool [jobs]."""
    models = gpu_models(trace.nodes)
    never = np.zeros(len(requests), np.bool_)
    for mask in np.unique(requests["model_mask"]).tolist():
        admitted = tuple(
            node for node in trace.nodes if mask == 0 or mask >> models.index(node.gpu_model) & 1
        )
        asking = requests["model_mask"] == mask
        never[asking] = unplaceable(requests[asking], admitted)
    return never


def _too_large_field(trace: Trace, job: NDArray[np.void], one_node: bool) -> str:
    """The field of a job [1] that cannot fit without which it would."""
    least = {
        "model_mask": 0,
        "topology": 0,
        "bandwidth_mbps": 0,
        "workers": 1,
        "gpu_memory_mib": 0,
        "memory_mib": 0,
        "cpu_milli": 0,
    }
    if one_node:
        del least["topology"]  # the job did not ask for that
    for field, value in least.items():
        smaller = job.copy()
        smaller[field] = value
        if field == "workers":
            smaller["min_workers"] = value
        if not _never_fits(trace, smaller)[0]:
            return field
    return "gpus_per_worker"
