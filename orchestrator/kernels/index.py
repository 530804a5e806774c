"""The best node of a request without a scan: a tournament over all nodes for each request shape.

Jobs that ask for the same have the same key on a node. For each such shape a binary tree keeps the
winner of every pair of nodes; a placement touches few nodes, and only their paths to the root are
played again when the shape is asked for next. So a decision costs O(changes x log nodes).

The trees are a memo of the state, not a part of it: a placement from here is exactly the one that
a scan would find. Reading through the memo brings it up to date, which is the one thing outside
``transition`` that writes into a row's tables.
"""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.codes import Placement
from orchestrator.kernels.jit import kernel, small_kernel
from orchestrator.kernels.randomness import mix
from orchestrator.kernels.scores import NO_KEY, node_key
from orchestrator.kernels.slots import WHOLE, worker_slots
from orchestrator.kernels.tables import branch, request, shape_memo, touch

__all__ = ["fill_by_index", "has_index", "room_by_index"]

_WAYS = 8


@small_kernel
def has_index(row):
    """Whether looking up is faster than scanning: not if the trees are mostly empty."""
    return row.max_shapes > 0 and row.num_nodes * 8 >= row.tree


@kernel
def _play(row, s, entry):
    """Let the two entries below play; the left one, of the lower nodes, wins a draw."""
    left, right = branch(row, s, 2 * entry), branch(row, s, 2 * entry + 1)
    key, winner, slots = left.key, left.winner, left.slots
    if right.key > key:
        key, winner, slots = right.key, right.winner, right.slots
    here = branch(row, s, entry)
    if here.key == key and here.winner == winner and here.slots == slots:
        return False
    branch(row, s, entry).key = key
    branch(row, s, entry).winner = winner
    branch(row, s, entry).slots = slots
    return True


@kernel
def _set_leaf(row, s, n, key, slots):
    """Give node ``n`` a key, and play up to where nothing changes."""
    entry = row.tree // 2 + n
    branch(row, s, entry).key = key
    branch(row, s, entry).winner = np.int64(n)
    branch(row, s, entry).slots = np.int64(slots)
    entry >>= 1
    while entry > 0 and _play(row, s, entry):
        entry >>= 1


