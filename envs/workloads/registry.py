"""Workloads by name, for configurations."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from envs.workloads.generators.gpu_cluster import GpuClusterParameters, gpu_cluster
from envs.workloads.generators.gpu_pods import gpu_pods
from envs.workloads.generators.lublin import LublinParameters, lublin_feitelson
from envs.workloads.generators.mixture import lublin_mixture
from envs.workloads.readers.gpu_jobs import read_tiresias
from envs.workloads.readers.openb import read_openb, read_openb_orders
from envs.workloads.readers.pai import read_pai
from envs.workloads.readers.philly import read_philly, read_philly_json
from envs.workloads.readers.slurm import read_acme, read_helios
from envs.workloads.readers.swf import read_swf
from envs.workloads.trace import Trace
from orchestrator.errors import ConfigurationError
from orchestrator.own.loading import check_methods, is_part_name, load_part

__all__ = ["WORKLOADS", "load_workload"]

WORKLOADS: Mapping[str, Callable[..., Trace]] = {
    "swf": read_swf,
    "lublin": lublin_feitelson,
    "lublin_mixture": lublin_mixture,
    "philly": read_philly,
    "openb": read_openb,
    "openb_orders": read_openb_orders,
    "philly_json": read_philly_json,
    "helios": read_helios,
    "acme": read_acme,
    "pai": read_pai,
    "tiresias": read_tiresias,
    "gpu_cluster": gpu_cluster,
    "gpu_pods": gpu_pods,
    "table": Trace.read_table,
}
"""What makes a trace, by kind."""

_PARAMETERS: Mapping[str, Callable[..., Any]] = {
    "lublin": LublinParameters,
    "gpu_cluster": GpuClusterParameters,
}


_ANY = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)


def load_workload(kind: str, **options: Any) -> Trace:
    """Read or generate a workload.

    Parameters
    ----------
    kind : str
        One of :data:`WORKLOADS`, or one's own reader or generator as ``package.module:Name``: a
        function (or class) that returns a :class:`Trace`.
    **options
        Arguments of that reader or generator: ``path`` for the readers; ``jobs`` and ``seed``
        for the generators, whose ``parameters`` may be a mapping of names to values.

    Returns
    -------
    Trace

    Raises
    ------
    ConfigurationError
        For an unknown kind or option, listing the known ones, or a missing one.
    TraceError
        When a file cannot be read.
    """
    make = load_part(kind, "workload") if is_part_name(kind) else WORKLOADS.get(kind)
    if make is None:
        raise ConfigurationError(
            f"unknown workload kind {kind!r}; known are {list(WORKLOADS)}, and one's own as "
            "package.module:Name"
        )
    if is_part_name(kind):
        return _own_workload(kind, make, options)
    _check_options(f"workload '{kind}'", make, options)
    parameters = options.get("parameters")
    if isinstance(parameters, Mapping):
        known = _PARAMETERS[kind]
        values = {str(name): _frozen(value) for name, value in parameters.items()}
        _check_options(f"parameters of workload '{kind}'", known, values)
        options["parameters"] = known(**values)
    return make(**options)


def _own_workload(kind: str, make: Any, options: Mapping[str, Any]) -> Trace:
    """What somebody's own reader or generator gives."""
    check_methods(make, f"workload '{kind}'", "docs/own-parts.md", ("__call__",))
    _check_options(f"workload '{kind}'", make, options)
    trace = make(**options)
    if not isinstance(trace, Trace):
        raise ConfigurationError(
            f"workload '{kind}': gave {type(trace).__name__}; return a Trace (envs.Trace)"
        )
    return trace


def _frozen(value: Any) -> Any:
    """Turn the lists of a configuration into tuples."""
    if isinstance(value, str) or not hasattr(value, "__iter__"):
        return value
    return tuple(_frozen(item) for item in value)


def _check_options(subject: str, make: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Raise for options that `make` does not know, and for missing ones."""
    signature = inspect.signature(make).parameters
    anything = any(p.kind == inspect.Parameter.VAR_KEYWORD for p in signature.values())
    for name in options:
        if name not in signature and not anything:
            raise ConfigurationError(
                f"{subject}: unknown option '{name}'; known are {list(signature)}"
            )
    for name, parameter in signature.items():
        named = parameter.kind not in _ANY
        if named and parameter.default is inspect.Parameter.empty and name not in options:
            raise ConfigurationError(f"{subject}: option '{name}' is missing")
