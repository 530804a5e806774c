"""Predict run times from jobs that have ended, for policies that order by predicted service.

Hu et al. (SC 2021) predict with the past of the same user and name, and gradient boosting on top;
what carries most of it is that people submit similar jobs again. Here a prediction is the median of
the last few similar jobs, similar being as narrow as there is experience with.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from envs.workloads.trace import Trace
from orchestrator.errors import ConfigurationError

__all__ = ["PredictionError", "predict_durations", "prediction_error"]

_FIRST_GUESS_MS = 3_600_000  # before anything has ended


@dataclass(frozen=True)
class PredictionError:
    """How far estimates are from run times.

    Parameters
    ----------
    median_factor : float
        Median of max(estimate / run time, run time / estimate); 1 is exact.
    within_twice : float
        Share of the jobs whose estimate is at most twice too long or too short.
    rank_correlation : float
        Spearman's rho of estimates and run times.
    service_rank_correlation : float
        The same of both times the size of the job, by which QSSF orders.
    """

    median_factor: float
    within_twice: float
    rank_correlation: float
    service_rank_correlation: float


def predict_durations(trace: Trace, *, window: int = 16, least: int = 3) -> Trace:
    """A trace whose estimates are predictions made from the past alone.

    A job counts as past from ``submit_ms + duration_ms`` on, the earliest that it can have ended.

    Parameters
    ----------
    trace : Trace
        Its ``requested_ms`` are not looked at.
    window : int, optional
        Most recent similar jobs that the median is of.
    least : int, optional
        Similar jobs that a level of similarity needs to be used: the same tenant, user, application
        and size; the same tenant, user and size; the same tenant and size; the same tenant; any.

    Returns
    -------
    Trace
        With other ``requested_ms``.
    """
    if not 1 <= least <= window:
        raise ConfigurationError(
            f"predict_durations: least {least}, window {window}; give 1 <= least <= window"
        )
    requests = trace.requests.copy()
    sizes = trace.demand_milli()
    seen: dict[Hashable, deque[int]] = {}
    running: list[tuple[int, int]] = []
    keys: list[tuple[Hashable, ...]] = []
    columns = (requests[name].tolist() for name in ("submit_ms", "duration_ms"))
    for j, (submit, duration) in enumerate(zip(*columns, strict=True)):
        while running and running[0][0] <= submit:
            _, ended = heapq.heappop(running)
            for key in keys[ended]:
                past = seen.setdefault(key, deque(maxlen=window))
                past.append(int(requests["duration_ms"][ended]))
        ask = requests[j]
        tenant, user, size = int(ask["tenant"]), int(ask["user"]), int(sizes[j])
        keys.append(
            (
                (tenant, user, int(ask["application"]), size),
                (tenant, user, size),
                (tenant, -2, size),
                (tenant,),
                (),
            )
        )
        requests["requested_ms"][j] = _median(seen, keys[j], least)
        heapq.heappush(running, (submit + duration, j))
    return replace(trace, requests=requests)


def _median(seen: dict[Hashable, deque[int]], keys: tuple[Hashable, ...], least: int) -> int:
    for key in keys:
        past = seen.get(key)
        if past is not None and len(past) >= (1 if key == () else least):
            ranked = sorted(past)
            middle = len(ranked) // 2
            low = ranked[middle] if len(ranked) % 2 else ranked[middle - 1]
            # The geometric mean of the two in the middle: run times spread over decades.
            return max(round(float(np.sqrt(float(low) * float(ranked[middle])))), 1)
    return _FIRST_GUESS_MS


def prediction_error(trace: Trace) -> PredictionError:
    """How far a trace's estimates are from its run times."""
    asked = trace.requests["requested_ms"].astype(np.float64)
    true = trace.requests["duration_ms"].astype(np.float64)
    factor = np.exp(np.abs(np.log(asked / true)))
    size = trace.demand_milli().astype(np.float64)
    return PredictionError(
        median_factor=float(np.median(factor)),
        within_twice=float(np.mean(factor <= 2.0)),
        rank_correlation=_spearman(asked, true),
        service_rank_correlation=_spearman(asked * size, true * size),
    )


def _spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    from scipy.stats import spearmanr

    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(spearmanr(a, b).statistic)
