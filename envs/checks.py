"""What an environment is made from is checked before anything is allocated."""

from __future__ import annotations

import numbers

import numpy as np
from numpy.typing import NDArray

from envs.config import EnvConfig
from envs.fitting import check_fit
from envs.scaling import FleetPlan, ServiceMix
from envs.workloads.trace import Trace, unplaceable
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.codes import EventKind
from orchestrator.kernels.records import INCIDENT_DTYPE

__all__ = [
    "check_incidents",
    "check_services",
    "check_starts",
    "check_threads",
    "check_trace",
]


def check_trace(trace: Trace, config: EnvConfig) -> None:
    """Raise if a trace is too short, or has jobs that its cluster can never run."""
    if len(trace) < config.episode_jobs:
        raise ConfigurationError(
            f"trace '{trace.name}' has {len(trace)} jobs, less than 'episode_jobs' "
            f"({config.episode_jobs}); use a longer trace or shorter episodes"
        )
    if not trace.nodes:
        raise ConfigurationError(f"trace '{trace.name}' names no cluster; give its 'nodes'")
    check_fit(trace, config.choose_node)


def check_services(trace: Trace, services: ServiceMix | None, fleet: FleetPlan | None) -> None:
    """Raise if a service's fewest replicas could not run even if all nodes were empty."""
    if services is None:
        return
    spare = 0 if fleet is None else fleet.spare
    nodes = trace.nodes + tuple(trace.nodes[n % len(trace.nodes)] for n in range(spare))
    never = np.flatnonzero(unplaceable(services.requests(), nodes))
    if len(never) > 0:
        spec = services.specs[never[0]]
        raise ConfigurationError(
            f"services: {spec.min_replicas} replicas of '{spec.name}' can never fit into the "
            f"cluster of trace '{trace.name}'; lower 'min_replicas' or what a replica takes"
        )


def check_incidents(incidents: NDArray[np.void], nodes: int) -> None:
    """Raise if incidents are out of order, or of no node or kind that there is."""
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


def check_starts(trace: Trace, config: EnvConfig, starts: NDArray[np.int64], total: int) -> None:
    """Raise if windows lie outside of the ``total`` jobs, or ticks, that there are."""
    if len(starts) == 0:
        raise ConfigurationError("environment: no windows to play; 'starts' is empty")
    if starts.min() < 0 or starts.max() + config.length > total:
        unit, where = "jobs", f"of trace '{trace.name}'"
        if config.episode_jobs == 0:
            unit, where = "ticks", "of the services' series"
        raise ConfigurationError(
            f"environment: windows of {config.length} {unit} reach beyond the {total} {unit} "
            f"{where}; shorten the episodes or move the windows"
        )


def check_threads(threads: int) -> None:
    """Raise if a number of threads is none."""
    if isinstance(threads, bool) or not isinstance(threads, numbers.Integral) or threads < 1:
        raise ConfigurationError(f"environment: 'threads' is {threads!r}; give at least 1")
