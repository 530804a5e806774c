"""Futures played: a fork of the cluster, rolled on under a rule in each of them.

Nothing played here reaches the row that was forked.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.run import roll as kernels
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.run.roll import make_player
from orchestrator.kernels.state.codes import NEVER, NO_JOB, JobCode, JobKind
from orchestrator.kernels.state.records import INCIDENT_DTYPE, REQUEST_DTYPE
from orchestrator.kernels.state.row import ClusterState, allocate
from orchestrator.scheduling.forks import Fork, Until
from orchestrator.scheduling.rules import Rule
from orchestrator.twin.futures import LEAST_FUTURES, Futures
from orchestrator.twin.past import work_done_ms

__all__ = ["Played", "Reserved", "Stage", "play", "reserved"]


_LEAST_AHEAD_MS = 3_600_000
_PILOTS = 8  # futures by which it is guessed how far arrivals have to reach
_FOR_PILOTS = 0.1  # share of the time
_MOST_LATE = 0.05  # share of starts that may be later than that
_WAITING = (JobCode.PENDING, JobCode.PREEMPTED)
_NOBODY = np.zeros(0, REQUEST_DTYPE)
_NOTHING = np.zeros(0, INCIDENT_DTYPE)


@dataclass(frozen=True)
class Played:
    """What came of the jobs of a cluster, F futures, n jobs.

    Parameters
    ----------
    rows : int32 [n]
        Which jobs: rows of the cluster's table.
    start_ms, end_ms : int64 [F, n]
        When each starts next, if it waits, and ends; ``NEVER``: it does not, or was not played on.
    ahead_ms : int
        For how long others came.
    others : float64 [F, 2]
        Of those who came: how many, and the time that they waited for their first start in all, h.

    There may be fewer futures than were asked for: time was up.
    """

    rows: NDArray[np.int32]
    start_ms: NDArray[np.int64]
    end_ms: NDArray[np.int64]
    ahead_ms: int
    others: NDArray[np.float64]

    @property
    def futures(self) -> int:
        """How many futures were played."""
        return len(self.start_ms)

    def of(self, row: int) -> int:
        """Where a row of the table is among them."""
        return int(np.flatnonzero(self.rows == row)[0])


class _Patience:
    """Whether time is up: counted from the end of the first future, which may compile kernels."""

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._until: float | None = None

    def is_over(self, share: float = 1.0) -> bool:
        """Whether a share of the time is up; asked after each future."""
        if self._seconds is None:
            return False
        now = time.monotonic()
        if self._until is None:
            self._until = now + self._seconds
        return now > self._until - (1 - share) * self._seconds


class Stage:
    """A fork that is played again and again, in memory that is kept.

    Parameters
    ----------
    state : ClusterState
        One row; it is not changed.
    rule : Rule
        Who plays.
    arrivals : int
        How many may come.
    """

    def __init__(self, state: ClusterState, rule: Rule, arrivals: int) -> None:
        fork = Fork(state)
        self.kept, self._place = fork.kept, fork.place
        self._base = fork.state
        room = replace(fork.state.shape, jobs=len(fork.kept) + arrivals + 1)
        self._work = allocate(room)
        self._player = make_player(rule.to_record(), room.jobs, room.workers)
        self._noted = dict[int, int]()
        self._done = work_done_ms(self._base)[: len(self.kept)]
        self.waits = np.isin(self._base.job[0, : len(self.kept)]["state"], _WAITING)

    def begin(self, whole: NDArray[np.int64], arrivals: NDArray[np.void]) -> None:
        """Begin a future: how long jobs work in all, int64 [kept] ms (-1: as it is); who comes."""
        entry.copy_row(self._base.rows, 0, self._work.rows, 0)
        self._noted = {}
        left = np.where(whole < 0, -1, np.maximum(whole - self._done, 1))
        kernels.assume_remaining(self._work.rows, 0, left)
        if len(arrivals):
            kernels.expect(self._work.rows, 0, arrivals, _NOTHING)

    def estimates_ms(self) -> NDArray[np.int64]:
        """How long users say that jobs work, int64 [kept]; -1: services."""
        asks = self._base.request[0, : len(self.kept)]
        found: NDArray[np.int64] = np.where(
            asks["kind"] == JobKind.SERVICE, -1, asks["requested_ms"]
        ).astype(np.int64)
        return found

    def find(self, row: int) -> int:
        """Where a job of the cluster's table is."""
        return int(self._place[row])

    def roll(self, until: Until, job: int = NO_JOB) -> None:
        """Play on, until that has happened to a job."""
        kernels.roll_on(self._work.rows, 0, self._player, int(until), job)
        if until == Until.STARTED and self.has_started(job):  # it may start again later
            self._noted[job] = int(self._work.job[0, job]["start_ms"])

    def has_started(self, job: int) -> bool:
        """Whether a job that waited has started since the fork was made."""
        return bool(self._work.job[0, job]["runs"] > self._base.job[0, job]["runs"])

    def starts_ms(self) -> NDArray[np.int64]:
        """When jobs that waited have started, int64 [kept]; NEVER: they have not."""
        count = len(self.kept)
        runs, before = self._work.job[0, :count], self._base.job[0, :count]["runs"]
        begun = np.where(before == 0, runs["first_start_ms"], runs["start_ms"])
        found: NDArray[np.int64] = np.where(runs["runs"] > before, begun, NEVER).astype(np.int64)
        for job, time_ms in self._noted.items():
            found[job] = time_ms
        return found

    def ends_ms(self) -> NDArray[np.int64]:
        """When jobs have ended, int64 [kept]; NEVER: they have not."""
        runs = self._work.job[0, : len(self.kept)]
        over = np.isin(runs["state"], (JobCode.COMPLETED, JobCode.FAILED))
        found: NDArray[np.int64] = np.where(over, runs["end_ms"], NEVER).astype(np.int64)
        return found

    def others(self, before_ms: int) -> tuple[int, float]:
        """How many have come before a time, and how long they waited in all, h."""
        row: Any = self._work.rows[0]
        first, last = len(self.kept), int(row["num_jobs"])
        begun = self._work.job[0, first:last]["first_start_ms"]
        asked = self._work.request[0, first:last]["submit_ms"]
        until = np.where(begun >= 0, begun, int(row["now_ms"]))
        waited = np.maximum(until - asked, 0)[asked < before_ms]
        return len(waited), float(waited.sum() / 3_600_000)


