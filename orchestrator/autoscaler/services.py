"""How services do, tick by tick: what policies that size them are told, and what logs keep.

Rates, misses and response times are what the mesh has counted since the tick before; what is to be
prepared for is forecast from the rates so far, as :class:`PredictiveScaler` forecasts demand.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from orchestrator.autoscaler.forecast import (
    Forecaster,
    Persistence,
    RollingSettings,
    SeasonalMean,
    SeasonalNaive,
)
from orchestrator.autoscaler.policies import PredictiveScaler, ScalingPlan
from orchestrator.engine.checks import MOST_SERVICES
from orchestrator.engine.engine import Engine
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.state.codes import JobKind
from orchestrator.mesh.mesh import ServiceMesh
from orchestrator.mesh.specs import ServiceSpec
from orchestrator.messages import ServiceSeen, Sizing
from orchestrator.ports import Clock
from orchestrator.types import JobSpec

__all__ = ["RateForecasting", "ServiceWatch", "service_plan"]


_DAY_S = 86_400


def service_plan(
    spec: JobSpec,
    rules: ServiceSpec,
    *,
    target_utilisation: float = 0.7,
    down_window_s: float = 300.0,
) -> ScalingPlan:
    """How a service is sized, within the bounds of both its rules and its job.

    Parameters
    ----------
    spec : JobSpec
        The job whose workers are its replicas.
    rules : ServiceSpec
        Its rules in the mesh.
    target_utilisation : float, optional
        Use of a replica to aim for.
    down_window_s : float, optional
        After a change, time before replicas are taken away.
    """
    return ScalingPlan(
        rules.capacity_rps(1),
        target_utilisation=target_utilisation,
        min_size=max(rules.min_replicas, spec.min_workers),
        max_size=min(rules.max_replicas, spec.max_workers),
        down_window_s=down_window_s,
    )


@dataclass(frozen=True)
class RateForecasting:
    """How the rates of services are forecast.

    Parameters
    ----------
    tick_s : float
        Between two ticks; a day is so many of them.
    forecasters : tuple of Forecaster, optional
        Who competes; the first one is followed while nothing is known of their errors.
    level : float, optional
        Probability with which the rate to prepare for suffices, in (0, 1).
    settings : RollingSettings or None, optional
    """

    tick_s: float
    forecasters: tuple[Forecaster, ...] = (Persistence(), SeasonalNaive(), SeasonalMean())
    level: float = 0.9
    settings: RollingSettings | None = None

    def __post_init__(self) -> None:
        """Reject what cannot be meant; the rest is for the scaler to reject."""
        if not 0.0 < self.tick_s <= _DAY_S:
            raise ConfigurationError(
                f"RateForecasting: 'tick_s' is {self.tick_s}; give more than 0, at most a day"
            )

    def scaler(self, plan: ScalingPlan, ahead_s: float) -> PredictiveScaler:
        """One that forecasts for so long ahead, until the tick after that."""
        return PredictiveScaler(
            plan,
            self.forecasters,
            day=max(round(_DAY_S / self.tick_s), 1),
            delay=math.ceil(ahead_s / self.tick_s) + 1,
            level=self.level,
            settings=self.settings,
        )


@dataclass(frozen=True)
class _Counts:
    """What the mesh had counted of a service, and requests that were open then."""

    offered: int = 0
    within: int = 0
    open: int = 0


class ServiceWatch:
    """Looks at all services at every tick.

    Parameters
    ----------
    engine : Engine
        The cluster.
    clock : Clock
        Time.
    mesh : ServiceMesh
        Where their requests go.
    sizing_of : callable
        How the service of a job is to be sized, if somebody knows.
    forecasting : RateForecasting or None, optional
        None: what is to be prepared for is what came last.
    """

    def __init__(
        self,
        engine: Engine,
        clock: Clock,
        mesh: ServiceMesh,
        sizing_of: Callable[[str], Sizing | None],
        forecasting: RateForecasting | None = None,
    ) -> None:
        self._engine, self._clock, self._mesh = engine, clock, mesh
        self._sizing_of, self._forecasting = sizing_of, forecasting
        self._before: dict[str, _Counts] = {}
        self._then_ms: int | None = None
        self._scalers: dict[str, PredictiveScaler] = {}

    def serving(self) -> dict[str, JobSpec]:
        """Services that there are, and of each the last job that has not ended; by submission."""
        jobs = self._engine.jobs
        specs = [jobs.specs[job_id] for job_id in self._engine.unended()]
        services = [spec for spec in specs if spec.kind == JobKind.SERVICE]
        services.sort(key=lambda spec: int(jobs.submits_ms[jobs.index.find(spec.job_id)]))
        found = {spec.name: spec for spec in services}
        return {name: spec for name, spec in found.items() if name in self._mesh.services}

    async def look(self) -> tuple[int, tuple[ServiceSeen, ...]]:
        """Milliseconds since the last look, and how each service has done since.

        At the first look they are 0, and nothing is known.
        """
        now_ms, then_ms = self._clock.now_ms(), self._then_ms
        self._then_ms, before = now_ms, self._before
        services, self._before = self.serving(), {}
        elapsed_ms = now_ms - (now_ms if then_ms is None else then_ms)
        seen = list[ServiceSeen]()
        for name, spec in services.items():
            found = self._look_at(spec, before.get(name, _Counts()), elapsed_ms)
            if found is not None:
                seen.append(found)
        if elapsed_ms <= 0:
            return 0, ()
        ahead = [await self._ahead(services[self._name(one)], one.rate_rps) for one in seen]
        told = [replace(one, ahead_rps=rate) for one, rate in zip(seen, ahead, strict=True)]
        return elapsed_ms, tuple(told[:MOST_SERVICES])

    def _name(self, seen: ServiceSeen) -> str:
        return self._engine.jobs.specs[seen.job_id].name

    def _look_at(self, spec: JobSpec, before: _Counts, elapsed_ms: int) -> ServiceSeen | None:
        """How a service has done; None at the first look."""
        rules, counts = self._mesh.spec(spec.name), self._mesh.counts(spec.name)
        load = self._mesh.take_load(spec.name)
        self._before[spec.name] = _Counts(counts.offered, counts.within, load.open)
        if elapsed_ms <= 0:
            return None
        endpoints = self._mesh.discovery.endpoints(spec.name)
        ready = sum(endpoint.routable for endpoint in endpoints)
        # Rules that were given anew count from 0.
        offered = max(counts.offered - before.offered, 0)
        within = max(counts.within - before.within, 0)
        missed = offered - within - (load.open - before.open)
        rate_rps = 1000.0 * offered / elapsed_ms
        sizing = self._sizing_of(spec.job_id) or service_plan(spec, rules).sizing()
        return ServiceSeen(
            job_id=spec.job_id,
            slots=rules.slots,
            service_ms=float(rules.service_ms),
            objective_ms=float(rules.objective_ms),
            sizing=sizing,
            rate_rps=rate_rps,
            ahead_rps=rate_rps,
            latency_ms=load.latency_ms,
            missed_share=min(max(missed / offered, 0.0), 1.0) if offered else 0.0,
            backlog=float(max(load.open - ready * rules.slots, 0)),
            ready=ready,
            breaker=int(load.breaker),
        )

    async def _ahead(self, spec: JobSpec, rate_rps: float) -> float:
        """The rate that a service is to be prepared for, as long as a replica takes to start."""
        if self._forecasting is None:
            return rate_rps
        if spec.name not in self._scalers:
            plan = service_plan(spec, self._mesh.spec(spec.name))
            self._scalers[spec.name] = self._forecasting.scaler(plan, spec.regroup_seconds)
        # A fit may take seconds.
        return await asyncio.to_thread(_forecast, self._scalers[spec.name], rate_rps)


def _forecast(scaler: PredictiveScaler, rate_rps: float) -> float:
    """What is to be prepared for after one more tick."""
    scaler.observe(rate_rps)
    if scaler.refit_due():
        scaler.refit()
    return max(scaler.forecast().upper, 0.0)
