"""References to records at addresses, and copying, zeroing and asking for memory: the intrinsics.

A row holds the addresses of its tables, so that a kernel takes one argument instead of a dozen
arrays. An accessor computes ``address + index * size`` and nothing else: indices are not checked.

Hundreds of rows do not fit into the caches next to a processor. What the next step of a row will
read is mostly known: the jobs that its last observation showed, the action, the next events. Half
of a step's time was waiting for them. Nothing depends on it but time.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

__all__ = [
    "address_of",
    "copy_record",
    "float32_at",
    "move_bytes",
    "prefetch",
    "record_at",
    "zero_bytes",
    "zero_record",
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


@intrinsic
def prefetch(typing_context, address):
    """Ask for the cache line at an address; it is read soon, and often."""

    def generate(context, builder, signature, arguments):
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, number, number, number])
        ask = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        pointer = builder.inttoptr(arguments[0], cgutils.voidptr_t)
        builder.call(ask, [pointer, number(0), number(3), number(1)])
        return context.get_dummy_value()

    return types.void(types.int64), generate