@dataclass(frozen=True)
class Reserved:
    """What comes if all work for their estimates, and nobody comes; n jobs.

    Parameters
    ----------
    rows : int32 [n]
        Which jobs: rows of the cluster's table.
    start_ms, end_ms : int64 [n]
        When each starts, if it waits, and ends; ``NEVER``: it does not.
    """

    rows: NDArray[np.int32]
    start_ms: NDArray[np.int64]
    end_ms: NDArray[np.int64]

    def starts(self) -> dict[int, int]:
        """When each starts, by row."""
        return dict(zip(self.rows.tolist(), self.start_ms.tolist(), strict=True))


def reserved(state: ClusterState, rule: Rule) -> Reserved:
    """When jobs would start and end if all worked for their estimates, and nobody came.

    It is what Slurm tells (``squeue --start``: the backfill scheduler's plan by time limits).
    """
    stage = Stage(state, rule, 0)
    stage.begin(stage.estimates_ms(), _NOBODY)
    stage.roll(Until.DRAINED)
    starts = np.where(stage.waits, stage.starts_ms(), NEVER)
    return Reserved(stage.kept, starts, stage.ends_ms())


_Until = Callable[[Stage], None]


def _drained(stage: Stage) -> None:
    stage.roll(Until.DRAINED)


def _all_started(stage: Stage) -> None:
    """Until all who waited have started: the one that came last is asked about first."""
    for job in np.flatnonzero(stage.waits)[::-1].tolist():
        if not stage.has_started(job):
            stage.roll(Until.STARTED, job)


