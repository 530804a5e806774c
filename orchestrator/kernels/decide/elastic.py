"""Sizes of running jobs: how one is changed, and how rules lend (see ``codes.Elasticity``).

Who ranks before whom goes by the rule's key alone; room is made for whom the rule serves first.
What is lent to a job are its workers beyond those that it asked for; no rule takes more from it.
"""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.change.elastic import (
    grow_job,
    lift_workers,
    restore_workers,
    shrink_job,
)
from orchestrator.kernels.change.jobs import progress_now
from orchestrator.kernels.change.queue import queue_position
from orchestrator.kernels.decide.legal import has_room, quota_workers, resize_reason, start_reason
from orchestrator.kernels.decide.order import job_score, precedes
from orchestrator.kernels.decide.turn.account import delays_own, kept_so_far
from orchestrator.kernels.decide.turn.line import serve_tier
from orchestrator.kernels.lang.jit import kernel, part, small_kernel
from orchestrator.kernels.place.fit import least_units
from orchestrator.kernels.place.generate import has_room_for_one, island_of, place_more
from orchestrator.kernels.place.slots import units_of
from orchestrator.kernels.place.throughput import speed_milli
from orchestrator.kernels.state.access import job, node, queue, request, running, worker
from orchestrator.kernels.state.codes import (
    NO_JOB,
    ActionKind,
    Elasticity,
    JobCode,
    JobKind,
    Reason,
    Topology,
)

__all__ = [
    "change_size",
    "elastic_action",
    "fastest_size",
    "fewer_workers",
    "given_instead",
    "largest_size",
    "marginal_speed",
    "sized_speed",
]


@small_kernel
def sized_speed(row, j, workers):
    """Speed of a running job on ``workers`` workers, thousandths, where it is and on its GPUs."""
    model = np.int64(node(row, worker(row, j, 0).node).model)
    return speed_milli(row, j, np.int64(workers), np.int64(job(row, j).spread), model)


@small_kernel
def marginal_speed(row, j, workers):
    """Speed that a running job gains on ``workers`` workers, thousandths per capacity unit.

    Its present spread and GPU model are taken to stay.
    """
    now = np.int64(job(row, j).workers_now)
    gain = sized_speed(row, j, workers) - job(row, j).speed_milli
    return np.float64(gain) / max(abs(units_of(row, j, workers - now)), 1)


@small_kernel
def fewer_workers(row, j):
    """The next smaller size of a running elastic job: what it asked for, or one worker fewer.

    What was lent comes back at once, as rules take it back: one change of size, one regroup.
    """
    now = np.int64(job(row, j).workers_now)
    return max(min(now - 1, np.int64(request(row, j).workers)), np.int64(0))


@kernel
def change_size(row, j, workers, nodes):
    """Give a running gang another number of workers than it has, if it may; a ``Reason``."""
    more = workers - np.int64(job(row, j).workers_now)
    if more < 0:
        shrink_job(row, j, -more)
        return np.int64(Reason.OK)
    if place_more(row, j, more, nodes) < more:
        return np.int64(Reason.NO_CAPACITY)
    first, last = island_of(row, j)
    if not grow_job(row, j, nodes, more, first, last):
        return np.int64(Reason.NO_CAPACITY)
    return np.int64(Reason.OK)


