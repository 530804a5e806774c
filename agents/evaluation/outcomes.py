"""What became of evaluated windows and their jobs, collected as they end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from agents.evaluation.runs import RunCollector, WindowRuns
from envs.outcomes import METRICS
from envs.session import Session
from orchestrator.kernels.state.codes import JobCode, JobKind
from orchestrator.scheduling.runs import Runs

__all__ = [
    "JOB_OUTCOME",
    "EvaluationResult",
    "OutcomeTable",
]


_Ints = NDArray[np.int64]

_COUNTED = ("preemptions", "interruptions", "resizes", "migrations")


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
        values = self._session.episode_metrics(e)
        for name in values.keys() & METRICS.keys():
            column = self._values.setdefault(name, np.zeros(len(self._starts)))
            column[window] = values[name]
        if self._runs is not None:
            self._keep(e, window, ask, done, np.flatnonzero(present))

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
