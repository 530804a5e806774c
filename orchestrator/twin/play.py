"""Futures played: a fork of the cluster, rolled on under whoever is in charge in each of them.

Several are played at once, by threads: kernels need no interpreter. Which ones are played, and what
comes of each, does not depend on how many threads there are.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.state.codes import NEVER
from orchestrator.kernels.state.row import ClusterState
from orchestrator.scheduling.forks import Until
from orchestrator.twin.futures import LEAST_FUTURES, Futures
from orchestrator.twin.scene.cast import Cast
from orchestrator.twin.scene.stage import NOBODY, WAITING, Stage
from orchestrator.twin.scene.track import RECORDS

__all__ = ["Played", "are_precise", "play"]


_LEAST_AHEAD_MS = 3_600_000
_PILOTS = 8  # futures by which it is guessed how far arrivals have to reach
_FOR_PILOTS = 0.1  # share of the time
_MOST_LATE = 0.05  # share of starts that may be later than that
_MOST_HANDS = 4  # threads: who asks is not the only one on the machine
_LEAST_SURE, _MORE = 50, 25  # futures before it is asked whether they are enough, and again
_ASKED_LEVELS = np.array([0.1, 0.5, 0.9])
_PRECISE_MS = 60_000  # nobody minds an error of less


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
    tracks : tuple of TRACK_DTYPE [changes], F of them
        How the queue and the use went on, for the cluster with all who came; empty, if futures were
        not played until nothing was left to happen, or more happened than was kept.

    There may be fewer futures than were asked for: time was up.
    """

    rows: NDArray[np.int32]
    start_ms: NDArray[np.int64]
    end_ms: NDArray[np.int64]
    ahead_ms: int
    others: NDArray[np.float64]
    tracks: tuple[NDArray[np.void], ...] = ()

    @property
    def futures(self) -> int:
        """How many futures were played."""
        return len(self.start_ms)

    def of(self, row: int) -> int:
        """Where a row of the table is among them."""
        return int(np.flatnonzero(self.rows == row)[0])


class _Patience:
    """Whether time is up: counted from the first time that it is asked.

    That is after the first future, which may compile kernels.
    """

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._until: float | None = None

    def is_over(self, share: float = 1.0) -> bool:
        """Whether a share of the time is up; asked before each future but the first."""
        if self._seconds is None:
            return False
        now = time.monotonic()
        if self._until is None:
            self._until = now + self._seconds
        return now > self._until - (1 - share) * self._seconds


# --- several at once ------------------------------------------------------------------------------


def _hands() -> int:
    """How many threads play."""
    return min(os.cpu_count() or 1, _MOST_HANDS)


class _Numbers:
    """Numbers that several threads take, in their order, until it is over."""

    def __init__(self, numbers: range, is_over: Callable[[int], bool]) -> None:
        self._lock = threading.Lock()
        self._is_over = is_over
        self.next, self._stop = numbers.start, numbers.stop

    def take(self) -> int | None:
        """The next one; None: no more are taken."""
        with self._lock:
            if self.next >= self._stop:
                return None
            if self._is_over(self.next):
                self._stop = self.next
                return None
            self.next += 1
            return self.next - 1


def _spread(
    stages: Sequence[Stage],
    numbers: range,
    one: Callable[[Stage, int], None],
    is_over: Callable[[int], bool],
) -> int:
    """Do something with each number, in their order, several at once; the number after the last.

    ``is_over`` tells, of each number before it is taken, whether no more are.
    """
    left = _Numbers(numbers, is_over)

    def work(stage: Stage) -> None:
        while (number := left.take()) is not None:
            one(stage, number)

    if len(stages) == 1 or len(numbers) < 2:
        work(stages[0])
        return left.next
    with ThreadPoolExecutor(len(stages)) as pool:
        for done in [pool.submit(work, stage) for stage in stages]:
            done.result()
    return left.next


# --- how far -------------------------------------------------------------------------------------


_Ends = dict[int, int]
_Until = Callable[[Stage], _Ends]  # plays on; when jobs end that are not played on to their ends


def _drained(stage: Stage) -> _Ends:
    stage.roll(Until.DRAINED)
    return {}


def _all_started(stage: Stage) -> _Ends:
    """Until all who waited have started: the one that came last is asked about first."""
    for job in np.flatnonzero(stage.waits)[::-1].tolist():
        if not stage.has_started(job):
            stage.roll(Until.STARTED, job)
    return {}


def _to_the_end_of(row: int) -> _Until:
    """Until it is known when a certain job ends."""

    def far(stage: Stage) -> _Ends:
        job = stage.find(row)
        return {job: stage.roll_to_end_of(job)}

    return far


