"""The training shell's inner loop: reset, step and replay a range of rows.

Hundreds of rows do not fit into the caches next to a processor. What the next step of a row will
read is mostly known: the jobs that its last observation showed, the action, the next events. Half
of a step's time was waiting for them. Nothing depends on it but time.

A step decodes an action, commits it, advances to the next decision, accumulates the reward and
encodes. One call serves any range of rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.change.episode import (
    begin_episode,
    load_curves,
    load_gittins,
    load_incidents,
    load_plans,
    load_series,
    load_services,
    load_tenants,
)
from orchestrator.kernels.change.events import close_point
from orchestrator.kernels.change.hold import load_typical, load_uplinks
from orchestrator.kernels.decide.advance import advance
from orchestrator.kernels.decide.commit import commit
from orchestrator.kernels.decide.rules import replay
from orchestrator.kernels.lang.jit import entry, kernel, part, small_kernel
from orchestrator.kernels.lang.memory import prefetch
from orchestrator.kernels.lang.numbers import random_below, random_bits
from orchestrator.kernels.run.buffers import Bench, Buffers, Episode, RewardForm, Sampling, Source
from orchestrator.kernels.see.encode import encode, look_anew
from orchestrator.kernels.see.layout import Shown, decode
from orchestrator.kernels.see.metrics import cost, grown_cost
from orchestrator.kernels.see.queue import STATIC_WIDTH
from orchestrator.kernels.state.access import heap, queue
from orchestrator.kernels.state.codes import ActionKind, Placement, Reason, Status, Stream
from orchestrator.kernels.state.records import JOB_DTYPE, REQUEST_DTYPE, RUNNING_DTYPE, WORKER_DTYPE

__all__ = [
    "begin_jobs",
    "begin_rows",
    "begin_window",
    "load_surroundings",
    "open_choice",
    "prefetch_row",
    "replay_rows",
    "reset_rows",
    "step_rows",
]

Rows = NDArray[np.void]


_LINE = 64


_REQUEST_SIZE = REQUEST_DTYPE.itemsize


_JOB_SIZE = JOB_DTYPE.itemsize


_WORKER_SIZE = WORKER_DTYPE.itemsize


_RUNNING_SIZE = RUNNING_DTYPE.itemsize


_STATIC_SIZE = 4 * STATIC_WIDTH


_MOST_SHOWN = 32  # the processor itself goes on with what lies one behind the other


_ARRIVALS = 2


@small_kernel
def _prefetch_record(address, index, size):
    """Ask for record ``index`` of a table at an address."""
    first = address + np.int64(index) * size
    last = (first + size - 1) // _LINE * _LINE
    at = first
    while at < last:
        prefetch(at)
        at += _LINE
    prefetch(last)


@small_kernel
def _prefetch_job(row, j):
    _prefetch_record(row.request_at, j, _REQUEST_SIZE)
    _prefetch_record(row.job_at, j, _JOB_SIZE)


@small_kernel
def _prefetch_placed(row, j):
    _prefetch_job(row, j)
    prefetch(row.worker_at + np.int64(j) * row.max_workers * _WORKER_SIZE)


@part
def prefetch_row(row, e, action, buffers):
    """Ask for what stepping a row, ``e`` in the buffers, by a flat action will read."""
    statics = np.int64(buffers.static.ctypes.data) + e * row.max_jobs * _STATIC_SIZE
    last = min(row.next_arrival + _ARRIVALS, row.num_jobs)
    for j in range(row.next_arrival, last):
        _prefetch_job(row, j)
        prefetch(statics + j * _STATIC_SIZE)
    if row.heap_len > 0:
        _prefetch_placed(row, heap(row, 0).entity)
    shown = min(np.int64(buffers.shown[e, Shown.JOBS]), np.int64(_MOST_SHOWN))
    if row.commitment != 0:
        if 0 <= action < buffers.shown[e, Shown.JOBS]:
            _prefetch_placed(row, buffers.window[e, action])
    for i in range(shown):
        if row.commitment == 0:  # else what is read of them is their static features
            _prefetch_job(row, buffers.window[e, i])
        prefetch(statics + np.int64(buffers.window[e, i]) * _STATIC_SIZE)
    for i in range(buffers.shown[e, Shown.VICTIMS]):
        _prefetch_placed(row, buffers.victim_jobs[e, i])
    for i in range(buffers.shown[e, Shown.ELASTICS]):
        _prefetch_placed(row, buffers.elastic_jobs[e, i])
    _prefetch_record(row.running_at, np.int64(0), row.running_len * _RUNNING_SIZE)


_FIRST, _BEHIND = 0, 1  # columns of ranges


@part
def _advance_to_choice(row, bench):
    """Advance to a decision point that leaves a choice (with ``skip_forced``), or to the end."""
    status = advance(row, bench.nodes)
    while (
        status == Status.DECISION
        and row.skip_forced != 0
        and row.commitment != 0
        and row.queue_len == 1
    ):
        commit(
            row,
            np.int64(ActionKind.PLACE),
            np.int64(queue(row, 0).job),
            np.int64(Placement.FIRST_FIT),
            bench.nodes,
        )
        status = advance(row, bench.nodes)


@part
def open_choice(row, e, view, buffers, bench):
    """Describe the decision point; pass over those at which the windows show nothing to choose.

    What could be chosen may lie beyond the window. Where there is nothing to wait for either, the
    episode would otherwise never end.
    """
    while encode(row, e, view, buffers, bench) == 0 and row.done == 0:
        close_point(row)
        advance(row, bench.nodes)


@kernel
def load_surroundings(row, episode, index):
    """Give a row that has just begun all that window ``index`` has besides jobs and nodes."""
    first, last = episode.incident_range[index, _FIRST], episode.incident_range[index, _BEHIND]
    load_incidents(row, episode.incidents[first:last])
    load_tenants(row, episode.tenants)
    load_curves(row, episode.curves)
    load_uplinks(row, episode.uplinks)
    load_typical(row, episode.typical)
    load_series(row, episode.series_range[index, _FIRST], episode.series_range[index, _BEHIND])
    load_services(row, episode.services)
    load_plans(row, episode.plans)
    load_gittins(row, episode.gittins)


@part
def begin_jobs(row, seed, episode, index):
    """Begin a window of jobs and nodes, and of nothing else."""
    start = episode.starts[index]
    requests = episode.trace[start : start + episode.length]
    begin_episode(row, seed, episode.nodes, episode.standing, requests)


@part
def begin_window(row, seed, episode, index):
    """Begin a window."""
    begin_jobs(row, seed, episode, index)
    load_surroundings(row, episode, index)


@part
def _reference_cost(row, seed, source, index, bench):
    """Cost of the reference rule on a window, computed once."""
    prices = source.prices
    if np.isnan(prices.reference[index]):
        begin_window(row, seed, source.episode, index)
        replay(row, prices.reference_rule[0], bench.nodes, bench.jobs)
        prices.reference[index] = cost(row, prices.weights)
    return prices.reference[index]


@part
def _reset_row(row, e, seed, index, source, buffers, bench):
    """Begin an episode of row ``e`` on window ``index`` and advance to its first decision."""
    buffers.scale[e] = 1.0
    if source.prices.scaled != 0:
        # The windows' lengths are equal, so adding it keeps a calm window from weighing most.
        usual = abs(_reference_cost(row, seed, source, index, bench))
        buffers.scale[e] = 1.0 / (usual + max(source.episode.length, 1))
    begin_window(row, seed, source.episode, index)
    look_anew(row, e, source.seen, buffers)
    buffers.start_index[e] = index
    buffers.episode[e] += 1
    buffers.steps[e] = 0
    buffers.reward[e] = 0.0
    buffers.terminated[e] = False
    buffers.truncated[e] = False
    buffers.reason[e] = np.int32(Reason.OK)
    buffers.metrics[e, :] = 0.0
    _advance_to_choice(row, bench)
    if row.done != 0 and row.skip_forced != 0:
        # Every decision was forced: the first one is asked for all the same, so that there is one.
        begin_window(row, seed, source.episode, index)
        advance(row, bench.nodes)
    open_choice(row, e, source.seen, buffers, bench)
    buffers.terminated[e] = row.done != 0


@entry
def reset_rows(
    rows: Rows,
    which: NDArray[np.bool_],
    seeds: NDArray[np.uint64],
    indices: NDArray[np.int64],
    source: Source,
    buffers: Buffers,
    bench: Bench,
) -> None:
    """Reset the rows with ``which[e]``.

    ``seeds``, uint64 [E], are the rows'; an episode's random streams follow from its row's and from
    its number. ``indices``, int64 [E], are the windows to play, or -1 to pick one by the episodes'
    ``sampling``.
    """
    count = source.episode.starts.shape[0]
    for e in range(rows.shape[0]):
        if not which[e]:
            continue
        index = indices[e]
        if index < 0:
            if source.episode.sampling == Sampling.SEQUENTIAL:
                index = (e + buffers.episode[e] * rows.shape[0]) % count
            else:
                index = random_below(seeds[e], Stream.WORKLOAD, buffers.episode[e], count)
        seed = random_bits(seeds[e], 0, buffers.episode[e])
        _reset_row(rows[e], e, seed, index, source, buffers, bench)


@part
def _pay(row, e, prices, buffers):
    """Reward of a step: minus the cost that its metrics' growth adds up to, scaled."""
    over = buffers.terminated[e] or buffers.truncated[e]
    if prices.form == RewardForm.TERMINAL and not over:
        return
    grown = grown_cost(row, prices.weights, buffers.metrics[e])
    buffers.reward[e] = -grown * buffers.scale[e]


