"""Rules as data: an ordering, a placement and, optionally, preemption; and their replay."""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.advance import advance
from orchestrator.kernels.codes import NO_JOB, ActionKind, JobCode, Reason, Status
from orchestrator.kernels.commit import commit
from orchestrator.kernels.decisions import placement_reason, preemption_reason
from orchestrator.kernels.feasibility import fits
from orchestrator.kernels.jit import kernel
from orchestrator.kernels.ordering import first_in_queue, job_score
from orchestrator.kernels.tables import job, queue, running
from orchestrator.kernels.transition.decide import finish_episode
from orchestrator.kernels.transition.whatif import lift_gang, restore_gang

__all__ = ["RULE_DTYPE", "replay", "rule_action"]

RULE_DTYPE = np.dtype(
    [
        ("key", "u1"),  # codes.RuleKey
        ("placement", "u1"),  # codes.Placement
        ("preemptive", "u1"),  # running jobs of a higher score may be preempted
        ("blocking", "u1"),  # nobody overtakes the first job of the queue
    ],
    align=True,
)
"""A rule. Under commitment semantics only its key matters."""

ROOM_COMES = -2
"""Instead of a victim: the jobs that are being checkpointed will leave room enough."""


@kernel
def _best_placeable(row, key):
    """The waiting job of lowest score among those that can start now, or NO_JOB."""
    best, best_score = NO_JOB, np.inf
    for q in range(row.queue_len):
        j = queue(row, q).job
        score = job_score(row, j, key)
        if (best < 0 or score < best_score) and placement_reason(row, j) == Reason.OK:
            best, best_score = j, score
    return best


@kernel
def _worst_victim(row, key, above, lifted, count):
    """The preemptible running job of highest score above a bound, lifted ones left out."""
    worst, worst_score = NO_JOB, above
    for k in range(row.running_len):
        j = running(row, k).job
        seen = False
        for i in range(count):
            seen = seen or lifted[i] == j
        if seen or preemption_reason(row, j) != Reason.OK:
            continue
        score = job_score(row, j, key)
        if score > worst_score:
            worst, worst_score = j, score
    return worst


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
def _victim_for(row, j, key, lifted):
    """A running job whose preemption is needed to let waiting job ``j`` in, NO_JOB or ROOM_COMES.

    Victims of the highest score are lifted until the gang fits; those that turn out not to be
    needed are spared, best score first. Jobs being checkpointed count as gone: nobody is preempted
    for room that is about to be free. The state is as before when this returns.
    """
    bound = job_score(row, j, key)
    leaving = _lift_leaving(row, lifted)
    count = leaving
    if leaving > 0 and fits(row, j):
        for k in range(count):
            restore_gang(row, lifted[k])
        return ROOM_COMES
    while not fits(row, j):
        v = _worst_victim(row, key, bound, lifted, count)
        if v < 0 or count - leaving >= row.preemption_limit - row.preemptions_here:
            for k in range(count):
                restore_gang(row, lifted[k])
            return NO_JOB
        lift_gang(row, v)
        lifted[count] = v
        count += 1
    needed = NO_JOB
    for k in range(count - 1, leaving - 1, -1):
        restore_gang(row, lifted[k])
        if not fits(row, j):
            lift_gang(row, lifted[k])
            needed = lifted[k]
            lifted[k] = -1 - lifted[k]  # still lifted
    for k in range(leaving):
        restore_gang(row, lifted[k])
    for k in range(leaving, count):
        if lifted[k] < 0:
            restore_gang(row, -1 - lifted[k])
    return needed


@kernel
def _preemptive_action(row, rule, lifted):
    """Serve waiting jobs by score; make room for one by preempting jobs of higher score.

    Returns
    -------
    tuple of int
        (kind, job) of the action.
    """
    floor_score, floor_position = -np.inf, -1
    while True:
        best, best_score, best_position = NO_JOB, np.inf, -1
        for q in range(row.queue_len):
            j = queue(row, q).job
            if job(row, j).blocked_point == row.point:
                continue
            score = job_score(row, j, rule.key)
            after = score > floor_score or (score == floor_score and q > floor_position)
            if after and (best < 0 or score < best_score):
                best, best_score, best_position = j, score, q
        if best < 0:
            return np.int64(ActionKind.WAIT), np.int64(NO_JOB)
        if fits(row, best):
            return np.int64(ActionKind.PLACE), np.int64(best)
        victim = _victim_for(row, best, rule.key, lifted)
        if victim >= 0:
            return np.int64(ActionKind.PREEMPT), np.int64(victim)
        # A job further down that started now could take the room that is about to be free, and
        # would be preempted in its turn.
        if victim == ROOM_COMES or rule.blocking != 0:
            return np.int64(ActionKind.WAIT), np.int64(NO_JOB)
        floor_score, floor_position = best_score, best_position


@kernel
def rule_action(row, rule, scratch):
    """What a rule does at the decision point at which row ``e`` stands.

    Parameters
    ----------
    row : ROW_DTYPE record
    rule : RULE_DTYPE record
    scratch : int32 [>= jobs]

    Returns
    -------
    tuple of int
        (``ActionKind``, job or NO_JOB).
    """
    if row.commitment != 0:
        q = first_in_queue(row, rule.key)
        return np.int64(ActionKind.PLACE), np.int64(queue(row, q).job)
    if rule.preemptive != 0:
        return _preemptive_action(row, rule, scratch)
    if rule.blocking != 0:
        j = queue(row, first_in_queue(row, rule.key)).job
        if placement_reason(row, j) != Reason.OK:
            j = NO_JOB
    else:
        j = _best_placeable(row, rule.key)
    if j < 0:
        return np.int64(ActionKind.WAIT), np.int64(NO_JOB)
    return np.int64(ActionKind.PLACE), np.int64(j)


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
        kind, j = rule_action(row, rule, scratch)
        generator = np.int64(rule.placement)
        if commit(row, kind, j, generator, nodes) != Reason.OK:
            # Waiting is refused when nothing is left to wait for: the row is at its end.
            if kind == ActionKind.WAIT:
                finish_episode(row)
                break
            raise RuntimeError("a rule chose an illegal action")
        count += 1
    return count
