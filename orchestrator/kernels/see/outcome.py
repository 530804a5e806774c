"""What became of an episode's jobs, worked out from a row: slowdown, stay, fairness, counts.

Reports and the infos of environments read the same numbers. They are asked for once an episode,
also of batches in which some episode ends at every step; so nothing is allocated, and the work is
that of one sort.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.lang.jit import entry, kernel, small_kernel
from orchestrator.kernels.place.slots import units_of
from orchestrator.kernels.state.access import job, request
from orchestrator.kernels.state.codes import JobCode, JobKind

__all__ = ["SCRATCH", "Outcome", "read_outcome"]


class Outcome(IntEnum):
    """Columns of an outcome, over the jobs that have been submitted; services are none of them.

    A job that has not completed counts as if it ended now.
    """

    JOBS = 0
    BOUNDED_SLOWDOWN = 1
    """Mean of max(1, (end - submit) / max(run time, 10 s))."""
    COMPLETION_SECONDS = 2
    """Mean time from submission to end."""
    MAKESPAN_SECONDS = 3
    """From the first submission to the last end."""
    SPAN_SECONDS = 4
    """From the first submission to now."""
    FINISH_TIME_FAIRNESS = 5
    """Mean of Themis' rho."""
    WORST_FINISH_TIME = 6
    """Largest rho."""
    FINISHED = 7
    FAILED = 8
    UNFINISHED = 9
    """All that did not complete, failed ones among them."""


SCRATCH = 4
"""Rows of a scratch for all jobs: submissions, ends in order, and the sums of both."""

_SUBMITS, _ENDS, _SUBMIT_SUMS, _END_SUMS = 0, 1, 2, 3
_BOUND_MS = 10_000
_GAPS = (44842, 19930, 8858, 3937, 1750, 701, 301, 132, 57, 23, 10, 4, 1)


@small_kernel
def _end(row, j):
    """When a job ended, or now."""
    if job(row, j).state == JobCode.COMPLETED:
        return job(row, j).end_ms
    return row.now_ms


@kernel
def _sort(values, count):
    """Sort the first ``count`` values in place: a shell sort, for times that are nearly in order.

    Gaps of Ciura, "Best Increments for the Average Case of Shellsort", FCT 2001, and on by 2.25.
    """
    for gap in _GAPS:
        for i in range(gap, count):
            value = values[i]
            k = np.int64(i)
            while k >= gap and values[k - gap] > value:
                values[k] = values[k - gap]
                k -= gap
            values[k] = value


@small_kernel
def _elapsed_since(times, sums, count, now):
    """Sum over those of ``count`` sorted times that lie before ``now`` of the time since then."""
    low, high = np.int64(0), np.int64(count)
    while low < high:
        middle = (low + high) // 2
        if times[middle] < now:
            low = middle + 1
        else:
            high = middle
    return low * now - sums[low - 1] if low > 0 else np.int64(0)


@small_kernel
def _present_until(scratch, count, now):
    """Jobs in the system, integrated over time up to ``now``, ms."""
    come = _elapsed_since(scratch[_SUBMITS], scratch[_SUBMIT_SUMS], count, now)
    return come - _elapsed_since(scratch[_ENDS], scratch[_END_SUMS], count, now)


@kernel
def _gather(row, scratch):
    """Fill the scratch from the jobs that have been submitted; how many there are."""
    count = np.int64(0)
    for j in range(row.next_arrival):
        if request(row, j).kind != JobKind.SERVICE:
            scratch[_SUBMITS, count] = request(row, j).submit_ms
            scratch[_ENDS, count] = _end(row, j)
            count += 1
    _sort(scratch[_ENDS], count)
    submits = ends = np.int64(0)
    for k in range(count):
        submits += scratch[_SUBMITS, k]
        ends += scratch[_ENDS, k]
        scratch[_SUBMIT_SUMS, k] = submits
        scratch[_END_SUMS, k] = ends
    return count


@kernel
def _finish_time(row, j, scratch, count):
    """Finish-time fairness of a job: rho = T_shared / T_isolated.

    Mahajan et al., "Themis: Fair and Efficient GPU Cluster Scheduling", NSDI 2020. Isolated, a job
    has 1 / N of the cluster, N being the mean number of jobs in the system while it is there, and
    takes in proportion longer if it asks for more. Jobs of rho above 1 would have been better off
    with a fair share of their own.
    """
    submit, end = request(row, j).submit_ms, _end(row, j)
    stay = max(end - submit, np.int64(1))
    present = _present_until(scratch, count, end) - _present_until(scratch, count, submit)
    sharing = max(present / stay, 1.0)
    asked = units_of(row, j, request(row, j).workers)
    slower = max(1.0, asked * sharing / max(row.nominal_units, 1))
    return stay / max(request(row, j).duration_ms * slower, 1.0)


@entry
def read_outcome(
    rows: NDArray[np.void], e: int, scratch: NDArray[np.int64], out: NDArray[np.float64]
) -> None:
    """Write the outcome of row ``e`` into ``out``, float64 [len(Outcome)].

    ``scratch``, int64 [SCRATCH, jobs], has room for all jobs of a row. Without jobs all is 0.
    """
    row = rows[e]
    out[:] = 0.0
    count = _gather(row, scratch)
    if count == 0:
        return
    first = scratch[_SUBMITS, 0]
    slowdown, stay, fairness, worst = 0.0, 0.0, 0.0, 0.0
    for j in range(row.next_arrival):
        if request(row, j).kind == JobKind.SERVICE:
            continue
        taken = _end(row, j) - request(row, j).submit_ms
        bound = max(request(row, j).duration_ms, np.int64(_BOUND_MS))
        slowdown += max(taken / bound, 1.0)
        stay += taken
        rho = _finish_time(row, j, scratch, count)
        fairness += rho
        worst = max(worst, rho)
        out[Outcome.FINISHED] += job(row, j).state == JobCode.COMPLETED
        out[Outcome.FAILED] += job(row, j).state == JobCode.FAILED
    out[Outcome.JOBS] = count
    out[Outcome.BOUNDED_SLOWDOWN] = slowdown / count
    out[Outcome.COMPLETION_SECONDS] = stay / count / 1000.0
    out[Outcome.MAKESPAN_SECONDS] = (scratch[_ENDS, count - 1] - first) / 1000.0
    out[Outcome.SPAN_SECONDS] = (row.now_ms - first) / 1000.0
    out[Outcome.FINISH_TIME_FAIRNESS] = fairness / count
    out[Outcome.WORST_FINISH_TIME] = worst
    out[Outcome.UNFINISHED] = count - out[Outcome.FINISHED]
