"""A workload in numbers: when its jobs come, how large and how long they are, who sends them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from envs.workloads.trace import Trace
from orchestrator.kernels.state.codes import FOREVER_MS

__all__ = ["QUANTILES", "TraceSummary", "summarise_trace"]

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Which quantiles a summary has."""

_HOUR_MS = 3_600_000
_HOURS, _DAYS = 24, 7
_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TraceSummary:
    """What a trace is like.

    Parameters
    ----------
    name : str
    jobs : int
    resource : str
        What sizes count: ``GPUs`` or ``processors``.
    capacity : float
        Of the trace's own cluster; 0: it has none.
    days : float
        From the first submission to the last.
    arrivals : float64 [7, 24]
        Jobs submitted in each hour of the week, a mean over the weeks. The week begins at the
        trace's time 0.
    sizes : float64 [J]
        What each job asks for.
    run_s, estimate_s : float64 [J]
        True run times, and what users expect; infinite: for ever.
    load_hours : float64 [T + 1]
        Ends of equal intervals of time, hours since the first submission.
    load : float64 [T]
        Work that comes in each, divided by what the cluster can do in it or, where there is no
        cluster, by the mean.
    user_jobs, user_work : float64 [U]
        Jobs of each user (of each tenant, where no users are recorded), and their sizes times run
        times, resource hours; the most work first.
    quantiles : tuple of (str, float64 [5])
        :data:`QUANTILES` of sizes, run times, estimates over run times, gaps between submissions.
    offered_load : float
        See :meth:`envs.workloads.trace.Trace.offered_load`; NaN without a cluster.
    """

    name: str
    jobs: int
    resource: str
    capacity: float
    days: float
    arrivals: _Floats
    sizes: _Floats
    run_s: _Floats
    estimate_s: _Floats
    load_hours: _Floats
    load: _Floats
    user_jobs: _Floats
    user_work: _Floats
    quantiles: tuple[tuple[str, _Floats], ...]
    offered_load: float


def summarise_trace(trace: Trace, intervals: int = 200) -> TraceSummary:
    """A trace in numbers.

    Parameters
    ----------
    trace : Trace
    intervals : int, optional
        Of the load over time.

    Returns
    -------
    TraceSummary
    """
    asks = trace.requests
    resource = "GPUs" if trace.uses_gpus else "processors"
    capacity = float(trace.gpus if trace.uses_gpus else trace.cpu_cores)
    sizes = trace.demand_milli() / 1000.0
    run_s, estimate_s = (_seconds(asks[name]) for name in ("duration_ms", "requested_ms"))
    work = np.where(np.isfinite(run_s), run_s, 0.0) * sizes / 3600.0
    hours, load = _load(asks["submit_ms"], work, capacity, intervals)
    owner = _owners(asks)
    user_work = np.bincount(owner, work).astype(np.float64)
    order = np.argsort(-user_work, kind="stable")
    known = np.isfinite(run_s) & np.isfinite(estimate_s)
    of = {
        f"size, {resource}": sizes,
        "run time, s": run_s,
        "estimate / run time": estimate_s[known] / np.maximum(run_s[known], 1e-3),
        "gap between submissions, s": np.diff(asks["submit_ms"]) / 1000.0,
    }
    return TraceSummary(
        name=trace.name,
        jobs=len(trace),
        resource=resource,
        capacity=capacity,
        days=trace.span_ms / _HOUR_MS / _HOURS,
        arrivals=_arrivals(asks["submit_ms"]),
        sizes=sizes,
        run_s=run_s,
        estimate_s=estimate_s,
        load_hours=hours,
        load=load,
        user_jobs=np.bincount(owner)[order].astype(np.float64),
        user_work=user_work[order],
        quantiles=tuple((name, _quantiles(values)) for name, values in of.items()),
        offered_load=trace.offered_load() if capacity > 0 else float("nan"),
    )


def _seconds(times_ms: NDArray[np.int64]) -> _Floats:
    return np.where(times_ms < FOREVER_MS, times_ms / 1000.0, np.inf)


def _quantiles(values: _Floats) -> _Floats:
    if len(values) == 0:
        return np.full(len(QUANTILES), np.nan)
    found: _Floats = np.quantile(values, QUANTILES, method="lower")
    return found


def _arrivals(submit: NDArray[np.int64]) -> _Floats:
    """Mean number of jobs in each hour of the week, [7, 24]."""
    week = _HOURS * _DAYS
    hour = submit // _HOUR_MS
    count = np.bincount(hour % week, minlength=week)
    covered = np.bincount(np.arange(hour[0], hour[-1] + 1) % week, minlength=week)
    mean: _Floats = (count / np.maximum(covered, 1)).reshape(_DAYS, _HOURS)
    return mean


def _load(
    submit: NDArray[np.int64], work: _Floats, capacity: float, intervals: int
) -> tuple[_Floats, _Floats]:
    """Ends of equal intervals of time, hours, and the work that comes in each."""
    since = (submit - submit[0]) / _HOUR_MS
    edges = np.linspace(0.0, max(float(since[-1]), 1e-9), intervals + 1)
    came = np.histogram(since, edges, weights=work)[0].astype(np.float64)
    if capacity > 0:
        return edges, came / (capacity * np.diff(edges))
    return edges, came / max(float(came.mean()), 1e-9)


def _owners(asks: NDArray[np.void]) -> NDArray[np.int64]:
    """Whose each job is, numbered: its user or, where none is recorded, its tenant."""
    users = asks["user"] if len(np.unique(asks["user"])) > 1 else asks["tenant"]
    numbers: NDArray[np.int64] = np.unique(users, return_inverse=True)[1]
    return numbers
