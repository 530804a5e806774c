"""What surrounds the jobs of an environment: failures, tenants, curves, links, services, fleet."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from envs.config import EnvConfig
from envs.scaling import FleetPlan, ServiceMix
from envs.workloads.failures import FailureModel, sample_failures
from envs.workloads.openb import typical_pods
from envs.workloads.trace import Trace
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.codes import Placement, QuotaMode
from orchestrator.kernels.mesh.record import SERVICE_DTYPE
from orchestrator.kernels.packing_state import TYPICAL_DTYPE
from orchestrator.kernels.records import (
    CURVE_DTYPE,
    GITTINS_DTYPE,
    INCIDENT_DTYPE,
    TENANT_DTYPE,
    UPLINK_DTYPE,
)
from orchestrator.kernels.state import ClusterState
from orchestrator.mesh.specs import service_records
from orchestrator.resources.records import node_records
from orchestrator.resources.tenants import check_quotas, tenant_records
from orchestrator.scheduler.gittins import gittins_table
from orchestrator.types import TenantSpec
from orchestrator.workloads.throughput import ThroughputModel, curve_records

__all__ = [
    "Scenario",
    "Surroundings",
    "check_heads",
    "configure_scenario",
    "playable",
    "surroundings",
]

_HORIZON = 2.0
"""Failures are drawn for so many times the span of a window: jobs run on after the last arrival."""


@dataclass(frozen=True)
class Scenario:
    """What an episode happens in, besides its jobs and nodes.

    Parameters
    ----------
    failures : FailureModel or None
        How nodes fail; every window has failures of its own, the same in every episode.
    failure_seed : int
        Seed of all of them.
    tenants : tuple of TenantSpec
        Entitlements, by the tenants' names in the trace; with any, accounts are kept for all.
    quota_mode : QuotaMode
        How quotas bind.
    curves : tuple of ThroughputModel
        Model i is curve i + 1 of the trace's jobs (column ``curve``).
    uplinks_gbps : tuple of float
        Bandwidth of each rack's uplink, Gbit/s; 0: no limit. Racks beyond have none.
    services : ServiceMix or None
        Inference services that run throughout.
    fleet : FleetPlan or None
        Nodes that can be ordered and given up.
    pods : REQUEST_DTYPE [n] or None
        The pods that are typical, where fragmentation is measured; None: the trace's own.
    past_services : tuple of float
        Service of jobs that ended before, GPU-seconds (core-seconds where there are no GPUs): what
        the rule ``gittins`` expects of others (none: it serves in order of submission).
        See :func:`orchestrator.scheduler.gittins.job_services`.
    """

    failures: FailureModel | None = None
    failure_seed: int = 0
    tenants: tuple[TenantSpec, ...] = ()
    quota_mode: QuotaMode = QuotaMode.NONE
    curves: tuple[ThroughputModel, ...] = ()
    uplinks_gbps: tuple[float, ...] = ()
    services: ServiceMix | None = None
    fleet: FleetPlan | None = None
    pods: NDArray[np.void] | None = field(default=None, compare=False)
    past_services: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Reject what makes no sense."""
        for rack, gbps in enumerate(self.uplinks_gbps):
            if not (math.isfinite(gbps) and gbps >= 0):
                raise ConfigurationError(
                    f"scenario: 'uplinks_gbps' of rack {rack} is {gbps}; at least 0"
                )
        if self.quota_mode != QuotaMode.NONE and not self.tenants:
            raise ConfigurationError(
                "scenario: 'quota_mode' is set, but 'tenants' names nobody; give their quotas"
            )

    @property
    def tick_ms(self) -> int:
        """Interval of scaling decisions; 0: there are none."""
        if self.services is not None:
            return self.services.tick_ms
        return 0 if self.fleet is None else round(1000 * self.fleet.review_seconds)


def playable(trace: Trace, config: EnvConfig, scenario: Scenario) -> int:
    """How much there is to cut windows from: jobs or, for episodes without jobs, ticks.

    Raises
    ------
    ConfigurationError
        When there is neither.
    """
    if config.episode_jobs > 0:
        return len(trace)
    if scenario.services is None:
        raise ConfigurationError(
            "environment: 'episode_jobs' is 0, and the scenario has no 'services'; add either"
        )
    return scenario.services.series.ticks


