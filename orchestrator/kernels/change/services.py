"""Inference services, one tick at a time: requests as a fluid through the mesh's state machines.

A tick settles the time since the one before it: demand comes from the series, replicas are those
that are ready at its end. Every attempt of a request goes one of three ways, and nothing is lost:

    offered + retried = shed + failed + served + growth of the backlog

A request that is neither answered within its objective nor still waiting is a violation. The
objective is that of an attempt: what failed before it and the waits between are not added.
The queue follows ``requests.queueing.queue_after``, below as well as above full load; what is left
of it is carried to the next tick. Approximations and their measured errors:
docs/decisions/0006-services-as-fluid.md.
"""

from __future__ import annotations

import math

import numpy as np

from orchestrator.kernels.change.timeline import is_over
from orchestrator.kernels.lang.jit import kernel, small_kernel
from orchestrator.kernels.lang.memory import copy_record
from orchestrator.kernels.lang.numbers import random_unit
from orchestrator.kernels.requests.breaker import (
    BreakerMode,
    BreakerRule,
    BreakerState,
    breaker_admit,
    breaker_record,
    leaked_requests,
)
from orchestrator.kernels.requests.limiter import BucketState, LimitRule, admitted_amount
from orchestrator.kernels.requests.queueing import (
    normal_quantile,
    quantile_ms,
    queue_after,
    response_moments,
    share_within,
    steady_queue,
)
from orchestrator.kernels.requests.retry import BudgetState, RetryRule, retried_load
from orchestrator.kernels.state.access import job, plan, request, series_value, service
from orchestrator.kernels.state.codes import NO_CHANGE_MS, JobCode, Stream

__all__ = ["begin_service", "note_scaling", "ready_replicas", "serve_tick", "tell_services"]


_HOUR_MS = 3_600_000.0


_DUST = 1e-3  # less of a request than this in a tick has no response time worth the name


@kernel
def begin_service(own, now_ms):
    """Put a service's record (SERVICE_DTYPE) into its state at the beginning of an episode."""
    own.tokens = own.limit_burst
    own.retry_balance = own.retry_reserve
    own.backlog = 0.0
    own.late_share = 0.0
    own.rate_rps = 0.0
    own.ahead_rps = 0.0
    own.utilisation = 0.0
    own.latency_ms = 0.0
    own.missed_share = 0.0
    own.run_start_ms = -1
    own.scaled_ms = NO_CHANGE_MS
    own.scaled_by = 0
    own.sick_until_ms = 0
    own.ready = 0
    own.sick = 0
    own.breaker_since_ms = now_ms
    own.breaker_mode = np.int64(BreakerMode.CLOSED)
    own.breaker_in_row = 0
    own.offered = 0.0
    own.within = 0.0
    own.shed = 0.0
    own.retried = 0.0
    own.failed = 0.0
    own.served = 0.0
    own.violations = 0.0
    own.replica_ms = 0
    own.overload_ticks = 0


@small_kernel
def open_scaling(row):
    """Nodes and replicas may be changed at this point."""
    row.scaling_open = 1
    row.scaling_ms = row.now_ms


@kernel
def tell_services(row, services, plans):
    """Say what a live cluster's services are and how they do: a tick of theirs has passed.

    ``services``, SERVICE_DTYPE [n], is all that is known of each; ``plans``, SCALING_DTYPE [n + 1],
    how the fleet and they are scaled. A policy may change all of them at this point.
    """
    row.num_services = services.shape[0]
    row.services = services.shape[0]
    for s in range(services.shape[0]):
        copy_record(service(row, s), services[s])
    for k in range(plans.shape[0]):
        copy_record(plan(row, k), plans[k])
    open_scaling(row)


@small_kernel
def note_scaling(row, s, more):
    """The number of a service's replicas was changed on purpose."""
    service(row, s).scaled_ms = row.now_ms
    service(row, s).scaled_by = more


