"""A tenant's first job that its quota or its storage keeps waiting: who of the tenant overtakes it.

What a tenant may have is a room like any other: what its small jobs take as soon as it is given
back, a large one of the same tenant never gets together.
"""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.decide.legal import start_reason
from orchestrator.kernels.decide.turn.reserve import ends_before, gives_way
from orchestrator.kernels.lang.jit import kernel, part, small_kernel
from orchestrator.kernels.place.fit import least_units
from orchestrator.kernels.place.slots import units_of
from orchestrator.kernels.state.access import account, job, request, running, tenant
from orchestrator.kernels.state.codes import NO_JOB, JobKind, QuotaMode, Reason

__all__ = [
    "delays_own",
    "kept_so_far",
    "note_kept",
    "note_nobody",
    "own_could_give",
    "stands_behind_own",
]


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


@small_kernel
def note_nobody(row):
    """A decision begins: nobody is known yet whom an account keeps waiting.

    The result is whether anybody's account might: whether any tenant has a limit.
    """
    limited = row.num_tenants > 0 and row.quota_mode == QuotaMode.HARD
    for t in range(row.num_tenants):
        account(row, t).head = NO_JOB
        limited = limited or tenant(row, t).storage_quota_mib > 0
    return limited


@small_kernel
def note_kept(row, j, reason):
    """Job ``j``, whose turn it was, has to wait for a ``Reason``: perhaps for its account."""
    if reason == Reason.QUOTA or reason == Reason.STORAGE:
        own = account(row, request(row, j).tenant)
        if own.head < 0:
            own.head = j


@small_kernel
def kept_so_far(row, rule, j):
    """The first job of its tenant that its account keeps waiting, of those before ``j``; or NO_JOB.

    It must not be delayed by ``j``. All before that had their turns at this decision.
    """
    t = np.int64(request(row, j).tenant)
    if rule.reservation == 0 or t >= row.num_tenants:
        return np.int64(NO_JOB)
    return np.int64(account(row, t).head)


@kernel
def delays_own(row, rule, head, j):
    """Whether job ``j``, started now, would delay ``head``, which waits for its tenant's account.

    Of these the first one counts (:func:`kept_so_far`); NO_JOB: there is none.
    """
    if head < 0:
        return False
    if start_reason(row, head) == Reason.STORAGE:
        return _delays_storage(row, head, j)
    return not gives_way(row, rule, head, j) and _delays_quota(row, rule, head, j)


@kernel
def stands_behind_own(row, rule, head, j):
    """Whether it could delay it: nobody is preempted for a job that might then not start."""
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
