"""Random clusters, kinds of nodes, jobs and quotas: where autoscaling comes to rest, it is right.

Nobody waits whom nodes that may be ordered would let in, nobody who ran is left without a place
because a node was given up, and no node was ordered that nobody needed.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from orchestrator import (
    RULES,
    ClusterShape,
    ClusterState,
    HorizontalScaler,
    InfrastructureOrchestrator,
    JobSpec,
    NodeSpec,
    QuotaMode,
    ScalingPlan,
    Semantics,
    SimulatedProvisioner,
    SimulatedRuntime,
    TenantSpec,
    Topology,
    ValidationError,
    VirtualClock,
    in_memory,
)
from orchestrator.engine.records import could_hold, node_records, request_record
from orchestrator.kernels.change import events as live
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.state.codes import ActionKind, JobCode, NodeCode, Placement, Reason
from tests.engine.builders import MINUTE_MS, job, node

_DELAY_MS = 90_000
_MOST_TICKS, _CALM = 80, 4  # minutes; so many without a change are rest
_MODELS = ("a", "b")


@dataclass(frozen=True)
class Scene:
    """What there is, what can be ordered, and who comes when (in minutes)."""

    own: tuple[NodeSpec, ...]
    kinds: tuple[NodeSpec, ...]
    limit: int
    jobs: tuple[tuple[int, JobSpec], ...]
    quota: float | None
    rule: str


@dataclass
class Seen:
    """What happened."""

    refused: list[JobSpec] = field(default_factory=list)
    displaced: set[str] = field(default_factory=set)
    rented: set[str] = field(default_factory=set)
    used: set[str] = field(default_factory=set)
    sizes: list[tuple[int, int]] = field(default_factory=list)  # of the fleet; placed jobs


def _kinds(name: str) -> st.SearchStrategy[NodeSpec]:
    return st.builds(
        node,
        st.just(name),
        st.sampled_from([0, 2, 4, 8, 8]),
        cpu_cores=st.sampled_from([8, 32, 32]),
        memory_gb=st.sampled_from([16.0, 64.0, 64.0]),
        gpu_model=st.sampled_from(_MODELS),
        rack=st.integers(0, 1),
    )


@st.composite
def _jobs(draw: st.DrawFn, name: str) -> JobSpec:
    gpus = draw(st.sampled_from([0, 1, 1, 2, 3, 5]))
    workers = draw(st.sampled_from([1, 1, 2, 3]))
    return job(
        name,
        num_workers=workers,
        gpus_per_worker=gpus,
        cpus_per_worker=draw(st.sampled_from([0.0, 1.0, 6.0])),
        memory_per_worker_gb=draw(st.sampled_from([1.0, 1.0, 12.0])),
        gpu_models=draw(st.sampled_from([(), (), (), ("a",)])) if gpus else (),
        topology=draw(st.sampled_from([Topology.ANY, Topology.ANY, Topology.RACK, Topology.NODE])),
        elastic=draw(st.booleans()),
        min_workers=draw(st.integers(1, workers)),
        max_workers=draw(st.integers(workers, 6)),
        preemptible=draw(st.sampled_from([True, True, False])),
        max_duration_hours=draw(st.sampled_from([0.05, 0.1, 0.1, 100.0, 100.0])),
        tenant=draw(st.sampled_from(["x", "y"])),
    )


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    """Small clusters that grow and shrink."""
    own = tuple(draw(_kinds(f"own{k}")) for k in range(draw(st.integers(0, 2))))
    kinds = tuple(draw(_kinds(f"kind{k}")) for k in range(draw(st.integers(1, 3))))
    jobs = [draw(_jobs(f"j{k}")) for k in range(draw(st.integers(2, 9)))]
    return Scene(
        own,
        kinds,
        draw(st.integers(len(own) + 1, 7)),
        tuple((draw(st.integers(0, 8)), spec) for spec in jobs),
        draw(st.sampled_from([None, None, None, 0.0, 6.0])),
        draw(st.sampled_from(["fcfs", "fcfs", "elastic_fcfs", "sjf"])),
    )


def _cluster(scene: Scene, clock: VirtualClock) -> InfrastructureOrchestrator:
    gpus = [kind.gpus for kind in scene.kinds if kind.gpus > 0]
    unit = gpus[0] if gpus else scene.kinds[0].cpu_cores
    plan = ScalingPlan(
        float(unit),
        target_utilisation=1.0,
        min_size=0,
        max_size=scene.limit,
        tolerance=0.0,
        down_window_s=0.0,
    )
    quota = scene.quota
    tenants = [] if quota is None else [TenantSpec("x", quota=quota), TenantSpec("y", quota=1e3)]
    return InfrastructureOrchestrator(
        *in_memory(clock),
        clock=clock,
        runtime=SimulatedRuntime(clock),
        policy=RULES[scene.rule],
        shape=ClusterShape(envs=1, jobs=16, workers=8, nodes=8, devices=8),
        nodes=scene.own,
        semantics=Semantics(quota_mode=QuotaMode.NONE if quota is None else QuotaMode.HARD),
        tenants=tenants,
        schedule_on_events=True,
        autoscaler=HorizontalScaler(plan),
        provisioner=SimulatedProvisioner(clock, *scene.kinds, delay_s=_DELAY_MS / 1000),
    )


async def _live(scene: Scene) -> tuple[InfrastructureOrchestrator, Seen]:
    clock, seen = VirtualClock(), Seen()
    cluster = _cluster(scene, clock)
    for tick in range(_MOST_TICKS):
        for when, spec in scene.jobs:
            if when == tick:
                try:
                    await cluster.submit_job(spec)
                except ValidationError as error:
                    if "the quota of tenant" not in str(error):  # no nodes help there
                        seen.refused.append(spec)
        await clock.advance_to(clock.now_ms())
        before = set(cluster.engine.placed())
        await cluster.auto_scale_cluster()
        code = cluster.engine.jobs.code
        seen.displaced |= {name for name in before if code(name) != JobCode.RUNNING}
        for step in (0, _DELAY_MS % MINUTE_MS + 1, MINUTE_MS):
            await clock.advance_to(tick * MINUTE_MS + step)
            seen.rented |= cluster.engine.nodes.rented
            for name in cluster.engine.placed():
                seen.used |= {place.node_id for place in cluster.engine.workers_of(name)}
        size = cluster.get_cluster_status()["scaling"]["size"]
        seen.sizes.append((size, len(cluster.engine.placed())))
        if tick > 9 and _rests(cluster, seen):
            break
    return cluster, seen


def _rests(cluster: InfrastructureOrchestrator, seen: Seen) -> bool:
    """Whether nothing has changed of late, and nobody is about to end."""
    ends = [name for name in cluster.engine.placed() if cluster.jobs[name].max_duration_hours < 1]
    return not ends and len(set(seen.sizes[-_CALM:])) == 1


def _start(cluster: InfrastructureOrchestrator, name: str, state: ClusterState) -> Reason:
    place, best, nodes = int(ActionKind.PLACE), int(Placement.BEST_FIT), np.empty(8, np.int32)
    entry.open_point(state.rows, 0)
    j = cluster.engine.jobs.index.find(name)
    return Reason(entry.commit(state.rows, 0, place, j, best, nodes))


def _lets_in(cluster: InfrastructureOrchestrator, name: str, more: list[NodeSpec]) -> bool:
    """Whether a job would start if some nodes joined, by the kernels alone."""
    engine = cluster.engine
    state = engine.state_at(cluster.clock.now_ms())
    if _start(cluster, name, state) == Reason.QUOTA and cluster.jobs[name].gpus_per_worker == 0:
        return False  # nodes with GPUs would change what quotas are counted in, but not for that
    models = list(engine.nodes.models)
    for spec in more:
        free = np.flatnonzero(state.node[0]["state"] == NodeCode.ABSENT)
        if spec.gpu_model not in models:
            models.append(spec.gpu_model)
        record = node_records([spec])
        record["model"] = models.index(spec.gpu_model)
        live.put_node(state.rows, 0, int(free[0]), record)
    return _start(cluster, name, state) == Reason.OK


def _require_right(scene: Scene, cluster: InfrastructureOrchestrator, seen: Seen) -> None:
    status = cluster.get_cluster_status()
    assert _rests(cluster, seen), f"it does not come to rest: {seen.sizes}"
    room = scene.limit - status["scaling"]["size"]
    for name, why in status["queue"]["why_not"].items():
        assert why != "ok", f"'{name}' fits and waits"
        for kind in scene.kinds:
            for count in range(1, room + 1):
                more = [replace(kind, node_id=f"more{k}") for k in range(count)]
                assert not _lets_in(cluster, name, more), f"{count} of {kind.node_id} let in {name}"
    for name in seen.displaced:
        state = cluster.get_job_status(name)["state"]
        assert state in ("running", "completed"), f"'{name}' ran, and is {state}"
    moments = [minute * MINUTE_MS for minute, _ in scene.jobs]
    moments += [int(end_ms) for end_ms in cluster.engine.state.job[0]["end_ms"]]
    for name in seen.rented - seen.used:  # only if somebody came or ended while it was on its way
        ordered_ms = int(name.split("-")[1])
        changed = [ms for ms in moments if ordered_ms < ms <= ordered_ms + _DELAY_MS]
        assert changed, f"ordered for nobody: {name}"
    own = {spec.node_id for spec in scene.own}
    assert own <= set(cluster.nodes), "own nodes stay"
    for spec in seen.refused:
        models = tuple({*_MODELS})
        ask = request_record(spec, 0, 0, models)
        for kind in scene.kinds:
            largest = [*scene.own, *[kind] * (scene.limit - len(scene.own))]
            assert not could_hold(ask, largest, models), f"'{spec.job_id}' was refused"


@pytest.mark.slow
@pytest.mark.property
@given(scene=scenes())
def test_autoscaling_comes_to_rest_where_it_is_right(scene: Scene) -> None:
    cluster, seen = asyncio.run(_live(scene))
    _require_right(scene, cluster, seen)
    event(f"rented {min(len(seen.rented), 4)}")
    event(f"displaced {min(len(seen.displaced), 2)}")
    event(f"waiting {min(cluster.get_cluster_status()['queue']['length'], 2)}")
