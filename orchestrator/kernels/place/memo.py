"""What placements depend on, remembered by request kind and node.

Workers that ask for the same are placed alike. Kinds of requests are therefore numbered when jobs
are loaded, and what one kind finds on a node is kept at ``memo[kind][node]``: how many workers the
node holds; for large clusters and for generators whose keys are dear also its key, with a
tournament tree on top, so that a decision costs O(changes x log nodes); for environments that
choose nodes also the node's features. A gang's size is not part of its kind.

All of it is valid up to a number of touches: ``row.touched`` counts the changes of nodes, and never
begins anew. Reading brings an entry up to date, by looking again at the nodes that were touched
since. So this is the one thing outside ``change`` that writes into a row's tables: a memo of
the state, and no part of it. What is placed by it is exactly what a scan would place. For rows
without it (``row.kinds`` 0), and for jobs that came when the table was full (``job.kind`` 0), all
nodes are looked at.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.lang.jit import kernel, small_kernel
from orchestrator.kernels.lang.memory import copy_record
from orchestrator.kernels.place.score import MOST_FREE, NO_KEY, node_key
from orchestrator.kernels.place.slots import ANY_NUMBER, free_share, worker_slots
from orchestrator.kernels.state.access import (
    job,
    key,
    kind,
    node,
    request,
    room,
    slot,
    touch,
    view,
    winner,
)
from orchestrator.kernels.state.codes import Placement
from orchestrator.kernels.state.records import VIEWS

__all__ = [
    "NodeMemo",
    "best_node",
    "copy_kinds",
    "find_kind",
    "find_view",
    "forget_kind",
    "forget_kinds",
    "forget_nodes",
    "intern_kind",
    "is_far_behind",
    "is_last_touch",
    "make_node_memo",
    "mask_nodes",
    "refresh_room",
    "slots_at",
    "sum_up",
    "undo_touches",
    "unmask_nodes",
    "update_rooms",
    "uses_tree",
]


# --- kinds ---------------------------------------------------------------------------------------


@small_kernel
def _is_kind(known, ask):
    return (
        known.memory_mib == ask.memory_mib
        and known.cpu_milli == ask.cpu_milli
        and known.gpus_per_worker == ask.gpus_per_worker
        and known.gpu_milli == ask.gpu_milli
        and known.gpu_memory_mib == ask.gpu_memory_mib
        and known.model_mask == ask.model_mask
    )


@kernel
def intern_kind(row, j):
    """Number the request of job ``j``, which is loaded: the first ones come first.

    When the table is full, a kind of which there is no job any more makes way.
    """
    job(row, j).kind = 0
    if row.kinds == 0:
        return
    ask = request(row, j)
    k = np.int64(1)
    while k <= row.num_kinds and not _is_kind(kind(row, k), ask):
        k += 1
    if k > row.num_kinds:
        if row.num_kinds < row.kinds:
            row.num_kinds += 1
        else:
            k = np.int64(1)
            while k <= row.kinds and kind(row, k).jobs > 0:
                k += 1
            if k > row.kinds:
                return
        known = kind(row, k)
        known.memory_mib = ask.memory_mib
        known.cpu_milli = ask.cpu_milli
        known.gpus_per_worker = ask.gpus_per_worker
        known.gpu_milli = ask.gpu_milli
        known.gpu_memory_mib = ask.gpu_memory_mib
        known.model_mask = np.int64(ask.model_mask)
        known.jobs, known.seen, known.summed, known.next_view, known.walk = 0, 0, 0, 0, 0
        known.full_walk = 0
        for v in range(k * VIEWS, (k + 1) * VIEWS):
            view(row, v).seen = 0
    kind(row, k).jobs += 1
    job(row, j).kind = k


@small_kernel
def forget_kind(row, j):
    """Job ``j`` leaves the job table."""
    kind(row, job(row, j).kind).jobs -= 1


@small_kernel
def forget_kinds(row):
    """An episode begins: nothing is loaded."""
    row.num_kinds = 0


@kernel
def copy_kinds(source, target):
    """Give the jobs of a row that was copied their kinds in their new row."""
    if target.kinds == source.kinds:
        for k in range(1, source.num_kinds + 1):
            copy_record(kind(target, k), kind(source, k))
    else:
        forget_kinds(target)
        for j in range(target.num_jobs):
            intern_kind(target, j)


# --- validity ------------------------------------------------------------------------------------


@small_kernel
def forget_nodes(row):
    """The nodes have become others: all that is remembered of them is far behind."""
    row.touched += row.max_touches + 1


@small_kernel
def is_far_behind(row, seen):
    """Whether looking at all nodes is less work than at those that changed, or these are lost."""
    behind = row.touched - seen
    return behind > min(row.max_touches, row.num_nodes) or behind < 0


@small_kernel
def is_last_touch(row, n, number):
    """Whether a touch of node ``n`` is the last one up to now: the others need not be looked at."""
    return room(row, n).touched == number


@kernel
def undo_touches(row, j, before):
    """A what-if about job ``j`` is over, and all is as it was when ``before`` nodes were touched.

    Nobody else has to look at these nodes again. What was remembered amid the what-if is forgotten,
    but for the slots of the job's own kind. Where too many were touched nothing is undone.
    """
    if row.kinds == 0 or row.touched - before > row.max_touches - row.num_nodes:
        return
    own, never = find_kind(row, j), before - row.max_touches - 1
    for number in range(row.touched - 1, before - 1, -1):
        entry = touch(row, number & (row.max_touches - 1))
        room(row, entry.node).touched = entry.before
    for k in range(1, row.num_kinds + 1):
        if kind(row, k).seen > before:
            kind(row, k).seen = before if k == own else never
        if kind(row, k).summed > before:
            kind(row, k).summed = never
        for v in range(k * VIEWS, (k + 1) * VIEWS):
            if view(row, v).seen > before:
                view(row, v).seen = 0
    if row.rooms_seen > before:
        row.rooms_seen = never
    row.touched = before


# --- slots and rooms -----------------------------------------------------------------------------


@kernel
def _catch_up(row, j, k):
    """Take account of the nodes that changed since a kind was last asked for."""
    known = kind(row, k)
    if is_far_behind(row, known.seen):
        total = np.int64(0)
        for n in range(row.num_nodes):
            slots = worker_slots(row, j, np.int64(n), ANY_NUMBER)
            slot(row, k, n).workers = np.int32(slots)
            total += slots
        known.total = total
    else:
        for number in range(known.seen, row.touched):
            n = touch(row, number & (row.max_touches - 1)).node
            if is_last_touch(row, n, number):
                slots = worker_slots(row, j, n, ANY_NUMBER)
                known.total += slots - slot(row, k, n).workers
                slot(row, k, n).workers = np.int32(slots)
    known.seen = row.touched


@small_kernel
def find_kind(row, j):
    """The kind of job ``j``, its slots and their total up to date; 0 if it is not remembered."""
    k = job(row, j).kind
    if k > 0 and kind(row, k).seen != row.touched:
        _catch_up(row, j, k)
    return k


@small_kernel
def refresh_room(row, n):
    """Note what is free on node ``n`` now."""
    room(row, n).gpu_milli = node(row, n).gpu_free_milli
    room(row, n).cpu_milli = node(row, n).cpu_free_milli
    room(row, n).share = free_share(row, n)


@kernel
def _catch_up_rooms(row):
    if is_far_behind(row, row.rooms_seen):
        for n in range(row.num_nodes):
            refresh_room(row, np.int64(n))
            room(row, n).mates = 0
    else:
        for number in range(row.rooms_seen, row.touched):
            refresh_room(row, touch(row, number & (row.max_touches - 1)).node)
    row.rooms_seen = row.touched


@small_kernel
def update_rooms(row):
    """Take account of the nodes that changed since this was last called."""
    if row.rooms_seen != row.touched:
        _catch_up_rooms(row)


@small_kernel
def slots_at(row, j, k, n, limit):
    """Workers of job ``j``, of kind ``k``, at most ``limit``, that node ``n`` can hold now."""
    if k > 0:
        return min(np.int64(slot(row, k, n).workers), limit)
    return worker_slots(row, j, n, limit)


@kernel
def sum_up(row, k):
    """Find the nodes that generators would choose for one worker. The rooms are up to date."""
    known = kind(row, k)
    if known.summed == row.touched:
        return
    first, tightest, later, roomiest = np.int64(-1), np.int64(-1), np.int64(-1), np.int64(-1)
    least, less, most = MOST_FREE + 1, MOST_FREE + 1, np.int64(-1)
    for n in range(row.num_nodes):
        if slot(row, k, n).workers <= 0:
            continue
        share = room(row, n).share
        if share > most:
            roomiest, most = np.int64(n), share
        share = min(share, MOST_FREE)
        if share < least:
            tightest, later = np.int64(n), tightest
            least, less = share, least
        elif share < less:
            later, less = np.int64(n), share
        if first < 0:
            first = np.int64(n)
    known.first = first
    known.tightest = tightest
    known.next_tightest = later
    known.roomiest = roomiest
    known.summed = row.touched


# --- keys, and the tree on top of them -----------------------------------------------------------


@small_kernel
def uses_tree(row, generator):
    """Whether a tree finds the nodes of a generator faster than a look at the slots of all."""
    if row.num_nodes * 4 < row.leaves or generator == Placement.UNIFORM:
        return False  # it is mostly empty, or would have to be built anew each time
    if generator == Placement.SPREAD or generator == Placement.RANDOM:
        return False
    dear = generator >= Placement.BUDDY and generator != Placement.WORST_FIT
    return dear or row.num_nodes > row.scanned_nodes


@kernel
def _key(row, j, k, v, n):
    """The key of node ``n`` in view ``v`` of kind ``k``."""
    slots = np.int64(slot(row, k, n).workers)
    if slots <= 0:
        return NO_KEY
    limit = view(row, v).limit
    if limit > 0:
        slots = min(slots, limit)
    return node_key(row, j, n, slots, view(row, v).generator)


@small_kernel
def _winner_at(row, v, entry):
    """Who won at an entry of a tree, and by which key; leaves are nodes."""
    if entry >= row.leaves:
        n = np.int64(entry - row.leaves)
        if n < row.num_nodes:
            return n, key(row, v, n).value
        return np.int64(-1), np.int64(NO_KEY)
    return winner(row, v, entry).node, winner(row, v, entry).key


@small_kernel
def _play(row, v, entry):
    """Who wins of the two entries below: the left one, of the lower nodes, if they are equal."""
    left, left_key = _winner_at(row, v, 2 * entry)
    right, right_key = _winner_at(row, v, 2 * entry + 1)
    if left_key >= right_key:
        return left, left_key
    return right, right_key


@kernel
def _set_key(row, v, n, value):
    """Give node ``n`` a key, and play up to where nothing changes."""
    if key(row, v, n).value == value:
        return
    key(row, v, n).value = value
    entry = (row.leaves + n) >> 1
    while entry > 0:
        best, best_key = _play(row, v, entry)
        if best == winner(row, v, entry).node and best != n:
            return
        winner(row, v, entry).node = best
        winner(row, v, entry).key = best_key
        entry >>= 1


@kernel
def _catch_up_view(row, j, k, v):
    """Take account of the nodes that changed since a view was last asked for."""
    if is_far_behind(row, view(row, v).seen):
        for n in range(row.num_nodes):
            key(row, v, n).value = _key(row, j, k, v, np.int64(n))
        for entry in range(row.leaves - 1, 0, -1):
            best, best_key = _play(row, v, np.int64(entry))
            winner(row, v, entry).node = best
            winner(row, v, entry).key = best_key
    else:
        for number in range(view(row, v).seen, row.touched):
            n = touch(row, number & (row.max_touches - 1)).node
            if is_last_touch(row, n, number):
                _set_key(row, v, n, _key(row, j, k, v, n))
    view(row, v).seen = row.touched


@kernel
def find_view(row, j, k, generator, limit):
    """The view of kind ``k`` by a generator, up to date; of a few, the oldest one makes way."""
    for v in range(k * VIEWS, (k + 1) * VIEWS):
        if view(row, v).seen > 0 and view(row, v).generator == generator:
            if view(row, v).limit == limit:
                if view(row, v).seen != row.touched:
                    _catch_up_view(row, j, k, np.int64(v))
                return np.int64(v)
    v = k * VIEWS + kind(row, k).next_view
    kind(row, k).next_view = (kind(row, k).next_view + 1) % VIEWS
    view(row, v).generator = generator
    view(row, v).limit = limit
    view(row, v).seen = 0
    _catch_up_view(row, j, k, v)
    return v


@small_kernel
def best_node(row, v):
    """The first node of the highest key; -1 if none holds a worker."""
    best = winner(row, v, 1)
    return best.node if best.key != NO_KEY else np.int64(-1)


@kernel
def mask_nodes(row, v, nodes, first, last):
    """Take the nodes of workers ``first`` to ``last`` (exclusive) of a gang out of a tournament."""
    for w in range(first, last):
        if w == first or nodes[w] != nodes[w - 1]:
            _set_key(row, v, np.int64(nodes[w]), NO_KEY)


@kernel
def unmask_nodes(row, j, k, v, nodes, last):
    """Undo :func:`mask_nodes` of the workers up to ``last`` (exclusive)."""
    for w in range(last):
        if w == 0 or nodes[w] != nodes[w - 1]:
            n = np.int64(nodes[w])
            _set_key(row, v, n, _key(row, j, k, v, n))


# --- features of nodes ---------------------------------------------------------------------------


class NodeMemo(NamedTuple):
    """How nodes look to gangs, where they are chosen; E rows, K kinds, N nodes offered, F features.

    Kinds from K on are not remembered. It belongs to whoever describes rows, not to the rows.
    """

    features: NDArray[np.float32]  # [E, K, N, F]
    seen: NDArray[np.int64]  # [E, K] touches that they take account of
    gang: NDArray[np.int64]  # [E, K] the gang that they are for: a kind's may differ in size
    models: NDArray[np.float64]  # [E, models, 3] scratch: free, capacity, demand


def make_node_memo(envs: int, kinds: int, nodes: int, width: int, models: int) -> NodeMemo:
    """Allocate an empty memory of ``width`` features of ``nodes`` nodes for ``kinds`` kinds."""
    entries = kinds + 1 if kinds > 0 else 0
    return NodeMemo(
        features=np.zeros((envs, entries, nodes, width), np.float32),
        seen=np.zeros((envs, entries), np.int64),
        gang=np.zeros((envs, entries), np.int64),
        models=np.zeros((envs, models, 3)),
    )
