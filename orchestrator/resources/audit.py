"""Invariants of links, device memory and what placements read, recomputed from scratch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from orchestrator.errors import InvariantError
from orchestrator.kernels.packing_state import TAGS
from orchestrator.kernels.state import ClusterState

__all__ = ["assert_links"]

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
            _check(e, f"bandwidth_free_mbps of node {n}", node["bandwidth_free_mbps"], free)
        for g in range(int(node["gpus"])):
            left = int(node["gpu_memory_mib"]) - int(memory[n, g])
            _check(e, f"free_memory_mib of {n}:{g}", state.device[e, n, g]["free_memory_mib"], left)
        found = state.tag[e, n]["workers"].tolist()
        _require(e, found == kinds[n].tolist(), f"kinds of workers on node {n} are {found}")
    for rack, link in enumerate(links):
        if link["capacity_mbps"] > 0:
            free = int(link["capacity_mbps"]) - int(link_traffic[rack])
            _check(e, f"free_mbps of the uplink of rack {rack}", link["free_mbps"], free)
    order = state.order[e, : len(nodes)]["node"].tolist()
    expected = sorted(
        range(len(nodes)), key=lambda n: (int(nodes[n]["spine"]), int(nodes[n]["rack"]), n)
    )
    _require(e, order == expected, f"the order of nodes is {order}, should be {expected}")


def _check(e: int, what: str, found: int, expected: int) -> None:
    _require(e, int(found) == expected, f"{what} is {found}, should be {expected}")
    _require(e, expected >= 0, f"{what} is negative: {expected}")
