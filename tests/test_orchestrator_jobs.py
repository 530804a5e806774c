"""Jobs: submitted, scheduled, preempted, finished, failed, forgotten."""

from __future__ import annotations

import math
from typing import Any

import pytest

from orchestrator import ClusterShape, JobSpec, Semantics
from orchestrator.engine.snapshot import Snapshot
from orchestrator.errors import CapacityError, UnknownEntityError, ValidationError
from orchestrator.kernels.state.codes import Topology
from orchestrator.live.crashes import MOST_CRASHES
from orchestrator.messages import (
    PlaceJob,
    Plan,
    PreemptJob,
    Wait,
    WorkerExited,
    WorkersLost,
)
from orchestrator.scheduling.rules import RULES
from tests.engine.builders import HOUR_MS, MINUTE_MS, SHAPE, job, node, stage


async def test_a_job_is_submitted_scheduled_and_completed() -> None:
    s = stage(node("n0"))
    assert await s.orchestrator.submit_job(job("a", num_workers=2)) == "a"
    assert s.state_of("a") == "pending"
    assert await s.orchestrator.schedule() == [("a", "n0"), ("a", "n0")]
    assert s.state_of("a") == "running"
    assert s.runtime.observe() == {"a": 1}
    await s.wait(60)
    status = s.orchestrator.get_job_status("a")
    assert status["state"] == "completed"
    assert status["end_ms"] == HOUR_MS
    assert status["progress"] == 1.0
    assert s.runtime.observe() == {}


async def test_nothing_is_scheduled_unless_asked_for() -> None:
    s = stage(node("n0"))
    await s.orchestrator.submit_job(job("a"))
    await s.wait(60)
    assert s.state_of("a") == "pending"
    assert await s.orchestrator.schedule() == [("a", "n0")]
    assert await s.orchestrator.schedule() == []


async def test_events_schedule_if_they_shall() -> None:
    s = stage(node("n0", gpus=1), schedule_on_events=True)
    for name in ("a", "b"):
        await s.orchestrator.submit_job(job(name))
    await s.clock.run_until_idle()
    assert s.orchestrator.get_job_status("b")["start_ms"] == HOUR_MS
    assert s.orchestrator.get_job_status("b")["end_ms"] == 2 * HOUR_MS


async def test_a_gang_is_placed_whole_or_not_at_all() -> None:
    s = stage(node("n0", gpus=4), node("n1", gpus=4))
    await s.orchestrator.submit_job(job("small", gpus_per_worker=3))
    await s.orchestrator.submit_job(job("gang", num_workers=4, gpus_per_worker=2))
    assert await s.orchestrator.schedule() == [("small", "n0")]
    assert s.state_of("gang") == "pending"
    assert s.orchestrator.get_cluster_status()["gpus"]["allocated"] == 3
    await s.wait(60)
    placed = await s.orchestrator.schedule()
    assert sorted(placed) == [("gang", "n0")] * 2 + [("gang", "n1")] * 2


async def test_fractions_of_gpus_share_a_device() -> None:
    s = stage(node("n0", gpus=1))
    for name in ("a", "b", "c"):
        await s.orchestrator.submit_job(job(name, gpu_fraction=0.4))
    assert await s.orchestrator.schedule() == [("a", "n0"), ("b", "n0")]
    assert s.orchestrator.get_cluster_status()["gpus"]["free"] == pytest.approx(0.2)


async def test_preemption_saves_first_and_loses_nothing() -> None:
    s = stage(node("n0", gpus=1))
    await s.orchestrator.submit_job(job("a"))
    await s.orchestrator.schedule()
    await s.wait(25)
    assert await s.orchestrator.preempt_job("a", "somebody is in a hurry")
    assert s.state_of("a") == "checkpointing"
    assert await s.orchestrator.schedule() == []
    await s.wait(1)
    status = s.orchestrator.get_job_status("a")
    assert status["state"] == "preempted"
    assert status["progress_ms"] == 25 * MINUTE_MS
    assert status["checkpoint"]["progress_ms"] == 25 * MINUTE_MS
    await s.orchestrator.schedule()
    await s.clock.run_until_idle()
    status = s.orchestrator.get_job_status("a")
    assert status["end_ms"] == 61 * MINUTE_MS + 20_000  # a minute's pause, and the restart
    assert (status["preemptions"], status["interruptions"], status["lost_ms"]) == (1, 0, 0)
    assert status["starts"] == 2


