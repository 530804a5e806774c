"""Small clusters with services and a changing fleet that the tests of environments share."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs import AUTOSCALING, EnvConfig, RewardConfig, Scenario, Session
from envs.scenario import FleetPlan, ServiceMix, seasonal_rates
from envs.workloads import Trace
from envs.workloads.enrich import Enrichment, enrich
from envs.workloads.failures import FailureModel
from envs.workloads.generators.gpu_cluster import gpu_cluster
from envs.workloads.services.generator import ServiceRhythm, generate_services
from envs.workloads.services.series import ServiceSeries
from envs.workloads.table import blank_requests
from orchestrator.kernels.state.codes import NodeCode, QuotaMode, Reason
from orchestrator.mesh.specs import BreakerSpec, LimitSpec, ServiceSpec
from orchestrator.types import NodeSpec, TenantSpec
from orchestrator.workloads.throughput import APPLICATIONS
from tests.envs.cases import EnvCase

__all__ = [
    "MINUTE_MS",
    "SCALING_CASES",
    "Play",
    "bare_trace",
    "busy_scenario",
    "busy_trace",
    "mix_of",
    "play_of",
    "spec",
]

MINUTE_MS = 60_000


def bare_trace(
    nodes: int = 2, gpus: int = 4, jobs: Sequence[Mapping[str, int]] = ({},), tenants: int = 1
) -> Trace:
    """Machines, and jobs of one GPU for ten minutes from the start unless they say otherwise."""
    requests = blank_requests(len(jobs))
    for record, given in zip(requests, jobs, strict=True):
        fields = {"duration_ms": 10 * MINUTE_MS, "gpus_per_worker": 1, **given}
        fields = {"requested_ms": fields["duration_ms"], **fields}
        for name, value in fields.items():
            record[name] = value
    machine: dict[str, Any] = {
        "gpus": gpus,
        "gpu_memory_gb": 80.0,
        "cpu_cores": 64,
        "memory_gb": 512.0,
    }
    machine |= {"network_bandwidth_gbps": 100.0, "gpu_topology": "NVLink"}
    return Trace(
        "bare",
        requests,
        tuple(f"tenant-{t}" for t in range(tenants)),
        tuple(NodeSpec(node_id=f"n{n}", **machine) for n in range(nodes)),
    )


def spec(name: str = "a", **fields: Any) -> ServiceSpec:
    """A service of two replicas, each of which serves ten requests a second."""
    values: dict[str, Any] = {"service_ms": 100.0, "replicas": 2, "max_replicas": 6}
    return ServiceSpec(name, **(values | fields))


def mix_of(rates: Sequence[float] | NDArray[Any], *specs: ServiceSpec, **fields: Any) -> ServiceMix:
    """Services with these rates in their ticks of a minute, the same for all."""
    described = specs or (spec(),)
    table = np.tile(np.asarray(rates, np.float32), (len(described), 1))
    series = ServiceSeries(60.0, tuple(one.name for one in described), table)
    values: dict[str, Any] = {"startup_seconds": 0.0, "cpus": 1, "memory_gb": 1}
    return ServiceMix(described, series, **(values | fields))


@dataclass
class Play:
    """One row, driven by the names of heads."""

    session: Session

    @property
    def row(self) -> Any:
        return self.session.state.rows[0]

    @property
    def now_s(self) -> float:
        return float(self.row["now_ms"]) / 1000

    @property
    def done(self) -> bool:
        return bool(self.row["done"])

    def service(self, s: int = 0) -> Any:
        return self.session.state.service[0, s]

    def replicas(self, s: int = 0) -> int:
        return int(self.session.state.job[0, self.service(s)["job"]]["workers_now"])

    def nodes(self) -> list[str]:
        states = self.session.state.node[0]["state"][: self.row["num_nodes"]]
        return [NodeCode(int(state)).name for state in states]

    def number(self, head: str, index: int = 0) -> int:
        """The flat action."""
        (found,) = (h for h in self.session.schema.actions.heads if h.name == head)
        assert 0 <= index < found.size
        return found.offset + index

    def may(self, head: str, index: int = 0) -> bool:
        return bool(self.session.buffers.mask[0, self.number(head, index)])

    def act(self, head: str, index: int = 0) -> Reason:
        """Take an action, legal or not; it must be masked accordingly."""
        legal = self.may(head, index)
        self.session.step(np.array([self.number(head, index)]))
        reason = Reason(int(self.session.buffers.reason[0]))
        assert (reason == Reason.OK) == legal
        return reason

    def wait_until(self, seconds: float) -> None:
        """Wait for the decision at that time."""
        while self.now_s < seconds:
            assert self.act("wait") == Reason.OK
        assert self.now_s == seconds


def play_of(
    services: ServiceMix | None,
    fleet: FleetPlan | None = None,
    trace: Trace | None = None,
    *,
    incidents: NDArray[np.void] | None = None,
    scenario: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Play:
    """An episode of the only window, at its first decision; without jobs unless they are asked for.

    An environment has all heads that its scenario has objects for.
    """
    heads = {
        "services": 0 if services is None else len(services.specs),
        "capacity_steps": 0 if fleet is None else 2,
        "episode_ticks": 0 if changes.get("episode_jobs") else 10,
    }
    config: EnvConfig = replace(AUTOSCALING, **(heads | changes))
    around = Scenario(services=services, fleet=fleet, **(scenario or {}))
    trace = trace or bare_trace()
    session = Session(trace, config, 1, np.zeros(1, np.int64), incidents, around)
    session.reset()
    return Play(session)


# --- everything at once --------------------------------------------------------------------------


@functools.cache
def busy_trace() -> Trace:
    """Short jobs for four machines of four GPUs, half of them elastic, with curves and costs."""
    trace = gpu_cluster(300, 5, nodes=4, gpus_per_node=4, load=1.2)
    requests = trace.requests.copy()
    requests["submit_ms"] //= 20
    requests["duration_ms"] = np.clip(requests["duration_ms"] // 20, 20_000, 30 * MINUTE_MS)
    trace = replace(trace, requests=requests)
    return enrich(trace, Enrichment(curves=2, preemptible_share=0.8))


@functools.cache
def busy_scenario(forecast: bool = True) -> Scenario:
    """Everything that can surround jobs."""
    rhythm = ServiceRhythm(mean_rps=12.0, bursts_per_day=40.0)
    series = generate_services(3, 40_000, 4, rhythm=rhythm)
    specs = (
        ServiceSpec("service-0", 200.0, replicas=3, max_replicas=8, queue_limit=500.0),
        ServiceSpec("service-1", 250.0, 2, 1, 6, limit=LimitSpec(15.0, 200.0), timeout_ms=3000.0),
        ServiceSpec(
            "service-2",
            150.0,
            replicas=2,
            max_replicas=5,
            slots=2,
            sick_per_hour=0.5,
            sick_seconds=400.0,
            breaker=BreakerSpec(failures=5, ratio=0.0, open_ms=5000),
        ),
    )
    mix = ServiceMix(
        specs,
        series,
        gpu_share=0.5,
        cpus=1,
        memory_gb=2,
        startup_seconds=90.0,
        forecast=seasonal_rates(series, period=1440, ahead=3) if forecast else None,
    )
    trace = busy_trace()
    quotas = tuple(TenantSpec(name, quota=16.0 / len(trace.tenants)) for name in trace.tenants[:4])
    return Scenario(
        failures=FailureModel(rate_scale=300.0),
        tenants=quotas,
        quota_mode=QuotaMode.BORROW,
        curves=(APPLICATIONS["bert"], APPLICATIONS["cifar10"]),
        uplinks_gbps=(50.0, 0.0),
        services=mix,
        fleet=FleetPlan(spare=3, least=2, provision_seconds=100.0),
    )


def _all_costs(form: str = "dense") -> RewardConfig:
    terms = {"node_cost": 1.0, "service_violations": 0.01, "shed": 0.1, "completion_time": 0.001}
    return RewardConfig(terms, form)


_FULL = {
    "window": 4,
    "elastics": 3,
    "victims": 3,
    "migrate": True,
    "services": 3,
    "capacity_steps": 2,
    "tenants": 3,
    "racks": 2,
    "fleet": True,
    "encoding": "full",
    "reward": _all_costs(),
    "min_run_seconds": 30.0,
}
_ALONE = {"services": 3, "capacity_steps": 2, "episode_ticks": 30}
_CASES = (
    EnvCase("full", "Cluster", busy_trace, {"scenario": busy_scenario(), **_FULL}),
    EnvCase(
        "full-advised",
        "Cluster",
        busy_trace,
        {
            "scenario": busy_scenario(),
            **_FULL,
            "advice": "elastic_srtf+predictive",
            "step_limit": 25,
            "reward": _all_costs("terminal"),
        },
    ),
    EnvCase(
        "full-by-itself",
        "Cluster",
        busy_trace,
        {
            "scenario": busy_scenario(),
            **_FULL,
            "services": 0,
            "capacity_steps": 0,
            "autoscale": "predictive",
        },
    ),
    EnvCase("autoscaling", "Autoscaling", busy_trace, {"scenario": busy_scenario(), **_ALONE}),
    EnvCase(
        "autoscaling-step-limit",
        "Autoscaling",
        busy_trace,
        {"scenario": busy_scenario(False), **_ALONE, "step_limit": 20, "tenants": 2, "racks": 1},
    ),
)
SCALING_CASES: Mapping[str, EnvCase] = {case.name: case for case in _CASES}
"""Environments to test as those of ``cases.CASES`` are, with services and a changing fleet."""
