"""How the queue and the use of a cluster went on in a future, from the log of what happened."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.state.codes import JobCode, LogKind
from orchestrator.kernels.state.row import ClusterState

__all__ = ["RECORDS", "TRACK_DTYPE", "WAITING", "track_of"]


TRACK_DTYPE = np.dtype([("time_ms", "i8"), ("waiting", "f8"), ("units", "f8")])
"""From a moment on: how many jobs wait, and how many milli-GPUs, or milli-cores, are held."""


RECORDS = 64
"""Changes of each job that are kept while a future is played to its end."""


WAITING = (JobCode.PENDING, JobCode.PREEMPTED)
"""States of jobs that wait."""


_HOLDING = (JobCode.SCHEDULED, JobCode.RUNNING, JobCode.CHECKPOINTING, JobCode.SCALING)


def track_of(played: ClusterState, base: ClusterState, logged: int) -> NDArray[np.void] | None:
    """What happened in a row since it was copied, TRACK_DTYPE; None: more than was kept.

    Parameters
    ----------
    played, base : ClusterState
        One row each: as it is now, with a log, and as it was.
    logged : int
        Records that the log had then.
    """
    row: Any = played.rows[0]
    new, ring = int(row["log_count"]) - logged, played.shape.log
    if new > ring:
        return None
    begun_ms, first = int(base.rows[0]["now_ms"]), int(base.rows[0]["num_jobs"])
    told = played.log[0, np.arange(logged, logged + new) % ring]
    told = told[told["kind"] == LogKind.JOB_STATE]
    job = np.concatenate([np.arange(first), told["subject"]])
    time_ms = np.concatenate([np.full(first, begun_ms), told["time_ms"]])
    state = np.concatenate([base.job[0, :first]["state"], told["value"]])
    held = _held(played, int(row["num_jobs"]))
    held[:first] -= _held(base, first)
    return _track(job, time_ms, state, held, int(row["now_ms"]))


def _held(state: ClusterState, count: int) -> NDArray[np.float64]:
    """What jobs have held so far, units x ms."""
    jobs, now_ms = state.job[0, :count], state.rows[0]["now_ms"]
    since = np.where(np.isin(jobs["state"], _HOLDING), now_ms - jobs["resized_ms"], 0)
    return np.asarray(jobs["attained_unit_ms"] + since * jobs["units"], np.float64)


def _track(
    job: NDArray[np.int64],
    time_ms: NDArray[np.int64],
    state: NDArray[np.int64],
    held: NDArray[np.float64],
    last_ms: int,
) -> NDArray[np.void]:
    """How all goes on by what state each job is in from when on, in order of time for each.

    Whoever is resized holds as much as it does on average: what it held in all is known.
    """
    order = np.argsort(job, kind="stable")
    job, time_ms, state = job[order], time_ms[order], state[order]
    other = job[1:] != job[:-1]
    until = np.append(np.where(other, last_ms, time_ms[1:]), last_ms)[: len(job)]
    holds = np.isin(state, _HOLDING)
    length = np.bincount(job, np.where(holds, until - time_ms, 0), len(held))
    units = held / np.maximum(length, 1)
    so_far = np.stack([np.isin(state, WAITING), holds * units[job]])
    change = so_far.astype(np.float64)
    change[:, 1:] -= np.where(other, 0, so_far[:, :-1])
    by_time = np.argsort(time_ms, kind="stable")
    found = np.empty(len(job), TRACK_DTYPE)
    found["time_ms"] = time_ms[by_time]
    found["waiting"], found["units"] = np.cumsum(change[:, by_time], axis=1)
    return found
