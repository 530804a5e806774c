"""The line: who waits, in the order in which a preemptive rule serves them, and whose turn it is.

Lined up once for a walk, by a merge sort that makes use of what is in order already. Whoever of the
last line still waits is first put where it was. As long as scores of waiting jobs do not change
with time and nobody joins the queue, the order stays as it is.

One walk goes over several decisions as long as jobs only start between them: whoever could not
start then cannot start now, and what would have to be preempted for it is no less. Who was
served and might be served differently now stands on the other side of the table, in order. Whether
something else has happened is told by the decision point, the touches of nodes and the log.

All of it is a memo (``place.memo``): whoever blanks it out loses nothing but time.
"""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.change.queue import forget_line
from orchestrator.kernels.decide.legal import has_no_limits
from orchestrator.kernels.decide.order import job_score, precedes
from orchestrator.kernels.lang.jit import kernel, small_kernel
from orchestrator.kernels.lang.memory import copy_record
from orchestrator.kernels.place.fit import least_workers
from orchestrator.kernels.place.slots import units_of
from orchestrator.kernels.state.access import job, kind, line, mark, queue, request, tenant
from orchestrator.kernels.state.codes import (
    NO_JOB,
    JobCode,
    JobKind,
    Preemption,
    QuotaMode,
    RuleKey,
)

__all__ = [
    "borrows",
    "expected_run_ms",
    "lasts",
    "line_up",
    "note_start",
    "rest_line",
    "serve_tier",
    "waits",
]


_GONE = 8  # a line with one more entry for so many who wait, of those who have left, is drawn up
_ENDLESS_MS = 1 << 61  # now and this together are a time yet
_BORROWER = 1e9  # whoever borrows is served after everybody who does not


@small_kernel
def borrows(row, j, freed):
    """Whether its tenant, less ``freed`` units, would exceed its quota with all of job ``j``."""
    t = request(row, j).tenant
    if t >= row.num_tenants:
        return False
    wanted = units_of(row, j, request(row, j).workers)
    return tenant(row, t).used_units - freed + wanted > tenant(row, t).quota_units


@small_kernel
def _is_by_quota(row, rule):
    """Whether who borrows is served last: under hard quotas nobody does, but waits in its turn."""
    return rule.preemption == Preemption.RECLAIM and row.quota_mode != QuotaMode.HARD


@kernel
def serve_tier(row, rule, j, freed):
    """Tier in which a preemptive rule serves job ``j``: lower ones first, by score within one.

    Nobody preempts whom he is not served before: the victim would take the room that it made. ``j``
    waits, or runs and is taken to wait; its tenant is taken to have given back ``freed`` capacity
    units.
    """
    if rule.preemption == Preemption.NONE or rule.preemption == Preemption.SCORE:
        return 0.0
    tier = np.float64(request(row, j).priority)
    if rule.key == RuleKey.PRIORITY:
        tier = job_score(row, j, rule.key)
    if _is_by_quota(row, rule) and borrows(row, j, freed):
        tier += _BORROWER
    return tier


@small_kernel
def expected_run_ms(row, j):
    """How long waiting job ``j`` is expected to run once it has started.

    A service has no end. Who may start with fewer workers than it asked for is taken to do so.
    """
    if request(row, j).kind == JobKind.SERVICE:
        return np.int64(_ENDLESS_MS)
    left = max(np.int64(request(row, j).requested_ms - job(row, j).progress_ms), np.int64(0))
    least = least_workers(row, j)
    left = (left * max(np.int64(request(row, j).workers), least) + least - 1) // least
    if job(row, j).first_start_ms >= 0:
        left += request(row, j).restart_ms
    return left


@small_kernel
def waits(row, j):
    """Whether job ``j`` is in the queue."""
    state = job(row, j).state
    return state == JobCode.PENDING or state == JobCode.PREEMPTED


# --- lining up -----------------------------------------------------------------------------------


@small_kernel
def _stays_in_order(row, rule):
    """Whether starts change nothing of the order of those who wait."""
    return rule.key != RuleKey.DRF and not _is_by_quota(row, rule)


@small_kernel
def lasts(row, rule):
    """Whether neither starts nor time change anything of the order of those who wait."""
    key = rule.key
    lasting = key <= RuleKey.F1 or key == RuleKey.LARGEST or key == RuleKey.SRSF
    lasting = lasting or key == RuleKey.LAS or key == RuleKey.QSSF
    return (lasting or (key == RuleKey.PRIORITY and row.ageing_ms <= 0)) and _stays_in_order(
        row, rule
    )


@small_kernel
def _name(row, rule):
    """A number for all that the order, and a walk along it, depends on besides the state."""
    name = np.int64(rule.key) + (np.int64(rule.preemption) << 8) + (np.int64(rule.blocking) << 16)
    name += (np.int64(rule.reservation) << 17) + (np.int64(row.unit) << 18)
    return name + (np.int64(lasts(row, rule)) << 19)


