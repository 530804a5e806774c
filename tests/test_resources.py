"""Resource managers say what the tables hold; contradictions are named when they are made."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from orchestrator.engine.records import never_fit, node_records
from orchestrator.errors import UnknownEntityError, ValidationError
from orchestrator.kernels.run import packing
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.state.codes import Placement, Reason, Topology
from orchestrator.kernels.state.records import REQUEST_DTYPE, UPLINK_DTYPE
from orchestrator.kernels.state.row import ClusterShape, allocate
from orchestrator.resources import GPUAllocator, MemoryManager, NetworkBandwidthManager
from orchestrator.types import NodeSpec
from tests.twins import kernel_calls


def _node(name: str, rack: int = 0, **more: int) -> NodeSpec:
    return NodeSpec(
        node_id=name,
        gpus=4,
        gpu_memory_gb=80.0,
        cpu_cores=32,
        memory_gb=256.0,
        network_bandwidth_gbps=10.0,
        gpu_topology="NVLink",
        rack=rack,
        **more,
    )


def _asks(count: int, **fields: int) -> np.ndarray:
    requests = np.zeros(count, REQUEST_DTYPE)
    requests["gpus_per_worker"], requests["gpu_milli"], requests["workers"] = 1, 1000, 1
    requests["duration_ms"] = requests["requested_ms"] = 1000
    for name, value in fields.items():
        requests[name] = value
    return requests


def test_views_follow_a_gang_that_comes_and_goes() -> None:
    nodes = (_node("a", 0, island_gpus=2), _node("b", 1, island_gpus=2))
    asks = _asks(1, workers=2, gpu_milli=500, gpu_memory_mib=20_480, memory_mib=1024)
    asks["bandwidth_mbps"] = 2500
    state = allocate(ClusterShape(envs=1, jobs=1, workers=2, nodes=2, devices=4, uplinks=2))
    entry.begin_episode(state.rows, 0, 0, node_records(nodes), asks)
    uplinks = np.zeros(2, UPLINK_DTYPE)
    uplinks["capacity_mbps"] = 20_000, 0
    packing.load_uplinks(state.rows, 0, uplinks)
    gpus, memory = GPUAllocator(state), MemoryManager(state)
    network = NetworkBandwidthManager(state)
    assert gpus.total().free == gpus.total().capacity == 8000
    assert gpus.why_not(0) == Reason.OK
    placed = np.array([0, 1], np.int32)
    assert kernel_calls.reserve_gang(state.rows, 0, 0, placed, 2, int(Placement.FIRST_FIT))
    assert gpus.total().used == 1000
    assert [device.free_milli for device in gpus.devices(0)] == [500, 1000, 1000, 1000]
    assert [device.island for device in gpus.devices(0)] == [0, 0, 1, 1]
    assert (gpus.whole_free(0), gpus.node(1).used) == (3, 500)
    assert (memory.total().used, memory.node(0).used) == (2048, 1024)
    assert memory.device(0, 0).free == 80 * 1024 - 20_480
    assert (network.node(0).used, network.uplink(0).used) == (2500, 2500)
    assert network.uplink(1).capacity == 0  # no limit, and no account
    tightest = network.tightest()
    assert tightest is not None
    assert tightest.share == 0.25
    kernel_calls.release_gang(state.rows, 0, 0)
    assert (gpus.total().used, memory.total().used, network.node(0).used) == (0, 0, 0)
    with pytest.raises(UnknownEntityError, match="no node 2"):
        gpus.node(2)


def test_a_manager_explains_why_a_job_waits() -> None:
    asks = _asks(2, workers=2, gpus_per_worker=4)
    asks["topology"] = 0, int(Topology.NODE)
    state = allocate(ClusterShape(envs=1, jobs=2, workers=2, nodes=2, devices=4))
    entry.begin_episode(state.rows, 0, 0, node_records((_node("a"), _node("b"))), asks)
    gpus = GPUAllocator(state)
    assert gpus.explain(0) == "it fits"
    assert gpus.why_not(1) == Reason.TOPOLOGY
    assert "domain" in gpus.explain(1)


@pytest.mark.parametrize(("islands", "gpus"), [(3, 4), (8, 4), (2, 0)])
def test_islands_divide_the_gpus(islands: int, gpus: int) -> None:
    with pytest.raises(ValidationError, match="island_gpus"):
        NodeSpec("a", gpus, 80.0, 32, 256.0, 10.0, "NVLink", island_gpus=islands)


def test_a_rack_has_one_spine() -> None:
    with pytest.raises(ValidationError, match=r"'rack'.*under spine 1"):
        node_records((_node("a", 3), _node("b", 3, spine=1)))


def test_what_never_fits() -> None:
    nodes = (_node("a", 0), _node("b", 1, island_gpus=2))
    asks = _asks(6, workers=2)
    asks["topology"] = [*range(5), int(Topology.RACK)]
    asks["gpus_per_worker"][5] = 3
    # Islands of 2 GPUs hold two workers; no rack has two nodes.
    assert never_fit(asks, nodes).tolist() == [False, False, False, False, False, True]
    assert never_fit(asks[4:5], nodes[:1]).tolist() == [False]  # NVLink: one island of all
    bare = replace(nodes[0], gpu_topology="PCIe")
    assert never_fit(asks[4:5], (bare,)).tolist() == [True]  # no islands there
