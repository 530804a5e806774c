"""Rules as data: an ordering, a placement and, optionally, preemption; and their replay."""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.advance import advance
from orchestrator.kernels.autoscale import scaling_action
from orchestrator.kernels.codes import NO_JOB, ActionKind, Preemption, Reason, Scaling, Status
from orchestrator.kernels.commit import commit
from orchestrator.kernels.decisions import placement_reason
from orchestrator.kernels.elasticity import elastic_action
from orchestrator.kernels.jit import kernel, part, small_kernel
from orchestrator.kernels.ordering import first_in_queue, job_score
from orchestrator.kernels.tables import job, queue
from orchestrator.kernels.transition.decide import finish_episode
from orchestrator.kernels.victims import ROOM_COMES, serve_tier, victim_for

__all__ = ["RULE_DTYPE", "replay", "rule_action"]

RULE_DTYPE = np.dtype(
    [
        ("key", "u1"),  # codes.RuleKey
        ("placement", "u1"),  # codes.Placement
        ("preemption", "u1"),  # codes.Preemption
        ("blocking", "u1"),  # nobody overtakes the first job of the queue
        ("scaling", "u1"),  # codes.Scaling: how nodes and replicas are changed
        ("elastic", "u1"),  # running jobs are resized when nothing can be placed
    ],
    align=True,
)
"""A rule. Under commitment semantics only its key matters."""


@part
def _best_placeable(row, key):
    """The waiting job of lowest score among those that can start now, or NO_JOB."""
    best, best_score = np.int64(NO_JOB), np.inf
    for q in range(row.queue_len):
        j = queue(row, q).job
        score = job_score(row, j, key)
        if (best < 0 or score < best_score) and placement_reason(row, j) == Reason.OK:
            best, best_score = j, score
    return best


@small_kernel
def _precedes(tier, score, position, other_tier, other_score, other_position):
    """Whether one waiting job is served before another."""
    if tier != other_tier:
        return tier < other_tier
    if score != other_score:
        return score < other_score
    return position < other_position


@part
def _preemptive_action(row, rule, lifted):
    """Serve waiting jobs by tier and score; make room by preempting those that rank below.

    Returns
    -------
    tuple of int
        (kind, job) of the action.
    """
    floor_tier, floor_score, floor_position = -np.inf, -np.inf, -1
    while True:
        best, best_position = np.int64(NO_JOB), np.int64(-1)
        best_tier, best_score = np.inf, np.inf
        for q in range(row.queue_len):
            j = queue(row, q).job
            if job(row, j).blocked_point == row.point:
                continue
            tier = serve_tier(row, rule, j, np.int64(0))
            score = job_score(row, j, rule.key)
            after = _precedes(floor_tier, floor_score, floor_position, tier, score, q)
            if after and (
                best < 0 or _precedes(tier, score, q, best_tier, best_score, best_position)
            ):
                best, best_tier, best_score, best_position = j, tier, score, q
        if best < 0:
            return np.int64(ActionKind.WAIT), np.int64(NO_JOB)
        reason = placement_reason(row, best)
        if reason == Reason.OK:
            return np.int64(ActionKind.PLACE), np.int64(best)
        victim = np.int64(NO_JOB)
        if reason == Reason.NO_CAPACITY:  # what its tenant may not have, no victim can give
            victim = victim_for(row, rule, best, lifted)
        if victim >= 0:
            return np.int64(ActionKind.PREEMPT), np.int64(victim)
        # A job further down that started now could take the room that is about to be free, and
        # would be preempted in its turn.
        if victim == ROOM_COMES or rule.blocking != 0:
            return np.int64(ActionKind.WAIT), np.int64(NO_JOB)
        floor_tier, floor_score, floor_position = best_tier, best_score, best_position


@part
def _rigid_action(row, rule, scratch):
    """What a rule does with waiting jobs: (kind, job)."""
    if row.queue_len == 0:
        return np.int64(ActionKind.WAIT), np.int64(NO_JOB)
    if row.commitment != 0:
        j = _best_placeable(row, rule.key)  # fitting or not, if its tenant may have it
        return np.int64(ActionKind.WAIT if j < 0 else ActionKind.PLACE), np.int64(j)
    if rule.preemption != Preemption.NONE:
        return _preemptive_action(row, rule, scratch)
    if rule.blocking != 0:
        j = queue(row, first_in_queue(row, rule.key)).job
        if placement_reason(row, j) != Reason.OK:
            j = np.int64(NO_JOB)
    else:
        j = _best_placeable(row, rule.key)
    if j < 0:
        return np.int64(ActionKind.WAIT), np.int64(NO_JOB)
    return np.int64(ActionKind.PLACE), np.int64(j)


@kernel
def rule_action(row, rule, scratch):
    """What a rule does at the decision point at which row ``e`` stands.

    Parameters
    ----------
    row : ROW_DTYPE record
    rule : RULE_DTYPE record
    scratch : int32 [>= max(jobs, workers)]

    Returns
    -------
    tuple of int
        (``ActionKind``, job, service or NO_JOB, value as
        :func:`~orchestrator.kernels.commit.commit` takes it).
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
    """Run row ``e`` to its end under a rule.

    Parameters
    ----------
    row : ROW_DTYPE record
        Just begun.
    rule : RULE_DTYPE record
    nodes : int32 [>= workers]
        Scratch.
    scratch : int32 [>= jobs]
        Scratch.

    Returns
    -------
    int
        Decisions taken.
    """
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
