"""Capacity is decided by placing what waits: packing, quotas, models, gangs, services."""

from __future__ import annotations

import math
from typing import Any

import pytest

from orchestrator import (
    RULES,
    ClusterShape,
    HorizontalScaler,
    InferenceJobManager,
    InfrastructureOrchestrator,
    JobKind,
    JobSpec,
    NodeSpec,
    QuotaMode,
    ScalingDirection,
    ScalingPlan,
    Semantics,
    ServiceSpec,
    SimulatedProvisioner,
    TenantSpec,
    Topology,
    ValidationError,
    VirtualClock,
    in_memory,
)
from orchestrator.autoscaler.rehearsal import Rehearsal
from tests.engine.builders import Stage, job, node, stage

_SHAPE = ClusterShape(envs=1, jobs=64, workers=16, nodes=16, devices=8)
_LONG = 100.0
_EXACT = {"target_utilisation": 1.0, "tolerance": 0.0, "down_window_s": 0.0}


def _rented(
    *own: NodeSpec,
    kinds: tuple[NodeSpec, ...] = (),
    plan: dict[str, Any] | None = None,
    **options: Any,
) -> Stage:
    """A cluster that can order nodes of 8 GPUs, or of other kinds."""
    clock = VirtualClock()
    provisioner = SimulatedProvisioner(clock, *(kinds or (node("rented", 8),)), delay_s=60.0)
    scaler = (
        None if plan is None else HorizontalScaler(ScalingPlan(**({"unit_capacity": 8.0} | plan)))
    )
    values = {"shape": _SHAPE, "schedule_on_events": True, "check": False, "autoscaler": scaler}
    return stage(*own, clock=clock, provisioner=provisioner, **(values | options))


async def _settle(s: Stage, ticks: int = 12) -> None:
    for _ in range(ticks):
        await s.orchestrator.auto_scale_cluster()
        await s.wait(2)


async def _submit(s: Stage, count: int, **fields: Any) -> None:
    for k in range(count):
        fields = {"max_duration_hours": _LONG} | fields
        await s.orchestrator.submit_job(job(f"{fields.get('tenant', 'j')}{k}", **fields))


def _status(s: Stage) -> tuple[int, list[str]]:
    """Nodes that are up, and who waits."""
    status = s.orchestrator.get_cluster_status()
    return status["nodes"]["up"], sorted(status["queue"]["why_not"])


# --- more nodes ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fields", "nodes"),
    [
        ({"gpus_per_worker": 5}, 6),  # one to a node, whatever their sum
        ({"gpus_per_worker": 3}, 3),
        ({"memory_per_worker_gb": 300.0}, 6),
        ({"cpus_per_worker": 25.0}, 3),
        ({"gpu_fraction": 0.6, "gpus_per_worker": 8}, 6),
        ({"num_workers": 2, "gpus_per_worker": 3, "topology": Topology.NODE}, 6),
        ({"num_workers": 2, "gpus_per_worker": 5}, 12),
        ({"gpu_memory_gb": 50.0, "gpu_fraction": 0.1, "gpus_per_worker": 3}, 3),
        ({"num_workers": 2, "network_gbps": 60.0, "gpus_per_worker": 3}, 6),
    ],
)
async def test_as_many_nodes_are_ordered_as_placing_takes(
    fields: dict[str, Any], nodes: int
) -> None:
    s = _rented(node("n0", 8), plan=_EXACT)
    await _submit(s, 6, preemptible=False, **fields)
    await _settle(s)
    assert _status(s) == (nodes, [])


@pytest.mark.parametrize(
    ("tenant", "fields"),
    [
        (TenantSpec("t", quota=8), {"gpus_per_worker": 8}),
        (TenantSpec("t", quota=8, storage_quota_gb=10.0), {"checkpoint_gb": 9.0}),
        (TenantSpec("t", quota=7), {"num_workers": 7, "gpus_per_worker": 1}),
    ],
)
async def test_nothing_is_ordered_for_whom_a_quota_holds_back(
    tenant: TenantSpec, fields: dict[str, Any]
) -> None:
    hard = Semantics(quota_mode=QuotaMode.HARD)
    s = _rented(node("n0", 8), plan=_EXACT, semantics=hard, tenants=[tenant])
    await _submit(s, 4, tenant="t", **fields)
    await _settle(s)
    up, waiting = _status(s)
    assert (up, len(waiting)) == (1, 3)


