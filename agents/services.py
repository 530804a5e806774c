"""From plain values to inference services, their demand and forecasts, and to a changing fleet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agents.configs import check_fields
from envs.scenario import FleetPlan, ServiceMix, forecast_from_tables
from envs.workloads.services import (
    GapFill,
    ServiceRhythm,
    ServiceSeries,
    generate_services,
    read_servegen,
)
from orchestrator.autoscaler import DemandSeries, forecaster_named, make_table
from orchestrator.errors import ConfigurationError
from orchestrator.mesh.specs import BreakerSpec, LimitSpec, RetrySpec, ServiceSpec

__all__ = ["fleet_plan", "service_mix"]

_DAY_S = 86_400
_KINDS = ("none", "generated", "servegen")
_PARTS = {"limit": LimitSpec, "retry": RetrySpec, "breaker": BreakerSpec}
_OF_MIX = ("gpus", "gpu_share", "cpus", "memory_gb", "startup_seconds", "target_utilisation")
_WINDOWS = ("up_window_s", "down_window_s")


def service_mix(kind: str, **options: Any) -> ServiceMix | None:
    """Make the services of a scenario.

    Parameters
    ----------
    kind : {"none", "generated", "servegen"}
        Where their demand comes from.
    **options
        ``demand``: of that source, see :func:`_generated` and :func:`_servegen`; ``spec``: fields
        of :class:`orchestrator.mesh.ServiceSpec` that all of them have, where ``replicas`` null
        stands for as many as their mean demand takes; ``forecast``: ``forecasters`` by kind, as
        in the group ``forecaster``, ``level`` and ``ahead`` of
        :func:`envs.scenario.forecast_from_tables`, or null; the other fields of
        :class:`envs.scenario.ServiceMix`.

    Returns
    -------
    ServiceMix or None

    Raises
    ------
    ConfigurationError, ValidationError, TraceError
        Naming the field, or the file, and the remedy.
    """
    if kind not in _KINDS:
        raise ConfigurationError(f"services: 'kind' is '{kind}'; choose from {', '.join(_KINDS)}")
    if kind == "none":
        return None
    known = ("demand", "spec", "forecast", *_OF_MIX, *_WINDOWS)
    for name in options:
        if name not in known:
            raise ConfigurationError(f"services: unknown field '{name}'; known: {', '.join(known)}")
    series = (_generated if kind == "generated" else _servegen)(**options.get("demand", {}))
    mine = {name: options[name] for name in (*_OF_MIX, *_WINDOWS) if name in options}
    target = mine.get("target_utilisation", ServiceMix.target_utilisation)
    specs = tuple(
        _spec(name, float(rates.mean()), options.get("spec", {}), target)
        for name, rates in zip(series.names, series.rates, strict=True)
    )
    forecast = options.get("forecast")
    table = None if forecast is None else _forecast(series, **forecast)
    return ServiceMix(specs, series, forecast=table, **mine)


def fleet_plan(spare: int | None = None, **options: Any) -> FleetPlan | None:
    """Make the fleet of a scenario: fields of :class:`envs.scenario.FleetPlan`.

    Without ``spare`` the fleet does not change.
    """
    check_fields("fleet", FleetPlan, options, without=("spare",))
    if spare is None:
        if options:
            raise ConfigurationError(
                f"fleet: 'spare' is missing, but {', '.join(options)} is set; say how many nodes "
                "there are to order"
            )
        return None
    return FleetPlan(spare, **options)


def _generated(
    services: int = 4,
    days: float = 60.0,
    tick_seconds: float = 60.0,
    seed: int = 0,
    rhythm: Mapping[str, float] | None = None,
) -> ServiceSeries:
    """Demand of a model: see :func:`envs.workloads.services.generate_services`."""
    check_fields("services, 'rhythm'", ServiceRhythm, rhythm or {})
    ticks = math.floor(days * _DAY_S / tick_seconds)
    return generate_services(
        services, ticks, seed, tick_s=tick_seconds, rhythm=ServiceRhythm(**(rhythm or {}))
    )


def _servegen(
    path: str,
    model: str = "m-small",
    clients: int | None = None,
    tick_seconds: float = 60.0,
    mean_rps: float | None = None,
) -> ServiceSeries:
    """Demand as ServeGen recorded it, scaled to a mean rate, on other ticks."""
    series = read_servegen(Path(path), model, clients=clients, fill=GapFill.PREVIOUS)
    if mean_rps is not None:
        series = series.scaled(mean_rps / float(series.rates.mean()))
    return series if tick_seconds == series.tick_s else series.resampled(tick_seconds)


def _spec(name: str, rate: float, options: Mapping[str, Any], target: float) -> ServiceSpec:
    """A service; without ``replicas`` it begins with as many as its mean demand takes."""
    check_fields("services, 'spec'", ServiceSpec, options, without=("name",))
    values = {key: value for key, value in options.items() if value is not None}
    for part, kind in _PARTS.items():
        if part in values:
            check_fields(f"services, 'spec.{part}'", kind, values[part])
            values[part] = kind(**values[part])
    if "replicas" in values:
        return ServiceSpec(name, **values)
    one = ServiceSpec(name, **values, replicas=values.get("min_replicas", 1))
    needed = math.ceil(rate / (one.capacity_rps(1) * target))
    return ServiceSpec(
        name, **values, replicas=min(max(needed, one.min_replicas), one.max_replicas)
    )


def _forecast(
    series: ServiceSeries,
    forecasters: Mapping[str, Mapping[str, Any] | None],
    level: float = 0.9,
    ahead: int = 2,
) -> Any:
    """Rolling forecasts of every service, made from the past of each tick only."""
    if series.tick_s != int(series.tick_s):
        raise ConfigurationError(
            f"services: a tick of {series.tick_s} s has no forecast; choose whole seconds"
        )
    made: Sequence[Any] = [
        forecaster_named(name, **(options or {})) for name, options in forecasters.items()
    ]
    day = round(_DAY_S / series.tick_s)
    tables = [
        make_table(
            DemandSeries(name, rates.astype(float), int(series.tick_s), "requests/s"),
            made,
            ahead,
            first=min(day, series.ticks - 1),
            levels=(level,),
        )
        for name, rates in zip(series.names, series.rates, strict=True)
    ]
    return forecast_from_tables(tables, series.ticks, level=level, ahead=ahead)
