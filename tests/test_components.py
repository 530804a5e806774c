"""The contract's component tree: the running orchestrator works through each of its 26 components.

Each is shown twice: as it is, and with one of its methods replaced. What the orchestrator does, or
tells, must then be something else. Where a component is a client of the orchestrator, or can only
tell, the scene says why.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

import orchestrator
from orchestrator import TenantSpec, VirtualClock
from orchestrator.autoscaler import (
    CooldownManager,
    HorizontalScaler,
    PredictiveScaler,
    ScalingPlan,
    SeasonalNaive,
    VerticalScaler,
)
from orchestrator.errors import RateLimitedError, ServiceError
from orchestrator.kernels.state.codes import JobKind, Placement, RuleKey, Topology
from orchestrator.mesh import (
    CircuitBreaker,
    HealthCheck,
    LimitSpec,
    LoadBalancer,
    RateLimiter,
    RetryPolicy,
    ServiceDiscovery,
    ServiceSpec,
)
from orchestrator.metrics.views import (
    ClusterUtilization,
    JobCompletionRate,
    ScalingEfficiency,
    SchedulingLatency,
)
from orchestrator.resources import (
    GPUAllocator,
    MemoryManager,
    NetworkBandwidthManager,
    StorageQuotaManager,
)
from orchestrator.runtimes import SimulatedProvisioner
from orchestrator.scheduling.rules import (
    RULES,
    BinPacker,
    FairShareScheduler,
    GangScheduler,
    PriorityQueue,
    Rule,
    Scheduler,
    TopologyAwareScheduler,
)
from orchestrator.types import JobPriority, JobSpec, ScalingDecision, ScalingDirection
from orchestrator.workloads.advice import Rightsizer
from orchestrator.workloads.serving import BatchProcessor, InferenceJobManager
from orchestrator.workloads.throughput import application_named
from orchestrator.workloads.training import ElasticTrainer, TrainingJobManager
from tests.engine.builders import Stage, job, node, stage

Scene = Callable[[], Awaitable[object]]


# --- Scheduler -----------------------------------------------------------------------------------


async def _running(s: Stage, *specs: JobSpec, minutes: float = 1.0) -> list[str]:
    """Those of some jobs that run a while after they were submitted."""
    for spec in specs:
        await s.orchestrator.submit_job(spec)
    await s.wait(minutes)
    return [spec.job_id for spec in specs if s.state_of(spec.job_id) == "running"]


async def _packed() -> object:
    """By default two small jobs share a node, so that a large one finds one."""
    s = stage(node("n0", 8), node("n1", 8), schedule_on_events=True)
    jobs = [job("a", gpus_per_worker=2), job("b", gpus_per_worker=2), job("c", gpus_per_worker=8)]
    return await _running(s, *jobs)


async def _urgent_first() -> object:
    """By default the more important job preempts."""
    s = stage(node("n0"), schedule_on_events=True)
    low = job("low", gpus_per_worker=4, priority=JobPriority.BEST_EFFORT)
    await _running(s, low)
    return await _running(s, job("high", gpus_per_worker=4, priority=JobPriority.CRITICAL))


async def _shares() -> object:
    """What each of two tenants gets, all jobs of the first one being older."""
    tenants = (TenantSpec("a"), TenantSpec("b"))
    fair = Scheduler(queue=FairShareScheduler())
    s = stage(node("n0"), policy=fair, tenants=tenants, schedule_on_events=True)
    names = await _running(s, *[job(f"{t}{k}", tenant=t) for t in "ab" for k in range(4)])
    return [name[0] for name in names]


async def _overtaking() -> object:
    """In strict order nobody overtakes the gang that does not fit."""
    strict = Scheduler(gangs=GangScheduler(strict_order=True))
    s = stage(node("n0"), policy=strict, schedule_on_events=True)
    first = job("first", gpus_per_worker=3)
    return await _running(s, first, job("gang", num_workers=4), job("small"))


async def _bound() -> object:
    """Gangs have to stay on one node, and wait rather than spread."""
    close = Scheduler(topology=TopologyAwareScheduler(Topology.NODE))
    s = stage(node("n0"), node("n1"), policy=close, schedule_on_events=True)
    busy = [job(f"busy{k}", gpus_per_worker=3) for k in range(2)]
    return await _running(s, *busy, job("gang", num_workers=2))


# --- AutoScaler ----------------------------------------------------------------------------------


def _rented(scaler: Any) -> Stage:
    clock = VirtualClock()
    provisioner = SimulatedProvisioner(clock, node("rented"), delay_s=60.0)
    return stage(
        node("n0"),
        clock=clock,
        autoscaler=scaler,
        provisioner=provisioner,
        schedule_on_events=True,
    )


async def _grown() -> object:
    """Nodes that are ordered for three jobs that need one each, by default."""
    s = _rented(None)
    await _running(s, *[job(f"j{k}", gpus_per_worker=4) for k in range(3)], minutes=0.0)
    await s.orchestrator.auto_scale_cluster()
    return s.orchestrator.get_cluster_status()["scaling"]["pending"] >= 2


async def _foreseen() -> object:
    """Nodes that are there before the demand of the third day is."""
    plan = ScalingPlan(4.0, max_size=4, down_window_s=0.0, target_utilisation=1.0)
    s = _rented(PredictiveScaler(plan, [SeasonalNaive()], day=6, delay=1))
    for tick in range(18):
        await s.clock.advance_to(tick * 120_000)
        for k in range(1 if tick % 6 < 3 else 3):
            short = job(f"t{tick}.{k}", gpus_per_worker=4, max_duration_hours=118 / 3600)
            await s.orchestrator.submit_job(short)
        await s.clock.advance_to(s.clock.now_ms())
        await s.orchestrator.auto_scale_cluster()
    return s.orchestrator.metrics.scaling.summary()["reactive"] <= 2


async def _calm() -> object:
    """How often the size changes, demand coming and going every other minute."""
    s = _rented(HorizontalScaler(ScalingPlan(4.0, target_utilisation=1.0)))
    changes = 0
    for minute in range(8):
        for k in range(2 if minute % 2 == 0 else 0):
            short = job(f"m{minute}.{k}", gpus_per_worker=4, max_duration_hours=45 / 3600)
            await s.orchestrator.submit_job(short)
        await s.wait(0)
        before = s.orchestrator.get_cluster_status()["scaling"]["size"]
        await s.orchestrator.auto_scale_cluster()
        await s.wait(1)
        changes += s.orchestrator.get_cluster_status()["scaling"]["size"] != before
    return changes


async def _sized() -> object:
    """Memory of the fourth job like three that used half of what they asked for.

    Advice is taken where whoever submits says so: a job that gets less memory than it asked for may
    be killed, and a running one would have to be restarted, for which the interface has no word.
    """
    s = stage(node("n0"), schedule_on_events=True)
    training = TrainingJobManager(s.orchestrator, rightsizer=Rightsizer(least_jobs=3))
    for k in range(4):
        spec = job(f"like-{k}", name="like", memory_per_worker_gb=8.0)
        await training.submit(spec, rightsize=True)
        if k < 3:
            await s.wait(1)
            training.report_usage(spec.job_id, cpus=1.0, memory_gb=4.0)
            await s.wait(60)
    return round(s.orchestrator.jobs["like-3"].memory_per_worker_gb, 3)


# --- ServiceMesh ---------------------------------------------------------------------------------


async def _requests(*, limit: LimitSpec | None = None, sick: str = "") -> tuple[Stage, list[str]]:
    """Twenty requests to two replicas: who answered, or which error came of each."""
    asked: set[str] = set()

    async def transport(address: str, request: object) -> str:
        asked.add(address)
        if address.endswith(sick or "nobody"):
            raise ConnectionError("sick")
        return address if isinstance(request, HealthCheck) else f"{address} answers"

    s = stage(node("n0"), transport=transport, schedule_on_events=True)
    if limit is not None:
        s.orchestrator.mesh.add_service(ServiceSpec("llm", 50.0, limit=limit))
    spec = job("llm", kind=JobKind.SERVICE, num_workers=2, max_duration_hours=1e4)
    await s.orchestrator.submit_job(spec)
    await s.clock.advance_to(0)
    answers = []

    async def ask() -> None:
        try:
            answers.append(await s.orchestrator.route_request("llm", "prompt"))
        except (ServiceError, RateLimitedError) as error:
            answers.append(type(error).__name__)

    for _ in range(20):
        asking = asyncio.ensure_future(ask())
        await s.clock.advance_to(s.clock.now_ms() + 25)
        await asking
    return s, answers


async def _discovered() -> object:
    _, answers = await _requests()
    return {answer for answer in answers if "answers" not in answer}


async def _balanced() -> object:
    _, answers = await _requests()
    return len(set(answers))


async def _shut_out() -> object:
    s, _ = await _requests(sick=":0")
    return await s.orchestrator.discover_service("llm")


async def _retried() -> object:
    _, answers = await _requests(sick=":0")
    return {answer for answer in answers if "answers" not in answer}


async def _limited() -> object:
    _, answers = await _requests(limit=LimitSpec(10.0, 1.0))
    return answers.count("RateLimitedError") > 5


# --- ResourceManager: it tells; only kernels reserve and release (ARCHITECTURE.md) ---------------


async def _resources() -> dict[str, Any]:
    tenants = (TenantSpec("a", storage_quota_gb=100.0),)
    nodes = [node(f"n{k}", network_bandwidth_gbps=10.0) for k in range(2)]
    s = stage(*nodes, tenants=tenants, schedule_on_events=True)
    gang = job(
        "gang", num_workers=2, gpus_per_worker=3, network_gbps=5.0, memory_per_worker_gb=64.0
    )
    await _running(s, JobSpec(**{**vars(gang), "tenant": "a", "checkpoint_gb": 40.0}))
    status: dict[str, Any] = s.orchestrator.get_cluster_status()
    return {name: x["used"] for name, x in status["resources"].items()}


def _of(resource: str) -> Scene:
    async def scene() -> object:
        return (await _resources())[resource]

    return scene


# --- WorkloadManager: clients of the orchestrator's interface; manage() has it ask them -----------


async def _trained() -> object:
    """What is learned of a job that has ended, when the cluster's size is decided on."""
    s = stage(node("n0"), schedule_on_events=True)
    sizes = Rightsizer(least_jobs=1)
    training = TrainingJobManager(s.orchestrator, rightsizer=sizes)
    s.orchestrator.manage(training)
    await s.orchestrator.submit_job(job("a"))
    await s.wait(1)
    training.report_usage("a", cpus=1.0, memory_gb=0.5)
    await s.wait(60)
    await s.orchestrator.auto_scale_cluster()
    return sizes.status()["watched"]