async def test_a_quota_of_gpus_does_not_keep_the_first_gpus_away() -> None:
    """A head node counts in cores; nodes with GPUs change what quotas are counted in."""
    hard = Semantics(quota_mode=QuotaMode.HARD)
    tenants = [TenantSpec("t", quota=8)]
    s = _rented(node("head", 0), semantics=hard, tenants=tenants, plan=_EXACT)
    await _submit(s, 2, tenant="t", gpus_per_worker=4, cpus_per_worker=16.0)
    await _settle(s)
    assert _status(s) == (2, [])


async def test_nothing_is_ordered_that_does_not_help() -> None:
    s = _rented(node("n0", 8, gpu_model="old"), plan=_EXACT | {"max_size": 3})
    await s.orchestrator.submit_job(job("model", gpu_models=("old",), gpus_per_worker=8))
    await s.clock.advance_to(0)
    await s.orchestrator.submit_job(job("same", gpu_models=("old",), gpus_per_worker=8))
    decision = await s.orchestrator.auto_scale_cluster()
    assert decision.direction == ScalingDirection.NONE
    assert decision.reason.endswith("nodes as may be ordered do not let in 1 of those that wait")
    gang = job("gang", num_workers=3, gpus_per_worker=8)  # two may be ordered
    await s.orchestrator.submit_job(gang)
    assert (await s.orchestrator.auto_scale_cluster()).direction == ScalingDirection.NONE
    await s.wait(121)  # the other two have run
    await _settle(s, 2)
    assert s.state_of("gang") == "running"


@pytest.mark.parametrize(
    ("asks", "ordered"),
    [
        ([{"gpu_models": ("h100",)}], ["h100"]),
        ([{"gpu_models": ("a100", "h100")}], ["a100"]),  # the smaller one
        ([{"gpus_per_worker": 0, "cpus_per_worker": 8.0}], ["cpu"]),
        ([{"gpus_per_worker": 0, "memory_per_worker_gb": 200.0}], ["cpu"]),
        ([{"gpus_per_worker": 4}], ["a100"]),
        ([{"gpus_per_worker": 8}], ["h100"]),
        ([{"num_workers": 4, "gpus_per_worker": 2, "topology": Topology.NODE}], ["h100"]),
        ([{"gpus_per_worker": 4}, {"gpus_per_worker": 4}], ["h100"]),  # as large, and only one
        ([{"gpus_per_worker": 4}] * 3, ["a100", "h100"]),
        ([{"gpus_per_worker": 6}, {"gpus_per_worker": 3}], ["a100", "h100"]),
        ([{"gpus_per_worker": 0, "cpus_per_worker": 8.0}, {}], ["a100"]),  # one serves both
    ],
)
async def test_the_kind_is_ordered_that_helps_and_is_smallest(
    asks: list[dict[str, Any]], ordered: list[str]
) -> None:
    kinds = (
        node("h100", 8, gpu_model="h100"),
        node("cpu", 0, cpu_cores=32),
        node("a100", 4, gpu_model="a100"),
    )
    s = _rented(kinds=kinds, plan=_EXACT | {"min_size": 0})
    for k, fields in enumerate(asks):
        await s.orchestrator.submit_job(job(f"j{k}", max_duration_hours=_LONG, **fields))
    await _settle(s, 3)
    assert sorted(name.split("-")[0] for name in s.orchestrator.nodes) == sorted(ordered)
    assert _status(s)[1] == []


async def test_within_a_limit_the_kinds_are_ordered_that_let_in_most() -> None:
    kinds = (node("small", 2), node("large", 8))
    s = _rented(kinds=kinds, plan=_EXACT | {"unit_capacity": 2.0, "min_size": 0, "max_size": 2})
    await _submit(s, 5, gpus_per_worker=2)
    await _settle(s, 3)
    assert sorted(name.split("-")[0] for name in s.orchestrator.nodes) == ["large", "small"]
    assert _status(s)[1] == []


