"""What would happen if: whether a job that leaves lets another one in, and better places.

The same answers as lifting the job, asking, and putting it back: here they are worked out from what
is remembered, of which a job's absence changes only the entries of the nodes that it is on.
"""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.change.hold import lift_gang, restore_gang
from orchestrator.kernels.lang.jit import kernel, small_kernel
from orchestrator.kernels.place.domains import is_bound
from orchestrator.kernels.place.fit import fits, least_workers
from orchestrator.kernels.place.generate import fill_nodes, place_workers
from orchestrator.kernels.place.memo import find_kind, refresh_room, sum_up, update_rooms
from orchestrator.kernels.place.score import MOST_FREE
from orchestrator.kernels.place.slots import (
    WHOLE,
    distinct_nodes,
    free_units,
    node_allows,
    share_of,
)
from orchestrator.kernels.state.access import (
    job,
    kind,
    node,
    request,
    room,
    slot,
    worker,
)
from orchestrator.kernels.state.codes import (
    JobCode,
    JobKind,
    NodeCode,
    Placement,
    Reason,
)

__all__ = [
    "lets_in",
    "migration_reason",
    "moves_to_better",
    "plan_migration",
]


@kernel
def _workers_moved(row, j, nodes, workers):
    """Workers that would not be on a node that the gang is on already."""
    moves = 0
    for w in range(workers):
        here = False
        for other in range(workers):
            here = here or worker(row, j, other).node == nodes[w]
        if not here:
            moves += 1
    return moves


@kernel
def plan_migration(row, j, generator, nodes):
    """Find a better place for a running job: fewer nodes, or as many that are fuller.

    Whether there is one, as ``generator`` proposes it; ``nodes`` is filled, and the state is as
    before. Of two placements on equally many nodes the one whose nodes have less room besides is
    the tighter fit.
    """
    workers = np.int64(job(row, j).workers_now)
    for w in range(workers):
        nodes[w] = np.int32(worker(row, j, w).node)
    before = distinct_nodes(nodes, workers)
    lift_gang(row, j)
    placed = place_workers(row, j, workers, generator, nodes)
    room_here, room_there = np.int64(0), np.int64(0)
    if placed >= workers:
        for w in range(workers):
            room_here += free_units(row, worker(row, j, w).node)
            room_there += free_units(row, np.int64(nodes[w]))
    restore_gang(row, j)
    if placed < workers:
        return False
    after = distinct_nodes(nodes, workers)
    if after == before:  # among the nodes that it is on already, a move would change nothing
        return room_there < room_here and _workers_moved(row, j, nodes, workers) > 0
    return after < before


@kernel
def migration_reason(row, j):
    """Whether running job ``j`` may be moved, a place left out of account: a ``Reason``."""
    if row.migrate == 0:
        return Reason.UNKNOWN_ACTION
    if job(row, j).state != JobCode.RUNNING or request(row, j).kind == JobKind.SERVICE:
        return Reason.NOT_RUNNING
    if request(row, j).preemptible == 0:
        return Reason.NOT_PREEMPTIBLE
    if row.now_ms - job(row, j).resized_ms < row.min_run_ms:
        return Reason.MIN_RUN_TIME
    return Reason.OK


@small_kernel
def _takes_whole_devices(row, j):
    ask = request(row, j)
    return ask.gpus_per_worker == 0 or ask.gpu_milli == WHOLE


