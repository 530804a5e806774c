"""Failures of nodes: a seeded generator calibrated to a published trace, and lists of real faults.

Nodes do not fail as coins fall. In the trace of InfiniteHBD (StepFun; stepfun-ai/InfiniteHBD-Trace,
400 servers of 8 GPUs, 349 days) a node that failed fails again soon, a tenth of the nodes has 41 %
of all faults, faults come in bursts and in bad weeks, and repairs take from minutes to months.
Exponential times between failures miss all of that (Schroeder and Gibson, TDSC 2010, found Weibull
with a decreasing hazard for HPC clusters as well).
"""

from __future__ import annotations

import heapq
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import gamma
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.checks import check_whole
from envs.workloads.csvfile import (
    EMPTY,
    Kind,
    csv_lines,
    header,
    read_columns,
    read_text,
    require_columns,
)
from orchestrator.errors import ConfigurationError, TraceError
from orchestrator.kernels.state.codes import EventKind
from orchestrator.kernels.state.records import INCIDENT_DTYPE

__all__ = [
    "FAILURE_MODELS",
    "FailureModel",
    "FaultLog",
    "incident_records",
    "merge_intervals",
    "read_faults",
    "sample_failures",
]

_DAY_MS = 86_400_000
_LAST_DAY = 1 << 26
_HOUR_DAYS = 1.0 / 24.0
_MINUTE_DAYS = 1.0 / 1440.0
_SECONDS_PER_DAY = 86_400.0
_DAY_KINDS = {"node": Kind.TEXT, "start_day": Kind.NUMBER, "end_day": Kind.NUMBER}
_SECOND_KINDS = {"node": Kind.TEXT, "start": Kind.NUMBER, "end": Kind.NUMBER}

_Interval = tuple[str, float, float, int | None]  # node, first and last day, line