@pytest.mark.parametrize("rule", ["elastic_fcfs", "priority"])
async def test_what_elastic_jobs_would_like_is_no_demand(rule: str) -> None:
    s = _rented(node("n0", 8), policy=RULES[rule], plan=_EXACT)
    await _submit(s, 1, num_workers=2, elastic=True, max_workers=16)
    await s.wait(1)
    if rule == "priority":
        assert await s.orchestrator.scale_job("j0", 8)
    await _settle(s)
    assert len(s.orchestrator.engine.workers_of("j0")) == 8
    assert _status(s) == (1, [])
    await s.orchestrator.submit_job(job("more", gpus_per_worker=6, max_duration_hours=_LONG))
    await _settle(s, 3)  # the rule takes back what it lent; nobody takes what somebody was given
    assert s.state_of("more") == "running"
    assert _status(s)[0] == (1 if rule == "elastic_fcfs" else 2)


async def test_large_own_nodes_count_for_what_they_hold() -> None:
    s = _rented(node("own", 8), kinds=(node("tiny", 1),), plan=_EXACT | {"unit_capacity": 1.0})
    await _submit(s, 4, gpus_per_worker=2)
    await _settle(s, 3)
    assert _status(s) == (1, [])
    await s.orchestrator.submit_job(job("one", max_duration_hours=_LONG))
    await _settle(s, 3)
    assert _status(s) == (2, [])


@pytest.mark.parametrize("backfill", [False, True])
async def test_who_is_waited_for_gets_nodes_as_well(backfill: bool) -> None:
    s = _rented(node("n0", 8), plan=_EXACT, semantics=Semantics(commitment=True, backfill=backfill))
    await _submit(s, 4, gpus_per_worker=5)
    await s.wait(1)
    await _settle(s, 4)
    assert _status(s) == (4, [])
    assert len(s.orchestrator.engine.placed()) == 4


async def test_deliveries_that_could_not_be_logged_yet_are_not_ordered_again() -> None:
    s = _rented(plan=_EXACT | {"min_size": 0})
    await _submit(s, 1, gpus_per_worker=8)
    await s.orchestrator.auto_scale_cluster()
    append = s.foundations.consensus_engine.append

    async def refuse(entry: Any) -> int:
        raise OSError("the log is away")

    s.foundations.consensus_engine.append = refuse  # type: ignore[method-assign]
    await s.wait(1.01)
    scaling = s.orchestrator.get_cluster_status()["scaling"]
    assert (scaling["size"], scaling["pending"], len(s.orchestrator.nodes)) == (1, 1, 0)
    decision = await s.orchestrator.auto_scale_cluster()
    assert decision.direction == ScalingDirection.NONE
    s.foundations.consensus_engine.append = append  # type: ignore[method-assign]
    await s.wait(3)
    assert _status(s) == (1, [])


# --- fewer nodes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"gpus_per_worker": 5},
        {"memory_per_worker_gb": 300.0},
        {"cpus_per_worker": 40.0, "elastic": True, "max_workers": 2},
        {"num_workers": 2, "gpus_per_worker": 3, "topology": Topology.NODE},
        {"num_workers": 2, "elastic": True, "min_workers": 2, "gpus_per_worker": 3, "topology": 3},
    ],
)
async def test_no_node_goes_whose_work_fits_nowhere_else(fields: dict[str, Any]) -> None:
    s = _rented(node("n0", 8), plan=_EXACT | {"tolerance": 0.0})
    await _submit(s, 5, **fields)
    await _settle(s)
    before = {name: s.orchestrator.engine.runs_of(name) for name in s.orchestrator.jobs}
    assert _status(s) == (5, [])
    await _settle(s, 20)
    assert _status(s) == (5, [])
    assert {name: s.orchestrator.engine.runs_of(name) for name in before} == before


async def test_work_that_fits_elsewhere_moves_and_goes_on() -> None:
    s = _rented(node("n0", 8), plan=_EXACT)
    await s.orchestrator.submit_job(job("short", gpus_per_worker=8, max_duration_hours=0.1))
    await s.wait(1)
    await _submit(s, 2, gpus_per_worker=3)
    await _settle(s)
    assert _status(s) == (1, [])
    assert list(s.orchestrator.nodes) == ["n0"]
    for name in ("j0", "j1"):
        status = s.orchestrator.get_job_status(name)
        assert (status["state"], status["preemptions"], status["lost_ms"]) == ("running", 1, 0)


