"""Accessors of a row's tables: ``job(row, j)`` is a reference to a record, not a copy.

A row holds the addresses of its tables, so that a kernel takes one argument instead of a dozen
arrays. An accessor computes ``address + index * size`` and nothing else: indices are not checked.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from orchestrator.kernels.lang.jit import small_kernel
from orchestrator.kernels.lang.memory import (
    address_of,
    float32_at,
    move_bytes,
    record_at,
    zero_bytes,
)
from orchestrator.kernels.state.records import QUEUE_DTYPE, TABLES
from orchestrator.kernels.state.row import CAPACITIES, COPIED, ZEROED

__all__ = [
    "account",
    "arrival",
    "copy_scalars",
    "curve",
    "device",
    "effect",
    "effect_worker",
    "gittins",
    "heap",
    "incident",
    "job",
    "key",
    "kind",
    "line",
    "log_entry",
    "mark",
    "move_queue",
    "node",
    "order",
    "plan",
    "queue",
    "request",
    "room",
    "running",
    "series_value",
    "service",
    "slot",
    "tag",
    "tenant",
    "touch",
    "typical",
    "uplink",
    "victim",
    "view",
    "winner",
    "worker",
    "zero_run",
]


def _table(name: str) -> Any:
    """The accessor of a table, with as many indices as its list of axes is long."""
    table = TABLES[name]
    inner = [axis if isinstance(axis, int) else CAPACITIES[axis] for axis in table.axes[1:]]
    return record_at(table.dtype, f"{name}_at", *inner)


request = _table("request")


job = _table("job")


worker = _table("worker")


node = _table("node")


device = _table("device")


queue = _table("queue")


running = _table("running")


heap = _table("heap")


incident = _table("incident")


log_entry = _table("log")


effect = _table("effect")


effect_worker = _table("effect_worker")


tenant = _table("tenant")


uplink = _table("uplink")


curve = _table("curve")


service = _table("service")


plan = _table("plan")


gittins = _table("gittins")


typical = _table("typical")


order = _table("order")


tag = _table("tag")


kind = _table("kind")


slot = _table("slot")


room = _table("room")


view = _table("view")


key = _table("key")


winner = _table("winner")


touch = _table("touch")


line = _table("line")


mark = _table("mark")


victim = _table("victim")


account = _table("account")


_arrival = _table("arrival")


_COPIED_FROM, _COPIED_SIZE = COPIED


_ZEROED_FROM, _ZEROED_SIZE = ZEROED


_QUEUE_SIZE = QUEUE_DTYPE.itemsize


@small_kernel
def arrival(row, position):
    """An entry of the ring of nodes on order (ARRIVAL_DTYPE), counted from the next to come."""
    return _arrival(row, (row.arrival_head + position) % row.arrival_slots)


@small_kernel
def copy_scalars(target, source):
    """Copy all of a row but where its tables are and how large."""
    move_bytes(address_of(target) + _COPIED_FROM, address_of(source) + _COPIED_FROM, _COPIED_SIZE)


@small_kernel
def zero_run(row):
    """Set to 0 all of a row that an episode changes, but for the memo."""
    zero_bytes(address_of(row) + _ZEROED_FROM, _ZEROED_SIZE)


@small_kernel
def move_queue(row, to, start, count):
    """Move ``count`` queue entries from position ``start`` to position ``to``."""
    base = row.queue_at
    move_bytes(base + to * _QUEUE_SIZE, base + start * _QUEUE_SIZE, count * _QUEUE_SIZE)


@small_kernel
def series_value(address, position):
    """Entry ``position`` of a float32 array at an address, as float64."""
    return float32_at(np.int64(address), np.int64(position))
