"""Rules as data: the action of a rule at a decision point, and its replay."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from orchestrator.kernels.change.events import finish_episode
from orchestrator.kernels.decide.account import delays_own, own_could_give, stands_behind_own
from orchestrator.kernels.decide.advance import advance
from orchestrator.kernels.decide.commit import commit
from orchestrator.kernels.decide.elastic import elastic_action, given_instead
from orchestrator.kernels.decide.legal import placement_reason, start_reason
from orchestrator.kernels.decide.order import first_in_queue, job_score, precedes
from orchestrator.kernels.decide.reserve import (
    MOST_CHECKS,
    delays,
    ends_before,
    gives_way,
    reserved_start,
)
from orchestrator.kernels.decide.scale import scaling_action
from orchestrator.kernels.decide.whatif import ROOM_COMES, serve_tier, victim_for
from orchestrator.kernels.lang.jit import kernel, part, small_kernel
from orchestrator.kernels.state.access import (
    job,
    queue,
    request,
    running,
    tenant,
)
from orchestrator.kernels.state.codes import (
    NEVER,
    NO_JOB,
    ActionKind,
    JobCode,
    Preemption,
    QuotaMode,
    Reason,
    RuleKey,
    Scaling,
    Status,
)

__all__ = [
    "RULE_DTYPE",
    "keeps_order",
    "next_in_order",
    "rank_queue",
    "replay",
    "rule_action",
]


RULE_DTYPE = np.dtype(
    [
        ("key", "u1"),  # codes.RuleKey
        ("placement", "u2"),  # codes.Placement, or NODE_CHOICE and a node
        ("preemption", "u1"),  # codes.Preemption
        ("blocking", "u1"),  # nobody overtakes the first job of the queue
        ("reservation", "u1"),  # nobody delays the first job that does not fit
        ("scaling", "u1"),  # codes.Scaling: how nodes and replicas are changed
        ("elastic", "u1"),  # codes.Elasticity: how running jobs are resized
    ],
    align=True,
)
"""A rule. Under commitment semantics only its key matters."""


_IF_THERE_IS_ROOM, _ANYHOW = 1, 0


@part
def _first_after(row, key, floor_score, floor_position, asks_room):
    """Queue position of the first job after a place in the order that may start, or NO_JOB.

    ``asks_room``: ``_IF_THERE_IS_ROOM`` for it now, or ``_ANYHOW``.
    """
    best, best_score = np.int64(NO_JOB), np.inf
    for q in range(row.queue_len):
        j = queue(row, q).job
        score = job_score(row, j, key)
        if not precedes(0.0, floor_score, floor_position, 0.0, score, q):
            continue
        if best >= 0 and score >= best_score:
            continue
        if asks_room != _ANYHOW:
            reason = np.int64(placement_reason(row, j))
        else:
            reason = np.int64(start_reason(row, j))
        if reason == Reason.OK:
            best, best_score = np.int64(q), score
    return best


@part
def _overtaking_action(row, rule, nodes):
    """Serve jobs by score; behind the first that does not fit, who does not delay it."""
    wait = (np.int64(ActionKind.WAIT), np.int64(NO_JOB))
    floor_score, floor_position, checks = -np.inf, np.int64(-1), 0
    while True:
        position = _first_after(row, rule.key, floor_score, floor_position, _ANYHOW)
        if position < 0:
            return wait
        head = np.int64(queue(row, position).job)
        floor_score, floor_position = job_score(row, head, rule.key), position
        if not delays_own(row, rule, head):
            break
    if placement_reason(row, head) == Reason.OK:
        return np.int64(ActionKind.PLACE), head
    start_ms, count = reserved_start(row, rule, head)
    while True:
        position = _first_after(row, rule.key, floor_score, floor_position, _IF_THERE_IS_ROOM)
        if position < 0:
            return wait
        j = np.int64(queue(row, position).job)
        floor_score, floor_position = job_score(row, j, rule.key), position
        if delays_own(row, rule, j):
            continue
        if start_ms == NEVER or ends_before(row, j, start_ms):
            return np.int64(ActionKind.PLACE), j
        if checks < MOST_CHECKS and not delays(row, rule, head, count, j, nodes):
            return np.int64(ActionKind.PLACE), j
        checks += 1


@part
def _lacks_what_victims_have(row, rule, j, reason):
    """Whether waiting ``j`` could start if others left: for room, or, by class, for its quota."""
    if reason == Reason.QUOTA:
        if rule.preemption == Preemption.SCORE or not own_could_give(row, rule, j):
            return False
    elif reason != Reason.NO_CAPACITY:
        return False
    return not stands_behind_own(row, rule, j)


@kernel
def _last_to_leave(row, rule):
    """The lowest rank, a class or a score, of running jobs that might be preempted.

    Whoever waits does not look for victims unless it ranks higher; ``inf``: let it look.
    """
    last = -np.inf
    for k in range(row.running_len):
        v = np.int64(running(row, k).job)
        state = job(row, v).state
        if state == JobCode.CHECKPOINTING:
            return np.inf  # room is about to be free
        if state != JobCode.RUNNING or request(row, v).preemptible == 0:
            continue
        if rule.preemption == Preemption.RECLAIM:
            last = np.inf
        elif rule.preemption == Preemption.SCORE:
            last = max(last, np.float64(job_score(row, v, rule.key)))
        else:
            last = max(last, np.float64(request(row, v).priority))
    return last if row.preemption_limit > 0 else -np.inf


@small_kernel
def _own_rank(row, rule, j):
    """Rank of a waiting job as :func:`_last_to_leave` has it."""
    if rule.preemption == Preemption.SCORE:
        return np.float64(job_score(row, j, rule.key))
    return np.float64(request(row, j).priority)


@small_kernel
def _has_no_limits(row, rule, j):
    """Whether nothing but room keeps job ``j`` from starting, whatever its tenant's others do."""
    t = np.int64(request(row, j).tenant)
    if t >= row.num_tenants:
        return True
    return row.quota_mode != QuotaMode.HARD and tenant(row, t).storage_quota_mib <= 0