async def test_nothing_goes_that_a_gang_needs_beside_nodes_on_order() -> None:
    """A gang of four; two nodes are here and idle, the other two are on their way."""
    s = _rented(plan=_EXACT | {"min_size": 0})
    await _submit(s, 2, tenant="short", gpus_per_worker=8, max_duration_hours=0.1)
    await _settle(s, 3)
    await s.wait(1.5)
    await _submit(s, 1, num_workers=4, gpus_per_worker=5)
    ordered = await s.orchestrator.auto_scale_cluster()
    assert (ordered.direction, ordered.target_nodes) == (ScalingDirection.UP, 4)
    again = await s.orchestrator.auto_scale_cluster()  # 20 GPUs are wanted, of 32
    assert again.direction == ScalingDirection.DOWN
    assert "0 of 1 nodes" in again.reason
    await s.wait(2)
    assert s.state_of("j0") == "running"
    assert _status(s) == (4, [])


async def test_replicas_of_a_node_that_goes_are_started_elsewhere() -> None:
    s = _rented(node("n0", 8), plan=_EXACT)
    await s.orchestrator.submit_job(job("short", gpus_per_worker=6, max_duration_hours=0.1))
    await s.wait(1)
    service = {"kind": JobKind.SERVICE, "num_workers": 4, "elastic": True, "max_workers": 4}
    await s.orchestrator.submit_job(job("chat", max_duration_hours=1e4, **service))
    await s.wait(1)
    assert len(s.orchestrator.engine.workers_of("chat")) == 2  # as many as fit
    await s.orchestrator.submit_job(job("full", gpus_per_worker=8, max_duration_hours=0.2))
    await s.orchestrator.auto_scale_cluster()
    await s.wait(2)
    assert await s.orchestrator.scale_job("chat", 2) is False  # it has them
    await _settle(s, 3)
    await s.orchestrator.scale_job("chat", 4)
    await _settle(s)
    workers = s.orchestrator.engine.workers_of("chat")
    assert [place.node_id for place in workers] == ["n0"] * 4
    assert list(s.orchestrator.nodes) == ["n0"]
    assert s.orchestrator.get_job_status("chat")["starts"] == 1


async def test_own_nodes_stay_and_rented_ones_go() -> None:
    alone = stage(*(node(f"own{k}", 8) for k in range(4)), shape=_SHAPE, schedule_on_events=True)
    await _settle(alone, 20)
    assert len(alone.orchestrator.nodes) == 4
    s = _rented(node("own0", 8), node("own1", 8), plan=_EXACT)
    await _submit(s, 2, gpus_per_worker=8, max_duration_hours=1.0)
    await s.wait(1)
    for k in range(2):
        await s.orchestrator.submit_job(job(f"k{k}", gpus_per_worker=8, max_duration_hours=2.0))
    await _settle(s, 40)
    assert sorted(s.orchestrator.nodes) == ["own0", "own1"]
    await _settle(s, 60)
    assert sorted(s.orchestrator.nodes) == ["own0", "own1"]


async def test_a_restart_knows_which_nodes_were_ordered() -> None:
    s = _rented(node("own", 8), plan=_EXACT)
    await _submit(s, 2, gpus_per_worker=8, max_duration_hours=0.5)
    await _settle(s, 2)
    (rented,) = s.orchestrator.engine.nodes.rented
    again = InfrastructureOrchestrator(
        s.foundations.consensus_engine,
        *in_memory(s.clock)[1:],
        clock=s.clock,
        runtime=s.runtime,
        shape=_SHAPE,
        nodes=[node("own", 8)],
        schedule_on_events=True,
        autoscaler=HorizontalScaler(ScalingPlan(8.0, **_EXACT)),
        provisioner=SimulatedProvisioner(s.clock, node("other", 8)),
    )
    assert again.engine.nodes.rented == {rented}
    await s.wait(40)
    await again.auto_scale_cluster()
    assert list(again.nodes) == ["own"]
    await again.register_node(node(rented, 8))  # by hand: it is somebody's own
    assert again.engine.nodes.rented == set()


async def test_a_decision_that_nothing_came_of_starts_no_cooldown() -> None:
    s = _rented(node("n0", 8), plan=_EXACT | {"down_window_s": 1e6, "up_window_s": 1e6})
    await s.orchestrator.auto_scale_cluster()
    assert (await s.orchestrator.auto_scale_cluster()).cooldown_remaining_s == 0.0
    await _submit(s, 2, gpus_per_worker=8)
    assert (await s.orchestrator.auto_scale_cluster()).direction == ScalingDirection.UP
    await _submit(s, 1, gpus_per_worker=8, tenant="late")
    decision = await s.orchestrator.auto_scale_cluster()
    assert decision.direction == ScalingDirection.NONE
    assert decision.cooldown_remaining_s == 1e6


