"""The fleet: which nodes go, what is ordered, what is refused, and what a restart keeps."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from orchestrator import (
    InfrastructureOrchestrator,
    Placement,
    Rule,
    RuleKey,
    ScalingDirection,
    VirtualClock,
)
from orchestrator.autoscaler import HorizontalScaler, ScalingPlan
from orchestrator.autoscaler.rehearsal import Rehearsal
from orchestrator.errors import ConfigurationError, ValidationError
from orchestrator.foundations import in_memory
from orchestrator.kernels.state.codes import JobKind
from orchestrator.mesh import ServiceMesh
from orchestrator.runtimes import SimulatedProvisioner
from orchestrator.scheduling.rules import RULES
from tests.engine.builders import MINUTE_MS, SHAPE, Stage, job, node, stage

_WIDE = replace(SHAPE, devices=16)


def _plan(**fields: Any) -> HorizontalScaler:
    values: dict[str, Any] = {"target_utilisation": 1.0, "down_window_s": 0.0}
    return HorizontalScaler(ScalingPlan(4.0, **(values | fields)))


def _rented(scaler: Any, nodes: int = 3, **options: Any) -> Stage:
    clock = VirtualClock()
    provisioner = SimulatedProvisioner(clock, node("rented"), delay_s=60.0)
    names = [node(f"n{k}") for k in range(nodes)]
    values: dict[str, Any] = {"schedule_on_events": True, "autoscaler": scaler}
    s = stage(*names, clock=clock, provisioner=provisioner, **(values | options))
    s.orchestrator.engine.nodes.rented |= {spec.node_id for spec in names}  # ordered, once
    return s


def _leaving(s: Stage, count: int) -> list[str]:
    """Rented nodes that would be given up now."""
    engine = s.orchestrator.engine
    rehearsal = Rehearsal(engine, s.clock.now_ms(), RULES["priority"])
    return rehearsal.give_up(count, engine.nodes.rented)


async def _place(s: Stage, *specs: Any) -> dict[str, str]:
    """Submit jobs of one worker; their nodes."""
    for spec in specs:
        await s.orchestrator.submit_job(spec)
    await s.clock.advance_to(s.clock.now_ms())
    return {spec.job_id: s.orchestrator.engine.workers_of(spec.job_id)[0].node_id for spec in specs}


async def test_the_node_that_costs_least_to_empty_goes() -> None:
    s = _rented(_plan())
    s.orchestrator.policy = Rule("spread", RuleKey.FCFS, Placement.SPREAD)  # type: ignore[assignment]
    where = await _place(
        s,
        job("dear", gpus_per_worker=2, checkpoint_seconds=60.0),
        job("cheap", gpus_per_worker=2, checkpoint_seconds=1.0, restart_seconds=1.0),
        job("fixed", gpus_per_worker=3, preemptible=False, checkpoint_seconds=0.0),
    )
    assert len(set(where.values())) == 3
    await s.orchestrator.handle_node_recovery("n0")  # it is up: nothing changes
    decision = await s.orchestrator.auto_scale_cluster()
    assert (decision.direction, decision.target_nodes) == (ScalingDirection.DOWN, 2)
    await s.wait(1)
    assert set(s.orchestrator.nodes) == {where["dear"], where["fixed"]}


async def test_work_that_may_not_be_preempted_keeps_its_node() -> None:
    s = _rented(_plan())
    where = await _place(
        s, *[job(f"fixed{k}", gpus_per_worker=3, preemptible=False) for k in range(3)]
    )
    assert len(set(where.values())) == 3
    s.orchestrator._fleet.scaler = _plan(max_size=1)
    decision = await s.orchestrator.auto_scale_cluster()
    assert decision.target_nodes == 1
    assert "0 of 2 nodes: the others were not ordered, or hold work that fits" in decision.reason
    assert len(s.orchestrator.nodes) == 3
    assert s.orchestrator.get_cluster_status()["scaling"]["last_decision"]["target_nodes"] == 1


async def test_without_a_provisioner_decisions_are_advice() -> None:
    s = stage(node("n0"), node("n1"), node("n2"), schedule_on_events=True, autoscaler=_plan())
    await _place(s, job("a"))
    decision = await s.orchestrator.auto_scale_cluster()
    assert decision.target_nodes == 1
    assert "0 of 2 nodes: there is no provisioner" in decision.reason
    for k in range(3):
        await s.orchestrator.submit_job(job(f"b{k}", gpus_per_worker=4))
    decision = await s.orchestrator.auto_scale_cluster()
    assert (decision.direction, decision.target_nodes) == (ScalingDirection.UP, 4)
    assert "0 of 1 nodes: there is no provisioner" in decision.reason
    assert list(s.orchestrator.nodes) == ["n0", "n1", "n2"]


async def test_no_more_is_ordered_than_there_is_room_for() -> None:
    s = _rented(_plan())
    for k in range(7):
        await s.orchestrator.submit_job(job(f"j{k}", gpus_per_worker=4))
    decision = await s.orchestrator.auto_scale_cluster()
    assert decision.target_nodes == SHAPE.nodes
    assert decision.reason.endswith("nodes as may be ordered do not let in 3 of those that wait")
    await s.wait(1)
    assert s.orchestrator.get_cluster_status()["nodes"]["up"] == SHAPE.nodes
    assert s.orchestrator.metrics.scaling.demand.last == 28.0


async def test_a_node_whose_room_was_taken_is_given_back() -> None:
    s = _rented(_plan())
    for k in range(4):
        await s.orchestrator.submit_job(job(f"j{k}", gpus_per_worker=4))
    await s.orchestrator.auto_scale_cluster()
    assert s.orchestrator.get_cluster_status()["scaling"]["pending"] == 1
    await s.orchestrator.register_node(node("by hand"))
    await s.wait(2)
    assert set(s.orchestrator.nodes) == {"n0", "n1", "n2", "by hand"}
    scaling = s.orchestrator.get_cluster_status()["scaling"]
    assert (scaling["size"], scaling["pending"]) == (4, 0)
    assert s.orchestrator.metrics.scaling.summary()["delay_s"] == 0.0


async def test_rented_nodes_are_given_back_when_they_have_left() -> None:
    clock = VirtualClock()
    provisioner = SimulatedProvisioner(clock, node("rented"), delay_s=60.0)
    s = stage(
        node("n0"),
        clock=clock,
        provisioner=provisioner,
        autoscaler=_plan(),
        schedule_on_events=True,
    )
    for k in range(2):
        await s.orchestrator.submit_job(job(f"j{k}", gpus_per_worker=4))
    await s.orchestrator.auto_scale_cluster()
    await s.wait(2)
    (rented,) = provisioner.rented
    assert rented == "rented-0-0"
    assert rented in s.orchestrator.nodes
    await s.orchestrator.decommission_node(rented)
    assert provisioner.rented == {rented}  # its job is being saved
    await s.wait(1)
    assert provisioner.rented == set()


async def test_a_gang_on_several_nodes_is_paid_for_once() -> None:
    s = _rented(_plan(), nodes=3, shape=_WIDE)
    wide = job("wide", num_workers=2, gpus_per_worker=4, checkpoint_seconds=10.0)
    await _place(s, wide, job("small", gpus_per_worker=4, checkpoint_seconds=30.0))
    engine = s.orchestrator.engine
    assert _leaving(s, 3) == []  # they have nowhere to go
    await s.orchestrator.register_node(node("own", 16))
    where = {place.node_id for place in engine.workers_of("wide")}
    (small,) = (place.node_id for place in engine.workers_of("small"))
    # The small job costs (30 + 20) x 4 GPU seconds, the wide one (10 + 20) x 8, for two nodes.
    assert _leaving(s, 1) == [small]
    assert set(_leaving(s, 3)[1:]) == where
    dear = job("dear", gpus_per_worker=4, checkpoint_seconds=70.0)
    t = _rented(_plan(), nodes=3, shape=_WIDE)
    await _place(t, wide, dear)
    await t.orchestrator.register_node(node("own", 16))
    where = {place.node_id for place in t.orchestrator.engine.workers_of("wide")}
    assert set(_leaving(t, 2)) == where


async def test_work_that_would_be_done_again_counts() -> None:
    s = _rented(_plan(), nodes=2, shape=_WIDE)
    engine = s.orchestrator.engine
    await _place(s, job("old", gpus_per_worker=4))
    await s.wait(8)  # nothing of them is saved yet
    await _place(s, job("new", gpus_per_worker=4))
    await s.wait(1)
    await s.orchestrator.register_node(node("own", 16))
    at = {name: engine.workers_of(name)[0].node_id for name in ("old", "new")}
    assert _leaving(s, 1) == [at["new"]]
    await s.wait(2)  # the old job was saved a minute ago
    assert _leaving(s, 2) == [at["old"], at["new"]]


async def test_decisions_that_are_asked_for_at_once_are_taken_one_after_the_other() -> None:
    s = _rented(_plan(), nodes=1)
    for k in range(3):
        await s.orchestrator.submit_job(job(f"j{k}", gpus_per_worker=4))
    both = await asyncio.gather(
        s.orchestrator.auto_scale_cluster(), s.orchestrator.auto_scale_cluster()
    )
    assert [decision.direction for decision in both] == [
        ScalingDirection.UP,
        ScalingDirection.NONE,
    ]
    assert s.orchestrator.get_cluster_status()["scaling"]["pending"] == 2


async def test_the_default_scaler_fits_the_nodes_that_are_there() -> None:
    s = stage(node("n0"), node("n1"))
    await s.orchestrator.submit_job(job("a", gpus_per_worker=4))
    await s.orchestrator.submit_job(job("b", gpus_per_worker=4))
    decision = await s.orchestrator.auto_scale_cluster()
    assert (decision.direction, decision.target_nodes) == (ScalingDirection.UP, 3)  # 8 / (0.8 x 4)
    assert decision.predicted_demand == 8.0


async def test_a_cluster_of_cpus_is_scaled_by_cores() -> None:
    nodes = [node(f"n{k}", 0, cpu_cores=10) for k in range(2)]
    s = stage(*nodes)
    for k in range(3):
        await s.orchestrator.submit_job(job(f"j{k}", gpus_per_worker=0, cpus_per_worker=8.0))
    decision = await s.orchestrator.auto_scale_cluster()
    assert (decision.predicted_demand, decision.target_nodes) == (24.0, 3)


def _build(**options: Any) -> InfrastructureOrchestrator:
    clock = VirtualClock()
    return InfrastructureOrchestrator(*in_memory(clock), clock=clock, shape=SHAPE, **options)


def test_contradictions_are_named_when_they_are_made() -> None:
    clock = VirtualClock()
    with pytest.raises(ConfigurationError, match=r"'min_size' is 9, .* ClusterShape\.nodes"):
        _build(autoscaler=_plan(min_size=9))
    with pytest.raises(ValidationError, match="'gpus' is 16, and a node has at most 8"):
        _build(provisioner=SimulatedProvisioner(clock, node("big", 16)))
    with pytest.raises(ConfigurationError, match="'transport' is given beside 'mesh'"):
        _build(mesh=ServiceMesh(clock), transport=lambda address, request: None)
    with pytest.raises(ConfigurationError, match=r"'delay_s' is -1\.0"):
        SimulatedProvisioner(clock, node("n"), delay_s=-1.0)
    with pytest.raises(ValidationError, match="field 'count' is 0"):
        SimulatedProvisioner(clock, node("n")).order(0)


async def test_the_policy_may_be_replaced_while_jobs_run() -> None:
    s = stage(node("n0", 1), schedule_on_events=True)
    await s.orchestrator.submit_job(job("long", max_duration_hours=8.0))
    await s.wait(1)
    await s.orchestrator.submit_job(job("short", max_duration_hours=0.1))
    await s.wait(1)
    assert s.state_of("short") == "pending"
    s.orchestrator.policy = RULES["srtf"]  # type: ignore[assignment]
    await s.orchestrator.schedule()
    await s.wait(1)
    assert (s.state_of("long"), s.state_of("short")) == ("preempted", "running")
    policy = s.orchestrator.policy
    s.orchestrator.policy = policy
    assert s.orchestrator.policy is policy


async def test_a_restart_finds_replicas_and_metrics_again() -> None:
    s = stage(node("n0"), schedule_on_events=True)
    spec = job("llm", kind=JobKind.SERVICE, num_workers=2, max_duration_hours=1e4)
    await s.orchestrator.submit_job(spec)
    waits = job("waits", name="other", kind=JobKind.SERVICE, num_workers=4)
    await s.orchestrator.submit_job(waits)
    await s.wait(30)
    fresh = in_memory(s.clock)
    again = InfrastructureOrchestrator(
        s.foundations.consensus_engine,
        *fresh[1:],
        clock=s.clock,
        runtime=s.runtime,
        shape=SHAPE,
        nodes=[node("n0")],
        schedule_on_events=True,
    )
    assert await again.discover_service("llm") == await s.orchestrator.discover_service("llm")
    assert await again.discover_service("other") == []  # known, though it has no replicas
    now_ms = s.clock.now_ms()
    assert again.metrics.summary(now_ms) == s.orchestrator.metrics.summary(now_ms)
    assert now_ms == 30 * MINUTE_MS


class _Lossy(SimulatedProvisioner):
    """Some orders come late, or never; it counts them for ever."""

    def __init__(self, clock: VirtualClock, delays_s: list[float]) -> None:
        super().__init__(clock, node("rented"), delay_s=60.0)
        self._delays_s = delays_s

    def order(self, count: int, template: Any = None) -> None:
        for _ in range(count):
            delay_s = self._delays_s.pop(0) if self._delays_s else 60.0
            self._delay_ms = round(1000 * min(delay_s, 1e9))
            super().order(1, template)


def _lossy(*delays_s: float, **options: Any) -> Stage:
    clock = VirtualClock()
    cloud = _Lossy(clock, list(delays_s))
    plan = _plan(max_size=3, min_size=0)
    values: dict[str, Any] = {"schedule_on_events": True, "autoscaler": plan}
    return stage(node("n0"), clock=clock, provisioner=cloud, **(values | options))


async def _rounds(s: Stage, minutes: int) -> list[tuple[int, int]]:
    """The size of the fleet and what is pending, minute by minute."""
    seen = []
    for _ in range(minutes):
        await s.orchestrator.auto_scale_cluster()
        await s.wait(1)
        scaling = s.orchestrator.get_cluster_status()["scaling"]
        seen.append((scaling["size"], scaling["pending"]))
    return seen


@pytest.mark.parametrize(("age_s", "lost"), [(900.0, 1), (300.0, 1), (300.0, 2)])
async def test_an_order_that_is_lost_is_not_waited_for_for_ever(
    age_s: float, lost: int, caplog: pytest.LogCaptureFixture
) -> None:
    s = _lossy(*[1e12] * lost, order_age_s=age_s)
    for name in ("a", "b", "c"):
        await s.orchestrator.submit_job(job(name, gpus_per_worker=4, max_duration_hours=9.0))
    minutes = round(age_s / 60)
    before = await _rounds(s, minutes)
    assert len(s.orchestrator.engine.placed()) == 3 - lost
    assert before[-1] == (3, lost)
    after = await _rounds(s, 5)
    assert len(s.orchestrator.engine.placed()) == 3
    assert after[-1] == (3, 0)
    scaling = s.orchestrator.get_cluster_status()["scaling"]
    assert [order["kind"] for order in scaling["overdue"]] == ["rented"] * lost
    assert f"{lost} nodes on order for more than {age_s:g} s" in scaling["last_decision"]["reason"]
    assert caplog.text.count("is not waited for") == lost


@pytest.mark.parametrize("late_s", [400.0, 1000.0])
async def test_a_node_that_comes_after_all_is_taken(late_s: float) -> None:
    s = _lossy(late_s, order_age_s=300.0)
    for name in ("a", "b"):
        await s.orchestrator.submit_job(job(name, gpus_per_worker=4, max_duration_hours=9.0))
    await _rounds(s, 6)
    assert s.orchestrator.get_cluster_status()["scaling"]["overdue"] != []
    await s.orchestrator.submit_job(job("c", gpus_per_worker=4, max_duration_hours=9.0))
    await _rounds(s, 1)
    assert ("rented-0-0" in s.orchestrator.nodes) == (late_s < 420.0)
    await s.wait(10)
    assert "rented-0-0" in s.orchestrator.nodes
    assert len(s.orchestrator.engine.placed()) == 3
    assert (await _rounds(s, 3))[-1] == (3, 0)
    assert s.orchestrator.get_cluster_status()["scaling"]["overdue"] == []


async def test_orders_of_a_former_orchestrator_grow_old_too() -> None:
    s = _lossy(1e12, order_age_s=300.0)
    for name in ("a", "b"):
        await s.orchestrator.submit_job(job(name, gpus_per_worker=4, max_duration_hours=9.0))
    await _rounds(s, 1)
    other = InfrastructureOrchestrator(
        *s.foundations,
        clock=s.clock,
        runtime=s.runtime,
        schedule_on_events=True,
        provisioner=s.orchestrator._fleet.provisioner,
        autoscaler=_plan(max_size=3),
        order_age_s=300.0,
    )
    again = Stage(s.clock, s.runtime, s.foundations, other)
    assert (await _rounds(again, 4))[-1] == (2, 1)
    await _rounds(again, 4)
    assert set(other.engine.placed()) == {"a", "b"}


async def test_a_provisioner_that_notices_is_believed() -> None:
    s = _lossy(1e12, order_age_s=300.0)
    for name in ("a", "b"):
        await s.orchestrator.submit_job(job(name, gpus_per_worker=4, max_duration_hours=9.0))
    await _rounds(s, 7)
    cloud: Any = s.orchestrator._fleet.provisioner
    assert set(s.orchestrator.engine.placed()) == {"a", "b"}
    cloud._expected.clear()
    assert (await _rounds(s, 1))[-1] == (2, 0)
    assert s.orchestrator.get_cluster_status()["scaling"]["overdue"] == []


@pytest.mark.parametrize("age_s", [0.0, -1.0, float("nan"), float("inf"), True, "900"])
def test_an_order_has_a_greatest_age(age_s: Any) -> None:
    with pytest.raises(ConfigurationError, match="'order_age_s' is"):
        _rented(_plan(), order_age_s=age_s)
