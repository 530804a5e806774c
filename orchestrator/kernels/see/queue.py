"""Queued jobs as features: a window of them, or one pod.

In terms of a cluster of thousands of GPUs, as other encodings have it, all pods would look alike.

Notation, durations in seconds: w wait, r estimated run time, m = max(r, 10), p demand, P capacity,
d time until p units are free by the running jobs' expected ends, W = sum over the queue of 1 / m.

Two encodings of a queued job exist. ``PUBLISHED`` is RLScheduler's (Zhang et al., SC 2020).
``DEFAULT`` adds the time-to-start features, without which learning stayed at the rules' level.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.lang.jit import kernel, small_kernel
from orchestrator.kernels.lang.numbers import fast_log
from orchestrator.kernels.place.slots import WHOLE, node_allows
from orchestrator.kernels.see.layout import (
    PUBLISHED_NAMES,
    GlobalColumn,
    Maximum,
    PodColumn,
    PoolColumn,
    PublishedColumn,
    QueueColumn,
    StaticColumn,
)
from orchestrator.kernels.see.metrics import fragmented_milli
from orchestrator.kernels.state.access import job, node, request, running
from orchestrator.kernels.state.codes import NodeCode

__all__ = [
    "BUCKETS",
    "STATIC_WIDTH",
    "Encoding",
    "encode_global",
    "encode_pods",
    "encode_pool",
    "encode_queue",
    "fill_static",
    "make_scratch",
]


_F = np.float32


@kernel
def _admitted(row, j):
    """Share of all GPUs that are of a model that will do, with enough memory."""
    if request(row, j).model_mask == 0 and request(row, j).gpu_memory_mib == 0:
        return 1.0
    gpus = np.int64(0)
    for n in range(row.num_nodes):
        if node_allows(row, j, n):
            gpus += node(row, n).gpus
    return gpus * 1000.0 / max(row.nominal_gpu_milli, 1)


@kernel
def encode_pods(row, window, out):
    """Describe the jobs of a window, float32 [window, len(POD_NAMES)]."""
    cpu, memory = np.int64(1), np.int64(1)
    for n in range(row.num_nodes):
        cpu = max(cpu, node(row, n).cpu_cap_milli)
        memory = max(memory, node(row, n).memory_cap_mib)
    for i in range(window.shape[0]):
        j = np.int64(window[i])
        ask = request(row, j)
        gpus = ask.workers * ask.gpus_per_worker
        out[i, PodColumn.GPUS] = _F(gpus / 8.0)
        out[i, PodColumn.GPU_SHARE] = _F(ask.gpu_milli / 1000.0 if gpus > 0 else 0.0)
        out[i, PodColumn.SHARED] = _F(1.0 if gpus > 0 and ask.gpu_milli < WHOLE else 0.0)
        out[i, PodColumn.CPU] = _F(ask.workers * ask.cpu_milli / cpu)
        out[i, PodColumn.MEMORY] = _F(ask.workers * ask.memory_mib / memory)
        out[i, PodColumn.ADMITTED] = _F(_admitted(row, j))
        out[i, PodColumn.PRIORITY] = _F(1.0 - ask.priority / 3.0)
        out[i, PodColumn.LOG_WORKERS] = _F(0.2) * fast_log(_F(ask.workers))
        out[i, PodColumn.LOG_REQUEST] = _F(0.1) * fast_log(_F(1.0 + ask.requested_ms / 1000.0))
        out[i, PodColumn.LOG_WAIT] = _F(0.1) * fast_log(
            _F(1.0 + (row.now_ms - ask.submit_ms) / 1000.0)
        )


@kernel
def encode_pool(row, out):
    """The global vector of the PLACEMENT encoding, float32 [len(POOL_NAMES)]."""
    gpu, cpu, memory = np.int64(0), np.int64(0), np.int64(0)
    whole, empty = np.int64(0), np.int64(0)
    for n in range(row.num_nodes):
        host = node(row, n)
        if host.state == NodeCode.UP:
            gpu += host.gpu_free_milli
            cpu += host.cpu_free_milli
            memory += host.memory_free_mib
            whole += host.whole_free
            empty += host.workers == 0
    gpus = max(row.nominal_gpu_milli, 1)
    out[PoolColumn.FREE_SHARE] = _F(gpu / gpus)
    out[PoolColumn.CPU_FREE_SHARE] = _F(cpu / max(row.nominal_cpu_milli, 1))
    out[PoolColumn.MEMORY_FREE_SHARE] = _F(memory / max(row.nominal_memory_mib, 1))
    out[PoolColumn.FRAGMENTED_SHARE] = _F(fragmented_milli(row) / gpus)
    out[PoolColumn.WHOLE_SHARE] = _F(whole * 1000.0 / gpus)
    out[PoolColumn.EMPTY_NODES] = _F(empty / max(row.num_nodes, 1))
    out[PoolColumn.LOG_QUEUE] = _F(0.2) * fast_log(_F(1.0 + row.queue_len))


class Encoding(IntEnum):
    """How a queued job is described."""

    PUBLISHED = 0
    DEFAULT = 1
    CLUSTER = 2
    PLACEMENT = 3
    """Pods that look for a node, see :func:`encode_pods`; other global features."""
    FULL = 4
    """With what is known of a job's tenant."""