async def test_a_rehearsal_leaves_the_cluster_alone() -> None:
    s = _rented(node("n0", 8))
    await _submit(s, 5, gpus_per_worker=3)
    await s.wait(1)
    engine = s.orchestrator.engine
    before = (engine.row.tobytes(), engine.state.job.tobytes(), engine.state.node.tobytes())
    rehearsal = Rehearsal(engine, s.clock.now_ms() + 1000, RULES["priority"])
    order = rehearsal.order([node("rented", 8)], 4)
    assert (len(order.nodes), order.demand, order.beyond, order.left) == (2, 15.0, 0.0, 0)
    assert rehearsal.give_up(3, ["n0"]) == []
    after = (engine.row.tobytes(), engine.state.job.tobytes(), engine.state.node.tobytes())
    assert after == before


# --- submission ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "fields"),
    [
        ([node("head", 0)], {"gpus_per_worker": 4}),
        ([node("n0", 8)], {"num_workers": 4, "gpus_per_worker": 8}),
        ([], {"gpus_per_worker": 4}),
        ([], {"gpus_per_worker": 4, "gpu_models": ("new",)}),
        ([node("n0", 8)], {"gpu_models": ("new",)}),
        ([node("n0", 8)], {"gpu_models": ("generic", "new"), "gpus_per_worker": 8}),
        ([node("n0", 8)], {"gpu_memory_gb": 141.0}),
        ([node("n0", 8)], {"memory_per_worker_gb": 1000.0}),
        ([node("n0", 8)], {"num_workers": 2, "gpus_per_worker": 8, "topology": Topology.RACK}),
        ([node("n0", 8)], {"kind": JobKind.SERVICE, "memory_per_worker_gb": 1000.0}),
    ],
)
async def test_a_job_that_nodes_to_be_ordered_hold_is_taken_and_runs(
    own: list[NodeSpec], fields: dict[str, Any]
) -> None:
    kind = node("rented", 8, gpu_model="new", gpu_memory_gb=141.0, memory_gb=1024.0)
    s = _rented(*own, kinds=(kind,))
    spec = job("j", max_duration_hours=_LONG, **fields)
    s.orchestrator.check_job(spec)
    await s.orchestrator.submit_job(spec)
    await _settle(s, 3)
    assert s.state_of("j") == "running"
    again = InfrastructureOrchestrator(  # a replica has nobody to ask what can be ordered
        s.foundations.consensus_engine,
        *in_memory(s.clock)[1:],
        clock=s.clock,
        runtime=s.runtime,
        shape=_SHAPE,
        nodes=own,
    )
    assert again.engine.log_hash == s.orchestrator.engine.log_hash
    assert "j" in again.jobs


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"gpus_per_worker": 16}, "gpus_per_worker"),
        ({"num_workers": 4, "gpus_per_worker": 8}, "num_workers"),  # three are possible
        ({"memory_per_worker_gb": 1025.0}, "memory_per_worker_gb"),
        ({"gpu_models": ("other",)}, "gpu_models"),
        ({"gpu_models": ("new",), "gpus_per_worker": 16}, "gpus_per_worker"),
        ({"gpu_memory_gb": 150.0}, "gpu_memory_gb"),
    ],
)
async def test_what_neither_holds_is_refused(fields: dict[str, Any], field: str) -> None:
    kind = node("rented", 8, gpu_model="new", gpu_memory_gb=141.0, memory_gb=1024.0)
    s = _rented(node("n0", 8), kinds=(kind,), plan=_EXACT | {"max_size": 3})
    with pytest.raises(ValidationError) as refused:
        await s.orchestrator.submit_job(job("j", **fields))
    assert refused.value.field == field
    assert len(s.foundations.consensus_engine.entries()) == 0


async def test_a_service_that_waits_for_nodes_may_be_deployed() -> None:
    s = _rented(node("head", 0))
    services = InferenceJobManager(s.orchestrator)
    chat = job("chat", kind=JobKind.SERVICE, num_workers=2, max_duration_hours=1e4)
    await services.deploy(chat, ServiceSpec("chat", 100.0, replicas=2))
    await _settle(s, 3)
    assert services.replicas("chat") == 2