@kernel
def largest_size(row, j, nodes):
    """The most workers that a running elastic job may have and find a place now.

    Those beyond the present ones go to ``nodes``, int32 [>= workers].
    """
    now = np.int64(job(row, j).workers_now)
    most = min(np.int64(request(row, j).max_workers), np.int64(row.max_workers))
    more = min(most - now, row.free_units // max(units_of(row, j, np.int64(1)), 1))
    if more <= 0:
        return now
    return now + place_more(row, j, quota_workers(row, j, more), nodes)


@kernel
def fastest_size(row, j, more, nodes):
    """Workers, up to ``more`` added on ``nodes``, with which a running job is fastest; its speed.

    Of equally fast sizes the smallest; 0 workers if none is faster than the present one.
    """
    now, home = np.int64(job(row, j).workers_now), worker(row, j, 0).node
    model = np.int64(node(row, home).model)
    spread, best, speed = np.int64(job(row, j).spread), np.int64(0), job(row, j).speed_milli
    for k in range(more):
        if spread >= Topology.NODE and nodes[k] != home:
            spread = np.int64(Topology.ANY)
        faster = speed_milli(row, j, now + k + 1, spread, model)
        if faster > speed:
            best, speed = now + k + 1, faster
    return best, speed


@small_kernel
def _lent(row, j):
    """Workers of a running elastic job beyond those that it asked for, if it may give them back."""
    ask = request(row, j)
    surplus = np.int64(job(row, j).workers_now) - np.int64(ask.workers)
    if surplus <= 0 or ask.kind == JobKind.SERVICE:
        return np.int64(0)
    return surplus if resize_reason(row, j, np.int64(ask.workers)) == Reason.OK else np.int64(0)


@part
def _borrower(row):
    """The running elastic job with most workers beyond those it asked for, or NO_JOB."""
    best, most = np.int64(NO_JOB), np.int64(0)
    for k in range(row.running_len):
        j = np.int64(running(row, k).job)
        surplus = _lent(row, j)
        if surplus > most:
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


# --- by rank -------------------------------------------------------------------------------------


@part
def _lowest_score(row, key):
    """The score of the waiting job that goes first; infinite if nobody waits."""
    lowest = np.inf
    for q in range(row.queue_len):
        lowest = min(lowest, np.float64(job_score(row, queue(row, q).job, key)))
    return lowest


@part
def _stands_behind(row, rule, tier, score, q):
    """Whether the job at place ``q`` of the queue would delay one of its tenant that goes first."""
    j = np.int64(queue(row, q).job)
    head = np.int64(kept_so_far(row, rule, j))
    if head < 0:
        return False
    before = precedes(
        serve_tier(row, rule, head, np.int64(0)), job_score(row, head, rule.key),
        queue_position(row, head), tier, score, q,
    )  # fmt: skip
    return before and delays_own(row, rule, head, j)


@part
def _first_served(row, rule):
    """The waiting job that a rule starts before all others, if it has room, or NO_JOB; its score.

    Room that is made for anybody else might not be used: another one may be kept room for, have to
    start first, or be of a higher class.
    """
    best, best_tier, best_score, place = np.int64(NO_JOB), np.inf, np.inf, np.int64(0)
    able = False
    for q in range(row.queue_len):
        j = np.int64(queue(row, q).job)
        tier, score = serve_tier(row, rule, j, np.int64(0)), np.float64(job_score(row, j, rule.key))
        if best >= 0 and not precedes(tier, score, q, best_tier, best_score, place):
            continue
        reason = start_reason(row, j)
        if reason == Reason.BLOCKED:
            continue
        if rule.blocking == 0:
            if reason != Reason.OK or _stands_behind(row, rule, tier, score, np.int64(q)):
                continue
        best, best_tier, best_score, place = j, tier, score, np.int64(q)
        able = reason == Reason.OK
    if not able:
        return np.int64(NO_JOB), np.inf
    return best, best_score


@part
def _room_comes(row):
    """Whether a running job is being saved: somebody waits for its place."""
    for k in range(row.running_len):
        if job(row, running(row, k).job).state == JobCode.CHECKPOINTING:
            return True
    return False


@part
def _next_giver(row, key, bound, floor_score, floor_place):
    """Of borrowers behind a score, the next from the back: (place in the running list, score).

    Place NO_JOB if there is none after (``floor_score``, ``floor_place``).
    """
    best, best_score = np.int64(NO_JOB), -np.inf
    for k in range(row.running_len):
        j = np.int64(running(row, k).job)
        if running(row, k).elastic == 0 or job(row, j).workers_now <= request(row, j).workers:
            continue
        score = np.float64(job_score(row, j, key))
        if score <= bound or score > floor_score:
            continue
        if (score == floor_score and k <= floor_place) or (best >= 0 and score <= best_score):
            continue
        # What has just been lent stays for this instant, so that a decision point comes to an end.
        if job(row, j).resized_ms < row.now_ms and _lent(row, j) > 0:
            best, best_score = np.int64(k), score
    return best, best_score


@part
def _put_back(row, w, count, used, enough, scratch):
    """Put all lifted workers back; of the jobs that are needed the first lifted, or NO_JOB.

    ``enough``: job ``w`` has room now. What is written in ``scratch`` says :func:`_giver_for`.
    """
    found, size, at = np.int64(NO_JOB), scratch.shape[0], used
    for i in range(count - 1, -1, -1):
        j = np.int64(scratch[size - 2 * i - 1])
        lent = np.int64(scratch[size - 2 * i - 2])
        at -= lent
        restore_workers(row, j, lent, scratch[at:])
        if enough and not has_room(row, w):
            lift_workers(row, j, lent, scratch[at:])
            found = j
        else:
            scratch[size - 2 * i - 1] = np.int32(NO_JOB)
    at = used
    for i in range(count - 1, -1, -1):
        j = np.int64(scratch[size - 2 * i - 1])
        lent = np.int64(scratch[size - 2 * i - 2])
        at -= lent
        if j >= 0:
            restore_workers(row, j, lent, scratch[at:])
    return found


@kernel
def _giver_for(row, key, w, bound, scratch):
    """A running job whose lent workers waiting job ``w`` needs to be let in, or NO_JOB.

    They are lifted, of the job that ranks last first, until ``w`` has room; those that turn out not
    to be needed are spared. The state is as before when this returns. ``scratch`` is int32; what
    does not fit into it is not looked at.
    """
    most = np.int64(row.free_units)
    for k in range(row.running_len):
        j = np.int64(running(row, k).job)
        if running(row, k).elastic != 0 and job_score(row, j, key) > bound:
            most += units_of(row, j, _lent(row, j))
    if most < least_units(row, w):
        return np.int64(NO_JOB)
    # From the front: numbers of lifted workers. From the back: jobs, and how many of each.
    count, used, size = np.int64(0), np.int64(0), scratch.shape[0]
    floor_score, floor_place, enough = np.inf, np.int64(-1), False
    while not enough:
        place, score = _next_giver(row, key, bound, floor_score, floor_place)
        if place < 0:
            break
        j = np.int64(running(row, place).job)
        lent = _lent(row, j)
        if used + lent + 2 * (count + 1) > size:
            break
        lift_workers(row, j, lent, scratch[used:])
        scratch[size - 2 * count - 1], scratch[size - 2 * count - 2] = np.int32(j), np.int32(lent)
        used, count = used + lent, count + 1
        floor_score, floor_place = score, place
        enough = has_room(row, w)
    return _put_back(row, w, count, used, enough, scratch)


@small_kernel
def _pays(row, j, speed):
    """Whether a regroup is over sooner than what a running job gains by another speed."""
    left = request(row, j).requested_ms - progress_now(row, j)
    if left <= 0:  # nobody knows how long it still takes
        return True
    before = left / max(job(row, j).speed_milli, 1)
    return request(row, j).regroup_ms / 1000.0 + left / speed < before


@part
def _next_grower(row, key, bound, floor_score, floor_place, nodes):
    """Of jobs before a score that may grow, the next in order: (place in the running list, score).

    Place NO_JOB if there is none after (``floor_score``, ``floor_place``).
    """
    best, best_score = np.int64(NO_JOB), np.inf
    for k in range(row.running_len):
        j = np.int64(running(row, k).job)
        if running(row, k).elastic == 0 or job(row, j).workers_now >= request(row, j).max_workers:
            continue
        score = np.float64(job_score(row, j, key))
        if score >= bound or score < floor_score or (score == floor_score and k <= floor_place):
            continue
        if best >= 0 and score >= best_score:
            continue
        more = np.int64(job(row, j).workers_now + 1)
        if resize_reason(row, j, more) == Reason.OK and has_room_for_one(row, j, nodes):
            best, best_score = np.int64(k), score
    return best, best_score


@kernel
def _growth(row, key, bound, nodes):
    """The first job in order, before a score, for which growing pays, and its new size."""
    floor_score, floor_place = -np.inf, np.int64(-1)
    while True:
        place, score = _next_grower(row, key, bound, floor_score, floor_place, nodes)
        if place < 0:
            return np.int64(NO_JOB), np.int64(0)
        j = np.int64(running(row, place).job)
        more = largest_size(row, j, nodes) - np.int64(job(row, j).workers_now)
        size, speed = fastest_size(row, j, more, nodes)
        if size > 0 and _pays(row, j, speed):
            return j, size
        floor_score, floor_place = score, place


@kernel
def given_instead(row, rule, scratch):
    """Whose lent workers let the first that waits in, so that nobody has to be preempted for it.

    (kind, job, new number of workers), to wait if there is none; ``scratch`` as for
    :func:`elastic_action`.
    """
    none = np.int64(ActionKind.WAIT), np.int64(NO_JOB), np.int64(0)
    if rule.elastic < Elasticity.KEEP or _room_comes(row):
        return none
    w, bound = _first_served(row, rule)
    if w < 0:
        return none
    j = _giver_for(row, rule.key, w, bound, scratch)
    if j < 0:
        return none
    return np.int64(ActionKind.RESIZE), j, np.int64(request(row, j).workers)


@kernel
def elastic_action(row, rule, scratch):
    """Resize a running job, or wait: (kind, job, new number of workers).

    For decision points at which nothing can be placed. ``scratch`` is int32 [>= workers].
    """
    j, size = np.int64(NO_JOB), np.int64(0)
    if rule.elastic >= Elasticity.KEEP:
        _, j, size = given_instead(row, rule, scratch)
        if j < 0:
            bound = np.inf
            if rule.elastic == Elasticity.KEEP or _room_comes(row):
                bound = _lowest_score(row, rule.key)
            j, size = _growth(row, rule.key, bound, scratch)
    elif row.queue_len > 0:
        j = _borrower(row)
        if j >= 0:
            size = np.int64(request(row, j).workers)
    elif rule.elastic == Elasticity.SHORTEST:
        j, size = _growth(row, rule.key, np.inf, scratch)
    else:
        j = _grower(row, scratch)
        if j >= 0:
            size = np.int64(job(row, j).workers_now + 1)
    if j < 0:
        return np.int64(ActionKind.WAIT), np.int64(NO_JOB), np.int64(rule.placement)
    return np.int64(ActionKind.RESIZE), j, size
