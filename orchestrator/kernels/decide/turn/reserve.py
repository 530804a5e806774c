"""Room is kept for the first job that does not fit: who may overtake it, on the nodes as they are.

EASY backfilling (Lifka, "The ANL/IBM SP scheduling system", JSSPP 1995) without commitment: the
first waiting job that does not fit will fit once running jobs have ended, by their estimates;
others may start meanwhile if they end before that, or if it fits then all the same. Capacity is not
counted, as in ``decide.gang``, but placed: fragmentation, models and domains count.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from orchestrator.kernels.change.hold import lift_gang, release_gang, reserve_gang, restore_gang
from orchestrator.kernels.decide.gang import leaves_storage
from orchestrator.kernels.decide.legal import (
    breaks_quota,
    has_room,
    permitted_workers,
    start_reason,
)
from orchestrator.kernels.decide.order import job_score
from orchestrator.kernels.decide.turn.line import expected_run_ms
from orchestrator.kernels.lang.jit import kernel, small_kernel
from orchestrator.kernels.place.domains import is_bound
from orchestrator.kernels.place.fit import fits, least_workers
from orchestrator.kernels.place.generate import place_gang
from orchestrator.kernels.place.memo import find_kind, undo_touches
from orchestrator.kernels.place.slots import ANY_NUMBER, is_new_node, units_of, worker_slots
from orchestrator.kernels.state.access import job, kind, request, running, tenant, worker
from orchestrator.kernels.state.access import room as near
from orchestrator.kernels.state.codes import (
    NEVER,
    NO_JOB,
    JobKind,
    Placement,
    Preemption,
    Reason,
    RuleKey,
)

__all__ = [
    "MOST_CHECKS",
    "Reservation",
    "delays",
    "earliest_fit",
    "ends_before",
    "gives_way",
    "no_reservation",
    "reserved_start",
    "start_refusal",
]


MOST_CHECKS = 16
"""Jobs that are tried beside a reservation at one decision; of more, those that end before it go.

