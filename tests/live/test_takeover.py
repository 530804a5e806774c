"""A restart: settings, undelivered effects, counts and accounts are those of the log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from orchestrator import InfrastructureOrchestrator, Semantics, TenantSpec, VirtualClock, in_memory
from orchestrator.autoscaler import HorizontalScaler, ScalingPlan
from orchestrator.engine.engine import Outcome
from orchestrator.errors import ValidationError
from orchestrator.foundations import InMemoryConsensus
from orchestrator.kernels.state.codes import JobKind, QuotaMode
from orchestrator.live.outbox import Outbox, Places
from orchestrator.live.settings import Settings
from orchestrator.mesh import LimitSpec, ServiceSpec
from orchestrator.messages import (
    Effect,
    Entry,
    Event,
    RegroupJob,
    ReleaseNode,
    SaveCheckpoint,
    StartJob,
    StopJob,
    StopReason,
    WorkerPlacement,
    WorkersLost,
)
from orchestrator.runtimes import SimulatedProvisioner, SimulatedRuntime
from orchestrator.scheduling.rules import RULES
from orchestrator.types import JobPriority
from tests.engine.builders import HOUR_MS, MINUTE_MS, SHAPE, job, node


class _Outside(SimulatedRuntime):
    """Workers outlive the orchestrator. It can be out of reach, for some kinds of effects."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(clock)
        self.refuses: tuple[type[Effect], ...] = ()
        self.told: list[Effect] = []

    def carry_out(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, self.refuses):
                raise OSError("no connection")
            self.told.append(effect)
            super().carry_out([effect])

    async def say(self, event: Event) -> None:
        assert self._deliver is not None
        await self._deliver(event)


class _Scene:
    """A cluster whose orchestrator can be killed and made anew."""

    def __init__(self, log: InMemoryConsensus | None = None, **options: Any) -> None:
        self.clock = VirtualClock()
        self.found = in_memory(self.clock)
        if log is not None:
            self.found = self.found._replace(consensus_engine=log)
        self.runtime = _Outside(self.clock)
        self.options: dict[str, Any] = {"nodes": [node("n0")], "shape": SHAPE}
        self.options |= {"schedule_on_events": True, "check": True}
        self.cluster = self.restart(**options)

    def restart(self, **options: Any) -> InfrastructureOrchestrator:
        self.options |= options
        self.cluster = InfrastructureOrchestrator(
            *self.found._replace(fault_detector=in_memory(self.clock).fault_detector),
            clock=self.clock,
            runtime=self.runtime,
            **self.options,
        )
        return self.cluster

    async def wait(self, minutes: float) -> None:
        await self.clock.advance_to(self.clock.now_ms() + round(minutes * MINUTE_MS))

    def state_of(self, job_id: str) -> str:
        return str(self.cluster.get_job_status(job_id)["state"])


# --- settings ------------------------------------------------------------------------------------

_HARD = Semantics(quota_mode=QuotaMode.HARD)


def _quota(gpus: float) -> tuple[TenantSpec, ...]:
    return (TenantSpec("default", quota=gpus),)


@pytest.mark.parametrize(
    "changed",
    [
        {"tenants": _quota(2.0)},
        {"semantics": Semantics(quota_mode=QuotaMode.HARD, preemption_limit=0)},
        {"semantics": Semantics(quota_mode=QuotaMode.HARD, commitment=True)},
        {"shape": replace(SHAPE, jobs=40)},
        {"shape": replace(SHAPE, nodes=90, workers=16, devices=16)},
        {"nodes": [node("n0"), node("n9", gpus=8)]},
        {"nodes": []},
        {"nodes": [node("n0", gpus=1)]},
        {"seed": 99},
        {"shape": None, "semantics": None, "tenants": ()},
    ],
)
async def test_a_restart_with_other_settings_has_the_same_history(changed: dict[str, Any]) -> None:
    scene = _Scene(semantics=_HARD, tenants=_quota(4.0))
    for name in ("a", "b"):
        await scene.cluster.submit_job(job(name, gpus_per_worker=4))
    await scene.wait(61)
    before = scene.cluster
    after = scene.restart(**changed)
    assert after.engine.log_hash == before.engine.log_hash
    for name in ("a", "b"):
        assert after.get_job_status(name) == before.get_job_status(name)
    await after.start()
    again = scene.restart(semantics=None, tenants=(), shape=None, nodes=[])
    assert again.engine.log_hash == after.engine.log_hash
    assert again.engine.settings == after.engine.settings
    assert list(again.nodes) == list(after.nodes)
    await scene.wait(61)
    assert scene.state_of("a") == scene.state_of("b") == "completed"


