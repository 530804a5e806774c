"""How an episode went: what waited, ran and was in use, and how well it had gone by then."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from envs.viewing.episode import EpisodeView
from orchestrator.scheduling.runs import RunEnd

__all__ = ["EpisodeSeries", "series_of"]

_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class EpisodeSeries:
    """Step functions: what holds from each moment on at which something changed, T of them.

    Parameters
    ----------
    time_ms : int64 [T]
        From the begin of the episode to its end.
    waiting, running : int64 [T]
        Jobs; services are none.
    busy : int64 [T]
        Capacity units that are held, by services too.
    utilisation : float64 [T]
        Share of the whole cluster that was held up to then.
    slowdown : float64 [T]
        Mean bounded slowdown of the jobs that had ended; NaN before the first.
    wait_s : float64 [T]
        Time spent waiting up to then, divided by the jobs that had been submitted, s.
    """

    time_ms: NDArray[np.int64]
    waiting: NDArray[np.int64]
    running: NDArray[np.int64]
    busy: NDArray[np.int64]
    utilisation: _Floats
    slowdown: _Floats
    wait_s: _Floats


def series_of(seen: EpisodeView) -> EpisodeSeries:
    """How an episode went up to when it was looked at.

    At the end of a whole episode these are the metrics of reports
    (:data:`envs.METRICS`), but where jobs failed or services ran on.
    """
    jobs, runs = seen.jobs[seen.jobs["service"] == 0], seen.runs
    mine = runs[seen.jobs["service"][runs["job"]] == 0]
    first = np.append(True, np.diff(mine["job"]) != 0)[: len(mine)]
    before = np.append(-1, mine["end"][:-1])[: len(mine)]
    went_on = ~first & np.isin(before, (RunEnd.RESIZED, RunEnd.MOVED))
    begun = mine["start_ms"][~went_on]
    back = mine["end_ms"][np.isin(mine["end"], (RunEnd.PREEMPTED, RunEnd.INTERRUPTED))]
    over = jobs["end_ms"][jobs["end_ms"] >= 0]
    turned_away = jobs["end_ms"][(jobs["end_ms"] >= 0) & (jobs["completed"] == 0)]
    done = mine["end_ms"][mine["end"] == RunEnd.COMPLETED]
    ends = np.array([seen.begin_ms, seen.now_ms])
    times = np.concatenate((ends, jobs["submit_ms"], runs["start_ms"], runs["end_ms"], over))
    time = np.unique(np.clip(times, seen.begin_ms, seen.now_ms))
    waiting = _count(time, jobs["submit_ms"]) + _count(time, back)
    waiting -= _count(time, begun) + _count(time, turned_away)
    running = _count(time, begun) - _count(time, back) - _count(time, done)
    units = np.concatenate((runs["units"], -runs["units"]))
    goes_on = runs["end"] == RunEnd.UNFINISHED
    freed = np.where(goes_on, seen.now_ms + 1, runs["end_ms"])
    changes = np.concatenate((runs["start_ms"], freed))
    busy = _sum(time, changes, units)
    spent = np.maximum(time - seen.begin_ms, 1).astype(np.float64)
    return EpisodeSeries(
        time_ms=time,
        waiting=waiting,
        running=running,
        busy=busy,
        utilisation=_integral(time, busy) / (spent * max(int(seen.capacity.sum()), 1)),
        slowdown=_slowdown(time, jobs, seen.bound_ms),
        wait_s=_integral(time, waiting) / np.maximum(_count(time, jobs["submit_ms"]), 1) / 1000.0,
    )


def _count(time: NDArray[np.int64], moments: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many moments there were up to each time."""
    found: NDArray[np.int64] = np.searchsorted(np.sort(moments), time, side="right")
    return found


def _sum(
    time: NDArray[np.int64], moments: NDArray[np.int64], values: NDArray[np.int64]
) -> NDArray[np.int64]:
    """What was added up to each time."""
    order = np.argsort(moments, kind="stable")
    total = np.concatenate(([0], np.cumsum(values[order])))
    found: NDArray[np.int64] = total[np.searchsorted(moments[order], time, side="right")]
    return found


def _integral(time: NDArray[np.int64], values: NDArray[np.int64]) -> _Floats:
    """Of a step function over time, up to each of its steps."""
    return np.concatenate(([0.0], np.cumsum(values[:-1] * np.diff(time).astype(np.float64))))


def _slowdown(time: NDArray[np.int64], jobs: NDArray[np.void], bound_ms: int) -> _Floats:
    """Mean bounded slowdown of the jobs that had ended by each time."""
    ended = jobs[jobs["end_ms"] >= 0]
    ended = ended[np.argsort(ended["end_ms"], kind="stable")]
    stay = (ended["end_ms"] - ended["submit_ms"]) / np.maximum(ended["work_ms"], bound_ms)
    total = np.concatenate(([0.0], np.cumsum(np.maximum(stay, 1.0))))
    count = _count(time, ended["end_ms"])
    with np.errstate(invalid="ignore"):
        mean: _Floats = np.where(count > 0, total[count] / np.maximum(count, 1), np.nan)
    return mean
