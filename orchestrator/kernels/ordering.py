"""Queue ordering: the score of a job under a rule; the lowest score goes first.

F1, WFP3 and UNICEP are as evaluated by Zhang et al., "RLScheduler", SC 2020 (F1: Carastan-Santos
and de Camargo, SC 2017; WFP3 and UNICEP: Tang et al., 2009). The ``_COMPAT`` keys reproduce a
quirk of that paper's published numbers: waiting time computed from a start time that is still -1.
"""

from __future__ import annotations

import math

import numpy as np

from orchestrator.kernels.codes import NO_JOB, JobCode, RuleKey, Stream
from orchestrator.kernels.jit import kernel, small_kernel
from orchestrator.kernels.randomness import random_unit
from orchestrator.kernels.tables import job, queue, request
from orchestrator.kernels.transition.progress import progress_now, units_of

__all__ = ["first_in_queue", "job_score"]

_TINY = 1e-15


@small_kernel
def _positive(value):
    """RLScheduler's guard of logarithms' arguments."""
    return value if value > 0 else 0.1


@small_kernel
def _demand(row, j):
    """Capacity that a job asks for, whatever an elastic one holds at the moment."""
    return units_of(row, j, request(row, j).workers)


@small_kernel
def _processors(row, j):
    return _demand(row, j) / 1000.0


@small_kernel
def _f1(row, j):
    request_s = request(row, j).requested_ms / 1000.0
    submit_s = request(row, j).submit_ms / 1000.0
    return math.log10(_positive(request_s)) * _processors(row, j) + 870.0 * math.log10(
        _positive(submit_s)
    )


@small_kernel
def _wfp3(row, j, wait_s):
    ratio = wait_s / (request(row, j).requested_ms / 1000.0)
    return -(ratio * ratio * ratio) * _processors(row, j)


@small_kernel
def _unicep(row, j, wait_s):
    request_s = request(row, j).requested_ms / 1000.0
    return -(wait_s + _TINY) / (math.log2(_processors(row, j) + _TINY) * request_s)


@small_kernel
def _remaining_ms(row, j):
    """Estimated work left of a waiting or running job."""
    done = job(row, j).progress_ms
    if job(row, j).state == JobCode.RUNNING:
        done = progress_now(row, j)
    return max(request(row, j).requested_ms - done, np.int64(0))


@small_kernel
def _aged_priority(row, j):
    """Priority class less the classes that the time since its submission is worth."""
    ask = request(row, j)
    if row.ageing_ms <= 0:
        return np.float64(ask.priority)
    return ask.priority - (row.now_ms - ask.submit_ms) / row.ageing_ms


@kernel
def job_score(row, j, key):
    """Score of job ``j`` now under the sort key ``key`` (a ``RuleKey``); lowest first.

    A running job has the score that it would have if it were preempted now: otherwise a victim
    could be served before the job that it made room for, and be preempted again without end.
    """
    ask = request(row, j)
    if key == RuleKey.FCFS:
        return np.float64(ask.submit_ms)
    if key == RuleKey.SJF:
        return np.float64(ask.requested_ms)
    if key == RuleKey.SRTF:
        return np.float64(_remaining_ms(row, j))
    if key == RuleKey.SRSF:
        return np.float64(_remaining_ms(row, j)) * _demand(row, j)
    if key == RuleKey.F1:
        return _f1(row, j)
    if key == RuleKey.WFP3:
        return _wfp3(row, j, (row.now_ms - ask.submit_ms) / 1000.0)
    if key == RuleKey.UNICEP:
        return _unicep(row, j, (row.now_ms - ask.submit_ms) / 1000.0)
    if key == RuleKey.WFP3_COMPAT:
        return _wfp3(row, j, -1.0 - ask.submit_ms / 1000.0)
    if key == RuleKey.UNICEP_COMPAT:
        return _unicep(row, j, -1.0 - ask.submit_ms / 1000.0)
    if key == RuleKey.LARGEST:
        return -np.float64(_demand(row, j))
    if key == RuleKey.PRIORITY:
        return _aged_priority(row, j)
    counter = (row.point << 32) + j  # the same in a table that grows
    return random_unit(row.seed, Stream.ORDERING, counter)


@kernel
def first_in_queue(row, key):
    """Queue position of the waiting job with the lowest score (ties: first submitted), or -1."""
    best, best_score = NO_JOB, np.inf
    for q in range(row.queue_len):
        score = job_score(row, queue(row, q).job, key)
        if score < best_score or best < 0:
            best, best_score = q, score
    return best
