"""Nothing is over-allocated, and every holding is somebody's."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import InvariantError
from orchestrator.invariants.view import ENDED, PAID, PLACED, WHOLE, View, among
from orchestrator.kernels.state.codes import NodeCode, QuotaMode
from orchestrator.kernels.state.records import TAGS
from orchestrator.kernels.state.row import ClusterState

__all__ = ["assert_links", "check_capacity", "check_holdings", "check_orders", "check_tenants"]


_WHOLE = 1000


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
    node_traffic = np.zeros(len(nodes), np.int64)
    link_traffic = np.zeros(len(links), np.int64)
    memory = np.zeros((len(nodes), state.device.shape[2]), np.int64)
    kinds = np.zeros((len(nodes), TAGS), np.int64)
    for j in placed:
        ask = state.request[e, j]
        where = state.worker[e, j, : state.job[e, j]["workers_now"]]
        racks = nodes["rack"][where["node"]]
        for worker, rack in zip(where, racks, strict=True):
            n, mask = int(worker["node"]), int(worker["devices"])
            for g in range(mask.bit_length()):
                memory[n, g] += int(ask["gpu_memory_mib"]) * (mask >> g & 1)
            if ask["gpus_per_worker"] > 0:
                shared = ask["gpu_milli"] < _WHOLE
                kinds[n, 0 if shared else min(int(ask["gpus_per_worker"]), TAGS - 1)] += 1
            if len(set(where["node"].tolist())) > 1:
                node_traffic[n] += ask["bandwidth_mbps"]
            if len(set(racks.tolist())) > 1 and rack < len(links):
                link_traffic[rack] += ask["bandwidth_mbps"]
    for n, node in enumerate(nodes):
        free = int(node["bandwidth_mbps"]) - int(node_traffic[n])
        if node["bandwidth_mbps"] > 0:
            _check_links(e, f"bandwidth_free_mbps of node {n}", node["bandwidth_free_mbps"], free)
        for g in range(int(node["gpus"])):
            left = int(node["gpu_memory_mib"]) - int(memory[n, g])
            _check_links(
                e, f"free_memory_mib of {n}:{g}", state.device[e, n, g]["free_memory_mib"], left
            )
        found = state.tag[e, n]["workers"].tolist()
        _require(e, found == kinds[n].tolist(), f"kinds of workers on node {n} are {found}")
    for rack, link in enumerate(links):
        if link["capacity_mbps"] > 0:
            free = int(link["capacity_mbps"]) - int(link_traffic[rack])
            _check_links(e, f"free_mbps of the uplink of rack {rack}", link["free_mbps"], free)
    order = state.order[e, : len(nodes)]["node"].tolist()
    expected = sorted(
        range(len(nodes)), key=lambda n: (int(nodes[n]["spine"]), int(nodes[n]["rack"]), n)
    )
    _require(e, order == expected, f"the order of nodes is {order}, should be {expected}")


def _check_links(e: int, what: str, found: int, expected: int) -> None:
    _require(e, int(found) == expected, f"{what} is {found}, should be {expected}")
    _require(e, expected >= 0, f"{what} is negative: {expected}")


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
    for j in v.jobs_in(PLACED):
        ask = v.request[j]
        for w in range(int(v.job[j]["workers_now"])):
            n, mask = int(v.worker[j, w]["node"]), int(v.worker[j, w]["devices"])
            v.require(0 <= n < nodes, f"worker {w} of job {j} is on node {n}, there are {nodes}")
            up = v.node[n]["state"] in (NodeCode.UP, NodeCode.DRAINING)
            v.require(up, f"worker {w} of job {j} is on node {n}, which is not up")
            devices = list(_devices_of(mask))
            what = f"GPUs of worker {w} of job {j} on node {n}"
            v.require_equal(len(devices), int(ask["gpus_per_worker"]), what)
            v.require(not mask >> int(v.node[n]["gpus"]), f"{what} are {devices}: not all exist")
            for g in devices:
                shares[n, g] += ask["gpu_milli"]
            cpu[n] += ask["cpu_milli"]
            memory[n] += ask["memory_mib"]
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
    for j in np.flatnonzero((units != v.job["units"]) & ~ended):
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
    for t, owner in enumerate(v.tenant):
        for name, total in zip(held, sums[:, t], strict=True):
            v.require_equal(int(owner[name]), int(total), f"{name} of tenant {t}")
        if v.row["quota_mode"] == QuotaMode.HARD and t not in excused:
            within = owner["used_units"] <= owner["quota_units"]
            v.require(bool(within), f"tenant {t} holds more than its quota")


def check_orders(v: View) -> None:
    """Nodes on order wait in the order of their arrival; what is here or ordered is paid for."""
    codes = v.node["state"]
    v.require_all(
        among(codes, tuple(NodeCode)), lambda n: f"node {n} has the unknown state {codes[n]}"
    )
    ordered = [int(n) for n in np.flatnonzero(v.node["state"] == NodeCode.PROVISIONING)]
    v.require_equal(sorted(v.on_order), ordered, "nodes on order")
    times = [int(v.node[n]["arrive_ms"]) for n in v.on_order]
    v.require(times == sorted(times), f"nodes on order are not sorted by arrival: {times}")
    v.require(not times or times[0] >= v.row["now_ms"], f"a node should have arrived at {times}")
    rate = int(v.node["price_milli"][among(v.node["state"], PAID)].sum())
    v.require_equal(int(v.row["cost_rate_milli"]), rate, "cost_rate_milli")
