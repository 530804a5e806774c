"""The course of one window under a rule: what was in use, in service and waiting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from agents.problem import Windows
from envs.session import Session
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.state.codes import ActionKind, EventKind, JobKind, Reason, Status
from orchestrator.scheduling.rules import Rule, rule_named

__all__ = ["WindowSeries", "rule_series"]

_HOUR_MS = 3_600_000.0
_TOTALS = ("busy_unit_ms", "capacity_unit_ms", "job_ms", "wait_ms", "cost_milli_ms")
_OF_JOBS = ("busy_unit_ms", "job_ms", "wait_ms")
_REQUESTS = ("requests_offered", "request_violations")


@dataclass(frozen=True)
class WindowSeries:
    """Means over equal intervals of time, T of them.

    They are differences of what a row integrates over time, noted at every decision; in between,
    the growth is taken to be even, but for the capacity that failures take, whose times are known.

    Parameters
    ----------
    policy : str
    edges : float64 [T + 1]
        Ends of the intervals, hours since the window began.
    values : mapping of str to float64 [T]
        ``busy`` and ``in_service`` (GPUs, or processors), ``waiting`` and ``running`` (jobs, not
        services), ``cost`` (per hour); with services ``offered``, ``violated`` and ``served``
        (requests per second, the last what all ready replicas could serve).
    capacity : float
        GPUs, or processors, of the whole cluster with every node in service.
    resource : str
        What they are.
    last_end : float
        When the last job ended, hours.
    """

    policy: str
    edges: NDArray[np.float64]
    values: Mapping[str, NDArray[np.float64]]
    capacity: float
    resource: str
    last_end: float


def rule_series(
    rule: Rule | str, windows: Windows, window: int = 0, points: int = 240
) -> WindowSeries:
    """Play one window under a rule, and say how it went.

    Parameters
    ----------
    rule : Rule or str
    windows : Windows
        All of them, as they were evaluated: a window's number seeds its random streams.
    window : int, optional
        Which one.
    points : int, optional
        Intervals of time.

    Returns
    -------
    WindowSeries
    """
    if not 0 <= window < len(windows):
        raise ConfigurationError(
            f"series: 'window' is {window} of {len(windows)}; give a number below"
        )
    rule = rule_named(rule) if isinstance(rule, str) else rule
    config = windows.config
    plain = replace(
        config, skip_forced=False, step_limit=0, reward=replace(config.reward, reference=None)
    )
    session = replace(windows.under(rule), config=plain).session(1)
    session.reseed_row(0, window)
    session.reset(windows=np.array([window]))
    notes = _Notes(session)
    rows, bench, record = session.state.rows, session.bench, rule.to_record()
    while entry.advance(rows, 0, bench.nodes) == Status.DECISION:
        kind, j, value = entry.rule_action(rows, 0, record, bench.jobs)
        if entry.commit(rows, 0, kind, j, value, bench.nodes) != Reason.OK:
            # Waiting is refused when nothing is left to wait for: the window is at its end.
            assert kind == ActionKind.WAIT
            break
        notes.take()
    return notes.series(rule.name, points)


class _Notes:
    """Notes what a row has integrated over time, decision by decision."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._times: list[int] = []
        self._totals: list[list[float]] = []
        row = session.state.rows[0]
        self._begin_ms = int(session.state.request[0, : int(row["num_jobs"])]["submit_ms"].min())
        services = session.state.service[0, : int(row["num_services"])]
        self._replica_rps = services["slots"] * 1000.0 / services["service_ms"]
        self.take()

    def take(self) -> None:
        """Note the row as it is."""
        state = self._session.state
        row = state.rows[0]
        ready = state.service[0, : len(self._replica_rps)]["replica_ms"]
        self._times.append(int(row["now_ms"]))
        self._totals.append(
            [float(row[name]) for name in (*_TOTALS, *_REQUESTS)]
            + [float((ready * self._replica_rps).sum())]
        )

    def series(self, policy: str, points: int) -> WindowSeries:
        """What was noted, as means over intervals until the last job ended."""
        self.take()
        state = self._session.state
        row = state.rows[0]
        jobs = state.job[0, : int(row["num_jobs"])]
        kinds = state.request[0, : len(jobs)]["kind"]
        ends = jobs["end_ms"][kinds != JobKind.SERVICE]
        last = int(ends.max(initial=0)) if len(ends) else int(row["now_ms"])
        last = max(last, self._begin_ms + 1)
        times = np.concatenate(([self._begin_ms], self._times)).astype(np.float64)
        totals = np.concatenate((np.zeros((1, len(self._totals[0]))), np.array(self._totals)))
        edges = np.linspace(self._begin_ms, last, points + 1)
        # Nodes may fail and recover long after the last job: what jobs add up to ends with them.
        of_jobs = times.copy()
        of_jobs[-1] = min(times[-1], max(last, times[-2]))
        grown = np.stack(
            [
                _growth(edges, of_jobs if name in _OF_JOBS else times, column)
                for name, column in zip((*_TOTALS, *_REQUESTS, ""), totals.T, strict=True)
            ]
        )
        grown[1] = _growth(edges, *self._refined(times, totals[:, 1]))
        busy, up, present, waiting, cost, offered, violated, ready = grown / np.diff(edges)
        values = {
            "busy": busy / 1000.0,
            "in_service": up / 1000.0,
            "waiting": waiting,
            "running": np.maximum(present - waiting, 0.0),
            "cost": cost / 1000.0,
        }
        if len(self._replica_rps):
            values |= {"offered": offered * 1000, "violated": violated * 1000, "served": ready}
        return WindowSeries(
            policy=policy,
            edges=(edges - self._begin_ms) / _HOUR_MS,
            values=values,
            capacity=int(row["nominal_units"]) / 1000.0,
            resource="GPUs" if row["unit"] else "processors",
            last_end=(last - self._begin_ms) / _HOUR_MS,
        )

    def _refined(
        self, times: NDArray[np.float64], totals: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The capacity's integral, also at the failures and recoveries between the notes."""
        state, row = self._session.state, self._session.state.rows[0]
        incidents = state.incident[0, : int(row["num_incidents"])]
        nodes = state.node[0]
        each = nodes["gpus"] * 1000 if row["unit"] else nodes["cpu_cap_milli"]
        change = np.where(incidents["kind"] == EventKind.NODE_RECOVERY, 1.0, -1.0)
        change *= each[incidents["node"]]
        level = float(row["nominal_units"]) + np.concatenate(([0.0], np.cumsum(change)))
        at = np.clip(incidents["time_ms"].astype(np.float64), times[0], times[-1])
        fine = np.unique(np.concatenate((times, at)))
        spans = np.diff(fine)
        # Level over each span, if nothing but failures changed the capacity.
        expected = np.maximum(level[np.searchsorted(at, fine[:-1], side="right")], 1.0) * spans
        noted = np.interp(fine, *_last_of_instants(times, totals))
        which = np.searchsorted(np.unique(times), fine[:-1], side="right")
        shares = expected / np.bincount(which, expected)[which]
        gained = np.bincount(which, np.diff(noted))[which]
        return fine, noted[0] + np.concatenate(([0.0], np.cumsum(shares * gained)))


def _last_of_instants(
    times: NDArray[np.float64], totals: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of several notes of one instant the last."""
    keep = np.append(np.diff(times) > 0, True)
    return times[keep], totals[keep]


def _growth(
    edges: NDArray[np.float64], times: NDArray[np.float64], totals: NDArray[np.float64]
) -> NDArray[np.float64]:
    """By how much a total grew from edge to edge."""
    grown: NDArray[np.float64] = np.diff(np.interp(edges, *_last_of_instants(times, totals)))
    return grown
