"""How fairly a window's jobs and tenants were treated, from when jobs came and went."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from orchestrator.resources.standing import jain_index

__all__ = ["finish_time_ratios", "tenant_fairness"]

_Ints = NDArray[np.int64]


def finish_time_ratios(
    submit_ms: _Ints, end_ms: _Ints, duration_ms: _Ints, units: _Ints, capacity: int
) -> NDArray[np.float64]:
    """Finish-time fairness of each job: rho = T_shared / T_isolated.

    Mahajan et al., "Themis: Fair and Efficient GPU Cluster Scheduling", NSDI 2020. Isolated, a job
    has 1 / N of the cluster, N being the mean number of jobs in the system while it is there, and
    takes in proportion longer if it asks for more. Jobs of rho above 1 would have been better off
    with a fair share of their own.

    Parameters
    ----------
    submit_ms, end_ms, duration_ms, units : int64 [J]
        Arrival, end, run time as asked for, and demand as asked for.
    capacity : int
        Units of the cluster.

    Returns
    -------
    float64 [J]
    """
    stay = np.maximum(end_ms - submit_ms, 1)
    present = _integral_between(submit_ms, end_ms, np.ones(len(submit_ms)), submit_ms, end_ms)
    sharing = np.maximum(present / stay, 1.0)
    isolated = duration_ms * np.maximum(1.0, units * sharing / max(capacity, 1))
    ratios: NDArray[np.float64] = stay / np.maximum(isolated, 1.0)
    return ratios


def tenant_fairness(
    submit_ms: _Ints,
    end_ms: _Ints,
    units: _Ints,
    held_unit_ms: _Ints,
    tenant: _Ints,
    entitled: NDArray[np.float64],
) -> float:
    """Jain's index of tenants' normalised shares; 1: all got alike of what was due to them.

    A tenant's share is what its jobs held over the window, divided by what was due to it: at every
    moment its entitlement, or what its jobs in the system ask for if that is less. Who borrows has
    more than 1. (Jain, Chiu and Hawe, DEC-TR-301, 1984.)

    Parameters
    ----------
    submit_ms, end_ms, units : int64 [J]
        Arrival, end and demand of each job.
    held_unit_ms : int64 [J]
        What each job held, integrated over time.
    tenant : int64 [J]
        Of each job.
    entitled : float64 [T]
        Units that each tenant is entitled to.

    Returns
    -------
    float
        Over the tenants to whom anything is due.
    """
    shares = []
    for t in np.unique(tenant).tolist():
        mine = tenant == t
        due = _due(submit_ms[mine], end_ms[mine], units[mine], float(entitled[t]))
        if due > 0:
            shares.append(float(held_unit_ms[mine].sum()) / due)
    return jain_index(np.array(shares)) if shares else 1.0


def _steps(
    begin: _Ints, end: _Ints, size: NDArray[np.float64]
) -> tuple[_Ints, NDArray[np.float64]]:
    """A step function: times of change [K] and its value from each of them on."""
    times = np.concatenate((begin, end))
    order = np.argsort(times, kind="stable")
    return times[order], np.cumsum(np.concatenate((size, -size))[order])


def _integral_between(
    begin: _Ints, end: _Ints, size: NDArray[np.float64], first: _Ints, last: _Ints
) -> NDArray[np.float64]:
    """Integrals from ``first`` to ``last`` [M] of the sum of sizes over intervals."""
    times, level = _steps(begin, end, size)
    total = np.concatenate(([0.0], np.cumsum(level[:-1] * np.diff(times))))
    found: NDArray[np.float64] = np.interp(last, times, total) - np.interp(first, times, total)
    return found


def _due(submit_ms: _Ints, end_ms: _Ints, units: _Ints, entitled: float) -> float:
    """Integral of the smaller of an entitlement and the demand in the system, unit ms."""
    times, asked = _steps(submit_ms, end_ms, units.astype(np.float64))
    return float((np.minimum(asked[:-1], entitled) * np.diff(times)).sum())
