"""The services' kernels, made callable on ``rows[e]``."""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.jit import kernel
from orchestrator.kernels.metrics import read_metrics
from orchestrator.kernels.transition import episode, services, timeline

_load, _begin = episode.load_services, episode.begin_episode
_tick, _ready = services.serve_tick, services.ready_replicas
_next, _pop, _clock = timeline.next_event, timeline.pop_event, timeline.advance_clock
_push, _metrics = timeline.push_event, read_metrics


@kernel
def begin(rows, e, seed, nodes, requests, records):
    _begin(rows[e], np.uint64(seed), nodes, requests[:0], requests)
    _load(rows[e], records)


@kernel
def tick(rows, e):
    """Move on to the next tick, whatever else there is, and settle it."""
    row = rows[e]
    _clock(row, row.next_tick_ms)
    row.next_tick_ms += row.tick_ms
    _tick(row)


@kernel
def peek_next(rows, e):
    time_ms, kind, subject = _next(rows[e])
    return time_ms, int(kind), int(subject)


@kernel
def take_next(rows, e):
    """Move on to the next event and take it off its source, without applying it."""
    time_ms, kind, subject = _next(rows[e])
    if kind < 8:
        _clock(rows[e], time_ms)
    _pop(rows[e], kind)
    return time_ms, int(kind), int(subject)


@kernel
def ready_replicas(rows, e, s):
    return int(_ready(rows[e], s))


@kernel
def push_event(rows, e, time_ms, kind, j):
    _push(rows[e], time_ms, kind, j)


@kernel
def metrics(rows, e, count):
    out = np.zeros(count)
    _metrics(rows[e], out)
    return out
