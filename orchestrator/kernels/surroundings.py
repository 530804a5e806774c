"""The sets that describe what surrounds the jobs: services, changes of the fleet, tenants, racks.

Everything is roughly within [-5, 5]; shares are of the whole cluster with every node in service.
"""

from __future__ import annotations

import math

import numpy as np

from orchestrator.kernels.autoscale import fleet_demand, forecast_rps
from orchestrator.kernels.codes import NodeCode, Reason
from orchestrator.kernels.decisions import fleet_reason, service_reason
from orchestrator.kernels.fastlog import fast_log, log_seconds
from orchestrator.kernels.growth import has_room_for_one
from orchestrator.kernels.jit import kernel, small_kernel
from orchestrator.kernels.mesh.breaker import BreakerMode
from orchestrator.kernels.ordering import dominant_share
from orchestrator.kernels.tables import job, node, plan, queue, request, service, tenant
from orchestrator.kernels.transition.capacity import count_fleet

__all__ = [
    "CAPACITY_NAMES",
    "FLEET_NAMES",
    "RACK_NAMES",
    "SERVICE_NAMES",
    "TENANT_NAMES",
    "encode_capacity",
    "encode_fleet",
    "encode_nodes",
    "encode_services",
    "encode_tenants",
    "survey_tenants",
]

SERVICE_NAMES = (
    "log_rate",  # .1 ln(1 + requests per second in the last tick)
    "use",  # that rate / what the ready replicas can serve, at most 4
    "use_ahead",  # the same of the forecast rate
    "use_if_fewer",  # the higher of the two, if there were one replica fewer
    "use_if_more",  # ... one more
    "starting",  # replicas that are not ready yet / all
    "log_replicas",  # .2 ln(1 + replicas)
    "room_below",  # (replicas - fewest) / most
    "room_above",  # (most - replicas) / most
    "latency",  # .5 ln(1 + latency of the last tick / objective)
    "log_backlog",  # .1 ln(1 + requests waiting)
    "missed",  # share of the last tick's requests that were not answered in time
    "breaker",  # 1 if the breaker of a sick replica is open, .5 half-open
    "log_since_change",  # .1 ln(1 + time since replicas were last changed, s)
    "demand_share",  # of the cluster that its replicas hold
)

CAPACITY_NAMES = (
    "nodes",  # ordered (given up: negative) / fleet
    "use_after",  # capacity held by jobs / capacity of the fleet after the change, at most 4
    "load_after",  # the same with what waiting jobs ask for
    "services_after",  # highest use ahead among services
    "arriving",  # nodes on order / fleet
    "cost_after",  # price of the fleet after the change / that of all nodes
    "log_since_change",  # .1 ln(1 + time since nodes were last ordered or given up, s)
)

FLEET_NAMES = (
    "hour_sin",
    "hour_cos",
    "weekday_sin",
    "weekday_cos",
    "in_service",  # capacity of nodes that are up
    "on_order",  # nodes on order / all nodes
    "down",  # nodes that are down / all nodes
    "cost",  # price of what is paid for now / that of all nodes
    "fragmentation",  # milli-GPUs that typical pods cannot use / all free ones
    "busiest_service",  # highest use ahead among services, at most 4
    "missed",  # mean over services of the share of requests missed in the last tick
    "tenant_excess",  # of the tenant furthest above its entitlement
)

TENANT_NAMES = (
    "share",  # dominant share of the cluster
    "entitled",  # by quota, or by weight where there are no quotas
    "excess",  # the difference
    "waiting",  # capacity that its waiting jobs ask for
    "attained",  # service so far, as a share of the capacity so far
)

RACK_NAMES = (
    "in_service",  # nodes that are up / its nodes
    "free",  # free share of those
    "whole_free",  # GPUs that are entirely free / its GPUs
    "largest",  # entirely free GPUs of the node that has most of them / GPUs of a node
    "failures",  # .5 ln(1 + failures of its worst node)
    "fragmentation",  # milli-GPUs that typical pods cannot use / its GPUs
)

