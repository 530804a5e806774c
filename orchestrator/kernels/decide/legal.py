"""What may be decided: legality of placements, preemptions, resizes, moves and waiting."""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.change.nodes import capacity_reason
from orchestrator.kernels.change.timeline import next_event
from orchestrator.kernels.lang.jit import kernel, part, small_kernel
from orchestrator.kernels.place.fit import fits, least_units, least_workers
from orchestrator.kernels.place.memo import find_kind
from orchestrator.kernels.place.slots import units_of
from orchestrator.kernels.state.access import (
    job,
    kind,
    line,
    plan,
    queue,
    request,
    running,
    service,
    tenant,
)
from orchestrator.kernels.state.codes import EventKind, JobCode, JobKind, QuotaMode, Reason

__all__ = [
    "breaks_quota",
    "can_wait",
    "decision_open",
    "fleet_reason",
    "has_no_limits",
    "has_room",
    "is_stuck",
    "permitted_workers",
    "placement_reason",
    "preemption_reason",
    "quota_workers",
    "resize_reason",
    "serves",
    "service_bounds",
    "service_reason",
    "start_reason",
]


_AT_ONCE = 8  # of the queue, that are looked at before the running jobs, which are fewer


@small_kernel
def breaks_quota(row, j, used):
    """Whether its tenant's hard quota keeps a waiting job from starting beside ``used`` units."""
    ask = request(row, j)
    if row.quota_mode != QuotaMode.HARD or ask.tenant >= row.num_tenants:
        return False
    return used + least_units(row, j) > tenant(row, ask.tenant).quota_units


@small_kernel
def _exceeds_quota(row, j):
    """The same beside what the tenant holds now."""
    ask = request(row, j)
    if row.quota_mode != QuotaMode.HARD or ask.tenant >= row.num_tenants:
        return False
    return breaks_quota(row, j, tenant(row, ask.tenant).used_units)


@small_kernel
def _account_reason(row, j):
    """Whether a waiting job's tenant may start it: quota, and storage for its checkpoints."""
    ask = request(row, j)
    if ask.tenant >= row.num_tenants:
        return Reason.OK
    owner = tenant(row, ask.tenant)
    if _exceeds_quota(row, j):
        return Reason.QUOTA
    limit = owner.storage_quota_mib
    if limit > 0 and job(row, j).first_start_ms < 0:
        if owner.storage_mib + ask.storage_mib > limit:
            return Reason.STORAGE
    return Reason.OK


@small_kernel
def has_no_limits(row, j):
    """Whether nothing but room keeps waiting job ``j`` from starting, whoever else starts."""
    if row.num_tenants == 0:
        return True
    t = np.int64(request(row, j).tenant)
    if t >= row.num_tenants:
        return True
    return row.quota_mode != QuotaMode.HARD and tenant(row, t).storage_quota_mib <= 0


