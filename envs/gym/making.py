"""What environments are made of: spaces, plain values, and what nobody has to give."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from envs.checks import check_type, check_whole, is_whole, seed_of
from envs.config import EnvConfig
from envs.fitting import check_arguments, check_part
from envs.scenario import FleetPlan, Scenario, ServiceMix, scenario_named, seasonal_rates
from envs.session import Session
from envs.workloads.registry import WORKLOADS, load_workload
from envs.workloads.services.generator import generate_services
from envs.workloads.trace import Trace
from orchestrator.errors import ConfigurationError, UnknownOptionError
from orchestrator.mesh.specs import ServiceSpec
from orchestrator.scheduling.schema import FeatureSchema
from orchestrator.types import NodeSpec

__all__ = [
    "ObservationSpace",
    "action_space",
    "default_scenario",
    "default_trace",
    "make_session",
    "make_trace",
    "observation_space",
    "override",
    "row_seeds",
]

# What environments are made of when nothing is given.
_JOBS = 20_000
_SEED = 1
_SERVICES = 4
_NODES = 4
_DAY = 1440  # ticks
_DAYS = 30
_AHEAD = 3  # ticks: a replica is up one after it was asked for, and serves in the next
_USUAL_REPLICAS = 6
_TARGET = 0.7

_UNBOUNDED = -1  # what Gymnasium calls it

_READERS = {".swf": "swf", ".csv": "table", ".parquet": "table"}
"""How files are read whose names say what they are."""

_OPTIONAL = {"jobs": _JOBS, "pods": _JOBS, "seed": _SEED}
"""What generators get that were given no number of jobs, or no seed."""


def _box(*shape: int) -> spaces.Box:
    return spaces.Box(-np.inf, np.inf, shape, np.float32)


class ObservationSpace(spaces.Dict):
    """A space of observations that says what is in them: the names, and what actions are about.

    Parameters
    ----------
    parts : mapping of str to Space
    schema : FeatureSchema
        Of the environment; a network that scores actions by their features needs no more.
    """

    def __init__(self, parts: Mapping[str, spaces.Space[Any]], schema: FeatureSchema) -> None:
        super().__init__(dict(parts))
        self.schema = schema


def observation_space(config: EnvConfig) -> ObservationSpace:
    """Sets of fixed capacity, padded with zeros, and the mask of legal actions.

    ``queue`` [Q, F], ``global`` [G], ``action_mask`` [A]; with chosen placements also
    ``candidates`` [Q * K, C], with preemption ``victims`` [V, F_v], with resizing ``elastics``
    [E, F_e] and, where sizes are chosen, ``sizes`` [E * Z, F_z], with services ``services``
    [S, F_s], with a changing fleet ``capacity`` [2 c, F_c], ``tenants`` [T, F_t] and ``racks``
    [R, F_r] where they are shown, with advice ``advice`` [A].
    """
    schema, layout = config.schema, config.schema.actions
    parts: dict[str, spaces.Space[np.ndarray]] = {
        "global": _box(len(schema.globals)),
        "action_mask": spaces.MultiBinary(layout.size),
    }
    if schema.queue:
        parts["queue"] = _box(layout.window, len(schema.queue))
    if schema.candidates:
        parts["candidates"] = _box(layout.window * layout.candidates, len(schema.candidates))
    if schema.victims:
        parts["victims"] = _box(layout.victims, len(schema.victims))
    if schema.advice:
        parts["advice"] = _box(layout.size)
    if schema.elastics:
        parts["elastics"] = _box(layout.elastics, len(schema.elastics))
    if schema.sizes:
        parts["sizes"] = _box(layout.elastics * layout.sizes, len(schema.sizes))
    if schema.services:
        parts["services"] = _box(layout.services, len(schema.services))
    if schema.capacity:
        parts["capacity"] = _box(2 * layout.capacity_steps, len(schema.capacity))
    if schema.tenants:
        parts["tenants"] = _box(schema.tenants_shown, len(schema.tenants))
    if schema.racks:
        parts["racks"] = _box(schema.racks_shown, len(schema.racks))
    return ObservationSpace(parts, schema)


def action_space(config: EnvConfig) -> spaces.Discrete:
    """One flat ``Discrete``; see ``ActionLayout``."""
    return spaces.Discrete(config.schema.actions.size)


def default_trace(config: EnvConfig) -> Trace:
    """The embedded workload.

    Lublin-Feitelson for job ordering, pods of a GPU-sharing cluster where nodes are chosen, a GPU
    cluster otherwise. Of an environment without jobs it is the cluster: four nodes of eight GPUs.
    """
    return make_trace(_default_workload(config))


def _default_workload(config: EnvConfig) -> dict[str, Any]:
    if config.commitment:
        return {"name": "lublin"}
    if config.episode_jobs == 0:
        return {"name": "gpu_cluster", "jobs": 2, "nodes": _NODES}
    return {"name": "gpu_pods" if config.choose_node else "gpu_cluster"}


def make_trace(workload: Any, nodes: Any = None) -> Trace:
    """Make a workload, and the cluster that it runs on, from plain values.

    Parameters
    ----------
    workload : str or mapping
        The name of one of :data:`envs.WORKLOADS`, the path of a file whose ending says how it is
        read (``.swf``, ``.swf.gz``: swf; ``.csv``, ``.parquet``: table), or a mapping of ``name``
        and the options of that generator or reader. Generators that are not told how many jobs to
        draw, or by which seed, draw 20,000 by seed 1.
    nodes : int, mapping, sequence of mapping or None
        The cluster instead of the workload's own. A number: that many nodes, each like one of the
        workload's in turn; generators that draw for a cluster are told, so that its load stays.
        A mapping: fields of ``NodeSpec`` that differ from those of the workload's first node, and
        a ``count``. A sequence: of such mappings.

    Raises
    ------
    ConfigurationError
        Naming what makes no sense, and what is known.
    """
    name, options = _named_workload(workload)
    drawn_for = name in WORKLOADS and "nodes" in inspect.signature(WORKLOADS[name]).parameters
    if is_whole(nodes) and drawn_for and "nodes" not in options:
        options["nodes"] = check_whole("environment: 'nodes'", nodes, 1)
        nodes = None
    trace = load_workload(name, **options)
    return trace if nodes is None else replace(trace, nodes=_cluster(nodes, trace))


def _named_workload(given: Any) -> tuple[str, dict[str, Any]]:
    """A workload's name in the registry, and its options."""
    if isinstance(given, str | Path):
        text = str(given)
        given = {"name": text} if text in WORKLOADS or ":" in text else _file(text)
    remedy = "a name, a path, or a dict, for example {'name': 'lublin', 'jobs': 5000, 'seed': 3}"
    check_type("environment: 'workload'", given, Mapping, remedy)
    options = {str(option): value for option, value in given.items()}
    name = options.pop("name", None)
    if not isinstance(name, str):
        raise ConfigurationError(
            f"environment: 'workload' has no 'name' ({name!r}); give one of {', '.join(WORKLOADS)}"
        )
    if name in WORKLOADS:
        known = inspect.signature(WORKLOADS[name]).parameters
        options = {k: v for k, v in _OPTIONAL.items() if k in known} | options
    return name, options


