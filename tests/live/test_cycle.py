"""A rule that plans a whole cycle does what it would do if it was asked again and again."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from orchestrator import RULES, Semantics, TenantSpec, ValidationError
from orchestrator.engine.engine import Room
from orchestrator.engine.plans import no_preference
from orchestrator.engine.snapshot import Snapshot
from orchestrator.kernels.run.cycle import wished_place
from orchestrator.kernels.state.codes import Placement, QuotaMode, Topology
from orchestrator.kernels.state.row import GROUPS, ClusterShape, allocate
from orchestrator.messages import Decide, PlaceJob, Plan, PreemptJob, Wait
from orchestrator.scheduling.rules import Rule, RulePolicy
from orchestrator.types import JobPriority
from tests.engine.builders import Stage, job, node, stage

_SHAPE = ClusterShape(envs=1, jobs=48, workers=4, nodes=6, devices=4, tenants=3, log=4096)

# Placement by fragmentation wants a trace's typical pods.
_NAMES = sorted(name for name, rule in RULES.items() if rule.placement != Placement.FGD)


class _OneByOne:
    """A rule that says one thing at a time."""

    def __init__(self, rule: Rule) -> None:
        self._policy = RulePolicy(rule)

    def decide(self, snapshot: Snapshot) -> Plan:
        return self._policy.decide(snapshot)


def _job(draw: np.random.Generator, k: int) -> Any:
    workers = int(draw.choice([1, 1, 2, 4]))
    elastic = bool(draw.random() < 0.3)
    return job(
        f"j{k}",
        priority=JobPriority(int(draw.integers(4))),
        num_workers=workers,
        gpus_per_worker=int(draw.choice([0, 1, 1, 2, 4])),
        cpus_per_worker=1.0,
        gpu_fraction=float(draw.choice([0.5, 1.0])) if workers == 1 else 1.0,
        max_duration_hours=float(draw.choice([0.1, 0.5, 2.0])),
        preemptible=bool(draw.random() < 0.7),
        checkpoint_seconds=float(draw.choice([0.0, 30.0])),
        elastic=elastic,
        max_workers=4,
        topology_aware=bool(draw.random() < 0.7),
        topology=Topology(int(draw.choice([0, 0, 0, 1]))),
        tenant=f"t{draw.integers(3)}",
        checkpoint_gb=float(draw.choice([0.0, 1.0])),
    )


def _semantics(draw: np.random.Generator) -> Semantics:
    return Semantics(
        preemption_limit=int(draw.choice([0, 1, 4])),
        min_run_seconds=float(draw.choice([0.0, 120.0])),
        quota_mode=QuotaMode(int(draw.integers(3))),
        resize=bool(draw.random() < 0.5),
        commitment=bool(draw.random() < 0.15),
    )


async def _live(policy: Any, seed: int) -> Stage:
    """A cluster that lives through a random hour, and is scheduled now and then."""
    draw = np.random.default_rng(seed)
    links = ["PCIe", "NVLink"]
    nodes = [
        node(f"n{k}", gpus=4, cpu_cores=int(draw.choice([4, 16])), gpu_topology=links[k % 2])
        for k in range(int(draw.integers(1, 6)))
    ]
    nodes = [replace(one, rack=k // 2) for k, one in enumerate(nodes)]
    capacity = 4.0 * len(nodes)
    tenants = [
        TenantSpec("t0", quota=capacity / 2, storage_quota_gb=3.0),
        TenantSpec("t1", quota=capacity / 4),
    ]
    options = {"shape": _SHAPE, "tenants": tenants, "semantics": _semantics(draw)}
    scene = stage(*nodes, policy=policy, schedule_on_events=False, **options)
    count = 0
    for _ in range(int(draw.integers(1, 5))):
        for _ in range(int(draw.integers(1, 9))):
            spec = _job(draw, count)
            count += 1
            with suppress(ValidationError):  # it would never fit
                await scene.orchestrator.submit_job(spec)
        await scene.orchestrator.schedule()
        await scene.wait(float(draw.integers(0, 20)))
    await scene.orchestrator.schedule()
    return scene


def _state(scene: Stage) -> tuple[Any, ...]:
    """All that a cluster is, but for what only saves time."""
    engine = scene.orchestrator.engine
    row, state = engine.row, engine.state
    names = [
        name
        for group in ("clock", "lengths", "capacity", "counters", "metrics")
        for name in GROUPS[group]
    ]
    scalars = {name: row[name].item() for name in names}
    count = int(row["num_jobs"])
    jobs = {name: state.job[0, :count][name].tolist() for name in state.job.dtype.names or ()}
    del jobs["kind"]
    return (
        scalars,
        jobs,
        state.node[0].tolist(),
        state.device[0].tolist(),
        state.tenant[0].tolist(),
        state.queue[0, : row["queue_len"]].tolist(),
        state.running[0, : row["running_len"]].tolist(),
        state.log[0, : row["log_count"]].tolist(),
        state.effect[0, : row["effect_count"]].tolist(),
    )


@pytest.mark.property
@pytest.mark.parametrize("name", _NAMES)
@settings(max_examples=settings().max_examples // 5)
@given(seed=st.integers(0, 2**32 - 1))
@example(seed=312644)  # a victim that leaves at once changes the queue that is being served
def test_a_planned_cycle_is_the_one_that_is_decided_step_by_step(name: str, seed: int) -> None:
    planned = asyncio.run(_live(RulePolicy(RULES[name]), seed))
    stepped = asyncio.run(_live(_OneByOne(RULES[name]), seed))
    assert _state(planned) == _state(stepped)
    assert planned.orchestrator.get_cluster_status()["errors"]["policy"] == 0


async def test_a_cycle_of_a_rule_is_one_entry() -> None:
    scene = stage(*(node(f"n{k}") for k in range(4)))
    for k in range(14):
        await scene.orchestrator.submit_job(job(f"j{k}"))
    before = len(scene.orchestrator.consensus.entries())
    assert len(await scene.orchestrator.schedule()) == 14
    decided = [
        entry.body
        for entry in scene.orchestrator.consensus.entries()[before:]
        if isinstance(entry.body, Decide)
    ]
    assert len(decided) == 1
    assert [type(action) for action in decided[0].plan.actions[:14]] == [PlaceJob] * 14


async def test_who_overrides_one_decision_is_asked_for_each() -> None:
    class Counting(RulePolicy):
        asked = 0

        def decide(self, snapshot: Snapshot) -> Plan:
            self.asked += 1
            return super().decide(snapshot)

    policy = Counting(RULES["fcfs"])
    scene = stage(node("n"), policy=policy)
    for k in range(3):
        await scene.orchestrator.submit_job(job(f"j{k}"))
    await scene.orchestrator.schedule()
    assert policy.asked >= 3


async def test_what_comes_between_two_parts_of_a_plan_is_thought_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A more important job that arrives in the middle of a cycle starts before the rest of it."""
    monkeypatch.setattr("orchestrator.live.cycle.MOST_ACTIONS", 1)
    scene = stage(node("n", gpus=3))
    for k in range(3):
        await scene.orchestrator.submit_job(job(f"j{k}"))
    cycle, urgent = scene.orchestrator._cycle, job("urgent", priority=JobPriority.CRITICAL)
    go_on = cycle._go_on

    async def interrupted() -> Any:
        done = await go_on()
        if urgent.job_id not in scene.orchestrator.jobs:
            await scene.orchestrator.submit_job(urgent)
        return done

    monkeypatch.setattr(cycle, "_go_on", interrupted)
    started = [job_id for job_id, _ in await scene.orchestrator.schedule()]
    assert started[:2] == ["j0", "urgent"]


