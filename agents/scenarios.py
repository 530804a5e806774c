"""From plain values to what surrounds the jobs: failures, tenants, curves, links."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from agents.configs import check_fields, enum_member
from agents.services import fleet_plan, service_mix
from envs.scenario import FleetPlan, Scenario, ServiceMix
from envs.workloads.failures import FAILURE_MODELS, FailureModel
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.codes import QuotaMode
from orchestrator.types import TenantSpec
from orchestrator.workloads.throughput import ThroughputModel, application_named

__all__ = ["failure_model", "scenario_config"]


def scenario_config(**options: Any) -> Scenario:
    """Make a scenario from plain values.

    Parameters
    ----------
    **options
        Fields of :class:`envs.Scenario`: ``failures`` as for :func:`failure_model`, ``tenants`` as
        a mapping of name to the other fields of :class:`orchestrator.types.TenantSpec`,
        ``quota_mode`` by name, ``curves`` by names of
        :data:`orchestrator.workloads.throughput.APPLICATIONS`, ``services`` as for
        :func:`agents.services.service_mix`, ``fleet`` as for :func:`agents.services.fleet_plan`,
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
    return enum_member(QuotaMode, "scenario", "quota_mode", name)


def _curves(names: Sequence[str]) -> tuple[ThroughputModel, ...]:
    return tuple(application_named(name) for name in names)


def _services(options: Mapping[str, Any] | None) -> ServiceMix | None:
    return None if options is None else service_mix(**options)


def _fleet(options: Mapping[str, Any] | None) -> FleetPlan | None:
    return None if options is None else fleet_plan(**options)


def _frozen(value: Any) -> Any:
    """Lists, as configs have them, as tuples, as frozen dataclasses do."""
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value


_BUILDERS: Mapping[str, Callable[[Any], Any]] = {
    "failures": _failures,
    "tenants": _tenants,
    "quota_mode": _quota_mode,
    "curves": _curves,
    "uplinks_gbps": tuple,
    "services": _services,
    "fleet": _fleet,
}
