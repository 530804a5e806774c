"""Rules as data: the action of a rule at a decision point, and its replay."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from orchestrator.kernels.change.events import finish_episode
from orchestrator.kernels.change.queue import forget_line
from orchestrator.kernels.decide.advance import advance
from orchestrator.kernels.decide.commit import commit
from orchestrator.kernels.decide.elastic import elastic_action, given_instead
from orchestrator.kernels.decide.legal import has_no_limits, placement_reason
from orchestrator.kernels.decide.order import first_in_queue, job_score, precedes
from orchestrator.kernels.decide.scale import scaling_action
from orchestrator.kernels.decide.turn.account import (
    delays_own,
    kept_so_far,
    note_kept,
    note_nobody,
    own_could_give,
    stands_behind_own,
)
from orchestrator.kernels.decide.turn.line import (
    lasts,
    line_up,
    note_start,
    rest_line,
    serve_tier,
    waits,
)
from orchestrator.kernels.decide.turn.reserve import (
    MOST_CHECKS,
    Reservation,
    delays,
    ends_before,
    gives_way,
    no_reservation,
    reserved_start,
)
from orchestrator.kernels.decide.turn.victims import (
    ROOM_COMES,
    finds_no_room,
    is_hopeless,
    list_victims,
    note_full,
    note_hopeless,
    victim_for,
)
from orchestrator.kernels.lang.jit import kernel, part, small_kernel
from orchestrator.kernels.lang.memory import copy_record
from orchestrator.kernels.state.access import job, line, queue, request
from orchestrator.kernels.state.codes import (
    NEVER,
    NO_JOB,
    ActionKind,
    Preemption,
    Reason,
    RuleKey,
    Scaling,
    Status,
)

__all__ = [
    "RULE_DTYPE",
    "ask_rule",
    "follow",
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


@part
def _first_that_fits(row, key):
    """Queue position of the first job, in the order of a key, that may start and fits, or NO_JOB.

    Under commitment whoever its tenant may have, fitting or not.
    """
    best, best_score = np.int64(NO_JOB), np.inf
    for q in range(row.queue_len):
        j = queue(row, q).job
        score = job_score(row, j, key)
        if (best < 0 or score < best_score) and placement_reason(row, j) == Reason.OK:
            best, best_score = np.int64(q), score
    return best


@part
def _lacks_what_victims_have(row, rule, j, reason):
    """Whether waiting ``j`` could start if others left: for room, or, by class, for its quota."""
    if reason == Reason.QUOTA:
        if rule.preemption == Preemption.SCORE or not own_could_give(row, rule, j):
            return False
    elif reason != Reason.NO_CAPACITY:
        return False
    return not stands_behind_own(row, rule, kept_so_far(row, rule, j), j)


_NEXT, _NOT_NOW = -1, -2


class _Turn(NamedTuple):
    """What is known when a waiting job's turn has come, of those before it."""

    room: Reservation  # for the first that does not fit
    checks: int  # jobs that were tried beside it
    last: float  # the lowest rank of victims; NaN: they are not listed yet
    hopeless: int  # one for which nobody can be preempted, as was seen before, or NO_JOB


@small_kernel
def _first_turn(hopeless):
    return _Turn(no_reservation(), np.int64(0), np.nan, np.int64(hopeless))


@kernel
def _serve(row, rule, j, turn, lifted):
    """What a preemptive rule does about waiting job ``j`` whose turn has come: (kind, job, turn).

    Instead of a kind ``_NEXT``, to go on to the next one, or ``_NOT_NOW``: it cannot start as long
    as others only start, nor can anybody be preempted for it.
    """
    room, checks, last, hopeless = turn
    reason = np.int64(placement_reason(row, j))
    free = room.start_ms == NEVER or gives_way(row, rule, room.head, j)
    free = free or ends_before(row, j, room.start_ms)
    kind, subject = np.int64(_NEXT), np.int64(NO_JOB)
    if reason == Reason.OK:
        if not free and checks < MOST_CHECKS:
            free = not delays(row, rule, room, j, lifted)
            checks += 1
        if free and not delays_own(row, rule, kept_so_far(row, rule, j), j):
            kind, subject = np.int64(ActionKind.PLACE), np.int64(j)
    elif _lacks_what_victims_have(row, rule, j, reason):
        victim = np.int64(NO_JOB)
        if free and j != hopeless:
            if np.isnan(last):
                last = list_victims(row, rule)
            victim = np.int64(victim_for(row, rule, j, last, lifted))
        if victim >= 0:
            kind, subject = np.int64(ActionKind.PREEMPT), victim
        elif victim == ROOM_COMES:
            # A job further down that started now could take the room that is about to be free, and
            # would be preempted in its turn.
            kind = np.int64(ActionKind.WAIT)
        elif rule.reservation != 0 and room.head < 0 and reason == Reason.NO_CAPACITY:
            room = reserved_start(row, rule, np.int64(j))
        elif free and reason == Reason.NO_CAPACITY and has_no_limits(row, j):
            kind = np.int64(_NOT_NOW)
        elif not free and reason == Reason.NO_CAPACITY:
            note_full(row, j)
    note_kept(row, j, reason)
    return kind, subject, _Turn(room, checks, last, hopeless)


