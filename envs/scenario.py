"""What surrounds the jobs of an environment: failures, tenants, curves, links, services, fleet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.checks import check_finite, check_whole
from envs.config import EnvConfig
from envs.workloads.failures import FailureModel, sample_failures
from envs.workloads.readers.openb import typical_pods
from envs.workloads.services.series import ServiceSeries
from envs.workloads.table import blank_requests
from envs.workloads.trace import Trace
from orchestrator.autoscaler.policies import ScalingPlan
from orchestrator.autoscaler.table import ForecastTable
from orchestrator.engine.records import check_quotas, node_records, tenant_records
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.state.codes import FOREVER_MS, JobKind, NodeCode, Placement, QuotaMode
from orchestrator.kernels.state.records import (
    CURVE_DTYPE,
    GITTINS_DTYPE,
    INCIDENT_DTYPE,
    NODE_DTYPE,
    SCALING_DTYPE,
    SERVICE_DTYPE,
    TENANT_DTYPE,
    TYPICAL_DTYPE,
    UPLINK_DTYPE,
)
from orchestrator.kernels.state.row import ClusterState
from orchestrator.mesh.specs import ServiceSpec, service_records
from orchestrator.own.loading import load_part
from orchestrator.scheduling.gittins import gittins_table
from orchestrator.types import JobPriority, NodeSpec, TenantSpec
from orchestrator.workloads.throughput import ThroughputModel, curve_records

__all__ = [
    "FleetPlan",
    "Scenario",
    "ServiceMix",
    "Standing",
    "Surroundings",
    "accounts",
    "check_heads",
    "configure_scenario",
    "forecast_from_tables",
    "playable",
    "scenario_named",
    "seasonal_rates",
    "surroundings",
    "with_accounts",
]

_PRICE = 1000.0
_NOBODY = (1 << 31) - 1  # a tenant that has no account: services are the cluster's own
_HORIZON = 2.0
"""Failures are drawn for so many times the span of a window: jobs run on after the last arrival."""


@dataclass(frozen=True)
class ServiceMix:
    """Services that run from the beginning of every episode to its end.

    Their replicas are the workers of an elastic job each, which is deployed by the cluster itself
    and charged to no tenant.

    Parameters
    ----------
    specs : tuple of ServiceSpec
        What they are. Sizes are theirs: replicas to begin with, fewest and most.
    series : ServiceSeries
        Their demand, by their names; a tick of it is the interval of scaling decisions.
    gpus, gpu_share, cpus, memory_gb : int, float
        What a replica takes.
    startup_seconds : float
        From the placement of a replica until it serves.
    target_utilisation, up_window_s, down_window_s : float
        Use of a replica that rules aim for, and how long a service is left alone after a change,
        on the way up and down: for policies and rules alike. Shorter than a tick: it is not.
    forecast : float32 [services, ticks] or None
        By the tick that is about to begin, the rate to prepare for, made from the ticks before
        (:func:`forecast_from_tables`). None: there is none.
    """

    specs: tuple[ServiceSpec, ...]
    series: ServiceSeries
    gpus: int = 1
    gpu_share: float = 1.0
    cpus: int = 4
    memory_gb: int = 16
    startup_seconds: float = 60.0
    target_utilisation: float = 0.7
    up_window_s: float = 0.0
    down_window_s: float = 300.0
    forecast: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        """Reject what does not belong together."""
        if not self.specs:
            raise ConfigurationError("services: 'specs' is empty; describe at least one service")
        names = tuple(spec.name for spec in self.specs)
        object.__setattr__(self, "series", self.series.select(names))
        if not 0.0 < self.gpu_share <= 1.0:
            raise ConfigurationError(f"services: 'gpu_share' is {self.gpu_share}; within (0, 1]")
        for name in ("gpus", "cpus", "memory_gb", "startup_seconds"):
            check_finite(f"services: '{name}'", getattr(self, name), 0)
        if self.forecast is not None:
            self._take_forecast(self.forecast)
        self.plans()

    def _take_forecast(self, given: NDArray[np.float32]) -> None:
        """Keep a contiguous copy that nobody else can change: kernels read it by its address."""
        forecast = np.array(given, np.float32, order="C")
        if forecast.shape != self.series.rates.shape:
            raise ConfigurationError(
                f"services: 'forecast' has shape {forecast.shape}, and the series "
                f"{self.series.rates.shape}; give one rate for each service and tick"
            )
        if not (np.isfinite(forecast).all() and (forecast >= 0).all()):
            raise ConfigurationError(
                "services: 'forecast' has rates that are negative or not finite; make it anew"
            )
        forecast.setflags(write=False)
        object.__setattr__(self, "forecast", forecast)

    @property
    def tick_ms(self) -> int:
        """Length of a tick."""
        return round(self.series.tick_s * 1000)

    def plans(self) -> NDArray[np.void]:
        """How each service is scaled, SCALING_DTYPE [services]."""
        plans = [
            ScalingPlan(
                spec.capacity_rps(1),
                target_utilisation=self.target_utilisation,
                min_size=spec.min_replicas,
                max_size=spec.max_replicas,
                up_window_s=self.up_window_s,
                down_window_s=self.down_window_s,
            ).to_record()
            for spec in self.specs
        ]
        return np.concatenate(plans)

    def requests(self) -> NDArray[np.void]:
        """The jobs whose workers are the replicas, REQUEST_DTYPE [services]."""
        asks = blank_requests(len(self.specs))
        asks["kind"] = JobKind.SERVICE
        asks["duration_ms"] = asks["requested_ms"] = FOREVER_MS
        asks["gpus_per_worker"] = self.gpus
        asks["gpu_milli"] = round(1000 * self.gpu_share)
        asks["cpu_milli"] = 1000 * self.cpus
        asks["memory_mib"] = 1024 * self.memory_gb
        asks["regroup_ms"] = round(1000 * self.startup_seconds)
        asks["priority"] = JobPriority.PRODUCTION.value
        asks["preemptible"] = 0
        asks["elastic"] = 1
        asks["service"] = np.arange(len(self.specs))
        asks["workers"] = [spec.replicas for spec in self.specs]
        asks["min_workers"] = [spec.min_replicas for spec in self.specs]
        asks["max_workers"] = [spec.max_replicas for spec in self.specs]
        asks["tenant"] = _NOBODY
        asks["source_id"] = -1 - np.arange(len(self.specs))
        return asks


@dataclass(frozen=True)
class FleetPlan:
    """Nodes that can be ordered and given up.

    Parameters
    ----------
    spare : int
        Nodes besides the trace's own that may be ordered, each like one of them in turn.
    provision_seconds : float
        From the order of a node until it is in service.
    least, most : int
        Bounds of the fleet; most 0: all there are.
    price : float
        Of a node for an hour.
    target_utilisation, up_window_s, down_window_s : float
        As in :class:`ServiceMix`, of the fleet.
    review_seconds : float
        Interval of scaling decisions where there are no services.
    """

    spare: int = 0
    provision_seconds: float = 120.0
    least: int = 1
    most: int = 0
    price: float = 1.0
    target_utilisation: float = 0.9
    up_window_s: float = 0.0
    down_window_s: float = 600.0
    review_seconds: float = 60.0

    def __post_init__(self) -> None:
        """Reject what makes no sense."""
        for name in ("spare", "least", "most"):
            check_whole(f"fleet: '{name}'", getattr(self, name), 0)
        for name in ("provision_seconds", "price", "review_seconds"):
            check_finite(f"fleet: '{name}'", getattr(self, name), 0)
        if 0 < self.most < self.least:
            raise ConfigurationError(
                f"fleet: 'most' is {self.most}, and 'least' {self.least}; give at least that, or 0"
            )
        if self.review_seconds <= 0:
            raise ConfigurationError("fleet: 'review_seconds' is 0; more than 0")
        self.plan(1, 1.0)

    def records(self, nodes: NDArray[np.void]) -> NDArray[np.void]:
        """The trace's nodes and, absent until they are ordered, the spare ones: NODE_DTYPE."""
        like = np.arange(self.spare) % max(len(nodes), 1)
        spare = nodes[like].copy()
        spare["state"] = NodeCode.ABSENT
        everything = np.concatenate([nodes, spare]).astype(NODE_DTYPE)
        everything["price_milli"] = round(_PRICE * self.price)
        return everything

    def plan(self, nodes: int, unit_capacity: float) -> NDArray[np.void]:
        """How the fleet is scaled, SCALING_DTYPE [1].

        Parameters
        ----------
        nodes : int
            Those that there may be.
        unit_capacity : float
            Capacity units of one of them.
        """
        return ScalingPlan(
            unit_capacity,
            target_utilisation=self.target_utilisation,
            min_size=min(self.least, nodes),
            max_size=max(min(self.most or nodes, nodes), 1),
            up_window_s=self.up_window_s,
            down_window_s=self.down_window_s,
        ).to_record()