async def test_a_victim_is_not_placed_in_the_next_cycle_but_in_the_one_after() -> None:
    s = stage(node("n0", gpus=1))
    await s.orchestrator.submit_job(job("a", checkpoint_seconds=0.0))
    await s.orchestrator.schedule()
    assert await s.orchestrator.preempt_job("a", "")
    assert s.state_of("a") == "preempted"
    assert await s.orchestrator.schedule() == []
    assert await s.orchestrator.schedule() == [("a", "n0")]


async def test_a_stranded_victim_is_reviewed() -> None:
    s = stage(node("n0", gpus=1), schedule_on_events=True, review_ms=500)
    await s.orchestrator.submit_job(job("a", checkpoint_seconds=0.0))
    await s.wait(1)
    assert await s.orchestrator.preempt_job("a", "")
    await s.clock.advance_to(MINUTE_MS + 499)
    assert s.state_of("a") == "preempted"
    await s.clock.advance_to(MINUTE_MS + 500)
    assert s.state_of("a") == "running"


async def test_what_may_not_be_preempted_is_not() -> None:
    s = stage(node("n0"), semantics=Semantics(min_run_seconds=60.0, preemption_limit=1))
    for name, preemptible in (("a", True), ("b", True), ("fixed", False)):
        await s.orchestrator.submit_job(job(name, preemptible=preemptible))
    assert not await s.orchestrator.preempt_job("a", "it waits")
    await s.orchestrator.schedule()
    assert not await s.orchestrator.preempt_job("a", "too early")
    await s.wait(2)
    assert not await s.orchestrator.preempt_job("fixed", "not preemptible")
    assert await s.orchestrator.preempt_job("a", "now it may be")
    assert not await s.orchestrator.preempt_job("b", "one too many at this point")
    with pytest.raises(UnknownEntityError, match="no job 'x'; 3 are known"):
        await s.orchestrator.preempt_job("x", "")


async def test_a_preemptive_rule_makes_room() -> None:
    s = stage(node("n0", gpus=4), policy=RULES["srtf"], schedule_on_events=True)
    await s.orchestrator.submit_job(job("long", gpus_per_worker=4, max_duration_hours=10.0))
    await s.wait(5)
    await s.orchestrator.submit_job(job("short", gpus_per_worker=4, max_duration_hours=0.1))
    await s.clock.run_until_idle()
    short, long = (s.orchestrator.get_job_status(name) for name in ("short", "long"))
    assert short["start_ms"] == 5 * MINUTE_MS + 5000  # as soon as the victim is saved
    assert (long["preemptions"], long["lost_ms"], long["state"]) == (1, 0, "completed")


# --- failures -------------------------------------------------------------------------------------


async def test_a_worker_that_fails_fails_its_job() -> None:
    s = stage(node("n0"))
    await s.orchestrator.submit_job(job("a"))
    await s.orchestrator.schedule()
    await s.wait(15)
    await s.report(WorkerExited("a", 1, exit_code=137))
    assert s.state_of("a") == "failed"
    assert s.runtime.observe() == {}
    counts = s.orchestrator.get_cluster_status()["jobs"]
    assert (counts["failed"], counts["completed"]) == (1, 0)
    assert s.orchestrator.get_cluster_status()["gpus"]["free"] == 4


async def test_an_effect_that_fails_is_undone() -> None:
    s = stage(node("n0"))
    await s.orchestrator.submit_job(job("a"))
    await s.orchestrator.schedule()
    await s.report(WorkersLost("a", 1, "the image could not be pulled"))
    assert s.state_of("a") == "pending"
    assert s.orchestrator.get_cluster_status()["gpus"]["free"] == 4
    assert await s.orchestrator.schedule() == [("a", "n0")]


async def test_a_crash_loop_ends() -> None:
    """A bad image: its starts come later and later, and in the end it fails."""
    s = stage(node("n0", gpus=1), schedule_on_events=True)
    starts = 0
    await s.orchestrator.submit_job(job("bad"))
    await s.orchestrator.submit_job(job("good"))
    for _ in range(100):
        await s.clock.advance_to(s.clock.now_ms() + 1000)
        status = s.orchestrator.get_job_status("bad")
        if status["state"] == "running" and status["starts"] > starts:
            starts = status["starts"]
            await s.report(WorkersLost("bad", starts, "no such image"))
            await s.report(WorkersLost("bad", starts, "no such image"))  # said twice, counted once
    assert (s.state_of("bad"), starts) == ("failed", MOST_CRASHES + 1)
    await s.wait(61)
    assert s.state_of("good") == "completed"


