"""What is no report, no node and no entry is dropped: nothing waits behind it, nothing fails."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator import InfrastructureOrchestrator, VirtualClock, in_memory
from orchestrator.errors import InvariantError
from orchestrator.messages import (
    CheckpointCommitted,
    Configure,
    Decide,
    Entry,
    Establish,
    JobOverdue,
    Lead,
    PlaceJob,
    Plan,
    Review,
    Submit,
    WorkerExited,
    WorkersLost,
)
from orchestrator.ports import NodeHealth
from orchestrator.runtimes import SimulatedProvisioner, SimulatedRuntime
from tests.engine.builders import HOUR_MS, MINUTE_MS, SHAPE, job, node, stage

Any_: Any = None  # what annotations forbid

REPORTS: list[Any] = [
    None,
    3,
    "a has ended",
    WorkerExited("a", 1, "zero"),  # type: ignore[arg-type]
    WorkerExited("a", "1"),  # type: ignore[arg-type]
    WorkerExited("a", 1, 10**12),
    WorkerExited("a", 1, True),
    WorkersLost("a", 1, b"gone"),  # type: ignore[arg-type]
    WorkersLost("a", 1, "gone", 1.5),  # type: ignore[arg-type]
    WorkersLost(["a"], 1),  # type: ignore[arg-type]
    JobOverdue("a", 1, "\ud800"),
    CheckpointCommitted("a", 1.0),  # type: ignore[arg-type]
    Submit(job("smuggled")),
]


async def test_a_runtime_that_reports_junk_is_heard_when_it_reports_sense() -> None:
    scene = stage(node("n0"), schedule_on_events=True)
    await scene.orchestrator.submit_job(job("a"))
    await scene.wait(10)
    for report in REPORTS:
        await scene.report(report)
        await scene.wait(1)
    errors = scene.orchestrator.get_cluster_status()["errors"]
    assert (errors["reports"], errors["reports_waiting"]) == (0, 0)
    assert list(scene.orchestrator.jobs) == ["a"]
    await scene.wait(60)
    assert scene.state_of("a") == "completed"


HEALTH: list[Any] = [
    None,
    "n0 is dead",
    NodeHealth(3, alive=False),  # type: ignore[arg-type]
    NodeHealth("n0", None),  # type: ignore[arg-type]
    NodeHealth("n0", False, "yesterday"),  # type: ignore[arg-type]
    NodeHealth("n0", False, float("nan")),  # type: ignore[arg-type]
    NodeHealth("stranger", alive=True),
]


async def test_a_detector_that_reports_junk_is_heard_when_it_reports_sense() -> None:
    scene = stage(node("n0"), node("n1"), schedule_on_events=True)
    cluster = scene.orchestrator
    await cluster.submit_job(job("a"))
    for health in HEALTH:
        assert await cluster._health.deliver(health)
        await scene.wait(1)
    assert cluster.get_cluster_status()["nodes"]["states"] == {"n0": "up", "n1": "up"}
    await cluster._health.deliver(NodeHealth("n0", alive=False))
    assert cluster.get_cluster_status()["nodes"]["states"] == {"n0": "down", "n1": "up"}


@pytest.mark.parametrize("junk", [None, "r-1", 3, job("r-1")])
async def test_a_node_that_is_none_keeps_no_others_away(junk: Any) -> None:
    clock = VirtualClock()
    cloud = SimulatedProvisioner(clock, node("r"), delay_s=60.0)
    scene = stage(node("n0"), clock=clock, provisioner=cloud, schedule_on_events=True)
    for name in "ab":
        await scene.orchestrator.submit_job(job(name, gpus_per_worker=4))
    assert cloud._join is not None
    await cloud._join(junk)
    await scene.orchestrator.auto_scale_cluster()
    await scene.wait(2)
    assert [scene.state_of(name) for name in "ab"] == ["running", "running"]


def _entries(term: int) -> list[Any]:
    now = 1000
    return [
        None,
        "an entry",
        Entry("now", Review(), term),  # type: ignore[arg-type]
        Entry(float("nan"), Review(), term),  # type: ignore[arg-type]
        Entry(-5, Submit(job("early")), term),
        Entry(2**62, Submit(job("late")), term),
        Entry(2**70, Lead("nobody"), term),
        Entry(now, Review(), "mine"),  # type: ignore[arg-type]
        Entry(now, Review(), term, None),  # type: ignore[arg-type]
        Entry(now, None, term),  # type: ignore[arg-type]
        Entry(now, Submit(Any_), term),
        Entry(now, Establish(Any_, (), Any_, (), 0), term),
        Entry(now, Decide(Plan((PlaceJob(Any_),))), term),
        Entry(now, Decide(Plan(Any_)), term),
        Entry(now, Configure("policy", object()), term),
        Entry(now, Configure("service:web", {"retries": 1}), term),
    ]


@pytest.mark.parametrize("at", range(len(_entries(0))))
async def test_whatever_is_in_a_log_a_restart_works(at: int) -> None:
    clock = VirtualClock()
    found, runtime = in_memory(clock), SimulatedRuntime(clock)

    def make() -> InfrastructureOrchestrator:
        return InfrastructureOrchestrator(
            *found,
            clock=clock,
            nodes=[node("n0")],
            shape=SHAPE,
            runtime=runtime,
            schedule_on_events=True,
        )

    first = make()
    await first.submit_job(job("a"))
    await clock.advance_to(10 * MINUTE_MS)
    await found.consensus_engine.append(_entries(first._journal.term)[at])
    await first.submit_job(job("b"))
    second = make()
    assert second.engine.log_hash == first.engine.log_hash
    await second.start()
    await clock.advance_to(3 * HOUR_MS)
    states = {name: second.get_job_status(name)["state"] for name in second.jobs}
    assert states == {"a": "completed", "b": "completed"}


async def test_junk_is_left_out_when_an_entry_fails_and_all_is_applied_again() -> None:
    scene = stage(node("n0"), schedule_on_events=True)
    cluster, log = scene.orchestrator, scene.foundations.consensus_engine
    await cluster.submit_job(job("a"))
    for junk in _entries(cluster._journal.term):
        await log.append(junk)
    apply = cluster.engine.jobs.submit

    def fail(time_ms: int, spec: Any) -> str:
        apply(time_ms, spec)
        raise FloatingPointError("half way through")

    cluster.engine.jobs.submit = fail  # type: ignore[method-assign]
    with pytest.raises(InvariantError, match="half way through"):
        await cluster.submit_job(job("b"))
    assert list(cluster.jobs) == ["a"]
    await scene.wait(120)
    assert scene.state_of("a") == "completed"
