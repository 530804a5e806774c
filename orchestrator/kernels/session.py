"""Episodes of many rows: reset, step and encode into buffers that the caller owns.

This is the training shell's whole inner loop: decode an action, commit it, advance to the next
decision, accumulate the reward, encode. One call serves any range of rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.advance import advance
from orchestrator.kernels.buffers import (
    SETTINGS_DTYPE,
    Bench,
    Buffers,
    RewardForm,
    Sampling,
    Source,
)
from orchestrator.kernels.codes import (
    ActionKind,
    Placement,
    Reason,
    Status,
    Stream,
)
from orchestrator.kernels.commit import commit
from orchestrator.kernels.features import fill_static
from orchestrator.kernels.jit import kernel, part
from orchestrator.kernels.metrics import metric_value
from orchestrator.kernels.observe import decode, encode
from orchestrator.kernels.prefetch import prefetch_row
from orchestrator.kernels.randomness import random_below, random_bits
from orchestrator.kernels.rules import replay
from orchestrator.kernels.tables import queue
from orchestrator.kernels.transition.decide import close_point
from orchestrator.kernels.transition.episode import (
    begin_episode,
    load_curves,
    load_gittins,
    load_incidents,
    load_plans,
    load_services,
    load_tenants,
)
from orchestrator.kernels.transition.layout import load_typical, load_uplinks

__all__ = [
    "SETTINGS_DTYPE",
    "Bench",
    "Buffers",
    "RewardForm",
    "Sampling",
    "Source",
    "begin_rows",
    "load_surroundings",
    "replay_rows",
    "reset_rows",
    "step_rows",
]


Rows = NDArray[np.void]


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
def _open_choice(row, e, source, buffers, bench):
    """Describe the decision point; pass over those at which the windows show nothing to choose.

    What could be chosen may lie beyond the window. Where there is nothing to wait for either, the
    episode would otherwise never end.
    """
    while encode(row, e, source, buffers, bench) == 0 and row.done == 0:
        close_point(row)
        advance(row, bench.nodes)


@kernel
def _grown_cost(row, e, weights, metrics):
    """Weighted growth of the metrics that cost anything, since ``metrics`` [E, m] was noted."""
    cost = 0.0
    for m in range(weights.shape[0]):
        if weights[m] != 0.0:
            value = metric_value(row, m)
            cost += weights[m] * (value - metrics[e, m])
            metrics[e, m] = value
    return cost


@kernel
def load_surroundings(row, source, index):
    """Give a row that has just begun all that window ``index`` has besides jobs and nodes."""
    first, last = source.incident_range[index, 0], source.incident_range[index, 1]
    load_incidents(row, source.incidents[first:last])
    load_tenants(row, source.tenants)
    load_curves(row, source.curves)
    load_uplinks(row, source.uplinks)
    load_typical(row, source.typical)
    row.series_first = source.series_range[index, 0]
    row.series_stop = source.series_range[index, 1]
    load_services(row, source.services)
    load_plans(row, source.plans)
    load_gittins(row, source.gittins)


@part
def _begin(row, seed, source, index):
    start = source.starts[index]
    requests = source.trace[start : start + source.settings[0].length]
    begin_episode(row, seed, source.nodes, source.standing, requests)
    load_surroundings(row, source, index)


@part
def _reference_cost(row, seed, source, index, bench):
    """Cost of the reference rule on a window, computed once."""
    if np.isnan(source.reference[index]):
        _begin(row, seed, source, index)
        bench.metrics[:] = 0.0
        replay(row, source.reference_rule[0], bench.nodes, bench.jobs)
        source.reference[index] = _grown_cost(row, 0, source.weights, bench.metrics)
    return source.reference[index]


@part
def _reset_row(row, e, seed, index, source, buffers, bench):
    """Begin an episode of row ``e`` on window ``index`` and advance to its first decision."""
    settings = source.settings[0]
    buffers.scale[e] = 1.0
    if settings.scaled != 0:
        # The windows' lengths are equal, so adding it keeps a calm window from weighing most.
        cost = abs(_reference_cost(row, seed, source, index, bench))
        buffers.scale[e] = 1.0 / (cost + max(settings.length, np.int64(1)))
    _begin(row, seed, source, index)
    fill_static(row, np.int64(settings.encoding), source.maxima, buffers.static[e])
    buffers.start_index[e] = index
    buffers.nodes_seen[e] = -1
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
        _begin(row, seed, source, index)
        advance(row, bench.nodes)
    _open_choice(row, e, source, buffers, bench)
    buffers.terminated[e] = row.done != 0


@kernel
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

    Parameters
    ----------
    rows : ROW_DTYPE [E]
    which : bool [E]
    seeds : uint64 [E]
        Each row's seed; an episode's random streams follow from it and the episode's number.
    indices : int64 [E]
        Window to play, or -1 to pick one by the settings' sampling.
    source, buffers, bench
    """
    count = source.starts.shape[0]
    for e in range(rows.shape[0]):
        if not which[e]:
            continue
        index = indices[e]
        if index < 0:
            if source.settings[0].sampling == Sampling.SEQUENTIAL:
                index = (e + buffers.episode[e] * rows.shape[0]) % count
            else:
                index = random_below(seeds[e], Stream.WORKLOAD, buffers.episode[e], count)
        seed = random_bits(seeds[e], 0, buffers.episode[e])
        _reset_row(rows[e], e, seed, index, source, buffers, bench)


