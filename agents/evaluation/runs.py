"""Every run of the jobs of evaluated windows: collected while they are played, within bounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from envs.session import Session
from orchestrator.kernels.state.records import EFFECT_DTYPE, WORKER_DTYPE
from orchestrator.scheduling.runs import RunReader, Runs

__all__ = ["RUN_OUTCOME", "RunCollector", "WindowRuns", "joined_runs"]


RUN_OUTCOME = np.dtype(
    [
        ("sequence", "i4"),  # number of the window
        ("job_id", "i8"),  # the job's number in the trace it came from
        ("job", "i4"),  # which of the window's jobs that is
        ("run", "i4"),  # from 1 on; a stretch with other workers has the same number
        ("start_ms", "i8"),
        ("end_ms", "i8"),
        ("units", "i8"),  # what it held, milli-GPUs or milli-cores
        ("workers", "i4"),
        ("end", "u1"),  # RunEnd
    ]
)
"""A stretch of a job's run with the same workers in the same places."""


_MOST_RUNS = 1_000_000  # of a policy; windows with more are left out from the last one on
_USUAL_BYTES, _MOST_BYTES = 256 << 20, 1 << 30  # of the rings of all rows; memory as it is used
_PER_JOB, _LEAST = 32, 256


def _no_runs() -> NDArray[np.void]:
    return np.zeros(0, RUN_OUTCOME)


def _no_nodes() -> NDArray[np.int32]:
    return np.zeros(0, np.int32)


@dataclass(frozen=True)
class WindowRuns:
    """The runs of the jobs of those windows whose jobs are kept.

    Parameters
    ----------
    runs : RUN_OUTCOME [R]
        By window, job and time.
    nodes : int32 [N]
        The node of each worker, run after run: as many of each as it has workers.
    known : bool [kept windows]
        Whether a window's runs are here: not if more happened in it than there was room for.
    """

    runs: NDArray[np.void] = field(default_factory=_no_runs)
    nodes: NDArray[np.int32] = field(default_factory=_no_nodes)
    known: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))

    def of_sequence(self, sequence: int) -> NDArray[np.void] | None:
        """The runs of one window; None if they are not known."""
        if sequence >= len(self.known) or not self.known[sequence]:
            return None
        return self.runs[self.runs["sequence"] == sequence]

    def places(self) -> list[NDArray[np.int32]]:
        """The nodes of each run's workers."""
        return np.split(self.nodes, np.cumsum(self.runs["workers"])[:-1]) if len(self.runs) else []


class RunCollector:
    """Collects the runs of windows as they end.

    Parameters
    ----------
    session : Session
        About to begin; it is made to keep what happens to its jobs.
    kept : int
        Windows whose jobs are kept, the first ones.
    """

    def __init__(self, session: Session, kept: int) -> None:
        self._session = session
        self._kept = kept
        self._found = _Found()
        self._reader = RunReader(session.envs)
        self._each = EFFECT_DTYPE.itemsize + session.state.shape.workers * WORKER_DTYPE.itemsize
        room = _USUAL_BYTES // (self._each * session.envs)
        session.keep_effects(max(min(_PER_JOB * session.state.shape.jobs, room), _LEAST))

    def keep_up(self) -> None:
        """Read what has happened before it is overwritten: after every step of the rows."""
        self._reader.keep_up(self._session.state)

    def make_room(self, e: int, window: int) -> bool:
        """Whether row ``e`` had too little room for its window, and has enough now: play it again.

        All rows have to begin anew.
        """
        state = self._session.state
        needed = int(state.rows[e]["effect_count"])
        fits = needed * self._each * self._session.envs <= _MOST_BYTES
        if window >= self._kept or needed <= state.shape.effects or not fits:
            return False
        self._session.keep_effects(needed)
        return True

    def collect(self, e: int, window: int, jobs: NDArray[np.int64]) -> Runs | None:
        """Take the runs of row ``e``, whose window has ended; None if they are not known.

        ``jobs`` are those of the row's jobs that are the window's.
        """
        if window >= self._kept:
            self._reader.forget(e)
            return None
        found = self._reader.finish(self._session.state, e)
        if found is None:
            return None
        named = np.zeros(len(found.runs), RUN_OUTCOME)
        for name in ("run", "start_ms", "end_ms", "units", "workers", "end"):
            named[name] = found.runs[name]
        named["sequence"] = window
        named["job"] = np.searchsorted(jobs, found.runs["job"])
        named["job_id"] = self._session.state.request[e, found.runs["job"]]["source_id"]
        self._found.add(window, named, found.nodes)
        return found

    def result(self) -> WindowRuns:
        """All that is known."""
        return self._found.table(self._kept)


def joined_runs(parts: Sequence[WindowRuns]) -> WindowRuns:
    """Runs of windows that were played one by one, ``parts[w]`` of window ``w`` alone."""
    found = _Found()
    for window, part in enumerate(parts):
        if part.known.any():
            runs = part.runs.copy()
            runs["sequence"] = window
            found.add(window, runs, part.nodes)
    return found.table(sum(len(part.known) for part in parts))


class _Found:
    """Windows' runs: of the first ones that have room together, in whichever order they come."""

    def __init__(self) -> None:
        self._parts: dict[int, tuple[NDArray[np.void], NDArray[np.int32]]] = {}
        self._total = 0
        self._stop: float = np.inf  # from this window on there is no room

    def add(self, window: int, runs: NDArray[np.void], nodes: NDArray[np.int32]) -> None:
        if window >= self._stop:
            return
        self._parts[window] = runs, nodes
        self._total += len(runs)
        while self._total > _MOST_RUNS:
            self._stop = max(self._parts)
            self._total -= len(self._parts.pop(self._stop)[0])

    def table(self, kept: int) -> WindowRuns:
        parts = [self._parts[window] for window in sorted(self._parts)]
        return WindowRuns(
            runs=np.concatenate([_no_runs(), *(runs for runs, _ in parts)]),
            nodes=np.concatenate([_no_nodes(), *(nodes for _, nodes in parts)]),
            known=np.isin(np.arange(kept), list(self._parts)),
        )
