"""Nothing is over-allocated, and every holding is somebody's."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import InvariantError
from orchestrator.invariants.view import ENDED, PAID, PLACED, WHOLE, View, among
from orchestrator.kernels.state.codes import NodeCode, QuotaMode
from orchestrator.kernels.state.records import TAGS
from orchestrator.kernels.state.row import ClusterState

__all__ = ["assert_links", "check_capacity", "check_holdings", "check_orders", "check_tenants"]


_NODE_CODES = tuple(NodeCode)
_THERE = (int(NodeCode.UP), int(NodeCode.DRAINING))


def _require(e: int, ok: bool, message: str) -> None:
    if not ok:
        raise InvariantError(f"row {e}: {message}")


def assert_links(state: ClusterState, e: int, placed: Sequence[int]) -> None:
    """Check bandwidth, device memory, kinds of workers and the order of nodes.

    Parameters
    ----------
    state : ClusterState
        Cluster state.
    e : int
        Row.
    placed : sequence of int
        Jobs that hold resources.

    Raises
    ------
    InvariantError
        Saying what is wrong, of which entity, what it is and what it should be.
    """
    row = state.rows[e]
    nodes = state.node[e, : row["num_nodes"]]
    links = state.uplink[e, : row["num_uplinks"]]
    node_traffic, link_traffic, memory, kinds = _held(state, e, placed)
    most = nodes["bandwidth_mbps"]
    found = np.where(most > 0, nodes["bandwidth_free_mbps"], 0)
    free = np.where(most > 0, most - node_traffic, 0)
    _check_links(e, lambda n: f"bandwidth_free_mbps of node {n}", found, free)
    devices = state.device[e, : len(nodes)]["free_memory_mib"]
    there = np.arange(memory.shape[1]) < nodes["gpus"][:, None]
    found = np.where(there, devices, 0).ravel()
    free = np.where(there, nodes["gpu_memory_mib"][:, None] - memory, 0).ravel()
    wide = memory.shape[1]
    _check_links(e, lambda k: f"free_memory_mib of {k // wide}:{k % wide}", found, free)
    workers = state.tag[e, : len(nodes)]["workers"]
    for n in (workers != kinds).any(1).nonzero()[0]:
        _require(e, False, f"kinds of workers on node {n} are {workers[n].tolist()}")
    most = links["capacity_mbps"]
    found = np.where(most > 0, links["free_mbps"], 0)
    free = np.where(most > 0, most - link_traffic, 0)
    _check_links(e, lambda rack: f"free_mbps of the uplink of rack {rack}", found, free)
    order = state.order[e, : len(nodes)]["node"].tolist()
    keys = list(zip(nodes["spine"].tolist(), nodes["rack"].tolist(), strict=True))
    expected = sorted(range(len(nodes)), key=lambda n: (keys[n], n))
    _require(e, order == expected, f"the order of nodes is {order}, should be {expected}")


def _held(state: ClusterState, e: int, placed: Sequence[int]) -> tuple[NDArray[np.int64], ...]:
    """Traffic by node and by uplink, device memory, and workers by kind of jobs that are placed."""
    nodes = state.node[e, : state.rows[e]["num_nodes"]]
    links = int(state.rows[e]["num_uplinks"])
    node_traffic = np.zeros(len(nodes), np.int64)
    link_traffic = np.zeros(links, np.int64)
    memory = np.zeros((len(nodes), state.device.shape[2]), np.int64)
    kinds = np.zeros((len(nodes), TAGS), np.int64)
    rack_of = nodes["rack"].tolist()
    for j in placed:
        ask = state.request[e, j]
        where = state.worker[e, j, : state.job[e, j]["workers_now"]]
        on = where["node"].tolist()
        racks = [rack_of[n] for n in on]
        traffic, mib, gpus = (
            int(ask[name]) for name in ("bandwidth_mbps", "gpu_memory_mib", "gpus_per_worker")
        )
        kind = 0 if ask["gpu_milli"] < WHOLE else min(gpus, TAGS - 1)
        for n, mask, rack in zip(on, where["devices"].tolist(), racks, strict=True):
            for g in _devices_of(mask):
                memory[n, g] += mib
            if gpus > 0:
                kinds[n, kind] += 1
            if len(set(on)) > 1:
                node_traffic[n] += traffic
            if len(set(racks)) > 1 and rack < links:
                link_traffic[rack] += traffic
    return node_traffic, link_traffic, memory, kinds


def _check_links(
    e: int, what: Callable[[int], str], found: NDArray[np.int64], expected: NDArray[np.int64]
) -> None:
    for k in (found != expected).nonzero()[0]:
        _require(e, False, f"{what(int(k))} is {found[k]}, should be {expected[k]}")
    for k in (expected < 0).nonzero()[0]:
        _require(e, False, f"{what(int(k))} is negative: {expected[k]}")


def _devices_of(mask: int) -> Iterator[int]:
    g = 0
    while mask >> g:
        if (mask >> g) & 1:
            yield g
        g += 1


def check_holdings(v: View) -> None:
    """What is free on each node and device is its capacity less what placed workers hold."""
    nodes = len(v.node)
    cpu, memory, workers = (np.zeros(nodes, np.int64) for _ in range(3))
    shares = np.zeros(v.device.shape, np.int64)
    states, gpus = v.node["state"].tolist(), v.node["gpus"].tolist()
    for j in v.jobs_in(PLACED):
        ask, where = v.request[j], v.worker[j, : int(v.job[j]["workers_now"])]
        milli, per_worker, cpu_milli, mib = (
            int(ask[name]) for name in ("gpu_milli", "gpus_per_worker", "cpu_milli", "memory_mib")
        )
        places = zip(where["node"].tolist(), where["devices"].tolist(), strict=True)
        for w, (n, mask) in enumerate(places):
            v.require(0 <= n < nodes, f"worker {w} of job {j} is on node {n}, there are {nodes}")
            up = states[n] in _THERE
            v.require(up, f"worker {w} of job {j} is on node {n}, which is not up")
            devices = list(_devices_of(mask))
            what = f"GPUs of worker {w} of job {j} on node {n}"
            v.require_equal(len(devices), per_worker, what)
            v.require(not mask >> gpus[n], f"{what} are {devices}: not all exist")
            for g in devices:
                shares[n, g] += milli
            cpu[n] += cpu_milli
            memory[n] += mib
            workers[n] += 1
    _check_devices(v, shares)
    free, whole = v.device["free_milli"], v.device["free_milli"] == WHOLE
    there = np.arange(v.device.shape[1]) < v.node["gpus"][:, None]
    expected = {
        "cpu_free_milli": v.node["cpu_cap_milli"] - cpu,
        "memory_free_mib": v.node["memory_cap_mib"] - memory,
        "gpu_free_milli": np.where(there, free, 0).sum(1),
        "whole_free": (there & whole).sum(1),
        "workers": workers,
    }
    for name, values in expected.items():
        _require_nodes(v, name, values)
    v.require_all(
        (v.node["state"] != NodeCode.DRAINING) | (workers > 0),
        lambda n: f"node {n} is still draining, but nobody is on it",
    )


def _require_nodes(v: View, name: str, values: NDArray[np.int64]) -> None:
    """What is stored of every node is what it should be, and that is not negative."""
    found = v.node[name]
    v.require_all(
        found == values, lambda n: f"{name} of node {n} is {found[n]}, should be {values[n]}"
    )
    v.require_all(values >= 0, lambda n: f"{name} of node {n} is negative: {values[n]}")


def _check_devices(v: View, shares: NDArray[np.int64]) -> None:
    """Devices that exist have what their workers left, and the others nothing."""
    count = v.device.shape[1]
    free = v.device["free_milli"].ravel()
    there = np.arange(count) < v.node["gpus"][:, None]
    capacity = np.where(there, WHOLE, 0).ravel()
    left = capacity - shares.ravel()
    v.require_all(
        (free >= 0) & (free <= capacity),
        lambda k: (
            f"device {k % count} of node {k // count} has {free[k]} of {capacity[k]} milli free"
        ),
    )
    v.require_all(
        free == left,
        lambda k: f"free share of {k // count}:{k % count} is {free[k]}, should be {left[k]}",
    )


def check_capacity(v: View) -> None:
    """Capacity, free or not, counts on nodes that are up."""
    gpus = v.node["gpus"].astype(np.int64)
    by_gpu = bool(gpus.sum() > 0)
    v.require_equal(bool(v.row["unit"]), by_gpu, "unit")
    capacity = gpus * WHOLE if by_gpu else v.node["cpu_cap_milli"]
    free = v.node["gpu_free_milli"] if by_gpu else v.node["cpu_free_milli"]
    up = v.node["state"] == NodeCode.UP
    v.require_equal(int(v.row["capacity_units"]), int(capacity[up].sum()), "capacity_units")
    v.require_equal(int(v.row["free_units"]), int(free[up].sum()), "free_units")
    ask = v.request
    units = (
        ask["gpus_per_worker"].astype(np.int64) * ask["gpu_milli"] if by_gpu else ask["cpu_milli"]
    )
    placed = among(v.job["state"], PLACED)
    units = units * np.where(placed, v.job["workers_now"], ask["workers"]).astype(np.int64)
    ended = among(v.job["state"], ENDED)  # they keep what they had last
    for j in ((units != v.job["units"]) & ~ended).nonzero()[0]:
        v.require_equal(int(v.job[j]["units"]), int(units[j]), f"units of job {j}")


def check_tenants(v: View, excused: Collection[int] = ()) -> None:
    """What a tenant's account says is what its jobs hold; who is excused may be over its quota."""
    started = (v.job["first_start_ms"] >= 0) & ~among(v.job["state"], ENDED)
    ask, now = v.request, v.job["workers_now"].astype(np.int64)
    gpus = now * ask["gpus_per_worker"] * ask["gpu_milli"]
    cpus = now * ask["cpu_milli"]
    held = {
        "used_units": gpus if v.row["unit"] else cpus,
        "used_gpu_milli": gpus,
        "used_cpu_milli": cpus,
        "used_memory_mib": now * ask["memory_mib"],
        "storage_mib": np.where(started, ask["storage_mib"], 0),
    }
    theirs = ask["tenant"][:, None] == np.arange(len(v.tenant))
    sums = np.stack(list(held.values())).astype(np.int64) @ theirs
    for name, totals in zip(held, sums, strict=True):
        found = v.tenant[name]
        for t in (found != totals).nonzero()[0]:
            v.require_equal(int(found[t]), int(totals[t]), f"{name} of tenant {t}")
    if v.row["quota_mode"] == QuotaMode.HARD:
        for t in (v.tenant["used_units"] > v.tenant["quota_units"]).nonzero()[0]:
            v.require(int(t) in excused, f"tenant {t} holds more than its quota")


def check_orders(v: View) -> None:
    """Nodes on order wait in the order of their arrival; what is here or ordered is paid for."""
    codes = v.node["state"]
    v.require_all(among(codes, _NODE_CODES), lambda n: f"node {n} has the unknown state {codes[n]}")
    ordered = [int(n) for n in (v.node["state"] == NodeCode.PROVISIONING).nonzero()[0]]
    v.require_equal(sorted(v.on_order), ordered, "nodes on order")
    times = [int(v.node[n]["arrive_ms"]) for n in v.on_order]
    v.require(times == sorted(times), f"nodes on order are not sorted by arrival: {times}")
    v.require(not times or times[0] >= v.row["now_ms"], f"a node should have arrived at {times}")
    rate = int(v.node["price_milli"][among(v.node["state"], PAID)].sum())
    v.require_equal(int(v.row["cost_rate_milli"]), rate, "cost_rate_milli")
