"""Accessors of a row's tables: ``job(row, j)`` is a reference to a record, not a copy.

A row holds the addresses of its tables, so that a kernel takes one argument instead of a dozen
arrays. An accessor computes ``address + index * size`` and nothing else: indices are not checked.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic

from orchestrator.kernels.jit import small_kernel
from orchestrator.kernels.records import QUEUE_DTYPE, TABLES
from orchestrator.kernels.row import CAPACITIES, COPIED, ZEROED

__all__ = [
    "address_of",
    "arrival",
    "copy_record",
    "copy_scalars",
    "curve",
    "device",
    "effect",
    "effect_worker",
    "float32_at",
    "gittins",
    "heap",
    "incident",
    "job",
    "key",
    "kind",
    "log_entry",
    "move_bytes",
    "move_queue",
    "node",
    "order",
    "plan",
    "queue",
    "record_at",
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
    "view",
    "winner",
    "worker",
    "zero_bytes",
    "zero_record",
    "zero_run",
]


def record_at(dtype: np.dtype[Any], address: str, inner: str | int | None = None) -> Any:
    """Make an accessor ``(row, index) -> record``, or ``(row, outer, inner) -> record``.

    ``address`` is the row's field that holds the address of the table. ``inner`` is the size of the
    inner index, or the row's field that holds it; None for a table with a single index.
    """
    record = numba.from_dtype(dtype)

    def generate(context, builder, signature, arguments):
        kind, row = signature.args[0], arguments[0]

        def number(value):
            if isinstance(value, int):
                return context.get_constant(types.int64, value)
            return context.get_getattr(kind, value)(context, builder, kind, row, value)

        position = arguments[1]
        if inner is not None:
            position = builder.add(builder.mul(position, number(inner)), arguments[2])
        where = builder.add(number(address), builder.mul(position, number(dtype.itemsize)))
        return builder.inttoptr(where, context.get_value_type(record))

    if inner is None:

        @intrinsic
        def at(typing_context, row, index):
            return record(row, types.int64), generate

        return at

    @intrinsic
    def at_both(typing_context, row, outer, inner):
        return record(row, types.int64, types.int64), generate

    return at_both


@intrinsic
def float32_at(typing_context, address, index):
    """The float32 at ``address + 4 * index``, as float64."""

    def generate(context, builder, signature, arguments):
        base, position = arguments
        where = builder.add(base, builder.mul(position, context.get_constant(types.int64, 4)))
        pointer = builder.inttoptr(where, context.get_value_type(types.float32).as_pointer())
        return builder.fpext(builder.load(pointer), context.get_value_type(types.float64))

    return types.float64(types.int64, types.int64), generate


@intrinsic
def copy_record(typing_context, target, source):
    """Copy the bytes of a record onto another of the same type."""
    if target.size != source.size:
        raise TypeError("copy_record needs two records of the same type")
    size = target.size

    def generate(context, builder, signature, arguments):
        cgutils.raw_memcpy(
            builder, arguments[0], arguments[1], context.get_constant(types.intp, size), 1
        )
        return context.get_dummy_value()

    return types.void(target, source), generate


@intrinsic
def zero_record(typing_context, record):
    """Set every byte of a record to 0."""
    size = record.size

    def generate(context, builder, signature, arguments):
        pointer = builder.bitcast(arguments[0], cgutils.voidptr_t)
        cgutils.memset(builder, pointer, context.get_constant(types.intp, size), 0)
        return context.get_dummy_value()

    return types.void(record), generate


@intrinsic
def zero_bytes(typing_context, address, size):
    """Set ``size`` bytes from an address on to 0."""

    def generate(context, builder, signature, arguments):
        pointer = builder.inttoptr(arguments[0], cgutils.voidptr_t)
        cgutils.memset(builder, pointer, arguments[1], 0)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), generate


@intrinsic
def move_bytes(typing_context, target, source, size):
    """``memmove`` between addresses."""

    def generate(context, builder, signature, arguments):
        pointer = cgutils.voidptr_t
        cgutils.raw_memmove(
            builder,
            builder.inttoptr(arguments[0], pointer),
            builder.inttoptr(arguments[1], pointer),
            arguments[2],
            1,
        )
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@intrinsic
def address_of(typing_context, record):
    """Address of a record."""

    def generate(context, builder, signature, arguments):
        return builder.ptrtoint(arguments[0], context.get_value_type(types.int64))

    return types.int64(record), generate


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
