"""The fifteen behaviours of the orchestrator's interface, on agents and processes.

Simulated ones are in ``tests/test_infrastructure_orchestrator.py``, with the bounds, the mutations
and the failing surroundings. Here it is shown that the same orchestrator does the same with
processes: what is asserted is what the workers themselves have written down, where they can know.

| behaviour | here |
| --- | --- |
| bin packing, optimal utilization | yes: GPUs held while jobs wait |
| priority preemption | yes: saved, resumed at the very step |
| gang scheduling, all or nothing | yes |
| topology-aware placement | yes: two nodes of one rack; racks are declared |
| horizontal auto-scaling | yes: nodes that are rented are agents that are started |
| predictive scaling forecast | no (1) |
| scaling cooldown prevents oscillation | no (2) |
| circuit breaker on failure | yes: a replica hangs (SIGSTOP); crashes: test_inference.py |
| service discovery, health filtering | yes |
| elastic training, scale up | yes: process ids stay; with a model in test_training.py |
| elastic training, scale down | yes |
| node failure, job recovery | yes: SIGKILL to the agent |
| graceful node decommission | yes |
| fair share, multi-tenant | yes |
| end to end, distributed training | yes: with a service, a lost node, a new orchestrator |

(1) A forecast is a function of days of demand. All that a runtime carries out of it are nodes that
come and go, which the line above shows. (2) A rule about minutes on a clock, which processes do not
change: the same test would take 20 minutes and show the same calls.

Times are bounded by the seed's criteria only (seconds of a busy machine), and measured by
``suite=speed``.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from orchestrator import (
    BreakerSpec,
    JobPriority,
    NodeSpec,
    ScalingDirection,
    ServiceSpec,
    TenantSpec,
)
from orchestrator.autoscaler import HorizontalScaler, ScalingPlan
from orchestrator.errors import NoHealthyEndpointError, UnknownServiceError
from orchestrator.kernels.state.codes import Topology
from orchestrator.mesh import ProbeSpec, ServiceMesh
from orchestrator.runtimes import LocalAgents
from orchestrator.scheduling.rules import FairShareScheduler, Scheduler
from tests.runtimes.cluster import Cluster
from tests.runtimes.programs import service, trained, training
from tests.runtimes.stage import alive, until

_RESUMED_S = 30.0  # the seed's bound of a preemption


async def _train(cluster: Cluster, job: str, steps: int, **fields: Any) -> None:
    workers, gpus = fields.pop("workers", 1), fields.pop("gpus", 4)
    await cluster.submit(job, workers, gpus, **training(cluster.said_folder, steps, **fields))


def _trained(cluster: Cluster, job: str, run: int = 0) -> list[dict[str, Any]]:
    return trained(cluster.said_folder, job, run)


def _states(cluster: Cluster, *jobs: str) -> list[str]:
    return [cluster.status(job)["state"] for job in jobs]


def _urls(cluster: Cluster, name: str) -> dict[str, str]:
    return dict(cluster.orchestrator.get_cluster_status()["services"][name]["urls"])


async def test_bin_packing_optimal_utilization(cluster: Cluster) -> None:
    """Of all GPUs, how many were held while jobs waited: once each end was answered by a start."""
    await cluster.open()
    jobs = [f"j{k}" for k in range(25)]
    for k, job in enumerate(jobs):
        workers, gpus = ((1, 3), (1, 1), (2, 1), (1, 1), (1, 2))[k % 5]
        await cluster.submit(job, workers, gpus, 0.3 + 0.1 * (k % 3))
    held: dict[int, list[int]] = {}  # by how many have ended
    while not cluster.ended(*jobs):
        status = cluster.orchestrator.get_cluster_status()
        ended = sum(cluster.ended(job) for job in jobs)
        if status["queue"]["length"] > 2:  # the last ones may not fit together
            held.setdefault(ended, []).append(status["gpus"]["allocated"])
        await asyncio.sleep(0.01)
    assert set(_states(cluster, *jobs)) == {"completed"}
    settled = [seen[-1] for seen in held.values() if len(seen) > 3]
    assert sum(settled) / (12 * len(settled)) > 0.85, held
    cluster.assert_nothing_is_shared()


async def test_priority_preemption(cluster: Cluster) -> None:
    await cluster.open()
    for k in range(3):
        await _train(cluster, f"low{k}", 150, priority=JobPriority.BEST_EFFORT)
    await until(lambda: all(_trained(cluster, f"low{k}") for k in range(3)))
    begun_s = time.monotonic()
    await cluster.submit("high", 1, 4, 0.3, priority=JobPriority.CRITICAL)
    await cluster.submit("equal", 1, 4, 0.1, priority=JobPriority.BEST_EFFORT)
    await until(lambda: cluster.said("high"))
    assert time.monotonic() - begun_s < _RESUMED_S
    await until(lambda: cluster.ended("high", "equal", "low0", "low1", "low2"))
    status = [cluster.status(f"low{k}") for k in range(3)]
    assert sorted(one["preemptions"] for one in status) == [0, 0, 1]  # no more than is needed
    (victim,) = (one["job_id"] for one in status if one["preemptions"])
    (again,) = _trained(cluster, victim, run=2)
    assert 0 < again["from"] < 150
    assert again["from"] % 10 or "saved" in [x["what"] for x in cluster.status(victim)["history"]]
    assert cluster.status("equal")["starts"] == 1
    cluster.assert_nothing_is_shared()


async def test_gang_scheduling_all_or_nothing(cluster: Cluster) -> None:
    await cluster.open()
    assert cluster.agents is not None
    await cluster.submit("first", 3, 3, 1.0, preemptible=False)
    await until(lambda: len(cluster.said("first")) == 3)
    await cluster.submit("gang", 4, 2, 0.5)  # three single GPUs are free
    while not cluster.ended("first"):
        assert not cluster.said("gang")
        assert cluster.status("gang")["state"] == "pending"
        await asyncio.sleep(0.02)
    await until(lambda: cluster.ended("gang"))
    said = cluster.said("gang")
    assert sorted(one["rank"] for one in said) == [0, 1, 2, 3]
    assert {(one["run"], one["size"]) for one in said} == {(1, 4)}  # all in one run
    await cluster.submit("whole", 3, 3, 30.0)
    await until(lambda: len(cluster.said("whole")) == 3)
    os.kill(cluster.agents.pids["n1"], signal.SIGKILL)  # it goes as a whole, too
    await until(lambda: cluster.is_down("n1"))
    await until(lambda: not any(alive(one["pid"]) for one in cluster.said("whole")))
    assert cluster.status("whole")["state"] == "pending"
    cluster.assert_nothing_is_shared()


async def test_topology_aware_placement(cluster: Cluster) -> None:
    """Nodes of different racks are free before two of one rack are."""
    cluster.nodes = {f"n{k}": {"rack": k // 2, "spine": 0} for k in range(4)}
    await cluster.open()
    go = cluster.folder / "go"
    wait = ("sh", "-c", f"while [ ! -e '{go}' ]; do sleep 0.02; done")
    for k, seconds in enumerate((30.0, 0.2, 30.0)):
        command = {"command": wait} if k == 0 else {}
        await cluster.submit(f"busy{k}", 1, 4, seconds, preemptible=False, **command)
    await cluster.submit("gang", 2, 4, 0.3, topology=Topology.RACK)
    await until(lambda: cluster.ended("busy1"))
    for _ in range(20):
        assert cluster.status("gang")["state"] == "pending"  # one node of each rack is idle
        await asyncio.sleep(0.02)
    assert cluster.status("gang")["why_not"] == "topology"
    go.touch()
    await until(lambda: cluster.ended("gang"))
    assert sorted(one["node"] for one in cluster.said("gang")) == ["n0", "n1"]


class _Rented:
    """A provisioner whose nodes are agents that are started when they are ordered."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._number = cluster, 0
        self.template = NodeSpec("rented", 4, 16.0, 8, 64.0, 10.0, "NVLink")
        self.released: list[str] = []
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def pending(self) -> int:
        return len(self._tasks)

    def bind(self, join: Callable[[NodeSpec], Awaitable[object]]) -> None:
        self._join = join

    def order(self, count: int) -> None:
        for _ in range(count):
            self._number += 1
            task = asyncio.create_task(self._deliver(f"rented-{self._number}"))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _deliver(self, name: str) -> None:
        assert isinstance(self._cluster.agents, LocalAgents)
        await self._cluster.agents.add(name)
        await self._cluster.runtime.wait_for([name])
        await self._join(replace(self.template, node_id=name))

    def release(self, node_ids: Sequence[str]) -> None:
        assert self._cluster.agents is not None
        for name in node_ids:
            self.released.append(name)
            os.kill(self._cluster.agents.pids[name], signal.SIGTERM)