@entry
def step_rows(
    rows: Rows,
    begin: int,
    end: int,
    actions: NDArray[np.int64],
    source: Source,
    buffers: Buffers,
    bench: Bench,
) -> None:
    """Step rows ``begin`` to ``end`` (exclusive) by ``actions``, int64 [E].

    An illegal action changes nothing but the row's count of them; ``buffers.reason`` says why. A
    row that is done stays as it is, with reward 0.
    """
    for e in range(begin, end):
        if e + 1 < end:
            prefetch_row(rows[e + 1], e + 1, actions[e + 1], buffers)
        row = rows[e]
        buffers.reward[e] = 0.0
        if row.done != 0:
            continue
        buffers.steps[e] += 1
        kind, j, value = decode(row, e, actions[e], source.seen, buffers)
        reason = commit(row, kind, j, value, bench.nodes)
        buffers.reason[e] = np.int32(reason)
        if reason == Reason.OK:
            _advance_to_choice(row, bench)
            open_choice(row, e, source.seen, buffers, bench)
        buffers.terminated[e] = row.done != 0
        limit = row.step_limit
        buffers.truncated[e] = row.done == 0 and limit > 0 and buffers.steps[e] >= limit
        if reason == Reason.OK or buffers.truncated[e]:
            _pay(row, e, source.prices, buffers)


@entry
def begin_rows(
    rows: Rows,
    begin: int,
    end: int,
    indices: NDArray[np.int64],
    episode: Episode,
) -> None:
    """Begin a window in each row from ``begin`` to ``end`` (exclusive), and play nothing of it.

    ``indices``, int64 [E], are the rows' windows; they also seed their random streams.
    """
    for e in range(begin, end):
        begin_window(rows[e], random_bits(np.uint64(indices[e]), 0, 0), episode, indices[e])


@entry
def replay_rows(
    rows: Rows,
    begin: int,
    end: int,
    indices: NDArray[np.int64],
    rules: NDArray[np.void],
    episode: Episode,
    bench: Bench,
) -> None:
    """Play a window to its end in each row from ``begin`` to ``end`` (exclusive), under a rule.

    ``indices``, int64 [E], are the rows' windows; they also seed their random streams.
    """
    for e in range(begin, end):
        seed = random_bits(np.uint64(indices[e]), 0, 0)
        begin_window(rows[e], seed, episode, indices[e])
        replay(rows[e], rules[0], bench.nodes, bench.jobs)
