"""What became of an episode, as metrics: of its jobs, its tenants, its services and its nodes.

Reports of evaluations and the infos of environments hold the same numbers, from here.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.see.outcome import SCRATCH, Outcome, read_outcome
from orchestrator.kernels.state.codes import JobCode, JobKind
from orchestrator.kernels.state.row import ClusterState
from orchestrator.status import jain_index

__all__ = ["METRICS", "episode_metrics", "tenant_fairness"]


METRICS: Mapping[str, int] = {
    "bounded_slowdown": -1,
    "wait": -1,
    "completion_time": -1,
    "makespan": -1,
    "utilisation": 1,
    "preemptions": -1,
    "interruptions": -1,
    "lost_hours": -1,
    "resizes": -1,
    "migrations": -1,
    "finish_time_fairness": -1,
    "worst_finish_time": -1,
    "unfinished": -1,
    "tenant_fairness": 1,
    "violations": -1,
    "replica_hours": -1,
    "node_cost": -1,
    "objective": -1,
}
"""Metrics of a window, and whether more (1) or less (-1) is better.

``tenant_fairness`` is known only where there are tenants with entitlements, ``violations`` and
``replica_hours`` where there are services, ``node_cost`` where nodes have a price.

bounded_slowdown
    Mean over jobs of max(1, (end - submit) / max(run time, 10 s)).
wait, completion_time
    Mean over jobs, s: time spent waiting (also between a preemption and the next start); time
    from submission to end.
makespan
    From the first submission to the last end, s.
utilisation
    Allocated share of the capacity over the makespan.
preemptions, interruptions, resizes, migrations
    Number of them; interruptions are those by failures of nodes.
lost_hours
    Capacity spent on work that was lost and on starting again, GPU hours (or processor hours).
finish_time_fairness, worst_finish_time
    Mean over jobs, and the largest, of Themis' rho (Mahajan et al., NSDI 2020).
unfinished
    Jobs that were still queued when nothing was left to happen. Their times count until then.
tenant_fairness
    Jain's index of tenants' normalised shares; see :func:`tenant_fairness`.
violations
    Share of requests that services did not answer within their objective.
replica_hours
    Hours of ready replicas of all services.
node_cost
    Prices of nodes that are paid for, integrated over the window.
objective
    What the environment's reward charges for: its terms, weighted and added up.
"""

_Ints = NDArray[np.int64]

_HOUR_MS = 3_600_000.0


def episode_metrics(state: ClusterState, e: int, weights: NDArray[np.float64]) -> dict[str, float]:
    """Metrics of the episode in a row up to now: at its end, those that reports hold.

    Parameters
    ----------
    state : ClusterState
    e : int
        Row.
    weights : float64 [len(Metric)]
        What the reward charges for one unit of each metric.

    Returns
    -------
    dict of str to float
        Those of :data:`METRICS` that are known, and the numbers of jobs that ``finished`` and that
        ``failed``. Only jobs that have been submitted count.
    """
    row = state.rows[e]
    found = np.empty(len(Outcome))
    read_outcome(state.rows, e, np.empty((SCRATCH, state.shape.jobs), np.int64), found)
    outcome = found.tolist()
    jobs = outcome[Outcome.JOBS]
    values = _job_values(row, outcome) if jobs > 0 else {}
    values |= _row_values(row)
    values["unfinished"] = outcome[Outcome.UNFINISHED]
    values["finished"], values["failed"] = outcome[Outcome.FINISHED], outcome[Outcome.FAILED]
    if row["num_tenants"] > 0 and jobs > 0:
        values["tenant_fairness"] = _tenant_value(state, e)
    charged = np.empty(len(weights))
    entry.read_metrics(state.rows, e, charged)
    values["objective"] = float(charged @ weights)
    return values


def _job_values(row: np.void, outcome: list[float]) -> dict[str, float]:
    """Metrics that follow from an episode's jobs."""
    # Replicas of services hold capacity to the end.
    span = Outcome.SPAN_SECONDS if row["num_services"] else Outcome.MAKESPAN_SECONDS
    offered = max(int(row["nominal_units"]) * round(1000.0 * outcome[span]), 1)
    return {
        "bounded_slowdown": outcome[Outcome.BOUNDED_SLOWDOWN],
        "wait": float(row["wait_ms"]) / 1000.0 / outcome[Outcome.JOBS],
        "completion_time": outcome[Outcome.COMPLETION_SECONDS],
        "makespan": outcome[Outcome.MAKESPAN_SECONDS],
        "utilisation": float(row["busy_unit_ms"]) / offered,
        "finish_time_fairness": outcome[Outcome.FINISH_TIME_FAIRNESS],
        "worst_finish_time": outcome[Outcome.WORST_FINISH_TIME],
    }


def _row_values(row: np.void) -> dict[str, float]:
    """Metrics that a row counts by itself."""
    found = {
        "preemptions": float(row["preemptions"]),
        "interruptions": float(row["interruptions"]),
        "lost_hours": float(row["lost_unit_ms"]) / 1000.0 / _HOUR_MS,
        "resizes": float(row["resizes"]),
        "migrations": float(row["migrations"]),
    }
    if row["num_services"] > 0:
        found["violations"] = float(row["request_violations"]) / max(
            float(row["requests_offered"]), 1.0
        )
        found["replica_hours"] = float(row["replica_ms"]) / _HOUR_MS
    if row["cost_milli_ms"] > 0:
        found["node_cost"] = float(row["cost_milli_ms"]) / 1000.0 / _HOUR_MS
    return found


def _tenant_value(state: ClusterState, e: int) -> float:
    """Fairness towards tenants: by quotas, or by weights where nobody has a quota."""
    row = state.rows[e]
    submitted = int(row["next_arrival"])
    present = state.request[e, :submitted]["kind"] != JobKind.SERVICE
    ask = state.request[e, :submitted][present]
    done = state.job[e, :submitted][present]
    end_ms = np.where(done["state"] == JobCode.COMPLETED, done["end_ms"], row["now_ms"])
    own = state.tenant[e][: int(row["num_tenants"])]
    weights = np.where(own["weight"] > 0.0, own["weight"], 1.0)
    by_weight = row["nominal_units"] * weights / weights.sum()
    quotas = own["quota_units"]
    return tenant_fairness(
        ask["submit_ms"],
        end_ms,
        _asked_units(row, ask),
        done["attained_unit_ms"],
        ask["tenant"],
        quotas.astype(np.float64) if quotas.any() else by_weight,
    )


def _asked_units(row: np.void, ask: NDArray[np.void]) -> NDArray[np.int64]:
    """Demand of jobs as they asked for it, capacity units."""
    each = ask["gpus_per_worker"] * ask["gpu_milli"] if row["unit"] else ask["cpu_milli"]
    units: NDArray[np.int64] = ask["workers"] * each
    return units


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


def _due(submit_ms: _Ints, end_ms: _Ints, units: _Ints, entitled: float) -> float:
    """Integral of the smaller of an entitlement and the demand in the system, unit ms."""
    times, asked = _steps(submit_ms, end_ms, units.astype(np.float64))
    return float((np.minimum(asked[:-1], entitled) * np.diff(times)).sum())
