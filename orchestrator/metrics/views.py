"""The accumulators that a summary is made of: utilisation, latency, completion, scaling.

Accuracy and time share of under- and over-provisioning are the elasticity metrics of Herbst,
Kounev and Reussner, "Elasticity in Cloud Computing: What It Is, and What It Is Not", ICAC 2013.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from orchestrator.engine.engine import Engine
from orchestrator.engine.history import JobNote
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.state.codes import JobCode
from orchestrator.messages import StartJob
from orchestrator.types import ScalingDecision, ScalingDirection

__all__ = [
    "ClusterUtilization",
    "JobCompletionRate",
    "JobEvents",
    "ScalingEfficiency",
    "SchedulingLatency",
    "Series",
]


class Series:
    """The last values of something, with their times.

    Parameters
    ----------
    limit : int
        Most values that are kept; older ones are forgotten.
    """

    def __init__(self, limit: int = 1024) -> None:
        if limit < 1:
            raise ConfigurationError(f"Series: 'limit' is {limit}; it must be at least 1")
        self._points: deque[tuple[int, float]] = deque(maxlen=limit)

    def __len__(self) -> int:
        return len(self._points)

    def __iter__(self) -> Iterator[tuple[int, float]]:
        return iter(self._points)

    @property
    def last(self) -> float | None:
        """The last value; None if there is none."""
        return self._points[-1][1] if self._points else None

    @property
    def highest(self) -> float | None:
        """The highest value that is kept."""
        return max((value for _, value in self._points), default=None)

    def add(self, time_ms: int, value: float) -> None:
        """Note a value; one of the same time replaces the one before."""
        if self._points and self._points[-1][0] == time_ms:
            self._points.pop()
        self._points.append((time_ms, float(value)))


class ClusterUtilization:
    """Allocated share of the capacity that is up: GPUs, or cores where there are none.

    Parameters
    ----------
    limit : int
        Most samples that are kept.
    """

    def __init__(self, limit: int = 1024) -> None:
        self.series = Series(limit)

    def sample(self, row: Any) -> None:
        """Note how it is now; ``row`` is a ROW_DTYPE record."""
        self.series.add(int(row["now_ms"]), self.now(row))

    @staticmethod
    def now(row: Any) -> float:
        """Allocated share of the capacity now."""
        capacity = int(row["capacity_units"])
        return (capacity - int(row["free_units"])) / capacity if capacity > 0 else 0.0

    @staticmethod
    def mean(row: Any) -> float:
        """Allocated share over time: the ratio of the two integrals."""
        capacity = int(row["capacity_unit_ms"])
        return int(row["busy_unit_ms"]) / capacity if capacity > 0 else 0.0

    def summary(self, row: Any) -> dict[str, float]:
        """Now, mean over time, and the highest sample that is kept."""
        now = self.now(row)
        highest = max(self.series.highest or 0.0, now)
        return {"now": now, "mean": self.mean(row), "highest": highest}


class SchedulingLatency:
    """Time from submission to the first start.

    Parameters
    ----------
    limit : int
        Most waits that percentiles are taken of: the last ones. Count and mean are of all.
    """

    def __init__(self, limit: int = 4096) -> None:
        self._waits: deque[int] = deque(maxlen=limit)
        self.count = 0
        self._sum_ms = 0

    def add(self, wait_ms: int) -> None:
        """A job has started for the first time."""
        self._waits.append(wait_ms)
        self.count += 1
        self._sum_ms += wait_ms

    def percentile(self, percent: float) -> float:
        """A percentile of the last waits, seconds, linear between them; 0 if there are none."""
        return float(np.percentile(self._waits, percent)) / 1000.0 if self._waits else 0.0

    def summary(self) -> dict[str, float]:
        """Count, and mean, median, 95th and 99th percentile and maximum in seconds."""
        return {
            "count": self.count,
            "mean_s": self._sum_ms / self.count / 1000.0 if self.count else 0.0,
            "p50_s": self.percentile(50),
            "p95_s": self.percentile(95),
            "p99_s": self.percentile(99),
            "highest_s": self.percentile(100),
        }


_ENDED = (JobCode.COMPLETED, JobCode.FAILED)


_COUNTED = ("preempted", "interrupted", "overdue", "failed", "refused")


class JobCompletionRate:
    """Completed and failed jobs, and deadlines kept by those that have one."""

    def __init__(self) -> None:
        self.deadlines_met = 0
        self.deadlines_missed = 0
        self._due_ms: dict[str, int] = {}  # of jobs that have started and not ended

    def note_start(self, engine: Engine, start: StartJob) -> None:
        """A job has started."""
        j = engine.jobs.index.find(start.job_id)
        allowed_ms = int(engine.state.request[0, j]["deadline_ms"])
        if allowed_ms > 0:
            submit_ms = int(engine.state.request[0, j]["submit_ms"])
            self._due_ms[start.job_id] = submit_ms + allowed_ms

    def settle(self, engine: Engine) -> None:
        """See which jobs with deadlines have ended."""
        for job_id, due_ms in list(self._due_ms.items()):
            if engine.jobs.code(job_id) not in _ENDED:
                continue
            del self._due_ms[job_id]
            run = engine.state.job[0, engine.jobs.index.find(job_id)]
            kept = run["state"] == JobCode.COMPLETED and int(run["end_ms"]) <= due_ms
            self.deadlines_met += int(kept)
            self.deadlines_missed += int(not kept)

    def summary(self, engine: Engine, time_ms: int) -> dict[str, float]:
        """Counts, share of the ended jobs that completed (1 of none), completions per hour."""
        completed = engine.jobs.count("completed_jobs")
        failed = engine.jobs.count("failed_jobs")
        return {
            "completed": completed,
            "failed": failed,
            "rate": completed / (completed + failed) if completed + failed else 1.0,
            "per_hour": completed * 3_600_000 / time_ms if time_ms > 0 else 0.0,
            "deadlines_met": self.deadlines_met,
            "deadlines_missed": self.deadlines_missed,
        }


class JobEvents:
    """What happened to jobs, counted by what it was and by who or what caused it."""

    def __init__(self) -> None:
        self.counts: dict[str, Counter[str]] = {what: Counter() for what in _COUNTED}
        self.exit_codes: Counter[int] = Counter()

    def note(self, notes: Iterable[JobNote]) -> None:
        """Something happened."""
        for note in notes:
            if note.what in self.counts:
                self.counts[note.what][note.cause] += 1
            if note.what == "failed" and note.exit_code is not None:
                self.exit_codes[note.exit_code] += 1

    def summary(self) -> dict[str, dict[str, int]]:
        """Counts by cause of each kind of event, and of failed jobs by exit code."""
        told = {what: dict(sorted(counts.items())) for what, counts in self.counts.items()}
        codes = {str(code): count for code, count in sorted(self.exit_codes.items())}
        return {**told, "exit_codes": codes}


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
