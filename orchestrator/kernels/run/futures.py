"""What may come: futures of a fork, drawn from the past.

Nobody knows who will come, and how long those who are there will work. A future lets a block of
jobs come that came one after the other in the past, at the same hour of another day; load follows
the clock, and a block of another hour promises an idle night at noon. Run times are drawn around
their estimates as they were in the past, of a job that runs among those that lasted longer than
it has. Demand of services is that of an earlier day, too. Nodes that are down come back when such
repairs are over; further failures are not foreseen.

There are two pasts: a record that is given, and what has come in the row itself up to now. Blocks
are drawn from the aligned ones of both alike; where there is none, from any moment of the longer of
the two. Draws follow from the row's seed, the number of the decision point and the number of the
future, and from nothing else: all actions that are tried at a point meet the same futures.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.change.episode import (
    add_arrival,
    expect_recovery,
    load_series,
    settle_accounts,
)
from orchestrator.kernels.change.jobs import assume_duration, work_of
from orchestrator.kernels.lang.jit import kernel, small_kernel
from orchestrator.kernels.lang.numbers import mix, random_below, random_unit
from orchestrator.kernels.state.access import incident, job, node, request
from orchestrator.kernels.state.codes import EventKind, JobCode, JobKind, NodeCode, Stream

__all__ = ["DAY_MS", "Past", "draw_future", "make_past"]


DAY_MS = 24 * 3_600_000


class Past(NamedTuple):
    """What futures are drawn from; R recorded jobs."""

    record: NDArray[np.void]  # [R] REQUEST_DTYPE by submit time: jobs that have ended
    ratios: NDArray[np.float64]  # [n >= 1] run times by estimates, ascending
    repairs_ms: NDArray[np.float64]  # [m] how long repairs take, ascending; none: for ever
    before: int  # 1: the record is on the row's own clock, and counts up to now
    own: int  # 1: the row's jobs are sorted by submit time, and are a past too
    cycle_ms: int  # blocks begin at the same time of such a cycle; 0: at any time
    arrivals: int  # jobs of a block
    ticks: int  # of services, in a future
    seed: int


def make_past(
    record: NDArray[np.void],
    ratios: NDArray[np.float64] | None = None,
    *,
    before: bool = True,
    own: bool = True,
    cycle_ms: int = DAY_MS,
    arrivals: int = 48,
    ticks: int = 60,
) -> Past:
    """Put a past together, whose draws are those of seed 0; nodes that are down stay so in it.

    Parameters
    ----------
    record : REQUEST_DTYPE [R]
        Jobs of a recorded past, by submit time; may be none.
    ratios : float64 [n], optional
        Run times by what is believed of them, of a sample of jobs; None: estimates are taken as
        they are.
    before : bool, optional
        The record is on the row's own clock: what comes later than now is not looked at.
    own : bool, optional
        The row's table of jobs is in the order of their submission, as those of episodes are.
    cycle_ms : int, optional
        Blocks begin at the same time of such a cycle; 0: at any time.
    arrivals, ticks : int, optional
        Jobs that come in a future; ticks of services that it lasts.

    Returns
    -------
    Past
    """
    known = np.ones(1) if ratios is None or len(ratios) == 0 else np.sort(ratios)
    return Past(
        record=record,
        ratios=np.ascontiguousarray(known, np.float64),
        repairs_ms=np.zeros(0),
        before=int(before),
        own=int(own),
        cycle_ms=int(cycle_ms),
        arrivals=int(arrivals),
        ticks=int(ticks),
        seed=0,
    )


# --- lots ----------------------------------------------------------------------------------------


_FUTURES = 1 << 10  # at most, at one point
_LOTS = 1 << 20  # at most, in one future


@small_kernel
def _counter(row, future):
    """The number of a future's first lot; the following ones are those of its jobs."""
    return (np.int64(row.point) * _FUTURES + future) * _LOTS


@small_kernel
def _seed(row, past):
    return row.seed ^ mix(np.uint64(past.seed))


