"""The sets that describe what surrounds the jobs: services, changes of the fleet, tenants, racks.

Everything is roughly within [-5, 5]; shares are of the whole cluster with every node in service.
"""

from __future__ import annotations

import math

import numpy as np

from orchestrator.kernels.change.nodes import count_fleet
from orchestrator.kernels.decide.legal import fleet_reason, service_bounds, service_reason
from orchestrator.kernels.decide.order import dominant_share
from orchestrator.kernels.decide.scale import fleet_demand, forecast_rps
from orchestrator.kernels.lang.jit import kernel, small_kernel
from orchestrator.kernels.lang.numbers import fast_log, log_seconds
from orchestrator.kernels.place.generate import has_room_for_one
from orchestrator.kernels.place.slots import free_units, node_units
from orchestrator.kernels.requests.breaker import BreakerMode
from orchestrator.kernels.see.layout import (
    RACK_NAMES,
    ActionHead,
    CapacityColumn,
    FleetColumn,
    RackColumn,
    ServiceColumn,
    ShareColumn,
    TenantColumn,
    nodes_changed,
)
from orchestrator.kernels.state.access import job, node, plan, queue, request, service, tenant
from orchestrator.kernels.state.codes import NodeCode, Reason

__all__ = [
    "RACK_SUMS",
    "encode_capacity",
    "encode_fleet",
    "encode_nodes",
    "encode_services",
    "encode_tenants",
    "survey_tenants",
]


RACK_SUMS = len(RACK_NAMES) + 4
"""Sums that are formed of every rack."""


_F = np.float32


# Behind the numerators: nodes, capacity of those that are up, GPUs, GPUs of the largest node.
_NODES, _CAPACITY, _GPUS, _MOST_GPUS = range(len(RACK_NAMES), RACK_SUMS)


_MOST = 4.0


_DAY_MS = 86_400_000.0


_WEEK_MS = 7.0 * _DAY_MS


@small_kernel
def _use(rate, replicas, own):
    """Use of so many replicas at a rate, at most 4."""
    capacity = replicas * own.slots * 1000.0 / own.service_ms
    return min(rate / capacity, _MOST) if capacity > 0.0 else (_MOST if rate > 0.0 else 0.0)


@kernel
def _busiest(row):
    """Highest use ahead among services: of all their replicas, ready or not."""
    highest = 0.0
    for s in range(row.num_services):
        own = service(row, s)
        rate = max(np.float64(own.rate_rps), forecast_rps(row, np.int64(s)))
        highest = max(highest, _use(rate, np.float64(job(row, own.job).workers_now), own))
    return highest


@small_kernel
def _breaker(own):
    if own.sick == 0 or own.breaker_mode == BreakerMode.CLOSED:
        return 0.0
    return 1.0 if own.breaker_mode == BreakerMode.OPEN else 0.5


@kernel
def encode_services(row, nodes, mask, out):
    """Describe services, and mask whether each may have a replica fewer or more; legal changes.

    ``mask``, int8 [2 S], is filled: one fewer [S], one more [S]; of ``out``, float32 [S,
    len(SERVICE_NAMES)], the rows of services that exist. ``nodes`` is scratch, int32 [>= 1].
    """
    S = out.shape[0]
    legal = 0
    for i in range(min(S, row.num_services)):
        s = np.int64(i)
        own = service(row, s)
        j = np.int64(own.job)
        now = np.int64(job(row, j).workers_now)
        fewer = row.done == 0 and service_reason(row, s, now - 1) == Reason.OK
        more = row.done == 0 and service_reason(row, s, now + 1) == Reason.OK
        more = more and has_room_for_one(row, j, nodes)
        mask[i] = np.int8(fewer)
        mask[S + i] = np.int8(more)
        legal += np.int64(fewer) + np.int64(more)
        rate, ahead = np.float64(own.rate_rps), forecast_rps(row, s)
        fewest, largest = service_bounds(row, s)
        most = np.float64(max(largest, 1))
        higher = max(rate, ahead)
        out[i, ServiceColumn.LOG_RATE] = _F(0.1) * fast_log(_F(1.0 + rate))
        out[i, ServiceColumn.USE] = _F(_use(rate, np.float64(own.ready), own))
        out[i, ServiceColumn.USE_AHEAD] = _F(_use(ahead, np.float64(now), own))
        out[i, ServiceColumn.USE_IF_FEWER] = _F(_use(higher, np.float64(now - 1), own))
        out[i, ServiceColumn.USE_IF_MORE] = _F(_use(higher, np.float64(now + 1), own))
        out[i, ServiceColumn.STARTING] = _F(max(now - own.ready, 0) / max(now, 1))
        out[i, ServiceColumn.LOG_REPLICAS] = _F(0.2) * fast_log(_F(1.0 + now))
        out[i, ServiceColumn.ROOM_BELOW] = _F((now - fewest) / most)
        out[i, ServiceColumn.ROOM_ABOVE] = _F((most - now) / most)
        out[i, ServiceColumn.LATENCY] = _F(0.5) * fast_log(
            _F(1.0 + own.latency_ms / own.objective_ms)
        )
        out[i, ServiceColumn.LOG_BACKLOG] = _F(0.1) * fast_log(_F(1.0 + own.backlog))
        out[i, ServiceColumn.MISSED] = _F(own.missed_share)
        out[i, ServiceColumn.BREAKER] = _F(_breaker(own))
        out[i, ServiceColumn.LOG_SINCE_CHANGE] = log_seconds(
            row.now_ms - max(own.scaled_ms, row.begin_ms)
        )
        out[i, ServiceColumn.DEMAND_SHARE] = _F(job(row, j).units / max(row.nominal_units, 1))
    return legal