A bound on the work of one decision only: who is passed over is tried again at the next.
"""


@small_kernel
def gives_way(row, rule, head, v):
    """Whether job ``v``, if it ran, could be preempted for ``head``, by class.

    Under RECLAIM that depends on what tenants hold at the time: it is not counted on.
    """
    if rule.preemption != Preemption.PRIORITY:
        return False
    if request(row, v).preemptible == 0 or request(row, v).priority <= request(row, head).priority:
        return False
    if rule.key != RuleKey.PRIORITY:
        return True
    return job_score(row, v, rule.key) > job_score(row, head, rule.key)


class Reservation(NamedTuple):
    """Room that is kept for a waiting job, the head, which does not fit."""

    head: int  # or NO_JOB
    start_ms: int  # when it will fit; NEVER: not even when all that end have ended
    ended: int  # entries of the running list that have ended by then,
    reach: int  # and entries beyond which nobody gives way to it either
    slots: int  # workers like the head's that all nodes hold then; below 0: they are not counted
    used: int  # capacity units that its tenant holds then


@small_kernel
def no_reservation():
    """Room is kept for nobody."""
    none, zero = np.int64(NO_JOB), np.int64(0)
    return Reservation(none, np.int64(NEVER), zero, zero, none, zero)


@small_kernel
def _leaves(row, rule, room, k):
    """Whether the running job at place ``k`` has ended by the time of a reservation, or gives way.

    Services do not end.
    """
    v = np.int64(running(row, k).job)
    if k < room.ended and request(row, v).kind != JobKind.SERVICE:
        return True
    return gives_way(row, rule, room.head, v)


@kernel
def _lift_leavers(row, rule, room):
    """Lift running jobs that have ended by the time of a reservation, and those that give way."""
    for k in range(room.reach):
        if _leaves(row, rule, room, k):
            lift_gang(row, np.int64(running(row, k).job))


@kernel
def _restore_leavers(row, rule, room):
    for k in range(room.reach):
        if _leaves(row, rule, room, k):
            restore_gang(row, np.int64(running(row, k).job))


@small_kernel
def _used_units(row, j):
    """Capacity units that the tenant of job ``j`` holds; 0 without an account."""
    t = request(row, j).tenant
    return np.int64(tenant(row, t).used_units) if t < row.num_tenants else np.int64(0)


@small_kernel
def _reach(row, rule, head):
    """Entries of the running list beyond which nobody gives way to waiting job ``head``."""
    reach = np.int64(0)
    if rule.preemption == Preemption.PRIORITY:
        for k in range(row.running_len):
            if gives_way(row, rule, head, np.int64(running(row, k).job)):
                reach = np.int64(k + 1)
    return reach


@kernel
def reserved_start(row, rule, head):
    """When waiting job ``head``, which does not fit, will fit: a :class:`Reservation`.

    By the expected ends of running jobs, those that give way left out of account. The state is as
    before when this returns.
    """
    none, count, before = np.int64(NO_JOB), np.int64(0), np.int64(row.touched)
    reach, time_ms = _reach(row, rule, head), np.int64(row.now_ms)
    _lift_leavers(row, rule, Reservation(head, time_ms, count, reach, none, none))
    fit = has_room(row, head)
    while not fit and count < row.running_len:
        v = np.int64(running(row, count).job)
        count += 1
        if request(row, v).kind == JobKind.SERVICE:
            continue
        time_ms = max(time_ms, np.int64(running(row, count - 1).expected_end_ms))
        if not gives_way(row, rule, head, v):
            lift_gang(row, v)
            fit = has_room(row, head)
    slots = none
    if fit and job(row, head).kind > 0 and not is_bound(row, head):
        slots = np.int64(kind(row, find_kind(row, head)).total)
    if not fit:
        time_ms = np.int64(NEVER)
    room = Reservation(head, time_ms, count, max(reach, count), slots, _used_units(row, head))
    _restore_leavers(row, rule, room)
    undo_touches(row, head, before)
    return room


@small_kernel
def ends_before(row, j, time_ms):
    """Whether waiting job ``j``, started now, is expected to have ended by a time."""
    return row.now_ms + expected_run_ms(row, j) <= time_ms


@kernel
def _is_near(row, v):
    """Whether running job ``v`` has a worker on a marked node."""
    for w in range(job(row, v).workers_now):
        if near(row, worker(row, v, w).node).mates > 0:
            return True
    return False


@small_kernel
def _slots_there(row, j, nodes, workers):
    """Workers of job ``j`` that the nodes of a gang hold now."""
    slots = np.int64(0)
    for w in range(workers):
        if is_new_node(nodes, w):
            slots += worker_slots(row, j, np.int64(nodes[w]), ANY_NUMBER)
    return slots


@kernel
def _takes_room(row, rule, room, j, nodes):
    """Whether the head would not fit with job ``j``, reserved on ``nodes``; it is released.

    Only these nodes hold fewer of the head's workers than without it, so that nobody is lifted who
    is not there.
    """
    workers = np.int64(job(row, j).workers_now)
    used = room.used
    if request(row, j).tenant == request(row, room.head).tenant:
        used += units_of(row, j, workers)
    for w in range(workers):
        near(row, nodes[w]).mates += 1
    for k in range(room.reach):
        v = np.int64(running(row, k).job)
        if _leaves(row, rule, room, k) and _is_near(row, v):
            lift_gang(row, v)
    slots = room.slots + _slots_there(row, room.head, nodes, workers)
    release_gang(row, j)
    slots -= _slots_there(row, room.head, nodes, workers)
    for k in range(room.reach):
        v = np.int64(running(row, k).job)
        if _leaves(row, rule, room, k) and _is_near(row, v):
            restore_gang(row, v)
    for w in range(workers):
        near(row, nodes[w]).mates = 0
    return slots < least_workers(row, room.head) or breaks_quota(row, room.head, used)


@kernel
def delays(row, rule, room, j, nodes):
    """Whether the head would not fit at the time of its reservation, had job ``j`` started.

    ``j`` fits now; the state is as before when this returns.
    """
    generator, before = np.int64(rule.placement), np.int64(row.touched)
    workers = permitted_workers(row, j, place_gang(row, j, generator, nodes))
    if workers <= 0 or not reserve_gang(row, j, nodes, workers, generator):
        return True  # it cannot start in this place anyway
    late = not leaves_storage(row, j, room.head)
    if room.slots >= 0:
        late = _takes_room(row, rule, room, j, nodes) or late
    else:
        _lift_leavers(row, rule, room)
        late = late or not has_room(row, room.head)
        _restore_leavers(row, rule, room)
        release_gang(row, j)
    undo_touches(row, room.head, before)
    return late


# --- for people ----------------------------------------------------------------------------------


@kernel
def earliest_fit(row, j):
    """When waiting job ``j`` will fit by the running jobs' estimates, if nobody takes the room.

    NEVER: not even then. Quotas are not thought of; the state is as before when this returns.
    """
    count, time_ms = np.int64(0), np.int64(row.now_ms)
    fit = fits(row, j)
    while not fit and count < row.running_len:
        v = np.int64(running(row, count).job)
        if request(row, v).kind != JobKind.SERVICE:
            time_ms = max(time_ms, np.int64(running(row, count).expected_end_ms))
            lift_gang(row, v)
            fit = fits(row, j)
        count += 1
    for k in range(count):
        v = np.int64(running(row, k).job)
        if request(row, v).kind != JobKind.SERVICE:
            restore_gang(row, v)
    return time_ms if fit else np.int64(NEVER)


@kernel
def start_refusal(row, j, nodes):
    """Why waiting job ``j`` could not be placed now, by best fit: a ``Reason``.

    That it was preempted at this very point is left out of account; the state is as before when
    this returns.
    """
    reason = np.int64(start_reason(row, j))
    if reason == Reason.BLOCKED:
        reason = np.int64(Reason.OK)
    if reason != Reason.OK:
        return reason
    generator = np.int64(Placement.BEST_FIT)
    workers = permitted_workers(row, j, place_gang(row, j, generator, nodes))
    if workers <= 0 or not reserve_gang(row, j, nodes, workers, generator):
        return np.int64(Reason.NO_CAPACITY)
    release_gang(row, j)
    return reason
