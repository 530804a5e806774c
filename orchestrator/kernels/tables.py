"""Accessors of a row's tables: ``job(row, j)`` is a reference to a record, not a copy.

A row holds the addresses of its tables, so that a kernel takes one argument instead of a dozen
arrays. An accessor computes ``address + index * size`` and nothing else: indices are not checked.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic

from orchestrator.kernels import packing_state, state
from orchestrator.kernels.jit import small_kernel

__all__ = [
    "arrival",
    "copy_record",
    "copy_scalars",
    "curve",
    "device",
    "gittins",
    "heap",
    "incident",
    "job",
    "key",
    "kind",
    "log_entry",
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
    "view",
    "winner",
    "worker",
]


def _record_at(dtype: np.dtype[Any]) -> Callable[..., Any]:
    """Make an intrinsic (address, index) -> reference to a record of ``dtype``."""
    record_type = numba.from_dtype(dtype)
    size = dtype.itemsize

    @intrinsic
    def at(typing_context, address, index):
        signature = record_type(types.int64, types.int64)

        def generate(context, builder, signature, arguments):
            base, position = arguments
            stride = context.get_constant(types.int64, size)
            where = builder.add(base, builder.mul(position, stride))
            return builder.inttoptr(where, context.get_value_type(record_type))

        return signature, generate

    return at


_request_at = _record_at(state.REQUEST_DTYPE)
_job_at = _record_at(state.JOB_DTYPE)
_worker_at = _record_at(state.WORKER_DTYPE)
_node_at = _record_at(state.NODE_DTYPE)
_device_at = _record_at(state.DEVICE_DTYPE)
_queue_at = _record_at(state.QUEUE_DTYPE)
_running_at = _record_at(state.RUNNING_DTYPE)
_heap_at = _record_at(state.EVENT_DTYPE)
_incident_at = _record_at(state.INCIDENT_DTYPE)
_log_at = _record_at(state.LOG_DTYPE)
_tenant_at = _record_at(state.TENANT_DTYPE)
_uplink_at = _record_at(state.UPLINK_DTYPE)
_curve_at = _record_at(state.CURVE_DTYPE)
_service_at = _record_at(state.SERVICE_DTYPE)
_plan_at = _record_at(state.SCALING_DTYPE)
_gittins_at = _record_at(state.GITTINS_DTYPE)
_arrival_at = _record_at(state.ARRIVAL_DTYPE)
_typical_at = _record_at(packing_state.TYPICAL_DTYPE)
_order_at = _record_at(packing_state.ORDER_DTYPE)
_tag_at = _record_at(packing_state.TAG_DTYPE)
_kind_at = _record_at(packing_state.KIND_DTYPE)
_slot_at = _record_at(packing_state.SLOT_DTYPE)
_room_at = _record_at(packing_state.ROOM_DTYPE)
_view_at = _record_at(packing_state.VIEW_DTYPE)
_key_at = _record_at(packing_state.KEY_DTYPE)
_winner_at = _record_at(packing_state.WINNER_DTYPE)
_touch_at = _record_at(packing_state.TOUCH_DTYPE)


@intrinsic
def _float32_at(typing_context, address, index):
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
def _move_bytes(typing_context, target, source, size):
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
def _address_of(typing_context, record):
    """Address of a record."""

    def generate(context, builder, signature, arguments):
        return builder.ptrtoint(arguments[0], context.get_value_type(types.int64))

    return types.int64(record), generate


_SCALARS_FROM = int(state.ROW_DTYPE.fields["min_run_ms"][1])  # type: ignore[index]
_SCALARS_SIZE = state.ROW_DTYPE.itemsize - _SCALARS_FROM
_QUEUE_SIZE = state.QUEUE_DTYPE.itemsize
_TAGS = packing_state.TAGS


@small_kernel
def copy_scalars(target, source):
    """Copy a row's semantics and scalars, not the addresses of its tables."""
    _move_bytes(
        _address_of(target) + _SCALARS_FROM, _address_of(source) + _SCALARS_FROM, _SCALARS_SIZE
    )


@small_kernel
def move_queue(row, to, start, count):
    """Move ``count`` queue entries from position ``start`` to position ``to``."""
    base = row.queue_at
    _move_bytes(base + to * _QUEUE_SIZE, base + start * _QUEUE_SIZE, count * _QUEUE_SIZE)


@small_kernel
def request(row, j):
    """What job ``j`` asks for (REQUEST_DTYPE)."""
    return _request_at(row.request_at, j)


@small_kernel
def job(row, j):
    """What has become of job ``j`` (JOB_DTYPE)."""
    return _job_at(row.job_at, j)


