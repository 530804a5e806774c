"""Victims: which running job has to leave so that a waiting one gets in.

Who might be preempted is listed once for a decision and put in order only as far as somebody asks:
a heap, whose entries are taken off it one after the other and stay behind it, in order.

Who of a request's kind finds no room, whoever of lower rank leaves, is hopeless; and so is whoever
of that kind needs no fewer workers and ranks no higher, as long as jobs only start. That is
remembered for each kind (``place.memo``) and each walk along the line.
"""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.change.hold import lift_gang, restore_gang
from orchestrator.kernels.change.jobs import interruption_cost
from orchestrator.kernels.decide.legal import has_room, preemption_reason
from orchestrator.kernels.decide.order import job_score
from orchestrator.kernels.decide.turn.line import borrows, serve_tier
from orchestrator.kernels.lang.jit import kernel, part, small_kernel
from orchestrator.kernels.lang.memory import copy_record
from orchestrator.kernels.place.domains import is_bound
from orchestrator.kernels.place.fit import fits, least_units, least_workers
from orchestrator.kernels.place.memo import undo_touches
from orchestrator.kernels.state.access import job, kind, request, running, victim
from orchestrator.kernels.state.codes import NO_JOB, JobCode, Preemption, Reason, RuleKey

__all__ = [
    "ROOM_COMES",
    "finds_no_room",
    "is_hopeless",
    "list_victims",
    "note_full",
    "note_hopeless",
    "victim_for",
]


ROOM_COMES = -2
"""Instead of a victim: room enough will be left by jobs that are being checkpointed, or by victims
of the next decision points."""


_RECLAIMED = 256.0  # borrowers give way before any priority class


_NOT_ELIGIBLE = -np.inf


@small_kernel
def _rank_of(row, rule, j):
    """Rank of a job, a class or a score: it gives way to jobs of lower ones."""
    if rule.preemption == Preemption.SCORE:
        return np.float64(job_score(row, j, rule.key))
    return np.float64(request(row, j).priority)


@small_kernel
def _ranks_shift(rule):
    """Whether ranks depend on what tenants hold, so that they change with each job that leaves."""
    if rule.preemption == Preemption.SCORE:
        return rule.key == RuleKey.DRF
    return rule.preemption == Preemption.RECLAIM


# --- who is hopeless -----------------------------------------------------------------------------


@small_kernel
def is_hopeless(row, rule, entry):
    """Whether who stands in the line finds no room, whoever is preempted, as was seen before."""
    if entry.kind == 0:
        return False
    known = kind(row, np.int64(entry.kind))
    if known.walk != row.walks or entry.least < known.hopeless or entry.tier < known.hopeless_tier:
        return False
    if rule.preemption == Preemption.SCORE:
        return entry.score >= known.hopeless_rank
    return np.float64(entry.priority) >= known.hopeless_rank


@kernel
def note_hopeless(row, rule, j, rank):
    """Job ``j``, of a rank, has found nobody who could be preempted for it; perhaps for no room."""
    k = job(row, j).kind
    if k == 0 or is_bound(row, j) or _ranks_shift(rule) or fits(row, j):
        return
    known, least = kind(row, k), least_workers(row, j)
    if known.walk == row.walks and known.hopeless <= least:
        return
    known.walk, known.hopeless = row.walks, least
    known.hopeless_tier, known.hopeless_rank = serve_tier(row, rule, j, np.int64(0)), rank


@small_kernel
def finds_no_room(row, entry):
    """Whether there is no room for who stands in the line as things are, as was seen before."""
    known = kind(row, np.int64(entry.kind))
    return entry.kind != 0 and known.full_walk == row.walks and entry.least >= known.full


@small_kernel
def note_full(row, j):
    """There is no room for job ``j``."""
    k = job(row, j).kind
    if k == 0 or is_bound(row, j):
        return
    known, least = kind(row, k), least_workers(row, j)
    if known.full_walk != row.walks or known.full > least:
        known.full_walk, known.full = row.walks, least


# --- who may be preempted ------------------------------------------------------------------------


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


@small_kernel
def _may_leave(row, rule, v):
    """Whether running job ``v`` is one that might be preempted.

    By class whoever may not be preempted at this point any more is one, too: there are others.
    """
    reason = preemption_reason(row, v)
    if reason == Reason.PREEMPTION_BOUND and rule.preemption != Preemption.SCORE:
        return row.preemption_limit > 0
    return reason == Reason.OK and _has_paid(row, rule, v)


