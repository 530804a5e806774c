"""What surrounds the jobs of an environment: failures, tenants, throughput curves, links."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from envs.workloads.failures import FailureModel, sample_failures
from envs.workloads.openb import typical_pods
from envs.workloads.trace import Trace
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.codes import Placement, QuotaMode
from orchestrator.kernels.packing_state import TYPICAL_DTYPE
from orchestrator.kernels.state import CURVE_DTYPE, INCIDENT_DTYPE, TENANT_DTYPE, UPLINK_DTYPE
from orchestrator.resources.tenants import check_quotas, tenant_records
from orchestrator.types import TenantSpec
from orchestrator.workloads.throughput import ThroughputModel, curve_records

__all__ = ["Scenario", "Surroundings", "surroundings"]

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
    pods : REQUEST_DTYPE [n] or None
        The pods that are typical, where fragmentation is measured; None: the trace's own.
    """

    failures: FailureModel | None = None
    failure_seed: int = 0
    tenants: tuple[TenantSpec, ...] = ()
    quota_mode: QuotaMode = QuotaMode.NONE
    curves: tuple[ThroughputModel, ...] = ()
    uplinks_gbps: tuple[float, ...] = ()
    pods: NDArray[np.void] | None = field(default=None, compare=False)

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


@dataclass(frozen=True)
class Surroundings:
    """A scenario as kernels take it; M windows."""

    incidents: NDArray[np.void]  # INCIDENT_DTYPE, window after window
    incident_range: NDArray[np.int64]  # [M, 2] first incident of each window, and the one after
    tenants: NDArray[np.void]  # TENANT_DTYPE
    curves: NDArray[np.void]  # CURVE_DTYPE
    uplinks: NDArray[np.void]  # UPLINK_DTYPE
    typical: NDArray[np.void]  # TYPICAL_DTYPE

    @property
    def most_incidents(self) -> int:
        """Incidents of the window that has most."""
        return int(np.diff(self.incident_range, axis=1).max(initial=0))


def surroundings(
    scenario: Scenario,
    trace: Trace,
    starts: NDArray[np.int64],
    length: int,
    placements: tuple[Placement, ...],
    incidents: NDArray[np.void] | None,
) -> Surroundings:
    """Work a scenario out for the windows of a trace.

    Parameters
    ----------
    scenario : Scenario
    trace : Trace
    starts : int64 [M]
        First job of each window.
    length : int
        Jobs of a window.
    placements : tuple of Placement
        Fragmentation gradients need typical pods.
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
        same, ranges = _window_failures(scenario, trace, starts, length)
    most = int(trace.requests["curve"].max(initial=0))
    if scenario.curves and most > len(scenario.curves):
        raise ConfigurationError(
            f"scenario: 'curves' has {len(scenario.curves)} models, and trace '{trace.name}' has "
            f"jobs of curve {most}; give one for each"
        )
    uplinks = np.zeros(len(scenario.uplinks_gbps), UPLINK_DTYPE)
    uplinks["capacity_mbps"] = [round(gbps * 1000) for gbps in scenario.uplinks_gbps]
    pods = trace.requests if scenario.pods is None else scenario.pods
    gradient = Placement.FGD in placements
    return Surroundings(
        incidents=same,
        incident_range=ranges,
        tenants=_accounts(scenario, trace),
        curves=curve_records(scenario.curves) if scenario.curves else np.zeros(0, CURVE_DTYPE),
        uplinks=uplinks,
        typical=typical_pods(pods) if gradient else np.zeros(0, TYPICAL_DTYPE),
    )


def _window_failures(
    scenario: Scenario, trace: Trace, starts: NDArray[np.int64], length: int
) -> tuple[NDArray[np.void], NDArray[np.int64]]:
    """Failures of each window, drawn by its first job: other windows do not change them."""
    model = scenario.failures or FailureModel()
    submit = trace.requests["submit_ms"]
    drawn: list[NDArray[np.void]] = []
    ranges = np.zeros((len(starts), 2), np.int64)
    count = 0
    for m, start in enumerate(starts.tolist()):
        span = int(submit[start + length - 1] - submit[start])
        seed = int(np.random.SeedSequence([scenario.failure_seed, start]).generate_state(1)[0])
        found = sample_failures(model, len(trace.nodes), int(_HORIZON * span), seed)
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