@small_kernel
def worker(row, j, w):
    """Where worker ``w`` of job ``j`` is (WORKER_DTYPE)."""
    return _worker_at(row.worker_at, np.int64(j) * row.max_workers + w)


@small_kernel
def node(row, n):
    """Node ``n`` (NODE_DTYPE)."""
    return _node_at(row.node_at, n)


@small_kernel
def device(row, n, g):
    """GPU ``g`` of node ``n`` (DEVICE_DTYPE)."""
    return _device_at(row.device_at, np.int64(n) * row.max_devices + g)


@small_kernel
def queue(row, position):
    """An entry of the waiting queue (QUEUE_DTYPE)."""
    return _queue_at(row.queue_at, position)


@small_kernel
def running(row, position):
    """An entry of the running list (RUNNING_DTYPE)."""
    return _running_at(row.running_at, position)


@small_kernel
def heap(row, slot):
    """An entry of the event queue (EVENT_DTYPE)."""
    return _heap_at(row.heap_at, slot)


@small_kernel
def incident(row, position):
    """An incident (INCIDENT_DTYPE)."""
    return _incident_at(row.incident_at, position)


@small_kernel
def log_entry(row, slot):
    """A record of the event log (LOG_DTYPE)."""
    return _log_at(row.log_at, slot)


@small_kernel
def tenant(row, t):
    """Tenant ``t`` (TENANT_DTYPE)."""
    return _tenant_at(row.tenant_at, t)


@small_kernel
def uplink(row, rack):
    """The uplink of a rack (UPLINK_DTYPE)."""
    return _uplink_at(row.uplink_at, rack)


@small_kernel
def curve(row, c):
    """Throughput curve ``c`` (CURVE_DTYPE)."""
    return _curve_at(row.curve_at, c)


@small_kernel
def service(row, s):
    """Service ``s`` (SERVICE_DTYPE)."""
    return _service_at(row.service_at, s)


@small_kernel
def plan(row, k):
    """How the fleet (0) or service ``k - 1`` is scaled (SCALING_DTYPE)."""
    return _plan_at(row.plan_at, k)


@small_kernel
def gittins(row, k):
    """Entry ``k`` of the Gittins index (GITTINS_DTYPE)."""
    return _gittins_at(row.gittins_at, k)


@small_kernel
def arrival(row, position):
    """An entry of the ring of nodes on order (ARRIVAL_DTYPE), counted from the next to come."""
    return _arrival_at(row.arrival_at, (row.arrival_head + position) % row.arrival_slots)


@small_kernel
def typical(row, t):
    """Class ``t`` of typical pods (TYPICAL_DTYPE)."""
    return _typical_at(row.typical_at, t)


@small_kernel
def order(row, position):
    """A node in the order of (spine, rack) (ORDER_DTYPE)."""
    return _order_at(row.order_at, position)


@small_kernel
def tag(row, n, kind):
    """Workers of a kind on node ``n`` (TAG_DTYPE)."""
    return _tag_at(row.tag_at, np.int64(n) * _TAGS + kind)


@small_kernel
def kind(row, k):
    """A kind of requests (KIND_DTYPE); entry 0 stands for those that are not remembered."""
    return _kind_at(row.kind_at, k)


@small_kernel
def slot(row, k, n):
    """Workers of kind ``k`` that node ``n`` holds (SLOT_DTYPE)."""
    return _slot_at(row.slot_at, np.int64(k) * row.memo_nodes + n)


@small_kernel
def room(row, n):
    """What is free on node ``n``, as far as it is remembered (ROOM_DTYPE)."""
    return _room_at(row.room_at, n)


@small_kernel
def view(row, v):
    """View ``v`` of the nodes, counted over all kinds (VIEW_DTYPE)."""
    return _view_at(row.view_at, v)


@small_kernel
def key(row, v, n):
    """Key of node ``n`` in view ``v`` (KEY_DTYPE)."""
    return _key_at(row.key_at, np.int64(v) * row.memo_nodes + n)


@small_kernel
def winner(row, v, entry):
    """An inner entry of the tree of view ``v`` (WINNER_DTYPE)."""
    return _winner_at(row.winner_at, np.int64(v) * row.leaves + entry)


@small_kernel
def touch(row, slot):
    """An entry of the ring of touched nodes (TOUCH_DTYPE)."""
    return _touch_at(row.touch_at, slot)


@small_kernel
def series_value(address, position):
    """Entry ``position`` of a float32 array at an address, as float64."""
    return _float32_at(np.int64(address), np.int64(position))