@kernel
def ready_replicas(row, s):
    """Replicas of a service that have started up by now.

    New ones count once the job's ``regroup_ms`` have passed since its size or place last changed;
    those that were ready before stay so. A job that is not placed has none, and one that was
    started anew begins with none.
    """
    own = service(row, s)
    run = job(row, own.job)
    if run.state != JobCode.RUNNING and run.state != JobCode.SCALING:
        return np.int64(0)
    before = np.int64(own.ready) if own.run_start_ms == run.start_ms else np.int64(0)
    changed_ms = max(run.start_ms, run.resized_ms)
    started = row.now_ms - changed_ms >= request(row, own.job).regroup_ms
    if started and row.now_ms >= run.work_start_ms:
        return np.int64(run.workers_now)
    return min(before, np.int64(run.workers_now))


@small_kernel
def _breaker_rule(own):
    return BreakerRule(
        np.int64(own.breaker_failures),
        np.float64(own.breaker_ratio),
        np.int64(own.breaker_window_ms),
        np.int64(own.breaker_minimum),
        np.int64(own.breaker_open_ms),
        np.int64(own.breaker_probes),
    )


@small_kernel
def _breaker_state(own):
    since, zero = own.breaker_since_ms, np.int64(0)
    return BreakerState(
        np.int64(own.breaker_mode),
        since,
        np.int64(own.breaker_in_row),
        since,
        zero,
        zero,
        zero,
        zero,
    )


@small_kernel
def _keep_breaker(own, state):
    own.breaker_mode = np.int64(state.mode)
    own.breaker_since_ms = state.since_ms
    own.breaker_in_row = np.int64(min(state.in_row, np.int64(1 << 30)))


@kernel
def _fall_sick(row, s, own, span_ms):
    """Replicas fall ill at their rate, one at a time, and get well; return how many are out."""
    now = row.now_ms
    if own.sick > 0:
        if own.sick >= own.ready:
            own.sick = np.int64(own.ready)
        if now - span_ms >= own.sick_until_ms:  # well again: the breaker's probes find out
            rule = _breaker_rule(own)
            passes, state = breaker_admit(rule, _breaker_state(own), now)
            if passes:
                own.sick = 0
                _keep_breaker(own, breaker_record(rule, state, now, True, rule.probes))
        return
    if own.sick_per_hour <= 0.0 or own.ready <= 0:
        return
    counter = row.tick * row.num_services + s
    chance = 1.0 - math.exp(-own.sick_per_hour * own.ready * span_ms / _HOUR_MS)
    if random_unit(row.seed, np.uint64(Stream.SERVICES), np.uint64(counter)) < chance:
        own.sick = 1
        own.sick_until_ms = now - span_ms + own.sick_ms


@kernel
def _hit_sick(row, own, requests, span_ms):
    """Share of the attempts of a tick that go to a sick replica before its breaker opens."""
    if own.sick <= 0 or requests <= 0.0:
        return 0.0
    begin_ms = row.now_ms - span_ms
    if begin_ms >= own.sick_until_ms:
        return 0.0  # well, but still shut out
    rate = requests / span_ms * 1000.0 * own.sick / own.ready
    leaked, state = leaked_requests(
        _breaker_rule(own), _breaker_state(own), begin_ms, span_ms, rate
    )
    _keep_breaker(own, state)
    return min(leaked / requests, 1.0)


@kernel
def _retry(row, own, requests, failure):
    """Retries of a tick, within the budget."""
    rule = RetryRule(
        np.int64(own.attempts),
        0.0,
        1.0,
        0.0,
        0.0,
        np.float64(own.retry_budget),
        np.float64(own.retry_floor_rps),
        np.float64(own.retry_reserve),
    )
    budget = BudgetState(np.float64(own.retry_balance), row.now_ms - row.tick_ms)
    retries, budget = retried_load(rule, budget, row.now_ms, requests, failure)
    own.retry_balance = budget.balance
    return retries


@kernel
def _pass_limiter(row, own, offered):
    rule = LimitRule(np.float64(own.limit_rps), np.float64(own.limit_burst))
    bucket = BucketState(np.float64(own.tokens), row.now_ms - row.tick_ms)
    admitted, bucket = admitted_amount(rule, bucket, row.now_ms, offered)
    own.tokens = bucket.tokens
    return admitted


@small_kernel
def _mean_queue(before, after, arrivals, capacity):
    """Queue, averaged over a tick: a straight line, down to the end's level as fast as it goes."""
    if after >= before:
        return 0.5 * (before + after)
    falling = min((before - after) / max(capacity - arrivals, before - after), 1.0)
    return after + 0.5 * (before - after) * falling