@kernel
def encode_capacity(row, heads, mask, out):
    """Describe changes of the fleet, and mask which are legal; how many are.

    ``heads``, int64 [len(HEADS) + 1], is the first action of each head. Filled are ``mask``, int8
    [2 c]: give up 1 .. c nodes, order 1 .. c nodes; and ``out``, float32 [2 c,
    len(CAPACITY_NAMES)].
    """
    held, waiting = fleet_demand(row)
    fleet = count_fleet(row)
    unit = plan(row, np.int64(0)).unit_capacity
    busiest = _busiest(row)
    prices = max(row.all_prices_milli, np.int64(1))
    mean_price = row.all_prices_milli / max(row.num_nodes, 1)
    legal = 0
    for i in range(mask.shape[0]):
        delta = nodes_changed(heads, heads[ActionHead.SCALE_IN] + i)
        ok = row.done == 0 and fleet_reason(row, delta) == Reason.OK
        mask[i] = np.int8(ok)
        legal += np.int64(ok)
        capacity = max((fleet + delta) * unit, 1.0)
        out[i, CapacityColumn.NODES] = _F(delta / max(fleet, 1))
        out[i, CapacityColumn.USE_AFTER] = _F(min(held / capacity, _MOST))
        out[i, CapacityColumn.LOAD_AFTER] = _F(min((held + waiting) / capacity, _MOST))
        out[i, CapacityColumn.SERVICES_AFTER] = _F(busiest)
        out[i, CapacityColumn.ARRIVING] = _F(row.arrival_len / max(fleet, 1))
        cost = row.cost_rate_milli + delta * mean_price
        out[i, CapacityColumn.COST_AFTER] = _F(cost / prices)
        out[i, CapacityColumn.LOG_SINCE_CHANGE] = log_seconds(
            row.now_ms - max(row.scaled_ms, row.begin_ms)
        )
    return legal


@kernel
def survey_tenants(row, shares):
    """Dominant and entitled share of every tenant, float64 [tenants, len(ShareColumn)].

    Entitled is its quota as a share of the cluster; where there is none, its weight as a share of
    all weights.
    """
    weights = 0.0
    for t in range(row.num_tenants):
        weights += tenant(row, t).weight if tenant(row, t).weight > 0.0 else 1.0
    capacity = max(row.nominal_units, 1)
    for t in range(row.num_tenants):
        own = tenant(row, t)
        shares[t, ShareColumn.SHARE] = dominant_share(row, t)
        if own.quota_units > 0:
            shares[t, ShareColumn.ENTITLED] = own.quota_units / capacity
        else:
            shares[t, ShareColumn.ENTITLED] = (own.weight if own.weight > 0.0 else 1.0) / weights


@kernel
def encode_tenants(row, shares, out):
    """Describe the tenants, float32 [T, len(TENANT_NAMES)]; those beyond T are not shown.

    ``shares`` is from :func:`survey_tenants`.
    """
    capacity = max(row.nominal_units, 1)
    shown = min(row.num_tenants, out.shape[0])
    elapsed = max(row.capacity_unit_ms, np.int64(1))
    for t in range(shown):
        out[t, TenantColumn.SHARE] = _F(shares[t, ShareColumn.SHARE])
        out[t, TenantColumn.ENTITLED] = _F(shares[t, ShareColumn.ENTITLED])
        out[t, TenantColumn.EXCESS] = _F(
            shares[t, ShareColumn.SHARE] - shares[t, ShareColumn.ENTITLED]
        )
        out[t, TenantColumn.WAITING] = _F(0.0)
        out[t, TenantColumn.ATTAINED] = _F(tenant(row, t).attained_unit_ms / elapsed)
    for q in range(row.queue_len):
        j = queue(row, q).job
        t = np.int64(request(row, j).tenant)
        if t < shown:
            out[t, TenantColumn.WAITING] += _F(job(row, j).units / capacity)
    for t in range(shown):
        out[t, TenantColumn.WAITING] = min(out[t, TenantColumn.WAITING], _F(_MOST))