@dataclass(frozen=True)
class Surroundings:
    """A scenario as kernels take it; M windows."""

    incidents: NDArray[np.void]  # INCIDENT_DTYPE, window after window
    incident_range: NDArray[np.int64]  # [M, 2] first incident of each window, and the one after
    tenants: NDArray[np.void]  # TENANT_DTYPE
    curves: NDArray[np.void]  # CURVE_DTYPE
    uplinks: NDArray[np.void]  # UPLINK_DTYPE
    typical: NDArray[np.void]  # TYPICAL_DTYPE
    nodes: NDArray[np.void]  # NODE_DTYPE, spare ones included
    services: NDArray[np.void]  # SERVICE_DTYPE
    series_range: NDArray[np.int64]  # [M, 2] ticks of the series that each window plays
    gittins: NDArray[np.void]  # GITTINS_DTYPE

    @property
    def most_incidents(self) -> int:
        """Incidents of the window that has most."""
        return int(np.diff(self.incident_range, axis=1).max(initial=0))


def surroundings(
    scenario: Scenario,
    trace: Trace,
    starts: NDArray[np.int64],
    config: EnvConfig,
    incidents: NDArray[np.void] | None,
) -> Surroundings:
    """Work a scenario out for the windows of a trace.

    Parameters
    ----------
    scenario : Scenario
    trace : Trace
    starts : int64 [M]
        First job of each window; of windows without jobs, their first tick.
    config : EnvConfig
        How long windows are. Where it offers placement by fragmentation gradients, these need
        typical pods.
    incidents : INCIDENT_DTYPE [I] or None
        Failures of every window, instead of the scenario's.

    Raises
    ------
    ConfigurationError, ValidationError
        Naming the field that contradicts the trace, or the tenant whose quota is too large.
    """
    if incidents is not None and scenario.failures is not None:
        raise ConfigurationError(
            "environment: give 'incidents' or a scenario's 'failures', not both"
        )
    if incidents is not None or scenario.failures is None:
        same = np.zeros(0, INCIDENT_DTYPE) if incidents is None else incidents.copy()
        ranges = np.tile(np.array([0, len(same)], np.int64), (len(starts), 1))
    else:
        same, ranges = _window_failures(scenario, trace, starts, config)
    most = int(trace.requests["curve"].max(initial=0))
    if scenario.curves and most > len(scenario.curves):
        raise ConfigurationError(
            f"scenario: 'curves' has {len(scenario.curves)} models, and trace '{trace.name}' has "
            f"jobs of curve {most}; give one for each"
        )
    uplinks = np.zeros(len(scenario.uplinks_gbps), UPLINK_DTYPE)
    uplinks["capacity_mbps"] = [round(gbps * 1000) for gbps in scenario.uplinks_gbps]
    pods = trace.requests if scenario.pods is None else scenario.pods
    gradient = Placement.FGD in config.generated_by
    nodes = node_records(trace.nodes)
    services = scenario.services
    return Surroundings(
        incidents=same,
        incident_range=ranges,
        tenants=_accounts(scenario, trace),
        curves=curve_records(scenario.curves) if scenario.curves else np.zeros(0, CURVE_DTYPE),
        uplinks=uplinks,
        typical=typical_pods(pods) if gradient else np.zeros(0, TYPICAL_DTYPE),
        nodes=nodes if scenario.fleet is None else scenario.fleet.records(nodes),
        services=np.zeros(0, SERVICE_DTYPE)
        if services is None
        else service_records(services.specs, range(len(services.specs))),
        series_range=_window_ticks(scenario, trace, starts, config),
        gittins=_expectations(scenario.past_services),
    )


def configure_scenario(state: ClusterState, scenario: Scenario) -> None:
    """Say in all rows of a state what of a scenario stays the same from episode to episode.

    The rows hold the addresses of the services' series and forecast: the scenario must live as
    long as they are used.
    """
    rows, services, fleet = state.rows, scenario.services, scenario.fleet
    rows["quota_mode"] = scenario.quota_mode
    rows["tick_ms"] = scenario.tick_ms
    if services is not None:
        rows["series_at"] = services.series.address
        rows["series_len"] = services.series.ticks
        if services.forecast is not None:
            rows["forecast_at"] = services.forecast.ctypes.data
    if fleet is not None:
        rows["provision_ms"] = round(1000 * fleet.provision_seconds)
        rows["min_nodes"], rows["max_nodes"] = fleet.least, fleet.most


