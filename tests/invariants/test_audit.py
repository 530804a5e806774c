"""The audit of links, device memory, kinds and order: silent on healthy state, else precise."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from orchestrator.errors import InvariantError
from orchestrator.invariants.holdings import assert_links
from orchestrator.kernels.run import packing
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.state.codes import NodeCode, Placement
from orchestrator.kernels.state.records import NODE_DTYPE, REQUEST_DTYPE, UPLINK_DTYPE
from orchestrator.kernels.state.row import ClusterShape, ClusterState, allocate
from tests.twins import kernel_calls


@pytest.fixture
def state() -> ClusterState:
    """A gang of two that spans two racks, on shared GPUs."""
    nodes = np.zeros(2, NODE_DTYPE)
    nodes["gpus"], nodes["gpu_memory_mib"], nodes["bandwidth_mbps"] = 2, 1000, 5000
    nodes["rack"], nodes["state"] = (1, 0), NodeCode.UP
    requests = np.zeros(1, REQUEST_DTYPE)
    requests["workers"], requests["gpus_per_worker"], requests["gpu_milli"] = 2, 1, 500
    requests["gpu_memory_mib"], requests["bandwidth_mbps"] = 300, 700
    requests["duration_ms"] = requests["requested_ms"] = 1000
    state = allocate(ClusterShape(envs=1, jobs=1, workers=2, nodes=2, devices=2, uplinks=2))
    entry.begin_episode(state.rows, 0, 0, nodes, requests)
    uplinks = np.zeros(2, UPLINK_DTYPE)
    uplinks["capacity_mbps"] = 9000
    packing.load_uplinks(state.rows, 0, uplinks)
    where = np.array([0, 1], np.int32)
    assert kernel_calls.reserve_gang(state.rows, 0, 0, where, 2, int(Placement.FIRST_FIT))
    return state


def test_healthy_state_passes(state: ClusterState) -> None:
    assert_links(state, 0, [0])
    kernel_calls.release_gang(state.rows, 0, 0)
    assert_links(state, 0, [])


def _set(table: str, index: tuple[int, ...], field: str, value: int) -> Callable[..., None]:
    def change(state: ClusterState) -> None:
        getattr(state, table)[index][field] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            _set("node", (0, 0), "bandwidth_free_mbps", 5000),
            "bandwidth_free_mbps of node 0 is 5000",
        ),
        (_set("uplink", (0, 1), "free_mbps", 9000), "uplink of rack 1 is 9000, should be 8300"),
        (_set("device", (0, 1, 0), "free_memory_mib", 1000), "free_memory_mib of 1:0 is 1000"),
        (_set("tag", (0, 0, 0), "workers", 2), "kinds of workers on node 0"),
        (_set("order", (0, 0), "node", 0), "the order of nodes is"),
        (_set("node", (0, 1), "bandwidth_mbps", 600), "bandwidth_free_mbps of node 1"),
    ],
)
def test_what_is_broken_is_named(
    state: ClusterState, change: Callable[..., None], message: str
) -> None:
    change(state)
    with pytest.raises(InvariantError, match=message):
        assert_links(state, 0, [0])
