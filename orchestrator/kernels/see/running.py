"""Running jobs as features: those that may be preempted or moved, and elastic ones."""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.change.jobs import progress_now, saved_progress
from orchestrator.kernels.decide.elastic import fewer_workers, marginal_speed
from orchestrator.kernels.decide.legal import preemption_reason, resize_reason
from orchestrator.kernels.decide.whatif import lets_in
from orchestrator.kernels.lang.jit import kernel
from orchestrator.kernels.lang.numbers import fast_log, log_seconds
from orchestrator.kernels.place.fit import fits
from orchestrator.kernels.place.generate import has_room_for_one
from orchestrator.kernels.place.slots import units_of
from orchestrator.kernels.see.layout import ElasticColumn, VictimColumn
from orchestrator.kernels.state.access import job, queue, request, running
from orchestrator.kernels.state.codes import NO_JOB, Reason

__all__ = ["encode_elastics", "encode_victims", "select_elastics", "select_victims"]


@kernel
def select_victims(row, victims):
    """Fill ``victims`` [V] with preemptible running jobs, latest expected end first; how many.

    The rest is NO_JOB.
    """
    count = 0
    k = row.running_len - 1
    while k >= 0 and count < victims.shape[0] and row.queue_len > 0:
        j = running(row, k).job
        if preemption_reason(row, j) == Reason.OK:
            victims[count] = np.int32(j)
            count += 1
        k -= 1
    for i in range(count, victims.shape[0]):
        victims[i] = np.int32(NO_JOB)
    return count


@kernel
def encode_victims(row, victims, count, out):
    """Describe the jobs that may be preempted, float32 [V, len(VICTIM_NAMES)]."""
    first = queue(row, 0).job if row.queue_len > 0 else np.int64(NO_JOB)
    waits = first >= 0 and not fits(row, first)
    for i in range(count):
        j = np.int64(victims[i])
        ask = request(row, j)
        progress = progress_now(row, j)
        out[i, VictimColumn.LOG_REMAINING] = log_seconds(ask.requested_ms - progress)
        out[i, VictimColumn.LOG_ELAPSED] = log_seconds(row.now_ms - job(row, j).start_ms)
        out[i, VictimColumn.LOG_UNSAVED] = log_seconds(progress - saved_progress(row, j))
        out[i, VictimColumn.DEMAND_SHARE] = _F(job(row, j).units / max(row.nominal_units, 1))
        out[i, VictimColumn.LOG_PREEMPTIONS] = _F(0.5) * fast_log(_F(1.0 + job(row, j).preemptions))
        out[i, VictimColumn.PRIORITY] = _F(1.0 - ask.priority / 3.0)
        out[i, VictimColumn.LOG_CHECKPOINT_COST] = log_seconds(ask.checkpoint_ms + ask.restart_ms)
        helps = waits and lets_in(row, first, j)
        out[i, VictimColumn.HELPS] = _F(1.0) if helps else _F(0.0)


_F = np.float32


@kernel
def select_elastics(row, jobs):
    """Fill ``jobs`` [E] with running elastic jobs, latest expected end first; how many.

    Services are none of them; the rest is NO_JOB.
    """
    count = 0
    k = row.running_len - 1
    while k >= 0 and count < jobs.shape[0]:
        j = running(row, k).job
        if running(row, k).elastic != 0:
            jobs[count] = np.int32(j)
            count += 1
        k -= 1
    for i in range(count, jobs.shape[0]):
        jobs[i] = np.int32(NO_JOB)
    return count


@kernel
def encode_elastics(row, jobs, count, nodes, mask, out):
    """Describe elastic jobs, and mask what may be done with them; how many resizes are legal.

    ``jobs`` and ``count`` are from :func:`select_elastics`. A job grows by one worker; it shrinks
    to :func:`fewer_workers`. Filled are ``mask``, int8 [2 E]: may shrink [E], may grow [E]; and the
    first ``count`` rows of ``out``, float32 [E, len(ELASTIC_NAMES)].
    """
    E = jobs.shape[0]
    legal = 0
    for i in range(count):
        j = np.int64(jobs[i])
        ask = request(row, j)
        now = np.int64(job(row, j).workers_now)
        shrinks = resize_reason(row, j, fewer_workers(row, j)) == Reason.OK
        grows = resize_reason(row, j, now + 1) == Reason.OK
        grows = grows and has_room_for_one(row, j, nodes)
        mask[i] = np.int8(shrinks)
        mask[E + i] = np.int8(grows)
        legal += np.int64(shrinks) + np.int64(grows)
        asked = np.float64(ask.workers)
        each = max(units_of(row, j, np.int64(1)), np.int64(1)) * asked / 1000.0
        out[i, ElasticColumn.LOG_REMAINING] = log_seconds(ask.requested_ms - progress_now(row, j))
        out[i, ElasticColumn.SIZE] = _F(now / asked - 1.0)
        out[i, ElasticColumn.ROOM_BELOW] = _F(min((now - ask.min_workers) / asked, 4.0))
        out[i, ElasticColumn.ROOM_ABOVE] = _F(min((ask.max_workers - now) / asked, 4.0))
        out[i, ElasticColumn.GAIN] = _F(min(marginal_speed(row, j, now + 1) * each, 4.0))
        out[i, ElasticColumn.LOSS] = _F(min(-marginal_speed(row, j, max(now - 1, 1)) * each, 4.0))
        out[i, ElasticColumn.DEMAND_SHARE] = _F(job(row, j).units / max(row.nominal_units, 1))
        out[i, ElasticColumn.PRIORITY] = _F(1.0 - ask.priority / 3.0)
        out[i, ElasticColumn.LOG_REGROUP] = log_seconds(ask.regroup_ms)
        out[i, ElasticColumn.LOG_SINCE_CHANGE] = log_seconds(row.now_ms - job(row, j).resized_ms)
    return legal