@dataclass(frozen=True)
class FailureModel:
    """How nodes fail and recover; the defaults are those of the InfiniteHBD trace.

    Parameters
    ----------
    faults_per_node_day : float
        Faults of a node per day, over all nodes. Meta's RSC-1 had 6.5e-3 and RSC-2 2.3e-3, Llama 3
        3.8e-3 (Kokolis et al., arXiv 2410.21680; arXiv 2407.21783).
    rate_scale : float
        Multiplies it, for stress tests; 0 means no failures.
    shape : float
        Weibull shape of the times between failures of one node; below 1 the hazard decreases.
    relapse_share, relapse_days : float
        Probability that a repair did not help, and how soon, on average, the node then fails again.
    frailty : float
        Shape of the Gamma distribution of nodes' own rates (mean 1); smaller means more of them on
        fewer nodes. 0: all nodes alike.
    weather_shape, weather_hours : float
        The whole cluster's rate is redrawn from a Gamma distribution of this shape (mean 1) every
        so many hours: bad days. Shape 0: constant.
    burst_share : float
        Probability that a fault has a common cause, and takes further nodes down within a minute.
    burst_tail : float
        Exponent of the (Zipf) number of those.
    burst_most : int
        Most nodes of a burst, the first one included.
    repair_quantiles : tuple of float
        Repair times, hours, at the probabilities ``repair_probabilities``; in between, logarithms
        are interpolated.
    repair_probabilities : tuple of float
        From 0 to 1.
    """

    faults_per_node_day: float = 4.17e-3
    rate_scale: float = 1.0
    shape: float = 0.75
    relapse_share: float = 0.3
    relapse_days: float = 2.0
    frailty: float = 2.5
    weather_shape: float = 1.0
    weather_hours: float = 48.0
    burst_share: float = 0.1
    burst_tail: float = 2.3
    burst_most: int = 16
    repair_quantiles: tuple[float, ...] = (0.02, 0.2, 2.1, 20.4, 75.9, 312.0, 740.0, 2042.0, 4000.0)
    repair_probabilities: tuple[float, ...] = (0.0, 0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)

    def __post_init__(self) -> None:
        """Refuse what is no distribution."""
        for name, value in vars(self).items():
            _check(bool(np.all(np.isfinite(value))), name, value, "give finite numbers")
        for name in ("faults_per_node_day", "rate_scale", "frailty", "weather_shape"):
            _check(getattr(self, name) >= 0, name, getattr(self, name), "give 0 or more")
        for name in ("shape", "weather_hours", "relapse_days"):
            _check(getattr(self, name) > 0, name, getattr(self, name), "give a positive number")
        for name in ("burst_share", "relapse_share"):
            _check(0 <= getattr(self, name) < 1, name, getattr(self, name), "give it in [0, 1)")
        _check(self.burst_tail > 1, "burst_tail", self.burst_tail, "give more than 1")
        _check(self.burst_most >= 2, "burst_most", self.burst_most, "give at least 2")
        times, chances = self.repair_quantiles, self.repair_probabilities
        _check(
            len(times) == len(chances) >= 2 and min(times) > 0 and list(times) == sorted(times),
            "repair_quantiles",
            times,
            "give increasing positive hours, one for each of 'repair_probabilities'",
        )
        _check(
            chances[0] == 0 and chances[-1] == 1 and list(chances) == sorted(set(chances)),
            "repair_probabilities",
            chances,
            "give increasing numbers from 0 to 1",
        )

    @property
    def mean_repair_days(self) -> float:
        """Mean repair time, days."""
        total = 0.0
        logs, chances = np.log(self.repair_quantiles), self.repair_probabilities
        for a, b, low, high in zip(logs, logs[1:], chances, chances[1:], strict=False):
            # The mean of exp of a uniform variable on [a, b].
            mean = np.exp(a) if b - a < 1e-12 else (np.exp(b) - np.exp(a)) / (b - a)
            total += float(mean) * (high - low)
        return total * _HOUR_DAYS

    def repair_sample(self, count: int = 1024) -> NDArray[np.float64]:
        """Repair times at evenly spaced probabilities, ascending, float64 [count] in ms."""
        chances = (np.arange(count) + 0.5) / count
        logs = np.interp(chances, self.repair_probabilities, np.log(self.repair_quantiles))
        return np.asarray(np.exp(logs) * _HOUR_DAYS * _DAY_MS, np.float64)

    @property
    def mean_burst(self) -> float:
        """Mean number of nodes that a fault with a common cause takes down beside its own."""
        sizes = np.arange(1, self.burst_most)
        weights = sizes.astype(float) ** -self.burst_tail
        return float((sizes * weights).sum() / weights.sum())


def sample_failures(
    model: FailureModel, nodes: int, horizon_ms: int, seed: int
) -> NDArray[np.void]:
    """Draw the failures and recoveries of a cluster.

    Every node is a renewal process in equilibrium: it is as likely to be in the middle of a bad
    time at the beginning as later. It is up at the beginning. Failures and recoveries of a node
    alternate.

    Parameters
    ----------
    model : FailureModel
    nodes : int
        Nodes.
    horizon_ms : int
        Failures begin before this time; the recoveries that belong to them may come later.
    seed : int
        Not negative; equal seeds give equal failures.

    Returns
    -------
    ndarray of INCIDENT_DTYPE
        By time.
    """
    for name, value, least in (
        ("nodes", nodes, 1),
        ("horizon_ms", horizon_ms, 0),
        ("seed", seed, 0),
    ):
        check_whole(f"failures: '{name}'", value, least)
    rate = model.faults_per_node_day * model.rate_scale
    if rate <= 0 or horizon_ms == 0:
        return np.zeros(0, INCIDENT_DTYPE)
    rng = np.random.default_rng([0x4641494C, seed])  # "FAIL": a stream of its own
    horizon = horizon_ms / _DAY_MS
    clock = _Weather(model, horizon, rng)
    means = _mean_uptimes(model, nodes, rate, rng)
    down = _play(model, means, clock, horizon, rng)
    return incident_records(down)