def check_heads(scenario: Scenario, config: EnvConfig) -> None:
    """Raise if an environment asks for decisions that a scenario has no object for."""
    there = 0 if scenario.services is None else len(scenario.services.specs)
    if config.services not in (0, there):
        raise ConfigurationError(
            f"environment: 'services' is {config.services}, and the scenario has {there}; set it "
            f"to {there}, or to 0 if the policy does not change them"
        )
    if config.capacity_steps > 0 and scenario.fleet is None:
        raise ConfigurationError(
            "environment: 'capacity_steps' is set, and the scenario has no 'fleet'; describe it"
        )
    if config.choose_node and scenario.fleet is not None:
        raise ConfigurationError(
            "environment: 'choose_node' knows no changing 'fleet'; leave one of them out"
        )
    if config.commitment and scenario.tick_ms > 0:
        raise ConfigurationError(
            "environment: 'commitment' knows no services and no changing fleet; turn it off"
        )


def _window_ticks(
    scenario: Scenario, trace: Trace, starts: NDArray[np.int64], config: EnvConfig
) -> NDArray[np.int64]:
    """Ticks of the series that each window plays, int64 [M, 2].

    A window of jobs plays a part of the series that lies where the window lies in the trace: parts
    of a trace meet parts of the demand. It is long enough for jobs that run on after the last
    arrival.
    """
    ranges = np.zeros((len(starts), 2), np.int64)
    tick_ms, length, services = scenario.tick_ms, config.episode_jobs, scenario.services
    if tick_ms == 0:
        return ranges
    submit = trace.requests["submit_ms"]
    for m, start in enumerate(starts.tolist()):
        if length == 0:
            ranges[m] = start, start + config.episode_ticks
            continue
        span = int(submit[start + length - 1] - submit[start])
        longest = int(trace.requests["duration_ms"][start : start + length].max())
        ticks = 1 + math.ceil((_HORIZON * span + longest) / tick_ms)
        first = 0
        if services is not None and services.series.ticks >= ticks:
            first = (services.series.ticks - ticks) * start // max(len(submit) - length, 1)
        ranges[m] = first, first + ticks
    beyond = ranges[:, 1] > (services.series.ticks if services is not None else np.inf)
    if beyond.any():
        assert services is not None
        m = int(np.argmax(beyond))
        raise ConfigurationError(
            f"services: 'series' has {services.series.ticks} ticks of {services.series.tick_s:g} "
            f"s, and the window from {starts[m]} needs {ranges[m, 1] - ranges[m, 0]}; give a "
            "longer series, or shorter episodes"
        )
    return ranges


def _expectations(services: tuple[float, ...]) -> NDArray[np.void]:
    """Gittins index by past services; jobs that held no capacity say nothing."""
    held = [service for service in services if service > 0]
    return gittins_table(held) if held else np.zeros(0, GITTINS_DTYPE)


def _window_failures(
    scenario: Scenario, trace: Trace, starts: NDArray[np.int64], config: EnvConfig
) -> tuple[NDArray[np.void], NDArray[np.int64]]:
    """Failures of each window, drawn by its first job: other windows do not change them."""
    model = scenario.failures or FailureModel()
    machines = len(trace.nodes) + (0 if scenario.fleet is None else scenario.fleet.spare)
    submit = trace.requests["submit_ms"]
    drawn: list[NDArray[np.void]] = []
    ranges = np.zeros((len(starts), 2), np.int64)
    count = 0
    for m, start in enumerate(starts.tolist()):
        if config.episode_jobs > 0:
            span = int(submit[start + config.episode_jobs - 1] - submit[start])
        else:
            span = config.episode_ticks * scenario.tick_ms
        seed = int(np.random.SeedSequence([scenario.failure_seed, start]).generate_state(1)[0])
        found = sample_failures(model, machines, int(_HORIZON * span), seed)
        drawn.append(found)
        ranges[m] = count, count + len(found)
        count += len(found)
    return np.concatenate(drawn), ranges


def _accounts(scenario: Scenario, trace: Trace) -> NDArray[np.void]:
    """One account for each of the trace's tenants, if any is described."""
    if not scenario.tenants:
        return np.zeros(0, TENANT_DTYPE)
    check_quotas(scenario.tenants, trace.nodes)
    described = {tenant.name: tenant for tenant in scenario.tenants}
    for name in described:
        if name not in trace.tenants:
            known = ", ".join(trace.tenants)
            raise ConfigurationError(
                f"scenario: 'tenants' names '{name}', whom trace '{trace.name}' does not know; "
                f"known: {known}"
            )
    return tenant_records([described.get(name, TenantSpec(name)) for name in trace.tenants])