async def _served() -> object:
    """Replicas of a service that gets three times what one of them can answer."""
    s = stage(node("n0", 8), schedule_on_events=True)
    s.orchestrator.manage(InferenceJobManager(s.orchestrator))
    spec = job(
        "llm",
        kind=JobKind.SERVICE,
        elastic=True,
        max_workers=8,
        step_seconds=0.1,
        max_duration_hours=1e4,
    )
    await s.orchestrator.submit_job(spec)
    await s.clock.advance_to(0)
    await s.orchestrator.auto_scale_cluster()
    asking = []
    for _ in range(60):
        asking.append(asyncio.ensure_future(s.orchestrator.route_request("llm", "prompt")))
        await s.clock.advance_to(s.clock.now_ms() + 33)
    await s.orchestrator.auto_scale_cluster()
    await s.wait(1)
    await asyncio.gather(*asking)
    return len(await s.orchestrator.discover_service("llm"))


async def _batch() -> object:
    """Class of a batch job that asked for another one."""
    s = stage(node("n0"), schedule_on_events=True)
    s.orchestrator.manage(BatchProcessor(s.orchestrator))
    pushy = job("a", kind=JobKind.BATCH, priority=JobPriority.CRITICAL, preemptible=False)
    await s.orchestrator.submit_job(pushy)
    return s.orchestrator.jobs["a"].priority