_F = np.float32
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
    """Describe the services, and mask whether each may have a replica fewer or more.

    Parameters
    ----------
    row : ROW_DTYPE record
    nodes : int32 [>= 1]
        Scratch.
    mask : int8 [2 S]
        Filled: one fewer [S], one more [S].
    out : float32 [S, len(SERVICE_NAMES)]
        Rows of services that exist are filled.

    Returns
    -------
    int
        Legal changes.
    """
    S = out.shape[0]
    legal = 0
    for i in range(min(S, row.num_services)):
        s = np.int64(i)
        own = service(row, s)
        j = np.int64(own.job)
        ask = request(row, j)
        now = np.int64(job(row, j).workers_now)
        fewer = row.done == 0 and service_reason(row, s, now - 1) == Reason.OK
        more = row.done == 0 and service_reason(row, s, now + 1) == Reason.OK
        more = more and has_room_for_one(row, j, nodes)
        mask[i] = np.int8(fewer)
        mask[S + i] = np.int8(more)
        legal += np.int64(fewer) + np.int64(more)
        rate, ahead = np.float64(own.rate_rps), forecast_rps(row, s)
        most = np.float64(max(ask.max_workers, 1))
        higher = max(rate, ahead)
        out[i, 0] = _F(0.1) * fast_log(_F(1.0 + rate))
        out[i, 1] = _F(_use(rate, np.float64(own.ready), own))
        out[i, 2] = _F(_use(ahead, np.float64(now), own))
        out[i, 3] = _F(_use(higher, np.float64(now - 1), own))
        out[i, 4] = _F(_use(higher, np.float64(now + 1), own))
        out[i, 5] = _F(max(now - own.ready, 0) / max(now, 1))
        out[i, 6] = _F(0.2) * fast_log(_F(1.0 + now))
        out[i, 7] = _F((now - ask.min_workers) / most)
        out[i, 8] = _F((most - now) / most)
        out[i, 9] = _F(0.5) * fast_log(_F(1.0 + own.latency_ms / own.objective_ms))
        out[i, 10] = _F(0.1) * fast_log(_F(1.0 + own.backlog))
        out[i, 11] = _F(own.missed_share)
        out[i, 12] = _F(_breaker(own))
        out[i, 13] = log_seconds(row.now_ms - max(own.scaled_ms, request(row, 0).submit_ms))
        out[i, 14] = _F(job(row, j).units / max(row.nominal_units, 1))
    return legal


@small_kernel
def _step_of(index, steps):
    """Nodes that a place of the capacity set stands for: -1 .. -steps, then 1 .. steps."""
    return np.int64(-1 - index) if index < steps else np.int64(index - steps + 1)


@kernel
def encode_capacity(row, mask, out):
    """Describe changes of the fleet, and mask which are legal.

    Parameters
    ----------
    row : ROW_DTYPE record
    mask : int8 [2 c]
        Filled: give up 1 .. c nodes, order 1 .. c nodes.
    out : float32 [2 c, len(CAPACITY_NAMES)]
        Filled.

    Returns
    -------
    int
        Legal changes.
    """
    steps = out.shape[0] // 2
    held, waiting = fleet_demand(row)
    fleet = count_fleet(row)
    unit = plan(row, np.int64(0)).unit_capacity
    busiest = _busiest(row)
    prices = max(row.all_prices_milli, np.int64(1))
    mean_price = row.all_prices_milli / max(row.num_nodes, 1)
    legal = 0
    for i in range(2 * steps):
        delta = _step_of(i, steps)
        ok = row.done == 0 and fleet_reason(row, delta) == Reason.OK
        mask[i] = np.int8(ok)
        legal += np.int64(ok)
        capacity = max((fleet + delta) * unit, 1.0)
        out[i, 0] = _F(delta / max(fleet, 1))
        out[i, 1] = _F(min(held / capacity, _MOST))
        out[i, 2] = _F(min((held + waiting) / capacity, _MOST))
        out[i, 3] = _F(busiest)
        out[i, 4] = _F(row.arrival_len / max(fleet, 1))
        cost = row.cost_rate_milli + delta * mean_price
        out[i, 5] = _F(cost / prices)
        out[i, 6] = log_seconds(row.now_ms - max(row.scaled_ms, request(row, 0).submit_ms))
    return legal


