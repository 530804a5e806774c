"""Invariants of resources: what is free is what nobody holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.invariants.view import ENDED, PAID, PLACED, WHOLE, View
from orchestrator.kernels.codes import NodeCode, QuotaMode

__all__ = ["check_capacity", "check_holdings", "check_orders", "check_tenants"]


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
    for n, host in enumerate(v.node):
        _check_node(v, n, host, shares[n], (cpu[n], memory[n], workers[n]))


def _check_node(
    v: View, n: int, host: Any, shares: NDArray[np.int64], held: tuple[int, int, int]
) -> None:
    free = v.device[n]["free_milli"]
    gpus = int(host["gpus"])
    for g in range(len(free)):
        capacity = WHOLE if g < gpus else 0
        v.require(
            0 <= free[g] <= capacity,
            f"device {g} of node {n} has {free[g]} of {capacity} milli free",
        )
        v.require_equal(int(free[g]), capacity - int(shares[g]), f"free share of {n}:{g}")
    cpu, memory, workers = held
    expected = {
        "cpu_free_milli": int(host["cpu_cap_milli"]) - int(cpu),
        "memory_free_mib": int(host["memory_cap_mib"]) - int(memory),
        "gpu_free_milli": int(free[:gpus].sum()),
        "whole_free": int((free[:gpus] == WHOLE).sum()),
        "workers": int(workers),
    }
    for name, value in expected.items():
        v.require_equal(int(host[name]), value, f"{name} of node {n}")
        v.require(value >= 0, f"{name} of node {n} is negative: {value}")
    if host["state"] == NodeCode.DRAINING:
        v.require(workers > 0, f"node {n} is still draining, but nobody is on it")


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
    placed = np.isin(v.job["state"], PLACED)
    units = units * np.where(placed, v.job["workers_now"], ask["workers"]).astype(np.int64)
    ended = np.isin(v.job["state"], ENDED)  # they keep what they had last
    for j in np.flatnonzero((units != v.job["units"]) & ~ended):
        v.require_equal(int(v.job[j]["units"]), int(units[j]), f"units of job {j}")


def check_tenants(v: View) -> None:
    """What a tenant's account says is what its jobs hold."""
    started = (v.job["first_start_ms"] >= 0) & ~np.isin(v.job["state"], ENDED)
    for t, owner in enumerate(v.tenant):
        mine = v.request["tenant"] == t
        now = np.where(mine, v.job["workers_now"], 0).astype(np.int64)
        gpus = now * v.request["gpus_per_worker"] * v.request["gpu_milli"]
        cpus = now * v.request["cpu_milli"]
        expected = {
            "used_units": gpus if v.row["unit"] else cpus,
            "used_gpu_milli": gpus,
            "used_cpu_milli": cpus,
            "used_memory_mib": now * v.request["memory_mib"],
            "storage_mib": np.where(mine & started, v.request["storage_mib"], 0),
        }
        for name, values in expected.items():
            v.require_equal(int(owner[name]), int(values.sum()), f"{name} of tenant {t}")
        if v.row["quota_mode"] == QuotaMode.HARD:
            within = owner["used_units"] <= owner["quota_units"]
            v.require(bool(within), f"tenant {t} holds more than its quota")


def check_orders(v: View) -> None:
    """Nodes on order wait in the order of their arrival; what is here or ordered is paid for."""
    for n, code in enumerate(v.node["state"]):
        v.require(code in tuple(NodeCode), f"node {n} has the unknown state {code}")
    ordered = [int(n) for n in np.flatnonzero(v.node["state"] == NodeCode.PROVISIONING)]
    v.require_equal(sorted(v.on_order), ordered, "nodes on order")
    times = [int(v.node[n]["arrive_ms"]) for n in v.on_order]
    v.require(times == sorted(times), f"nodes on order are not sorted by arrival: {times}")
    v.require(not times or times[0] >= v.row["now_ms"], f"a node should have arrived at {times}")
    rate = int(v.node["price_milli"][np.isin(v.node["state"], PAID)].sum())
    v.require_equal(int(v.row["cost_rate_milli"]), rate, "cost_rate_milli")
