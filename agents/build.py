"""From Hydra configs to objects, in the order in which training needs them.

Workload, environment and scenario; the learning problem of these; the suites that judge what was
learned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from agents.evaluation.pods import PackingSuite, PublishedPacking
from agents.evaluation.suite import Published, Suite
from agents.problem import Problem
from agents.program import plain
from agents.settings import check_kind, check_number, check_seed, check_types
from agents.speed.table import Ratio, SpeedSuite, Target
from agents.speed.workbench import Workbench
from envs.config import EnvConfig
from envs.scenario import FleetPlan, Scenario, ServiceMix, forecast_from_tables, playable
from envs.workloads import Enrichment, Trace, WindowSplit, enrich, load_workload, of_tenants
from envs.workloads.failures import FAILURE_MODELS, FailureModel
from envs.workloads.services import (
    GapFill,
    ServiceRhythm,
    ServiceSeries,
    generate_services,
    read_servegen,
)
from orchestrator.autoscaler import DemandSeries, forecaster_named, make_table
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.state.codes import QuotaMode
from orchestrator.mesh.specs import BreakerSpec, LimitSpec, RetrySpec, ServiceSpec
from orchestrator.types import TenantSpec
from orchestrator.workloads.throughput import ThroughputModel, application_named

__all__ = [
    "Evaluation",
    "at_load",
    "build_evaluation",
    "build_packing_suite",
    "build_problem",
    "build_speed_suite",
    "build_suite",
    "build_trainer",
    "check_fields",
    "elastic_workload",
    "env_config",
    "failure_model",
    "fewer_machines",
    "file_or_generator",
    "fleet_plan",
    "judging_suite",
    "scenario_config",
    "service_mix",
]


_DAY_S = 86_400


_KINDS = ("none", "generated", "servegen")


_PARTS = {"limit": LimitSpec, "retry": RetrySpec, "breaker": BreakerSpec}


_OF_MIX = ("gpus", "gpu_share", "cpus", "memory_gb", "startup_seconds", "target_utilisation")


_WINDOWS = ("up_window_s", "down_window_s")


def check_fields(
    subject: str, kind: type, options: Mapping[str, Any], without: Sequence[str] = ()
) -> None:
    """Refuse options that are no fields of a dataclass, but for those ``without``."""
    known = [field.name for field in fields(kind) if field.name not in without]
    for name in options:
        if name not in known:
            raise ConfigurationError(
                f"{subject}: unknown field '{name}'; known: {', '.join(known)}"
            )


# --- Workloads -----------------------------------------------------------------------------------


def file_or_generator(
    folder: str | None, file: Mapping[str, Any], otherwise: Mapping[str, Any]
) -> Trace:
    """Load a public trace if the folder of traces is known, else generate jobs.

    Parameters
    ----------
    folder : str or None
        Folder of public traces.
    file, otherwise : mapping
        Arguments of :func:`envs.workloads.load_workload`; the path of ``file`` is relative to
        ``folder``.

    Returns
    -------
    Trace
    """
    if not folder:
        return load_workload(**otherwise)
    return load_workload(**{**file, "path": str(Path(folder) / file["path"])})


def fewer_machines(keep_every: int, **workload: Any) -> Trace:
    """Load a workload and leave it every so many-th machine of its cluster.

    A cluster that is never short of anything leaves nothing to decide.

    Parameters
    ----------
    keep_every : int
        1 keeps all.
    **workload
        Arguments of :func:`envs.workloads.load_workload`.

    Returns
    -------
    Trace
    """
    if keep_every < 1:
        raise ConfigurationError(f"workload: 'keep_every' is {keep_every}; at least 1")
    trace = load_workload(**workload)
    name = f"{trace.name} on 1/{keep_every} of its machines" if keep_every > 1 else trace.name
    return replace(trace, name=name, nodes=trace.nodes[::keep_every])


def at_load(load: float | None, **workload: Any) -> Trace:
    """Load a workload, its jobs coming so much faster or slower that they offer a load.

    Parameters
    ----------
    load : float or None
        See :meth:`envs.workloads.Trace.at_load`; None leaves them as they are.
    **workload
        Arguments of :func:`envs.workloads.load_workload`.

    Returns
    -------
    Trace
    """
    trace = load_workload(**workload)
    return trace if load is None else trace.at_load(load)


def elastic_workload(
    *,
    keep_every: int = 1,
    enrichment: Mapping[str, Any] | None = None,
    only_tenants: Sequence[str] | None = None,
    without_tenants: Sequence[str] = (),
    **workload: Any,
) -> Trace:
    """Load a workload on fewer machines, add what it does not record, and choose its tenants.

    Parameters
    ----------
    keep_every : int, optional
        As for :func:`fewer_machines`; jobs that do not fit what is left are dropped.
    enrichment : mapping or None, optional
        Fields of :class:`envs.workloads.Enrichment`; None: nothing is added.
    only_tenants, without_tenants : sequence of str, optional
        See :func:`envs.workloads.of_tenants`.
    **workload
        Arguments of :func:`envs.workloads.load_workload`.

    Returns
    -------
    Trace
        What is drawn for a job does not depend on the choice of tenants.
    """
    trace = fewer_machines(keep_every, **workload)
    if enrichment is not None:
        check_fields("enrichment", Enrichment, enrichment)
        trace = enrich(trace, Enrichment(**enrichment))
    return of_tenants(trace, only_tenants, without_tenants)


# --- The environment -----------------------------------------------------------------------------


def env_config(**options: Any) -> EnvConfig:
    """Make an environment's config from plain values: of an unknown field, the known ones are said.

    Parameters
    ----------
    **options
        Fields of :class:`envs.config.EnvConfig`.

    Returns
    -------
    EnvConfig

    Raises
    ------
    ConfigurationError
        For an unknown field or value, listing the known ones.
    """
    check_fields("environment", EnvConfig, options)
    return EnvConfig(**options)


# --- The scenario: failures, tenants, curves, links, services, fleet -----------------------------


def scenario_config(**options: Any) -> Scenario:
    """Make a scenario from plain values.

    Parameters
    ----------
    **options
        Fields of :class:`envs.Scenario`: ``failures`` as for :func:`failure_model`, ``tenants`` as
        a mapping of name to the other fields of :class:`orchestrator.types.TenantSpec`,
        ``quota_mode`` by name, ``curves`` by names of
        :data:`orchestrator.workloads.throughput.APPLICATIONS`, ``services`` as for
        :func:`service_mix`, ``fleet`` as for :func:`fleet_plan`,
        the others as they are.

    Returns
    -------
    Scenario

    Raises
    ------
    ConfigurationError, ValidationError
        For an unknown field or value, listing the known ones.
    """
    check_fields("scenario", Scenario, options)
    values: dict[str, Any] = {
        name: _BUILDERS[name](value) if name in _BUILDERS else value
        for name, value in options.items()
    }
    return Scenario(**values)


def failure_model(kind: str, **changes: Any) -> FailureModel | None:
    """A model of failures by name, with some of its fields changed.

    Parameters
    ----------
    kind : str
        One of :data:`envs.workloads.failures.FAILURE_MODELS`; ``none`` has no fields.
    **changes
        Fields of :class:`envs.workloads.failures.FailureModel`.
    """
    if kind not in FAILURE_MODELS:
        known = ", ".join(FAILURE_MODELS)
        raise ConfigurationError(f"failures: 'kind' is '{kind}'; choose from {known}")
    check_fields("failures", FailureModel, changes)
    model = FAILURE_MODELS[kind]
    if model is None:
        return None
    return replace(model, **{name: _frozen(value) for name, value in changes.items()})


def _failures(options: Mapping[str, Any] | None) -> FailureModel | None:
    if options is None:
        return None
    if "kind" not in options:
        raise ConfigurationError(
            f"failures: 'kind' is missing; choose from {', '.join(FAILURE_MODELS)}"
        )
    return failure_model(**options)


def _tenants(options: Mapping[str, Mapping[str, Any] | None]) -> tuple[TenantSpec, ...]:
    if not isinstance(options, Mapping):
        raise ConfigurationError(
            f"scenario: 'tenants' is {options!r}; give a mapping of names to entitlements"
        )
    for name, values in options.items():
        check_fields(f"scenario, tenant '{name}'", TenantSpec, values or {}, without=("name",))
    return tuple(TenantSpec(name, **(values or {})) for name, values in options.items())


def _quota_mode(name: Any) -> QuotaMode:
    try:
        return QuotaMode[str(name).upper()]
    except KeyError:
        known = ", ".join(member.name.lower() for member in QuotaMode)
        raise ConfigurationError(
            f"scenario: 'quota_mode' is '{name}'; choose from {known}"
        ) from None


def _curves(names: Sequence[str]) -> tuple[ThroughputModel, ...]:
    return tuple(application_named(name) for name in names)


def _services(options: Mapping[str, Any] | None) -> ServiceMix | None:
    return None if options is None else service_mix(**options)


def _fleet(options: Mapping[str, Any] | None) -> FleetPlan | None:
    return None if options is None else fleet_plan(**options)


def _frozen(value: Any) -> Any:
    """Lists, as configs have them, as tuples, as frozen dataclasses do."""
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


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


_BUILDERS: Mapping[str, Callable[[Any], Any]] = {
    "failures": _failures,
    "tenants": _tenants,
    "quota_mode": _quota_mode,
    "curves": _curves,
    "uplinks_gbps": tuple,
    "services": _services,
    "fleet": _fleet,
}


# --- The problem, and what judges its solutions --------------------------------------------------


def build_problem(cfg: DictConfig) -> Problem:
    """Make a config's problem, of ``workload``, ``env``, ``scenario``, ``task`` and ``seed``."""
    trace = hydra.utils.instantiate(cfg.workload)
    options = plain(cfg.task)
    length = check_number("task", "evaluation_jobs", options.pop("evaluation_jobs"), 1)
    _check_task(options)
    config, scenario = hydra.utils.instantiate(cfg.env), hydra.utils.instantiate(cfg.scenario)
    return Problem(
        trace=trace,
        config=config,
        split=WindowSplit(playable(trace, config, scenario), **options),
        evaluation_jobs=length,
        seed=check_seed("config", cfg.seed),
        scenario=scenario,
    )