@kernel
def _refresh_leaf(row, s, j, n):
    memo = shape_memo(row, s)
    slots = worker_slots(row, j, n, memo.limit)
    key = NO_KEY
    if slots > 0:
        key = node_key(row, j, n, slots, memo.generator)
    shape_memo(row, s).total += slots - branch(row, s, row.tree // 2 + n).slots
    _set_leaf(row, s, n, key, slots)


@kernel
def _build(row, s, j):
    """Play the whole tournament."""
    memo = shape_memo(row, s)
    leaves = row.tree // 2
    total = np.int64(0)
    for n in range(leaves):
        slots, key = np.int64(0), NO_KEY
        if n < row.num_nodes:
            slots = worker_slots(row, j, n, memo.limit)
            if slots > 0:
                key = node_key(row, j, n, slots, memo.generator)
        total += slots
        branch(row, s, leaves + n).key = key
        branch(row, s, leaves + n).winner = np.int64(n)
        branch(row, s, leaves + n).slots = np.int64(slots)
    for entry in range(leaves - 1, 0, -1):
        _play(row, s, entry)
    shape_memo(row, s).total = total
    shape_memo(row, s).seen = row.touched


@kernel
def _catch_up(row, s, j):
    """Take account of the nodes that changed since this shape was last asked for."""
    seen = shape_memo(row, s).seen
    if row.touched - seen > min(row.max_touches, row.num_nodes):
        _build(row, s, j)
        return
    before = np.int64(-1)
    for k in range(seen, row.touched):
        n = touch(row, k & (row.max_touches - 1)).node
        if n != before:
            _refresh_leaf(row, s, j, n)
        before = n
    shape_memo(row, s).seen = row.touched


@small_kernel
def _is_shape(memo, ask, generator, limit):
    return (
        memo.used > 0
        and memo.gpus_per_worker == ask.gpus_per_worker
        and memo.gpu_milli == ask.gpu_milli
        and memo.cpu_milli == ask.cpu_milli
        and memo.memory_mib == ask.memory_mib
        and memo.gpu_memory_mib == ask.gpu_memory_mib
        and memo.model_mask == ask.model_mask
        and memo.generator == generator
        and memo.limit == limit
    )


@kernel
def _find_shape(row, j, generator, limit):
    """The remembered shape of job ``j``, up to date; the least recently used makes way."""
    ask = request(row, j)
    ways = min(_WAYS, row.max_shapes)
    word = mix(np.uint64(ask.cpu_milli) + np.uint64(ask.memory_mib) * np.uint64(0x100000001B3))
    word = mix(word + np.uint64(ask.gpu_milli * 128 + ask.gpus_per_worker))
    word = mix(word + np.uint64(ask.model_mask) + np.uint64(ask.gpu_memory_mib * 64))
    word = mix(word + np.uint64(limit * 64 + generator))
    base = np.int64(word % np.uint64(row.max_shapes // ways)) * ways
    row.shape_clock += 1
    oldest = base
    for s in range(base, base + ways):
        memo = shape_memo(row, s)
        if _is_shape(memo, ask, generator, limit):
            shape_memo(row, s).used = row.shape_clock
            _catch_up(row, s, j)
            return s
        if memo.used < shape_memo(row, oldest).used:
            oldest = s
    shape_memo(row, oldest).used = row.shape_clock
    shape_memo(row, oldest).gpus_per_worker = ask.gpus_per_worker
    shape_memo(row, oldest).gpu_milli = ask.gpu_milli
    shape_memo(row, oldest).cpu_milli = ask.cpu_milli
    shape_memo(row, oldest).memory_mib = ask.memory_mib
    shape_memo(row, oldest).gpu_memory_mib = ask.gpu_memory_mib
    shape_memo(row, oldest).model_mask = ask.model_mask
    shape_memo(row, oldest).generator = np.int64(generator)
    shape_memo(row, oldest).limit = limit
    _build(row, oldest, j)
    return oldest


@small_kernel
def _cap(row, j, workers):
    """Workers beyond which no node can tell a difference."""
    ask = request(row, j)
    if ask.gpus_per_worker == 0:
        return np.int64(workers)
    most = np.int64(row.max_devices) * (WHOLE // ask.gpu_milli) // ask.gpus_per_worker
    return max(min(np.int64(workers), most), np.int64(1))


@kernel
def room_by_index(row, j):
    """Workers of job ``j`` that all nodes together hold; exact up to as many as it asks for."""
    limit = _cap(row, j, request(row, j).workers)
    s = _find_shape(row, j, np.int64(Placement.BEST_FIT), limit)
    return shape_memo(row, s).total


@kernel
def _mask(row, s, nodes, start, end):
    """Take nodes of this gang out of a tournament."""
    for w in range(start, end):
        if w == start or nodes[w] != nodes[w - 1]:
            slots = branch(row, s, row.tree // 2 + nodes[w]).slots
            _set_leaf(row, s, np.int64(nodes[w]), NO_KEY, slots)


@kernel
def _unmask(row, j, s, nodes, placed):
    for w in range(placed):
        if w == 0 or nodes[w] != nodes[w - 1]:
            _refresh_leaf(row, s, j, np.int64(nodes[w]))


@kernel
def fill_by_index(row, j, workers, generator, nodes):
    """Fill one node after the other, the one of the highest key first; workers placed."""
    placed = np.int64(0)
    by_slots = generator == Placement.BEST_FIT  # the key depends on how many are left
    limit = _cap(row, j, workers)
    s = _find_shape(row, j, generator, limit)
    while placed < workers:
        best = branch(row, s, 1)
        if best.key == NO_KEY:
            break
        n = best.winner
        count = min(workers - placed, np.int64(best.slots))
        for w in range(placed, placed + count):
            nodes[w] = n
        placed += count
        if placed == workers:
            placed_before = placed - count
            if placed_before > 0:
                _unmask(row, j, s, nodes, placed_before)
            return placed
        left = _cap(row, j, workers - placed)
        if by_slots and left != limit:
            _unmask(row, j, s, nodes, placed - count)
            limit = left
            s = _find_shape(row, j, generator, limit)
            _mask(row, s, nodes, 0, placed)
        else:
            _mask(row, s, nodes, placed - count, placed)
    if placed > 0:
        _unmask(row, j, s, nodes, placed)
    return placed
