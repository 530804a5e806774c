"""How large a fleet and services should be, for rules, rows that scale themselves, and live.

The desired size follows the rule of Kubernetes' HorizontalPodAutoscaler, which keeps usage per
unit at a target: ``ceil(demand / (target * capacity of a unit))``, and leaves the size alone while
it is within a tolerance of that and the demand is served. Steps are bounded, and each direction
waits for its own window after the last change. Demand and capacity are in the same unit, whatever
it is.

A rule sizes fleet and services as :func:`scaled_size` does, each by its plan, and where actions
are smaller than what it wants, by several at one instant. The demand on the fleet is what its jobs
hold and what the waiting ones ask for; on a service, the rate of the last tick, and where a
forecast is looked at, that one if it is higher.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.change.nodes import count_fleet, scale_capacity
from orchestrator.kernels.change.queue import queue_position
from orchestrator.kernels.change.services import note_scaling
from orchestrator.kernels.decide.elastic import change_size
from orchestrator.kernels.decide.gang import start_gang
from orchestrator.kernels.decide.legal import (
    fleet_reason,
    is_stuck,
    serves,
    service_reason,
    start_reason,
)
from orchestrator.kernels.lang.jit import entry, kernel, small_kernel
from orchestrator.kernels.place.fit import fits
from orchestrator.kernels.place.generate import place_more
from orchestrator.kernels.place.slots import amount_of
from orchestrator.kernels.state.access import (
    job,
    node,
    plan,
    queue,
    request,
    running,
    series_value,
    service,
)
from orchestrator.kernels.state.codes import (
    NO_CHANGE_MS,
    NO_JOB,
    ActionKind,
    JobCode,
    NodeCode,
    Placement,
    Reason,
    Scaling,
)

__all__ = [
    "TICK_DTYPE",
    "commit_capacity",
    "commit_service",
    "cooldown_left",
    "desired_size",
    "fleet_demand",
    "forecast_rps",
    "read_demand",
    "replay_fleet",
    "scale_by_itself",
    "scale_one",
    "scaled_size",
    "scaling_action",
    "start_services",
]


_ROUNDING = 1e-9


@kernel
def desired_size(demand, unit_capacity, target, min_size, max_size):
    """Units that bring their use to ``target`` under a demand, within bounds.

    A demand that is not a number, or negative, counts as 0.
    """
    if not demand > 0.0:
        return np.int64(min_size)
    # A demand that is an exact multiple must not need another unit because of rounding.
    units = np.ceil(demand / (unit_capacity * target) * (1.0 - _ROUNDING))
    return np.int64(min(max(units, np.float64(min_size)), np.float64(max_size)))


@entry
def cooldown_left(now_ms: int, last_change_ms: int, window_ms: int) -> int:
    """Time until a change is allowed again, ms; 0 if it is allowed now."""
    return max(0, last_change_ms + window_ms - now_ms)


@kernel
def scaled_size(plan, size, demand, now_ms, last_change_ms):
    """What a fleet or service of ``size`` units is to be scaled to now: (size, cooldown_ms).

    Units count when they are here or on their way. The size stays if nothing is to change, or may
    not for another ``cooldown_ms`` after the last change, either way (``NO_CHANGE_MS``: none). One
    out of bounds is brought back at once, without cooldown or step limits. ``demand`` is in the
    unit of ``unit_capacity``.
    """
    wanted = desired_size(demand, plan.unit_capacity, plan.target, plan.min_size, plan.max_size)
    if size < plan.min_size or size > plan.max_size:
        bound = plan.min_size if size < plan.min_size else plan.max_size
        return np.int64(bound), np.int64(0)
    short = demand > size * plan.unit_capacity
    if not short and abs(wanted - size) <= plan.tolerance * size:
        return np.int64(size), np.int64(0)
    if wanted > size:
        left = cooldown_left(now_ms, last_change_ms, plan.up_window_ms)
        if plan.step_up > 0:
            wanted = min(wanted, np.int64(size + plan.step_up))
    else:
        left = cooldown_left(now_ms, last_change_ms, plan.down_window_ms)
        if plan.step_down > 0:
            wanted = max(wanted, np.int64(size - plan.step_down))
    return (np.int64(size) if left > 0 else wanted), np.int64(left)


@entry
def scale_one(
    plans: NDArray[np.void], k: int, size: int, demand: float, now_ms: int, last_change_ms: int
) -> tuple[int, int]:
    """:func:`scaled_size` of ``plans[k]``, for callers in Python."""
    return scaled_size(
        plans[k], np.int64(size), np.float64(demand), np.int64(now_ms), np.int64(last_change_ms)
    )


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
        if (state != JobCode.PENDING and state != JobCode.PREEMPTED) or not serves(row, s):
            continue
        if start_reason(row, j) == Reason.OK and fits(row, j):
            start_gang(row, queue_position(row, j), _PLACEMENT, nodes)


@kernel
def forecast_rps(row, s):
    """The rate for which service ``s`` is to be prepared now: by the table, or as it was told."""
    at = row.series_first + row.tick
    if row.forecast_at == 0 or at < 0 or at >= row.series_len:
        return np.float64(service(row, s).ahead_rps)
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
    gpus = 0
    for q in range(row.queue_len):
        j = np.int64(queue(row, q).job)
        gpus += amount_of(row, j, request(row, j).workers, True)
    if gpus > 0:
        return True, held, gpus  # nobody holds anything
    return False, held, waiting


@small_kernel
def _last_change(row, scaled_ms):
    """When the last change was, as windows count: one of this tick is still under way."""
    goes_on = scaled_ms == row.now_ms or (row.scaling_open != 0 and scaled_ms >= row.scaling_ms)
    return np.int64(NO_CHANGE_MS) if goes_on else np.int64(scaled_ms)


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
    """The next change of a service or the fleet: (kind, service or NO_JOB, replicas or nodes).

    Sizes are changed one at a time; of kind WAIT if none is to be changed. ``mode`` is a
    ``Scaling``: unless the cluster scales by itself, what the policy has no actions for is left
    alone.
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


