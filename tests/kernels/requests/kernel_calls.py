"""The services' kernels, made callable on ``rows[e]``."""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.change import episode, services, timeline
from orchestrator.kernels.lang.jit import entry, on_row

_load, _begin = episode.load_services, episode.begin_episode
_tick = services.serve_tick
_next, _pop, _clock = timeline.next_event, timeline.pop_event, timeline.advance_clock

ready_replicas, push_event = on_row(services.ready_replicas), on_row(timeline.push_event)


@entry
def begin(rows, e, seed, nodes, requests, records):
    _begin(rows[e], np.uint64(seed), nodes, requests[:0], requests)
    _load(rows[e], records)


@entry
def tick(rows, e):
    """Move on to the next tick, whatever else there is, and settle it."""
    row = rows[e]
    _clock(row, row.next_tick_ms)
    row.next_tick_ms += row.tick_ms
    _tick(row)


@entry
def peek_next(rows, e):
    time_ms, kind, subject = _next(rows[e])
    return time_ms, int(kind), int(subject)


@entry
def take_next(rows, e):
    """Move on to the next event and take it off its source, without applying it."""
    time_ms, kind, subject = _next(rows[e])
    if kind < 8:
        _clock(rows[e], time_ms)
    _pop(rows[e], kind)
    return time_ms, int(kind), int(subject)