async def test_from_then_on_the_other_settings_hold() -> None:
    scene = _Scene(semantics=_HARD, tenants=_quota(4.0))
    await scene.cluster.submit_job(job("a", gpus_per_worker=4))
    await scene.wait(61)
    scene.restart(tenants=_quota(2.0))
    await scene.cluster.start()
    used = scene.cluster.get_cluster_status()["tenants"]["default"]
    assert (used["quota"], used["used"]) == (2.0, 0.0)
    assert used["attained_hours"] == pytest.approx(4.0)  # the account is what it was
    await scene.cluster.submit_job(job("small", gpus_per_worker=2))
    await scene.cluster.submit_job(job("more", gpus_per_worker=2))
    await scene.wait(1)
    assert (scene.state_of("small"), scene.state_of("more")) == ("running", "pending")
    scene.restart(tenants=_quota(4.0))
    await scene.cluster.start()
    await scene.wait(1)
    assert scene.state_of("more") == "running"
    scene.restart(semantics=Semantics(), tenants=(TenantSpec("other"),))
    await scene.cluster.start()
    assert scene.cluster.get_cluster_status()["tenants"]["default"]["quota"] == 0.0


@pytest.mark.parametrize(
    "smaller", [{"jobs": 1}, {"nodes": 1, "devices": 1}, {"workers": 1}, {"effects": 3, "log": 9}]
)
async def test_a_smaller_shape_leaves_the_cluster_as_large_as_it_is(
    smaller: dict[str, int],
) -> None:
    scene = _Scene()
    for name in ("a", "b"):
        await scene.cluster.submit_job(job(name, num_workers=2))
    await scene.wait(1)
    before = scene.cluster
    scene.restart(shape=replace(SHAPE, **smaller))
    await scene.cluster.start()
    assert scene.cluster.engine.log_hash == before.engine.log_hash
    await scene.wait(100)
    assert scene.state_of("a") == scene.state_of("b") == "completed"
    for shape in (before.engine.shape, scene.cluster.engine.shape, SHAPE):  # as it calls itself
        scene.restart(shape=shape)
        await scene.cluster.start()
    assert scene.cluster.engine.shape.jobs == SHAPE.jobs + 2


@pytest.mark.parametrize("extra", [{"gpus": 9}, {"node_id": "n5"}])
async def test_a_new_node_that_there_is_no_room_for_stops_nobody(extra: dict[str, Any]) -> None:
    scene = _Scene(shape=replace(SHAPE, nodes=1))
    await scene.cluster.submit_job(job("a"))
    scene.restart(nodes=[node("n0"), replace(node("n1"), **extra)])
    await scene.cluster.submit_job(job("b"))
    await scene.wait(61)
    assert scene.state_of("a") == scene.state_of("b") == "completed"
    assert list(scene.cluster.nodes) == ["n0"]


async def test_a_larger_shape_makes_room() -> None:
    scene = _Scene(shape=replace(SHAPE, jobs=2, nodes=1))
    for name in ("a", "b"):
        await scene.cluster.submit_job(job(name, gpus_per_worker=4))
    await scene.wait(5)
    scene.restart(shape=replace(SHAPE, jobs=8, nodes=4), nodes=[node("n0"), node("n1")])
    await scene.cluster.submit_job(job("c", gpus_per_worker=4))
    await scene.wait(1)
    states = [scene.state_of(name) for name in "abc"]
    assert states == ["running", "running", "pending"]
    await scene.wait(200)
    assert [scene.state_of(name) for name in "abc"] == ["completed"] * 3
    assert scene.cluster.get_job_status("a")["end_ms"] == HOUR_MS


@pytest.mark.parametrize(
    ("field", "value"), [("tenants", 99), ("tenants", 1), ("uplinks", 4), ("curves", 2)]
)
async def test_a_shape_that_cannot_be_is_refused(field: str, value: int) -> None:
    scene = _Scene()
    await scene.cluster.submit_job(job("a"))
    with pytest.raises(ValidationError, match=f"'{field}' is {value}, and the cluster of this log"):
        scene.restart(shape=replace(SHAPE, **{field: value}))
    with pytest.raises(ValidationError, match="field 'quota' is 5"):
        scene.restart(shape=SHAPE, tenants=_quota(5.0))


# --- what was not done ---------------------------------------------------------------------------


