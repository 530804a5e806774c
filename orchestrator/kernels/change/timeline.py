"""The clock and the event queue (an indexed binary heap: one pending event per job)."""

from __future__ import annotations

import numpy as np

from orchestrator.kernels.lang.jit import kernel, small_kernel
from orchestrator.kernels.state.access import arrival, heap, incident, job, node, request
from orchestrator.kernels.state.codes import FOREVER_MS, NEVER, EventKind

__all__ = [
    "advance_clock",
    "cancel_event",
    "is_over",
    "next_event",
    "pop_event",
    "push_event",
    "ticks_go_on",
]


_FAR_MS = FOREVER_MS // 2  # an end further away belongs to a job that lasts for ever


@small_kernel
def advance_clock(row, time_ms):
    """Move a row to ``time_ms`` (never backwards) and grow its integrals over time."""
    elapsed = time_ms - row.now_ms
    if elapsed <= 0:
        return
    row.job_ms += elapsed * (row.active_jobs - row.active_services)
    row.wait_ms += elapsed * row.queue_len
    row.busy_unit_ms += elapsed * (row.capacity_units - row.free_units)
    row.capacity_unit_ms += elapsed * row.capacity_units
    row.cost_milli_ms += elapsed * row.cost_rate_milli
    row.now_ms = time_ms


@small_kernel
def _before(time_a, kind_a, seq_a, time_b, kind_b, seq_b):
    if time_a != time_b:
        return time_a < time_b
    if kind_a != kind_b:
        return kind_a < kind_b
    return seq_a < seq_b


@small_kernel
def _put(row, slot, time_ms, kind, seq, entity):
    heap(row, slot).time_ms = time_ms
    heap(row, slot).kind = kind
    heap(row, slot).seq = seq
    heap(row, slot).entity = entity
    job(row, entity).heap_slot = slot


@small_kernel
def _place_up(row, slot, time_ms, kind, seq, entity):
    """Sift an entry towards the root from a hole at ``slot``; return where it came to rest."""
    while slot > 0:
        parent = (slot - 1) >> 1
        p = heap(row, parent)
        if not _before(time_ms, kind, seq, p.time_ms, p.kind, p.seq):
            break
        _put(row, slot, p.time_ms, p.kind, p.seq, p.entity)
        slot = parent
    _put(row, slot, time_ms, kind, seq, entity)
    return slot


@small_kernel
def _place_down(row, slot, length, time_ms, kind, seq, entity):
    """Sift an entry towards the leaves from a hole at ``slot``."""
    while True:
        child = 2 * slot + 1
        if child >= length:
            break
        c = heap(row, child)
        if child + 1 < length:
            r = heap(row, child + 1)
            if _before(r.time_ms, r.kind, r.seq, c.time_ms, c.kind, c.seq):
                child += 1
                c = r
        if not _before(c.time_ms, c.kind, c.seq, time_ms, kind, seq):
            break
        _put(row, slot, c.time_ms, c.kind, c.seq, c.entity)
        slot = child
    _put(row, slot, time_ms, kind, seq, entity)


@kernel
def push_event(row, time_ms, kind, j):
    """Schedule the (single) pending event of a job."""
    length = row.heap_len
    seq = row.event_seq
    row.event_seq = seq + 1
    row.heap_len = length + 1
    _place_up(row, length, time_ms, np.int64(kind), seq, np.int64(j))


@kernel
def cancel_event(row, j):
    """Remove the pending event of a job, if it has one."""
    slot = job(row, j).heap_slot
    if slot < 0:
        return
    job(row, j).heap_slot = -1
    length = row.heap_len - 1
    row.heap_len = length
    if slot == length:
        return
    last = heap(row, length)
    time_ms, kind, seq, entity = last.time_ms, last.kind, last.seq, last.entity
    rest = _place_up(row, slot, time_ms, kind, seq, entity)
    if rest == slot:
        _place_down(row, slot, length, time_ms, kind, seq, entity)


@kernel
def ticks_go_on(row):
    """Whether a tick is something to wait for.

    Ticks end at ``series_stop``. Before that they end as soon as every job that is not a service
    has ended: services alone do not keep an episode going. Where all jobs of an episode are
    services, the ticks are the episode. Those of a live cluster (``series_stop`` is ``NEVER``) do
    not end.
    """
    if row.tick_ms <= 0 or row.series_first + row.tick >= row.series_stop:
        return False
    if row.series_stop == NEVER:
        return True
    if row.next_arrival < row.num_jobs or row.num_jobs == row.num_services:
        return True
    return row.active_jobs > row.active_services


@kernel
def is_over(row):
    """Whether a row with ticks has neither jobs left, besides services, nor ticks.

    Nodes that would still arrive, fail or recover are not waited for: they would only cost.
    """
    if row.tick_ms <= 0 or row.next_arrival < row.num_jobs:
        return False
    return row.active_jobs <= row.active_services and not ticks_go_on(row)


@kernel
def next_event(row):
    """The next thing to happen to a row: (time_ms, codes.EventKind, subject).

    Arrivals, incidents, nodes on order, the event queue and service ticks are merged in the order
    (time, kind). The time is ``NEVER`` and the kind ``NONE`` when nothing is left. The end of a
    job that lasts for ever (``FOREVER_MS``) is nothing to wait for, and neither is anything once
    the row is over (:func:`is_over`).
    """
    time_ms = NEVER
    kind = np.int64(EventKind.NONE)
    subject = np.int64(-1)
    if is_over(row):
        return time_ms, kind, subject
    if row.next_arrival < row.num_jobs:
        subject = row.next_arrival
        time_ms = request(row, subject).submit_ms
        kind = np.int64(EventKind.ARRIVAL)
    if row.heap_len > 0:
        top_time = heap(row, 0).time_ms
        top_kind = heap(row, 0).kind
        first = top_time < time_ms or (top_time == time_ms and top_kind < kind)
        if first and top_time - row.now_ms < _FAR_MS:
            time_ms, kind, subject = top_time, top_kind, heap(row, 0).entity
    if row.next_incident < row.num_incidents:
        incident_time = incident(row, row.next_incident).time_ms
        incident_kind = incident(row, row.next_incident).kind
        if incident_time < time_ms or (incident_time == time_ms and incident_kind < kind):
            time_ms, kind = incident_time, incident_kind
            subject = incident(row, row.next_incident).node
    if row.arrival_len > 0:
        due = arrival(row, 0).node
        due_ms = node(row, due).arrive_ms
        if due_ms < time_ms or (due_ms == time_ms and kind > EventKind.NODE_ARRIVAL):
            time_ms, kind, subject = due_ms, np.int64(EventKind.NODE_ARRIVAL), due
    if row.tick_ms > 0 and row.next_tick_ms < time_ms and ticks_go_on(row):
        return row.next_tick_ms, np.int64(EventKind.SERVICE_TICK), np.int64(-1)
    return time_ms, kind, subject


@kernel
def pop_event(row, kind):
    """Take the event that :func:`next_event` returned off its source."""
    if kind == EventKind.ARRIVAL:
        row.next_arrival += 1
    elif kind == EventKind.COMPLETION or kind == EventKind.CHECKPOINTED:
        cancel_event(row, heap(row, 0).entity)
    elif kind == EventKind.SERVICE_TICK:
        row.next_tick_ms += row.tick_ms
    elif kind == EventKind.NODE_ARRIVAL:
        row.arrival_head = np.int64((row.arrival_head + 1) % row.arrival_slots)
        row.arrival_len -= 1
    elif kind != EventKind.NONE:
        row.next_incident += 1
