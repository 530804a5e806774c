"""Queue ordering: the score of a job under a rule; the lowest score goes first.

F1, WFP3 and UNICEP are as evaluated by Zhang et al., "RLScheduler", SC 2020 (F1: Carastan-Santos
and de Camargo, SC 2017; WFP3 and UNICEP: Tang et al., 2009). The ``_COMPAT`` keys reproduce a
quirk of that paper's published numbers: waiting time computed from a start time that is still -1.

LAS, TIRESIAS and GITTINS order by attained service (GPUs x time held; Gu et al., "Tiresias", NSDI
2019), QSSF by predicted service (Hu et al., SC 2021), DRF by dominant shares (Ghodsi et al., NSDI
2011). Scores are those of the instant at which they are asked for: a running job that outgrows a
queue between two events gives way at the second.
"""

from __future__ import annotations

import math

import numpy as np

from orchestrator.kernels.change.jobs import progress_now
from orchestrator.kernels.lang.jit import kernel, small_kernel
from orchestrator.kernels.lang.numbers import random_unit
from orchestrator.kernels.place.slots import units_of
from orchestrator.kernels.state.access import gittins, job, queue, request, tenant
from orchestrator.kernels.state.codes import NO_JOB, JobCode, RuleKey, Stream

__all__ = ["attained_now", "dominant_share", "first_in_queue", "job_score", "precedes"]


_TINY = 1e-15


_UNIT_MS_PER_S = 1e6  # milli-units x ms in a GPU-second


_QUEUE_STEP = 2.0**46  # more than any time: scores of one queue stay together, exactly


_WAITING_STEP = 2.0**45


@small_kernel
def _positive(value):
    """RLScheduler's guard of logarithms' arguments."""
    return value if value > 0 else 0.1


@small_kernel
def _demand(row, j):
    """Capacity that a job asks for, whatever an elastic one holds at the moment."""
    return units_of(row, j, request(row, j).workers)


@small_kernel
def _processors(row, j):
    return _demand(row, j) / 1000.0


@small_kernel
def _f1(row, j):
    request_s = request(row, j).requested_ms / 1000.0
    submit_s = request(row, j).submit_ms / 1000.0
    return math.log10(_positive(request_s)) * _processors(row, j) + 870.0 * math.log10(
        _positive(submit_s)
    )


@small_kernel
def _wfp3(row, j, wait_s):
    ratio = wait_s / (request(row, j).requested_ms / 1000.0)
    return -(ratio * ratio * ratio) * _processors(row, j)


@small_kernel
def _unicep(row, j, wait_s):
    request_s = request(row, j).requested_ms / 1000.0
    return -(wait_s + _TINY) / (math.log2(_processors(row, j) + _TINY) * request_s)


@small_kernel
def _remaining_ms(row, j):
    """Estimated work left of a waiting or running job."""
    done = job(row, j).progress_ms
    if job(row, j).state == JobCode.RUNNING:
        done = progress_now(row, j)
    return max(request(row, j).requested_ms - done, np.int64(0))


@small_kernel
def _aged_priority(row, j):
    """Priority class less the classes that the time since its submission is worth."""
    ask = request(row, j)
    if row.ageing_ms <= 0:
        return np.float64(ask.priority)
    return ask.priority - (row.now_ms - ask.submit_ms) / row.ageing_ms


@small_kernel
def attained_now(row, j):
    """Service that a job has had by now: units x ms."""
    state = job(row, j).state
    attained = job(row, j).attained_unit_ms
    held = state == JobCode.RUNNING or state == JobCode.CHECKPOINTING or state == JobCode.SCALING
    if held:
        attained += (row.now_ms - job(row, j).resized_ms) * job(row, j).units
    return attained


@small_kernel
def precedes(tier, score, position, other_tier, other_score, other_position):
    """Whether one waiting job is served before another."""
    if tier != other_tier:
        return tier < other_tier
    if score != other_score:
        return score < other_score
    return position < other_position


@kernel
def _tiresias(row, j):
    """2D-LAS with discretised queues: by queue, running jobs first, then by submission.

    A job whose whole waiting time has reached ``las_promote`` times its run time is back in
    queue 0, until running has made up for it. Tiresias starts both counts anew at each promotion;
    here they are totals.
    """
    attained = attained_now(row, j)
    service_s = attained / _UNIT_MS_PER_S
    level = 0.0
    if service_s >= row.las_first_s:
        level = 1.0
        if row.las_second_s > 0 and service_s >= row.las_second_s:
            level = 2.0
    if level > 0.0 and row.las_promote > 0:
        executed = attained / max(units_of(row, j, request(row, j).workers), np.int64(1))
        waited = row.now_ms - request(row, j).submit_ms - executed
        if waited >= row.las_promote * executed:
            level = 0.0
    state = job(row, j).state
    waits = state == JobCode.PENDING or state == JobCode.PREEMPTED
    return level * _QUEUE_STEP + (_WAITING_STEP if waits else 0.0) + request(row, j).submit_ms