def _to_the_end_of(row: int) -> _Until:
    """Until a certain job has ended."""

    def far(stage: Stage) -> None:
        job = stage.find(row)
        if stage.waits[job]:
            stage.roll(Until.STARTED, job)
        stage.roll(Until.ENDED, job)

    return far


def play(
    state: ClusterState,
    rule: Rule,
    futures: Futures,
    *,
    row: int | None = None,
    drained: bool = False,
    like: Played | None = None,
) -> Played:
    """Play a cluster's futures until all who wait have started.

    Parameters
    ----------
    state : ClusterState
        One row; it is not changed.
    rule : Rule
        Who plays.
    futures : Futures
    row : int or None, optional
        Only until the job in a row of the table has ended; what is told of others is what has
        happened by then.
    drained : bool, optional
        Until nothing is left to happen: then it is known when everybody ends.
    like : Played or None, optional
        What this is compared with: as many futures are played, and others come for as long; None:
        as many as there is time for, and for as long as they may matter.
    """
    far: _Until = _drained if drained else _all_started
    if row is not None:
        far = _to_the_end_of(row)
    if like is not None:
        return _play(state, rule, futures, like.ahead_ms, far, like.futures)
    patience, count = _Patience(futures.config.seconds), futures.config.futures
    if futures.ahead_ms is not None:
        return _play(state, rule, futures, futures.ahead_ms, far, count, patience)
    ahead_ms = _guess_ahead(state, rule, futures, row, patience)
    most = futures.config.horizon_ms
    while True:
        played = _play(state, rule, futures, ahead_ms, far, count, patience)
        starts = played.start_ms[:, _asked(state, played.rows, row)]
        late = (starts > futures.past.now_ms + ahead_ms) & (starts < NEVER)
        enough = ahead_ms >= most or not late.size or late.mean() <= _MOST_LATE
        if enough or patience.is_over():
            return played
        ahead_ms = min(2 * ahead_ms, most)


def _asked(state: ClusterState, rows: NDArray[np.int32], row: int | None) -> NDArray[np.bool_]:
    """Whose starts are asked for."""
    waits = np.isin(state.job[0, rows]["state"], _WAITING)
    return np.asarray(waits if row is None else waits & (rows == row))


def _guess_ahead(
    state: ClusterState, rule: Rule, futures: Futures, row: int | None, patience: _Patience
) -> int:
    """For how long others may matter: twice as long as most wait if nobody comes."""
    stage = Stage(state, rule, 0)
    whole = futures.whole(stage.kept)
    worst, asked = 0, _asked(state, stage.kept, row)
    for f in range(min(_PILOTS, len(whole))):
        stage.begin(whole[f], _NOBODY)
        if row is None:
            _all_started(stage)
        elif asked.any():
            stage.roll(Until.STARTED, stage.find(row))
        starts = stage.starts_ms()[asked]
        starts = starts[starts < NEVER]
        worst = max(worst, int(starts.max(initial=0)) - futures.past.now_ms)
        if patience.is_over(_FOR_PILOTS):
            break
    return min(max(2 * worst, _LEAST_AHEAD_MS), futures.config.horizon_ms)


def _play(
    state: ClusterState,
    rule: Rule,
    futures: Futures,
    ahead_ms: int,
    far: _Until,
    count: int,
    patience: _Patience | None = None,
) -> Played:
    coming = [futures.arrivals(f, ahead_ms) for f in range(count)]
    stage = Stage(state, rule, max((len(one) for one in coming), default=0))
    whole = futures.whole(stage.kept)
    starts = np.full((count, len(stage.kept)), NEVER, np.int64)
    ends, others, done = starts.copy(), np.zeros((count, 2)), 0
    until_ms = futures.past.now_ms + ahead_ms
    while done < count:
        stage.begin(whole[done], coming[done])
        far(stage)
        starts[done] = np.where(stage.waits, stage.starts_ms(), NEVER)
        ends[done], others[done] = stage.ends_ms(), stage.others(until_ms)
        done += 1
        if patience is not None and patience.is_over() and done >= LEAST_FUTURES:
            break
    return Played(stage.kept, starts[:done], ends[:done], ahead_ms, others[:done])