async def _tuned() -> object:
    """Workers of an elastic job of which it is known how fast it is."""
    s = stage(node("n0", 8), schedule_on_events=True)
    s.orchestrator.manage(ElasticTrainer(s.orchestrator, {"a": application_named("bert")}))
    await _running(s, job("a", elastic=True, max_workers=8))
    await s.orchestrator.auto_scale_cluster()
    return len(s.orchestrator.engine.workers_of("a")) > 1


# --- OrchestratorMetrics -------------------------------------------------------------------------


async def _summary() -> dict[str, Any]:
    s = _rented(None)
    await _running(s, *[job(f"j{k}", gpus_per_worker=4) for k in range(2)])
    await s.orchestrator.auto_scale_cluster()
    await s.wait(240)
    return s.orchestrator.metrics.summary(s.clock.now_ms())


def _told(view: str, name: str) -> Scene:
    async def scene() -> object:
        return (await _summary())[view][name]

    return scene


# --- the tree ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Component:
    """A component, what the orchestrator does through it, and what is replaced to see that."""

    kind: type
    scene: Scene
    expected: object
    method: str
    stub: Callable[..., Any]


async def _nothing(*_: object) -> None:
    """Does nothing."""


def _as_is(_: object, rule: Rule) -> Rule:
    return rule


