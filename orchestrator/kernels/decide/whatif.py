"""What would happen if: victims that would have to leave, and moves to a better place.

The same answers as lifting the job, asking, and putting it back: here they are worked out from what
is remembered, of which a job's absence changes only the entries of the nodes that it is on.
"""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.change.hold import lift_gang, restore_gang
from orchestrator.kernels.change.jobs import interruption_cost
from orchestrator.kernels.decide.legal import has_room, preemption_reason
from orchestrator.kernels.decide.order import job_score
from orchestrator.kernels.lang.jit import kernel, part, small_kernel
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
    units_of,
)
from orchestrator.kernels.state.access import (
    job,
    kind,
    node,
    request,
    room,
    running,
    slot,
    tenant,
    worker,
)
from orchestrator.kernels.state.codes import (
    NO_JOB,
    JobCode,
    JobKind,
    NodeCode,
    Placement,
    Preemption,
    QuotaMode,
    Reason,
    RuleKey,
)

__all__ = [
    "ROOM_COMES",
    "lets_in",
    "migration_reason",
    "moves_to_better",
    "plan_migration",
    "serve_tier",
    "victim_for",
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


ROOM_COMES = -2
"""Instead of a victim: room enough will be left by jobs that are being checkpointed, or by victims
of the next decision points."""


_BORROWER = 1e9  # whoever borrows is served after everybody who does not


_RECLAIMED = 256.0  # borrowers give way before any priority class


_NOT_ELIGIBLE = -np.inf


@small_kernel
def _borrows(row, j, freed):
    """Whether its tenant, less ``freed`` units, would exceed its quota with all of job ``j``."""
    t = request(row, j).tenant
    if t >= row.num_tenants:
        return False
    wanted = units_of(row, j, request(row, j).workers)
    return tenant(row, t).used_units - freed + wanted > tenant(row, t).quota_units


@kernel
def serve_tier(row, rule, j, freed):
    """Tier in which a preemptive rule serves job ``j``: lower ones first, by score within one.

    Nobody preempts whom he is not served before: the victim would take the room that it made. ``j``
    waits, or runs and is taken to wait; its tenant is taken to have given back ``freed`` capacity
    units.
    """
    if rule.preemption == Preemption.NONE or rule.preemption == Preemption.SCORE:
        return 0.0
    tier = np.float64(request(row, j).priority)
    if rule.key == RuleKey.PRIORITY:
        tier = job_score(row, j, rule.key)
    # Under hard quotas nobody borrows: who would have to waits for the quota, in its turn.
    soft = row.quota_mode != QuotaMode.HARD
    if rule.preemption == Preemption.RECLAIM and soft and _borrows(row, j, freed):
        tier += _BORROWER
    return tier


@kernel
def _victim_rank(row, rule, j, bound, v):
    """How readily running job ``v`` gives way to waiting job ``j``: the highest pair goes first."""
    if rule.preemption == Preemption.SCORE:
        score = job_score(row, v, rule.key)
        return 0.0 if score > bound else _NOT_ELIGIBLE, score
    mine, other = request(row, j), request(row, v)
    held = job(row, v).units
    shared = mine.tenant == other.tenant
    own = held if shared else np.int64(0)
    rank, cost = np.float64(other.priority), interruption_cost(row, v)
    if serve_tier(row, rule, v, held) <= serve_tier(row, rule, j, own):
        return _NOT_ELIGIBLE, -cost
    if rule.preemption == Preemption.RECLAIM and not shared:
        if _borrows(row, v, held) and not _borrows(row, j, own):
            return rank + _RECLAIMED, -cost
    return rank if other.priority > mine.priority else _NOT_ELIGIBLE, -cost


@small_kernel
def _has_paid(row, rule, v):
    """Whether running job ``v`` has run long enough for another's score to be worth its stalls.

    Scores change as jobs run: two that overtake each other in turn would do nothing but stall.
    """
    if rule.preemption != Preemption.SCORE or row.min_run_costs <= 0:
        return True
    ask = request(row, v)
    stalls = np.int64(ask.checkpoint_ms) + np.int64(ask.restart_ms)
    return row.now_ms - job(row, v).start_ms >= row.min_run_costs * stalls


@part
def _first_victim(row, rule, j, bound, lifted, count):
    """The preemptible running job of the highest rank, lifted ones left out, or NO_JOB.

    By class whoever may not be preempted at this point any more is one, too: there are others.
    """
    best, best_rank, best_value = np.int64(NO_JOB), _NOT_ELIGIBLE, _NOT_ELIGIBLE
    for k in range(row.running_len):
        v = running(row, k).job
        seen = False
        for i in range(count):
            seen = seen or lifted[i] == v
        reason = preemption_reason(row, v)
        bound_reached = reason == Reason.PREEMPTION_BOUND and rule.preemption != Preemption.SCORE
        if seen or not (reason == Reason.OK or bound_reached) or not _has_paid(row, rule, v):
            continue
        rank, value = _victim_rank(row, rule, j, bound, v)
        if rank > best_rank or (rank == best_rank > _NOT_ELIGIBLE and value > best_value):
            best, best_rank, best_value = v, rank, value
    return best


@kernel
def _lift_leaving(row, lifted):
    """Lift the jobs that are being checkpointed; return how many, their indices in ``lifted``."""
    count = 0
    for k in range(row.running_len):
        j = running(row, k).job
        if job(row, j).state == JobCode.CHECKPOINTING:
            lift_gang(row, j)
            lifted[count] = j
            count += 1
    return count


@kernel
def _restore_all(row, lifted, first, last):
    """Put back the jobs at places ``first`` to ``last`` (exclusive) of those that were lifted."""
    for k in range(first, last):
        restore_gang(row, np.int64(lifted[k]))


@kernel
def _spare_unneeded(row, j, lifted, first, last):
    """Put back lifted jobs without which job ``j`` has room all the same, the last first.

    The rest, which are needed, are at the returned place of ``lifted`` and after it, up to
    ``last``.
    """
    needed = last
    for k in range(last - 1, first - 1, -1):
        v = np.int64(lifted[k])
        restore_gang(row, v)
        if not has_room(row, j):
            lift_gang(row, v)
            needed -= 1
            lifted[needed] = np.int32(v)
    return needed


@kernel
def victim_for(row, rule, j, lifted):
    """A running job whose preemption is needed to let waiting job ``j`` in, NO_JOB or ROOM_COMES.

    Job ``j`` has no room, or no quota. Victims of the highest rank are lifted until it does; those
    that turn out not to be needed, because what they free does not help, are spared, the last
    lifted first.
    Jobs being checkpointed count as gone: nobody is preempted for room that is about to be free.
    A gang that needs more victims by class than a decision point allows gets them at several.
    The state is as before when this returns.
    """
    bound = job_score(row, j, rule.key) if rule.preemption == Preemption.SCORE else 0.0
    leaving = _lift_leaving(row, lifted)
    count = leaving
    if leaving > 0 and has_room(row, j):
        _restore_all(row, lifted, 0, count)
        return ROOM_COMES
    if row.preemption_limit <= 0:
        _restore_all(row, lifted, 0, count)
        return NO_JOB
    allowed = row.preemption_limit - row.preemptions_here
    # By score nobody beyond the limit is looked at; by class and cost the limit holds for those
    # that are needed, since the cheapest are often scattered where they do not help.
    by_score = rule.preemption == Preemption.SCORE
    most = allowed if by_score else row.running_len
    while not has_room(row, j):
        v = np.int64(NO_JOB)
        if count - leaving < most:
            v = _first_victim(row, rule, j, bound, lifted, count)
        if v < 0:
            _restore_all(row, lifted, 0, count)
            return NO_JOB
        lift_gang(row, v)
        lifted[count] = v
        count += 1
    needed = _spare_unneeded(row, j, lifted, leaving, count)
    _restore_all(row, lifted, 0, leaving)
    _restore_all(row, lifted, needed, count)
    if needed == count or (by_score and count - needed > allowed):
        return np.int64(NO_JOB)
    if allowed <= 0:
        return np.int64(ROOM_COMES)
    return np.int64(lifted[needed])


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