@dataclass(frozen=True)
class Standing:
    """Services and fleet as kernels take them.

    Parameters
    ----------
    requests : REQUEST_DTYPE [S]
    plans : SCALING_DTYPE [S + 1]
        Of the fleet, then of each service; of a fleet that does not change, all zero.
    """

    requests: NDArray[np.void]
    plans: NDArray[np.void]

    @classmethod
    def of(
        cls, services: ServiceMix | None, fleet: FleetPlan | None, nodes: Sequence[NodeSpec]
    ) -> Standing:
        """What stands in every episode on these nodes."""
        count = 0 if services is None else len(services.specs)
        plans: Any = np.zeros(count + 1, SCALING_DTYPE)
        requests = blank_requests(0)
        if services is not None:
            plans[1:] = services.plans()
            requests = services.requests()
        if fleet is not None:
            gpus = sum(node.gpus for node in nodes)
            units = gpus if gpus > 0 else sum(node.cpu_cores for node in nodes)
            total = len(nodes) + fleet.spare
            plans[:1] = fleet.plan(total, 1000.0 * units / max(len(nodes), 1))
        requests.setflags(write=False)
        return cls(requests, plans)


def forecast_from_tables(
    tables: Sequence[ForecastTable], ticks: int, *, level: float, ahead: int
) -> NDArray[np.float32]:
    """Rates to prepare for, from rolling forecasts: the highest quantile of the next ticks.

    Parameters
    ----------
    tables : sequence of ForecastTable
        One for each service, on the series' ticks.
    ticks : int
        Of the series.
    level : float
        Which quantile.
    ahead : int
        Ticks to look ahead: as long as a replica takes to start, and until the next decision.

    Returns
    -------
    float32 [services, ticks]
        Before a table's first origin that has quantiles nothing is known: 0 there.

    Raises
    ------
    ValidationError
        If a table does not reach as far ahead, lacks the level, or ends before the series.
    """
    rates = np.zeros((len(tables), ticks), np.float32)
    for s, table in enumerate(tables):
        known = np.isfinite(table.bands[:, : ahead + 1]).all(axis=(1, 2))
        first = table.first + int(np.argmax(known))
        upper = table.upper(level, first, ticks - 1, ahead)
        rates[s, first + 1 :] = np.maximum(upper[:, 1:].max(axis=1), 0.0)
    return rates


