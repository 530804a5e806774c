"""Feature encoding: the queue window and the global vector, into buffers of the caller's.

Notation, durations in seconds: w wait, r estimated run time, m = max(r, 10), p demand, P capacity,
d time until p units are free by the running jobs' expected ends, W = sum over the queue of 1 / m.

Two encodings of a queued job exist. ``PUBLISHED`` is RLScheduler's (Zhang et al., SC 2020).
``DEFAULT`` adds the time-to-start features, without which learning stayed at the rules' level.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.fastlog import fast_log
from orchestrator.kernels.jit import kernel, small_kernel
from orchestrator.kernels.pods import encode_pods, encode_pool
from orchestrator.kernels.tables import job, request, running

__all__ = [
    "BUCKETS",
    "CLUSTER_EXTRA",
    "DEFAULT_NAMES",
    "FULL_EXTRA",
    "GLOBAL_NAMES",
    "PUBLISHED_NAMES",
    "STATIC_WIDTH",
    "Encoding",
    "encode_global",
    "encode_queue",
    "fill_static",
    "make_scratch",
]


class Encoding(IntEnum):
    """How a queued job is described."""

    PUBLISHED = 0
    DEFAULT = 1
    CLUSTER = 2
    PLACEMENT = 3
    """Pods that look for a node, see :mod:`orchestrator.kernels.pods`; other global features."""
    FULL = 4
    """With what is known of a job's tenant."""


PUBLISHED_NAMES = (
    "wait",
    "request_time",
    "processors",
    "memory",
    "user",
    "group",
    "application",
    "fits_now",
)

DEFAULT_NAMES = (
    "log_wait",  # .1 ln(1 + w)
    "log_request",  # .1 ln r
    "log_demand",  # ln p / max(ln P, 1)
    "fits_now",
    "log_time_to_start",  # .1 ln(1 + d)
    "log_slowdown",  # .2 ln(1 + w / m)
    "log_queue_cost_of_waiting",  # .1 ln(1 + W d)
    "log_relative_time_to_start",  # .2 ln(1 + d / m)
    "slack",  # (free - p) / P
    "log_area",  # ln(r p) / ln(10 P), roughly within [0, 2]
    "log_rank",  # ln(1 + position) / ln(1 + window)
    "demand_share",  # p / P
    "log_cost_of_choosing",  # .1 ln(1 + (d + r)(W - 1 / m))
    "is_short",  # r < 10
)

CLUSTER_EXTRA = (
    "priority",  # 0 best effort .. 1 critical
    "log_preemptions",
    "progress",  # share of the estimate that is done and saved
    "log_workers",
    "log_attained",  # .1 ln(1 + attained service in seconds of the whole capacity)
)

FULL_EXTRA = (
    "tenant_share",  # its tenant's dominant share
    "tenant_excess",  # that, beyond what its tenant is entitled to
)

GLOBAL_NAMES = (
    "free_share",
    "log_queue",
    "log_queue_rate",
    "log_first_release",
    "log_last_release",
    "running",
    "log_queued_area",
    "log_hidden_queue",
)

BUCKETS = 1024
"""Demands are looked up in a table of so many steps of capacity, rounded up."""

STATIC_WIDTH = 16
"""Floats of the per-job constants: one cache line."""

_SUBMIT, _REQUEST, _SCALE, _LOG_SCALE, _RATE, _BUCKET, _DEMAND = 0, 1, 2, 3, 4, 5, 6
_LOG_REQUEST, _LOG_DEMAND, _LOG_AREA, _DEMAND_SHARE, _SHORT = 7, 8, 9, 10, 11
# Of the published encoding, in the order of its columns; 0 and 7 are dynamic.
_PUBLISHED_WIDTH = 8

_F = np.float32
_ALMOST_ONE = _F(1.0 - 1e-5)
_ALMOST_ZERO = _F(1e-5)
_PER_MAX_WAIT = _F(1.0 / (12 * 60 * 60))
_ZERO, _ONE = _F(0.0), _F(1.0)
_BLOCK = 16


