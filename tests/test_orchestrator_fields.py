"""Every field of a job's and of a node's specification means something to the orchestrator.

Each field has a scene that is played twice, with two values of it, and ends in two different ways.
A field that is added without a scene, and so perhaps without an effect, fails here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import fields
from typing import Any, NamedTuple

import pytest

from orchestrator import (
    JobKind,
    JobPriority,
    JobSpec,
    NodeSpec,
    Semantics,
    SimulatedRuntime,
    StartJob,
    Topology,
    ValidationError,
    VirtualClock,
)
from orchestrator.messages import Effect
from orchestrator.ports import Clock
from orchestrator.status import demand_of
from tests.engine.builders import HOUR_MS, MINUTE_MS, Stage, job, node, stage


class Scene(NamedTuple):
    """Two values of a field, and what is seen with each."""

    play: Callable[..., Awaitable[object]]
    first: tuple[object, object]
    second: tuple[object, object]


async def _submitted(*specs: JobSpec, nodes: tuple[NodeSpec, ...], minutes: float = 1.0) -> Stage:
    """A cluster some minutes after jobs were submitted, in this order."""
    s = stage(*nodes, schedule_on_events=True)
    for spec in specs:
        await s.orchestrator.submit_job(spec)
        await s.wait(0)
    await s.wait(minutes)
    return s


_ONE = (node("n0"),)
_TWO = (node("n0"), node("n1"))


async def _status(nodes: tuple[NodeSpec, ...], seen: str, *others: JobSpec, **asked: Any) -> Any:
    s = await _submitted(*others, job("a", **asked), nodes=nodes)
    return s.orchestrator.get_job_status("a")[seen]


async def _state(nodes: tuple[NodeSpec, ...], *others: JobSpec, **asked: Any) -> Any:
    """Its state, or the field for which it was refused."""
    try:
        return await _status(nodes, "state", *others, **asked)
    except ValidationError as error:
        return error.field


async def _places(nodes: tuple[NodeSpec, ...], *others: JobSpec, **asked: Any) -> list[str]:
    """Where its workers are."""
    return sorted(place["node"] for place in await _status(nodes, "workers", *others, **asked))


async def _after(method: str, *arguments: Any, minutes: float = 0.0, **asked: Any) -> Stage:
    """A job on the first of two nodes, on which something is called after 25 minutes."""
    s = await _submitted(job("a", **asked), nodes=_TWO, minutes=25)
    s.answer = await getattr(s.orchestrator, method)(*arguments)  # type: ignore[attr-defined]
    await s.wait(minutes)
    return s


async def _answer(method: str, *arguments: Any, **asked: Any) -> Any:
    return (await _after(method, *arguments, **asked)).answer  # type: ignore[attr-defined]


async def _kept(**asked: Any) -> int:
    """Minutes of work that are left when the job's node fails after 25 minutes."""
    s = await _after("handle_node_failure", "n0", **asked)
    progress_ms: int = s.orchestrator.get_job_status("a")["progress_ms"]
    return progress_ms // MINUTE_MS


async def _ended(**asked: Any) -> Any:
    """When it ended, seconds after the hour, having been preempted on the way."""
    s = await _after("preempt_job", "a", "a test", minutes=60, **asked)
    return (s.orchestrator.get_job_status("a")["end_ms"] - HOUR_MS) / 1000


async def _identity(job_id: str) -> object:
    s = stage(*_ONE)
    return await s.orchestrator.submit_job(job(job_id)), list(s.orchestrator.jobs)


async def _limited(max_duration_hours: float) -> str:
    spec = job("a", max_duration_hours=max_duration_hours, duration_hours=10.0)
    return (await _submitted(spec, nodes=_ONE, minutes=120)).state_of("a")


async def _true_end(duration_hours: float | None) -> Any:
    s = await _submitted(job("a", duration_hours=duration_hours), nodes=_ONE, minutes=70)
    return s.orchestrator.get_job_status("a")["end_ms"] / HOUR_MS


async def _gang(topology_aware: bool) -> set[str]:
    """Racks of a gang, where half a rack, and another one, are free."""
    nodes = tuple(node(f"{rack}{k}", rack=rack) for rack in (0, 1) for k in (0, 1))
    others = job("x", gpus_per_worker=4), job("y", gpus_per_worker=2)
    asked = {"num_workers": 3, "gpus_per_worker": 2, "topology_aware": topology_aware}
    return {name[0] for name in await _places(nodes, *others, **asked)}