def _keep(_: object, spec: JobSpec) -> JobSpec:
    return spec


def _spread(_: object, rule: Rule) -> Rule:
    return RULES["fcfs"].__class__(rule.name, rule.key, Placement.SPREAD, rule.preemption)


def _stay(self: Any, now_ms: int, size: int, demand: float, **_: object) -> ScalingDecision:
    return ScalingDecision(ScalingDirection.NONE, size, "it stays", demand, 0.0)


def _blind(self: Any) -> Any:
    return orchestrator.Forecast(0.0, 0.0, "blind", True)


_FIRST = "llm@n0:0"
_TREE: dict[str, list[Component]] = {
    "Scheduler": [
        Component(BinPacker, _packed, ["a", "b", "c"], "configure", _spread),
        Component(PriorityQueue, _urgent_first, ["high"], "configure", _as_is),
        Component(FairShareScheduler, _shares, ["a", "a", "b", "b"], "configure", _as_is),
        Component(GangScheduler, _overtaking, ["first"], "configure", _as_is),
        Component(TopologyAwareScheduler, _bound, ["busy0", "busy1"], "admit", _keep),
    ],
    "AutoScaler": [
        Component(HorizontalScaler, _grown, True, "decide", _stay),
        Component(VerticalScaler, _sized, 4.6, "recommend", lambda _, now: _no_advice(now)),
        Component(PredictiveScaler, _foreseen, True, "forecast", _blind),
        Component(CooldownManager, _calm, 1, "record", lambda _, now_ms: None),
    ],
    "ServiceMesh": [
        Component(ServiceDiscovery, _discovered, set(), "lookup", lambda _, service: []),
        Component(LoadBalancer, _balanced, 2, "choose", lambda _, a, now_ms=None: (a[0], a[0])),
        Component(CircuitBreaker, _shut_out, ["llm@n0:1"], "would_admit", lambda _, now_ms: True),
        Component(RetryPolicy, _retried, set(), "spend", lambda _: False),
        Component(RateLimiter, _limited, True, "allow", lambda _, now_ms: True),
    ],
    "ResourceManager": [
        Component(GPUAllocator, _of("gpus"), 6000, "total", lambda _: _NOTHING_USED),
        Component(MemoryManager, _of("memory"), 128 * 1024, "total", lambda _: _NOTHING_USED),
        Component(NetworkBandwidthManager, _of("network"), 5000, "tightest", lambda _: None),
        Component(StorageQuotaManager, _of("storage"), 40 * 1024, "total", lambda _: _NOTHING_USED),
    ],
    "WorkloadManager": [
        Component(TrainingJobManager, _trained, 0, "review", _nothing),
        Component(InferenceJobManager, _served, 5, "review", _nothing),
        Component(BatchProcessor, _batch, JobPriority.BEST_EFFORT, "admit", _keep),
        Component(ElasticTrainer, _tuned, True, "review", _nothing),
    ],
    "OrchestratorMetrics": [
        Component(
            ClusterUtilization, _told("utilization", "highest"), 1.0, "now", lambda row: 0.25
        ),
        Component(
            SchedulingLatency, _told("scheduling_latency", "count"), 2, "add", lambda *_: None
        ),
        Component(
            JobCompletionRate,
            _told("completion", "completed"),
            2,
            "summary",
            lambda *_: {"completed": 7},
        ),
        Component(ScalingEfficiency, _told("scaling", "nodes_added"), 2, "note", lambda *_: None),
    ],
}
_NOTHING_USED = orchestrator.Usage(1, 1, "nothing")
_ALL = [component for components in _TREE.values() for component in components]