@kernel
def _slots_without(row, first, v, n, mates):
    """Workers of job ``first`` that node ``n`` holds when ``mates`` workers of job ``v`` are gone.

    Both take whole devices, if any.
    """
    if node(row, n).state != NodeCode.UP or not node_allows(row, first, n):
        return np.int64(0)
    ask, gone = request(row, first), request(row, v)
    slots = np.int64(1 << 20)
    if ask.cpu_milli > 0:
        slots = min(slots, (node(row, n).cpu_free_milli + mates * gone.cpu_milli) // ask.cpu_milli)
    if ask.memory_mib > 0:
        free = node(row, n).memory_free_mib + mates * gone.memory_mib
        slots = min(slots, free // ask.memory_mib)
    if ask.gpus_per_worker > 0:
        devices = node(row, n).whole_free + mates * gone.gpus_per_worker
        slots = min(slots, devices // ask.gpus_per_worker)
    return slots


@kernel
def lets_in(row, first, v):
    """Whether job ``first``, which does not fit, would fit if running job ``v`` were gone."""
    plain = _takes_whole_devices(row, first) and _takes_whole_devices(row, v)
    if not plain or job(row, first).kind == 0 or is_bound(row, first):
        lift_gang(row, v)
        helps = fits(row, first)
        restore_gang(row, v)
        return helps
    update_rooms(row)
    k = find_kind(row, first)
    total = kind(row, k).total
    workers = job(row, v).workers_now
    for w in range(workers):
        room(row, worker(row, v, w).node).mates += 1
    for w in range(workers):
        n = worker(row, v, w).node
        if room(row, n).mates > 0:
            total += _slots_without(row, first, v, n, room(row, n).mates)
            total -= slot(row, k, n).workers
            room(row, n).mates = 0
    return total >= least_workers(row, first)


@small_kernel
def _room(row, n):
    return room(row, n).gpu_milli if row.unit != 0 else room(row, n).cpu_milli


@kernel
def _lift_remembered(row, j, k):
    """Take a running gang out of what is remembered; return how many nodes it is on."""
    ask = request(row, j)
    touched = np.int64(0)
    for w in range(job(row, j).workers_now):
        n = worker(row, j, w).node
        touched += room(row, n).mates == 0
        room(row, n).mates += 1
        room(row, n).gpu_milli += ask.gpus_per_worker * ask.gpu_milli
        room(row, n).cpu_milli += ask.cpu_milli
        room(row, n).share = share_of(room(row, n).gpu_milli, room(row, n).cpu_milli)
        if node(row, n).state == NodeCode.UP and node_allows(row, j, n):
            slot(row, k, n).workers += np.int32(1)
    return touched


@kernel
def _restore_remembered(row, j, k):
    for w in range(job(row, j).workers_now):
        n = worker(row, j, w).node
        room(row, n).mates = 0
        refresh_room(row, n)
        if node(row, n).state == NodeCode.UP and node_allows(row, j, n):
            slot(row, k, n).workers -= np.int32(1)


@kernel
def _single_moves(row, j, k):
    """Whether a job of one worker has a tighter place, best fit, than the node that it is on."""
    if kind(row, k).total == 0:
        return False
    sum_up(row, k)
    ask = request(row, j)
    own = worker(row, j, 0).node
    other = kind(row, k).tightest
    if other == own:
        other = kind(row, k).next_tightest
    if other < 0:
        return False
    gpu = room(row, own).gpu_milli + ask.gpus_per_worker * ask.gpu_milli
    cpu = room(row, own).cpu_milli + ask.cpu_milli
    if node(row, own).state == NodeCode.UP and node_allows(row, j, own):
        share, own_share = (
            min(room(row, other).share, MOST_FREE),
            min(share_of(gpu, cpu), MOST_FREE),
        )
        if own_share < share or (own_share == share and own < other):
            return False
    return _room(row, other) < (gpu if row.unit != 0 else cpu)


@kernel
def _gang_moves(row, j, k, generator, nodes):
    workers = np.int64(job(row, j).workers_now)
    before = _lift_remembered(row, j, k)
    better = False
    elsewhere = before > 1 or kind(row, k).total > 0
    if elsewhere and fill_nodes(row, j, k, workers, generator, nodes) >= workers:
        here, there, moves = np.int64(0), np.int64(0), False
        for w in range(workers):
            here += _room(row, worker(row, j, w).node)
            there += _room(row, np.int64(nodes[w]))
            moves = moves or room(row, nodes[w]).mates == 0
        after = distinct_nodes(nodes, workers)
        better = after < before or (after == before and there < here and moves)
    _restore_remembered(row, j, k)
    return better


@small_kernel
def _is_served(workers, generator):
    """Whether a generator needs nothing but slots and rooms for so many workers."""
    if generator == Placement.TIGHTEST:
        return workers == 1
    return generator <= Placement.RANDOM or generator == Placement.WORST_FIT


@kernel
def moves_to_better(row, j, generator, nodes):
    """Whether running job ``j`` has a better place, as :func:`plan_migration` finds it."""
    if job(row, j).kind == 0:
        return plan_migration(row, j, generator, nodes)
    ask, workers = request(row, j), np.int64(job(row, j).workers_now)
    # A worker with shares of several devices may free no slot of its own kind: they are apart.
    plain = ask.gpus_per_worker <= 1 or ask.gpu_milli == WHOLE
    if not plain or is_bound(row, j) or not _is_served(workers, generator):
        return plan_migration(row, j, generator, nodes)
    update_rooms(row)
    k = find_kind(row, j)
    if workers == 1 and (generator == Placement.BEST_FIT or generator == Placement.TIGHTEST):
        return _single_moves(row, j, k)
    return _gang_moves(row, j, k, generator, nodes)