async def test_horizontal_auto_scaling(cluster: Cluster) -> None:
    cluster.nodes = {"n0": {}}
    rented = _Rented(cluster)
    plan = ScalingPlan(4.0, max_size=3, up_window_s=0.0, down_window_s=0.3)
    cluster.options = {"autoscaler": HorizontalScaler(plan), "provisioner": rented}
    await cluster.open()
    jobs = [f"j{k}" for k in range(3)]
    for job in jobs:  # long enough for all to be there at once on a busy machine, too
        await cluster.submit(job, 1, 4, 6.0, preemptible=False)
    directions = set()

    async def scale() -> None:
        directions.add((await cluster.orchestrator.auto_scale_cluster()).direction)

    while len({one["node"] for one in cluster.said()}) < 3:  # all three at once
        await scale()
        await asyncio.sleep(0.1)
    assert not any(cluster.ended(job) for job in jobs)
    while list(cluster.orchestrator.nodes) != ["n0"]:
        await scale()
        await asyncio.sleep(0.1)
    assert cluster.ended(*jobs)
    assert directions >= {ScalingDirection.UP, ScalingDirection.DOWN}
    assert sorted(rented.released) == ["rented-1", "rented-2"]
    assert cluster.agents is not None
    await until(lambda: cluster.agents is not None and list(cluster.agents.pids) == ["n0"])
    assert set(_states(cluster, *jobs)) == {"completed"}