def play(
    state: ClusterState,
    cast: Cast,
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
    cast : Cast
        Who plays.
    futures : Futures
    row : int or None, optional
        Only until it is known when the job in a row of the table ends; what is told of others is
        what has happened by then.
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
        return _Run(state, cast, futures, like.ahead_ms, far).play(like.futures)
    patience, count = _Patience(futures.config.seconds), futures.config.futures
    if futures.ahead_ms is not None:
        return _Run(state, cast, futures, futures.ahead_ms, far).play(count, patience, row)
    ahead_ms = _guess_ahead(state, cast, futures, row, patience)
    most = futures.config.horizon_ms
    while True:
        run = _Run(state, cast, futures, ahead_ms, far)
        played = run.play(count, patience, row)
        starts = played.start_ms[:, _asked(state, played.rows, row)]
        late = (starts > futures.past.now_ms + ahead_ms) & (starts < NEVER)
        enough = ahead_ms >= most or not late.size or late.mean() <= _MOST_LATE
        if enough or patience.is_over():
            return played
        ahead_ms = min(2 * ahead_ms, most)


def _asked(state: ClusterState, rows: NDArray[np.int32], row: int | None) -> NDArray[np.bool_]:
    """Whose starts are asked for."""
    waits = np.isin(state.job[0, rows]["state"], WAITING)
    return np.asarray(waits if row is None else waits & (rows == row))


def _guess_ahead(
    state: ClusterState, cast: Cast, futures: Futures, row: int | None, patience: _Patience
) -> int:
    """For how long others may matter: twice as long as most wait if nobody comes."""
    if not futures.anybody_comes:
        return futures.config.horizon_ms
    stage = Stage(state, cast)
    whole, asked = futures.whole(stage.kept), _asked(state, stage.kept, row)
    if not asked.any():
        return min(_LEAST_AHEAD_MS, futures.config.horizon_ms)
    worst = [0] * min(_PILOTS, len(whole))

    def one(stage: Stage, f: int) -> None:
        stage.begin(whole[f], NOBODY)
        if row is None:
            _all_started(stage)
        else:
            stage.roll(Until.STARTED, stage.find(row))
        starts = stage.starts_ms()[asked]
        worst[f] = int(starts[starts < NEVER].max(initial=0)) - futures.past.now_ms

    one(stage, 0)
    stages = [stage, *(stage.beside() for _ in range(_hands() - 1))]
    _spread(stages, range(1, len(worst)), one, lambda _: patience.is_over(_FOR_PILOTS))
    return min(max(2 * max(worst), _LEAST_AHEAD_MS), futures.config.horizon_ms)


class _Run:
    """Futures of a cluster that are played one after the other, with others for so long."""

    def __init__(
        self, state: ClusterState, cast: Cast, futures: Futures, ahead_ms: int, far: _Until
    ) -> None:
        self._state, self._cast, self._futures, self._far = state, cast, futures, far
        self._ahead_ms = ahead_ms

    def play(self, count: int, patience: _Patience | None = None, row: int | None = None) -> Played:
        """Play so many at most, as long as there is patience and they are not precise enough."""
        futures = self._futures
        coming = [futures.arrivals(f, self._ahead_ms) for f in range(count)]
        failing = [futures.incidents(f) for f in range(count)]
        records = RECORDS if self._far is _drained else 0
        stage = Stage(
            self._state,
            self._cast,
            arrivals=max(map(len, coming), default=0),
            incidents=max(map(len, failing), default=0),
            records=records,
        )
        whole = futures.whole(stage.kept)
        starts = np.full((count, len(stage.kept)), NEVER, np.int64)
        ends, others = starts.copy(), np.zeros((count, 2))
        tracks: list[NDArray[np.void] | None] = [None] * count
        until_ms = futures.past.now_ms + self._ahead_ms

        def one(stage: Stage, f: int) -> None:
            stage.begin(whole[f], coming[f], failing[f])
            known = self._far(stage)
            starts[f] = np.where(stage.waits, stage.starts_ms(), NEVER)
            ends[f], others[f] = stage.ends_ms(), stage.others(until_ms)
            for job, end_ms in known.items():
                ends[f, job] = end_ms
            if records:
                tracks[f] = stage.track()

        def is_over(f: int) -> bool:
            return patience is not None and f >= LEAST_FUTURES and patience.is_over()

        one(stage, 0)
        if patience is not None:
            patience.is_over()  # it begins now
        stages = [stage, *(stage.beside() for _ in range(min(_hands(), count) - 1))]
        asked, done, error = _asked(self._state, stage.kept, row), 1, futures.config.error
        until = count if patience is None or error <= 0 else min(count, _LEAST_SURE)
        while True:
            done = _spread(stages, range(done, until), one, is_over)
            if done < until or until == count:
                break
            times = starts[:done, asked] if asked.any() else ends[:done, stage.kept == row]
            if are_precise(times, futures.past.now_ms, error):
                break
            until = min(count, until + _MORE)
        told = tuple(track for track in tracks[:done] if track is not None)
        return Played(
            rows=stage.kept,
            start_ms=starts[:done],
            end_ms=ends[:done],
            ahead_ms=self._ahead_ms,
            others=others[:done],
            tracks=told if len(told) == done else (),
        )


def are_precise(times_ms: NDArray[np.int64], now_ms: int, error: float) -> bool:
    """Whether quantiles of moments in F futures are known well enough, int64 [F, n].

    The standard error of each of the 10, 50 and 90 % quantiles, taken from the order of the futures
    (David and Nagaraja, "Order Statistics", 2003, 7.1), is that share of the time until the median
    at most, or a minute; of 95 % of the jobs at least.
    """
    count = len(times_ms)
    ranked = np.sort(times_ms, axis=0)
    spread = np.sqrt(count * _ASKED_LEVELS * (1 - _ASKED_LEVELS))
    low, high = (
        np.clip(np.rint(count * _ASKED_LEVELS + side * spread - 0.5).astype(int), 0, count - 1)
        for side in (-1, 1)
    )
    open_end = (ranked[high] >= NEVER) & (ranked[low] < NEVER)  # of what never happens it is 0
    errors = np.where(open_end, np.inf, (ranked[high] - ranked[low]) / 2)
    allowed = np.maximum(error * (ranked[count // 2] - now_ms), _PRECISE_MS)
    return bool((errors <= allowed).all(axis=0).mean() >= 1 - _MOST_LATE)