@kernel
def _outlasting(sample, scale, done_ms, lot):
    """One of those of a sample that, times ``scale``, exceed what is done, by a lot in [0, 1)."""
    count = sample.shape[0]
    low, high = np.int64(0), np.int64(count)
    while low < high:  # the first of them
        middle = (low + high) // 2
        if sample[middle] * scale > done_ms:
            high = middle
        else:
            low = middle + 1
    if low == count:  # it has lasted longer than any: it is about to end
        return done_ms + 1
    chosen = low + np.int64(lot * (count - low))
    return max(np.int64(sample[chosen] * scale), done_ms + 1)


@small_kernel
def _drawn_ms(past, requested_ms, done_ms, lot):
    """A run time of a job of which so much is done, by a lot in [0, 1)."""
    return _outlasting(past.ratios, np.float64(requested_ms), done_ms, lot)


@kernel
def _draw_durations(row, future, past, first):
    """Let the jobs of a fork work for as long as may be expected."""
    for j in range(future.num_jobs):
        state, ask = job(future, j).state, request(future, j)
        over = state == JobCode.COMPLETED or state == JobCode.FAILED or state == JobCode.ABSENT
        if over or ask.kind == JobKind.SERVICE:
            continue
        lot = 0.0
        if past.ratios.shape[0] > 1:
            lot = random_unit(_seed(row, past), Stream.LOOKAHEAD, first + 1 + j)
        done = work_of(future, np.int64(j))
        assume_duration(future, np.int64(j), _drawn_ms(past, ask.requested_ms, done, lot))
    settle_accounts(future)


# --- arrivals ------------------------------------------------------------------------------------


@small_kernel
def _aligned(first_ms, last_ms, now_ms, cycle_ms):
    """The first moment from ``first_ms`` on at the time of the cycle that it is now.

    And how many such moments there are up to ``last_ms``.
    """
    if cycle_ms <= 0 or last_ms < first_ms:
        return first_ms, np.int64(0)
    begin = first_ms + (now_ms - first_ms) % cycle_ms
    if last_ms < begin:
        return begin, np.int64(0)
    return begin, (last_ms - begin) // cycle_ms + 1


@kernel
def _first_recorded(record, time_ms):
    """The first job of a record that came at a time, or later."""
    low, high = np.int64(0), np.int64(record.shape[0])
    while low < high:
        middle = (low + high) // 2
        if record[middle].submit_ms < time_ms:
            low = middle + 1
        else:
            high = middle
    return low


@kernel
def _first_own(row, time_ms):
    """The same of the jobs that have come to a row."""
    low, high = np.int64(row.num_services), np.int64(row.next_arrival)
    while low < high:
        middle = (low + high) // 2
        if request(row, middle).submit_ms < time_ms:
            low = middle + 1
        else:
            high = middle
    return low