@pytest.mark.parametrize("minutes", [11, 30])
async def test_losses_now_and_then_are_no_crash_loop(minutes: float) -> None:
    s = stage(node("n0"), schedule_on_events=True)
    await s.orchestrator.submit_job(job("a", max_duration_hours=100.0))
    for run in range(1, 3 * MOST_CRASHES):
        await s.wait(minutes)
        await s.report(WorkersLost("a", run, "its node's cable was pulled"))
    await s.wait(1)
    assert s.state_of("a") == "running"


async def test_reports_about_a_former_run_are_ignored() -> None:
    s = stage(node("n0"))
    await s.orchestrator.submit_job(job("a", checkpoint_seconds=0.0))
    await s.orchestrator.schedule()
    await s.orchestrator.preempt_job("a", "")
    await s.orchestrator.schedule()
    await s.orchestrator.schedule()
    entries = s.orchestrator.get_cluster_status()["log_entries"]
    await s.report(WorkerExited("a", 1))
    await s.report(WorkerExited("never heard of", 1))
    assert s.state_of("a") == "running"
    assert s.orchestrator.get_cluster_status()["log_entries"] == entries


# --- validation -----------------------------------------------------------------------------------


async def test_an_id_is_given_once() -> None:
    s = stage(node("n0"))
    await s.orchestrator.submit_job(job("a"))
    with pytest.raises(ValidationError, match="JobSpec 'a': field 'job_id' is taken"):
        await s.orchestrator.submit_job(job("a"))


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"num_workers": 9}, "num_workers"),  # more than any job may have
        ({"gpus_per_worker": 5}, "gpus_per_worker"),  # on one node
        ({"num_workers": 3, "gpus_per_worker": 3}, "num_workers"),
        ({"cpus_per_worker": 65.0}, "cpus_per_worker"),
        ({"memory_per_worker_gb": 513.0}, "memory_per_worker_gb"),
        ({"gpu_memory_gb": 81.0}, "gpu_memory_gb"),
        ({"gpu_memory_gb": 81.0, "cpus_per_worker": 32.0, "num_workers": 2}, "gpu_memory_gb"),
        ({"topology": Topology.NODE, "num_workers": 5}, "topology"),
        ({"cpus_per_worker": 1e9}, "cpus_per_worker"),
        ({"memory_per_worker_gb": 1e300}, "memory_per_worker_gb"),
        ({"max_duration_hours": 1e300}, "max_duration_hours"),
        ({"restart_seconds": 1e300}, "restart_seconds"),
        ({"checkpoint_interval_steps": 10**400}, "checkpoint_interval_steps"),
    ],
)
async def test_a_job_that_can_never_run_is_refused(fields: dict[str, Any], field: str) -> None:
    s = stage(node("n0"), node("n1"))
    entries = s.orchestrator.get_cluster_status()["log_entries"]
    with pytest.raises(ValidationError, match=f"JobSpec 'a': field '{field}'"):
        await s.orchestrator.submit_job(job("a", **fields))
    assert s.orchestrator.jobs == {}
    assert s.orchestrator.get_cluster_status()["log_entries"] == entries


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
async def test_numbers_that_make_no_sense_are_refused_before_they_get_here(value: float) -> None:
    with pytest.raises(ValidationError, match="memory_per_worker_gb"):
        job("a", memory_per_worker_gb=value)


async def test_a_cluster_that_is_being_built_takes_any_job() -> None:
    s = stage(policy=RULES["fcfs"])
    await s.orchestrator.submit_job(job("a", gpus_per_worker=8))
    assert s.orchestrator.get_job_status("a")["unplaceable"]
    assert s.orchestrator.get_cluster_status()["queue"]["unplaceable"] == ["a"]
    await s.orchestrator.register_node(node("n0", gpus=8))
    assert not s.orchestrator.get_job_status("a")["unplaceable"]
    assert await s.orchestrator.schedule() == [("a", "n0")]