TICK_DTYPE = np.dtype(
    [
        ("demand", "f8"),
        ("need", "f8"),  # demand to plan for on the way up
        ("held", "f8"),  # demand that a way down may not undercut
        ("here", "i8"),  # filled in: nodes that serve
        ("paid", "i8"),  # filled in: nodes that are here or on order after the decision
    ],
    align=True,
)
"""A tick of a series, and of the fleet that served it."""


@small_kernel
def _target_size(plan, tick, size, now_ms, last_ms):
    """The size that a tick asks for: by its need on the way up, by what is held on the way down."""
    target, _ = scaled_size(plan, size, tick.need, now_ms, last_ms)
    if target < size:
        lower, _ = scaled_size(plan, size, tick.held, now_ms, last_ms)
        target = min(lower, size)
    return target


@small_kernel
def _cancel_orders(ring, t, count):
    """Cancel up to ``count`` nodes on order, the last ordered first; how many there were."""
    slots = ring.shape[0]
    left = count
    ahead = slots - 1
    while left > 0 and ahead > 0:
        slot = (t + ahead) % slots
        cancelled = min(ring[slot], left)
        ring[slot] -= cancelled
        left -= cancelled
        ahead -= 1
    return count - left


@entry
def replay_fleet(
    ticks: NDArray[np.void], plans: NDArray[np.void], tick_ms: int, ring: NDArray[np.int64]
) -> int:
    """Scale a fleet along a series; how many ways up came when demand exceeded capacity already.

    In a tick orders arrive, the demand is seen, the size is decided. On the way down orders are
    cancelled first, the last one first, and nodes leave at once. ``here`` and ``paid`` of
    ``ticks``, TICK_DTYPE [T], are filled in. ``ring``, int64 [provisioning delay in ticks + 1], is
    scratch: what arrives at each tick to come.
    """
    plan = plans[0]
    slots = ring.shape[0]
    ring[:] = 0
    last_ms = np.int64(NO_CHANGE_MS)
    # The fleet begins at the size that the first tick asks for.
    up, _ = scaled_size(plan, np.int64(plan.min_size - 1), ticks[0].need, np.int64(0), last_ms)
    up, _ = scaled_size(plan, up, ticks[0].need, np.int64(0), last_ms)
    coming = np.int64(0)
    events = 0
    for t in range(ticks.shape[0]):
        tick = ticks[t]
        arrived = ring[t % slots]
        ring[t % slots] = 0
        up += arrived
        coming -= arrived
        tick.here = up
        now_ms = np.int64(t) * tick_ms
        size = up + coming
        target = _target_size(plan, tick, size, now_ms, last_ms)
        if target > size:
            events += tick.demand > up * plan.unit_capacity
            ring[(t + slots - 1) % slots] += target - size
            coming += target - size
        elif target < size:
            coming -= _cancel_orders(ring, t, size - target)
            up = min(up, target)
        if target != size:
            last_ms = now_ms
        tick.paid = up + coming
    return events