@kernel
def survey_tenants(row, shares):
    """Dominant and entitled share of every tenant, float64 [tenants, 2].

    Entitled is its quota as a share of the cluster; where there is none, its weight as a share of
    all weights.
    """
    weights = 0.0
    for t in range(row.num_tenants):
        weights += tenant(row, t).weight if tenant(row, t).weight > 0.0 else 1.0
    capacity = max(row.nominal_units, 1)
    for t in range(row.num_tenants):
        own = tenant(row, t)
        shares[t, 0] = dominant_share(row, t)
        if own.quota_units > 0:
            shares[t, 1] = own.quota_units / capacity
        else:
            shares[t, 1] = (own.weight if own.weight > 0.0 else 1.0) / weights


@kernel
def encode_tenants(row, shares, out):
    """Describe the tenants, float32 [T, len(TENANT_NAMES)]; those beyond T are not shown.

    ``shares`` is from :func:`survey_tenants`.
    """
    capacity = max(row.nominal_units, 1)
    shown = min(row.num_tenants, out.shape[0])
    elapsed = max(row.capacity_unit_ms, np.int64(1))
    for t in range(shown):
        out[t, 0] = _F(shares[t, 0])
        out[t, 1] = _F(shares[t, 1])
        out[t, 2] = _F(shares[t, 0] - shares[t, 1])
        out[t, 3] = _F(0.0)
        out[t, 4] = _F(tenant(row, t).attained_unit_ms / elapsed)
    for q in range(row.queue_len):
        j = queue(row, q).job
        t = np.int64(request(row, j).tenant)
        if t < shown:
            out[t, 3] += _F(job(row, j).units / capacity)
    for t in range(shown):
        out[t, 3] = min(out[t, 3], _F(_MOST))


@kernel
def encode_nodes(row, sums, fleet, out):
    """Describe racks, and of the fleet what has to be counted node by node.

    Nodes of racks beyond R are not shown, but counted.

    Parameters
    ----------
    row : ROW_DTYPE record
    sums : float64 [R, len(RACK_NAMES) + 4]
        Scratch: the numerators, then nodes, capacity of those up, GPUs, GPUs of the largest node.
    fleet : float32 [len(FLEET_NAMES)]
        ``down`` and ``fragmentation`` are filled; of no length where it is not shown.
    out : float32 [R, len(RACK_NAMES)]
        Filled.
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
        own[4] = max(own[4], np.float64(here.failures))
        own[6] += 1.0
        own[8] += here.gpus
        own[9] = max(own[9], np.float64(here.gpus))
        if here.state != NodeCode.UP:
            continue
        own[0] += 1.0
        own[1] += here.gpu_free_milli if row.unit != 0 else here.cpu_free_milli
        own[2] += here.whole_free
        own[3] = max(own[3], np.float64(here.whole_free))
        own[5] += here.fragmentation
        own[7] += here.gpus * 1000 if row.unit != 0 else here.cpu_cap_milli
    for r in range(out.shape[0]):
        own = sums[r]
        gpus = max(own[8], 1.0)
        out[r, 0] = _F(own[0] / max(own[6], 1.0))
        out[r, 1] = _F(own[1] / max(own[7], 1.0))
        out[r, 2] = _F(own[2] / gpus)
        out[r, 3] = _F(own[3] / max(own[9], 1.0))
        out[r, 4] = _F(0.5) * fast_log(_F(1.0 + own[4]))
        out[r, 5] = _F(own[5] / (1000.0 * gpus))
    if fleet.shape[0] > 0:
        fleet[6] = _F(down / max(row.num_nodes, 1))
        fleet[8] = _F(min(wasted / max(row.free_units, 1), _MOST))


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
        excess = max(excess, shares[t, 0] - shares[t, 1])
    out[0] = _F(math.sin(hour))
    out[1] = _F(math.cos(hour))
    out[2] = _F(math.sin(week))
    out[3] = _F(math.cos(week))
    out[4] = _F(row.capacity_units / max(row.nominal_units, 1))
    out[5] = _F(row.arrival_len / max(row.num_nodes, 1))
    out[7] = _F(row.cost_rate_milli / max(row.all_prices_milli, np.int64(1)))
    out[9] = _F(_busiest(row))
    out[10] = _F(missed / max(row.num_services, 1))
    out[11] = _F(excess)