async def test_ended_jobs_are_forgotten_when_their_room_is_needed() -> None:
    s = stage(node("n0"), shape=ClusterShape(envs=1, jobs=2, workers=1, nodes=1, devices=4))
    for name, hours in (("a", 2.0), ("b", 1.0)):
        await s.orchestrator.submit_job(job(name, max_duration_hours=hours))
    with pytest.raises(CapacityError, match=r"all 2 rows of the job table .* ClusterShape\.jobs"):
        await s.orchestrator.submit_job(job("c"))
    await s.orchestrator.schedule()
    await s.clock.run_until_idle()
    await s.orchestrator.submit_job(job("c"))
    assert set(s.orchestrator.jobs) == {"a", "c"}  # b ended first
    with pytest.raises(UnknownEntityError, match="no job 'b'"):
        s.orchestrator.get_job_status("b")
    assert s.orchestrator.get_cluster_status()["jobs"]["completed"] == 2
    assert await s.orchestrator.schedule() == [("c", "n0")]
    assert s.orchestrator.get_job_status("c")["starts"] == 1


# --- plans ----------------------------------------------------------------------------------------


class Scripted:
    """Answers with given plans, then waits."""

    def __init__(self, *plans: Plan) -> None:
        self.plans = list(plans)
        self.asked = 0

    def decide(self, snapshot: Snapshot) -> Plan:
        self.asked += 1
        return self.plans.pop(0) if self.plans else Plan()


async def test_a_plan_is_carried_out_whole_or_not_at_all() -> None:
    both = Plan((PlaceJob("a"), PlaceJob("b")))
    s = stage(node("n0", gpus=3), policy=Scripted(both, Plan((PlaceJob("b"),))))
    for name in ("a", "b"):
        await s.orchestrator.submit_job(job(name, gpus_per_worker=2))
    assert await s.orchestrator.schedule() == [("b", "n0")]
    assert s.state_of("a") == "pending"


async def test_a_plan_may_make_room_and_use_it() -> None:
    swap = Plan((PreemptJob("a"), PlaceJob("b"), Wait()))
    s = stage(node("n0", gpus=1), policy=Scripted(Plan((PlaceJob("a"),)), swap))
    await s.orchestrator.submit_job(job("a", checkpoint_seconds=0.0))
    assert await s.orchestrator.schedule() == [("a", "n0")]
    await s.orchestrator.submit_job(job("b"))
    assert await s.orchestrator.schedule() == [("b", "n0")]
    assert (s.state_of("a"), s.state_of("b")) == ("preempted", "running")


async def test_a_policy_that_insists_on_nonsense_is_made_to_wait() -> None:
    policy = Scripted(*[Plan((PlaceJob("nobody"),))] * 100)
    s = stage(node("n0"), policy=policy)
    await s.orchestrator.submit_job(job("a"))
    assert await s.orchestrator.schedule() == []
    assert policy.asked == 4
    assert s.state_of("a") == "pending"


def test_nothing_comes_after_waiting() -> None:
    with pytest.raises(ValidationError, match="make Wait the last one"):
        Plan((Wait(), PlaceJob("a")))


async def test_a_policy_sees_the_cluster_and_owns_what_it_sees() -> None:
    seen: list[Snapshot] = []

    class Vandal:
        def decide(self, snapshot: Snapshot) -> Plan:
            seen.append(snapshot)
            snapshot.state.rows["free_units"] = 0
            snapshot.state.job["state"] = 6
            return Plan((PlaceJob("b"), PlaceJob("a")))

    s = stage(node("n0", gpus=2), node("down", available=False), policy=Vandal())
    await s.orchestrator.submit_job(job("a"))
    await s.orchestrator.submit_job(job("b", num_workers=1, gpu_fraction=0.5))
    waiting = s.orchestrator.engine.snapshot().waiting()
    assert [(view.job_id, view.gpus, view.gpu_share) for view in waiting] == [
        ("a", 1, 1.0),
        ("b", 1, 0.5),
    ]
    assert await s.orchestrator.schedule() == [("b", "n0"), ("a", "n0")]
    snapshot = s.orchestrator.engine.snapshot()
    assert [view.job_id for view in snapshot.running()] == ["b", "a"]
    assert [(view.node_id, view.free_gpus, view.workers) for view in snapshot.nodes()] == [
        ("n0", 0.5, 2)
    ]
    assert snapshot.now_ms == 0
    assert snapshot.point == seen[0].point


async def test_a_long_gang_fits_the_default_shape() -> None:
    spec: JobSpec = job("wide", num_workers=64)
    s = stage(*[node(f"n{n}", gpus=16) for n in range(4)], shape=None)
    await s.orchestrator.submit_job(spec)
    assert len(await s.orchestrator.schedule()) == 64
    assert SHAPE.workers < 64