BUCKETS = 1024
"""Demands are looked up in a table of so many steps of capacity, rounded up."""


STATIC_WIDTH = 16
"""Floats of the per-job constants: one cache line."""


# Scratch. Rows of releases: the time, and what follows from it for the features.
_AT, _LOG_AT, _LOG_COST = 0, 1, 2


# Rows of columns: first those of which logarithms are taken, then what is added to them.
_WAIT, _SLOWDOWN, _RELATIVE, _CHOOSING, _SCALES, _RANKS = 0, 1, 2, 3, 4, 5


_LOGS = 4


_ROWS = 6


_PUBLISHED_WIDTH = len(PUBLISHED_NAMES)


_ALMOST_ONE = _F(1.0 - 1e-5)


_ALMOST_ZERO = _F(1e-5)


_PER_MAX_WAIT = _F(1.0 / (12 * 60 * 60))


_ZERO, _ONE = _F(0.0), _F(1.0)


_BLOCK = 16


def make_scratch(
    jobs: int, window: int
) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.float32]]:
    """Scratch of the encoders for up to ``jobs`` running jobs and a window.

    ``releases``, float32 [3, jobs + 1]; ``table``, int32 [BUCKETS + 1]; ``columns``, float32 [6,
    window rounded up], whose last row is constant: ln(1 + position) / ln(1 + window).
    """
    padded = -(-window // _BLOCK) * _BLOCK
    columns = np.ones((_ROWS, padded), np.float32)
    columns[_RANKS] = np.log1p(np.arange(padded)) / np.log1p(window)
    return np.zeros((3, jobs + 1), np.float32), np.zeros(BUCKETS + 1, np.int32), columns


@kernel
def fill_static(row, encoding, maxima, static, first):
    """Write the constants of the jobs of a row, from ``first`` on, into ``static``.

    All of them once an episode. ``static`` is float32 [jobs, STATIC_WIDTH]; ``maxima``, float64
    [len(Maximum)], are for the published ``Encoding``.
    """
    if encoding == Encoding.PLACEMENT:
        return  # nothing that is worth keeping
    capacity = max(row.nominal_units / 1000.0, 1.0)
    log_capacity = max(np.log(capacity), 1.0)  # a share of one GPU must not divide by ln 1
    bound = row.slowdown_bound_ms / 1000.0
    for j in range(first, row.num_jobs):
        ask = request(row, j)
        estimate = max(ask.requested_ms / 1000.0, 1e-3)
        demand = job(row, j).units / 1000.0
        if encoding == Encoding.PUBLISHED:
            most = 1.0 - 1e-5
            length, user = estimate / maxima[Maximum.REQUEST], ask.user / maxima[Maximum.USER]
            group = ask.group / maxima[Maximum.GROUP]
            application = ask.application / maxima[Maximum.APPLICATION]
            static[j, PublishedColumn.WAIT] = (ask.submit_ms - request(row, 0).submit_ms) / 1000.0
            static[j, PublishedColumn.REQUEST_TIME] = min(length, most)
            static[j, PublishedColumn.PROCESSORS] = min(demand / capacity, most)
            static[j, PublishedColumn.MEMORY] = 0.0
            static[j, PublishedColumn.USER] = min(user, most)
            static[j, PublishedColumn.GROUP] = min(group, most)
            static[j, PublishedColumn.APPLICATION] = min(application, most)
            static[j, PublishedColumn.FITS_NOW] = demand
            continue
        scale = max(estimate, bound)
        static[j, StaticColumn.SUBMIT] = (ask.submit_ms - request(row, 0).submit_ms) / 1000.0
        static[j, StaticColumn.REQUEST] = estimate
        static[j, StaticColumn.SCALE] = scale
        static[j, StaticColumn.LOG_SCALE] = np.log(scale)
        static[j, StaticColumn.RATE] = 1.0 / scale
        static[j, StaticColumn.BUCKET] = min(np.ceil(demand / capacity * BUCKETS), BUCKETS)
        static[j, StaticColumn.DEMAND] = demand
        static[j, StaticColumn.LOG_REQUEST] = 0.1 * np.log(estimate)
        static[j, StaticColumn.LOG_DEMAND] = np.log(max(demand, 1e-3)) / log_capacity
        log_area = np.log(max(estimate * demand, 1e-3))
        static[j, StaticColumn.LOG_AREA] = log_area / np.log(10.0 * capacity)
        static[j, StaticColumn.DEMAND_SHARE] = demand / capacity
        static[j, StaticColumn.SHORT] = 1.0 if estimate < bound else 0.0


@kernel
def _encode_published(row, window, static, out):
    """RLScheduler's eight features of the jobs of a window."""
    now_s = _F((row.now_ms - request(row, 0).submit_ms) / 1000.0)
    free = _F(row.free_units / 1000.0)
    for i in range(window.shape[0]):
        j = np.uint64(window[i])
        for c in range(_PUBLISHED_WIDTH):
            out[i, c] = static[j, c]
        wait = (now_s - static[j, PublishedColumn.WAIT]) * _PER_MAX_WAIT
        out[i, PublishedColumn.WAIT] = wait if wait < _ALMOST_ONE else _ALMOST_ONE
        fits = static[j, PublishedColumn.FITS_NOW] <= free
        out[i, PublishedColumn.FITS_NOW] = _ALMOST_ONE if fits else _ALMOST_ZERO


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
    releases[_AT, 0] = _F(0.0)
    releases[_LOG_AT, 0] = _F(0.0)
    releases[_LOG_COST, 0] = _F(0.0)
    count = 1
    for k in range(row.running_len):
        if filled > most:
            break
        free += running(row, k).units
        d = _F(max(running(row, k).expected_end_ms - row.now_ms, 0) / 1000.0)
        releases[_AT, count] = d
        releases[_LOG_AT, count] = _F(0.1) * fast_log(_F(1.0) + d)
        releases[_LOG_COST, count] = _F(0.1) * fast_log(_F(1.0) + rate * d)
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
    for c in range(_LOGS):
        for block in range((count + _BLOCK - 1) // _BLOCK):
            at = block * _BLOCK
            for i in range(_BLOCK):
                columns[c, at + i] = fast_log(columns[c, at + i])


@kernel
def encode_window(row, window, static, scratch, out):
    """The ``DEFAULT`` features of the n jobs of a window: the first n rows of ``out``.

    ``out`` is float32 [>= n, >= 14]. ``static`` is from :func:`fill_static`; ``releases``,
    ``table`` and ``columns`` of ``scratch`` are those of :func:`make_scratch`.
    """
    count, most = window.shape[0], _ZERO
    releases, table, columns = scratch.releases, scratch.table, scratch.columns
    for i in range(count):
        bucket = static[np.uint64(window[i]), StaticColumn.BUCKET]
        most = bucket if bucket > most else most
    _release_table(row, np.int64(most), releases, table)
    now_s = _F((row.now_ms - request(row, 0).submit_ms) / 1000.0)
    free = _F(row.free_units / 1000.0)
    per_capacity = _F(1000.0 / max(row.nominal_units, 1))
    rate = _F(row.request_rate)
    for i in range(count):
        j = np.uint64(window[i])
        k = np.uint64(table[np.uint64(static[j, StaticColumn.BUCKET])])
        wait = now_s - static[j, StaticColumn.SUBMIT]
        wait = wait if wait > _ZERO else _ZERO
        start = releases[_AT, k]
        scale = static[j, StaticColumn.SCALE]
        rest = rate - static[j, StaticColumn.RATE]
        rest = rest if rest > _ZERO else _ZERO
        demand = static[j, StaticColumn.DEMAND]
        columns[_WAIT, i] = _ONE + wait
        columns[_SLOWDOWN, i] = scale + wait
        columns[_RELATIVE, i] = scale + start
        columns[_CHOOSING, i] = _ONE + (start + static[j, StaticColumn.REQUEST]) * rest
        columns[_SCALES, i] = static[j, StaticColumn.LOG_SCALE]
        out[i, QueueColumn.LOG_REQUEST] = static[j, StaticColumn.LOG_REQUEST]
        out[i, QueueColumn.LOG_DEMAND] = static[j, StaticColumn.LOG_DEMAND]
        out[i, QueueColumn.FITS_NOW] = _ONE if demand <= free else _ZERO
        out[i, QueueColumn.LOG_TIME_TO_START] = releases[_LOG_AT, k]
        out[i, QueueColumn.LOG_QUEUE_COST_OF_WAITING] = releases[_LOG_COST, k]
        out[i, QueueColumn.SLACK] = (free - demand) * per_capacity
        out[i, QueueColumn.LOG_AREA] = static[j, StaticColumn.LOG_AREA]
        out[i, QueueColumn.LOG_RANK] = columns[_RANKS, i]
        out[i, QueueColumn.DEMAND_SHARE] = static[j, StaticColumn.DEMAND_SHARE]
        out[i, QueueColumn.IS_SHORT] = static[j, StaticColumn.SHORT]
    _take_logs(columns, count)
    for i in range(count):
        out[i, QueueColumn.LOG_WAIT] = _F(0.1) * columns[_WAIT, i]
        out[i, QueueColumn.LOG_SLOWDOWN] = _F(0.2) * (columns[_SLOWDOWN, i] - columns[_SCALES, i])
        out[i, QueueColumn.LOG_RELATIVE_TIME_TO_START] = _F(0.2) * (
            columns[_RELATIVE, i] - columns[_SCALES, i]
        )
        out[i, QueueColumn.LOG_COST_OF_CHOOSING] = _F(0.1) * columns[_CHOOSING, i]


@small_kernel
def _encode_extra(row, window, out):
    """The ``CLUSTER_EXTRA`` features, behind the default ones."""
    capacity = max(row.nominal_units, 1)
    for i in range(window.shape[0]):
        j = window[i]
        ask = request(row, j)
        me = job(row, j)
        out[i, QueueColumn.PRIORITY] = _F(1.0 - ask.priority / 3.0)
        out[i, QueueColumn.LOG_PREEMPTIONS] = _F(0.5) * fast_log(_F(1.0 + me.preemptions))
        out[i, QueueColumn.PROGRESS] = _F(min(me.progress_ms / max(ask.requested_ms, 1), 1.0))
        out[i, QueueColumn.LOG_WORKERS] = _F(0.2) * fast_log(_F(ask.workers))
        attained = me.attained_unit_ms / capacity / 1000.0
        out[i, QueueColumn.LOG_ATTAINED] = _F(0.1) * fast_log(_F(1.0 + attained))


@kernel
def encode_queue(row, encoding, window, static, scratch, out):
    """Describe the jobs of the window under an ``Encoding``; see :func:`encode_window`."""
    if encoding == Encoding.PUBLISHED:
        _encode_published(row, window, static, out)
        return
    if encoding == Encoding.PLACEMENT:
        encode_pods(row, window, out)
        return
    encode_window(row, window, static, scratch, out)
    if encoding == Encoding.CLUSTER or encoding == Encoding.FULL:
        _encode_extra(row, window, out)


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
    out[GlobalColumn.FREE_SHARE] = _F(row.free_units / capacity)
    out[GlobalColumn.LOG_QUEUE] = _F(0.2) * fast_log(_F(1.0 + row.queue_len))
    out[GlobalColumn.LOG_QUEUE_RATE] = _F(0.1) * fast_log(_F(1e-4 + max(row.request_rate, 0.0)))
    out[GlobalColumn.LOG_FIRST_RELEASE] = _F(0.1) * fast_log(_F(1.0 + first / 1000.0))
    out[GlobalColumn.LOG_LAST_RELEASE] = _F(0.1) * fast_log(_F(1.0 + last / 1000.0))
    out[GlobalColumn.RUNNING] = _F(row.running_len / 64.0)
    area_s = row.queued_unit_ms / capacity / 1000.0
    out[GlobalColumn.LOG_QUEUED_AREA] = _F(0.1) * fast_log(_F(1.0 + area_s))
    hidden = max(row.queue_len - row.queue_window, 0)
    out[GlobalColumn.LOG_HIDDEN_QUEUE] = _F(0.2) * fast_log(_F(1.0 + hidden))
