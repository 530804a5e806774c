"""Nodes and replicas: changed by a policy's actions, by a rule, or by the cluster itself.

A rule sizes fleet and services as ``kernels.scaling`` does, each by its plan, and where actions
are smaller than what it wants, by several at one instant. The demand on the fleet is what its jobs
hold and what the waiting ones ask for; on a service, the rate of the last tick, and where a
forecast is looked at, that one if it is higher.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.codes import (
    NO_JOB,
    ActionKind,
    JobCode,
    NodeCode,
    Placement,
    Reason,
    Scaling,
)
from orchestrator.kernels.decisions import fleet_reason, is_stuck, service_reason, start_reason
from orchestrator.kernels.feasibility import fits
from orchestrator.kernels.gangs import change_size, start_gang
from orchestrator.kernels.growth import place_more
from orchestrator.kernels.jit import entry, kernel, small_kernel
from orchestrator.kernels.scaling import NO_CHANGE_MS, scaled_size
from orchestrator.kernels.slots import amount_of
from orchestrator.kernels.tables import (
    job,
    node,
    plan,
    queue,
    request,
    running,
    series_value,
    service,
)
from orchestrator.kernels.transition.capacity import count_fleet, scale_capacity
from orchestrator.kernels.transition.queue import queue_position
from orchestrator.kernels.transition.services import note_scaling

__all__ = [
    "commit_capacity",
    "commit_service",
    "fleet_demand",
    "forecast_rps",
    "read_demand",
    "scale_by_itself",
    "scaling_action",
    "start_services",
]

_PLACEMENT = np.int64(Placement.BEST_FIT)


@kernel
def commit_capacity(row, delta):
    """Order ``delta`` nodes, or give up ``-delta``; a ``Reason``."""
    reason = np.int64(fleet_reason(row, delta))
    if reason == Reason.OK:
        scale_capacity(row, delta)
    return reason


@kernel
def commit_service(row, s, replicas, nodes):
    """Give service ``s`` another number of replicas, all of them or none; a ``Reason``."""
    reason = np.int64(service_reason(row, s, replicas))
    if reason != Reason.OK:
        return reason
    j = np.int64(service(row, s).job)
    more = replicas - np.int64(job(row, j).workers_now)
    reason = change_size(row, j, replicas, nodes)
    if reason == Reason.OK:
        note_scaling(row, s, more)
    return reason


@kernel
def start_services(row, nodes):
    """Start services that wait, as soon as the fewest replicas fit: nobody has to ask for that."""
    for s in range(row.num_services):
        j = np.int64(service(row, s).job)
        state = job(row, j).state
        if state != JobCode.PENDING and state != JobCode.PREEMPTED:
            continue
        if start_reason(row, j) == Reason.OK and fits(row, j):
            start_gang(row, queue_position(row, j), _PLACEMENT, nodes)


@kernel
def forecast_rps(row, s):
    """The rate for which service ``s`` is to be prepared now; the present one without forecast."""
    at = row.series_first + row.tick
    if row.forecast_at == 0 or at < 0 or at >= row.series_len:
        return np.float64(service(row, s).rate_rps)
    return series_value(row.forecast_at, s * row.series_len + at)


@kernel
def fleet_demand(row):
    """Capacity units that jobs hold, and those that the waiting ones ask for.

    What jobs hold on nodes that are leaving counts: they will want it elsewhere.
    """
    held, waiting = np.int64(0), np.int64(0)
    for k in range(row.running_len):
        held += running(row, k).units
    for q in range(row.queue_len):
        waiting += job(row, queue(row, q).job).units
    return held, waiting


@entry
def read_demand(rows: NDArray[np.void], e: int) -> tuple[bool, int, int]:
    """The demand on the fleet of row ``e``: (whether in GPUs or else in cores, held, waiting).

    Both in thousandths. A row with nodes counts in its capacity units (:func:`fleet_demand`). One
    without has none yet: it counts GPUs if any waiting job asks for some.
    """
    row = rows[e]
    held, waiting = fleet_demand(row)
    if row.unit != 0:
        return True, held, waiting
    for n in range(row.num_nodes):
        if node(row, n).state != NodeCode.ABSENT:
            return False, held, waiting
    gpus = np.int64(0)
    for q in range(row.queue_len):
        j = np.int64(queue(row, q).job)
        gpus += amount_of(row, j, request(row, j).workers, True)
    return (True, np.int64(0), gpus) if gpus > 0 else (False, held, waiting)


@small_kernel
def _last_change(row, scaled_ms):
    """When the last change was, as windows count: one of this instant is still under way."""
    return np.int64(NO_CHANGE_MS) if scaled_ms == row.now_ms else np.int64(scaled_ms)


@kernel
def _service_action(row, s, mode, nodes):
    """Replicas that a service is to have now: as many of those wanted as find room."""
    own = service(row, s)
    j = np.int64(own.job)
    now = np.int64(job(row, j).workers_now)
    if job(row, j).state != JobCode.RUNNING or plan(row, s + 1).unit_capacity <= 0.0:
        return now
    demand = np.float64(own.rate_rps)
    if mode == Scaling.PREDICTIVE:
        demand = max(demand, forecast_rps(row, s))
    wanted, _ = scaled_size(
        plan(row, s + 1), now, demand, np.int64(row.now_ms), _last_change(row, own.scaled_ms)
    )
    if wanted > now:
        room = min(wanted - now, np.int64(nodes.shape[0]))
        wanted = now + place_more(row, j, room, nodes)
    while wanted > now and service_reason(row, s, wanted) != Reason.OK:
        wanted -= 1  # a quota may allow fewer
    if wanted < now and service_reason(row, s, wanted) != Reason.OK:
        return now
    return wanted


@kernel
def _fleet_action(row):
    """Nodes to order now, or to give up if negative."""
    held, waiting = fleet_demand(row)
    size = count_fleet(row)
    wanted, _ = scaled_size(
        plan(row, np.int64(0)),
        size,
        np.float64(held + waiting),
        np.int64(row.now_ms),
        _last_change(row, row.scaled_ms),
    )
    delta = wanted - size
    if delta <= 0 and is_stuck(row):
        delta = np.int64(1)
    step = np.int64(1) if delta < 0 else np.int64(-1)
    while delta != 0 and fleet_reason(row, delta) != Reason.OK:
        delta += step  # as many as there are
    return delta


@kernel
def scaling_action(row, mode, nodes):
    """What sizes of services and fleet are to be changed to, one at a time.

    Unless the cluster scales by itself, what the policy has no actions for is left alone.

    Parameters
    ----------
    row : ROW_DTYPE record
    mode : int
        A ``Scaling``.
    nodes : int32 [>= workers]
        Scratch.

    Returns
    -------
    tuple of int
        (kind, service or NO_JOB, replicas or nodes); of kind WAIT if nothing is to be changed.
    """
    by_itself = row.autoscale != Scaling.NONE
    if row.scaling_open != 0:
        for s in range(row.num_services if by_itself else min(row.services, row.num_services)):
            replicas = _service_action(row, np.int64(s), mode, nodes)
            if replicas != job(row, service(row, s).job).workers_now:
                return np.int64(ActionKind.SERVICE), np.int64(s), replicas
    sized = plan(row, np.int64(0)).unit_capacity > 0.0 and (by_itself or row.capacity_steps > 0)
    if sized and (row.scaling_open != 0 or is_stuck(row)):
        delta = _fleet_action(row)
        if delta != 0:
            return np.int64(ActionKind.CAPACITY), np.int64(NO_JOB), delta
    return np.int64(ActionKind.WAIT), np.int64(NO_JOB), np.int64(0)


@kernel
def scale_by_itself(row, nodes):
    """Change nodes and replicas as the cluster's own autoscaler does.

    What a change makes room for starts before the next one, as it does when a policy makes them.
    """
    mode = np.int64(row.autoscale)
    kind, subject, value = scaling_action(row, mode, nodes)
    while kind != ActionKind.WAIT:
        if kind == ActionKind.CAPACITY:
            reason = commit_capacity(row, value)
        else:
            reason = commit_service(row, subject, value, nodes)
        if reason != Reason.OK:
            raise RuntimeError("the autoscaler chose an illegal change")
        start_services(row, nodes)
        kind, subject, value = scaling_action(row, mode, nodes)