async def _tenants(seen: str, **asked: Any) -> dict[str, Any]:
    s = await _submitted(job("a", **asked), nodes=_ONE)
    shares = s.orchestrator.get_cluster_status()["tenants"]
    return {name: share[seen] for name, share in shares.items() if share[seen]}


async def _stalled(regroup_seconds: float) -> Any:
    """Work done one minute after a second worker joined."""
    asked = {"elastic": True, "regroup_seconds": regroup_seconds}
    s = await _after("scale_job", "a", 2, minutes=1, **asked)
    return s.orchestrator.get_job_status("a")["progress_ms"] // 1000 - 26 * 60


async def _services(kind: JobKind) -> list[str]:
    s = await _submitted(job("a", kind=kind), nodes=_ONE)
    return list(s.orchestrator.get_cluster_status()["services"])


async def _deadlines(deadline_hours: float | None) -> object:
    s = await _submitted(job("a", deadline_hours=deadline_hours), nodes=_ONE, minutes=70)
    told = s.orchestrator.metrics.summary(s.clock.now_ms())["completion"]
    return told["deadlines_met"], told["deadlines_missed"]


class _Listener(SimulatedRuntime):
    """A simulated runtime that remembers which jobs it was told to start."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.started: list[JobSpec] = []

    def carry_out(self, effects: Sequence[Effect]) -> None:
        self.started += [effect.spec for effect in effects if isinstance(effect, StartJob)]
        super().carry_out(effects)


async def _told(field: str, value: Any) -> Any:
    """What the runtime hears of a field of the job that it is to start."""
    clock = VirtualClock()
    runtime = _Listener(clock)
    s = stage(*_ONE, clock=clock, runtime=runtime, schedule_on_events=True)
    await s.orchestrator.submit_job(job("a", **{field: value}))
    await s.wait(0)
    return [getattr(spec, field) for spec in runtime.started]


_ELASTIC = {"elastic": True, "max_workers": 3}
_BUSY = job("busy", gpus_per_worker=4)
_PAIR = {"num_workers": 2, "gpus_per_worker": 4}
_A100 = (node("n0", gpu_model="T4", gpu_memory_gb=24.0), node("n1", gpu_model="A100"))

_JOB_SCENES = {
    "job_id": Scene(_identity, ("a", ("a", ["a"])), ("b", ("b", ["b"]))),
    "name": Scene(
        lambda name: _status(_ONE, "name", name=name), ("first", "first"), ("other", "other")
    ),
    "priority": Scene(
        lambda priority: _state(_ONE, _BUSY, gpus_per_worker=4, priority=priority),
        (JobPriority.CRITICAL, "running"),
        (JobPriority.BEST_EFFORT, "pending"),
    ),
    "num_workers": Scene(
        lambda count: _places(_ONE, num_workers=count), (1, ["n0"]), (3, ["n0"] * 3)
    ),
    "gpus_per_worker": Scene(
        lambda gpus: _status(_ONE, "workers", gpus_per_worker=gpus),
        (1, [{"node": "n0", "gpus": [0]}]),
        (3, [{"node": "n0", "gpus": [0, 1, 2]}]),
    ),
    "memory_per_worker_gb": Scene(
        lambda size: _state(_ONE, job("x", memory_per_worker_gb=100.0), memory_per_worker_gb=size),
        (412.0, "running"),
        (413.0, "pending"),
    ),
    "max_duration_hours": Scene(_limited, (1.0, "failed"), (3.0, "running")),
    "checkpoint_interval_steps": Scene(
        lambda steps: _kept(checkpoint_interval_steps=steps), (600, 20), (0, 0)
    ),
    "elastic": Scene(
        lambda elastic: _answer("scale_job", "a", 2, elastic=elastic), (True, True), (False, False)
    ),
    "min_workers": Scene(
        lambda least: _places(_TWO, _BUSY, **_PAIR, elastic=True, min_workers=least),
        (1, ["n1"]),
        (2, []),
    ),
    "max_workers": Scene(
        lambda most: _answer("scale_job", "a", 3, elastic=True, max_workers=most),
        (3, True),
        (2, False),
    ),
    "preemptible": Scene(
        lambda may: _answer("preempt_job", "a", "", preemptible=may), (True, True), (False, False)
    ),
    "gang_schedule": Scene(
        lambda gang: _places(_TWO, _BUSY, **_PAIR, gang_schedule=gang), (True, []), (False, ["n1"])
    ),
    "topology_aware": Scene(_gang, (True, {"1"}), (False, {"0", "1"})),
    "tenant": Scene(
        lambda tenant: _tenants("used", tenant=tenant), ("x", {"x": 1.0}), ("y", {"y": 1.0})
    ),
    "cpus_per_worker": Scene(
        lambda cores: _state(_ONE, job("x", cpus_per_worker=10.0), cpus_per_worker=cores),
        (54.0, "running"),
        (54.5, "pending"),
    ),
    "gpu_fraction": Scene(
        lambda share: _state((node("n0", 1),), job("x", gpu_fraction=0.5), gpu_fraction=share),
        (0.5, "running"),
        (0.6, "pending"),
    ),
    "step_seconds": Scene(lambda each: _kept(step_seconds=each), (1.0, 20), (0.1, 25)),
    "duration_hours": Scene(_true_end, (0.5, 0.5), (None, 1.0)),
    "checkpoint_seconds": Scene(
        lambda cost: _ended(checkpoint_seconds=cost), (5.0, 25.0), (60.0, 80.0)
    ),
    "restart_seconds": Scene(lambda cost: _ended(restart_seconds=cost), (0.0, 5.0), (20.0, 25.0)),
    "regroup_seconds": Scene(_stalled, (0.0, 60), (30.0, 0)),
    "checkpoint_gb": Scene(
        lambda size: _tenants("storage_gb", checkpoint_gb=size), (0.0, {}), (3.0, {"default": 3.0})
    ),
    "gpu_memory_gb": Scene(
        lambda size: _places(_A100, gpu_memory_gb=size), (0.0, ["n0"]), (60.0, ["n1"])
    ),
    "gpu_models": Scene(
        lambda names: _places(_A100, gpu_models=names), ((), ["n0"]), (("A100",), ["n1"])
    ),
    "network_gbps": Scene(
        lambda each: _state(_TWO, **_PAIR, network_gbps=each),
        (100.0, "running"),
        (101.0, "network_gbps"),
    ),
    "topology": Scene(
        lambda topology: _state(_TWO, **_PAIR, topology=topology),
        (Topology.RACK, "running"),
        (Topology.NODE, "topology"),
    ),
    "kind": Scene(_services, (JobKind.TRAINING, []), (JobKind.SERVICE, ["a"])),
    "deadline_hours": Scene(_deadlines, (None, (0, 0)), (2.0, (1, 0))),
    "command": Scene(
        lambda command: _told("command", command), ((), [()]), (("true",), [("true",)])
    ),
    "working_dir": Scene(
        lambda folder: _told("working_dir", folder), ("", [""]), ("/data", ["/data"])
    ),
    "environment": Scene(
        lambda named: _told("environment", named), ((), [()]), ({"A": "1"}, [(("A", "1"),)])
    ),
}


async def _node_status(name: str, **offered: Any) -> Any:
    s = stage(node(**{"node_id": "n0", **offered}))
    return s.orchestrator.get_cluster_status()[name]


async def _states(**offered: Any) -> Any:
    return (await _node_status("nodes", **offered))["states"]


def _with(field: str, **asked: Any) -> Callable[[object], Awaitable[object]]:
    """What becomes of a job on one node that offers a value of a field."""
    return lambda value: _state((node("n0", **{field: value}),), **asked)


def _beside(field: str, **asked: Any) -> Callable[[object], Awaitable[object]]:
    """What becomes of a gang that needs two nodes, the second with a value of a field."""
    second: dict[str, Any] = {"rack": 1} if field == "spine" else {}
    return lambda value: _state(
        (node("n0"), node("n1", **{**second, field: value})), **_PAIR, **asked
    )


async def _linked(gpu_topology: str) -> list[str]:
    nodes = node("n0", gpu_topology="PCIe"), node("n1", gpu_topology=gpu_topology)
    return await _places(nodes, gpus_per_worker=4)


_NODE_SCENES = {
    "node_id": Scene(lambda name: _states(node_id=name), ("n0", {"n0": "up"}), ("x", {"x": "up"})),
    "gpus": Scene(
        lambda gpus: _node_status("gpus", gpus=gpus),
        (4, {"total": 4, "free": 4.0, "allocated": 0.0}),
        (8, {"total": 8, "free": 8.0, "allocated": 0.0}),
    ),
    "gpu_memory_gb": Scene(
        _with("gpu_memory_gb", gpu_memory_gb=40.0), (40.0, "running"), (39.0, "gpu_memory_gb")
    ),
    "cpu_cores": Scene(
        _with("cpu_cores", cpus_per_worker=2.0), (2, "running"), (1, "cpus_per_worker")
    ),
    "memory_gb": Scene(
        _with("memory_gb", memory_per_worker_gb=8.0),
        (8.0, "running"),
        (7.0, "memory_per_worker_gb"),
    ),
    "network_bandwidth_gbps": Scene(
        _beside("network_bandwidth_gbps", network_gbps=10.0),
        (10.0, "running"),
        (9.0, "network_gbps"),
    ),
    "gpu_topology": Scene(_linked, ("NVLink", ["n1"]), ("PCIe", ["n0"])),
    "available": Scene(
        lambda there: _states(available=there), (True, {"n0": "up"}), (False, {"n0": "down"})
    ),
    "gpu_model": Scene(
        _with("gpu_model", gpu_models=("A100",)), ("A100", "running"), ("T4", "gpu_models")
    ),
    "rack": Scene(_beside("rack", topology=Topology.RACK), (0, "running"), (1, "topology")),
    "spine": Scene(_beside("spine", topology=Topology.SPINE), (0, "running"), (1, "topology")),
    "island_gpus": Scene(
        _with("island_gpus", gpus_per_worker=4, topology=Topology.ISLAND),
        (4, "running"),
        (2, "topology"),
    ),
}


def test_every_field_has_a_scene() -> None:
    assert set(_JOB_SCENES) == {field.name for field in fields(JobSpec)}
    assert set(_NODE_SCENES) == {field.name for field in fields(NodeSpec)}


@pytest.mark.parametrize(
    ("spec", "field"),
    [("JobSpec", name) for name in _JOB_SCENES] + [("NodeSpec", name) for name in _NODE_SCENES],
)
async def test_every_field_has_an_effect(spec: str, field: str) -> None:
    play, first, second = (_JOB_SCENES if spec == "JobSpec" else _NODE_SCENES)[field]
    assert first[1] != second[1]
    assert await play(first[0]) == first[1]
    assert await play(second[0]) == second[1]


# --- siblings of those that once had none ------------------------------------------------------


@pytest.mark.parametrize(
    ("workers", "busy", "first", "later"),
    [(4, 2, 2, 4), (3, 3, 1, 3), (8, 0, 4, 4)],
)
async def test_missing_workers_join_when_there_is_room(
    workers: int, busy: int, first: int, later: int
) -> None:
    others = [job(f"x{k}", max_duration_hours=0.5) for k in range(busy)]
    loose = job("a", num_workers=workers, gang_schedule=False)
    s = await _submitted(*others, loose, nodes=_ONE)
    assert len(s.orchestrator.get_job_status("a")["workers"]) == first
    await s.wait(30)
    status = s.orchestrator.get_job_status("a")
    assert (len(status["workers"]), status["starts"], status["interruptions"]) == (later, 1, 0)
    # Half an hour on `first` workers, the rest on `later` ones.
    left_ms = workers * HOUR_MS - first * HOUR_MS / 2
    await s.wait(600)
    end_ms = HOUR_MS / 2 + left_ms / later
    assert s.orchestrator.get_job_status("a")["end_ms"] == pytest.approx(
        end_ms, abs=1000
    )  # speeds are thousandths


async def test_nobody_joins_while_a_more_important_job_waits() -> None:
    loose = job("a", num_workers=4, gang_schedule=False, preemptible=False)
    urgent = job("urgent", gpus_per_worker=3, priority=JobPriority.CRITICAL)
    short = job("x", gpus_per_worker=3, max_duration_hours=0.5, preemptible=False)
    shorter = job("y", gpus_per_worker=0, max_duration_hours=0.1)
    s = await _submitted(short, shorter, loose, urgent, nodes=_ONE)
    assert (s.state_of("a"), s.state_of("urgent")) == ("running", "pending")
    await s.wait(31)
    assert (len(s.orchestrator.get_job_status("a")["workers"]), s.state_of("urgent")) == (
        1,
        "running",
    )


async def test_workers_join_when_their_job_has_run_for_long_enough() -> None:
    s = stage(*_ONE, schedule_on_events=True, semantics=Semantics(min_run_seconds=900.0))
    await s.orchestrator.submit_job(job("x", gpus_per_worker=3, max_duration_hours=0.1))
    await s.orchestrator.submit_job(job("a", num_workers=4, gang_schedule=False))
    await s.wait(14.9)
    assert len(s.orchestrator.get_job_status("a")["workers"]) == 1
    await s.wait(0.2)
    assert len(s.orchestrator.get_job_status("a")["workers"]) == 4


async def test_workers_that_wait_are_demand() -> None:
    s = await _submitted(job("a", num_workers=6, gang_schedule=False), nodes=_ONE)
    demand = demand_of(s.orchestrator.engine)
    assert (demand.held, demand.queued) == (4.0, 2.0)
    await s.orchestrator.register_node(node("n1"))
    await s.wait(1)
    demand = demand_of(s.orchestrator.engine)
    assert (demand.held, demand.queued) == (6.0, 0.0)


async def test_schedule_tells_who_joined() -> None:
    s = stage(*_ONE)
    await s.orchestrator.submit_job(job("x", gpus_per_worker=3, max_duration_hours=0.1))
    await s.orchestrator.submit_job(job("a", num_workers=2, gang_schedule=False))
    assert await s.orchestrator.schedule() == [("x", "n0"), ("a", "n0")]
    await s.wait(10)
    assert await s.orchestrator.schedule() == [("a", "n0")]


async def test_a_job_that_is_no_gang_is_not_elastic_for_that() -> None:
    s = await _submitted(job("a", num_workers=2, gang_schedule=False), nodes=_ONE)
    assert not await s.orchestrator.scale_job("a", 1)
    assert s.orchestrator.get_job_status("a")["history"][-1]["reason"] == "scale_job: not_elastic"


@pytest.mark.parametrize("name", ["NVLink", "nvlink4", "NVSwitch", "NVL72", "xGMI"])
async def test_fast_links_are_known_by_their_family(name: str) -> None:
    assert await _linked(name) == ["n1"]


@pytest.mark.parametrize("name", ["PCIe", "pcie gen5", "Slingshot", "SXM?"])
async def test_others_count_as_pcie(name: str) -> None:
    assert await _linked(name) == ["n0"]


_HELD = (("slow", 2), ("busy", 1))  # GPUs by model


@pytest.mark.parametrize(
    ("asked", "where"),
    [
        ({"gpus_per_worker": 1}, ["n0"]),  # one GPU needs no link
        ({"gpus_per_worker": 2, "topology_aware": False}, ["n0"]),
        ({"gpus_per_worker": 2, "gpu_fraction": 0.5}, ["n0"]),
        ({"gpus_per_worker": 2}, ["n2"]),  # of two such nodes the fuller one
        ({"num_workers": 4}, ["n1"] * 4),  # workers of one gang exchange data, too
        ({"num_workers": 2, "gpus_per_worker": 3}, ["n1", "n2"]),
    ],
)
async def test_several_gpus_go_where_links_are_fast(
    asked: dict[str, Any], where: list[str]
) -> None:
    slow = node("n0", gpu_topology="PCIe", gpu_model="slow")
    nodes = slow, node("n1"), node("n2", gpu_model="busy")
    busy = [job(f"on {name}", gpus_per_worker=gpus, gpu_models=(name,)) for name, gpus in _HELD]
    assert await _places(nodes, *busy, **asked) == where


@pytest.mark.parametrize(("gpu_topology", "seen"), [("NVLink", "running"), ("PCIe", "topology")])
async def test_a_node_with_nvlink_is_an_island(gpu_topology: str, seen: str) -> None:
    nodes = (node("n0", gpu_topology=gpu_topology),)
    assert await _state(nodes, gpus_per_worker=3, topology=Topology.ISLAND) == seen