@small_kernel
def _goes_before(row, side, a, b):
    """Whether entry ``a`` of a side of the line is served before entry ``b``."""
    one, other = line(row, side, a), line(row, side, b)
    if one.tier != other.tier or one.score != other.score:
        return precedes(one.tier, one.score, 0, other.tier, other.score, 0)
    # As the queue has them, by submission.
    submit_ms = request(row, np.int64(one.job)).submit_ms
    other_ms = request(row, np.int64(other.job)).submit_ms
    return submit_ms < other_ms or (submit_ms == other_ms and one.job < other.job)


@small_kernel
def _end_of_run(row, side, first, count):
    """Where the entries that are in order from ``first`` on end."""
    last = first + 1
    while last < count and not _goes_before(row, side, last, last - 1):
        last += 1
    return last


@kernel
def _merge(row, side, first, middle, last):
    """Merge two runs, onto the other side."""
    a, b = first, middle
    for k in range(first, last):
        if b >= last or (a < middle and not _goes_before(row, side, b, a)):
            copy_record(line(row, 1 - side, k), line(row, side, a))
            a += 1
        else:
            copy_record(line(row, 1 - side, k), line(row, side, b))
            b += 1


@kernel
def _sort(row, count):
    """Merge the runs of the line two by two, from side to side, until there is one."""
    side = np.int64(row.line_side)
    while count > 0 and _end_of_run(row, side, np.int64(0), count) < count:
        first = np.int64(0)
        while first < count:
            middle = _end_of_run(row, side, first, count)
            last = middle
            if middle < count:
                last = _end_of_run(row, side, middle, count)
            _merge(row, side, first, middle, last)
            first = last
        side = 1 - side
    row.line_side = side


@kernel
def _stand(row, rule, side, i, j):
    """Waiting job ``j`` takes place ``i`` of the line."""
    mark(row, j).walk = row.walks
    ask, entry = request(row, j), line(row, side, i)
    entry.tier = serve_tier(row, rule, j, np.int64(0))
    entry.score = job_score(row, j, rule.key)
    entry.left_ms = expected_run_ms(row, j)
    entry.job = np.int32(j)
    entry.kind = np.int32(job(row, j).kind)
    entry.least = np.int32(least_workers(row, j))
    entry.priority, entry.preemptible = ask.priority, ask.preemptible


@kernel
def _gather(row, rule):
    """Line up all that wait: those of the last line first, by the order that they had."""
    side, count = np.int64(row.line_side), np.int64(0)
    for i in range(row.line_len):
        j = np.int64(line(row, side, i).job)
        if j < row.num_jobs and mark(row, j).walk != row.walks and waits(row, j):
            _stand(row, rule, side, count, j)
            count += 1
    q = np.int64(0)
    while count < row.queue_len:
        j = np.int64(queue(row, q).job)
        if mark(row, j).walk != row.walks:
            _stand(row, rule, side, count, j)
            count += 1
        q += 1
    row.line_len = count
    _sort(row, count)


@small_kernel
def _goes_on(row):
    """Whether nothing has happened since the walk rested but a start that it was told of.

    Room must not be kept for a job that starts may leave without quota: others would be next.
    """
    if row.line_point != row.point or row.line_touched != row.touched:
        return False
    if row.line_logged != row.log_count:
        return False
    return row.line_kept < 0 or has_no_limits(row, row.line_kept)


@kernel
def _take_over(row):
    """Begin to remember: what the tables hold is not what the row's fields say, which were copied.

    Nothing in them may be taken for something of now.
    """
    forget_line(row)
    row.walks, row.line_side, row.lined_at = 0, 0, row.line_at
    for j in range(row.max_jobs):
        mark(row, j).walk = 0
    for k in range(row.num_kinds + 1):
        kind(row, k).walk = 0
        kind(row, k).full_walk = 0


@kernel
def line_up(row, rule):
    """Line up who waits, for a walk; one that may go on goes on."""
    name = _name(row, rule)
    if row.lined_at != row.line_at:
        _take_over(row)
    if row.queue_len <= row.scanned_jobs:
        forget_line(row)
    known = row.line_rule == name
    if known and _goes_on(row) and _stays_in_order(row, rule):
        return
    row.walks += 1
    stale = not known or row.line_queued != row.queued or not lasts(row, rule)
    if stale or row.line_len > row.queue_len + row.queue_len // _GONE:
        _gather(row, rule)
    row.line_rule, row.line_queued, row.line_point = name, row.queued, row.point
    row.line_next, row.line_later, row.line_kept = 0, 0, NO_JOB


# --- walking -------------------------------------------------------------------------------------


@small_kernel
def rest_line(row, i, later, head):
    """The walk rests at entry ``i``; ``later`` entries before it may have their turn again.

    ``head`` is whom room is kept for, or NO_JOB.
    """
    row.line_next, row.line_later, row.line_kept = i, later, head
    row.line_touched, row.line_logged = row.touched, row.log_count


@small_kernel
def note_start(row):
    """The job that the walk rests at has started, and nothing else has happened."""
    row.line_touched, row.line_logged = row.touched, row.log_count