def _check_task(options: Mapping[str, Any]) -> None:
    """Refuse parts of a trace that are none."""
    check_fields("task", WindowSplit, options, without=("jobs",))
    for name, value in options.items():
        if name != "exclude":
            check_kind("task", name, value, float)
        elif (
            not all(isinstance(pair, list) and len(pair) == 2 for pair in value or [None]) and value
        ):
            raise ConfigurationError(
                f"task: 'exclude' is {value!r}; give a list of [first job, job after the last]"
            )


def build_trainer(cfg: DictConfig) -> Any:
    """Make a config's trainer; of an unknown field, the known ones are said."""
    target = cfg.get("_target_")
    if target is None:
        raise ConfigurationError(
            "agent: '_target_' is missing; choose one of the group, such as agent=cma"
        )
    kind = hydra.utils.get_class(target)
    if is_dataclass(kind):
        options = [name for name in cfg if not str(name).startswith("_")]
        check_fields("agent", kind, dict.fromkeys(map(str, options)))
    return hydra.utils.instantiate(cfg)


def judging_suite(cfg: DictConfig, problem: Problem) -> Suite:
    """The suite that judges a trained policy: the test windows of its own problem."""
    options = plain(cfg.evaluation)
    count = check_number("evaluation", "windows", options.pop("windows", None), 1)
    starts = problem.judging_windows("test", count).starts
    check_fields("evaluation", Suite, options, without=("name", "length", "starts", "split"))
    split, length = problem.parts, problem.evaluation_jobs
    parts = {"train": split.train, "validation": split.validation, "test": split.test}
    return Suite(cfg.name, length, starts=starts.tolist(), split=parts, **options)