def _file(path: str) -> dict[str, Any]:
    """The workload in a file, if its name says how it is read."""
    suffixes = [suffix for suffix in Path(path).suffixes if suffix in _READERS]
    if not suffixes:
        raise ConfigurationError(
            f"environment: 'workload' is '{path}', which is no known name, and no path whose "
            f"ending says how it is read ({', '.join(_READERS)}); known names: "
            f"{', '.join(WORKLOADS)}; a file is {{'name': 'philly', 'path': '...'}}"
        )
    return {"name": _READERS[suffixes[0]], "path": path}


def _cluster(given: Any, trace: Trace) -> tuple[NodeSpec, ...]:
    """The nodes of a trace, as many or as different as they were asked for."""
    if not trace.nodes:
        raise ConfigurationError(
            f"environment: workload '{trace.name}' has no nodes of its own, of which 'nodes' says "
            f"how many there are and what differs; give a trace that has some: "
            f"trace=dataclasses.replace(trace, nodes=(NodeSpec(...), ...))"
        )
    if is_whole(given):
        count = check_whole("environment: 'nodes'", given, 1)
        alike = [trace.nodes[n % len(trace.nodes)] for n in range(count)]
    else:
        kinds = [given] if isinstance(given, Mapping) else given
        remedy = "a number, a dict of a node's fields, or a list of them"
        check_type("environment: 'nodes'", kinds, Sequence, remedy)
        alike = [node for kind in kinds for node in _like(trace.nodes[0], kind)]
    if not alike:
        raise ConfigurationError("environment: 'nodes' is empty; describe at least one")
    return tuple(replace(node, node_id=f"node-{n}") for n, node in enumerate(alike))


def _like(node: NodeSpec, given: Any) -> list[NodeSpec]:
    """Nodes that differ from one in some fields."""
    remedy = "a dict of a node's fields, for example {'count': 4, 'gpus': 8}"
    check_type("environment: an entry of 'nodes'", given, Mapping, remedy)
    changes = dict(given)
    count = check_whole("environment: 'count' of 'nodes'", changes.pop("count", 1), 1)
    known = [each.name for each in fields(NodeSpec)]
    for name in changes:
        if name not in known:
            raise ConfigurationError(
                f"environment: 'nodes' has an unknown field '{name}'; known: count, "
                f"{', '.join(known)}"
            )
    return [replace(node, **changes)] * count