async def test_a_start_that_never_reached_the_runtime_is_no_crash() -> None:
    scene = _Scene()
    scene.runtime.refuses = (StartJob,)
    await scene.cluster.submit_job(job("a"))
    await scene.wait(0.1)
    scene.runtime.refuses = ()
    await scene.restart().start()
    await scene.wait(61)
    status = scene.cluster.get_job_status("a")
    assert (status["state"], status["starts"], status["interruptions"]) == ("completed", 1, 0)


async def test_a_save_that_never_reached_the_runtime_is_told_once() -> None:
    scene = _Scene()
    await scene.cluster.submit_job(job("a", gpus_per_worker=4, checkpoint_seconds=30.0))
    await scene.wait(25)
    scene.runtime.refuses = (SaveCheckpoint,)
    assert await scene.cluster.preempt_job("a", "")
    scene.runtime.refuses = ()
    for _ in range(3):  # who comes next does not know whether the one before has told it
        await scene.restart().start()
        await scene.wait(0.1)
    assert scene.state_of("a") == "checkpointing"
    await scene.wait(0.25)
    assert scene.cluster.get_job_status("a")["starts"] == 2  # 30 s after it was told first
    assert scene.cluster.get_job_status("a")["lost_ms"] == 0
    assert scene.cluster.get_job_status("a")["preemptions"] == 1


async def test_a_stop_that_never_reached_the_runtime_comes_before_the_next_start() -> None:
    scene = _Scene()
    await scene.cluster.submit_job(job("a", gpus_per_worker=4))
    await scene.wait(25)
    scene.runtime.refuses = (StopJob, StartJob)
    await scene.runtime.say(WorkersLost("a", 1))
    await scene.wait(0.01)
    scene.runtime.refuses = ()
    await scene.restart().start()
    told = [(type(e), e.run) for e in scene.runtime.told if isinstance(e, StartJob | StopJob)]
    assert told == [(StartJob, 1), (StopJob, 1), (StartJob, 2)]
    assert scene.runtime.observe() == {"a": 2}


async def test_a_change_of_size_that_never_reached_the_runtime_is_told() -> None:
    scene = _Scene()
    fields = {"elastic": True, "num_workers": 2, "min_workers": 1, "max_workers": 4}
    await scene.cluster.submit_job(job("a", **fields))
    await scene.wait(5)
    scene.runtime.refuses = (RegroupJob,)
    assert await scene.cluster.scale_job("a", 4)
    scene.runtime.refuses = ()
    await scene.restart().start()
    (told,) = [e for e in scene.runtime.told if isinstance(e, RegroupJob)]
    assert len(told.workers) == 4
    await scene.wait(120)
    assert scene.state_of("a") == "completed"


@pytest.mark.parametrize("dies", ["before", "after"])
async def test_a_rented_node_is_given_back_by_the_next_orchestrator(dies: str) -> None:
    scene = _Scene(nodes=[])
    cloud = SimulatedProvisioner(scene.clock, node("rented"), delay_s=60.0)
    scaler = HorizontalScaler(ScalingPlan(4.0, max_size=3))
    scene.restart(provisioner=cloud, autoscaler=scaler)
    await scene.cluster.submit_job(job("a", gpus_per_worker=4))
    await scene.cluster.auto_scale_cluster()
    assert cloud.pending == 1
    if dies == "before":  # ordered by the one, delivered to the other
        scene.restart()
    await scene.wait(2)
    assert scene.state_of("a") == "running"
    release = cloud.release
    cloud.release = _refuse  # type: ignore[method-assign]
    (name,) = cloud.rented
    await scene.wait(60)
    await scene.cluster.decommission_node(name)
    cloud.release = release  # type: ignore[method-assign]
    assert cloud.rented == {name}
    await scene.restart().start()
    assert cloud.rented == set()
    assert ReleaseNode(name) in scene.runtime.told


def _refuse(node_ids: Sequence[str]) -> None:
    raise OSError("the cloud does not answer")


async def test_a_node_that_comes_while_nobody_is_there_is_taken_by_the_next_one() -> None:
    clock = VirtualClock()
    cloud, taken = SimulatedProvisioner(clock, node("rented"), delay_s=60.0), list[str]()

    async def dead(spec: Any) -> bool:
        return False

    async def alive(spec: Any) -> bool:
        taken.append(spec.node_id)
        return True

    cloud.bind(dead)
    cloud.order(2)
    await clock.advance_to(90_500)
    assert (cloud.pending, len(cloud.rented), taken) == (0, 2, [])
    cloud.bind(alive)
    await clock.advance_to(200_000)
    assert sorted(taken) == sorted(cloud.rented)