@pytest.mark.parametrize("how", ["down", "draining", "gone", "replaced"])
async def test_a_drain_in_progress_refuses_nobody(how: str) -> None:
    s = stage(node("n0", 8), node("n1", 4), shape=_SHAPE, schedule_on_events=True)
    await s.orchestrator.submit_job(job("busy", num_workers=2, gpus_per_worker=4))
    await s.wait(1)
    for name in ("n0", "n1"):
        if how == "down":
            await s.orchestrator.handle_node_failure(name)
        elif how in ("draining", "replaced"):
            await s.orchestrator.decommission_node(name)
        else:
            await s.orchestrator.decommission_node(name, drain=False)
    if how == "replaced":
        await s.orchestrator.register_node(node("n2", 1))
    await s.orchestrator.submit_job(job("a", gpus_per_worker=8))
    assert s.state_of("a") == "pending"
    if how in ("down", "draining"):
        with pytest.raises(ValidationError, match="field 'gpus_per_worker' is 16"):
            await s.orchestrator.submit_job(job("b", gpus_per_worker=16))


# --- services ------------------------------------------------------------------------------------


def _service(**fields: Any) -> JobSpec:
    values: dict[str, Any] = {
        "kind": JobKind.SERVICE,
        "num_workers": 2,
        "elastic": True,
        "max_workers": 16,
        "max_duration_hours": 1e4,
    }
    return job("s", **(values | fields))


@pytest.mark.parametrize(
    ("tenants", "service", "beside", "reached"),
    [
        ([], {}, 2, 6),
        ([], {"cpus_per_worker": 20.0}, 0, 3),
        ([], {"topology": Topology.NODE}, 5, 3),
        ([], {}, 6, 2),
        ([TenantSpec("t", quota=5)], {"tenant": "t"}, 2, 5),
        ([TenantSpec("t", quota=2)], {"tenant": "t"}, 2, 2),
    ],
)
async def test_a_service_grows_by_what_there_is(
    tenants: list[TenantSpec], service: dict[str, Any], beside: int, reached: int
) -> None:
    hard = Semantics(quota_mode=QuotaMode.HARD if tenants else QuotaMode.NONE)
    tenants = [*tenants, TenantSpec("default", quota=1)] if tenants else []
    s = stage(node("n0", 8), shape=_SHAPE, schedule_on_events=True, semantics=hard, tenants=tenants)
    services = InferenceJobManager(s.orchestrator, down_window_s=0.0)
    rules = ServiceSpec("s", 100.0, replicas=2, max_replicas=16)
    await services.deploy(_service(**service), rules)
    if beside and not tenants:
        await s.orchestrator.submit_job(job("training", gpus_per_worker=beside, preemptible=False))
    await s.wait(1)
    decision = await services.autoscale("s", 80.0)
    assert decision.target_nodes == 12
    assert services.replicas("s") == reached
    assert f"{reached - 2} of 10 replicas: there is no room for more" in decision.reason
    assert s.orchestrator.get_cluster_status()["refused_actions"] == 0  # it was rehearsed


async def test_nobody_knows_is_not_nothing() -> None:
    s = stage(node("n0", 8), shape=_SHAPE, schedule_on_events=True)
    services = InferenceJobManager(s.orchestrator, down_window_s=0.0)
    await services.deploy(_service(num_workers=4), ServiceSpec("s", 100.0, replicas=4))
    await s.wait(1)
    decision = await services.autoscale("s", math.nan)
    assert (decision.direction, services.replicas("s")) == (ScalingDirection.NONE, 4)
    assert "demand unknown" in decision.reason
    with pytest.raises(ValidationError, match=r"field 'demand' is -1\.0"):
        await services.autoscale("s", -1.0)
    await services.autoscale("s", 0.0)
    assert services.replicas("s") == 1
    scaler = HorizontalScaler(ScalingPlan(1.0, target_utilisation=1.0, down_window_s=0.0))
    assert scaler.decide(0, 3, math.nan).target_nodes == 3
    assert scaler.decide(1, 3, math.nan, predicted=5.0).target_nodes == 5
    assert scaler.decide(2, 5, 2.0, predicted=math.nan).target_nodes == 2