async def test_circuit_breaker_on_failure(cluster: Cluster) -> None:
    """A replica that hangs is shut out; nobody gets an error; when it goes on it is let in."""
    patient = ProbeSpec(interval_ms=100, timeout_ms=200)  # a busy machine is silent for 20 ms
    cluster.options = {"mesh": ServiceMesh(cluster.clock, probing=patient)}
    await cluster.open()
    await cluster.submit("echo", 2, 2, **service())
    rules = ServiceSpec("echo", 20.0, timeout_ms=400.0, breaker=BreakerSpec(open_ms=300))
    cluster.orchestrator.mesh.add_service(rules)
    await until(lambda: len(_urls(cluster, "echo")) == 2)
    o = cluster.orchestrator

    async def ask(x: int) -> int:
        return int((await o.route_request("echo", {"x": x}))["pid"])

    async def both() -> set[int]:
        return {await ask(k) for k in range(10)}

    pids = await both()
    while len(pids) < 2:
        pids |= await both()
    sick, well = sorted(pids)
    os.kill(sick, signal.SIGSTOP)
    try:
        answers = [await ask(k) for k in range(30)]  # none of them is an error
        while len(await o.discover_service("echo")) == 2:
            answers.append(await ask(1))
        assert set(answers) == {well}
        assert await o.discover_service("echo")
    finally:
        os.kill(sick, signal.SIGCONT)
    while len(await o.discover_service("echo")) == 1:  # the balancer takes its time to forget
        await ask(1)
    assert len(await o.discover_service("echo")) == 2
    assert cluster.runs("echo") == 1