class _Forgetful(SimulatedProvisioner):
    """Forgets what was ordered, once."""

    def forget(self) -> None:
        self._expected.clear()


@pytest.mark.parametrize("hours", [1, 7])
@pytest.mark.parametrize("lost", [1, 2])
async def test_a_node_is_as_late_as_its_own_order(lost: int, hours: int) -> None:
    scene = _Scene()
    cloud = _Forgetful(scene.clock, node("rented"), delay_s=60.0)
    scaler = HorizontalScaler(ScalingPlan(4.0, max_size=1 + lost))
    scene.restart(provisioner=cloud, autoscaler=scaler)
    for k in range(1 + lost):
        fields = {"gpus_per_worker": 4, "max_duration_hours": 20.0}
        await scene.cluster.submit_job(job(f"j{k}", **fields))
    await scene.wait(1)
    await scene.cluster.auto_scale_cluster()
    assert cloud.pending == lost
    cloud.forget()
    await scene.wait(60 * hours)
    await scene.cluster.auto_scale_cluster()
    await scene.wait(2)
    assert len(cloud.rented) == lost
    assert scene.cluster.metrics.scaling.summary()["delay_s"] == 60.0


# --- order of what is told -----------------------------------------------------------------------


def _start(job_id: str, *gpus: int, run: int = 1, where: str = "n0") -> StartJob:
    return StartJob(job_id, run, job(job_id), (WorkerPlacement(where, gpus),), 0, 0, 0)


def _regroup(job_id: str, *gpus: int) -> RegroupJob:
    return RegroupJob(job_id, 1, job(job_id), (WorkerPlacement("n0", gpus),), 0, 0, 1000)


@pytest.mark.parametrize(
    ("effect", "waits"),
    [
        (_start("b", 0), True),
        (_start("b", 1, 3), True),
        (_start("b", 2, 3), False),
        (_start("b", 0, where="n1"), False),
        (_start("a", 3, run=2), True),
        (ReleaseNode("n1"), False),
        (_regroup("c", 1), True),
    ],
)
@pytest.mark.parametrize("freeing", [StopJob("a", 1, StopReason.PREEMPTED, 0), _regroup("a", 5)])
async def test_what_is_refused_holds_up_who_needs_the_gpus_that_it_would_have_freed(
    effect: Effect, waits: bool, freeing: Effect
) -> None:
    clock, places = VirtualClock(), Places()
    runtime = _Outside(clock)
    outbox = Outbox(runtime, clock, places, lambda: True)

    def send(one: Effect) -> None:
        places.note(Entry(0, WorkersLost("", 0)), Outcome((one,)))
        outbox.send([one])

    send(_start("a", 0, 1))
    runtime.refuses = (type(freeing),)
    send(freeing)
    send(effect)
    assert (effect in runtime.told, len(outbox)) == (not waits, 1 + waits)
    runtime.refuses = ()
    await clock.advance_to(10_000)
    assert (runtime.told[-1] if waits else runtime.told[-2]) == effect
    assert len(outbox) == 0


async def test_gpus_that_a_smaller_job_has_left_are_free() -> None:
    clock, places = VirtualClock(), Places()
    runtime = _Outside(clock)
    outbox = Outbox(runtime, clock, places, lambda: True)
    for one in (_start("a", 0, 1), _regroup("a", 0)):
        places.note(Entry(0, WorkersLost("", 0)), Outcome((one,)))
        outbox.send([one])
    runtime.refuses = (StopJob,)
    outbox.send([StopJob("a", 1, StopReason.PREEMPTED, 0), _start("b", 1), _start("c", 0)])
    assert runtime.told[-1] == _start("b", 1)
    assert len(outbox) == 2


async def test_a_preemptor_waits_for_a_stop_that_the_runtime_refuses() -> None:
    scene = _Scene()
    await scene.cluster.submit_job(job("a", gpus_per_worker=4))
    await scene.wait(5)
    scene.runtime.refuses = (StopJob,)
    await scene.cluster.submit_job(job("b", gpus_per_worker=4, priority=JobPriority.CRITICAL))
    await scene.wait(1)
    assert scene.state_of("b") == "running"  # as far as the cluster is concerned
    assert scene.runtime.observe() == {"a": 1}
    scene.runtime.refuses = ()
    await scene.wait(1.1)
    assert scene.runtime.observe() == {"b": 1}
    await scene.wait(300)
    assert scene.state_of("a") == scene.state_of("b") == "completed"


