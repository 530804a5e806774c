"""What monitoring asks for: `/metrics`, as Prometheus reads it.

What the orchestrator knows is read when somebody asks; what takes time is noted as it happens.
Labels have few values: states, templates of paths, and the names of at most a hundred services.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from fastapi import APIRouter
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.responses import Response

from orchestrator.deployment import Mode, PolicyDeployment
from orchestrator.kernels.state.codes import JobKind
from orchestrator.orchestrator import InfrastructureOrchestrator
from orchestrator.ports import Policy
from orchestrator.server.guard.access import answers, only
from orchestrator.server.guard.gate import Served
from orchestrator.server.guard.tokens import Role

__all__ = ["Exposition"]


_SERVICES = 100
_FAST = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_SLOW = (0.01, 0.1, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 4 * 3600.0, 24 * 3600.0)
_NODE_STATES = ("up", "draining", "down", "provisioning")

_log = logging.getLogger(__name__)


class Exposition:
    """All metrics of one server.

    Parameters
    ----------
    orchestrator : InfrastructureOrchestrator
    agents : callable
        How many agents of the server live.
    streams : callable
        How many answers are being streamed.
    """

    def __init__(
        self,
        orchestrator: InfrastructureOrchestrator,
        agents: Callable[[], int] = lambda: 0,
        streams: Callable[[], int] = lambda: 0,
    ) -> None:
        self._orchestrator = orchestrator
        self.registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(namespace="quartermaster", registry=self.registry)
        self.registry.register(_Cluster(orchestrator, agents, streams))
        self._requests = Counter(
            "quartermaster_http_requests",
            "Requests that were answered, by method, template of the path, and status.",
            ("method", "route", "status"),
            registry=self.registry,
        )
        self._answers = Histogram(
            "quartermaster_http_request_seconds",
            "Time until an answer began.",
            ("method", "route"),
            buckets=_FAST,
            registry=self.registry,
        )
        self._waits = Histogram(
            "quartermaster_job_wait_seconds",
            "Time from the submission of a job to its first start.",
            buckets=_SLOW,
            registry=self.registry,
        )
        self._events = Counter(
            "quartermaster_events",
            "What has happened since the server's start, by kind and what it was.",
            ("kind", "what"),
            registry=self.registry,
        )
        self.append = Histogram(
            "quartermaster_log_append_seconds",
            "Time until an entry of the log was durable.",
            buckets=_FAST,
            registry=self.registry,
        )
        cycle = Histogram(
            "quartermaster_scheduling_cycle_seconds",
            "Duration of scheduling cycles.",
            buckets=_FAST,
            registry=self.registry,
        )
        orchestrator.on_cycle(cycle.observe)
        self._of_route: dict[tuple[str, str, int], tuple[Any, Any]] = {}

    def served(self, request: Served) -> None:
        """A request was answered."""
        route = request.route or "none"
        key = request.method, route, request.status
        found = self._of_route.get(key)
        if found is None:
            method = request.method if request.method in _METHODS else "other"
            counter = self._requests.labels(method, route, str(request.status))
            found = self._of_route[key] = counter, self._answers.labels(method, route)
            if len(self._of_route) > _MOST_ROUTES:
                self._of_route.clear()
        found[0].inc()
        found[1].observe(request.seconds)

    async def watch(self) -> None:
        """Note what happens, until the orchestrator stops."""
        engine = self._orchestrator.engine
        async for one in self._orchestrator.follow():
            known = one.kind in _BOUNDED
            self._events.labels(*((one.kind, one.what) if known else ("other", "other"))).inc()
            first = one.kind == "job" and one.what == "started" and one.details.get("run") == 1
            if first and one.job_id is not None and one.job_id in engine.jobs.index:
                j = engine.jobs.index.find(one.job_id)
                submit_ms = int(engine.state.request[0, j]["submit_ms"])
                self._waits.observe(max(one.time_ms - submit_ms, 0) / 1000)

    def text(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self.registry)

    def route(self) -> APIRouter:
        """The route."""
        router = APIRouter(tags=["about"])

        @router.get(
            "/metrics",
            dependencies=only(Role.VIEWER),
            responses={200: {"content": {"text/plain": {}}}, **answers()},
            response_class=Response,
        )
        async def show_metrics() -> Response:
            """Metrics, as Prometheus reads them."""
            return Response(self.text(), media_type=CONTENT_TYPE_LATEST)

        return router

    def start(self) -> asyncio.Task[None]:
        """Begin to note what happens; cancel the task at the end."""
        return asyncio.create_task(self.watch(), name="metrics")


_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"})
_BOUNDED = frozenset({"job", "node", "decision", "scaling", "service", "policy", "gap"})
_MOST_ROUTES = 1024


class _Cluster(Collector):
    """What the orchestrator knows, when somebody asks."""

    def __init__(
        self,
        orchestrator: InfrastructureOrchestrator,
        agents: Callable[[], int],
        streams: Callable[[], int],
    ) -> None:
        self._orchestrator, self._agents, self._streams = orchestrator, agents, streams

    def collect(self) -> Iterator[Metric]:
        """All families of metrics."""
        status = self._orchestrator.get_cluster_status()
        yield from _of_nodes(status)
        yield from _of_jobs(status, self._orchestrator)
        yield from _of_errors(status)
        yield from _of_policy(self._orchestrator.policy)
        yield from _of_services(self._orchestrator, status["services"])
        yield _gauge("agents", "Agents that this server has, and that live.", self._agents())
        yield _gauge("http_streams", "Answers that are being streamed.", self._streams())


def _gauge(name: str, told: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"quartermaster_{name}", told, value=value)


def _by(name: str, told: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"quartermaster_{name}", told, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _total(name: str, told: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(f"quartermaster_{name}", told, value=value)


def _of_policy(policy: Policy) -> Iterator[Metric]:
    if not isinstance(policy, PolicyDeployment):
        return
    status = policy.status()
    modes = {mode.value: float(mode == policy.mode) for mode in Mode}
    yield _by("policy_mode", "1 for the mode of who decides: see /api/v1/policy.", "mode", modes)
    candidate = status["candidate"]
    if candidate is None:
        return
    told = "Decisions of the learned policy since it was put there, by what became of them."
    yield _by("policy_decisions", told, "verdict", candidate["verdicts"])
    told = "Time of its last decisions, by quantile."
    times = {name: ms / 1000 for name, ms in candidate["latency_ms"].items() if ms is not None}
    yield _by("policy_decision_seconds", told, "quantile", times)
    gain = candidate["gain"]["bounded_slowdown"]
    if gain is not None:
        told = "Share of the rule's mean bounded slowdown that it is estimated to save."
        bounds = {bound: gain[bound] for bound in ("low", "mean", "high")}
        yield _by("policy_gain_ratio", told, "bound", bounds)


def _of_nodes(status: Mapping[str, Any]) -> Iterator[Metric]:
    nodes = {state: status["nodes"][state] for state in _NODE_STATES}
    yield _by("nodes", "Nodes, by state.", "state", nodes)
    yield _gauge("nodes_suspected", "Nodes taken for dead.", len(status["suspects"]))
    gpus = {state: status["gpus"][state] for state in ("free", "allocated")}
    yield _by("gpus", "GPUs of nodes that are up, by state.", "state", gpus)
    use = status["utilization"]
    yield _gauge("utilization_ratio", "Allocated share of the capacity, now.", use["now"])
    yield _gauge("utilization_mean_ratio", "Allocated share of the capacity so far.", use["mean"])
    told = "Share of the idle GPUs that lie on partly used nodes."
    yield _gauge("fragmentation_ratio", told, status["fragmentation"])


def _of_jobs(
    status: Mapping[str, Any], orchestrator: InfrastructureOrchestrator
) -> Iterator[Metric]:
    yield _by(
        "jobs", "Jobs, by state; the ones that have ended since ever.", "state", status["jobs"]
    )
    queue = status["queue"]
    yield _gauge("queue_jobs", "Jobs that wait.", queue["length"])
    wait_s = queue["longest_wait_ms"] / 1000
    yield _gauge("queue_longest_wait_seconds", "How long the first one has waited.", wait_s)
    told = "Jobs that the cluster as it is can never hold."
    yield _gauge("queue_unplaceable_jobs", told, len(queue["unplaceable"]))
    metrics = orchestrator.metrics
    yield _total("job_starts", "Jobs that have started for the first time.", metrics.latency.count)
    yield _total("preemptions", "Preemptions.", status["preemptions"])
    yield _total("interruptions", "Runs that were lost with their nodes.", status["interruptions"])
    yield _total("decisions", "Decisions of the policy in charge.", status["decisions"])
    yield _total("refused_actions", "Actions that were refused.", status["refused_actions"])
    lost_s = int(orchestrator.engine.row["lost_unit_ms"]) / 1e6
    told = "GPU seconds (core seconds without GPUs) of lost work and restarts."
    yield _total("lost_work_unit_seconds", told, lost_s)
    yield _total("log_entries", "Entries of the log.", status["log_entries"])


_ERRORS = {
    "policy": "policy_errors",
    "cycles": "scheduling_cycle_errors",
    "runtime": "runtime_errors",
    "reports": "report_errors",
    "checkpoints": "checkpoint_errors",
    "detector": "detector_errors",
    "managers": "manager_errors",
}


def _of_errors(status: Mapping[str, Any]) -> Iterator[Metric]:
    errors = status["errors"]
    for key, name in _ERRORS.items():
        yield _total(name, f"How often it failed: {key}.", errors[key])
    told = "Effects that are still to be told to the runtime."
    yield _gauge("effects_waiting", told, errors["effects_waiting"])
    yield _gauge(
        "reports_waiting", "Reports that are still to be logged.", errors["reports_waiting"]
    )


_COUNTS = {
    "offered": "Requests to services.",
    "served": "Requests that were answered.",
    "failed": "Requests that were not answered.",
    "retried": "Attempts beyond the first one.",
    "shed": "Requests that the rate limit turned away.",
}


def _of_services(
    orchestrator: InfrastructureOrchestrator, services: Mapping[str, Mapping[str, Any]]
) -> Iterator[Metric]:
    told = list(services.items())[:_SERVICES]
    for key, text in _COUNTS.items():
        counts = CounterMetricFamily(f"quartermaster_mesh_{key}", text, labels=["service"])
        for name, service in told:
            counts.add_metric([name], service[key])
        yield counts
    family = GaugeMetricFamily(
        "quartermaster_mesh_endpoints",
        "Replicas of services, by state.",
        labels=["service", "state"],
    )
    for name, service in told:
        states = list(service["endpoints"].values())
        for state in ("healthy", "unhealthy", "draining"):
            family.add_metric([name, state], states.count(state))
    yield family
    count = sum(spec.kind == JobKind.SERVICE for spec in orchestrator.jobs.values())
    yield _gauge("service_jobs", "Jobs that are services.", count)
