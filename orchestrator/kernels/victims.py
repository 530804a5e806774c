"""PostFilter: whom to preempt so that a waiting job finds room."""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.codes import NO_JOB, JobCode, Preemption, Reason, RuleKey
from orchestrator.kernels.decisions import preemption_reason
from orchestrator.kernels.feasibility import fits
from orchestrator.kernels.jit import kernel, part, small_kernel
from orchestrator.kernels.ordering import job_score
from orchestrator.kernels.slots import units_of
from orchestrator.kernels.tables import job, request, running, tenant
from orchestrator.kernels.transition.progress import interruption_cost
from orchestrator.kernels.transition.whatif import lift_gang, restore_gang

__all__ = ["ROOM_COMES", "serve_tier", "victim_for"]

ROOM_COMES = -2
"""Instead of a victim: the jobs that are being checkpointed will leave room enough."""

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

    Nobody preempts whom he is not served before: the victim would take the room that it made.

    Parameters
    ----------
    row : ROW_DTYPE record
    rule : RULE_DTYPE record
    j : int
        A waiting job, or a running one as if it waited.
    freed : int
        Capacity units that its tenant is taken to have given back.
    """
    if rule.preemption == Preemption.NONE or rule.preemption == Preemption.SCORE:
        return 0.0
    tier = np.float64(request(row, j).priority)
    if rule.key == RuleKey.PRIORITY:
        tier = job_score(row, j, rule.key)
    if rule.preemption == Preemption.RECLAIM and _borrows(row, j, freed):
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


@part
def _first_victim(row, rule, j, bound, lifted, count):
    """The preemptible running job of the highest rank, lifted ones left out, or NO_JOB."""
    best, best_rank, best_value = np.int64(NO_JOB), _NOT_ELIGIBLE, _NOT_ELIGIBLE
    for k in range(row.running_len):
        v = running(row, k).job
        seen = False
        for i in range(count):
            seen = seen or lifted[i] == v
        if seen or preemption_reason(row, v) != Reason.OK:
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
    """Put back those lifted jobs without which waiting job ``j`` fits all the same, last first.

    Returns
    -------
    int
        The rest, which are needed, are at this place of ``lifted`` and after it, up to ``last``.
    """
    needed = last
    for k in range(last - 1, first - 1, -1):
        v = np.int64(lifted[k])
        restore_gang(row, v)
        if not fits(row, j):
            lift_gang(row, v)
            needed -= 1
            lifted[needed] = np.int32(v)
    return needed


@kernel
def victim_for(row, rule, j, lifted):
    """A running job whose preemption is needed to let waiting job ``j`` in, NO_JOB or ROOM_COMES.

    Victims of the highest rank are lifted until the gang fits; those that turn out not to be
    needed, because what they free does not help, are spared, the last lifted first. Jobs being
    checkpointed count as gone: nobody is preempted for room that is about to be free. The state
    is as before when this returns.

    Parameters
    ----------
    row : ROW_DTYPE record
    rule : RULE_DTYPE record
    j : int
        A waiting job that does not fit.
    lifted : int32 [>= jobs]
        Scratch.
    """
    bound = job_score(row, j, rule.key) if rule.preemption == Preemption.SCORE else 0.0
    leaving = _lift_leaving(row, lifted)
    count = leaving
    if leaving > 0 and fits(row, j):
        _restore_all(row, lifted, 0, count)
        return ROOM_COMES
    allowed = row.preemption_limit - row.preemptions_here
    # By score nobody beyond the limit is looked at; by class and cost the limit holds for those
    # that are needed, since the cheapest are often scattered where they do not help.
    most = allowed if rule.preemption == Preemption.SCORE else row.running_len
    while not fits(row, j):
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
    if needed == count or count - needed > allowed:
        return np.int64(NO_JOB)
    return np.int64(lifted[needed])