# --- counts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("restarts", [0, 1, 3])
async def test_crashes_are_counted_over_restarts(restarts: int) -> None:
    scene = _Scene()
    await scene.cluster.submit_job(job("a"))
    for crash in range(12):
        await scene.wait(0.05)
        running = scene.runtime.observe().get("a")
        if running is None or scene.state_of("a") == "failed":
            break
        if crash < restarts:
            await scene.restart().start()
        await scene.runtime.say(WorkersLost("a", running, "exits at once"))
        await scene.wait(2)
    assert scene.state_of("a") == "failed"
    assert scene.cluster.get_job_status("a")["starts"] == 7


async def test_a_loss_that_was_held_back_is_found_by_the_next_one() -> None:
    scene = _Scene()
    await scene.cluster.submit_job(job("a"))
    for _ in range(4):
        await scene.wait(0.3)
        await scene.runtime.say(WorkersLost("a", scene.runtime.observe()["a"]))
    await scene.cluster.submit_job(job("b"))
    scene.runtime._running.clear()  # they are gone, and it is not logged yet
    await scene.restart().start()
    await scene.wait(70)
    assert scene.state_of("a") == "completed"
    assert scene.cluster.get_job_status("a")["interruptions"] == 4


# --- a log that is cut ---------------------------------------------------------------------------


async def _day(capacity: int, seed: int) -> _Scene:
    scene = _Scene(InMemoryConsensus(capacity), semantics=_HARD, tenants=_quota(4.0))
    rng = np.random.default_rng(seed)
    scene.cluster.mesh.add_service(ServiceSpec("llm", 20.0, limit=LimitSpec(5.0, 5.0)))
    scene.cluster.policy = RULES["srtf"]
    await scene.cluster.submit_job(job("s", name="llm", kind=JobKind.SERVICE, max_duration_hours=9))
    for k in range(10):
        fields = {"gpus_per_worker": int(rng.integers(1, 4)), "checkpoint_interval_steps": 300}
        await scene.cluster.submit_job(job(f"j{k}", **fields))
        await scene.wait(float(rng.integers(1, 50)))
        if rng.integers(3) == 0:
            await scene.cluster.preempt_job(f"j{k}", "")
    return scene


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("capacity", [1, 2, 7, 40])
async def test_a_cut_log_is_as_good_as_a_whole_one(capacity: int, seed: int) -> None:
    cut, whole = await _day(capacity, seed), await _day(100_000, seed)
    assert len(cut.found.consensus_engine) <= capacity < len(whole.found.consensus_engine)
    assert cut.cluster.engine.log_hash == whole.cluster.engine.log_hash
    for scene in (cut, whole):
        before = scene.cluster
        after = scene.restart(semantics=None, tenants=(), nodes=[], shape=None)
        assert after.engine.log_hash == before.engine.log_hash
        assert list(after.jobs) == list(before.jobs)
        assert after.engine.settings == before.engine.settings
        assert after.mesh.spec("llm").limit == LimitSpec(5.0, 5.0)
        assert after.policy.rule == RULES["srtf"]  # type: ignore[attr-defined]
        assert await after.discover_service("llm") == await before.discover_service("llm")
        now_ms = scene.clock.now_ms()
        assert after.metrics.summary(now_ms)["node_hours"] == pytest.approx(
            before.metrics.summary(now_ms)["node_hours"]
        )
        await scene.wait(6000)
        states = {scene.state_of(name) for name in after.jobs}
        assert states == {"completed"}
    assert cut.cluster.engine.log_hash == whole.cluster.engine.log_hash


class _Unreliable(InMemoryConsensus):
    cuts = 0

    async def cut(self, index: int, snapshot: object) -> None:
        self.cuts += 1
        if self.cuts % 2:
            raise OSError("the disk is full")
        await super().cut(index, snapshot)


async def test_a_cut_that_fails_is_tried_again() -> None:
    scene = _Scene(log := _Unreliable(30))
    for k in range(12):
        await scene.cluster.submit_job(job(f"j{k}"))
        await scene.wait(30)
    assert log.cuts > 2
    assert len(log) <= 30
    assert scene.restart().engine.log_hash != 0


async def test_a_follower_that_was_cut_off_reads_the_snapshot() -> None:
    scene = _Scene(InMemoryConsensus(10))
    first, second = scene.cluster, scene.restart()
    for k in range(8):
        await first.submit_job(job(f"j{k}"))
        await scene.wait(10)
    await second.start()
    assert second.engine.log_hash == first.engine.log_hash
    assert list(second.jobs) == list(first.jobs)