def incident_records(down: list[tuple[int, float, float]]) -> NDArray[np.void]:
    """Failures and recoveries of (node, first day down, first day up again) that do not overlap.

    Parameters
    ----------
    down : list of (int, float, float)
        Intervals of one node must not overlap or touch.

    Returns
    -------
    ndarray of INCIDENT_DTYPE
        By time, then kind and node. Each outage lasts at least a millisecond.
    """
    records = np.zeros(2 * len(down), INCIDENT_DTYPE)
    for k, (node, start, end) in enumerate(down):
        first = round(start * _DAY_MS)
        records[2 * k] = (first, EventKind.NODE_FAILURE, node)
        last = max(round(end * _DAY_MS), first + 1)
        records[2 * k + 1] = (last, EventKind.NODE_RECOVERY, node)
    return records[np.argsort(records, order=("time_ms", "kind", "node"), kind="stable")]


class _Weather:
    """Turns operational days, in which faults are stationary, into days of the calendar."""

    def __init__(self, model: FailureModel, horizon: float, rng: np.random.Generator) -> None:
        width = model.weather_hours * _HOUR_DAYS
        blocks = max(int(np.ceil(horizon / width)), 1)
        levels = np.ones(blocks)
        if model.weather_shape > 0:
            levels = rng.gamma(model.weather_shape, 1.0 / model.weather_shape, blocks)
        # A floor keeps the clock strictly increasing.
        levels = np.maximum(levels, 1e-6)
        self.days = np.arange(blocks + 1) * width
        self.operational = np.concatenate(([0.0], np.cumsum(levels * width)))

    def to_operational(self, day: float) -> float:
        """Operational time of a day; days beyond the horizon run on at the mean rate."""
        beyond = max(day - float(self.days[-1]), 0.0)
        return float(np.interp(day, self.days, self.operational)) + beyond

    def to_day(self, operational: float) -> float:
        """The day of an operational time."""
        beyond = max(operational - float(self.operational[-1]), 0.0)
        return float(np.interp(operational, self.operational, self.days)) + beyond


