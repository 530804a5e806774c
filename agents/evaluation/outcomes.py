"""What became of the jobs of evaluated windows, and the metrics that follow: fairness included."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from agents.evaluation.runs import RunCollector, WindowRuns
from envs.session import Session
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.state.codes import JobCode, JobKind
from orchestrator.scheduling.runs import Runs
from orchestrator.status import jain_index

__all__ = [
    "JOB_OUTCOME",
    "METRICS",
    "EvaluationResult",
    "OutcomeTable",
    "finish_time_ratios",
    "tenant_fairness",
]


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
    Mean over jobs, and the largest, of Themis' rho; see :func:`finish_time_ratios`.
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

_BOUND_MS = 10_000

_COUNTED = ("preemptions", "interruptions", "resizes", "migrations")


_HOUR_MS = 3_600_000.0


JOB_OUTCOME = np.dtype(
    [
        ("sequence", "i4"),  # number of the window
        ("job_id", "i8"),  # the job's number in the trace it came from
        ("submit_ms", "i8"),
        ("start_ms", "i8"),  # first start; -1: none
        ("last_start_ms", "i8"),
        ("end_ms", "i8"),  # of those that did not complete: when the window was over
        ("duration_ms", "i8"),  # run time as it asked for workers, at nominal speed
        ("units", "i8"),  # demand in milli-GPUs, or milli-cores where there are no GPUs
        ("completed", "u1"),
        ("runs", "i4"),  # how often it was started
        ("preemptions", "i4"),
        ("interruptions", "i4"),
        ("resizes", "i4"),
        ("migrations", "i4"),
    ]
)
"""What became of a job."""


@dataclass(frozen=True)
class EvaluationResult:
    """Outcome of one policy on a number of windows.

    Parameters
    ----------
    policy : str
    learned : bool
        Whether it is a policy, not a rule.
    starts : int64 [M]
        First job of each window.
    values : mapping of str to float64 [M]
        Those of :data:`METRICS` that are known, by window.
    jobs : JOB_OUTCOME [rows]
        Jobs of the windows that they were kept for, by window and submission.
    nodes : int32 [rows, W]
        Node of each worker at the end of the job's last run; -1: no such worker.
    capacity_units : int
        Units of the whole cluster.
    resource : str
        What a thousand units are: ``GPUs`` or ``processors``.
    node_names : tuple of str
    runs : WindowRuns, optional
        Every run of those jobs.
    """

    policy: str
    learned: bool
    starts: NDArray[np.int64]
    values: Mapping[str, NDArray[np.float64]]
    jobs: NDArray[np.void]
    nodes: NDArray[np.int32]
    capacity_units: int
    resource: str
    node_names: tuple[str, ...]
    runs: WindowRuns = field(default_factory=WindowRuns)

    def of_sequence(self, sequence: int) -> NDArray[np.void]:
        """The jobs of one window."""
        return self.jobs[self.jobs["sequence"] == sequence]


class OutcomeTable:
    """Collects windows as they end.

    Parameters
    ----------
    session : Session
    starts : int64 [M]
    keep_jobs : int
        Keep the jobs of that many windows, the first ones.
    """

    def __init__(self, session: Session, starts: NDArray[np.int64], keep_jobs: int) -> None:
        self._session = session
        self._starts = starts
        self._values: dict[str, NDArray[np.float64]] = {}
        length, workers = session.config.episode_jobs, session.state.shape.workers
        kept = min(keep_jobs, len(starts))
        self._jobs = np.zeros((kept, length), JOB_OUTCOME)
        self._nodes = np.full((kept, length, workers), -1, np.int32)
        self._runs = RunCollector(session, kept) if kept > 0 else None

    def keep_up(self) -> None:
        """Read what has happened to jobs before it is overwritten: after every step of rows."""
        if self._runs is not None:
            self._runs.keep_up()

    def make_room(self, e: int, window: int) -> bool:
        """Whether row ``e``, the only one, has to play its window again to tell its jobs' runs.

        More happened in it than there was room for; now there is more.
        """
        return self._runs is not None and self._runs.make_room(e, window)

    def collect(self, e: int, window: int) -> None:
        """Take the outcome of row ``e``, in which a window has ended."""
        state = self._session.state
        row = state.rows[e]
        present = state.request[e, : int(row["num_jobs"])]["kind"] != JobKind.SERVICE
        ask = state.request[e, : len(present)][present]
        done = state.job[e, : len(present)][present]  # a copy: unfinished jobs end here
        unfinished = done["state"] != JobCode.COMPLETED
        done["end_ms"][unfinished] = row["now_ms"]
        values = _job_values(row, ask, done) if len(ask) else {}
        values |= _row_values(row) | {"unfinished": float(unfinished.sum())}
        values["objective"] = self._charged(e)
        if row["num_tenants"] > 0 and len(ask):
            values["tenant_fairness"] = _tenant_value(row, state.tenant[e], ask, done)
        for name, value in values.items():
            self._values.setdefault(name, np.zeros(len(self._starts)))[window] = value
        if self._runs is not None:
            self._keep(e, window, ask, done, np.flatnonzero(present))

    def _charged(self, e: int) -> float:
        """The reward's terms of a row, weighted."""
        session, weights = self._session, self._session.source.prices.weights
        metrics = np.zeros(len(weights))
        entry.read_metrics(session.state.rows, e, metrics)
        return float(metrics @ weights) + session.own.cost(e)

    def result(self, policy: str, learned: bool) -> EvaluationResult:
        """Everything collected, under the policy's name."""
        session = self._session
        row = session.state.rows[0]
        return EvaluationResult(
            policy=policy,
            learned=learned,
            starts=self._starts,
            values=self._values,
            jobs=self._jobs.reshape(-1),
            nodes=self._nodes.reshape(-1, self._nodes.shape[2]),
            capacity_units=int(row["nominal_units"]),
            resource="GPUs" if row["unit"] else "processors",
            node_names=tuple(node.node_id for node in session.trace.nodes),
            runs=WindowRuns() if self._runs is None else self._runs.result(),
        )

    def _keep(
        self,
        e: int,
        window: int,
        ask: NDArray[np.void],
        done: NDArray[np.void],
        jobs: NDArray[np.int64],
    ) -> None:
        assert self._runs is not None
        found = self._runs.collect(e, window, jobs)
        if window >= len(self._jobs):
            return
        kept = self._jobs[window]
        kept["sequence"] = window
        kept["job_id"] = ask["source_id"]
        kept["submit_ms"] = ask["submit_ms"]
        kept["duration_ms"] = ask["duration_ms"]
        kept["start_ms"] = done["first_start_ms"]
        kept["last_start_ms"] = done["start_ms"]
        kept["completed"] = done["state"] == JobCode.COMPLETED
        for name in ("end_ms", "units", "runs", *_COUNTED):
            kept[name] = done[name]
        if found is None:
            # A worker's place stays in the table, but not how many an elastic job has had.
            sure = (done["first_start_ms"] >= 0) & (ask["elastic"] == 0)
            width = self._nodes.shape[2]
            held = np.arange(width) < np.where(sure, ask["workers"], 0)[:, np.newaxis]
            placed = self._session.state.worker[e, jobs, :width]["node"]
            self._nodes[window] = np.where(held, placed, -1)
        else:
            self._nodes[window] = _last_places(found, jobs, self._nodes.shape[2])