@kernel
def _work_off(own, arrivals, servers, span_ms):
    """Let servers work for a tick: (attempts served, of them within the objective, overflow)."""
    scatter = 0.5 * (own.arrival_cv2 + own.service_cv2)
    capacity = servers * span_ms / own.service_ms
    before = own.backlog
    queue, served, use = queue_after(servers, before + arrivals, capacity, scatter)
    overflow = 0.0
    if own.queue_limit > 0.0 and queue > own.queue_limit:
        overflow = queue - own.queue_limit
        queue = own.queue_limit
    own.backlog = queue
    own.utilisation = use
    if served <= _DUST:
        own.latency_ms = 0.0
        own.late_share = 0.0
        return served, served, overflow
    wait = _mean_queue(before, queue, arrivals, capacity) * span_ms / served  # Little's law
    load = arrivals / capacity
    drift = wait
    if load < 1.0:
        drift = max(wait - steady_queue(servers, load, scatter) * span_ms / served, 0.0)
    response = response_moments(servers, use, wait, drift, own.service_ms, own.service_cv2)
    own.latency_ms = quantile_ms(response, normal_quantile(own.percentile))
    own.late_share = 0.0
    if own.timeout_ms > 0.0:
        own.late_share = 1.0 - share_within(response, own.timeout_ms)
    return served, served * share_within(response, own.objective_ms), overflow


@kernel
def _serve(row, s, rate):
    """Settle one service's tick."""
    own = service(row, s)
    span_ms = row.tick_ms
    own.ready = np.int64(ready_replicas(row, s))
    own.run_start_ms = job(row, own.job).start_ms
    _fall_sick(row, s, own, span_ms)
    offered = rate * span_ms / 1000.0
    before = own.backlog
    admitted = _pass_limiter(row, own, offered)
    shed = offered - admitted
    servers = np.int64(own.ready - own.sick) * own.slots
    hit = 1.0 if own.ready <= 0 else _hit_sick(row, own, admitted, span_ms)
    failure = 1.0 - (1.0 - hit) * (1.0 - own.late_share)
    retries = 0.0
    if own.ready > 0:  # without endpoints there is nothing to try
        retries = _retry(row, own, admitted, failure)
    attempts = admitted + retries
    turned_away = attempts * hit
    arrivals = attempts - turned_away
    served, within = 0.0, 0.0
    if servers > 0:
        served, within, overflow = _work_off(own, arrivals, servers, span_ms)
    else:  # what waits is lost with the replicas
        overflow = arrivals + own.backlog
        own.backlog = 0.0
        own.utilisation = 0.0
        own.late_share = 0.0
        own.latency_ms = 0.0
    own.rate_rps = rate
    own.ahead_rps = rate
    own.failed += turned_away + overflow
    _add_up(row, own, offered, shed, retries, served, within)
    # Whoever is neither answered in time nor still waiting. Retries of the last tick's late
    # attempts may answer more than that for a moment.
    violations = max(offered - within - (own.backlog - before), shed)
    own.violations += violations
    own.missed_share = min(violations / offered, 1.0) if offered > _DUST else 0.0
    row.request_violations += violations
    if offered * own.service_ms > np.float64(own.ready) * own.slots * span_ms:
        own.overload_ticks += 1
        row.overload_ticks += 1


@small_kernel
def _add_up(row, own, offered, shed, retries, served, within):
    own.offered += offered
    own.shed += shed
    own.retried += retries
    own.served += served
    own.within += within
    own.replica_ms += own.ready * row.tick_ms
    row.requests_offered += offered
    row.requests_shed += shed
    row.requests_retried += retries
    row.requests_within += within
    row.replica_ms += own.ready * row.tick_ms


@kernel
def serve_tick(row):
    """Settle the tick that ends now, for every service of a row; nodes and replicas may change.

    Past the end of the series there is no demand. The last tick of an episode of services only
    settles: whatever changed then would serve nobody.
    """
    at = row.series_first + row.tick
    for s in range(row.num_services):
        rate = 0.0
        if row.series_at != 0 and 0 <= at < row.series_len:
            rate = series_value(row.series_at, s * row.series_len + at)
        _serve(row, s, rate)
    row.tick += 1
    row.scaling_open = 0
    if not is_over(row):
        open_scaling(row)