_NEXT, _NOT_NOW = -1, -2


class _Turn(NamedTuple):
    """What is known when a waiting job's turn has come, of those before it."""

    head: int  # the first that does not fit and for which room is kept, or NO_JOB
    start_ms: int  # when it will fit
    ended: int  # running jobs that have ended by then
    checks: int  # jobs that were tried beside it
    last: float  # of _last_to_leave; NaN: not looked at yet
    hopeless: int  # one for which nobody can be preempted, as was seen before, or NO_JOB


@small_kernel
def _first_turn(hopeless):
    zero = np.int64(0)
    return _Turn(np.int64(NO_JOB), np.int64(NEVER), zero, zero, np.nan, np.int64(hopeless))


@kernel
def _serve(row, rule, j, turn, lifted):
    """What a preemptive rule does about waiting job ``j`` whose turn has come: (kind, job, turn).

    Instead of a kind ``_NEXT``, to go on to the next one, or ``_NOT_NOW``: it cannot start as long
    as others only start, nor can anybody be preempted for it.
    """
    head, start_ms, count, checks, last, hopeless = turn
    reason = np.int64(placement_reason(row, j))
    free = start_ms == NEVER or gives_way(row, rule, head, j)
    free = free or ends_before(row, j, start_ms)
    kind, subject = np.int64(_NEXT), np.int64(NO_JOB)
    if reason == Reason.OK:
        if not free and checks < MOST_CHECKS:
            free = not delays(row, rule, head, count, j, lifted)
            checks += 1
        if free and not delays_own(row, rule, j):
            kind, subject = np.int64(ActionKind.PLACE), np.int64(j)
    elif _lacks_what_victims_have(row, rule, j, reason):
        victim = np.int64(NO_JOB)
        if free and j != hopeless:
            if np.isnan(last):
                last = _last_to_leave(row, rule)
            if _own_rank(row, rule, j) < last:
                victim = np.int64(victim_for(row, rule, j, lifted))
        if victim >= 0:
            kind, subject = np.int64(ActionKind.PREEMPT), victim
        elif victim == ROOM_COMES:
            # A job further down that started now could take the room that is about to be free, and
            # would be preempted in its turn.
            kind = np.int64(ActionKind.WAIT)
        elif rule.reservation != 0 and head < 0 and reason == Reason.NO_CAPACITY:
            head = np.int64(j)
            start_ms, count = reserved_start(row, rule, head)
        elif free and reason == Reason.NO_CAPACITY and _has_no_limits(row, rule, j):
            kind = np.int64(_NOT_NOW)
    return kind, subject, _Turn(head, start_ms, count, checks, last, hopeless)


