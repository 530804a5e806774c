"""Rules as data: the action of a rule at a decision point, and its replay.

While nobody waits, the running elastic job whose speed grows most for each unit of capacity gets
one more worker (the greedy allocation of AFS and Optimus: Hwang et al., NSDI 2021; Peng et al.,
EuroSys 2018). As soon as somebody waits, jobs with more workers than they asked for give them
back, the one with most of them first.
"""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.change.events import finish_episode
from orchestrator.kernels.decide.account import delays_own, own_could_give, stands_behind_own
from orchestrator.kernels.decide.advance import advance
from orchestrator.kernels.decide.commit import commit
from orchestrator.kernels.decide.legal import placement_reason, resize_reason, start_reason
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
from orchestrator.kernels.place.generate import place_more
from orchestrator.kernels.place.slots import units_of
from orchestrator.kernels.place.throughput import speed_milli
from orchestrator.kernels.state.access import job, node, queue, request, running, worker
from orchestrator.kernels.state.codes import (
    NEVER,
    NO_JOB,
    ActionKind,
    JobKind,
    Preemption,
    Reason,
    Scaling,
    Status,
)

__all__ = [
    "RULE_DTYPE",
    "elastic_action",
    "fewer_workers",
    "marginal_speed",
    "replay",
    "rule_action",
]


@small_kernel
def marginal_speed(row, j, workers):
    """Speed that a running job gains on ``workers`` workers, thousandths per capacity unit.

    Its present spread and GPU model are taken to stay.
    """
    now = np.int64(job(row, j).workers_now)
    model = np.int64(node(row, worker(row, j, 0).node).model)
    spread = np.int64(job(row, j).spread)
    gain = speed_milli(row, j, np.int64(workers), spread, model) - job(row, j).speed_milli
    return np.float64(gain) / max(abs(units_of(row, j, workers - now)), 1)


@small_kernel
def fewer_workers(row, j):
    """The next smaller size of a running elastic job: what it asked for, or one worker fewer.

    What was lent comes back at once, as rules take it back: one change of size, one regroup.
    """
    now = np.int64(job(row, j).workers_now)
    return max(min(now - 1, np.int64(request(row, j).workers)), np.int64(0))


@part
def _borrower(row):
    """The running elastic job with most workers beyond those it asked for, or NO_JOB."""
    best, most = np.int64(NO_JOB), np.int64(0)
    for k in range(row.running_len):
        j = np.int64(running(row, k).job)
        ask = request(row, j)
        surplus = np.int64(job(row, j).workers_now - ask.workers)
        if ask.kind == JobKind.SERVICE or surplus <= most:
            continue
        if resize_reason(row, j, np.int64(ask.workers)) == Reason.OK:
            best, most = j, surplus
    return best


@part
def _grower(row, nodes):
    """The running elastic job that gains most from one more worker that fits, or NO_JOB."""
    best, best_gain = np.int64(NO_JOB), 0.0
    for k in range(row.running_len):
        j = np.int64(running(row, k).job)
        more = np.int64(job(row, j).workers_now + 1)
        if request(row, j).kind == JobKind.SERVICE or resize_reason(row, j, more) != Reason.OK:
            continue
        gain = marginal_speed(row, j, more)
        if gain > best_gain and place_more(row, j, np.int64(1), nodes) == 1:
            best, best_gain = j, gain
    return best


@kernel
def elastic_action(row, rule, scratch):
    """Resize a running job, or wait: (kind, job, new number of workers).

    For decision points at which nothing can be placed. ``scratch`` is int32 [>= workers].
    """
    if row.queue_len > 0:
        j = _borrower(row)
        if j >= 0:
            return np.int64(ActionKind.RESIZE), j, np.int64(request(row, j).workers)
    else:
        j = _grower(row, scratch)
        if j >= 0:
            return np.int64(ActionKind.RESIZE), j, np.int64(job(row, j).workers_now + 1)
    return np.int64(ActionKind.WAIT), np.int64(NO_JOB), np.int64(rule.placement)