@part
def _pay(row, e, source, buffers):
    """Reward of a step: minus the cost that its metrics' growth adds up to, scaled."""
    over = buffers.terminated[e] or buffers.truncated[e]
    if source.settings[0].form == RewardForm.TERMINAL and not over:
        return
    cost = _grown_cost(row, e, source.weights, buffers.metrics)
    buffers.reward[e] = -cost * buffers.scale[e]


@kernel
def step_rows(
    rows: Rows,
    begin: int,
    end: int,
    actions: NDArray[np.int64],
    source: Source,
    buffers: Buffers,
    bench: Bench,
) -> None:
    """Step rows ``begin`` to ``end``.

    An illegal action changes nothing but the row's count of them; ``buffers.reason`` says why.
    A row that is done stays as it is, with reward 0.

    Parameters
    ----------
    rows : ROW_DTYPE [E]
    begin, end : int
    actions : int64 [E]
    source, buffers, bench
    """
    for e in range(begin, end):
        if e + 1 < end:
            prefetch_row(rows[e + 1], e + 1, actions[e + 1], buffers)
        row = rows[e]
        buffers.reward[e] = 0.0
        if row.done != 0:
            continue
        buffers.steps[e] += 1
        kind, j, value = decode(row, e, actions[e], source, buffers)
        reason = commit(row, kind, j, value, bench.nodes)
        buffers.reason[e] = np.int32(reason)
        if reason == Reason.OK:
            _advance_to_choice(row, bench)
            _open_choice(row, e, source, buffers, bench)
        buffers.terminated[e] = row.done != 0
        limit = row.step_limit
        buffers.truncated[e] = row.done == 0 and limit > 0 and buffers.steps[e] >= limit
        if reason == Reason.OK or buffers.truncated[e]:
            _pay(row, e, source, buffers)


@kernel
def begin_rows(
    rows: Rows,
    begin: int,
    end: int,
    indices: NDArray[np.int64],
    source: Source,
) -> None:
    """Begin a window in each row from ``begin`` to ``end``, and play nothing of it.

    Parameters
    ----------
    rows : ROW_DTYPE [E]
    begin, end : int
    indices : int64 [E]
        Window of each row; it also seeds the row's random streams.
    source
    """
    for e in range(begin, end):
        _begin(rows[e], random_bits(np.uint64(indices[e]), 0, 0), source, indices[e])


@kernel
def replay_rows(
    rows: Rows,
    begin: int,
    end: int,
    indices: NDArray[np.int64],
    rules: NDArray[np.void],
    source: Source,
    bench: Bench,
) -> None:
    """Play a window to its end in each row from ``begin`` to ``end``, under a rule.

    Parameters
    ----------
    rows : ROW_DTYPE [E]
    begin, end : int
    indices : int64 [E]
        Window of each row; it also seeds the row's random streams.
    rules : RULE_DTYPE [1]
    source, bench
    """
    for e in range(begin, end):
        seed = random_bits(np.uint64(indices[e]), 0, 0)
        _begin(rows[e], seed, source, indices[e])
        replay(rows[e], rules[0], bench.nodes, bench.jobs)