def _mean_uptimes(
    model: FailureModel, nodes: int, rate: float, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Mean time from a repair that helped to the next own fault of each node, operational days."""
    rates = np.ones(nodes)
    if model.frailty > 0:
        rates = rng.gamma(model.frailty, 1.0 / model.frailty, nodes)
        rates /= rates.mean()  # the cluster's rate is what was asked for
    own = rate * rates / (1.0 + model.burst_share * model.mean_burst)
    # What is left of a cycle beside the repair; at least a tenth of it, or nodes would never be up.
    repair = model.mean_repair_days
    left = np.maximum(1.0 / np.maximum(own, 1e-12) - repair, 0.1 * repair)
    helped = 1.0 - model.relapse_share
    means: NDArray[np.float64] = (
        np.maximum(left - model.relapse_share * model.relapse_days, 0.1 * left) / helped
    )
    return means


def _play(
    model: FailureModel,
    means: NDArray[np.float64],
    clock: _Weather,
    horizon: float,
    rng: np.random.Generator,
) -> list[tuple[int, float, float]]:
    """Outages as (node, first day down, first day up again), in the order of their beginnings."""
    shape, nodes = model.shape, len(means)
    scales = means / gamma(1.0 + 1.0 / shape)
    # In equilibrium the interval around time 0 is drawn by its length, and 0 uniformly within it.
    around = scales * rng.gamma(1.0 + 1.0 / shape, 1.0, nodes) ** (1.0 / shape)
    due = rng.random(nodes) * around
    turn = np.zeros(nodes, np.int64)
    up_from = np.full(nodes, -1.0)
    heap = [(clock.to_day(float(due[n])), n, 0) for n in range(nodes)]
    heapq.heapify(heap)
    sizes = np.arange(1, model.burst_most)
    chances = sizes.astype(float) ** -model.burst_tail
    chances /= chances.sum()
    down: list[tuple[int, float, float]] = []

    def fail(node: int, day: float) -> None:
        hours = np.exp(
            np.interp(rng.random(), model.repair_probabilities, np.log(model.repair_quantiles))
        )
        end = day + float(hours) * _HOUR_DAYS
        down.append((node, day, end))
        up_from[node] = end
        turn[node] += 1
        if rng.random() < model.relapse_share:
            wait = float(rng.exponential(model.relapse_days))
        else:
            wait = float(scales[node]) * float(rng.weibull(shape))
        # A millisecond at least between coming back and failing again.
        after = max(clock.to_day(clock.to_operational(end) + wait), end + 2.0 / _DAY_MS)
        heapq.heappush(heap, (after, node, int(turn[node])))

    while heap:
        day, node, number = heapq.heappop(heap)
        if day >= horizon:
            break
        if number != turn[node]:
            continue  # a burst came first
        fail(node, day)
        if rng.random() < model.burst_share:
            for other in rng.permutation(nodes)[: int(rng.choice(sizes, p=chances))]:
                at = day + float(rng.random()) * 0.9 * _MINUTE_DAYS
                if at < horizon and up_from[other] + 2.0 / _DAY_MS < at:
                    fail(int(other), at)
    return down


def _check(ok: bool, field: str, value: object, remedy: str) -> None:
    if not ok:
        raise ConfigurationError(f"failures: '{field}' is {value}; {remedy}")


FAILURE_MODELS: Mapping[str, FailureModel | None] = {
    "none": None,
    "infinitehbd": FailureModel(),
    "weibull": FailureModel(
        relapse_share=0.0, frailty=0.0, weather_shape=0.0, burst_share=0.0, shape=0.6
    ),
}
"""Failures by name: none, all that the trace shows, and independent Weibull processes alone."""


@dataclass(frozen=True)
class FaultLog:
    """Faults of a cluster's nodes.

    Parameters
    ----------
    node_ids : tuple of str
        Nodes; ``incidents['node']`` indexes them.
    incidents : ndarray of INCIDENT_DTYPE
        Failures and recoveries by time; those of one node alternate.
    """

    node_ids: tuple[str, ...]
    incidents: NDArray[np.void]

    def window(self, start_ms: int, end_ms: int) -> NDArray[np.void]:
        """Incidents of [start_ms, end_ms), times from its start.

        Nodes that are down at the start fail at 0.
        """
        times, nodes = self.incidents["time_ms"], self.incidents["node"]
        inside = self.incidents[(times >= start_ms) & (times < end_ms)].copy()
        inside["time_ms"] -= start_ms
        before = self.incidents[times < start_ms]
        last = {int(node): row for node, row in zip(nodes[times < start_ms], before, strict=True)}
        # A failure has the higher code (codes.EventKind).
        failure = int(self.incidents["kind"].max(initial=0))
        down = [(0, failure, node) for node, row in last.items() if row["kind"] == failure]
        both = np.concatenate([np.array(down, self.incidents.dtype), inside])
        return both[np.argsort(both, order=("time_ms", "kind", "node"), kind="stable")]


def read_faults(path: str | Path, *, node_ids: Sequence[str] = ()) -> FaultLog:
    """Read node faults.

    Parameters
    ----------
    path : str or Path
        A ``.json`` file (or ``.json.gz``) as InfiniteHBD publishes it (a list of events with
        node_id, event_time in days, event_type ``fault_start`` or ``fault_end`` and fault_type);
        or CSV with node, start_day and end_day (days), or with node, start and end (seconds).
    node_ids : sequence of str, optional
        The cluster's nodes, in its order; empty: the nodes of the file, by name.

    Returns
    -------
    FaultLog
        Overlapping and touching faults of a node are one outage.

    Raises
    ------
    TraceError
        Naming file, line and column of what is wrong, and the remedy.
    """
    path = Path(path)
    text = read_text(path)
    if path.name.removesuffix(".gz").endswith(".json"):
        intervals = _from_events(path, text)
    else:
        intervals = _from_table(path, text)
    if not intervals:
        raise TraceError(str(path), "holds no faults", "give a list with at least one")
    known = tuple(node_ids) or tuple(sorted({node for node, _, _, _ in intervals}))
    index = {node: n for n, node in enumerate(known)}
    for node, start, end, line in intervals:
        if node not in index:
            remedy = "give the nodes of the cluster that the faults belong to"
            raise TraceError(str(path), f"column 'node' names unknown node {node!r}", remedy, line)
        if not 0 <= start <= end <= _LAST_DAY:
            problem = f"the fault of node {node!r} lasts from {start:g} to {end:g} days"
            remedy = f"a fault ends after it started, and by day {_LAST_DAY}"
            raise TraceError(str(path), problem, remedy, line)
    merged = merge_intervals([(index[node], start, end) for node, start, end, _ in intervals])
    return FaultLog(known, incident_records(merged))


def merge_intervals(intervals: list[tuple[int, float, float]]) -> list[tuple[int, float, float]]:
    """Unite what overlaps or touches (within a millisecond) on one node; by node, then time."""
    touch = 0.002 / _SECONDS_PER_DAY
    merged: list[tuple[int, float, float]] = []
    for node, start, end in sorted(intervals):
        if merged and merged[-1][0] == node and start <= merged[-1][2] + touch:
            merged[-1] = (node, merged[-1][1], max(merged[-1][2], end))
        else:
            merged.append((node, start, end))
    return merged


def _from_table(path: Path, text: str) -> list[_Interval]:
    days = "start_day" in header(text)
    kinds = _DAY_KINDS if days else _SECOND_KINDS
    require_columns(path, header(text), kinds, 1)
    table = read_columns(path, text, kinds)
    unit = 1.0 if days else 1.0 / _SECONDS_PER_DAY
    found: list[_Interval] = []
    columns = [table[name].to_pylist() for name in kinds]
    for line, (node, start, end) in zip(csv_lines(text), zip(*columns, strict=True), strict=True):
        for name, value in zip(kinds, (node, start, end), strict=True):
            if value is None or value in EMPTY:
                raise TraceError(str(path), f"column '{name}' is empty", "fill it in", line)
        found.append((node, start * unit, end * unit, line))
    return found


def _from_events(path: Path, text: str) -> list[_Interval]:
    """Pair the starts and ends of each node's faults of each type, in order of time."""
    try:
        events = json.loads(text)
    except json.JSONDecodeError as error:
        problem = f"is not JSON ({error.msg})"
        raise TraceError(str(path), problem, "fetch it again", error.lineno) from None
    if not isinstance(events, list):
        raise TraceError(str(path), "is not a list of events", "give the publisher's file")
    started: dict[tuple[str, str], list[float]] = {}
    found: list[_Interval] = []
    for number, event in enumerate(events):
        node, time, kind, fault = _event(path, number, event)
        waiting = started.setdefault((node, fault), [])
        if kind == "fault_start":
            waiting.append(time)
        elif waiting:
            found.append((node, waiting.pop(0), time, None))
        else:
            problem = f"event {number}: a fault of node {node!r} ends that never started"
            raise TraceError(str(path), problem, "sort the events by event_time")
    for (node, _), times in sorted(started.items()):
        if times:
            problem = f"a fault of node {node!r} that started on day {times[0]:g} never ends"
            raise TraceError(str(path), problem, "add its fault_end event")
    return found


def _event(path: Path, number: int, event: Any) -> tuple[str, float, str, str]:
    """Fields of one event: node, day, what happened and the type of the fault."""
    try:
        node, time, kind = event["node_id"], float(event["event_time"]), event["event_type"]
        fault = json.dumps(event["fault_type"], sort_keys=True)
    except (KeyError, TypeError, ValueError) as error:
        problem = f"event {number} lacks or garbles a field ({error!r})"
        remedy = "it needs node_id, event_time, event_type and fault_type"
        raise TraceError(str(path), problem, remedy) from None
    if kind not in ("fault_start", "fault_end"):
        problem = f"event {number}: 'event_type' is {kind!r}"
        raise TraceError(str(path), problem, "it is fault_start or fault_end")
    return str(node), time, kind, fault