async def test_settings_that_wait_are_no_part_of_a_snapshot() -> None:
    async def propose(body: object) -> None:
        raise OSError("the disk is full")

    settings = Settings(VirtualClock(), (), propose)
    settings.note("policy", 1)
    assert settings.image() == {}


async def test_a_cut_copies_what_there_is_and_not_what_there_may_be() -> None:
    """The event loop waits for it: a large cluster with a long history is cut in milliseconds."""
    scene = _Scene(InMemoryConsensus(), shape=replace(SHAPE, jobs=512, workers=64))
    for k in range(40):
        await scene.cluster.submit_job(job(f"j{k}", num_workers=1 + k % 3))
        await scene.wait(60)
    engine = scene.cluster.engine
    image = engine.image()
    effects, workers = image.told
    assert workers.shape == (len(effects), 3)
    first = engine.history.of("j0")
    assert all(a is b for a, b in zip(image.history.of("j0"), first, strict=True))
    await scene.cluster.submit_job(job("later"))
    assert image.history.of("later") == ()
    assert [note.what for note in engine.history.of("later")] == ["submitted"]


def _orders(clock: VirtualClock, gpus: int = 4) -> dict[str, Any]:
    """Who may order nodes, and does."""
    plan = ScalingPlan(float(gpus), target_utilisation=1.0, max_size=4)
    nodes = SimulatedProvisioner(clock, node("more", gpus=gpus), delay_s=60.0)
    return {"provisioner": nodes, "autoscaler": HorizontalScaler(plan)}


@pytest.mark.parametrize("gpus", [4.5, 12.0, 1000.0])
async def test_quotas_may_be_more_than_there_is_where_nodes_can_be_ordered(gpus: float) -> None:
    clock = VirtualClock()
    options = {"clock": clock, "nodes": [node("n0")], "shape": SHAPE, "semantics": _HARD}
    options |= {"tenants": _quota(gpus), "schedule_on_events": True}
    with pytest.raises(ValidationError, match=r"'quota' is .* of 4 GPUs.*provisioner"):
        InfrastructureOrchestrator(*in_memory(clock), **options)
    found = in_memory(clock)
    runtime = SimulatedRuntime(clock)
    cluster = InfrastructureOrchestrator(*found, runtime=runtime, **options, **_orders(clock))
    for name in "abcde":
        await cluster.submit_job(job(name, tenant="default", preemptible=False))
    await cluster.auto_scale_cluster()
    await clock.advance_to(2 * MINUTE_MS)
    assert len(cluster.engine.placed()) == int(min(gpus, 5))
    # Who replays the log has nobody to order nodes, and comes to the same.
    for again in (options, options | {"tenants": ()}):
        replica = InfrastructureOrchestrator(*found, **again)
        assert replica.engine.log_hash == cluster.engine.log_hash
        assert replica.get_cluster_status()["tenants"]["default"]["quota"] == gpus


@pytest.mark.parametrize("capacity", [10_000, 4])
async def test_quotas_are_raised_beyond_the_nodes_with_a_provisioner_only(capacity: int) -> None:
    scene = _Scene(InMemoryConsensus(capacity), semantics=_HARD, tenants=_quota(4.0))
    await scene.cluster.submit_job(job("a"))
    with pytest.raises(ValidationError, match=r"'quota' is 9: .* of 4 GPUs"):
        scene.restart(tenants=_quota(9.0))
    scene.restart(tenants=_quota(9.0), **_orders(scene.clock))
    await scene.cluster.submit_job(job("b"))
    scene.restart(provisioner=None, autoscaler=None)  # they are in the log, and hold
    await scene.cluster.submit_job(job("c"))
    assert scene.cluster.get_cluster_status()["tenants"]["default"]["quota"] == 9.0
    with pytest.raises(ValidationError, match=r"'quota' is 9.5: .* of 4 GPUs"):
        scene.restart(tenants=_quota(9.5))


async def test_a_tenant_that_is_named_twice_is_refused_whoever_can_order_nodes() -> None:
    clock = VirtualClock()
    with pytest.raises(ValidationError, match="'name' is given twice"):
        InfrastructureOrchestrator(
            *in_memory(clock),
            clock=clock,
            nodes=[node("n0")],
            shape=SHAPE,
            tenants=[*_quota(1.0), *_quota(2.0)],
            **_orders(clock),
        )