@kernel
def _overtake(row, rule, j, turn, nodes):
    """As :func:`_serve`, for a rule that preempts nobody."""
    room, checks, last, hopeless = turn
    kind, subject = np.int64(_NEXT), np.int64(NO_JOB)
    reason = np.int64(placement_reason(row, j))
    able = reason == Reason.OK or reason == Reason.NO_CAPACITY
    if able and not delays_own(row, rule, kept_so_far(row, rule, j), j):
        if reason == Reason.OK:
            free = room.start_ms == NEVER or ends_before(row, j, room.start_ms)
            if not free and checks < MOST_CHECKS:
                free = not delays(row, rule, room, j, nodes)
                checks += 1
            if free:
                kind, subject = np.int64(ActionKind.PLACE), np.int64(j)
        elif rule.reservation != 0 and room.head < 0:
            room = reserved_start(row, rule, np.int64(j))
        elif has_no_limits(row, j):
            note_hopeless(row, rule, j, -np.inf)
            kind = np.int64(_NOT_NOW)
    note_kept(row, j, reason)
    return kind, subject, _Turn(room, checks, last, hopeless)


@small_kernel
def _is_passed_over(row, rule, entry, head, limited):
    """Whether it is known of somebody in the line that it neither starts nor preempts anybody.

    Nor does it become the job that room is kept for, nor one that its tenant's others wait for, nor
    does it hold up all others.
    """
    if rule.blocking != 0 or (rule.reservation != 0 and head < 0):
        return False
    if not is_hopeless(row, rule, entry):
        return False
    return not limited or has_no_limits(row, np.int64(entry.job))


@small_kernel
def _is_put_off(row, rule, entry, turn, limited):
    """Whether it is known of somebody in the line that it would delay the job room is kept for.

    Or might: there is no room for it, or nobody asks any more. It may have its turn again, at the
    next decision.
    """
    room = turn.room
    if room.head < 0 or row.now_ms + entry.left_ms <= room.start_ms:
        return False
    if rule.preemption == Preemption.PRIORITY:  # it might give way
        if entry.preemptible != 0 and entry.priority > request(row, room.head).priority:
            return False
    if turn.checks < MOST_CHECKS and not finds_no_room(row, entry):
        return False
    return not limited or has_no_limits(row, np.int64(entry.job))


@part
def _walk(row, rule, scratch):
    """Serve jobs by tier and score, for a rule that preempts or keeps room: (kind, job, tries).

    ``tries``: how often the rule's placement was asked for because room is kept. Whoever cannot
    start any more as long as others only start is left out of the rest of the walk.
    """
    limited = note_nobody(row)
    line_up(row, rule)
    side, first, later = np.int64(row.line_side), np.int64(row.line_next), np.int64(row.line_later)
    turn = _first_turn(row.line_kept)
    kind, subject, kept, i = np.int64(_NEXT), np.int64(NO_JOB), np.int64(0), np.int64(0)
    while i < later + row.line_len - first:
        entry = line(row, side, first + i - later)
        if i < later:
            entry = line(row, 1 - side, i)
        j = np.int64(entry.job)
        if _is_put_off(row, rule, entry, turn, limited):
            copy_record(line(row, 1 - side, kept), entry)
            kept += 1
        elif not _is_passed_over(row, rule, entry, turn.room.head, limited) and waits(row, j):
            if job(row, j).blocked_point != row.point:
                if rule.preemption != Preemption.NONE:
                    kind, subject, turn = _serve(row, rule, j, turn, scratch)
                else:
                    kind, subject, turn = _overtake(row, rule, j, turn, scratch)
                if kind >= 0 or rule.blocking != 0:
                    break
                if kind == _NEXT:
                    copy_record(line(row, 1 - side, kept), entry)
                    kept += 1
        i += 1
    for k in range(i, later):  # who was put off and had no turn this time
        copy_record(line(row, 1 - side, kept), line(row, 1 - side, k))
        kept += 1
    rest_line(row, first + max(i - later, np.int64(0)), kept, turn.room.head)
    if kind < 0:
        kind = np.int64(ActionKind.WAIT)
    return kind, subject, turn.checks


