"""How many workers of each request every node holds: a table that is kept, not worked out anew.

A policy that chooses among candidates has all jobs of its window placed at every step, by every
generator, and asks of every victim what would be if it were gone. All of that depends on two
things only: how many workers of a request each node could take, and how much is free there. Both
are kept here, for the requests that came up last; a node that changed is looked at again when a
request is asked for next.

Like the index (see ``index``) the table is a memo of the state and not a part of it: what is placed
from here is exactly what a scan would place, and reading brings it up to date. Rows have one if
their :class:`~orchestrator.kernels.state.ClusterShape` says so.
"""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.codes import Placement, Stream
from orchestrator.kernels.jit import kernel, small_kernel
from orchestrator.kernels.randomness import random_below
from orchestrator.kernels.scores import MOST_FREE, NO_KEY, free_share
from orchestrator.kernels.slots import worker_slots
from orchestrator.kernels.tables import ask_memo, job, node, request, room, slot, touch

__all__ = [
    "find_ask",
    "has_slot_table",
    "is_served",
    "place_by_table",
    "refresh_room",
    "sum_up",
    "update_rooms",
]

_WAYS = 8
_FREE_BITS = 40
_ANY_NUMBER = np.int64(1 << 20)  # of workers: more than a node holds


@small_kernel
def has_slot_table(row):
    """Whether the row keeps one."""
    return row.max_asks > 0


@kernel
def _refresh_slots(row, s, j, n):
    slots = worker_slots(row, j, n, _ANY_NUMBER)
    ask_memo(row, s).total += slots - slot(row, s, n).workers
    slot(row, s, n).workers = np.int32(slots)


@small_kernel
def refresh_room(row, n):
    """Note what is free on node ``n`` now."""
    room(row, n).gpu_milli = node(row, n).gpu_free_milli
    room(row, n).cpu_milli = node(row, n).cpu_free_milli
    room(row, n).share = free_share(row, n)


@small_kernel
def _is_far_behind(row, seen):
    """Whether looking at all nodes is less work than at those that changed, or these are lost."""
    return row.touched - seen > min(row.max_touches, row.num_nodes)


@kernel
def _catch_up(row, s, j):
    """Take account of the nodes that changed since an ask was last looked up."""
    seen = ask_memo(row, s).seen
    if seen < 0 or _is_far_behind(row, seen):
        ask_memo(row, s).total = 0
        for n in range(row.num_nodes):
            slot(row, s, n).workers = np.int32(0)
            _refresh_slots(row, s, j, np.int64(n))
    else:
        before = np.int64(-1)
        for k in range(seen, row.touched):
            n = touch(row, k & (row.max_touches - 1)).node
            if n != before:
                _refresh_slots(row, s, j, n)
            before = n
    ask_memo(row, s).seen = row.touched


@kernel
def _catch_up_rooms(row):
    seen = row.rooms_seen
    if seen < 0 or _is_far_behind(row, seen):
        for n in range(row.num_nodes):
            refresh_room(row, np.int64(n))
            room(row, n).mates = 0
    else:
        for k in range(seen, row.touched):
            refresh_room(row, touch(row, k & (row.max_touches - 1)).node)
    row.rooms_seen = row.touched


@small_kernel
def update_rooms(row):
    """Take account of the nodes that changed since this was last called."""
    if row.rooms_seen != row.touched:
        _catch_up_rooms(row)


@kernel
def _look_up(row, j):
    """Find what a worker of job ``j`` asks for; the least recently used makes way."""
    word = job(row, j).ask
    base = np.int64(word & np.uint64(row.max_asks - 1)) // _WAYS * _WAYS
    oldest = base
    for s in range(base, base + _WAYS):
        memo = ask_memo(row, s)
        if memo.used > 0 and memo.word == word:
            return s
        if memo.used < ask_memo(row, oldest).used:
            oldest = s
    ask_memo(row, oldest).word = word
    ask_memo(row, oldest).seen = -1
    ask_memo(row, oldest).summed = -1
    return oldest


@kernel
def find_ask(row, j):
    """The place of what a worker of job ``j`` asks for in the table, up to date."""
    s = job(row, j).ask_at
    if ask_memo(row, s).used == 0 or ask_memo(row, s).word != job(row, j).ask:
        s = np.int64(_look_up(row, j))
        job(row, j).ask_at = s
    row.shape_clock += 1
    ask_memo(row, s).used = row.shape_clock
    if ask_memo(row, s).seen != row.touched:
        _catch_up(row, s, j)
    return s