async def test_an_expected_plan_is_refused_whole_where_something_came_between() -> None:
    scene = stage(node("n", gpus=2))
    for k in range(3):
        await scene.orchestrator.submit_job(job(f"j{k}"))
    engine = scene.orchestrator.engine
    plan = Plan((PlaceJob("j0"), PlaceJob("j1"), PreemptJob("nobody"), Wait()))
    engine.expect([plan], engine.applied - 1)
    before = engine.log_hash
    outcome = await scene.orchestrator._propose(Decide(plan))
    assert outcome.reason.name == "NOT_QUEUED"
    assert engine.log_hash == before
    assert engine.placed() == {}


async def test_a_copy_into_kept_memory_is_the_same_copy() -> None:
    scene = stage(node("n"), node("m"))
    engine = scene.orchestrator.engine
    room = Room()
    await scene.orchestrator.submit_job(job("a"))
    first = engine.snapshot(room).state
    await scene.orchestrator.submit_job(job("b"))
    again = engine.snapshot(room)
    assert again.state is first
    assert again.waiting() == engine.snapshot().waiting()


def test_a_job_without_wishes_goes_where_it_fits_best() -> None:
    state = allocate(_SHAPE)
    desk = no_preference(state.shape).desk(state.shape)
    assert wished_place(state.rows, 0, 0, desk) == Placement.BEST_FIT
