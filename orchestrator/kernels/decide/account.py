"""A tenant's first job that its quota or its storage keeps waiting: who of the tenant overtakes it.

What a tenant may have is a room like any other: what its small jobs take as soon as it is given
back, a large one of the same tenant never gets together.
"""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.decide.legal import start_reason
from orchestrator.kernels.decide.order import job_score, precedes
from orchestrator.kernels.decide.reserve import ends_before, gives_way
from orchestrator.kernels.decide.whatif import serve_tier
from orchestrator.kernels.lang.jit import kernel, part, small_kernel
from orchestrator.kernels.place.fit import least_units
from orchestrator.kernels.place.slots import units_of
from orchestrator.kernels.state.access import job, queue, request, running, tenant
from orchestrator.kernels.state.codes import NO_JOB, JobKind, QuotaMode, Reason

__all__ = ["delays_own", "own_could_give", "stands_behind_own"]


@part
def _first_kept(row, rule, j):
    """The first job of its tenant, before ``j``, that its account keeps waiting, or NO_JOB."""
    t = request(row, j).tenant
    position = np.int64(0)
    while queue(row, position).job != j:
        position += 1
    tier, score = serve_tier(row, rule, j, np.int64(0)), job_score(row, j, rule.key)
    best = np.int64(NO_JOB)
    for q in range(row.queue_len):
        h = np.int64(queue(row, q).job)
        if h == j or request(row, h).tenant != t:
            continue
        reason = start_reason(row, h)
        if reason != Reason.QUOTA and reason != Reason.STORAGE:
            continue
        other_tier, other_score = serve_tier(row, rule, h, np.int64(0)), job_score(row, h, rule.key)
        if precedes(other_tier, other_score, q, tier, score, position):
            best, tier, score, position = h, other_tier, other_score, np.int64(q)
    return best


@small_kernel
def _adds_storage(row, j):
    """Storage that a waiting job takes when it starts: none if it has started before, MiB."""
    if job(row, j).first_start_ms >= 0:
        return np.int64(0)
    return np.int64(request(row, j).storage_mib)


@part
def _delays_storage(row, head, j):
    """Whether ``j`` takes storage that ``head`` waits for; what services hold is not waited for.

    It comes back when jobs end, wherever they wait or run meanwhile: nobody behind takes of it.
    """
    t = np.int64(request(row, head).tenant)
    stored = np.int64(request(row, head).storage_mib)
    for k in range(row.running_len):
        ask = request(row, np.int64(running(row, k).job))
        if ask.tenant == t and ask.kind == JobKind.SERVICE:
            stored += np.int64(ask.storage_mib)
    return _adds_storage(row, j) > 0 and stored <= tenant(row, t).storage_quota_mib


@part
def _delays_quota(row, rule, head, j):
    """Whether ``j``, started now, would take quota that ``head`` waits for.

    It comes back as running jobs end, by their estimates; what services hold is not waited for.
    """
    t = np.int64(request(row, head).tenant)
    quota = np.int64(tenant(row, t).quota_units)
    used = np.int64(tenant(row, t).used_units) + least_units(row, head)
    for k in range(row.running_len):
        v = np.int64(running(row, k).job)
        if request(row, v).tenant == t and gives_way(row, rule, head, v):
            used -= job(row, v).units
    time_ms = np.int64(row.now_ms)
    for k in range(row.running_len):
        if used <= quota:
            break
        v = np.int64(running(row, k).job)
        if request(row, v).tenant != t or request(row, v).kind == JobKind.SERVICE:
            continue
        if not gives_way(row, rule, head, v):
            time_ms = max(time_ms, np.int64(running(row, k).expected_end_ms))
            used -= job(row, v).units
    if used > quota or ends_before(row, j, time_ms):
        return False
    return used + units_of(row, j, np.int64(request(row, j).workers)) > quota


@part
def _kept(row, rule, j):
    """The job of its tenant that must not be delayed by ``j``, or NO_JOB; see _first_kept."""
    t = np.int64(request(row, j).tenant)
    if rule.reservation == 0 or t >= row.num_tenants:
        return np.int64(NO_JOB)
    if row.quota_mode != QuotaMode.HARD and tenant(row, t).storage_quota_mib <= 0:
        return np.int64(NO_JOB)
    return _first_kept(row, rule, j)


@kernel
def delays_own(row, rule, j):
    """Whether job ``j``, started now, would delay a job of its tenant that waits for its account.

    Of these the first one counts, and only if it is served before ``j``.
    """
    head = _kept(row, rule, j)
    if head < 0:
        return False
    if start_reason(row, head) == Reason.STORAGE:
        return _delays_storage(row, head, j)
    return not gives_way(row, rule, head, j) and _delays_quota(row, rule, head, j)


@kernel
def stands_behind_own(row, rule, j):
    """Whether it could delay one: nobody is preempted for a job that might then not start."""
    head = _kept(row, rule, j)
    if head < 0:
        return False
    if start_reason(row, head) == Reason.STORAGE:
        return _delays_storage(row, head, j)
    return not gives_way(row, rule, head, j)


@kernel
def own_could_give(row, rule, j):
    """Whether jobs of its own tenant that give way to ``j`` hold as much quota as it lacks."""
    t = request(row, j).tenant
    used = np.int64(tenant(row, t).used_units) + least_units(row, j)
    for k in range(row.running_len):
        v = np.int64(running(row, k).job)
        below = request(row, v).priority > request(row, j).priority
        if below and request(row, v).tenant == t and request(row, v).preemptible != 0:
            used -= job(row, v).units
    return used <= tenant(row, t).quota_units