@part
def _preemptive_action(row, rule, lifted):
    """Serve jobs by tier and score, preempting those that rank below for room: (kind, job)."""
    wait = (np.int64(ActionKind.WAIT), np.int64(NO_JOB))
    floor_tier, floor_score, floor_position = -np.inf, -np.inf, -1
    turn = _first_turn(NO_JOB)
    while True:
        best, best_position = np.int64(NO_JOB), np.int64(-1)
        best_tier, best_score = np.inf, np.inf
        for q in range(row.queue_len):
            j = queue(row, q).job
            if job(row, j).blocked_point == row.point:
                continue
            tier = serve_tier(row, rule, j, np.int64(0))
            score = job_score(row, j, rule.key)
            after = precedes(floor_tier, floor_score, floor_position, tier, score, q)
            if after and (
                best < 0 or precedes(tier, score, q, best_tier, best_score, best_position)
            ):
                best, best_tier, best_score, best_position = np.int64(j), tier, score, q
        if best < 0:
            return wait
        kind, subject, turn = _serve(row, rule, best, turn, lifted)
        if kind >= 0:
            return kind, subject
        if rule.blocking != 0:
            return wait
        floor_tier, floor_score, floor_position = best_tier, best_score, best_position


@part
def _rigid_action(row, rule, scratch):
    """What a rule does with waiting jobs: (kind, job)."""
    if row.queue_len == 0:
        return np.int64(ActionKind.WAIT), np.int64(NO_JOB)
    if row.commitment == 0:
        if rule.preemption != Preemption.NONE:
            return _preemptive_action(row, rule, scratch)
        if rule.blocking != 0:
            j = np.int64(queue(row, first_in_queue(row, rule.key)).job)
            if placement_reason(row, j) != Reason.OK:
                return np.int64(ActionKind.WAIT), np.int64(NO_JOB)
            return np.int64(ActionKind.PLACE), j
        if rule.reservation != 0:
            return _overtaking_action(row, rule, scratch)
    # Under commitment whoever its tenant may have, fitting or not.
    position = _first_after(row, rule.key, -np.inf, np.int64(-1), _IF_THERE_IS_ROOM)
    if position < 0:
        return np.int64(ActionKind.WAIT), np.int64(NO_JOB)
    return np.int64(ActionKind.PLACE), np.int64(queue(row, position).job)


@kernel
def rule_action(row, rule, scratch):
    """What a rule does at the decision point at which a row stands: (kind, job, value).

    As :func:`~orchestrator.kernels.decide.commit.commit` takes them; instead of a job a service, or
    NO_JOB, where the action is about that.
    """
    if rule.scaling != Scaling.NONE:
        kind, subject, value = scaling_action(row, np.int64(rule.scaling), scratch)
        if kind != ActionKind.WAIT:
            return kind, subject, value
    kind, j = _rigid_action(row, rule, scratch)
    if rule.elastic != 0 and row.commitment == 0:
        if kind == ActionKind.WAIT:
            return elastic_action(row, rule, scratch)
        if kind == ActionKind.PREEMPT:
            given, giver, size = given_instead(row, rule, scratch)
            if given != ActionKind.WAIT:
                return given, giver, size
    return kind, j, np.int64(rule.placement)


# --- whole cycles --------------------------------------------------------------------------------