def make_scratch(
    jobs: int, window: int
) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.float32]]:
    """Scratch of the encoders for up to ``jobs`` running jobs and a window.

    Returns
    -------
    releases : float32 [3, jobs + 1]
    table : int32 [BUCKETS + 1]
    columns : float32 [6, window rounded up]
        The last row is constant: ln(1 + position) / ln(1 + window).
    """
    padded = -(-window // _BLOCK) * _BLOCK
    columns = np.ones((6, padded), np.float32)
    columns[5] = np.log1p(np.arange(padded)) / np.log1p(window)
    return np.zeros((3, jobs + 1), np.float32), np.zeros(BUCKETS + 1, np.int32), columns


@kernel
def fill_static(row, encoding, maxima, static):
    """Write the constants of every job of a row, once an episode.

    Parameters
    ----------
    row : ROW_DTYPE record
    encoding : int
        An ``Encoding``.
    maxima : float64 [4]
        Largest estimate (s), user, group and application of the trace, for the published encoding.
    static : float32 [jobs, STATIC_WIDTH]
        Filled.
    """
    if encoding == Encoding.PLACEMENT:
        return  # nothing that is worth keeping
    capacity = max(row.nominal_units / 1000.0, 1.0)
    log_capacity = max(np.log(capacity), 1.0)  # a share of one GPU must not divide by ln 1
    bound = row.slowdown_bound_ms / 1000.0
    for j in range(row.num_jobs):
        ask = request(row, j)
        estimate = max(ask.requested_ms / 1000.0, 1e-3)
        demand = job(row, j).units / 1000.0
        if encoding == Encoding.PUBLISHED:
            static[j, 0] = (ask.submit_ms - request(row, 0).submit_ms) / 1000.0
            static[j, 1] = min(estimate / maxima[0], 1.0 - 1e-5)
            static[j, 2] = min(demand / capacity, 1.0 - 1e-5)
            static[j, 3] = 0.0
            static[j, 4] = min(ask.user / maxima[1], 1.0 - 1e-5)
            static[j, 5] = min(ask.group / maxima[2], 1.0 - 1e-5)
            static[j, 6] = min(ask.application / maxima[3], 1.0 - 1e-5)
            static[j, 7] = demand
            continue
        scale = max(estimate, bound)
        static[j, _SUBMIT] = (ask.submit_ms - request(row, 0).submit_ms) / 1000.0
        static[j, _REQUEST] = estimate
        static[j, _SCALE] = scale
        static[j, _LOG_SCALE] = np.log(scale)
        static[j, _RATE] = 1.0 / scale
        static[j, _BUCKET] = min(np.ceil(demand / capacity * BUCKETS), BUCKETS)
        static[j, _DEMAND] = demand
        static[j, _LOG_REQUEST] = 0.1 * np.log(estimate)
        static[j, _LOG_DEMAND] = np.log(max(demand, 1e-3)) / log_capacity
        static[j, _LOG_AREA] = np.log(max(estimate * demand, 1e-3)) / np.log(10.0 * capacity)
        static[j, _DEMAND_SHARE] = demand / capacity
        static[j, _SHORT] = 1.0 if estimate < bound else 0.0


@kernel
def _encode_published(row, window, count, static, out):
    """RLScheduler's eight features of the ``count`` jobs of a window."""
    now_s = _F((row.now_ms - request(row, 0).submit_ms) / 1000.0)
    free = _F(row.free_units / 1000.0)
    for i in range(count):
        j = np.uint64(window[i])
        for c in range(_PUBLISHED_WIDTH):
            out[i, c] = static[j, c]
        wait = (now_s - static[j, 0]) * _PER_MAX_WAIT
        out[i, 0] = wait if wait < _ALMOST_ONE else _ALMOST_ONE
        out[i, 7] = _ALMOST_ONE if static[j, 7] <= free else _ALMOST_ZERO


@kernel
def _release_table(row, most, releases, table):
    """When capacity becomes free, up to ``most`` buckets.

    Column k of ``releases`` [3, >= running + 1] holds the time d, s from now, until the first k
    running jobs have released theirs (d = 0 for k = 0), .1 ln(1 + d) and .1 ln(1 + W d);
    ``table[b]`` is the first such k at which b buckets are free, b up to ``most``.
    """
    to_bucket = BUCKETS / max(row.nominal_units, 1)
    rate = _F(max(row.request_rate, 0.0))
    free = row.free_units
    filled = min(max(np.int64(free * to_bucket), -1), BUCKETS) + 1
    for b in range(min(filled, most + 1)):
        table[b] = 0
    releases[0, 0] = _F(0.0)
    releases[1, 0] = _F(0.0)
    releases[2, 0] = _F(0.0)
    count = 1
    for k in range(row.running_len):
        if filled > most:
            break
        free += running(row, k).units
        d = _F(max(running(row, k).expected_end_ms - row.now_ms, 0) / 1000.0)
        releases[0, count] = d
        releases[1, count] = _F(0.1) * fast_log(_F(1.0) + d)
        releases[2, count] = _F(0.1) * fast_log(_F(1.0) + rate * d)
        upto = min(max(np.int64(free * to_bucket), -1), BUCKETS) + 1
        for b in range(filled, min(upto, most + 1)):
            table[b] = count
        filled = max(filled, upto)
        count += 1
    for b in range(filled, most + 1):
        table[b] = count - 1


@kernel
def _take_logs(columns, count):
    """Replace the first ``count`` entries of four columns by their logarithms.

    The inner loop has a fixed length, so that it compiles to one wide operation without a scalar
    remainder; entries beyond ``count`` in the last block are computed for nothing.
    """
    for c in range(4):
        for block in range((count + _BLOCK - 1) // _BLOCK):
            at = block * _BLOCK
            for i in range(_BLOCK):
                columns[c, at + i] = fast_log(columns[c, at + i])


@kernel
def encode_window(row, window, count, static, releases, table, columns, out):
    """The ``DEFAULT`` features of the ``count`` jobs of a window.

    Parameters
    ----------
    row : ROW_DTYPE record
    window : int32 [>= count]
        Jobs.
    count : int
    static : float32 [jobs, STATIC_WIDTH]
        From :func:`fill_static`.
    releases, table, columns
        Scratch; see :func:`make_scratch`.
    out : float32 [window, >= 14]
        Rows up to ``count`` are filled.
    """
    most = _ZERO
    for i in range(count):
        bucket = static[np.uint64(window[i]), _BUCKET]
        most = bucket if bucket > most else most
    _release_table(row, np.int64(most), releases, table)
    now_s = _F((row.now_ms - request(row, 0).submit_ms) / 1000.0)
    free = _F(row.free_units / 1000.0)
    per_capacity = _F(1000.0 / max(row.nominal_units, 1))
    rate = _F(row.request_rate)
    for i in range(count):
        j = np.uint64(window[i])
        k = np.uint64(table[np.uint64(static[j, _BUCKET])])
        wait = now_s - static[j, _SUBMIT]
        wait = wait if wait > _ZERO else _ZERO
        start = releases[0, k]
        scale = static[j, _SCALE]
        rest = rate - static[j, _RATE]
        rest = rest if rest > _ZERO else _ZERO
        demand = static[j, _DEMAND]
        columns[0, i] = _ONE + wait
        columns[1, i] = scale + wait
        columns[2, i] = scale + start
        columns[3, i] = _ONE + (start + static[j, _REQUEST]) * rest
        columns[4, i] = static[j, _LOG_SCALE]
        out[i, 1] = static[j, _LOG_REQUEST]
        out[i, 2] = static[j, _LOG_DEMAND]
        out[i, 3] = _ONE if demand <= free else _ZERO
        out[i, 4] = releases[1, k]
        out[i, 6] = releases[2, k]
        out[i, 8] = (free - demand) * per_capacity
        out[i, 9] = static[j, _LOG_AREA]
        out[i, 10] = columns[5, i]
        out[i, 11] = static[j, _DEMAND_SHARE]
        out[i, 13] = static[j, _SHORT]
    _take_logs(columns, count)
    for i in range(count):
        out[i, 0] = _F(0.1) * columns[0, i]
        out[i, 5] = _F(0.2) * (columns[1, i] - columns[4, i])
        out[i, 7] = _F(0.2) * (columns[2, i] - columns[4, i])
        out[i, 12] = _F(0.1) * columns[3, i]


@small_kernel
def _encode_extra(row, window, count, out):
    """The ``CLUSTER_EXTRA`` features, behind the default ones."""
    capacity = max(row.nominal_units, 1)
    for i in range(count):
        j = window[i]
        ask = request(row, j)
        me = job(row, j)
        out[i, 14] = _F(1.0 - ask.priority / 3.0)
        out[i, 15] = _F(0.5) * fast_log(_F(1.0 + me.preemptions))
        out[i, 16] = _F(min(me.progress_ms / max(ask.requested_ms, 1), 1.0))
        out[i, 17] = _F(0.2) * fast_log(_F(ask.workers))
        attained = me.attained_unit_ms / capacity / 1000.0
        out[i, 18] = _F(0.1) * fast_log(_F(1.0 + attained))


@kernel
def encode_queue(row, encoding, window, count, static, releases, table, columns, out):
    """Describe the jobs of the window under an ``Encoding``; see :func:`encode_window`."""
    if encoding == Encoding.PUBLISHED:
        _encode_published(row, window, count, static, out)
        return
    if encoding == Encoding.PLACEMENT:
        encode_pods(row, window, count, out)
        return
    encode_window(row, window, count, static, releases, table, columns, out)
    if encoding == Encoding.CLUSTER or encoding == Encoding.FULL:
        _encode_extra(row, window, count, out)


@kernel
def encode_global(row, encoding, out):
    """The global vector under an ``Encoding``, float32 [len(GLOBAL_NAMES)]."""
    if encoding == Encoding.PLACEMENT:
        encode_pool(row, out)
        return
    capacity = max(row.nominal_units, 1)
    first, last = np.int64(0), np.int64(0)
    if row.running_len > 0:
        first = max(running(row, 0).expected_end_ms - row.now_ms, 0)
        last = max(running(row, row.running_len - 1).expected_end_ms - row.now_ms, 0)
    out[0] = _F(row.free_units / capacity)
    out[1] = _F(0.2) * fast_log(_F(1.0 + row.queue_len))
    out[2] = _F(0.1) * fast_log(_F(1e-4 + max(row.request_rate, 0.0)))
    out[3] = _F(0.1) * fast_log(_F(1.0 + first / 1000.0))
    out[4] = _F(0.1) * fast_log(_F(1.0 + last / 1000.0))
    out[5] = _F(row.running_len / 64.0)
    area_s = row.queued_unit_ms / capacity / 1000.0
    out[6] = _F(0.1) * fast_log(_F(1.0 + area_s))
    hidden = max(row.queue_len - row.queue_window, 0)
    out[7] = _F(0.2) * fast_log(_F(1.0 + hidden))
