"""All metrics of an orchestrator, fed by the outcomes of its log's entries."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from orchestrator.engine.engine import Engine, Outcome
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.state.codes import NodeCode
from orchestrator.mesh.mesh import ServiceCounts
from orchestrator.messages import StartJob
from orchestrator.metrics.views import (
    ClusterUtilization,
    JobCompletionRate,
    JobEvents,
    ScalingEfficiency,
    SchedulingLatency,
    Series,
)
from orchestrator.status import fragmentation, jain_index, tenant_shares

__all__ = ["OrchestratorMetrics"]


_HOUR_MS = 3_600_000


_NOT_COUNTED = ("_engine", "_services", "_interval_ms", "_price")


class OrchestratorMetrics:
    """Accumulators and time series.

    Parameters
    ----------
    engine : Engine
        The cluster.
    services : callable or None, optional
        Returns what became of the requests of each service, by name.
    limit : int
        Most samples of each series.
    interval_ms : int
        Least time between two samples. They are taken when something happens.
    node_price : float
        Cost of a node that is up or draining, per hour.

    Attributes
    ----------
    utilization, latency, completion, scaling
        The four of the interface.
    events : JobEvents
        What happened to jobs, by cause.
    fragmentation, fairness, queue : Series
        See :func:`orchestrator.status.fragmentation`; Jain's index of what tenants
        with work hold, over their weights; waiting jobs.
    """

    def __init__(
        self,
        engine: Engine,
        services: Callable[[], Mapping[str, ServiceCounts]] | None = None,
        *,
        limit: int = 1024,
        interval_ms: int = 60_000,
        node_price: float = 1.0,
    ) -> None:
        if interval_ms < 0:
            problem = f"'interval_ms' is {interval_ms}; it must be at least 0"
            raise ConfigurationError(f"OrchestratorMetrics: {problem}")
        self.utilization = ClusterUtilization(limit)
        self.latency = SchedulingLatency()
        self.completion = JobCompletionRate()
        self.scaling = ScalingEfficiency(limit)
        self.events = JobEvents()
        self.fragmentation = Series(limit)
        self.fairness = Series(limit)
        self.queue = Series(limit)
        self._engine = engine
        self._services = services if services is not None else dict
        self._interval_ms = interval_ms
        self._price = node_price
        self._node_ms = 0
        self._nodes = 0
        self._noted_ms = self._begin_ms = -1
        self._sampled_ms = -1

    def note(self, outcome: Outcome) -> None:
        """An entry of the log was applied."""
        engine, now_ms = self._engine, self._engine.now_ms
        if self._begin_ms < 0:
            self._begin_ms = self._noted_ms = now_ms
            self._nodes = self._paid_nodes()
        self._node_ms += self._nodes * (now_ms - self._noted_ms)
        self._noted_ms, self._nodes = now_ms, self._paid_nodes()
        for effect in outcome.effects:
            if isinstance(effect, StartJob):
                self.completion.note_start(engine, effect)
                if effect.run == 1:
                    j = engine.jobs.index.find(effect.job_id)
                    submit_ms = int(engine.state.request[0, j]["submit_ms"])
                    self.latency.add(effect.start_ms - submit_ms)
        self.completion.settle(engine)
        self.events.note(outcome.notes)
        if self._sampled_ms < 0 or now_ms - self._sampled_ms >= self._interval_ms:
            self._sampled_ms = now_ms
            self.utilization.sample(engine.row)
            self.fragmentation.add(now_ms, fragmentation(engine))
            self.fairness.add(now_ms, self.fairness_now())
            self.queue.add(now_ms, int(engine.row["queue_len"]))

    def image(self) -> object:
        """All that was counted, set aside."""
        counted = {name: x for name, x in vars(self).items() if name not in _NOT_COUNTED}
        return copy.deepcopy(counted)

    def load(self, image: dict[str, Any]) -> None:
        """Have counted what was counted then."""
        vars(self).update(copy.deepcopy(image))

    def _paid_nodes(self) -> int:
        nodes = self._engine.nodes
        return nodes.count(NodeCode.UP) + nodes.count(NodeCode.DRAINING)

    def fairness_now(self) -> float:
        """Jain's index of dominant shares over weights, of tenants that hold something or wait."""
        engine = self._engine
        queue = engine.state.queue[0, : int(engine.row["queue_len"])]["job"]
        waiting = {engine.jobs.specs[engine.jobs.index.ids[j]].tenant for j in queue}
        shares = [
            (own["dominant_share"] or 0.0) / (own["weight"] or 1.0)
            for name, own in tenant_shares(engine).items()
            if own["used"] or name in waiting
        ]
        return jain_index(np.array(shares)) if shares else 1.0

    def node_hours(self, time_ms: int) -> float:
        """Hours of nodes up or draining so far."""
        since_ms = max(time_ms - self._noted_ms, 0) if self._begin_ms >= 0 else 0
        return (self._node_ms + self._nodes * since_ms) / _HOUR_MS

    def summary(self, time_ms: int) -> dict[str, Any]:
        """Everything as plain data, at a time at which nothing happened since the last entry.

        Returns
        -------
        dict
            A dict for each of the interface's four; ``events`` (preemptions, interruptions,
            warnings, failures and refusals by cause, and exit codes); ``fragmentation``,
            ``fairness``,
            ``preemptions``, ``interruptions``, ``lost_hours`` (unit hours of lost work and
            restarts), ``service_attainment`` (share of requests within their objective, by
            service; None: no requests), ``node_hours`` and ``node_cost``.
        """
        engine = self._engine
        row: Any = engine.state_at(time_ms).rows[0]
        hours = self.node_hours(time_ms)
        begin_ms = max(self._begin_ms, 0)
        return {
            "utilization": self.utilization.summary(row),
            "scheduling_latency": self.latency.summary(),
            "completion": self.completion.summary(engine, time_ms - begin_ms),
            "scaling": self.scaling.summary(),
            "events": self.events.summary(),
            "fragmentation": fragmentation(engine),
            "fairness": self.fairness_now(),
            "preemptions": engine.jobs.count("preemptions"),
            "interruptions": engine.jobs.count("interruptions"),
            "lost_hours": int(row["lost_unit_ms"]) / 1000 / _HOUR_MS,
            "service_attainment": {
                name: counts.within / counts.offered if counts.offered else None
                for name, counts in self._services().items()
            },
            "node_hours": hours,
            "node_cost": hours * self._price,
        }