RULE_DTYPE = np.dtype(
    [
        ("key", "u1"),  # codes.RuleKey
        ("placement", "u2"),  # codes.Placement, or NODE_CHOICE and a node
        ("preemption", "u1"),  # codes.Preemption
        ("blocking", "u1"),  # nobody overtakes the first job of the queue
        ("reservation", "u1"),  # nobody delays the first job that does not fit
        ("scaling", "u1"),  # codes.Scaling: how nodes and replicas are changed
        ("elastic", "u1"),  # running jobs are resized when nothing can be placed
    ],
    align=True,
)
"""A rule. Under commitment semantics only its key matters."""


@part
def _best_placeable(row, key, floor_score, floor_position):
    """Queue position of the first job after a place in the order that can start now, or NO_JOB."""
    best, best_score = np.int64(NO_JOB), np.inf
    for q in range(row.queue_len):
        j = queue(row, q).job
        score = job_score(row, j, key)
        if not precedes(0.0, floor_score, floor_position, 0.0, score, q):
            continue
        if (best < 0 or score < best_score) and placement_reason(row, j) == Reason.OK:
            best, best_score = np.int64(q), score
    return best


@part
def _first_startable(row, key, floor_score, floor_position):
    """Queue position of the first job after a place in the order that may start, or NO_JOB.

    If there is room for it.
    """
    best, best_score = np.int64(NO_JOB), np.inf
    for q in range(row.queue_len):
        j = queue(row, q).job
        score = job_score(row, j, key)
        if not precedes(0.0, floor_score, floor_position, 0.0, score, q):
            continue
        if (best < 0 or score < best_score) and start_reason(row, j) == Reason.OK:
            best, best_score = np.int64(q), score
    return best


@part
def _overtaking_action(row, rule, nodes):
    """Serve jobs by score; behind the first that does not fit, who does not delay it."""
    wait = (np.int64(ActionKind.WAIT), np.int64(NO_JOB))
    floor_score, floor_position, checks = -np.inf, np.int64(-1), 0
    while True:
        position = _first_startable(row, rule.key, floor_score, floor_position)
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
        position = _best_placeable(row, rule.key, floor_score, floor_position)
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


@part
def _preemptive_action(row, rule, lifted):
    """Serve jobs by tier and score, preempting those that rank below for room: (kind, job)."""
    wait = (np.int64(ActionKind.WAIT), np.int64(NO_JOB))
    floor_tier, floor_score, floor_position = -np.inf, -np.inf, -1
    head, start_ms, count, checks = np.int64(NO_JOB), np.int64(NEVER), np.int64(0), 0
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
                best, best_tier, best_score, best_position = j, tier, score, q
        if best < 0:
            return wait
        reason = placement_reason(row, best)
        free = start_ms == NEVER or gives_way(row, rule, head, best)
        free = free or ends_before(row, best, start_ms)
        if reason == Reason.OK:
            if not free and checks < MOST_CHECKS:
                free = not delays(row, rule, head, count, best, lifted)
                checks += 1
            if free and not delays_own(row, rule, best):
                return np.int64(ActionKind.PLACE), np.int64(best)
        elif _lacks_what_victims_have(row, rule, best, reason):
            victim = np.int64(NO_JOB)
            if free:
                victim = victim_for(row, rule, best, lifted)
            if victim >= 0:
                return np.int64(ActionKind.PREEMPT), np.int64(victim)
            # A job further down that started now could take the room that is about to be free, and
            # would be preempted in its turn.
            if victim == ROOM_COMES:
                return wait
            if rule.reservation != 0 and head < 0 and reason == Reason.NO_CAPACITY:
                head = np.int64(best)
                start_ms, count = reserved_start(row, rule, head)
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
    position = _best_placeable(row, rule.key, -np.inf, np.int64(-1))
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
    if kind == ActionKind.WAIT and rule.elastic != 0 and row.commitment == 0:
        return elastic_action(row, rule, scratch)
    return kind, j, np.int64(rule.placement)


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