@small_kernel
def _gives_way_before(row, a, b):
    """Whether entry ``a`` of the victims is preempted before entry ``b``."""
    one, other = victim(row, a), victim(row, b)
    if one.rank != other.rank:
        return one.rank > other.rank
    if one.value != other.value:
        return one.value > other.value
    return one.place < other.place


@small_kernel
def _swap(row, a, b):
    """Exchange two entries of the victims."""
    one, other = victim(row, a), victim(row, b)
    rank, value, place, v = one.rank, one.value, one.place, one.job
    copy_record(victim(row, a), victim(row, b))  # units are settled where it comes to rest
    other.rank, other.value, other.place, other.job = rank, value, place, v


@kernel
def _sift(row, top, count):
    """Let the entry at ``top`` of a heap of ``count`` sink to where it belongs."""
    parent = top
    while 2 * parent + 1 < count:
        child = 2 * parent + 1
        if child + 1 < count and _gives_way_before(row, child + 1, child):
            child += 1
        if not _gives_way_before(row, child, parent):
            break
        _swap(row, parent, child)
        parent = child


@kernel
def list_victims(row, rule):
    """List who might be preempted now; the lowest rank of them, which is the highest number.

    Whoever waits does not look for victims unless it ranks higher; ``inf``: let it look.
    """
    count, gone, last = np.int64(0), np.int64(0), -np.inf
    for k in range(row.running_len):
        v = np.int64(running(row, k).job)
        if job(row, v).state == JobCode.CHECKPOINTING:
            gone += 1
            victim(row, row.max_jobs - gone).job = v
            last = np.inf  # room is about to be free
        elif _may_leave(row, rule, v):
            entry, rank = victim(row, count), _rank_of(row, rule, v)
            entry.job, entry.place = v, k
            if rule.preemption == Preemption.SCORE:
                entry.rank, entry.value = 0.0, rank
            else:
                entry.rank, entry.value = rank, -interruption_cost(row, v)
            last = max(last, np.inf if rule.preemption == Preemption.RECLAIM else rank)
            count += 1
    row.victims_len, row.victims_heap, row.victims_gone = count, -1, gone
    return last


