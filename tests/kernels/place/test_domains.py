"""Topology domains, bandwidth and GPU memory: what is promised is delivered, and given back."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.kernels.run import packing
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.state.codes import NodeCode, Placement, Reason, Topology
from orchestrator.kernels.state.records import (
    MEMO_TABLES,
    NODE_DTYPE,
    REQUEST_DTYPE,
    TABLES,
    UPLINK_DTYPE,
)
from orchestrator.kernels.state.row import ClusterShape, ClusterState, allocate
from tests.naive.cluster import plain
from tests.naive.placing import Fabric, Host, in_domain, most_placeable
from tests.twins import kernel_calls

pytestmark = pytest.mark.property

_WORKERS, _NODES, _DEVICES, _JOBS = 3, 4, 4, 8
_NODE = st.fixed_dictionaries(
    {
        "gpus": st.sampled_from([4, 4, 2, 0]),
        "cpu_cap_milli": st.sampled_from([8000, 3000]),
        "memory_cap_mib": st.just(65_536),
        "gpu_memory_mib": st.sampled_from([16_384, 81_920]),
        "bandwidth_mbps": st.sampled_from([0, 1000, 2000, 5000]),
        "rack": st.integers(0, 2),
        "island": st.sampled_from([0, 2]),
    }
)
_JOB = st.fixed_dictionaries(
    {
        "workers": st.sampled_from([1, 2, 2, 3]),
        "gpus_per_worker": st.sampled_from([1, 1, 2, 4, 0]),
        "gpu_milli": st.sampled_from([1000, 1000, 500, 300]),
        "gpu_memory_mib": st.sampled_from([0, 0, 8000, 40_000]),
        "cpu_milli": st.sampled_from([500, 1000, 3000]),
        "bandwidth_mbps": st.sampled_from([0, 0, 700, 1000, 2500]),
        "topology": st.sampled_from([*Topology, Topology.ANY]).map(int),
        "elastic": st.sampled_from([0, 0, 1]),
    }
)


@dataclass(frozen=True)
class _Stage:
    state: ClusterState
    asks: list[Any]
    fabric: Fabric
    placed: dict[int, tuple[int, ...]]

    def hosts(self) -> list[Host]:
        seen = self.state.device[0]
        hosts = []
        for n, node in enumerate(self.state.node[0]):
            free = seen[n, : node["gpus"]]
            up = node["state"] == NodeCode.UP
            cpu, memory = int(node["cpu_free_milli"]), int(node["memory_free_mib"])
            host = Host(
                up, 0, cpu, memory, free["free_milli"].tolist(), int(node["gpu_memory_mib"])
            )
            host.memories = free["free_memory_mib"].tolist()
            hosts.append(host)
        return hosts

    def everything(self) -> dict[str, bytes]:
        names = [name for name in TABLES if name != "worker"]
        return {name: getattr(self.state, name).tobytes() for name in ("rows", *names)}

    def place(self, j: int, generator: int) -> bool:
        """Place a job as the kernels like, check it, and reserve it."""
        ask = self.asks[j]
        buffer = np.zeros(_WORKERS, np.int32)
        most = most_placeable(ask, self.hosts(), self.fabric)
        least = ask.min_workers if ask.elastic else ask.workers
        assert entry.fits(self.state.rows, 0, j) == (most >= least)
        reason = kernel_calls.why_not(self.state.rows, 0, j)
        assert (reason == Reason.OK) == (most >= least)
        workers = kernel_calls.place_gang(self.state.rows, 0, j, generator, buffer)
        assert workers == (most if most >= least else 0)
        if workers == 0:
            return False
        nodes = buffer[:workers].tolist()
        counts = tuple(nodes.count(n) for n in range(len(self.fabric.racks)))
        assert in_domain(ask, self.fabric, counts)
        assert self.fabric.carries(ask, counts)
        assert kernel_calls.reserve_gang(self.state.rows, 0, j, buffer, workers, generator)
        self.placed[j] = counts
        self.fabric.takes(ask, counts, 1)
        if ask.topology == Topology.ISLAND and ask.gpus_per_worker:
            size = self.fabric.islands[nodes[0]]
            used = [int(self.state.worker[0, j, w]["devices"]) for w in range(workers)]
            taken = {g // size for mask in used for g in range(_DEVICES) if mask >> g & 1}
            assert len(taken) == 1
        return True

    def check_links(self) -> None:
        nodes = self.state.node[0]
        limited = nodes["bandwidth_mbps"] > 0
        assert nodes["bandwidth_free_mbps"][limited].tolist() == [
            free for free, ok in zip(self.fabric.node_free, limited, strict=True) if ok
        ]
        seen = self.state.uplink[0, : len(self.fabric.uplink_free)]["free_mbps"]
        assert seen.tolist() == self.fabric.uplink_free


@st.composite
def stages(draw: st.DrawFn) -> _Stage:
    machines = draw(st.lists(_NODE, min_size=_NODES, max_size=_NODES))
    jobs = draw(st.lists(_JOB, min_size=_JOBS, max_size=_JOBS))
    nodes = np.zeros(_NODES, NODE_DTYPE)
    for record, fields in zip(nodes, machines, strict=True):
        for name, value in fields.items():
            record[name] = value
    nodes["spine"] = nodes["rack"] // 2
    nodes["state"] = draw(
        st.lists(
            st.sampled_from([NodeCode.UP, NodeCode.UP, NodeCode.UP, NodeCode.DOWN]),
            min_size=_NODES,
            max_size=_NODES,
        )
    )
    requests = np.zeros(_JOBS, REQUEST_DTYPE)
    for record, fields in zip(requests, jobs, strict=True):
        for name, value in fields.items():
            record[name] = value
    requests["min_workers"] = np.where(requests["elastic"] == 1, 1, requests["workers"])
    requests["duration_ms"] = requests["requested_ms"] = 1000
    capacities = draw(st.lists(st.sampled_from([0, 1000, 3000]), max_size=2))
    uplinks = np.zeros(len(capacities), UPLINK_DTYPE)
    uplinks["capacity_mbps"] = capacities
    shape = ClusterShape(
        envs=1,
        jobs=_JOBS,
        workers=_WORKERS,
        nodes=_NODES,
        devices=_DEVICES,
        uplinks=2,
        kinds=draw(st.sampled_from([0, 4])),
    )
    state = allocate(shape)
    entry.begin_episode(state.rows, 0, draw(st.integers(0, 99)), nodes, requests)
    packing.load_uplinks(state.rows, 0, uplinks)
    fabric = Fabric(
        nodes["rack"].tolist(),
        nodes["spine"].tolist(),
        nodes["island"].tolist(),
        nodes["bandwidth_mbps"].tolist(),
        capacities,
    )
    return _Stage(state, [plain(ask) for ask in requests], fabric, {})


@given(stage=stages(), seed=st.integers(0, 1 << 16))
def test_what_fits_is_placed_and_given_back(stage: _Stage, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(16):
        j = rng.randrange(_JOBS)
        if j in stage.placed:
            kernel_calls.release_gang(stage.state.rows, 0, j)
            stage.fabric.takes(stage.asks[j], stage.placed.pop(j), -1)
            stage.check_links()
            continue
        before = stage.everything()
        memo = (*MEMO_TABLES, "rows")
        if not stage.place(j, rng.choice(list(Placement))):
            continue
        stage.check_links()
        if rng.random() < 0.5:
            kernel_calls.lift_gang(stage.state.rows, 0, j)
            kernel_calls.restore_gang(stage.state.rows, 0, j)
            stage.check_links()
        if rng.random() < 0.5:
            kernel_calls.release_gang(stage.state.rows, 0, j)
            stage.fabric.takes(stage.asks[j], stage.placed.pop(j), -1)
            after = stage.everything()
            changed = {name for name in before if before[name] != after[name]}
            assert changed <= set(memo)


@given(stage=stages())
def test_what_could_ever_fit(stage: _Stage) -> None:
    stays = [NodeCode.UP, NodeCode.DOWN]
    hosts = stage.hosts()
    for host, node in zip(hosts, stage.state.node[0], strict=True):
        host.up = node["state"] in stays
    for j, ask in enumerate(stage.asks):
        most = most_placeable(ask, hosts, stage.fabric)
        least = ask.min_workers if ask.elastic else ask.workers
        assert entry.can_ever_fit(stage.state.rows, 0, j) == (most >= least)


def _scene(nodes: int, gang: int, **ask: int) -> ClusterState:
    """Nodes of 4 GPUs in racks of two; job 0 fills what a test says, job 1 is asked about."""
    machines = np.zeros(nodes, NODE_DTYPE)
    machines["gpus"], machines["state"] = 4, NodeCode.UP
    machines["rack"] = np.arange(nodes) // 2
    requests = np.zeros(3, REQUEST_DTYPE)
    requests["gpus_per_worker"], requests["gpu_milli"], requests["workers"] = 2, 1000, gang
    requests["duration_ms"] = requests["requested_ms"] = 1000
    for name, value in ask.items():
        requests[1][name] = value
    state = allocate(ClusterShape(envs=1, jobs=3, workers=8, nodes=nodes, devices=4, uplinks=nodes))
    entry.begin_episode(state.rows, 0, 0, machines, requests)
    return state


def test_a_gang_that_requires_one_domain_waits_although_enough_is_free() -> None:
    # KAI #1591, #1760: half of each rack is taken; what is free in all would do.
    state = _scene(4, 4, topology=int(Topology.RACK))
    nodes = np.array([0, 1, 2, 3], np.int32)
    assert kernel_calls.reserve_gang(state.rows, 0, 0, nodes, 4, int(Placement.FIRST_FIT))
    assert state.rows[0]["free_units"] == 8000
    assert not entry.fits(state.rows, 0, 1)
    assert kernel_calls.why_not(state.rows, 0, 1) == Reason.TOPOLOGY
    assert entry.can_ever_fit(state.rows, 0, 1)
    kernel_calls.release_gang(state.rows, 0, 0)
    found = np.zeros(8, np.int32)
    assert kernel_calls.place_gang(state.rows, 0, 1, int(Placement.TIGHTEST), found) == 4
    assert len({n // 2 for n in found[:4].tolist()}) == 1


def test_scattered_gpus_are_no_room_for_whole_workers() -> None:
    # kueue #4329, #5243: a quota would admit it, but one GPU is free on each node.
    state = _scene(4, 4, workers=2)
    state.request[0, 0]["gpus_per_worker"] = 3
    nodes = np.array([0, 1, 2, 3], np.int32)
    assert kernel_calls.reserve_gang(state.rows, 0, 0, nodes, 4, int(Placement.FIRST_FIT))
    assert state.rows[0]["free_units"] == 4000
    assert kernel_calls.why_not(state.rows, 0, 1) == Reason.FRAGMENTED
    assert not entry.fits(state.rows, 0, 1)


def test_a_rack_without_bandwidth_to_spare_keeps_a_gang_out() -> None:
    state = _scene(2, 4, bandwidth_mbps=600)
    state.node[0]["bandwidth_mbps"] = state.node[0]["bandwidth_free_mbps"] = 1000
    assert kernel_calls.why_not(state.rows, 0, 1) == Reason.BANDWIDTH
    state.request[0, 1]["workers"] = 2  # fits one node, and then needs none
    assert kernel_calls.why_not(state.rows, 0, 1) == Reason.OK


def test_the_tightest_domain_is_chosen() -> None:
    # Rack 0 is empty, rack 1 half full: the gang fills up rack 1, not the empty one.
    state = _scene(4, 2)
    nodes = np.array([2, 3], np.int32)
    assert kernel_calls.reserve_gang(state.rows, 0, 0, nodes, 2, int(Placement.FIRST_FIT))
    found = np.zeros(8, np.int32)
    state.request[0, 1]["gpus_per_worker"] = 2
    assert kernel_calls.place_gang(state.rows, 0, 1, int(Placement.TIGHTEST), found) == 2
    # One node holds both workers, and a node is narrower than a rack.
    assert found[:2].tolist() == [0, 0]
    state.request[0, 1]["gpus_per_worker"] = 1
    assert kernel_calls.place_gang(state.rows, 0, 1, int(Placement.TIGHTEST), found) == 2
    assert found[:2].tolist() == [2, 2]


_RACKS = st.lists(st.integers(1, 9), min_size=1, max_size=14)  # nodes of each, some alone


@given(racks=_RACKS, per_spine=st.integers(1, 5), seed=st.integers(0, 1 << 16))
def test_the_tightest_of_many_domains(racks: list[int], per_spine: int, seed: int) -> None:
    """Racks of any size, nodes in no order: what is remembered, a scan and plain Python agree."""
    rng = np.random.default_rng(seed)
    where = rng.permutation(np.repeat(np.arange(len(racks)), racks))
    machines = np.zeros(len(where), NODE_DTYPE)
    machines["gpus"], machines["rack"], machines["spine"] = 4, where, where // per_spine
    machines["state"] = rng.choice([NodeCode.UP, NodeCode.DOWN], len(where), p=[0.9, 0.1])
    requests = np.zeros(16, REQUEST_DTYPE)
    requests["gpus_per_worker"] = rng.integers(1, 5, len(requests))
    requests["workers"], requests["gpu_milli"] = rng.integers(2, 9, len(requests)), 1000
    requests["duration_ms"] = requests["requested_ms"] = 1000
    shape = ClusterShape(envs=1, jobs=16, workers=8, nodes=len(where), devices=4)
    states = [allocate(replace(shape, kinds=kinds)) for kinds in (0, 4)]
    for state in states:
        entry.begin_episode(state.rows, 0, 0, machines, requests)
    generator, found = int(Placement.TIGHTEST), np.zeros((2, 8), np.int32)
    for j in range(len(requests)):
        counts = [
            kernel_calls.place_gang(state.rows, 0, j, generator, nodes)
            for state, nodes in zip(states, found, strict=True)
        ]
        assert counts[0] == counts[1]
        chosen = found[0, : counts[0]].tolist()
        assert chosen == found[1, : counts[1]].tolist()
        domain = _tightest(states[0], requests[j])
        assert (domain is None) == (counts[0] == 0)
        if domain is not None:
            assert set(chosen) <= set(domain)
            for state, nodes in zip(states, found, strict=True):
                assert kernel_calls.reserve_gang(state.rows, 0, j, nodes, counts[0], generator)


def _tightest(state: ClusterState, ask: Any) -> list[int] | None:
    """Nodes of the narrowest domain that holds a gang; of those, the one with least free."""
    nodes = state.node[0]
    free = np.where(nodes["state"] == NodeCode.UP, nodes["gpu_free_milli"], 0)
    slots = free // 1000 // int(ask["gpus_per_worker"])
    keys = {
        Topology.NODE: np.lexsort((np.arange(len(nodes)), nodes["rack"], nodes["spine"])).argsort(),
        Topology.RACK: nodes["spine"].astype(int) * 1000 + nodes["rack"],
        Topology.SPINE: nodes["spine"].astype(int),
        Topology.ANY: np.zeros(len(nodes), int),
    }
    for key in keys.values():
        members = [np.flatnonzero(key == value) for value in np.unique(key)]
        able = [m for m in members if slots[m].sum() >= ask["workers"]]
        if able:
            best = min(able, key=lambda m: int(free[m].sum()))
            return [int(n) for n in best]
    return None
