"""How rules resize running elastic jobs when nothing can be placed.

While nobody waits, the running elastic job whose speed grows most for each unit of capacity gets
one more worker (the greedy allocation of AFS and Optimus: Hwang et al., NSDI 2021; Peng et al.,
EuroSys 2018). As soon as somebody waits, jobs with more workers than they asked for give them
back, the one with most of them first.
"""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.decide.legal import resize_reason
from orchestrator.kernels.lang.jit import kernel, part, small_kernel
from orchestrator.kernels.place.generate import place_more
from orchestrator.kernels.place.slots import units_of
from orchestrator.kernels.place.throughput import speed_milli
from orchestrator.kernels.state.access import job, node, request, running, worker
from orchestrator.kernels.state.codes import NO_JOB, ActionKind, JobKind, Reason

__all__ = ["elastic_action", "fewer_workers", "marginal_speed"]


@small_kernel
def marginal_speed(row, j, workers):
    """Speed that a running job gains on ``workers`` workers, thousandths per capacity unit.

    Its present spread and GPU model are taken to stay.
    """
    now = np.int64(job(row, j).workers_now)
    model = np.int64(node(row, worker(row, j, 0).node).model)
    spread = np.int64(job(row, j).spread)
    gain = speed_milli(row, j, np.int64(workers), spread, model) - job(row, j).speed_milli
    return np.float64(gain) / max(abs(units_of(row, j, workers - now)), 1)


@small_kernel
def fewer_workers(row, j):
    """The next smaller size of a running elastic job: what it asked for, or one worker fewer.

    What was lent comes back at once, as rules take it back: one change of size, one regroup.
    """
    now = np.int64(job(row, j).workers_now)
    return max(min(now - 1, np.int64(request(row, j).workers)), np.int64(0))


@part
def _borrower(row):
    """The running elastic job with most workers beyond those it asked for, or NO_JOB."""
    best, most = np.int64(NO_JOB), np.int64(0)
    for k in range(row.running_len):
        j = np.int64(running(row, k).job)
        ask = request(row, j)
        surplus = np.int64(job(row, j).workers_now - ask.workers)
        if ask.kind == JobKind.SERVICE or surplus <= most:
            continue
        if resize_reason(row, j, np.int64(ask.workers)) == Reason.OK:
            best, most = j, surplus
    return best


@part
def _grower(row, nodes):
    """The running elastic job that gains most from one more worker that fits, or NO_JOB."""
    best, best_gain = np.int64(NO_JOB), 0.0
    for k in range(row.running_len):
        j = np.int64(running(row, k).job)
        more = np.int64(job(row, j).workers_now + 1)
        if request(row, j).kind == JobKind.SERVICE or resize_reason(row, j, more) != Reason.OK:
            continue
        gain = marginal_speed(row, j, more)
        if gain > best_gain and place_more(row, j, np.int64(1), nodes) == 1:
            best, best_gain = j, gain
    return best


@kernel
def elastic_action(row, rule, scratch):
    """Resize a running job, or wait: (kind, job, new number of workers).

    For decision points at which nothing can be placed. ``scratch`` is int32 [>= workers].
    """
    if row.queue_len > 0:
        j = _borrower(row)
        if j >= 0:
            return np.int64(ActionKind.RESIZE), j, np.int64(request(row, j).workers)
    else:
        j = _grower(row, scratch)
        if j >= 0:
            return np.int64(ActionKind.RESIZE), j, np.int64(job(row, j).workers_now + 1)
    return np.int64(ActionKind.WAIT), np.int64(NO_JOB), np.int64(rule.placement)