def default_scenario(config: EnvConfig, trace: Trace) -> Scenario:
    """Services with a daily rhythm on a fleet that may double; nothing, if there are no services.

    Thirty days of ticks of a minute. A replica takes one GPU and is so fast that a service needs
    six of them at its mean rate: 3 to 10 in the course of a day, and more in a burst. The forecast
    is yesterday's demand at the same time.
    """
    if config.services == 0 and config.episode_jobs > 0:
        return Scenario()
    series = generate_services(config.services or _SERVICES, _DAYS * _DAY, _SEED)
    usual = series.rates.mean(axis=1, dtype=np.float64)
    specs = tuple(
        ServiceSpec(
            name,
            service_ms=1000.0 * _USUAL_REPLICAS * _TARGET / float(rate),
            replicas=_USUAL_REPLICAS,
            max_replicas=16,
        )
        for name, rate in zip(series.names, usual, strict=True)
    )
    forecast = seasonal_rates(series, period=_DAY, ahead=_AHEAD)
    services = ServiceMix(specs, series, target_utilisation=_TARGET, forecast=forecast)
    return Scenario(services=services, fleet=FleetPlan(spare=len(trace.nodes)))


def row_seeds(seed: int | None, envs: int) -> NDArray[np.uint64]:
    """Seeds of all rows from one; None: from the operating system."""
    return np.random.SeedSequence(seed_of(seed)).generate_state(envs, np.uint64).astype(np.uint64)


def override(base: EnvConfig, changes: Mapping[str, Any]) -> EnvConfig:
    """An environment's config with some of its fields changed.

    Parameters
    ----------
    base : EnvConfig
    changes : mapping of str to Any
        By field; Gymnasium's ``max_episode_steps`` is a bound of ``step_limit``, None or -1: none.

    Raises
    ------
    UnknownOptionError
        A ``TypeError``, as for any function, if one of them is no field.
    """
    check_type("environment: 'base'", base, EnvConfig, "an EnvConfig, for example CLUSTER")
    given = dict(changes)
    if "strict" in given:
        raise UnknownOptionError(
            "environment: got an unexpected keyword argument 'strict'; give illegal='raise' to "
            "raise on illegal actions, and illegal='noop' (the default) not to"
        )
    most = given.pop("max_episode_steps", None)
    known = [field.name for field in fields(EnvConfig)]
    for name in given:
        if name not in known:
            raise UnknownOptionError(
                f"environment: got an unexpected keyword argument '{name}': unknown option "
                f"'{name}'; known: {', '.join(known)}"
            )
    config = replace(base, **given)
    if most is None or most == _UNBOUNDED:
        return config
    most = check_whole("environment: 'max_episode_steps'", most, 1)
    return replace(config, step_limit=min(most, config.most_steps or most))


def make_session(
    config: EnvConfig,
    envs: int,
    trace: Trace | None,
    windows: NDArray[np.int64] | str,
    incidents: NDArray[np.void] | None = None,
    scenario: Scenario | str | None = None,
    threads: int = 1,
) -> Session:
    """Make the session of an environment: ``windows`` are starts, or a part of the trace by name.

    See :class:`SchedulingEnv` for the others.
    """
    if trace is None:
        trace = default_trace(config)
    if isinstance(scenario, str):
        scenario = scenario_named(scenario)
    check_arguments(trace, config, scenario)
    if scenario is None:
        scenario = default_scenario(config, trace)
    starts, part = (None, windows) if isinstance(windows, str) else (windows, "all")
    return Session(trace, config, envs, starts, incidents, scenario, threads, part=part)


def session_of(
    base: EnvConfig,
    envs: int,
    given: Mapping[str, Any],
    *,
    trace: Trace | None,
    workload: Any,
    nodes: Any,
    threads: int = 1,
) -> Session:
    """Make a session from what an environment's constructor was given.

    Parameters
    ----------
    base : EnvConfig
    envs : int
        Rows.
    given : mapping of str to Any
        ``part``, ``starts``, ``incidents``, ``scenario``, and fields of ``EnvConfig``.
    trace, workload, nodes, threads
        As for :class:`SchedulingVectorEnv`.
    """
    changes = dict(given)
    part, starts = check_part(changes.pop("part", "train")), changes.pop("starts", None)
    incidents, scenario = changes.pop("incidents", None), changes.pop("scenario", None)
    config = override(base, changes)
    if trace is not None and workload is not None:
        raise ConfigurationError(
            "environment: 'trace' and 'workload' are given; leave one of them out"
        )
    if trace is None:
        trace = make_trace(_default_workload(config) if workload is None else workload, nodes)
    elif nodes is not None:
        check_arguments(trace, config, scenario)
        trace = replace(trace, nodes=_cluster(nodes, trace))
    windows = part if starts is None else starts
    return make_session(config, envs, trace, windows, incidents, scenario, threads)