@kernel
def encode_nodes(row, sums, fleet, out):
    """Describe racks, and of the fleet what has to be counted node by node.

    ``out`` is float32 [R, len(RACK_NAMES)]; nodes of racks beyond R are not shown, but counted. Of
    ``fleet``, float32 [len(FLEET_NAMES)], ``down`` and ``fragmentation`` are filled; it has no
    length where it is not shown. ``sums``, float64 [R, RACK_SUMS], is scratch: the numerators, then
    what they are shares of.
    """
    sums[:, :] = 0.0
    down, wasted = 0, 0.0
    for n in range(row.num_nodes):
        here = node(row, n)
        down += np.int64(here.state == NodeCode.DOWN)
        if here.state == NodeCode.UP:
            wasted += here.fragmentation
        if here.rack >= out.shape[0] or here.state == NodeCode.ABSENT:
            continue
        own = sums[here.rack]
        own[RackColumn.FAILURES] = max(own[RackColumn.FAILURES], np.float64(here.failures))
        own[_NODES] += 1.0
        own[_GPUS] += here.gpus
        own[_MOST_GPUS] = max(own[_MOST_GPUS], np.float64(here.gpus))
        if here.state != NodeCode.UP:
            continue
        own[RackColumn.IN_SERVICE] += 1.0
        own[RackColumn.FREE] += free_units(row, n)
        own[RackColumn.WHOLE_FREE] += here.whole_free
        own[RackColumn.LARGEST] = max(own[RackColumn.LARGEST], np.float64(here.whole_free))
        own[RackColumn.FRAGMENTATION] += here.fragmentation
        own[_CAPACITY] += node_units(row, n)
    for r in range(out.shape[0]):
        own = sums[r]
        gpus = max(own[_GPUS], 1.0)
        out[r, RackColumn.IN_SERVICE] = _F(own[RackColumn.IN_SERVICE] / max(own[_NODES], 1.0))
        out[r, RackColumn.FREE] = _F(own[RackColumn.FREE] / max(own[_CAPACITY], 1.0))
        out[r, RackColumn.WHOLE_FREE] = _F(own[RackColumn.WHOLE_FREE] / gpus)
        out[r, RackColumn.LARGEST] = _F(own[RackColumn.LARGEST] / max(own[_MOST_GPUS], 1.0))
        out[r, RackColumn.FAILURES] = _F(0.5) * fast_log(_F(1.0 + own[RackColumn.FAILURES]))
        out[r, RackColumn.FRAGMENTATION] = _F(own[RackColumn.FRAGMENTATION] / (1000.0 * gpus))
    if fleet.shape[0] > 0:
        fleet[FleetColumn.DOWN] = _F(down / max(row.num_nodes, 1))
        fleet[FleetColumn.FRAGMENTATION] = _F(min(wasted / max(row.free_units, 1), _MOST))


@kernel
def encode_fleet(row, shares, out):
    """Describe the cluster as a whole beyond ``encode_global``, float32 [len(FLEET_NAMES)].

    ``shares`` is from :func:`survey_tenants`; :func:`encode_nodes` fills two of the features.
    """
    time_ms = np.float64(row.now_ms)
    if row.num_services > 0:  # the time of day of their series
        time_ms += (row.series_first + row.tick + 1) * row.tick_ms - row.next_tick_ms
    hour = 2.0 * math.pi * ((time_ms % _DAY_MS) / _DAY_MS)
    week = 2.0 * math.pi * ((time_ms % _WEEK_MS) / _WEEK_MS)
    missed = 0.0
    for s in range(row.num_services):
        missed += service(row, s).missed_share
    excess = 0.0
    for t in range(row.num_tenants):
        excess = max(excess, shares[t, ShareColumn.SHARE] - shares[t, ShareColumn.ENTITLED])
    out[FleetColumn.HOUR_SIN] = _F(math.sin(hour))
    out[FleetColumn.HOUR_COS] = _F(math.cos(hour))
    out[FleetColumn.WEEKDAY_SIN] = _F(math.sin(week))
    out[FleetColumn.WEEKDAY_COS] = _F(math.cos(week))
    out[FleetColumn.IN_SERVICE] = _F(row.capacity_units / max(row.nominal_units, 1))
    out[FleetColumn.ON_ORDER] = _F(row.arrival_len / max(row.num_nodes, 1))
    out[FleetColumn.COST] = _F(row.cost_rate_milli / max(row.all_prices_milli, np.int64(1)))
    out[FleetColumn.BUSIEST_SERVICE] = _F(_busiest(row))
    out[FleetColumn.MISSED] = _F(missed / max(row.num_services, 1))
    out[FleetColumn.TENANT_EXCESS] = _F(excess)