@kernel
def sum_up(row, s):
    """Find the nodes that generators would choose for one worker. The rooms are up to date."""
    if ask_memo(row, s).summed == row.touched:
        return
    first, tightest, later, roomiest = np.int64(-1), np.int64(-1), np.int64(-1), np.int64(-1)
    least, less, most = MOST_FREE + 1, MOST_FREE + 1, np.int64(-1)
    for n in range(row.num_nodes):
        if slot(row, s, n).workers <= 0:
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
    ask_memo(row, s).first = first
    ask_memo(row, s).tightest = tightest
    ask_memo(row, s).next_tightest = later
    ask_memo(row, s).roomiest = roomiest
    ask_memo(row, s).summed = row.touched


@small_kernel
def is_served(workers, generator):
    """Whether the table is all that a generator needs for so many workers of an unbound job."""
    if generator == Placement.TIGHTEST:
        return workers == 1
    return generator <= Placement.RANDOM or generator == Placement.WORST_FIT


@kernel
def _fill_in_order(row, s, workers, offset, nodes):
    """Nodes in order of their index, starting at ``offset``, each filled up."""
    placed = np.int64(0)
    n = offset
    for _ in range(row.num_nodes):
        count = min(np.int64(slot(row, s, n).workers), workers - placed)
        for w in range(placed, placed + count):
            nodes[w] = np.int32(n)
        placed += count
        if placed == workers:
            break
        n += 1
        if n == row.num_nodes:
            n = np.int64(0)
    return placed


@kernel
def _fill_by_key(row, s, workers, roomiest, nodes):
    """Fill one node after the other: the roomiest one, or the tightest of those that hold most."""
    placed = np.int64(0)
    while placed < workers:
        left = workers - placed
        best, best_key = np.int64(-1), NO_KEY
        for n in range(row.num_nodes):
            slots = min(np.int64(slot(row, s, n).workers), left)
            if slots <= 0:
                continue
            free = min(room(row, n).share, MOST_FREE)
            key = free if roomiest else (slots << _FREE_BITS) - free
            if key > best_key:
                best, best_key = np.int64(n), key
        if best < 0:
            break
        count = min(np.int64(slot(row, s, best).workers), left)
        slot(row, s, best).workers = -slot(row, s, best).workers  # it has had its turn
        for w in range(placed, placed + count):
            nodes[w] = np.int32(best)
        placed += count
    for w in range(placed):
        if w == 0 or nodes[w] != nodes[w - 1]:
            slot(row, s, nodes[w]).workers = -slot(row, s, nodes[w]).workers
    return placed


@kernel
def _spread(row, j, s, workers, nodes):
    """One worker at a time on the node with the most room left."""
    ask = request(row, j)
    each = np.int64(ask.gpus_per_worker) * ask.gpu_milli * 1048576 + ask.cpu_milli // 1024
    placed = np.int64(0)
    while placed < workers:
        best, best_room = np.int64(-1), np.int64(0)
        for n in range(row.num_nodes):
            if slot(row, s, n).workers > 0 and (best < 0 or room(row, n).share > best_room):
                best, best_room = np.int64(n), room(row, n).share
        if best < 0:
            break
        nodes[placed] = np.int32(best)
        slot(row, s, best).workers -= np.int32(1)
        room(row, best).share -= each
        placed += 1
    for w in range(placed):
        slot(row, s, nodes[w]).workers += np.int32(1)
        room(row, nodes[w]).share += each
    return placed


@kernel
def _place_one(row, s, generator, nodes):
    """One worker: first fit, best fit or spread."""
    sum_up(row, s)
    n = ask_memo(row, s).first
    if generator == Placement.BEST_FIT:
        n = ask_memo(row, s).tightest
    elif generator == Placement.SPREAD:
        n = ask_memo(row, s).roomiest
    nodes[0] = np.int32(n)
    return np.int64(n >= 0)


@kernel
def place_by_table(row, j, s, workers, generator, lifted, nodes):
    """Choose nodes for up to ``workers`` workers of job ``j``, as ``placement.place_workers`` does.

    Parameters
    ----------
    row : ROW_DTYPE record
        Its rooms are up to date.
    j : int
        A job that is not bound to topology domains.
    s : int
        From :func:`find_ask`.
    workers, generator : int
        For which :func:`is_served`.
    lifted : bool
        Whether a gang was taken out of the table's entries, for the sake of argument.
    nodes : int32 [>= workers]
        Filled with node indices.

    Returns
    -------
    int
        Workers that found a place.
    """
    if workers == 1 and generator <= Placement.SPREAD and not lifted:
        return _place_one(row, s, generator, nodes)
    if generator == Placement.SPREAD:
        return _spread(row, j, s, workers, nodes)
    if generator == Placement.FIRST_FIT:
        return _fill_in_order(row, s, workers, np.int64(0), nodes)
    if generator == Placement.RANDOM:
        offset = random_below(row.seed, Stream.PLACEMENT, row.point, row.num_nodes)
        return _fill_in_order(row, s, workers, offset, nodes)
    return _fill_by_key(row, s, workers, generator == Placement.WORST_FIT, nodes)
