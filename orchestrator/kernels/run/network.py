"""A set network over the jobs of a window: what a ranker adds to its weighted sum of features.

    u_i = relu(own . x_i + bias)
    z_i = relu(inner . u_i + mean . avg(u) + most . max(u) + beside . b_i + around . g + inner_bias)
    score_i = linear . x_i + out . z_i

x_i are the ``DEFAULT`` features of a job, g those of the cluster; b_i is the sum of the u_j of the
jobs that would still fit if job i were started now, over the number of jobs. So a job's score
depends on who else waits, and permuting jobs permutes scores. With ``out`` zero it is the linear
ranker.

All weights lie in one vector of float32, see :func:`weight_layout`. Units are the lanes of wide
operations: 16 at a time, in loops of fixed length, without multiplications fused with additions, so
that the same weights and features give the same bits wherever they are computed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.lang.jit import entry, kernel, small_kernel
from orchestrator.kernels.see.layout import DEFAULT_NAMES, GLOBAL_NAMES, QueueColumn
from orchestrator.kernels.see.queue import make_scratch

__all__ = [
    "LANES",
    "STEPS",
    "NetworkBench",
    "make_network",
    "score_set",
    "score_sets",
    "set_network",
    "weight_count",
    "weight_layout",
]


_F = np.float32


LANES = 16
"""Units of a network are a multiple of it."""


STEPS = 128
"""In so many steps of the capacity a demand is compared with what is left."""


_OWN, _GLOBALS = len(DEFAULT_NAMES), len(GLOBAL_NAMES)


# Rows of the pools.
_AVERAGE, _MOST, _COMMON, _DEEPER = 0, 1, 2, 3


_ZERO, _ONE = _F(0.0), _F(1.0)


_EIGHT = 8


_1, _2, _3, _4, _5, _6, _7 = (np.uint64(k) for k in range(1, _EIGHT))


_L = np.uint64(LANES)


_ALMOST_ONE, _A_BIT = _F(1.0 - 1e-3), _F(1e-3)


class NetworkBench(NamedTuple):
    """Weights of one network, and scratch; H units, Q window, J jobs. H is 0: there is none."""

    hidden: int
    weights: NDArray[np.float32]  # [(32 + 4 H) H] the matrices' rows, see set_network
    bias: NDArray[np.float32]  # [H]
    inner_bias: NDArray[np.float32]  # [H]
    out: NDArray[np.float32]  # [H]
    linear: NDArray[np.float32]  # [LANES] zeros behind the features
    window: NDArray[np.int32]  # [Q] jobs, as all that follows for who describes them
    releases: NDArray[np.float32]  # see.queue.make_scratch
    table: NDArray[np.int32]
    columns: NDArray[np.float32]
    features: NDArray[np.float32]  # [Q, LANES] zeros behind the features
    around: NDArray[np.float32]  # [LANES] the cluster, zeros behind
    units: NDArray[np.float32]  # [Q, H]
    pools: NDArray[np.float32]  # [4, H]
    fitting: NDArray[np.float32]  # [STEPS + 1, H] units of the jobs of at most that demand
    parts: NDArray[np.float32]  # [LANES] of a score


def weight_layout(hidden: int) -> dict[str, tuple[int, tuple[int, ...]]]:
    """Where each part of a network's weights begins in their vector, and its shape.

    Parameters
    ----------
    hidden : int
        Units of both layers, a multiple of :data:`LANES`; 0: a linear ranker.

    Returns
    -------
    dict of str to (int, tuple of int)
        Matrices have a row for each input.
    """
    square = (hidden, hidden)
    shapes: dict[str, tuple[int, ...]] = {"linear": (_OWN,)}
    if hidden > 0:
        shapes |= {
            "own": (_OWN, hidden),
            "bias": (hidden,),
            "mean": square,
            "most": square,
            "around": (_GLOBALS, hidden),
            "inner_bias": (hidden,),
            "beside": square,
            "inner": square,
            "out": (hidden,),
        }
    layout, at = {}, 0
    for name, shape in shapes.items():
        layout[name] = (at, shape)
        at += int(np.prod(shape))
    return layout


def weight_count(hidden: int) -> int:
    """Weights of a network of so many units."""
    at, shape = list(weight_layout(hidden).values())[-1]
    return at + int(np.prod(shape))


def make_network(jobs: int, window: int, hidden: int) -> NetworkBench:
    """Allocate the scratch of one thread for networks of so many units, and windows of jobs."""
    if hidden == 0:
        jobs, window = 1, 1
    releases, table, columns = make_scratch(jobs, window)
    width = max(hidden, 1)
    return NetworkBench(
        hidden=hidden,
        weights=np.zeros((2 * LANES + 4 * hidden) * width, np.float32),
        bias=np.zeros(width, np.float32),
        inner_bias=np.zeros(width, np.float32),
        out=np.zeros(width, np.float32),
        linear=np.zeros(LANES, np.float32),
        window=np.zeros(window, np.int32),
        releases=releases,
        table=table,
        columns=columns,
        features=np.zeros((window, LANES), np.float32),
        around=np.zeros(LANES, np.float32),
        units=np.zeros((window, width), np.float32),
        pools=np.zeros((4, width), np.float32),
        fitting=np.zeros((STEPS + 1, width), np.float32),
        parts=np.zeros(LANES, np.float32),
    )


# --- weights -------------------------------------------------------------------------------------


@small_kernel
def _rows_of(hidden):
    """Rows of the matrices of a bench."""
    return 2 * LANES + 4 * hidden


@small_kernel
def _copy_rows(weights, at, count, bench, row):
    """Copy so many rows of the vector, from ``at`` on, to the bench; where the next ones are."""
    H = bench.hidden
    for r in range(count):
        for block in range(H // LANES):
            to = (block * _rows_of(H) + row + r) * LANES
            for lane in range(LANES):
                bench.weights[to + lane] = weights[at + r * H + block * LANES + lane]
    return at + count * H


@small_kernel
def _copy(weights, at, out):
    """Copy a vector of weights; where the next ones are."""
    for h in range(out.shape[0]):
        out[h] = weights[at + h]
    return at + out.shape[0]


@kernel
def set_network(weights, bench):
    """Let ``bench`` compute the network of these weights, float32 [weight_count(hidden)].

    Rows of its matrices: own, filled up with zeros to LANES, around likewise; then mean, most,
    beside, inner. LANES units of all of them lie together, then the next ones.
    """
    H = bench.hidden
    for f in range(_OWN):
        bench.linear[f] = weights[f]
    if H == 0:
        return
    at = _copy_rows(weights, _OWN, _OWN, bench, 0)
    at = _copy(weights, at, bench.bias)
    at = _copy_rows(weights, at, 2 * H, bench, 2 * LANES)
    at = _copy_rows(weights, at, _GLOBALS, bench, LANES)
    at = _copy(weights, at, bench.inner_bias)
    at = _copy_rows(weights, at, 2 * H, bench, 2 * LANES + 2 * H)
    _copy(weights, at, bench.out)


# --- scores --------------------------------------------------------------------------------------


# Loops over lanes have a fixed length, unsigned indices and long bodies, over what lies at fixed
# distances: only so the compiler makes them wide.


@kernel
def _add_product(base, values, count, weights, row, out):
    """``out`` = ``base`` + ``values`` [count] . rows of the weights from ``row`` on.

    ``count`` is a multiple of 8: so many rows at a time are written out.
    """
    rows = _rows_of(out.shape[0])
    for block in range(out.shape[0] // LANES):
        at = np.uint64(block * LANES)
        for chunk in range(count // _EIGHT):
            k = np.uint64(chunk * _EIGHT)
            v0, v1, v2, v3 = values[k], values[k + _1], values[k + _2], values[k + _3]
            v4, v5, v6, v7 = values[k + _4], values[k + _5], values[k + _6], values[k + _7]
            first = np.uint64((block * rows + row + chunk * _EIGHT) * LANES)
            before = base if chunk == 0 else out
            for lane in range(LANES):
                i = np.uint64(lane)
                w = first + i
                low = (v0 * weights[w] + v1 * weights[w + _1 * _L]) + (
                    v2 * weights[w + _2 * _L] + v3 * weights[w + _3 * _L]
                )
                high = (v4 * weights[w + _4 * _L] + v5 * weights[w + _5 * _L]) + (
                    v6 * weights[w + _6 * _L] + v7 * weights[w + _7 * _L]
                )
                out[at + i] = before[at + i] + (low + high)


@small_kernel
def _activate(units, total, most):
    """Cut units off at zero, add them to a total, and keep the largest."""
    for block in range(units.shape[0] // LANES):
        at = np.uint64(block * LANES)
        for lane in range(LANES):
            h = at + np.uint64(lane)
            u = units[h] if units[h] > _ZERO else _ZERO
            units[h] = u
            total[h] += u
            most[h] = most[h] if most[h] > u else u


@small_kernel
def _demand_step(bench, i):
    """The first step of the capacity that is enough for a job of the window."""
    share = bench.features[i, QueueColumn.DEMAND_SHARE]
    return min(np.int64(share * _F(STEPS) + _ALMOST_ONE), STEPS)


@small_kernel
def _room_step(bench, i):
    """The last step of the capacity that is left if a job of the window is started now; or -1."""
    slack = bench.features[i, QueueColumn.SLACK]
    if slack < _ZERO:
        return -1
    return min(np.int64(slack * _F(STEPS) + _A_BIT), STEPS)


@kernel
def _first_layer(bench, count):
    """The units of each job, their mean and their maximum; the most room that any leaves."""
    average, most, room = bench.pools[_AVERAGE], bench.pools[_MOST], -1
    average[:] = _ZERO
    most[:] = _ZERO
    for i in range(count):
        units = bench.units[i]
        _add_product(bench.bias, bench.features[i], LANES, bench.weights, 0, units)
        _activate(units, average, most)
        room = max(room, _room_step(bench, i))
    share = _ONE / _F(count)
    for h in range(bench.hidden):
        average[h] *= share
    return room


@kernel
def _add_up_demands(bench, count, room):
    """Sum the units of the jobs of at most each demand, up to so much room; over their number."""
    fitting, share = bench.fitting, _ONE / _F(count)
    fitting[: room + 1] = _ZERO
    for i in range(count):
        step = _demand_step(bench, i)
        if step <= room:
            for h in range(bench.hidden):
                fitting[step, h] += bench.units[i, h] * share
    for step in range(1, room + 1):
        for h in range(bench.hidden):
            fitting[step, h] += fitting[step - 1, h]


@small_kernel
def _sum_parts(p):
    """The sum of LANES numbers, half upon half, which is quick; they are overwritten."""
    half = LANES // 2
    while half > 0:
        for k in range(half):
            p[k] += p[k + half]
        half //= 2
    return p[0]


@kernel
def score_set(bench, count, scores):
    """Score the first ``count`` jobs that the bench's ``features`` and ``around`` describe."""
    H, weights, parts = bench.hidden, bench.weights, bench.parts
    common, deeper, out = bench.pools[_COMMON], bench.pools[_DEEPER], bench.out
    beside = 2 * LANES + 2 * H
    room = _first_layer(bench, count)
    if room >= 0:
        _add_up_demands(bench, count, room)
    _add_product(bench.inner_bias, bench.pools[_AVERAGE], H, weights, 2 * LANES, common)
    _add_product(common, bench.pools[_MOST], H, weights, 2 * LANES + H, common)
    _add_product(common, bench.around, LANES, weights, LANES, common)
    for i in range(count):
        _add_product(common, bench.units[i], H, weights, beside + H, deeper)
        step = _room_step(bench, i)
        if step >= 0:
            _add_product(deeper, bench.fitting[step], H, weights, beside, deeper)
        for lane in range(LANES):
            k = np.uint64(lane)
            parts[k] = bench.linear[k] * bench.features[i, k]
        for block in range(H // LANES):
            for lane in range(LANES):
                k, h = np.uint64(lane), np.uint64(block * LANES + lane)
                parts[k] += (deeper[h] if deeper[h] > _ZERO else _ZERO) * out[h]
        scores[i] = _sum_parts(parts)


@entry
def score_sets(
    features: NDArray[np.float32],
    around: NDArray[np.float32],
    mask: NDArray[np.int8],
    weights: NDArray[np.float32],
    bench: NetworkBench,
    scores: NDArray[np.float32],
) -> None:
    """Score the legal jobs of B states, for Python; of the others nothing is written.

    ``features`` float32 [B, Q, 14], ``around`` float32 [B, 8], ``mask`` int8 [B, Q], ``weights``
    float32 [weight_count(hidden)], ``scores`` float32 [B, Q]; the bench has room for Q jobs.
    """
    set_network(weights, bench)
    found = bench.columns[0]
    for b in range(mask.shape[0]):
        count = 0
        for i in range(mask.shape[1]):
            if mask[b, i] != 0:
                for f in range(_OWN):
                    bench.features[count, f] = features[b, i, f]
                count += 1
        for g in range(_GLOBALS):
            bench.around[g] = around[b, g]
        if count > 0:
            score_set(bench, count, found)
        count = 0
        for i in range(mask.shape[1]):
            if mask[b, i] != 0:
                scores[b, i] = found[count]
                count += 1