@kernel
def keeps_order(row, rule):
    """Whether who starts at an instant changes nothing of the order of those who wait.

    By shares, and where whoever borrows is served last, it does. Room that is kept without
    preemption is not thought of here.
    """
    if row.commitment != 0 or rule.scaling != Scaling.NONE or rule.key == RuleKey.DRF:
        return False
    if rule.preemption == Preemption.RECLAIM and row.quota_mode != QuotaMode.HARD:
        return False
    return rule.preemption != Preemption.NONE or rule.reservation == 0 or rule.blocking != 0


@kernel
def rank_queue(row, rule, tiers, scores):
    """Tier and score of each waiting job; whether the queue is in the order of both already."""
    ordered = True
    for q in range(row.queue_len):
        j = np.int64(queue(row, q).job)
        tiers[q] = serve_tier(row, rule, j, np.int64(0))
        scores[q] = job_score(row, j, rule.key)
        if q > 0 and precedes(tiers[q], scores[q], q, tiers[q - 1], scores[q - 1], q - 1):
            ordered = False
    return np.int64(ordered)


@part
def _next_preemptive(row, rule, line, start, hopeless, lifted):
    """Of those in ``line`` from ``start`` on, in order: (kind, job, tries, new start, hopeless).

    Who cannot start any more at this instant is left out of the line from then on. ``tries``: how
    often a reservation was looked at with the rule's placement in mind. ``hopeless``: the job for
    which room is kept, as nobody can be preempted for it; others that start change nothing of that.
    """
    turn = _first_turn(hopeless)
    kind, subject, kept, i = np.int64(_NEXT), np.int64(NO_JOB), np.int64(0), np.int64(start)
    while i < line.shape[0]:
        j = np.int64(line[i])
        state = job(row, j).state
        waits = state == JobCode.PENDING or state == JobCode.PREEMPTED
        if waits and job(row, j).blocked_point != row.point:
            kind, subject, turn = _serve(row, rule, j, turn, lifted)
            if kind >= 0 or rule.blocking != 0:
                break
            if kind == _NEXT:
                line[start + kept] = j
                kept += 1
        i += 1
    for k in range(kept):  # up to the one that was just served
        line[i - 1 - k] = line[start + kept - 1 - k]
    if kind < 0:
        kind = np.int64(ActionKind.WAIT)
    return kind, subject, turn.checks, i - kept, turn.head


@part
def _next_in_turn(row, rule, line, start):
    """The same for rules that do not preempt: nobody who does not fit will, once others start."""
    for i in range(start, line.shape[0]):
        j = np.int64(line[i])
        if placement_reason(row, j) == Reason.OK:
            return np.int64(ActionKind.PLACE), j, np.int64(0), np.int64(i + 1), np.int64(NO_JOB)
        if rule.blocking != 0:
            break
    none = np.int64(NO_JOB)
    return np.int64(ActionKind.WAIT), none, np.int64(0), np.int64(start), none


@kernel
def next_in_order(row, rule, line, start, hopeless, scratch):
    """What :func:`rule_action` does with waiting jobs, if these are known in their order.

    ``line`` holds them, int64, in the order in which they are served (see :func:`rank_queue`) from
    ``start`` on, who has started meanwhile included. Between two calls nothing may happen but
    starts; for a rule that :func:`keeps_order`. The result is (kind, job, how often the rule's
    placement was asked for, new start, new ``hopeless``); at first the latter is NO_JOB.
    """
    if rule.preemption != Preemption.NONE:
        return _next_preemptive(row, rule, line, start, hopeless, scratch)
    return _next_in_turn(row, rule, line, start)


@kernel
def replay(row, rule, nodes, scratch):
    """Run a row that has just begun to its end under a rule; the number of decisions taken."""
    count = 0
    while advance(row, nodes) == Status.DECISION:
        kind, j, value = rule_action(row, rule, scratch)
        if commit(row, kind, j, value, nodes) != Reason.OK:
            # Waiting is refused when nothing is left to wait for: the row is at its end.
            if kind == ActionKind.WAIT:
                finish_episode(row)
                break
            raise RuntimeError("a rule chose an illegal action")
        count += 1
    return count