async def test_service_discovery_health_filtering(cluster: Cluster) -> None:
    await cluster.open()
    o = cluster.orchestrator
    assert cluster.agents is not None
    with pytest.raises(UnknownServiceError, match="echo"):
        await o.discover_service("echo")
    await cluster.submit("echo", 3, 4, **service(min_workers=1))
    assert await o.discover_service("echo") == []  # they are starting up
    with pytest.raises(NoHealthyEndpointError):
        await o.route_request("echo", {"x": 1})
    await until(lambda: len(_urls(cluster, "echo")) == 3)
    first, second, third = await o.discover_service("echo")
    assert [first, second, third] == [f"echo@n{k}:0" for k in range(3)]
    o.mesh.discovery.set_health("echo", first, False)  # somebody says so
    assert await o.discover_service("echo") == [second, third]
    os.kill(cluster.agents.pids["n1"], signal.SIGKILL)
    await until(lambda: cluster.is_down("n1"))
    assert await o.discover_service("echo") == [third]
    assert (await o.route_request("echo", {"x": 4}))["doubled"] == 8
    assert cluster.runs("echo") == 1  # the others went on
    o.mesh.drain("echo", third)
    assert await o.discover_service("echo") == []
    o.mesh.discovery.set_health("echo", first, True)
    assert await o.discover_service("echo") == [first]


async def test_elastic_training_scale_up_and_down(cluster: Cluster) -> None:
    """Two of the fifteen: workers that stay keep their processes, and nobody begins anew."""
    await cluster.open()
    o = cluster.orchestrator
    fields = {"elastic": True, "max_workers": 4, "gpus": 2}
    await _train(cluster, "a", 100_000, workers=2, **fields)
    await until(lambda: len(_trained(cluster, "a")) == 2 and cluster.runtime.knows("a"))
    before = {one["rank"]: one["pid"] for one in _trained(cluster, "a")}
    assert not await o.scale_job("a", 5)  # beyond its bounds
    assert await o.scale_job("a", 4)
    await until(lambda: [one["size"] for one in _trained(cluster, "a")] == [4] * 4)
    grown = {one["rank"]: one["pid"] for one in _trained(cluster, "a")}
    assert {rank: grown[rank] for rank in before} == before
    await cluster.submit("b", 1, 4, 0.2)
    await cluster.submit("c", 1, 4, 0.2)  # one of them finds no room
    await until(lambda: cluster.ended("b"))
    await o.scale_job("a", 1)
    await until(lambda: cluster.ended("c"))
    await until(lambda: sum(alive(pid) for pid in grown.values()) == 1)
    (left,) = (rank for rank, pid in grown.items() if alive(pid))
    await until(lambda: _trained(cluster, "a")[left]["size"] == 1)
    status = cluster.status("a")
    assert (status["state"], status["starts"], status["lost_ms"]) == ("running", 1, 0)
    assert not await o.scale_job("a", 0)
    cluster.assert_nothing_is_shared()


async def test_node_failure_job_recovery(cluster: Cluster) -> None:
    """An agent and all of its workers die at once; nobody tells the orchestrator."""
    await cluster.open()
    assert cluster.agents is not None
    for name in ("a", "b"):
        await _train(cluster, name, 150, checkpoint_interval_steps=1, step_seconds=0.1)
    await until(lambda: _trained(cluster, "a") and _trained(cluster, "b"))
    saved = cluster.checkpoints / "a" / "rank-0"
    await until(lambda: saved.exists() and int(saved.read_text()) >= 30)
    (before,), (other,) = _trained(cluster, "a"), _trained(cluster, "b")
    os.kill(cluster.agents.pids[before["node"]], signal.SIGKILL)
    await until(lambda: _trained(cluster, "a", run=2))
    (again,) = _trained(cluster, "a", run=2)
    assert again["node"] not in (before["node"], other["node"])
    assert again["from"] >= 30  # not from the beginning
    assert again["from"] % 10 == 0  # what it had written by itself, and no more
    await until(lambda: cluster.ended("a", "b"))
    assert _states(cluster, "a", "b") == ["completed", "completed"]
    status = cluster.status("a")
    assert (status["interruptions"], status["starts"]) == (1, 2)
    assert cluster.status("b")["starts"] == 1
    assert len(_trained(cluster, "b")) == 1
    assert cluster.is_down(before["node"])
    assert not alive(before["pid"])


