"""Ask for a row's memory while the row before it is stepped.

Hundreds of rows do not fit into the caches next to a processor. What the next step of a row will
read is mostly known: the jobs that its last observation showed, the action, the next events. Half
of a step's time was waiting for them. Nothing depends on it but time.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from orchestrator.kernels.features import STATIC_WIDTH
from orchestrator.kernels.jit import part, small_kernel
from orchestrator.kernels.records import JOB_DTYPE, REQUEST_DTYPE, RUNNING_DTYPE, WORKER_DTYPE
from orchestrator.kernels.see.layout import Shown
from orchestrator.kernels.tables import heap

__all__ = ["prefetch", "prefetch_row"]

_LINE = 64
_REQUEST_SIZE = REQUEST_DTYPE.itemsize
_JOB_SIZE = JOB_DTYPE.itemsize
_WORKER_SIZE = WORKER_DTYPE.itemsize
_RUNNING_SIZE = RUNNING_DTYPE.itemsize
_STATIC_SIZE = 4 * STATIC_WIDTH
_MOST_SHOWN = 32  # the processor itself goes on with what lies one behind the other
_ARRIVALS = 2


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


@small_kernel
def _prefetch_record(address, index, size):
    """Ask for record ``index`` of a table at an address."""
    first = address + np.int64(index) * size
    last = (first + size - 1) // _LINE * _LINE
    at = first
    while at < last:
        prefetch(at)
        at += _LINE
    prefetch(last)


@small_kernel
def _prefetch_job(row, j):
    _prefetch_record(row.request_at, j, _REQUEST_SIZE)
    _prefetch_record(row.job_at, j, _JOB_SIZE)


@small_kernel
def _prefetch_placed(row, j):
    _prefetch_job(row, j)
    prefetch(row.worker_at + np.int64(j) * row.max_workers * _WORKER_SIZE)


@part
def prefetch_row(row, e, action, buffers):
    """Ask for what stepping a row will read.

    Parameters
    ----------
    row : ROW_DTYPE record
    e, action : int
        Where it is in the buffers, and what it is going to do.
    buffers : Buffers
    """
    statics = np.int64(buffers.static.ctypes.data) + e * row.max_jobs * _STATIC_SIZE
    last = min(row.next_arrival + _ARRIVALS, row.num_jobs)
    for j in range(row.next_arrival, last):
        _prefetch_job(row, j)
        prefetch(statics + j * _STATIC_SIZE)
    if row.heap_len > 0:
        _prefetch_placed(row, heap(row, 0).entity)
    shown = min(np.int64(buffers.shown[e, Shown.JOBS]), np.int64(_MOST_SHOWN))
    if row.commitment != 0:
        if 0 <= action < buffers.shown[e, Shown.JOBS]:
            _prefetch_placed(row, buffers.window[e, action])
    for i in range(shown):
        if row.commitment == 0:  # else what is read of them is their static features
            _prefetch_job(row, buffers.window[e, i])
        prefetch(statics + np.int64(buffers.window[e, i]) * _STATIC_SIZE)
    for i in range(buffers.shown[e, Shown.VICTIMS]):
        _prefetch_placed(row, buffers.victim_jobs[e, i])
    for i in range(buffers.shown[e, Shown.ELASTICS]):
        _prefetch_placed(row, buffers.elastic_jobs[e, i])
    _prefetch_record(row.running_at, np.int64(0), row.running_len * _RUNNING_SIZE)
