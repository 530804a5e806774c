"""Running jobs as features: those that may be preempted or moved, and elastic ones."""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.change.jobs import progress_now, saved_progress
from orchestrator.kernels.decide.elastic import (
    fastest_size,
    fewer_workers,
    largest_size,
    marginal_speed,
    sized_speed,
)
from orchestrator.kernels.decide.legal import preemption_reason, resize_reason
from orchestrator.kernels.decide.whatif import lets_in
from orchestrator.kernels.lang.jit import kernel, part, small_kernel
from orchestrator.kernels.lang.numbers import fast_log, log_seconds
from orchestrator.kernels.place.fit import fits, least_units, least_workers
from orchestrator.kernels.place.generate import has_room_for_one
from orchestrator.kernels.place.slots import units_of
from orchestrator.kernels.see.layout import ElasticColumn, SizeChoice, SizeColumn, VictimColumn
from orchestrator.kernels.state.access import job, queue, request, running
from orchestrator.kernels.state.codes import NO_JOB, Reason

__all__ = [
    "encode_elastics",
    "encode_sizes",
    "encode_victims",
    "mask_steps",
    "select_elastics",
    "select_victims",
]


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
def encode_elastics(row, jobs, count, out):
    """Describe the elastic jobs of :func:`select_elastics`, float32 [E, len(ELASTIC_NAMES)]."""
    for i in range(count):
        j = np.int64(jobs[i])
        ask = request(row, j)
        now = np.int64(job(row, j).workers_now)
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


@kernel
def mask_steps(row, jobs, count, nodes, mask):
    """Mask the steps by which elastic jobs may be resized, int8 [2 E]; how many are legal.

    First who may shrink, to :func:`fewer_workers`, then who may grow, by one worker.
    """
    E = jobs.shape[0]
    legal = 0
    for i in range(count):
        j = np.int64(jobs[i])
        shrinks = resize_reason(row, j, fewer_workers(row, j)) == Reason.OK
        grows = resize_reason(row, j, np.int64(job(row, j).workers_now) + 1) == Reason.OK
        grows = grows and has_room_for_one(row, j, nodes)
        mask[i] = np.int8(shrinks)
        mask[E + i] = np.int8(grows)
        legal += np.int64(shrinks) + np.int64(grows)
    return legal


_CHOICES = len(SizeChoice)


@part
def _fill_choices(row, j, nodes, sizes):
    """Write the legal sizes of a running elastic job into ``sizes`` [Z]; 0: not that one.

    A size that several choices stand for is the first one's.
    """
    now = np.int64(job(row, j).workers_now)
    most, fastest = now, np.int64(0)
    if resize_reason(row, j, now + 1) == Reason.OK and has_room_for_one(row, j, nodes):
        most = largest_size(row, j, nodes)
        fastest, _ = fastest_size(row, j, most - now, nodes)
    for choice in range(_CHOICES):
        size = now + 1
        if choice == SizeChoice.FEWEST:
            size = least_workers(row, j)
        elif choice == SizeChoice.ONE_LESS:
            size = now - 1
        elif choice == SizeChoice.ASKED:
            size = np.int64(request(row, j).workers)
        elif choice == SizeChoice.FASTEST:
            size = fastest
        legal = size <= most and resize_reason(row, j, size) == Reason.OK
        for before in range(choice):
            legal = legal and sizes[before] != size
        sizes[choice] = np.int32(size) if legal else np.int32(0)


@small_kernel
def _log_signed(ms):
    """``.1 ln(1 + |s|)`` of milliseconds, with their sign."""
    return log_seconds(ms) if ms >= 0 else -log_seconds(-ms)


@kernel
def _describe_size(row, j, size, lacking, out):
    """Describe a size of a running elastic job, float32 [len(SIZE_NAMES)].

    Its present spread and GPU model are taken to stay. ``lacking`` is the capacity that the first
    waiting job lacks.
    """
    ask, now = request(row, j), np.int64(job(row, j).workers_now)
    asked, more = np.float64(ask.workers), units_of(row, j, size - now)
    speed, before = sized_speed(row, j, size), np.int64(job(row, j).speed_milli)
    left = max(ask.requested_ms - progress_now(row, j), np.int64(0))
    saved = left * 1000 // max(before, 1) - left * 1000 // max(speed, 1) - ask.regroup_ms
    out[SizeColumn.CHANGE] = _F(min(max((size - now) / asked, -4.0), 4.0))
    out[SizeColumn.LENT] = _F(min(size / asked - 1.0, 4.0))
    out[SizeColumn.GAIN] = _F(min(max((speed - before) / 1000.0, -4.0), 4.0))
    out[SizeColumn.SAVED] = _log_signed(saved)
    out[SizeColumn.FREE_AFTER] = _F((row.free_units - more) / max(row.nominal_units, 1))
    out[SizeColumn.LETS_IN] = _F(1.0) if 0 < lacking <= -more else _F(0.0)
    out[SizeColumn.LONGER] = log_seconds(left) if size < now else _F(0.0)
    out[SizeColumn.SHORTER] = log_seconds(left) if size > now else _F(0.0)


@kernel
def encode_sizes(row, jobs, count, nodes, mask, sizes, out):
    """Describe and mask the sizes that elastic jobs may be given; how many are legal.

    ``jobs`` and ``count`` are from :func:`select_elastics`. Filled are ``mask``, int8 [E Z],
    ``sizes``, int32 [>= E Z], workers or 0, and ``out``, float32 [>= E Z, len(SIZE_NAMES)], of
    which rows of what is not legal are 0.
    """
    Z = _CHOICES
    lacking = np.int64(0)
    if row.queue_len > 0:
        lacking = least_units(row, queue(row, 0).job) - row.free_units
    legal = 0
    for i in range(count):
        j = np.int64(jobs[i])
        _fill_choices(row, j, nodes, sizes[i * Z : (i + 1) * Z])
        for choice in range(Z):
            a = i * Z + choice
            out[a, :] = _F(0.0)
            mask[a] = np.int8(sizes[a] > 0)
            if sizes[a] > 0:
                legal += 1
                out[a, SizeColumn.IS_FEWEST + choice] = _F(1.0)
                _describe_size(row, j, np.int64(sizes[a]), lacking, out[a])
    return legal
