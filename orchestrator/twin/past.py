"""What a cluster has seen: its jobs, how long they worked, and since when nobody is missing.

Futures are drawn from it, and from nothing else: run times that a row holds and nobody can know are
not read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.state.codes import JobCode, JobKind
from orchestrator.kernels.state.row import ClusterState

__all__ = ["Past", "past_of", "work_done_ms"]


_ENDED = (JobCode.COMPLETED, JobCode.FAILED)


@dataclass(frozen=True)
class Past:
    """Jobs that have come, by submit time; n of them. Services are left out.

    Parameters
    ----------
    rows : int64 [n]
        Where they are in the cluster's table of jobs.
    asks : REQUEST_DTYPE [n]
        What they ask for; ``duration_ms`` is not to be read.
    work_ms : int64 [n]
        What they have worked by now, ms at nominal speed; of those that have ended: in all.
    ended : bool [n]
        Whether that is all of it.
    since_ms : int
        Everybody who was submitted from then on is here.
    now_ms : int
        When it was looked at.
    """

    rows: NDArray[np.int64]
    asks: NDArray[np.void]
    work_ms: NDArray[np.int64]
    ended: NDArray[np.bool_]
    since_ms: int
    now_ms: int

    def __len__(self) -> int:
        """How many jobs."""
        return len(self.rows)

    @property
    def span_ms(self) -> int:
        """For how long everybody has been noted."""
        return max(self.now_ms - self.since_ms, 0)


def work_done_ms(state: ClusterState, e: int = 0) -> NDArray[np.int64]:
    """What each job of a row has worked by now, ms at nominal speed, int64 [jobs].

    Of those that have ended it is the capacity that they held over time, less what was lost: a live
    row does not know how much there was to do.
    """
    row, runs = state.rows[e], state.job[e]
    now_ms, asks = int(row["now_ms"]), state.request[e]
    done = runs["progress_ms"] + runs["unsaved_ms"]
    working = runs["state"] == JobCode.RUNNING
    lately = np.maximum(now_ms - runs["work_start_ms"], 0) * runs["speed_milli"] // 1000
    done = done + np.where(working, lately, 0)
    over = np.isin(runs["state"], _ENDED)
    held = runs["attained_unit_ms"] // np.maximum(runs["units"], 1) - runs["lost_ms"]
    last = np.where(runs["start_ms"] >= 0, runs["end_ms"] - runs["start_ms"], 0)
    whole = np.where((runs["units"] > 0) & (asks["elastic"] == 0), held, last)
    found: NDArray[np.int64] = np.where(over, np.maximum(whole, 1), done).astype(np.int64)
    return found


def past_of(state: ClusterState, e: int = 0) -> Past:
    """What the table of a row's jobs tells of the past.

    Parameters
    ----------
    state : ClusterState
    e : int, optional
        Row.

    Returns
    -------
    Past
        Jobs that were given up before they had started are left out.
    """
    row = state.rows[e]
    arrived, now_ms = int(row["next_arrival"]), int(row["now_ms"])
    asks, runs = state.request[e, :arrived], state.job[e, :arrived]
    ended = np.isin(runs["state"], _ENDED)
    idle = ended & (runs["first_start_ms"] < 0)
    came = (runs["state"] != JobCode.ABSENT) & (asks["kind"] != JobKind.SERVICE) & ~idle
    rows = np.flatnonzero(came)
    rows = rows[np.argsort(asks["submit_ms"][rows], kind="stable")].astype(np.int64)
    forgotten = int(row["forgotten_completed_jobs"]) + int(row["forgotten_failed_jobs"])
    since_ms = int(row["begin_ms"])
    if forgotten:  # those that ended first: who came after the first end that is known is here
        since_ms = int(runs["end_ms"][ended].min(initial=now_ms))
    return Past(
        rows=rows,
        asks=asks[rows].copy(),
        work_ms=work_done_ms(state, e)[rows],
        ended=ended[rows],
        since_ms=since_ms,
        now_ms=now_ms,
    )
