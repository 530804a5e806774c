"""ScalingEfficiency: how well capacity follows demand.

Accuracy and time share of under- and over-provisioning are the elasticity metrics of Herbst,
Kounev and Reussner, "Elasticity in Cloud Computing: What It Is, and What It Is Not", ICAC 2013.
"""

from __future__ import annotations

from collections import Counter

from orchestrator.metrics.series import Series
from orchestrator.types import ScalingDecision, ScalingDirection

__all__ = ["ScalingEfficiency"]


class ScalingEfficiency:
    """Keeps account of scaling decisions.

    Between two decisions, demand and capacity count as they were at the first of them.

    Parameters
    ----------
    limit : int
        Most samples that are kept.
    """

    def __init__(self, limit: int = 1024) -> None:
        self.demand = Series(limit)
        self.capacity = Series(limit)
        self.delays_s = Series(limit)
        self.decisions: Counter[str] = Counter()
        self.reactive = 0
        self.nodes_added = 0
        self.nodes_removed = 0
        self._begin_ms = -1
        self._last: tuple[int, float, float] | None = None
        self._short = self._idle = 0.0  # unit ms
        self._short_ms = self._idle_ms = 0

    def note(
        self, now_ms: int, decision: ScalingDecision, demand: float, capacity: float, nodes: int
    ) -> None:
        """A decision was taken.

        Parameters
        ----------
        now_ms : int
            When.
        decision : ScalingDecision
            The decision.
        demand, capacity : float
            As they were then, in the same unit; capacity includes nodes on order.
        nodes : int
            Nodes that were ordered, or drained.
        """
        self._integrate(now_ms)
        self._last = (now_ms, demand, capacity)
        self.demand.add(now_ms, demand)
        self.capacity.add(now_ms, capacity)
        self.decisions[decision.direction.value] += 1
        if decision.direction == ScalingDirection.UP:
            self.reactive += demand > capacity
            self.nodes_added += nodes
        elif decision.direction == ScalingDirection.DOWN:
            self.nodes_removed += nodes

    def note_arrival(self, waited_ms: int) -> None:
        """A node has arrived, so long after it was ordered."""
        self.delays_s.add(len(self.delays_s), waited_ms / 1000.0)

    def _integrate(self, now_ms: int) -> None:
        if self._last is None:
            self._begin_ms = now_ms
            return
        then_ms, demand, capacity = self._last
        passed = now_ms - then_ms
        self._short += max(demand - capacity, 0.0) * passed
        self._idle += max(capacity - demand, 0.0) * passed
        self._short_ms += passed if demand > capacity else 0
        self._idle_ms += passed if capacity > demand else 0

    def summary(self) -> dict[str, float]:
        """Counts of decisions, and the elasticity metrics.

        Returns
        -------
        dict
            ``up``, ``down``, ``none``; ``reactive`` (ways up taken when demand was above capacity
            already); nodes added and removed; ``missing`` and ``idle`` (units, mean over time);
            ``missing_share`` and ``idle_share`` of the time; the longest ``delay_s`` of an order.
        """
        span = self._last[0] - self._begin_ms if self._last is not None else 0
        return {
            **{way.value: self.decisions[way.value] for way in ScalingDirection},
            "reactive": self.reactive,
            "nodes_added": self.nodes_added,
            "nodes_removed": self.nodes_removed,
            "missing": self._short / span if span else 0.0,
            "idle": self._idle / span if span else 0.0,
            "missing_share": self._short_ms / span if span else 0.0,
            "idle_share": self._idle_ms / span if span else 0.0,
            "delay_s": self.delays_s.highest or 0.0,
        }
