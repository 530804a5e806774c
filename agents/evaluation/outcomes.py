"""What became of the jobs of evaluated windows, and the metrics that follow from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from envs.session import Session
from orchestrator.errors import QuartermasterError

__all__ = ["JOB_OUTCOME", "METRICS", "EvaluationResult", "OutcomeTable"]

METRICS: Mapping[str, int] = {
    "bounded_slowdown": -1,
    "wait": -1,
    "completion_time": -1,
    "makespan": -1,
    "utilisation": 1,
    "preemptions": -1,
}
"""Metrics of a window, and whether more (1) or less (-1) is better.

bounded_slowdown
    Mean over jobs of max(1, (end - submit) / max(run time, 10 s)).
wait, completion_time
    Mean over jobs, s: time spent waiting (also between a preemption and the next start); time
    from submission to end.
makespan
    From the first submission to the last end, s.
utilisation
    Allocated share of the capacity over the makespan.
preemptions
    Number of them.
"""

_BOUND_MS = 10_000

JOB_OUTCOME = np.dtype(
    [
        ("sequence", "i4"),  # number of the window
        ("job_id", "i8"),  # the job's number in the trace it came from
        ("submit_ms", "i8"),
        ("start_ms", "i8"),  # first start
        ("last_start_ms", "i8"),
        ("end_ms", "i8"),
        ("units", "i8"),  # demand in milli-GPUs, or milli-cores where there are no GPUs
        ("preemptions", "i4"),
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
        Each of :data:`METRICS`, by window.
    jobs : JOB_OUTCOME [rows]
        Jobs of the windows that they were kept for, by window and submission.
    nodes : int32 [rows, W]
        Node of each worker in the job's last run; -1: no such worker.
    capacity_units : int
        Units of the whole cluster.
    resource : str
        What a thousand units are: ``GPUs`` or ``processors``.
    node_names : tuple of str
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
        self._values = {name: np.zeros(len(starts)) for name in METRICS}
        length, workers = session.config.episode_jobs, session.state.shape.workers
        kept = min(keep_jobs, len(starts))
        self._jobs = np.zeros((kept, length), JOB_OUTCOME)
        self._nodes = np.full((kept, length, workers), -1, np.int32)

    def collect(self, e: int, window: int, policy: str) -> None:
        """Take the outcome of row ``e``, in which a window has ended."""
        state = self._session.state
        row = state.rows[e]
        length = int(row["num_jobs"])
        if row["completed_jobs"] != length:
            raise QuartermasterError(
                f"policy '{policy}' left {length - row['completed_jobs']} of {length} jobs of "
                f"window {window} unfinished; such a window cannot be compared"
            )
        ask, outcome = state.request[e, :length], state.job[e, :length]
        taken_ms = outcome["end_ms"] - ask["submit_ms"]
        makespan_ms = int(outcome["end_ms"].max() - ask["submit_ms"].min())
        slowdown = taken_ms / np.maximum(ask["duration_ms"], _BOUND_MS)
        busy = row["busy_unit_ms"] / max(int(row["nominal_units"]) * makespan_ms, 1)
        for name, value in (
            ("bounded_slowdown", np.maximum(slowdown, 1.0).mean()),
            ("wait", row["wait_ms"] / 1000.0 / length),
            ("completion_time", taken_ms.mean() / 1000.0),
            ("makespan", makespan_ms / 1000.0),
            ("utilisation", busy),
            ("preemptions", row["preemptions"]),
        ):
            self._values[name][window] = value
        if window < len(self._jobs):
            self._keep(e, window, length)

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
        )

    def _keep(self, e: int, window: int, length: int) -> None:
        state = self._session.state
        ask, outcome = state.request[e, :length], state.job[e, :length]
        kept = self._jobs[window]
        kept["sequence"] = window
        kept["job_id"] = ask["source_id"]
        kept["submit_ms"] = ask["submit_ms"]
        kept["start_ms"] = outcome["first_start_ms"]
        kept["last_start_ms"] = outcome["start_ms"]
        kept["end_ms"] = outcome["end_ms"]
        kept["units"] = outcome["units"]
        kept["preemptions"] = outcome["preemptions"]
        width = self._nodes.shape[2]
        held = np.arange(width) < ask["workers"][:, np.newaxis]
        placed = state.worker[e, :length, :width]["node"]
        self._nodes[window] = np.where(held, placed, -1)