def build_suite(cfg: Any) -> Suite:
    """Make a suite of evaluation from plain values."""
    options = plain(cfg)
    options.pop("kind", None)
    check_fields("suite of evaluation", Suite, options)
    for row in options.get("published", ()):
        check_fields("suite of evaluation, 'published'", Published, row)
    options["published"] = tuple(Published(**row) for row in options.get("published", ()))
    return Suite(**options)


@dataclass(frozen=True)
class Evaluation:
    """A suite, and what it is run on.

    Parameters
    ----------
    suite : Suite
    problem : Problem
    history : Trace or None
        From whose training part rules know how long jobs take; None: the problem's trace.
    """

    suite: Suite
    problem: Problem
    history: Trace | None = None


def build_evaluation(cfg: DictConfig) -> Evaluation:
    """Make what an evaluation plays: its suite, its problem, and its ``history`` if it has one."""
    suite = build_suite(cfg.suite)
    config: EnvConfig = hydra.utils.instantiate(cfg.env)
    scenario = hydra.utils.instantiate(cfg.scenario)
    problem = Problem(hydra.utils.instantiate(cfg.workload), config, scenario=scenario)
    history = hydra.utils.instantiate(cfg.history) if cfg.get("history") else None
    return Evaluation(suite, problem, history)


def build_packing_suite(cfg: Any) -> tuple[PackingSuite, Trace]:
    """Make a suite of packing from plain values, and load what it packs."""
    options = plain(cfg)
    options.pop("kind")
    workload = options.pop("workload")
    check_fields("suite of packing", PackingSuite, options)
    for row in options.get("published", ()):
        check_fields("suite of packing, 'published'", PublishedPacking, row)
    options["published"] = tuple(PublishedPacking(**row) for row in options.get("published", ()))
    suite = PackingSuite(**options)
    trace: Trace = hydra.utils.instantiate(workload)
    return suite, trace


def build_speed_suite(cfg: Any) -> SpeedSuite:
    """Make a suite of measurements from plain values."""
    options = plain(cfg)
    options.pop("kind", None)
    check_fields("suite of measurements", SpeedSuite, options)
    check_fields("suite of measurements, 'bench'", Workbench, options["bench"])
    options["bench"] = Workbench(**options["bench"])
    check_types("suite of measurements, 'bench'", options["bench"])
    check_number("suite of measurements, 'bench'", "repeats", options["bench"].repeats, 1)
    targets = options.get("targets", {})
    options["targets"] = {name: Target(**target) for name, target in targets.items()}
    options["ratios"] = [Ratio(**ratio) for ratio in options.get("ratios", ())]
    return SpeedSuite(**options)