def _no_advice(current: Any) -> Any:
    return orchestrator.ResourceRequest(dict(current), False, "no advice")


@pytest.fixture
def patch() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patching:
        yield patching


@pytest.mark.parametrize("component", _ALL, ids=lambda component: component.kind.__name__)
async def test_the_orchestrator_works_through(
    component: Component, patch: pytest.MonkeyPatch
) -> None:
    assert await component.scene() == component.expected
    own = component.kind.__dict__[component.method]
    stub = component.stub
    patch.setattr(component.kind, component.method, staticmethod(stub) if _is_static(own) else stub)
    assert await component.scene() != component.expected


def _is_static(member: object) -> bool:
    return isinstance(member, staticmethod)


def test_the_tree_is_the_contracts() -> None:
    """All 26, by the names and groups of the contract, where its text is at hand."""
    assert [len(components) for components in _TREE.values()] == [5, 4, 5, 4, 4, 4]
    assert {component.kind.__name__ for component in _ALL} <= set(orchestrator.__all__)
    found = sorted((Path(__file__).parents[2] / "shared" / "seed").glob("*.txt"))
    if not found:
        pytest.skip("the contract's text is not here; it belongs into ../shared/seed")
    lines = found[0].read_text(encoding="utf-8").splitlines()
    tree = [line.split("#")[0].strip("│├└─ ") for line in lines if "──" in line]
    names = [name for group, components in _TREE.items() for name in (group, *_names(components))]
    assert tree == names


def _names(components: list[Component]) -> list[str]:
    return [component.kind.__name__ for component in components]


def test_the_default_rule_is_made_of_the_components() -> None:
    assert Scheduler().rule == RULES["priority"]
    fair = Scheduler(FairShareScheduler(), BinPacker(Placement.FGD), GangScheduler(True), name="x")
    assert fair.rule == Rule("x", RuleKey.DRF, Placement.FGD, blocking=True, reservation=True)
    plain = Scheduler(gangs=GangScheduler(reservation=False)).rule
    assert plain == replace(RULES["priority"], reservation=False)
    close = Scheduler(topology=TopologyAwareScheduler())
    assert close.rule.placement == Placement.TIGHTEST


async def test_a_scheduler_may_be_replaced_while_it_runs() -> None:
    s = stage(node("n0"), node("n1"), schedule_on_events=True)
    gang = job("gang", num_workers=2, gpus_per_worker=3)
    assert await _running(s, gang) == ["gang"]
    s.orchestrator.policy = Scheduler(topology=TopologyAwareScheduler(Topology.NODE))
    with pytest.raises(orchestrator.ValidationError, match=r"num_workers|gpus|topology"):
        await s.orchestrator.submit_job(job("wide", num_workers=2, gpus_per_worker=3))
    assert "wide" not in s.orchestrator.jobs
