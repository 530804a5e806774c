"""Kernels that only other kernels call, made callable on ``rows[e]``."""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.change import episode, timeline
from orchestrator.kernels.change import events as apply
from orchestrator.kernels.change import hold as resources
from orchestrator.kernels.change import hold as whatif
from orchestrator.kernels.change import nodes as capacity
from orchestrator.kernels.change import queue as queue_positions
from orchestrator.kernels.decide import elastic
from orchestrator.kernels.decide import gang as backfill
from orchestrator.kernels.decide import order as ordering
from orchestrator.kernels.lang import numbers as rnd
from orchestrator.kernels.lang.jit import entry, on_row
from orchestrator.kernels.place import fit as feasibility
from orchestrator.kernels.place import generate as placement
from orchestrator.kernels.place import slots, throughput
from orchestrator.kernels.see import metrics
from orchestrator.kernels.state.access import job as row_job

_random_bits, _random_unit, _random_below = rnd.random_bits, rnd.random_unit, rnd.random_below
_next, _pop = timeline.next_event, timeline.pop_event
_load_services, _load_plans = episode.load_services, episode.load_plans
_begin_episode = episode.begin_episode

push_event, cancel_event = on_row(timeline.push_event), on_row(timeline.cancel_event)
reserve_gang, release_gang = on_row(resources.reserve_gang), on_row(resources.release_gang)
lift_gang, restore_gang = on_row(whatif.lift_gang), on_row(whatif.restore_gang)
worker_slots = on_row(slots.worker_slots)
why_not = on_row(feasibility.why_not)
place_gang = on_row(placement.place_gang)
job_score, first_in_queue = on_row(ordering.job_score), on_row(ordering.first_in_queue)
queue_position = on_row(queue_positions.queue_position)
backfill_queue, earliest_start = on_row(backfill.backfill_queue), on_row(backfill.earliest_start)
load_incidents, load_tenants = on_row(episode.load_incidents), on_row(episode.load_tenants)
load_curves, load_gittins = on_row(episode.load_curves), on_row(episode.load_gittins)
capacity_reason, scale_capacity = on_row(capacity.capacity_reason), on_row(capacity.scale_capacity)
step_event = on_row(apply.step_event)
read_metric = on_row(metrics.metric_value)
speed_milli = on_row(throughput.speed_milli)


@entry
def random_numbers(seed, stream, counter, bound):
    return (
        _random_bits(seed, stream, counter),
        _random_unit(seed, stream, counter),
        _random_below(seed, stream, counter, bound),
    )


@entry
def take_next(rows, e):
    """Return the next event and take it off its source."""
    time_ms, kind, subject = _next(rows[e])
    _pop(rows[e], kind)
    return time_ms, int(kind), int(subject)


@entry
def begin_with_services(rows, e, seed, nodes, standing, requests, services, plans):
    """Begin an episode in which the jobs ``standing`` are services."""
    _begin_episode(rows[e], np.uint64(seed), nodes, standing, requests)
    _load_services(rows[e], services)
    _load_plans(rows[e], plans)


@entry
def fastest_size(rows, e, j, nodes):
    """Workers with which a running elastic job that can grow is fastest; 0: it is so already."""
    row = rows[e]
    more = elastic.largest_size(row, np.int64(j), nodes) - np.int64(row_job(row, j).workers_now)
    size, _ = elastic.fastest_size(row, np.int64(j), more, nodes)
    return size