def seasonal_rates(series: ServiceSeries, *, period: int, ahead: int) -> NDArray[np.float32]:
    """Rates to prepare for, from the seasonal naive forecast: the highest of the next ticks.

    Parameters
    ----------
    series : ServiceSeries
    period : int
        Ticks after which demand is taken to repeat itself.
    ahead : int
        Ticks to look ahead, the one that is about to begin included; at most a period.

    Returns
    -------
    float32 [services, ticks]
        In the first period nothing is known: 0 there.

    Raises
    ------
    ConfigurationError
        If the look-ahead is not within the period: it would see demand that is yet to come.
    """
    if not 1 <= ahead <= period:
        raise ConfigurationError(
            f"seasonal_rates: 'ahead' is {ahead}; give 1 to the period of {period} ticks"
        )
    rates = np.zeros_like(series.rates)
    for k in range(ahead if series.ticks > period else 0):
        known = series.rates[:, k : series.ticks - period + k]
        later = rates[:, period:]
        np.maximum(later, known, out=later)
    return rates


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
        See :func:`orchestrator.scheduling.gittins.job_services`.
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
        check_whole("scenario: 'failure_seed'", self.failure_seed, 0)
        for rack, gbps in enumerate(self.uplinks_gbps):
            check_finite(f"scenario: 'uplinks_gbps' of rack {rack}", gbps, 0)
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