@part
def _in_turn(row, rule):
    """What a rule does that neither preempts nor keeps room: (kind, job)."""
    wait = (np.int64(ActionKind.WAIT), np.int64(NO_JOB))
    if row.commitment == 0 and rule.blocking != 0:
        j = np.int64(queue(row, first_in_queue(row, rule.key)).job)
        if placement_reason(row, j) != Reason.OK:
            return wait
        return np.int64(ActionKind.PLACE), j
    position = _first_that_fits(row, rule.key)
    if position < 0:
        return wait
    return np.int64(ActionKind.PLACE), np.int64(queue(row, position).job)


@small_kernel
def _walks(row, rule):
    """Whether a rule looks at one job after the other, in their order."""
    if row.commitment != 0:
        return False
    if rule.preemption != Preemption.NONE:
        return True
    if rule.blocking != 0:
        return False
    return rule.reservation != 0 or (row.queue_len > row.scanned_jobs and lasts(row, rule))


@kernel
def ask_rule(row, rule, scratch):
    """What a rule does, as :func:`rule_action` says it, and how often it asked for its placement.

    That is 0 if it would do the same whatever places it chose.
    """
    tries = np.int64(1)
    if rule.scaling != Scaling.NONE:
        kind, subject, value = scaling_action(row, np.int64(rule.scaling), scratch)
        if kind != ActionKind.WAIT:
            return kind, subject, value, tries
    kind, j = np.int64(ActionKind.WAIT), np.int64(NO_JOB)
    if row.queue_len > 0 and _walks(row, rule):
        kind, j, tries = _walk(row, rule, scratch)
    elif row.queue_len > 0:
        kind, j = _in_turn(row, rule)
        forget_line(row)  # a walk that rests would not hear of those who join before it goes on
    value = np.int64(rule.placement)
    if rule.elastic != 0 and row.commitment == 0:
        if kind == ActionKind.WAIT:
            kind, j, value = elastic_action(row, rule, scratch)
        elif kind == ActionKind.PREEMPT:
            given, giver, size = given_instead(row, rule, scratch)
            if given != ActionKind.WAIT:
                kind, j, value = given, giver, size
    return kind, j, value, tries


@kernel
def rule_action(row, rule, scratch):
    """What a rule does at the decision point at which a row stands: (kind, job, value).

    As :func:`~orchestrator.kernels.decide.commit.commit` takes them; instead of a job a service, or
    NO_JOB, where the action is about that.
    """
    kind, subject, value, _ = ask_rule(row, rule, scratch)
    return kind, subject, value


# --- whole cycles --------------------------------------------------------------------------------


@kernel
def keeps_order(row, rule):
    """Whether a rule that does not preempt serves all in the order in which they wait now.

    By shares who starts changes it. Room that is kept is not thought of here, nor are rules that
    preempt: they remember their line.
    """
    if row.commitment != 0 or rule.scaling != Scaling.NONE or rule.key == RuleKey.DRF:
        return False
    return rule.preemption == Preemption.NONE and (rule.reservation == 0 or rule.blocking != 0)


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


@kernel
def next_in_order(row, rule, order, start):
    """What :func:`rule_action` does with waiting jobs, if these are known in their order.

    ``order`` holds them, int64, in the order in which they are served (see :func:`rank_queue`) from
    ``start`` on, who has started meanwhile included. Between two calls nothing may happen but
    starts: who does not fit will not, once others start. For a rule that :func:`keeps_order`. The
    result is (kind, job, new start).
    """
    for i in range(start, order.shape[0]):
        j = np.int64(order[i])
        if placement_reason(row, j) == Reason.OK:
            return np.int64(ActionKind.PLACE), j, np.int64(i + 1)
        if rule.blocking != 0:
            break
    return np.int64(ActionKind.WAIT), np.int64(NO_JOB), np.int64(start)


@kernel
def follow(row, kind, j, value, nodes):
    """Carry out what :func:`rule_action` has just said, and let its walk go on; a ``Reason``."""
    reason = commit(row, kind, j, value, nodes)
    if kind == ActionKind.PLACE and reason == Reason.OK:
        note_start(row)
    return reason


@kernel
def replay(row, rule, nodes, scratch):
    """Run a row that has just begun to its end under a rule; the number of decisions taken."""
    count = 0
    while advance(row, nodes) == Status.DECISION:
        kind, j, value = rule_action(row, rule, scratch)
        if follow(row, kind, j, value, nodes) != Reason.OK:
            # Waiting is refused when nothing is left to wait for: the row is at its end.
            if kind == ActionKind.WAIT:
                finish_episode(row)
                break
            raise RuntimeError("a rule chose an illegal action")
        count += 1
    return count
