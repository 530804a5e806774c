"""What can be played: parts of a trace by name, and whether workload, cluster and windows fit."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.checks import check_type
from envs.config import EnvConfig
from envs.scenario import FleetPlan, Scenario, ServiceMix, playable
from envs.workloads.trace import Trace, unplaceable
from envs.workloads.windows import WindowSplit
from orchestrator.engine.records import gpu_models
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.state.codes import EventKind, Topology
from orchestrator.kernels.state.records import INCIDENT_DTYPE

__all__ = [
    "check_arguments",
    "check_incidents",
    "check_part",
    "check_services",
    "check_starts",
    "check_trace",
    "part_starts",
]

_MOST_WINDOWS = 4096
_PARTS = ("train", "validation", "test", "all")


def check_arguments(trace: Trace, config: EnvConfig, scenario: Scenario | None) -> None:
    """Raise if an environment is not made of a trace, a config and a scenario."""
    remedy = "a Trace, for example read_swf(path) or lublin_feitelson(20_000, seed=1)"
    check_type("environment: 'trace'", trace, Trace, remedy)
    check_type("environment: 'config'", config, EnvConfig, "an EnvConfig")
    if scenario is not None:
        check_type("environment: 'scenario'", scenario, Scenario, "a Scenario")


def part_starts(
    trace: Trace,
    config: EnvConfig,
    part: str,
    seed: int = 0,
    scenario: Scenario | None = None,
) -> NDArray[np.int64]:
    """Windows of a part of a trace: ``train``, ``validation``, ``test`` or ``all``.

    Where episodes have no jobs, they are windows of ticks, and parts of the services' series.
    """
    part = check_part(part)
    check_arguments(trace, config, scenario)
    total = playable(trace, config, scenario or Scenario())
    check_starts(trace, config, np.zeros(1, np.int64), total)  # not even one would fit
    if part == "all":
        split = WindowSplit(total, train=1.0, validation=0.0, test=0.0)
        part = "train"
    else:
        split = WindowSplit(total)
    count = min(len(split.admissible(part, config.length)), _MOST_WINDOWS)
    return split.starts(part, count, config.length, seed)


def check_part(part: Any) -> str:
    """A part's name, if it is one."""
    if not isinstance(part, str) or part not in _PARTS:
        raise ConfigurationError(f"windows: unknown part {part!r}; use one of {list(_PARTS)}")
    return part


def _check_fit(trace: Trace, one_node: bool) -> None:
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


def check_trace(trace: Trace, config: EnvConfig) -> None:
    """Raise if a trace is too short, or has jobs that its cluster can never run, and that wait."""
    if len(trace) < config.episode_jobs:
        raise ConfigurationError(
            f"trace '{trace.name}' has {len(trace)} jobs, less than 'episode_jobs' "
            f"({config.episode_jobs}); use a longer trace or shorter episodes"
        )
    if not trace.nodes:
        raise ConfigurationError(f"trace '{trace.name}' names no cluster; give its 'nodes'")
    if not config.turn_away:  # who is turned away need not fit anywhere
        _check_fit(trace, config.choose_node)


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
    check_type("environment: 'incidents'", incidents, np.ndarray, "an array of INCIDENT_DTYPE")
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
    if starts.ndim != 1:
        raise ConfigurationError(
            f"environment: 'starts' has shape {starts.shape}; give a flat array of first jobs"
        )
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