def scenario_named(name: str, **options: Any) -> Scenario:
    """A scenario of one's own by name, ``package.module:Name``: a function that makes it.

    Raises
    ------
    ConfigurationError
        If there is none, or what it makes is no scenario.
    """
    make = load_part(name, "scenario")
    made = make(**options) if callable(make) else make
    if not isinstance(made, Scenario):
        raise ConfigurationError(
            f"scenario '{name}': gave {type(made).__name__}; return a Scenario (envs.Scenario)"
        )
    return made


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
    if scenario.failures is not None:
        found, ranges = _window_failures(scenario, trace, starts, config)
    else:
        found = np.zeros(0, INCIDENT_DTYPE) if incidents is None else incidents.copy()
        ranges = np.tile(np.array([0, len(found)], np.int64), (len(starts), 1))
    most = int(trace.requests["curve"].max(initial=0))
    if scenario.curves and most > len(scenario.curves):
        raise ConfigurationError(
            f"scenario: 'curves' has {len(scenario.curves)} models, and trace '{trace.name}' has "
            f"jobs of curve {most}; give one for each"
        )
    keeps = any(rule.reads_accounts for rule in config.rules)
    pods = trace.requests if scenario.pods is None else scenario.pods
    gradient = Placement.FGD in config.generated_by
    nodes = node_records(trace.nodes)
    services = scenario.services
    return Surroundings(
        incidents=found,
        incident_range=ranges,
        tenants=accounts(with_accounts(scenario, trace) if keeps else scenario, trace),
        curves=curve_records(scenario.curves) if scenario.curves else np.zeros(0, CURVE_DTYPE),
        uplinks=_uplinks(scenario.uplinks_gbps),
        typical=typical_pods(pods) if gradient else np.zeros(0, TYPICAL_DTYPE),
        nodes=nodes if scenario.fleet is None else scenario.fleet.records(nodes),
        services=np.zeros(0, SERVICE_DTYPE)
        if services is None
        else service_records(services.specs, range(len(services.specs))),
        series_range=_window_ticks(scenario, trace, starts, config),
        gittins=_expectations(scenario.past_services),
    )


def with_accounts(scenario: Scenario, trace: Trace) -> Scenario:
    """A scenario in which accounts are kept, for rules that read them.

    Parameters
    ----------
    scenario : Scenario
    trace : Trace

    Returns
    -------
    Scenario
        The same if it describes tenants. Else all that have jobs in the trace have the same
        weight, and are entitled to equal parts of its cluster.
    """
    if scenario.tenants:
        return scenario
    present = [trace.tenants[t] for t in np.unique(trace.requests["tenant"])]
    capacity = trace.gpus or trace.cpu_cores
    quota = math.floor(1000 * capacity / len(present)) / 1000
    return replace(scenario, tenants=tuple(TenantSpec(name, 1.0, quota) for name in present))


def configure_scenario(state: ClusterState, scenario: Scenario) -> None:
    """Say in all rows of a state what of a scenario stays the same from episode to episode.

    The rows hold the addresses of the services' series and forecast: the scenario must live as
    long as they are used.
    """
    rows, services, fleet = state.rows, scenario.services, scenario.fleet
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


def _uplinks(gbps: tuple[float, ...]) -> NDArray[np.void]:
    """Uplinks of racks, UPLINK_DTYPE [racks]."""
    uplinks = np.zeros(len(gbps), UPLINK_DTYPE)
    uplinks["capacity_mbps"] = [round(1000 * rate) for rate in gbps]
    return uplinks


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


def accounts(scenario: Scenario, trace: Trace) -> NDArray[np.void]:
    """One account for each of the trace's tenants, TENANT_DTYPE; none if nobody is described."""
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
