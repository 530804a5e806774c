"""Failures of nodes: a seeded generator calibrated to a published trace.

Nodes do not fail as coins fall. In the trace of InfiniteHBD (StepFun; stepfun-ai/InfiniteHBD-Trace,
400 servers of 8 GPUs, 349 days) a node that failed fails again soon, a tenth of the nodes has 41 %
of all faults, faults come in bursts and in bad weeks, and repairs take from minutes to months.
Exponential times between failures miss all of that (Schroeder and Gibson, TDSC 2010, found Weibull
with a decreasing hazard for HPC clusters as well).
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from math import gamma
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import ConfigurationError
from orchestrator.kernels.codes import EventKind
from orchestrator.kernels.records import INCIDENT_DTYPE

__all__ = ["FAILURE_MODELS", "FailureModel", "incident_records", "make_failures", "sample_failures"]

_DAY_MS = 86_400_000
_HOUR_DAYS = 1.0 / 24.0
_MINUTE_DAYS = 1.0 / 1440.0


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

    @property
    def mean_burst(self) -> float:
        """Mean number of nodes that a fault with a common cause takes down beside its own."""
        sizes = np.arange(1, self.burst_most)
        weights = sizes.astype(float) ** -self.burst_tail
        return float((sizes * weights).sum() / weights.sum())


def make_failures(
    kind: str, nodes: int, horizon_ms: int, seed: int, **changes: Any
) -> NDArray[np.void]:
    """Draw failures of a kind, for configurations.

    Parameters
    ----------
    kind : str
        One of :data:`FAILURE_MODELS`.
    nodes, horizon_ms, seed : int
        See :func:`sample_failures`.
    **changes
        Fields of :class:`FailureModel` to change.

    Raises
    ------
    ConfigurationError
        For an unknown kind or field.
    """
    if kind not in FAILURE_MODELS:
        raise ConfigurationError(f"unknown failures '{kind}'; known are {list(FAILURE_MODELS)}")
    model = FAILURE_MODELS[kind]
    known = [field.name for field in fields(FailureModel)]
    for name in changes:
        if name not in known:
            raise ConfigurationError(f"failures: unknown field '{name}'; known are {known}")
    if model is None:
        return np.zeros(0, INCIDENT_DTYPE)
    frozen: dict[str, Any] = {
        k: v if isinstance(v, int | float) else tuple(v) for k, v in changes.items()
    }
    return sample_failures(replace(model, **frozen), nodes, horizon_ms, seed)


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
    _check(nodes >= 1, "nodes", nodes, "give at least 1")
    _check(horizon_ms >= 0, "horizon_ms", horizon_ms, "give 0 or more")
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
