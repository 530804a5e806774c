"""Lookahead at one decision point, slowly: whole copies of the row, blocks and gains in Python.

Run times are the estimates. A future's jobs come from what is known to have come.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.state.codes import JobCode, Reason, Stream
from orchestrator.kernels.state.row import ClusterState, allocate
from tests.naive.random import mix, random_below

__all__ = ["NaiveLookahead", "block", "repaired"]

Action = tuple[int, int, int]
PlayOut = Callable[[ClusterState], None]

_FUTURES, _LOTS = 1 << 10, 1 << 20
_MASK = (1 << 64) - 1
_ROUNDING = 1e-9


def block(
    record: NDArray[np.void], now_ms: int, wanted: int, cycle_ms: int, lot: Callable[[int], int]
) -> tuple[NDArray[np.void], int]:
    """Jobs of the past that come in a future, and the moment that stands for now.

    ``lot(n)`` draws from 0 to n - 1.
    """
    past = record[record["submit_ms"] < now_ms]
    moments = []
    if cycle_ms > 0 and len(past) >= wanted > 0:
        moment = now_ms
        while moment - cycle_ms >= past[0]["submit_ms"]:
            moment -= cycle_ms
            if (past["submit_ms"] >= moment).sum() >= wanted:
                moments.append(moment)
    if moments:
        begin = sorted(moments)[lot(len(moments))]
        first = int(np.flatnonzero(past["submit_ms"] >= begin)[0])
        return past[first : first + wanted], begin
    number = min(wanted, len(past) // 2)
    first = lot(len(past) - number + 1)
    begin = int(past[max(first - 1, 0)]["submit_ms"]) if len(past) else 0
    return past[first : first + number], begin


def repaired(
    incidents: Sequence[Any], sample: Sequence[float], n: int, now_ms: int, lot: float
) -> int:
    """When a node that is down comes back, by a lot in [0, 1) and how long repairs take."""
    fell = max(int(one["time_ms"]) for one in incidents if one["node"] == n)
    longer = sorted(repair for repair in sample if repair > now_ms - fell)
    if not longer:
        return now_ms + 1
    return fell + int(longer[int(lot * len(longer))])


@dataclass(frozen=True)
class NaiveLookahead:
    """How a decision is taken; ``play_out`` plays a row to its end."""

    futures: int
    arrivals: int
    errors: float
    margin: float
    cycle_ms: int
    seed: int
    play_out: PlayOut

    def costs(
        self, state: ClusterState, record: NDArray[np.void], actions: Sequence[Action]
    ) -> NDArray[np.float64]:
        """Cost of each action in each future, float64 [K, F]; inf: it is illegal."""
        return np.array(
            [
                [self._cost(state, action, self._block(state, record, f)) for action in actions]
                for f in range(self.futures)
            ]
        ).T

    def choose(self, gains: NDArray[np.float64], own: float) -> int:
        """The action of the highest mean gain, if that exceeds what it has to."""
        rounding = _ROUNDING * own
        taken, most = 0, 0.0
        for a, each in enumerate(gains):
            if not np.all(np.isfinite(each)) or self.seen(each, own)[1]:
                continue
            mean, error = float(each.mean()), _error(each)
            enough = mean > self.errors * error + self.margin * own + rounding
            if enough and mean > most + rounding:
                taken, most = a, mean
        return taken

    def seen(self, gains: NDArray[np.float64], own: float) -> tuple[int, bool]:
        """After how many futures an action is given up as clearly behind; or all, and False."""
        for f in range(2, len(gains) + 1):
            bound = gains[:f].mean() + max(self.errors, 1.0) * _error(gains[:f])
            if bound < -_ROUNDING * own:
                return f, True
        return len(gains), False

    def _block(
        self, state: ClusterState, record: NDArray[np.void], future: int
    ) -> NDArray[np.void]:
        row = state.rows[0]
        now, seed = int(row["now_ms"]), int(row["seed"]) ^ mix(self.seed)
        counter = (int(row["point"]) * _FUTURES + future) * _LOTS

        def lot(bound: int) -> int:
            return random_below(seed & _MASK, Stream.LOOKAHEAD, counter, bound)

        jobs, begin = block(record, now, self.arrivals, self.cycle_ms, lot)
        jobs = jobs.copy()
        jobs["submit_ms"] += now - begin
        return jobs

    def _cost(self, state: ClusterState, action: Action, jobs: NDArray[np.void]) -> float:
        """Bounded slowdown beyond 1, of all that were there and all that came."""
        shape = replace(state.shape, envs=1, jobs=state.shape.jobs + self.arrivals)
        trial = allocate(shape)
        entry.copy_row(state.rows, 0, trial.rows, 0)
        entry.assume_future(trial.rows, 0, jobs)
        nodes = np.zeros(trial.shape.workers, np.int32)
        if entry.commit(trial.rows, 0, *action, nodes) != Reason.OK:
            return math.inf
        self.play_out(trial)
        row: Any = trial.rows[0]
        arrived, count = int(state.rows[0]["next_arrival"]), int(row["num_jobs"])
        before = state.job[0, :arrived]["state"]
        over = np.isin(before, [JobCode.COMPLETED, JobCode.FAILED, JobCode.ABSENT])
        counted = np.concatenate([~over, np.ones(count - arrived, bool)])
        ask, run = trial.request[0, :count][counted], trial.job[0, :count][counted]
        assert (run["end_ms"] >= 0).all()
        scale = np.maximum(ask["duration_ms"], int(row["slowdown_bound_ms"]))
        excess = (run["end_ms"] - ask["submit_ms"]) / scale - 1.0
        return float(np.maximum(excess, 0.0).sum())


def _error(gains: NDArray[np.float64]) -> float:
    """Standard error of a mean gain."""
    return float(gains.std(ddof=1)) / math.sqrt(len(gains)) if len(gains) > 1 else 0.0