@kernel
def _gittins_index(row, j):
    """Gittins index at the attained service: that of the last entry at or below it, else 0."""
    service_s = attained_now(row, j) / _UNIT_MS_PER_S
    low, high = 0, np.int64(row.num_gittins)
    while low < high:
        middle = (low + high) // 2
        if gittins(row, middle).service <= service_s:
            low = middle + 1
        else:
            high = middle
    return gittins(row, low - 1).index if low > 0 else 0.0


@kernel
def dominant_share(row, t):
    """Largest share of any resource that tenant ``t`` holds (Ghodsi et al., NSDI 2011)."""
    share = 0.0
    if row.nominal_gpu_milli > 0:
        share = max(share, tenant(row, t).used_gpu_milli / row.nominal_gpu_milli)
    if row.nominal_cpu_milli > 0:
        share = max(share, tenant(row, t).used_cpu_milli / row.nominal_cpu_milli)
    if row.nominal_memory_mib > 0:
        share = max(share, tenant(row, t).used_memory_mib / row.nominal_memory_mib)
    return share


@kernel
def _weighted_share(row, j):
    """Dominant share of the job's tenant over its weight; 0 without a tenant."""
    t = request(row, j).tenant
    if t >= row.num_tenants:
        return 0.0
    weight = tenant(row, t).weight
    return dominant_share(row, t) / (weight if weight > 0.0 else 1.0)


@kernel
def _service_score(row, j, key):
    """Scores by service, attained or predicted, and by share."""
    if key == RuleKey.LAS:
        return np.float64(attained_now(row, j))
    if key == RuleKey.TIRESIAS:
        return _tiresias(row, j)
    if key == RuleKey.GITTINS:
        return -_gittins_index(row, j)
    if key == RuleKey.QSSF:
        units = units_of(row, j, request(row, j).workers)
        return np.float64(request(row, j).requested_ms) * units
    return _weighted_share(row, j)


@kernel
def job_score(row, j, key):
    """Score of job ``j`` now under the sort key ``key`` (a ``RuleKey``); lowest first.

    A running job has the score that it would have if it were preempted now: otherwise a victim
    could be served before the job that it made room for, and be preempted again without end.
    """
    ask = request(row, j)
    if key == RuleKey.FCFS:
        return np.float64(ask.submit_ms)
    if key == RuleKey.SJF:
        return np.float64(ask.requested_ms)
    if key == RuleKey.SRTF:
        return np.float64(_remaining_ms(row, j))
    if key == RuleKey.SRSF:
        return np.float64(_remaining_ms(row, j)) * _demand(row, j)
    if key == RuleKey.F1:
        return _f1(row, j)
    if key == RuleKey.WFP3:
        return _wfp3(row, j, (row.now_ms - ask.submit_ms) / 1000.0)
    if key == RuleKey.UNICEP:
        return _unicep(row, j, (row.now_ms - ask.submit_ms) / 1000.0)
    if key == RuleKey.WFP3_COMPAT:
        return _wfp3(row, j, -1.0 - ask.submit_ms / 1000.0)
    if key == RuleKey.UNICEP_COMPAT:
        return _unicep(row, j, -1.0 - ask.submit_ms / 1000.0)
    if key == RuleKey.LARGEST:
        return -np.float64(_demand(row, j))
    if key == RuleKey.PRIORITY:
        return _aged_priority(row, j)
    if key >= RuleKey.LAS:
        return _service_score(row, j, key)
    counter = (row.point << 32) + j  # the same in a table that grows
    return random_unit(row.seed, Stream.ORDERING, counter)


@kernel
def first_in_queue(row, key):
    """Queue position of the waiting job with the lowest score (ties: first submitted), or -1."""
    if key == RuleKey.FCFS and row.queue_len > 0:
        return np.int64(0)  # the queue is in this order
    best, best_score = np.int64(NO_JOB), np.inf
    for q in range(row.queue_len):
        score = job_score(row, queue(row, q).job, key)
        if score < best_score or best < 0:
            best, best_score = q, score
    return best