async def test_graceful_node_decommission(cluster: Cluster) -> None:
    await cluster.open()
    assert cluster.agents is not None
    for name in ("a", "b"):
        await _train(cluster, name, 120)
    await until(lambda: _trained(cluster, "a") and _trained(cluster, "b"))
    await until(lambda: (cluster.runtime.progress("a") or (0, None))[0] > 0)
    (before,), (other,) = _trained(cluster, "a"), _trained(cluster, "b")
    assert await cluster.orchestrator.decommission_node(before["node"])
    await until(lambda: _trained(cluster, "a", run=2))
    (again,) = _trained(cluster, "a", run=2)
    assert before["node"] not in cluster.orchestrator.nodes
    assert again["node"] not in (before["node"], other["node"])
    assert again["from"] > 0
    assert not alive(before["pid"])
    await until(lambda: cluster.ended("a", "b"))
    a, b = (cluster.status(name) for name in "ab")
    assert (a["state"], a["starts"], a["lost_ms"]) == ("completed", 2, 0)
    assert (b["state"], b["starts"]) == ("completed", 1)
    assert [one["pid"] for one in _trained(cluster, "b")] == [other["pid"]]  # nobody touched it


async def test_fair_share_multi_tenant(cluster: Cluster) -> None:
    cluster.options = {
        "policy": Scheduler(queue=FairShareScheduler()),
        "tenants": (TenantSpec("a", weight=1.0), TenantSpec("b", weight=3.0)),
    }
    await cluster.open()
    await cluster.submit("all", 3, 4, 0.3)  # until everybody has asked
    for tenant in ("a", "b"):  # everything of a comes first
        for k in range(12):
            await cluster.submit(f"{tenant}{k}", 1, 1, 30.0, tenant=tenant)

    def held() -> tuple[int, int]:
        jobs = [one["job"][0] for one in cluster.said() if one["job"] != "all"]
        return jobs.count("a"), jobs.count("b")

    await until(lambda: sum(held()) == 12)
    await until(lambda: held() == (3, 9))  # nobody else starts
    shares = cluster.orchestrator.get_cluster_status()["tenants"]
    assert shares["b"]["dominant_share"] == 0.75
    cluster.assert_nothing_is_shared()


async def test_end_to_end_distributed_training(cluster: Cluster) -> None:
    """A training, a service that pushes it out, scaling, another orchestrator, a lost node."""
    cluster.nodes = {f"n{k}": {} for k in range(4)}
    await cluster.open()
    assert cluster.agents is not None
    fields = {"workers": 6, "gpus": 2, "elastic": True, "min_workers": 2, "max_workers": 6}
    interval = {"checkpoint_interval_steps": 1, "step_seconds": 0.1}
    await _train(cluster, "llama", 400, **fields, **interval)
    await until(lambda: len(_trained(cluster, "llama")) == 6 and cluster.runtime.knows("llama"))
    await cluster.submit("echo", 2, 3, **service(min_workers=2, max_workers=2))
    await until(lambda: len(_urls(cluster, "echo")) == 2)
    assert (await cluster.orchestrator.route_request("echo", {"x": 2}))["doubled"] == 4
    await until(lambda: len(_trained(cluster, "llama", run=2)) == 4)  # it makes do with two nodes
    assert all(one["from"] > 0 for one in _trained(cluster, "llama", run=2))
    assert cluster.status("llama")["preemptions"] == 1
    await until(lambda: cluster.runtime.knows("llama"))
    assert await cluster.orchestrator.scale_job("llama", 3)
    await cluster.replace()
    assert len(cluster.orchestrator.engine.workers_of("llama")) == 3
    victim = cluster.orchestrator.engine.workers_of("llama")[-1].node_id
    os.kill(cluster.agents.pids[victim], signal.SIGKILL)
    await until(lambda: cluster.status("llama")["interruptions"] >= 1)
    await until(lambda: cluster.ended("llama"), 40.0)
    status = cluster.status("llama")
    assert (status["state"], status["preemptions"]) == ("completed", 1)
    last = _trained(cluster, "llama", run=status["starts"])
    assert len(last) == 2
    assert all(one["from"] > 0 for one in last)
    await until(lambda: len(_urls(cluster, "echo")) == 2)
    assert (await cluster.orchestrator.route_request("echo", {"x": 3}))["doubled"] == 6
    assert cluster.status("echo")["state"] == "running"
