"""Refuse what no environment can be made of, and say why."""

from __future__ import annotations

import numbers

import numpy as np
from numpy.typing import NDArray

from envs.config import EnvConfig
from envs.workloads.trace import Trace, unplaceable
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.codes import EventKind
from orchestrator.kernels.state import INCIDENT_DTYPE
from orchestrator.resources.records import gpu_models

__all__ = ["check_incidents", "check_threads", "check_trace"]


def check_threads(threads: int) -> None:
    """Refuse a number of threads that is none."""
    if isinstance(threads, bool) or not isinstance(threads, numbers.Integral) or threads < 1:
        raise ConfigurationError(f"environment: 'threads' is {threads!r}; give at least 1")


def check_trace(trace: Trace, config: EnvConfig) -> None:
    """Refuse a trace that is too short, has no cluster, or jobs that can never fit into it."""
    if len(trace) < config.episode_jobs:
        raise ConfigurationError(
            f"trace '{trace.name}' has {len(trace)} jobs, less than 'episode_jobs' "
            f"({config.episode_jobs}); use a longer trace or shorter episodes"
        )
    if not trace.nodes:
        raise ConfigurationError(f"trace '{trace.name}' names no cluster; give its 'nodes'")
    never = np.flatnonzero(_never_fits(trace, trace.requests))
    if len(never) > 0:
        job = trace.requests[never[:1]]
        field = _too_large_field(trace, job)
        raise ConfigurationError(
            f"trace '{trace.name}': job {job['source_id'][0]} can never fit into its cluster "
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


def _too_large_field(trace: Trace, job: NDArray[np.void]) -> str:
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
    for field, value in least.items():
        smaller = job.copy()
        smaller[field] = value
        if field == "workers":
            smaller["min_workers"] = value
        if not _never_fits(trace, smaller)[0]:
            return field
    return "gpus_per_worker"


def check_incidents(incidents: NDArray[np.void], nodes: int) -> None:
    """Refuse incidents of unknown kinds or nodes, or that are out of order."""
    if incidents.dtype != INCIDENT_DTYPE or incidents.ndim != 1:
        raise ConfigurationError(
            f"environment: 'incidents' has type {incidents.dtype}; give an array of INCIDENT_DTYPE"
        )
    kinds = (EventKind.NODE_RECOVERY, EventKind.NODE_FAILURE, EventKind.NODE_DRAIN)
    late = np.diff(incidents["time_ms"], prepend=0) < 0
    for field, wrong, remedy in (
        ("node", (incidents["node"] < 0) | (incidents["node"] >= nodes), f"0 to {nodes - 1}"),
        ("kind", ~np.isin(incidents["kind"], kinds), "a node's EventKind"),
        ("time_ms", late, "times from 0 on, in ascending order"),
    ):
        if wrong.any():
            i = int(np.argmax(wrong))
            raise ConfigurationError(
                f"environment: incident {i}: '{field}' is {incidents[field][i]}; give {remedy}"
            )
