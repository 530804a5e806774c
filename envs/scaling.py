"""Inference services of an episode, and a fleet that grows and shrinks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.workloads.columns import blank_requests
from envs.workloads.services.series import ServiceSeries
from orchestrator.autoscaler.horizontal import ScalingPlan
from orchestrator.autoscaler.table import ForecastTable
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.codes import FOREVER_MS, JobKind, NodeCode
from orchestrator.kernels.records import NODE_DTYPE
from orchestrator.kernels.scaling import SCALING_DTYPE
from orchestrator.mesh.specs import ServiceSpec
from orchestrator.types import JobPriority, NodeSpec

__all__ = ["FleetPlan", "ServiceMix", "Standing", "forecast_from_tables", "seasonal_rates"]

_PRICE = 1000.0
_NOBODY = (1 << 31) - 1  # a tenant that has no account: services are the cluster's own


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
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigurationError(f"services: '{name}' is {value}; at least 0")
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
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ConfigurationError(f"fleet: '{name}' is {value!r}; an integer of at least 0")
        for name in ("provision_seconds", "price", "review_seconds"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ConfigurationError(f"fleet: '{name}' is {value}; at least 0")
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
