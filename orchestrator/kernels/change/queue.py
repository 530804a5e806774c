"""The waiting queue (in submit order) and the running list (by expected end)."""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.lang.jit import kernel, small_kernel
from orchestrator.kernels.lang.memory import copy_record
from orchestrator.kernels.state.access import job, move_queue, queue, request, running
from orchestrator.kernels.state.codes import NO_JOB, JobKind

__all__ = [
    "assume_waiting_duration",
    "dequeue",
    "enqueue",
    "forget_line",
    "list_running",
    "queue_position",
    "unlist_running",
]


_SECOND = 1000.0


@kernel
def queue_position(row, j):
    """Position of a waiting job in the queue, or -1."""
    for q in range(row.queue_len):
        if queue(row, q).job == j:
            return np.int64(q)
    return np.int64(NO_JOB)


@small_kernel
def slowdown_scale_s(row, run_ms):
    """Denominator of the bounded slowdown, seconds: max(run, bound)."""
    return max(run_ms, row.slowdown_bound_ms) / _SECOND


@kernel
def _weigh(row, j, sign):
    """Add (+1) or take away (-1) a waiting job's share of the slowdown sums."""
    ask = request(row, j)
    rate = sign / slowdown_scale_s(row, ask.duration_ms)
    row.queue_rate += rate
    row.queue_onset += rate * (job(row, j).onset_ms / _SECOND)
    row.request_rate += sign / slowdown_scale_s(row, ask.requested_ms)
    row.queued_unit_ms += np.int64(sign) * job(row, j).units * ask.requested_ms


@small_kernel
def _note_onset(row, j):
    """From when on the slowdown that a waiting job would have if it ran at once exceeds 1."""
    ask = request(row, j)
    run = job(row, j)
    remaining = ask.duration_ms - run.progress_ms
    if run.first_start_ms >= 0:
        remaining += ask.restart_ms
    scale = max(ask.duration_ms, row.slowdown_bound_ms)
    job(row, j).onset_ms = ask.submit_ms + scale - remaining


@kernel
def assume_waiting_duration(row, j, duration_ms):
    """Let a waiting job take so long in all; the sums that are kept with the queue follow."""
    _weigh(row, j, -1.0)
    request(row, j).duration_ms = np.int64(duration_ms)
    _note_onset(row, j)
    _weigh(row, j, 1.0)


@kernel
def enqueue(row, j):
    """Insert job ``j`` into the queue by (submit time, index)."""
    ask = request(row, j)
    _note_onset(row, j)
    k = row.queue_len
    while k > 0:
        other = queue(row, k - 1).job
        other_submit = request(row, other).submit_ms
        if other_submit < ask.submit_ms or (other_submit == ask.submit_ms and other < j):
            break
        queue(row, k).job = other
        k -= 1
    queue(row, k).job = np.int64(j)
    row.queue_len += 1
    row.queued += 1
    _weigh(row, j, 1.0)


@kernel
def dequeue(row, position):
    """Remove and return the job at a position of the queue."""
    j = queue(row, position).job
    length = row.queue_len - 1
    move_queue(row, position, position + 1, length - position)
    row.queue_len = length
    _weigh(row, j, -1.0)
    if length == 0:  # no rounding error outlives an empty queue
        row.queue_rate = 0.0
        row.queue_onset = 0.0
        row.request_rate = 0.0
    return j


@small_kernel
def forget_line(row):
    """The queue has become another one: in which order it was served is of no use."""
    row.line_rule = 0
    row.line_len = 0


@kernel
def list_running(row, j):
    """Insert a job into the running list, behind those that end at the same time."""
    end = job(row, j).expected_end_ms
    k = row.running_len
    while k > 0 and running(row, k - 1).expected_end_ms > end:
        copy_record(running(row, k), running(row, k - 1))
        k -= 1
    running(row, k).expected_end_ms = end
    running(row, k).units = job(row, j).units
    running(row, k).job = np.int64(j)
    ask = request(row, j)
    running(row, k).elastic = np.int64(ask.elastic != 0 and ask.kind != JobKind.SERVICE)
    row.running_len += 1


@kernel
def unlist_running(row, j):
    """Remove a job from the running list."""
    length = row.running_len
    end = job(row, j).expected_end_ms
    low, high = 0, length
    while low < high:  # first entry with this expected end
        middle = (low + high) >> 1
        if running(row, middle).expected_end_ms < end:
            low = middle + 1
        else:
            high = middle
    while running(row, low).job != j:
        low += 1
    for k in range(low, length - 1):
        copy_record(running(row, k), running(row, k + 1))
    row.running_len = length - 1