@kernel
def quota_workers(row, j, workers):
    """How many of ``workers`` more workers of job ``j`` its tenant's quota allows."""
    ask = request(row, j)
    if row.quota_mode != QuotaMode.HARD or ask.tenant >= row.num_tenants:
        return np.int64(workers)
    owner = tenant(row, ask.tenant)
    each = units_of(row, j, np.int64(1))
    if each <= 0:
        return np.int64(workers)
    return max(min(np.int64(workers), (owner.quota_units - owner.used_units) // each), np.int64(0))


@kernel
def permitted_workers(row, j, workers):
    """How many of ``workers`` workers job ``j``'s tenant may start now; 0: fewer than it needs."""
    if row.num_tenants == 0:
        return np.int64(workers)
    if _account_reason(row, j) != Reason.OK:
        return np.int64(0)
    return quota_workers(row, j, workers)


@kernel
def has_room(row, j):
    """Whether waiting job ``j`` finds all that running jobs can leave it: room, and quota."""
    return not _exceeds_quota(row, j) and fits(row, j)


@kernel
def start_reason(row, j):
    """Whether job ``j`` may be placed now, if there is room for it: a ``Reason``."""
    state = job(row, j).state
    if state != JobCode.PENDING and state != JobCode.PREEMPTED:
        return Reason.NOT_QUEUED
    if job(row, j).blocked_point == row.point:
        return Reason.BLOCKED
    if row.num_tenants > 0:
        reason = _account_reason(row, j)
        if reason != Reason.OK:
            return reason
    return Reason.OK


@kernel
def placement_reason(row, j):
    """Whether job ``j`` could be placed now: a ``Reason``."""
    reason = start_reason(row, j)
    if reason != Reason.OK or row.commitment != 0 or fits(row, j):
        return reason
    return Reason.NO_CAPACITY


@kernel
def preemption_reason(row, j):
    """Whether running job ``j`` may be preempted now: a ``Reason``."""
    if job(row, j).state != JobCode.RUNNING:
        return Reason.NOT_RUNNING
    if request(row, j).preemptible == 0:
        return Reason.NOT_PREEMPTIBLE
    if row.now_ms - job(row, j).start_ms < row.min_run_ms:
        return Reason.MIN_RUN_TIME
    if row.preemptions_here >= row.preemption_limit:
        return Reason.PREEMPTION_BOUND
    return Reason.OK


@kernel
def resize_reason(row, j, workers):
    """Whether running job ``j`` may have ``workers`` workers from now on: a ``Reason``.

    Room for more workers is not looked for; ``place_more`` does that.
    """
    if job(row, j).state != JobCode.RUNNING:
        return Reason.NOT_RUNNING
    ask = request(row, j)
    if ask.elastic == 0:
        return Reason.NOT_ELASTIC
    now = job(row, j).workers_now
    most = min(ask.max_workers, row.max_workers)
    if workers == now or workers < least_workers(row, j) or workers > most:
        return Reason.SIZE_BOUNDS
    if ask.kind != JobKind.SERVICE and row.now_ms - job(row, j).resized_ms < row.resize_lock_ms:
        return Reason.MIN_RUN_TIME
    if workers > now:
        if units_of(row, j, workers - now) > row.free_units:
            return Reason.NO_CAPACITY
        if quota_workers(row, j, workers - now) < workers - now:
            return Reason.QUOTA
    return Reason.OK


@small_kernel
def can_wait(row):
    """Whether anything is left to wait for, or somebody can be turned away."""
    if row.turn_away != 0 and row.queue_len > 0:
        return True
    _, event, _ = next_event(row)
    return event != EventKind.NONE


@kernel
def is_stuck(row):
    """Whether jobs wait and nothing is left to wait for: only nodes that are ordered can help.

    Services that still wait at the end of an episode are none of these jobs.
    """
    return row.queue_len > 0 and row.active_jobs > row.active_services and not can_wait(row)


@small_kernel
def _window_reason(row, k, more, last_ms, last_by):
    """Whether a change in this direction is due: one goes on at its tick, others wait."""
    if row.scaling_open == 0:
        return Reason.COOLDOWN
    since = row.now_ms - last_ms
    if last_ms >= row.scaling_ms:  # live, a moment may have passed
        return Reason.OK if (more > 0) == (last_by > 0) else Reason.COOLDOWN
    window = plan(row, k).up_window_ms if more > 0 else plan(row, k).down_window_ms
    return Reason.OK if since >= window else Reason.COOLDOWN


@kernel
def fleet_reason(row, delta):
    """Whether ``delta`` nodes may be ordered, or given up if negative, now: a ``Reason``.

    Nodes and replicas are changed at ticks, not before the window of their plan has passed since
    the last change. A cluster that is stuck may order nodes at any time.
    """
    if delta <= 0 or not is_stuck(row):
        reason = np.int64(_window_reason(row, np.int64(0), delta, row.scaled_ms, row.scaled_by))
        if reason != Reason.OK:
            return reason
    return np.int64(capacity_reason(row, delta))


@small_kernel
def serves(row, s):
    """Whether what service ``s`` was told of is a service: live, another job may have its row."""
    return request(row, service(row, s).job).kind == JobKind.SERVICE


@small_kernel
def service_bounds(row, s):
    """Fewest and most replicas of service ``s``: its job's, within those of its plan if any."""
    ask, own = request(row, service(row, s).job), plan(row, s + 1)
    fewest, most = np.int64(ask.min_workers), np.int64(ask.max_workers)
    if own.max_size > 0:
        fewest, most = max(fewest, np.int64(own.min_size)), min(most, np.int64(own.max_size))
    return fewest, most


@kernel
def service_reason(row, s, replicas):
    """Whether service ``s`` may have ``replicas`` replicas from now on: a ``Reason``.

    Room for more is not looked for, as in :func:`resize_reason`. It never leaves its bounds; one
    that is beyond them may come back.
    """
    if s < 0 or s >= row.num_services or not serves(row, s):
        return np.int64(Reason.NOT_A_SERVICE)
    own = service(row, s)
    more = replicas - job(row, own.job).workers_now
    fewest, most = service_bounds(row, s)
    if (more > 0 and replicas > most) or (more < 0 and replicas < fewest):
        return np.int64(Reason.SIZE_BOUNDS)
    reason = np.int64(_window_reason(row, np.int64(s + 1), more, own.scaled_ms, own.scaled_by))
    if reason != Reason.OK:
        return reason
    return np.int64(resize_reason(row, np.int64(own.job), replicas))


@part
def _scaling_open(row):
    """Whether nodes or replicas may be changed, room for them left out of account."""
    if row.scaling_open == 0 and (row.capacity_steps == 0 or not is_stuck(row)):
        return False
    if row.capacity_steps > 0:
        if fleet_reason(row, np.int64(1)) == Reason.OK:
            return True
        if fleet_reason(row, np.int64(-1)) == Reason.OK:
            return True
    for s in range(min(row.services, row.num_services)):
        now = np.int64(job(row, service(row, s).job).workers_now)
        if service_reason(row, np.int64(s), now + 1) == Reason.OK:
            return True
        if service_reason(row, np.int64(s), now - 1) == Reason.OK:
            return True
    return False


@part
def _resize_open(row):
    """Whether any running job may be resized, room for it left out of account."""
    for k in range(row.running_len):
        if running(row, k).elastic == 0:
            continue
        j = running(row, k).job
        now = np.int64(job(row, j).workers_now)
        if resize_reason(row, j, now + 1) == Reason.OK:
            return True
        if resize_reason(row, j, now - 1) == Reason.OK:
            return True
    return False


@part
def _placement_open(row, first, last):
    """Whether any job at these places of the queue, ``last`` exclusive, could be placed now."""
    for q in range(first, last):
        j = queue(row, q).job
        if row.commitment != 0:
            if start_reason(row, j) == Reason.OK:
                return True
            continue
        if fits(row, j) and start_reason(row, j) == Reason.OK:
            return True
    return False


@small_kernel
def _is_lined_up(row):
    """Whether all that wait are in the line, and perhaps some that do not any more."""
    return row.line_rule != 0 and row.lined_at == row.line_at and row.line_queued == row.queued


@part
def _placement_open_in_line(row):
    """Whether any queued job could be placed now, by a look at the line: its entries are narrow."""
    for i in range(row.line_len):
        entry = line(row, row.line_side, i)
        k = np.int64(entry.kind)
        if k > 0 and kind(row, k).seen == row.touched and kind(row, k).total < entry.least:
            continue
        j = np.int64(entry.job)
        if start_reason(row, j) != Reason.OK:
            continue
        if fits(row, j):
            return True
        find_kind(row, j)  # so that nobody else of its kind is looked at like this
    return False


@small_kernel
def _preemption_open(row):
    """Whether any running job may be preempted."""
    if row.preemption_limit <= 0:
        return False
    for k in range(row.running_len):
        if preemption_reason(row, running(row, k).job) == Reason.OK:
            return True
    return False


@kernel
def decision_open(row):
    """Whether any action besides waiting is legal now.

    Some queued job must be placeable (under commitment semantics, whether it fits or not), or,
    while jobs wait, some running job must be preemptible, or some running job may be resized, or
    nodes or replicas may be changed.
    """
    length = np.int64(row.queue_len)
    if (row.services > 0 or row.capacity_steps > 0) and _scaling_open(row):
        return True
    if row.elastics > 0 and _resize_open(row):
        return True
    if length == 0:
        return False
    first = min(length, np.int64(_AT_ONCE))
    if _placement_open(row, np.int64(0), first) or _preemption_open(row):
        return True
    if first == length:
        return False
    if row.commitment == 0 and _is_lined_up(row):
        return _placement_open_in_line(row)
    return _placement_open(row, first, length)