@kernel
def _choose_block(row, past, lot):
    """Where a block of arrivals is: (of the record or the row itself, first, number, begin in ms).

    ``lot`` is the counter of the random number that chooses.
    """
    wanted, seed = np.int64(past.arrivals), _seed(row, past)
    recorded = np.int64(past.record.shape[0])
    if past.before != 0:
        recorded = _first_recorded(past.record, row.now_ms)
    base, known = np.int64(row.num_services), np.int64(0)
    if past.own != 0:
        known = max(np.int64(row.next_arrival) - base, np.int64(0))
    begin, days = np.int64(0), np.int64(0)
    if recorded >= wanted and recorded > 0:
        last_ms = past.record[recorded - wanted].submit_ms
        begin, days = _aligned(past.record[0].submit_ms, last_ms, row.now_ms, past.cycle_ms)
    own_begin, own_days = np.int64(0), np.int64(0)
    if known >= wanted and known > 0:
        last_ms = request(row, base + known - wanted).submit_ms
        own_begin, own_days = _aligned(
            request(row, base).submit_ms, last_ms, row.now_ms, past.cycle_ms
        )
    if days + own_days > 0:
        day = random_below(seed, Stream.LOOKAHEAD, lot, days + own_days)
        if day < days:
            begin += day * past.cycle_ms
            return True, _first_recorded(past.record, begin), wanted, begin
        begin = own_begin + (day - days) * past.cycle_ms
        return False, _first_own(row, begin), wanted, begin
    # From any moment: half of what there is at most, so that not all futures are the same.
    from_record = recorded >= known
    total = recorded if from_record else known
    number = min(wanted, total // 2)
    first = random_below(seed, Stream.LOOKAHEAD, lot, total - number + 1)
    before = max(first - 1, np.int64(0))
    if from_record:
        begin = past.record[before].submit_ms if total > 0 else np.int64(0)
        return True, first, number, begin
    return False, base + first, number, request(row, base + before).submit_ms


@kernel
def _draw_arrivals(row, future, past, first):
    """Let a block of the past come to a fork of ``row``, at the same pace."""
    if past.arrivals <= 0:
        return
    from_record, at, number, begin_ms = _choose_block(row, past, first)
    for i in range(at, at + number):
        if from_record:
            ask = past.record[i]
            if ask.kind == JobKind.SERVICE:
                continue
            work_ms = ask.duration_ms
            if past.before != 0 and ask.submit_ms + work_ms > row.now_ms:  # nobody knows it yet
                counter = first + 1 + future.num_jobs
                lot = random_unit(_seed(row, past), Stream.LOOKAHEAD, counter)
                work_ms = _drawn_ms(past, ask.requested_ms, np.int64(0), lot)
            submit_ms = row.now_ms + ask.submit_ms - begin_ms
            add_arrival(future, ask, submit_ms, work_ms)
        else:
            known = request(row, i)
            work_ms = known.duration_ms
            if job(row, i).state != JobCode.COMPLETED:  # nobody knows it yet
                counter = first + 1 + future.num_jobs
                lot = random_unit(_seed(row, past), Stream.LOOKAHEAD, counter)
                work_ms = _drawn_ms(past, known.requested_ms, np.int64(0), lot)
            submit_ms = row.now_ms + known.submit_ms - begin_ms
            add_arrival(future, known, submit_ms, work_ms)


# --- demand of services --------------------------------------------------------------------------


@kernel
def _draw_demand(row, future, past, lot):
    """Let the demand of services be that of the same hours of an earlier day.

    Where there is none yet: that of the last ticks. Ticks end when the future does.
    """
    if row.num_services == 0 or row.tick_ms <= 0:
        return
    now = np.int64(row.series_first + row.tick)
    length = min(np.int64(past.ticks), np.int64(row.series_stop) - now)
    day = past.cycle_ms // row.tick_ms
    back = min(length, now)
    if day > 0 and now >= day and day >= length:
        back = day * (1 + random_below(_seed(row, past), Stream.LOOKAHEAD, lot, now // day))
    length = min(length, back)  # nothing that is to come is looked at
    load_series(future, row.series_first - back, now - back + length)


# --- repairs -------------------------------------------------------------------------------------


@kernel
def _down_ms(row, n):
    """How long node ``n`` has been down, as far as the row's incidents tell."""
    for k in range(row.next_incident - 1, -1, -1):
        if incident(row, k).node == n and incident(row, k).kind == EventKind.NODE_FAILURE:
            return np.int64(row.now_ms - incident(row, k).time_ms)
    return np.int64(0)


@kernel
def _draw_repairs(row, future, past, last):
    """Let nodes that are down come back after a repair that takes longer than it has already.

    ``last`` is the counter of the first node's random number; those of others are before it.
    """
    if past.repairs_ms.shape[0] == 0:
        return
    for n in range(row.num_nodes):
        if node(row, n).state == NodeCode.DOWN:
            lot = random_unit(_seed(row, past), Stream.LOOKAHEAD, last - n)
            done = _down_ms(row, n)
            left = _outlasting(past.repairs_ms, 1.0, done, lot) - done
            expect_recovery(future, np.int64(n), row.now_ms + left)


# --- a future ------------------------------------------------------------------------------------


@kernel
def draw_future(row, future, past, number):
    """Make of ``future``, a fork of ``row`` that knows of nothing to come, one that may come.

    It has room for ``past.arrivals`` more jobs. Costs are counted from now on.
    """
    first = _counter(row, number)
    _draw_durations(row, future, past, first)
    _draw_arrivals(row, future, past, first)
    _draw_demand(row, future, past, first + _LOTS - 1)
    _draw_repairs(row, future, past, first + _LOTS - 2)