def _last_places(found: Runs, jobs: NDArray[np.int64], width: int) -> NDArray[np.int32]:
    """The node of each worker [jobs, width] where each job was last; -1: no such worker."""
    places = np.full((len(jobs), width), -1, np.int32)
    runs = found.runs
    last = np.flatnonzero(np.append(np.diff(runs["job"]) != 0, True)[: len(runs)])
    stop = np.cumsum(runs["workers"])
    for at, k in zip(np.searchsorted(jobs, runs["job"][last]), last, strict=True):
        workers = int(runs["workers"][k])
        places[at, :workers] = found.nodes[stop[k] - workers : stop[k]]
    return places


def _asked_units(row: np.void, ask: NDArray[np.void]) -> NDArray[np.int64]:
    """Demand of jobs as they asked for it, capacity units."""
    each = ask["gpus_per_worker"] * ask["gpu_milli"] if row["unit"] else ask["cpu_milli"]
    units: NDArray[np.int64] = ask["workers"] * each
    return units


def _job_values(row: np.void, ask: NDArray[np.void], done: NDArray[np.void]) -> dict[str, float]:
    """Metrics that follow from a window's jobs."""
    taken_ms = done["end_ms"] - ask["submit_ms"]
    makespan_ms = int(done["end_ms"].max() - ask["submit_ms"].min())
    slowdown = taken_ms / np.maximum(ask["duration_ms"], _BOUND_MS)
    # Replicas of services hold capacity to the end.
    span_ms = int(row["now_ms"] - ask["submit_ms"].min()) if row["num_services"] else makespan_ms
    capacity = int(row["nominal_units"])
    ratios = finish_time_ratios(
        ask["submit_ms"], done["end_ms"], ask["duration_ms"], _asked_units(row, ask), capacity
    )
    return {
        "bounded_slowdown": np.maximum(slowdown, 1.0).mean(),
        "wait": row["wait_ms"] / 1000.0 / len(ask),
        "completion_time": taken_ms.mean() / 1000.0,
        "makespan": makespan_ms / 1000.0,
        "utilisation": row["busy_unit_ms"] / max(capacity * span_ms, 1),
        "finish_time_fairness": ratios.mean(),
        "worst_finish_time": ratios.max(),
    }


def _row_values(row: np.void) -> dict[str, float]:
    """Metrics that a row counts by itself."""
    found = {
        "preemptions": float(row["preemptions"]),
        "interruptions": float(row["interruptions"]),
        "lost_hours": row["lost_unit_ms"] / 1000.0 / _HOUR_MS,
        "resizes": float(row["resizes"]),
        "migrations": float(row["migrations"]),
    }
    if row["num_services"] > 0:
        found["violations"] = row["request_violations"] / max(float(row["requests_offered"]), 1.0)
        found["replica_hours"] = row["replica_ms"] / _HOUR_MS
    if row["cost_milli_ms"] > 0:
        found["node_cost"] = row["cost_milli_ms"] / 1000.0 / _HOUR_MS
    return found


def _tenant_value(
    row: np.void, tenants: NDArray[np.void], ask: NDArray[np.void], done: NDArray[np.void]
) -> float:
    """Fairness towards tenants: by quotas, or by weights where nobody has a quota."""
    own = tenants[: int(row["num_tenants"])]
    weights = np.where(own["weight"] > 0.0, own["weight"], 1.0)
    by_weight = row["nominal_units"] * weights / weights.sum()
    quotas = own["quota_units"]
    return tenant_fairness(
        ask["submit_ms"],
        done["end_ms"],
        _asked_units(row, ask),
        done["attained_unit_ms"],
        ask["tenant"],
        quotas.astype(np.float64) if quotas.any() else by_weight,
    )


# --- Fairness ------------------------------------------------------------------------------------


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
