"""Room is kept for the first job that does not fit: who may overtake it, on the nodes as they are.

EASY backfilling (Lifka, "The ANL/IBM SP scheduling system", JSSPP 1995) without commitment: the
first waiting job that does not fit will fit once running jobs have ended, by their estimates;
others may start meanwhile if they end before that, or if it fits then all the same. Capacity is
placed: fragmentation, models and domains count. Under commitment, where a chosen job is waited for,
it is only counted.
"""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.change.hold import lift_gang, release_gang, reserve_gang, restore_gang
from orchestrator.kernels.change.jobs import start_job
from orchestrator.kernels.decide.legal import has_room, permitted_workers, start_reason
from orchestrator.kernels.decide.order import job_score
from orchestrator.kernels.lang.jit import kernel, small_kernel
from orchestrator.kernels.place.fit import fits, least_units, least_workers
from orchestrator.kernels.place.generate import place_gang
from orchestrator.kernels.state.access import job, queue, request, running, tenant
from orchestrator.kernels.state.codes import (
    NEVER,
    JobKind,
    Placement,
    Preemption,
    Reason,
    RuleKey,
)

__all__ = [
    "MOST_CHECKS",
    "backfill_queue",
    "delays",
    "earliest_fit",
    "earliest_start",
    "ends_before",
    "gives_way",
    "leaves_storage",
    "reserved_start",
    "start_gang",
    "start_refusal",
]


MOST_CHECKS = 16
"""Jobs that are tried beside a reservation at one decision; of more, those that end before it go.

A bound on the work of one decision only: who is passed over is tried again at the next.
"""


@kernel
def start_gang(row, position, generator, nodes):
    """Start the job at a queue position where ``generator`` places it; whether it may and fits.

    It gets as many workers as its tenant may have now.
    """
    j = queue(row, position).job
    workers = permitted_workers(row, j, place_gang(row, j, generator, nodes))
    return workers > 0 and start_job(row, position, nodes, workers, generator)


@kernel
def leaves_storage(row, j, committed):
    """Whether, once job ``j`` has started, the committed job's checkpoints still find storage.

    Storage is held until a job ends, however often it is interrupted: a committed job could wait
    for it in vain.
    """
    t = request(row, committed).tenant
    if request(row, j).tenant != t or t >= row.num_tenants or job(row, j).first_start_ms >= 0:
        return True
    limit = tenant(row, t).storage_quota_mib
    if limit <= 0 or job(row, committed).first_start_ms >= 0:
        return True
    wanted = request(row, j).storage_mib + request(row, committed).storage_mib
    return tenant(row, t).storage_mib + wanted <= limit


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


@small_kernel
def _leaves(row, rule, head, k, count):
    """Whether the running job at place ``k`` is of the first ``count`` to end, or gives way.

    Services do not end.
    """
    v = np.int64(running(row, k).job)
    return (k < count and request(row, v).kind != JobKind.SERVICE) or gives_way(row, rule, head, v)


@kernel
def _lift_leavers(row, rule, head, count):
    """Lift the first ``count`` running jobs to end, and those that give way to ``head``."""
    for k in range(row.running_len):
        if _leaves(row, rule, head, k, count):
            lift_gang(row, np.int64(running(row, k).job))


@kernel
def _restore_leavers(row, rule, head, count):
    for k in range(row.running_len):
        if _leaves(row, rule, head, k, count):
            restore_gang(row, np.int64(running(row, k).job))


@kernel
def reserved_start(row, rule, head):
    """When waiting job ``head``, which does not fit, will fit: (time, running jobs ended by then).

    By the expected ends of running jobs, those that give way left out of account; NEVER if it does
    not fit even then. The state is as before when this returns.
    """
    _lift_leavers(row, rule, head, np.int64(0))
    count, time_ms = np.int64(0), np.int64(row.now_ms)
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
    _restore_leavers(row, rule, head, count)
    return time_ms if fit else np.int64(NEVER), count


@small_kernel
def ends_before(row, j, time_ms):
    """Whether waiting job ``j``, started now, is expected to have ended by a time.

    A service has no end. Who may start with fewer workers than it asked for is taken to do so.
    """
    if request(row, j).kind == JobKind.SERVICE:
        return False
    left = max(np.int64(request(row, j).requested_ms - job(row, j).progress_ms), np.int64(0))
    least = least_workers(row, j)
    left = (left * max(np.int64(request(row, j).workers), least) + least - 1) // least
    if job(row, j).first_start_ms >= 0:
        left += request(row, j).restart_ms
    return row.now_ms + left <= time_ms


@kernel
def delays(row, rule, head, count, j, nodes):
    """Whether ``head`` would not fit once ``count`` running jobs have ended, had job ``j`` started.

    ``j`` fits now; the state is as before when this returns.
    """
    generator = np.int64(rule.placement)
    workers = permitted_workers(row, j, place_gang(row, j, generator, nodes))
    if workers <= 0 or not reserve_gang(row, j, nodes, workers, generator):
        return True  # it cannot start in this place anyway
    storage = leaves_storage(row, j, head)
    _lift_leavers(row, rule, head, count)
    late = not (storage and has_room(row, head))
    _restore_leavers(row, rule, head, count)
    release_gang(row, j)
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


# --- under commitment ----------------------------------------------------------------------------

_PLACEMENT = np.int64(Placement.FIRST_FIT)


@kernel
def earliest_start(row, units):
    """When ``units`` of capacity will be free, by the running jobs' expected ends, ms.

    Capacity is counted, not placed: fragmentation is ignored. If the running jobs do not free
    enough, the last expected end is returned.
    """
    free = row.free_units
    time_ms = row.now_ms
    for k in range(row.running_len):
        if free >= units:
            break
        free += running(row, k).units
        time_ms = running(row, k).expected_end_ms
    return time_ms


@kernel
def backfill_queue(row, committed, nodes):
    """Start queued jobs that fit and end before the committed one's reservation; how many.

    They go in submit order.
    """
    started = 0
    slack = row.reservation_ms - row.now_ms
    q = np.int64(0)
    while q < row.queue_len:
        j = queue(row, q).job
        if (
            j != committed
            and request(row, j).requested_ms < slack
            and least_units(row, j) <= row.free_units
            and leaves_storage(row, j, committed)
            and fits(row, j)
            and start_gang(row, q, _PLACEMENT, nodes)
        ):
            started += 1
        else:
            q += 1
    return started