@kernel
def _take_off(row):
    """Take the next victim off the heap, which is made first if nobody was taken off yet."""
    count = np.int64(row.victims_len)
    if row.victims_heap < 0:
        for top in range(count // 2 - 1, -1, -1):
            _sift(row, np.int64(top), count)
        row.victims_heap = count
    row.victims_heap -= 1
    last = np.int64(row.victims_heap)
    _swap(row, np.int64(0), last)
    _sift(row, np.int64(0), last)
    units = job(row, victim(row, last).job).units
    if last + 1 < count:
        units += victim(row, last + 1).units
    victim(row, last).units = units


@small_kernel
def _in_order(row, i):
    """Entry of the victims that gives way after ``i`` others, whoever they make room for."""
    while row.victims_heap < 0 or row.victims_len - row.victims_heap <= i:
        _take_off(row)
    return victim(row, row.victims_len - 1 - i)


@part
def _hold_enough(row, rule, j, rank):
    """Whether those that rank below job ``j`` hold the capacity that it lacks, wherever it is."""
    lacking = least_units(row, j) - row.free_units
    for i in range(row.victims_gone):
        lacking -= job(row, victim(row, row.max_jobs - 1 - i).job).units
    i, enough = np.int64(0), lacking <= 0
    while not enough and i < row.victims_len:
        entry = _in_order(row, i)
        if (entry.value if rule.preemption == Preemption.SCORE else entry.rank) <= rank:
            break
        enough = entry.units >= lacking
        i += 1
    return enough


@part
def _next_by_rank(row, rule, j, rank, i):
    """The first victim for job ``j`` that gives way after ``i`` others: (job or NO_JOB, new i)."""
    v = np.int64(NO_JOB)
    while v < 0 and i < row.victims_len:
        entry = _in_order(row, i)
        i += 1
        if rule.preemption == Preemption.SCORE:
            if entry.value <= rank:
                break
            v = entry.job
        else:
            if entry.rank <= rank:
                break
            if serve_tier(row, rule, entry.job, np.int64(0)) > serve_tier(
                row, rule, j, np.int64(0)
            ):
                v = entry.job
    return v, i


@small_kernel
def _reclaims(row, rule, j, v):
    """The rank by which running job ``v`` gives way to ``j`` where quotas count."""
    mine, other = request(row, j), request(row, v)
    held = job(row, v).units
    shared = mine.tenant == other.tenant
    own = held if shared else np.int64(0)
    rank = np.float64(other.priority)
    if serve_tier(row, rule, v, held) <= serve_tier(row, rule, j, own):
        return _NOT_ELIGIBLE
    if not shared and borrows(row, v, held) and not borrows(row, j, own):
        return rank + _RECLAIMED
    return rank if other.priority > mine.priority else _NOT_ELIGIBLE


@part
def _next_by_share(row, rule, j, rank, i):
    """The same where ranks shift: the list is searched anew for each.

    Who was taken stands behind all others.
    """
    best, left = np.int64(-1), row.victims_len - i
    for k in range(left):
        entry = victim(row, k)
        if rule.preemption == Preemption.SCORE:
            entry.value = job_score(row, entry.job, rule.key)
            able = entry.value > rank
        else:
            entry.rank = _reclaims(row, rule, j, entry.job)
            able = entry.rank > _NOT_ELIGIBLE
        if able and (best < 0 or _gives_way_before(row, np.int64(k), best)):
            best = np.int64(k)
    if best < 0:
        return np.int64(NO_JOB), i
    _swap(row, best, left - 1)
    return np.int64(victim(row, left - 1).job), i + 1


# --- who has to leave ----------------------------------------------------------------------------


@kernel
def _lift_leaving(row, lifted):
    """Lift the jobs that are being checkpointed; return how many, their indices in ``lifted``."""
    for i in range(row.victims_gone):
        v = victim(row, row.max_jobs - 1 - i).job
        lift_gang(row, v)
        lifted[i] = np.int32(v)
    return np.int64(row.victims_gone)


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
def _lift_victims(row, rule, j, rank, lifted, most):
    """Lift victims until job ``j`` has room, ``most`` at most: (whether it has, jobs lifted)."""
    count, i = np.int64(row.victims_gone), np.int64(0)
    room = has_room(row, j)
    while not room and count - row.victims_gone < most:
        v = np.int64(NO_JOB)
        if _ranks_shift(rule):
            v, i = _next_by_share(row, rule, j, rank, i)
        else:
            v, i = _next_by_rank(row, rule, j, rank, i)
        if v < 0:
            break
        lift_gang(row, v)
        lifted[count] = np.int32(v)
        count += 1
        room = has_room(row, j)
    if not room:
        note_hopeless(row, rule, j, rank)
    return room, count


@part
def _first_needed(row, rule, j, rank, lifted):
    """The first victim that is needed, NO_JOB or ROOM_COMES; the state is as before."""
    leaving = _lift_leaving(row, lifted)
    if leaving > 0 and has_room(row, j):
        _restore_all(row, lifted, 0, leaving)
        return np.int64(ROOM_COMES)
    # By score nobody beyond the limit is looked at; by class and cost the limit holds for those
    # that are needed, since the cheapest are often scattered where they do not help.
    by_score = rule.preemption == Preemption.SCORE
    allowed = row.preemption_limit - row.preemptions_here
    most = allowed if by_score else np.int64(row.running_len)
    room, count = _lift_victims(row, rule, j, rank, lifted, most)
    if not room:
        _restore_all(row, lifted, 0, count)
        return np.int64(NO_JOB)
    needed = _spare_unneeded(row, j, lifted, leaving, count)
    _restore_all(row, lifted, 0, leaving)
    _restore_all(row, lifted, needed, count)
    if needed == count or (by_score and count - needed > allowed):
        return np.int64(NO_JOB)
    if allowed <= 0:
        return np.int64(ROOM_COMES)
    return np.int64(lifted[needed])


@kernel
def victim_for(row, rule, j, last, lifted):
    """A running job whose preemption is needed to let waiting job ``j`` in, NO_JOB or ROOM_COMES.

    Job ``j`` has no room, or no quota; the victims are listed, ``last`` is the lowest rank of them.
    Victims of the highest rank are lifted until it does; those that turn out not to be needed,
    because what they free does not help, are spared, the last lifted first.
    Jobs being checkpointed count as gone: nobody is preempted for room that is about to be free.
    A gang that needs more victims by class than a decision point allows gets them at several.
    The state is as before when this returns.
    """
    rank = _rank_of(row, rule, j)
    if rank >= last:
        note_hopeless(row, rule, j, rank)
        return np.int64(NO_JOB)
    if not _ranks_shift(rule) and not _hold_enough(row, rule, j, rank):
        note_hopeless(row, rule, j, rank)
        return np.int64(NO_JOB)
    before = np.int64(row.touched)
    found = _first_needed(row, rule, j, rank, lifted)
    undo_touches(row, j, before)
    return found
