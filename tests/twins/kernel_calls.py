"""Kernels that only other kernels call, made callable on ``rows[e]``."""

from __future__ import annotations

import numpy as np

from orchestrator.kernels import (
    backfill,
    decisions,
    feasibility,
    ordering,
    placement,
    throughput,
)
from orchestrator.kernels import randomness as rnd
from orchestrator.kernels.jit import kernel
from orchestrator.kernels.metrics import metric_value as _metric_value
from orchestrator.kernels.transition import apply, capacity, episode, resources, timeline, whatif
from orchestrator.kernels.transition import queue as queue_positions

_random_bits, _random_unit, _random_below = rnd.random_bits, rnd.random_unit, rnd.random_below
_push, _cancel, _next, _pop = (
    timeline.push_event,
    timeline.cancel_event,
    timeline.next_event,
    timeline.pop_event,
)
_reserve, _release = resources.reserve_gang, resources.release_gang
_lift, _restore = whatif.lift_gang, whatif.restore_gang
_slots, _slots_when_empty = feasibility.worker_slots, feasibility.worker_slots_when_empty
_place, _score, _first = placement.place_gang, ordering.job_score, ordering.first_in_queue
_backfill, _earliest = backfill.backfill_queue, backfill.earliest_start
_why_not = feasibility.why_not
_capacity_reason, _scale_capacity = capacity.capacity_reason, capacity.scale_capacity
_step_event = apply.step_event
_speed, _load_curves = throughput.speed_milli, episode.load_curves
_load_gittins = episode.load_gittins
_position, _load_incidents = queue_positions.queue_position, episode.load_incidents
_load_tenants, _load_services = episode.load_tenants, episode.load_services
_load_plans, _begin_episode = episode.load_plans, episode.begin_episode
_placement_reason, _preemption_reason = decisions.placement_reason, decisions.preemption_reason


@kernel
def random_numbers(seed, stream, counter, bound):
    return (
        _random_bits(seed, stream, counter),
        _random_unit(seed, stream, counter),
        _random_below(seed, stream, counter, bound),
    )


@kernel
def push_event(rows, e, time_ms, kind, j):
    _push(rows[e], time_ms, kind, j)


@kernel
def cancel_event(rows, e, j):
    _cancel(rows[e], j)


@kernel
def take_next(rows, e):
    """Return the next event and take it off its source."""
    time_ms, kind, subject = _next(rows[e])
    _pop(rows[e], kind)
    return time_ms, int(kind), int(subject)


@kernel
def reserve_gang(rows, e, j, nodes, workers, generator=1):
    return _reserve(rows[e], j, nodes, workers, generator)


@kernel
def release_gang(rows, e, j):
    _release(rows[e], j)


@kernel
def lift_gang(rows, e, j):
    _lift(rows[e], j)


@kernel
def restore_gang(rows, e, j):
    _restore(rows[e], j)


@kernel
def worker_slots(rows, e, j, n, limit):
    return _slots(rows[e], j, n, limit)


@kernel
def worker_slots_when_empty(rows, e, j, n, limit):
    return _slots_when_empty(rows[e], j, n, limit)


@kernel
def place_gang(rows, e, j, generator, nodes):
    return _place(rows[e], j, generator, nodes)


@kernel
def job_score(rows, e, j, key):
    return _score(rows[e], j, key)


@kernel
def first_in_queue(rows, e, key):
    return _first(rows[e], key)


@kernel
def queue_position(rows, e, j):
    return int(_position(rows[e], j))


@kernel
def backfill_queue(rows, e, committed, nodes):
    return _backfill(rows[e], committed, nodes)


@kernel
def earliest_start(rows, e, units):
    return _earliest(rows[e], units)


@kernel
def load_incidents(rows, e, incidents):
    _load_incidents(rows[e], incidents)


@kernel
def load_tenants(rows, e, tenants):
    _load_tenants(rows[e], tenants)


@kernel
def begin_with_services(rows, e, seed, nodes, standing, requests, services, plans):
    """Begin an episode in which the jobs ``standing`` are services."""
    _begin_episode(rows[e], np.uint64(seed), nodes, standing, requests)
    _load_services(rows[e], services)
    _load_plans(rows[e], plans)


@kernel
def placement_reason(rows, e, j):
    return int(_placement_reason(rows[e], j))


@kernel
def preemption_reason(rows, e, j):
    return int(_preemption_reason(rows[e], j))


@kernel
def reserve_workers(rows, e, j, nodes, workers, generator):
    return _reserve(rows[e], j, nodes, workers, generator)


@kernel
def why_not(rows, e, j):
    return int(_why_not(rows[e], j))


@kernel
def capacity_reason(rows, e, delta):
    return int(np.int64(_capacity_reason(rows[e], delta)))


@kernel
def scale_capacity(rows, e, delta):
    return int(np.int64(_scale_capacity(rows[e], delta)))


@kernel
def step_event(rows, e):
    return _step_event(rows[e])


@kernel
def read_metric(rows, e, metric):
    return float(_metric_value(rows[e], metric))


@kernel
def load_curves(rows, e, curves):
    _load_curves(rows[e], curves)


@kernel
def speed_milli(rows, e, j, workers, spread, model):
    return _speed(rows[e], j, workers, spread, model)


@kernel
def load_gittins(rows, e, entries):
    _load_gittins(rows[e], entries)
