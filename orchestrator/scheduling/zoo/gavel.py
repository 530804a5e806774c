"""Gavel: shares of time by linear programs, approached in rounds.

Narayanan et al., "Heterogeneity-Aware Cluster Scheduling Policies for Deep Learning Workloads",
OSDI 2020. An allocation X holds the share of time that each job spends on each type of GPU. A round
serves the jobs that are furthest behind their share: priority is X over the share received so far.
Left out are space sharing and the choice of the GPU type (placement chooses it).
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.scheduling.zoo.board import Board
from orchestrator.scheduling.zoo.rounds import RoundPolicy

__all__ = ["GavelFinishTime", "GavelLas", "finish_time_shares", "max_min_shares"]


_Floats = NDArray[np.float64]


def max_min_shares(
    speeds: _Floats, demands: _Floats, capacity: _Floats, weights: _Floats | None = None
) -> _Floats:
    """Shares of time that make the least normalised throughput as large as possible.

    Gavel's LAS policy (section 4.1): max over X of min over m of
    throughput(m, X) / (w_m throughput(m, X_equal)) x demand_m, where X_equal spreads a job over the
    types in proportion to their numbers.

    Parameters
    ----------
    speeds : float64 [M, K]
        Speed of job m on type k.
    demands : float64 [M]
        Capacity that job m takes while it runs.
    capacity : float64 [K]
        Capacity of each type.
    weights : float64 [M], optional
        Of the jobs; None: 1.

    Returns
    -------
    float64 [M, K]
        X.
    """
    jobs, types = speeds.shape
    weight = np.ones(jobs) if weights is None else weights
    equal = speeds @ (capacity / capacity.sum())
    scale = demands / (np.maximum(equal, 1e-9) * weight)
    scale = scale / scale.max()  # the same optimum, better conditioned
    # Maximise t subject to t <= scale_m speeds_m . X_m: variables X (row by row), then t.
    rows = np.zeros((jobs, jobs * types + 1))
    for m in range(jobs):
        rows[m, m * types : (m + 1) * types] = -scale[m] * speeds[m]
    rows[:, -1] = 1.0
    gain = np.zeros(jobs * types + 1)
    gain[-1] = -1.0
    solved = _solve(gain, rows, np.zeros(jobs), demands, capacity, extra=1)
    if solved is None:
        return np.zeros((jobs, types))
    return solved[:-1].reshape(jobs, types)


def finish_time_shares(
    speeds: _Floats,
    demands: _Floats,
    capacity: _Floats,
    elapsed: _Floats,
    remaining: _Floats,
    isolated: _Floats,
) -> _Floats:
    """Shares of time that make the worst finish-time fairness as good as possible.

    Gavel's policy of that name (section 4.2): min over X of max over m of
    (elapsed_m + remaining_m / throughput(m, X)) / isolated_m. For a given ratio rho it is a linear
    feasibility problem, throughput(m, X) >= remaining_m / (rho isolated_m - elapsed_m); the least
    rho is found by bisection.

    Parameters
    ----------
    speeds, demands, capacity
        See :func:`max_min_shares`.
    elapsed, remaining, isolated : float64 [M]
        Time since submission, work left at speed 1, and the time from submission to end that the
        job would have needed alone on its fair share.

    Returns
    -------
    float64 [M, K]
        X.
    """
    jobs, types = speeds.shape
    rows = np.zeros((jobs, jobs * types))
    for m in range(jobs):
        rows[m, m * types : (m + 1) * types] = -speeds[m]

    def shares(ratio: float) -> _Floats | None:
        room = ratio * isolated - elapsed
        if np.any(room <= 0):
            return None
        return _solve(np.ones(jobs * types), rows, -remaining / room, demands, capacity)

    low, high = 0.0, 1.0 + float(np.max(elapsed / isolated))
    best = shares(high)
    for _ in range(60):
        if best is not None:
            break
        low, high = high, 2.0 * high
        best = shares(high)
    for _ in range(20):
        middle = (low + high) / 2.0
        found = shares(middle)
        if found is None:
            low = middle
        else:
            high, best = middle, found
    return np.zeros((jobs, types)) if best is None else best.reshape(jobs, types)


def _solve(
    cost: _Floats,
    rows: _Floats,
    bounds: _Floats,
    demands: _Floats,
    capacity: _Floats,
    extra: int = 0,
) -> _Floats | None:
    """Solve a program over X, with everybody's time and every type's capacity kept (HiGHS)."""
    from scipy.optimize import linprog

    jobs, types = len(demands), len(capacity)
    time = np.zeros((jobs, jobs * types + extra))
    room = np.zeros((types, jobs * types + extra))
    for m in range(jobs):
        time[m, m * types : (m + 1) * types] = 1.0
        for k in range(types):
            room[k, m * types + k] = demands[m]
    limits: list[tuple[float, float | None]] = [(0.0, 1.0)] * (jobs * types) + [(0.0, None)] * extra
    found: Any = linprog(
        cost,
        A_ub=np.vstack([rows, time, room]),
        b_ub=np.concatenate([bounds, np.ones(jobs), capacity]),
        bounds=limits,
        method="highs",
    )
    return np.asarray(found.x, np.float64) if found.status == 0 else None


class _Gavel(RoundPolicy):
    """Serves those furthest behind the share of time that a program gives them."""

    def rank(self, board: Board, jobs: list[int]) -> list[int]:
        """Order jobs by target share over the share received, both of the time since submission."""
        capacity = board.capacity_by_model().astype(np.float64)
        types = np.flatnonzero(capacity > 0)
        if len(types) == 0:
            return jobs
        total = float(capacity.sum())
        fitting = [j for j in jobs if board.units(j) <= total]
        if not fitting:
            return jobs
        demands = np.array([max(board.units(j), 1) for j in fitting], np.float64)
        speeds = np.array(
            [
                [board.speed(j, int(board.requests[j]["workers"]), int(k)) for k in types]
                for j in fitting
            ]
        )
        shares = self.shares(board, fitting, speeds, demands / total, capacity[types] / total)
        keys = {}
        for j, share in zip(fitting, shares.sum(axis=1), strict=True):
            age = max(board.now_ms - int(board.requests[j]["submit_ms"]), 1)
            received = board.attained(j) / max(board.units(j), 1) / age
            keys[j] = (-float(share) / (received + 1e-6), int(board.requests[j]["submit_ms"]), j)
        return sorted(fitting, key=keys.__getitem__) + [j for j in jobs if j not in keys]

    @abstractmethod
    def shares(
        self, board: Board, jobs: list[int], speeds: _Floats, demands: _Floats, capacity: _Floats
    ) -> _Floats:
        """Target shares of time, float64 [M, K]."""


class GavelLas(_Gavel):
    """Max-min fairness of throughput, with GPU types (Gavel's heterogeneity-aware LAS)."""

    def shares(
        self, board: Board, jobs: list[int], speeds: _Floats, demands: _Floats, capacity: _Floats
    ) -> _Floats:
        """See :func:`max_min_shares`."""
        return max_min_shares(speeds, demands, capacity)


class GavelFinishTime(_Gavel):
    """Finish-time fairness, with GPU types (Gavel's heterogeneity-aware Themis)."""

    def shares(
        self, board: Board, jobs: list[int], speeds: _Floats, demands: _Floats, capacity: _Floats
    ) -> _Floats:
        """See :func:`finish_time_shares`; alone, a job would have 1 / M of the cluster."""
        elapsed = np.array(
            [board.now_ms - int(board.requests[j]["submit_ms"]) for j in jobs], np.float64
        )
        remaining = np.array([board.remaining(j) for j in jobs], np.float64)
        whole = np.array([int(board.requests[j]["requested_ms"]) for j in jobs], np.float64)
        isolated = whole * np.maximum(1.0, demands * len(jobs))
        return finish_time_shares(speeds, demands, capacity, elapsed, remaining, isolated)
