"""A checkpoint counts only if whoever wrote it was alive then: nothing is saved in silence."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator import InfrastructureOrchestrator, SimulatedRuntime
from orchestrator.foundations import HashShardManager, HeartbeatFaultDetector
from orchestrator.messages import WorkersLost
from tests.engine.builders import SHAPE, Stage, job, node, stage

_SECOND_MS = 1000


async def _fall_silent(last_s: int, **fields: Any) -> tuple[Stage, str]:
    """A job on a node that shows itself for the last time at a time, and is found dead."""
    s = stage(node("n0"), node("n1"), node("n2"), schedule_on_events=True)
    await s.orchestrator.submit_job(job("a", **({"gpus_per_worker": 4} | fields)))
    await s.clock.advance_to(0)
    silent = str(s.orchestrator.get_job_status("a")["workers"][-1]["node"])
    for second in range(last_s + 15):
        await s.clock.advance_to(second * _SECOND_MS)
        for name in ("n0", "n1", "n2"):
            if name != silent or second <= last_s:
                await s.foundations.fault_detector.heartbeat(name)
    return s, silent


@pytest.mark.parametrize(
    ("last_s", "interval_s", "saved_s"),
    [
        (595, 600, 0),  # due at 600, dead at 605
        (596, 600, 0),
        (599, 600, 0),
        (601, 600, 600),
        (610, 600, 600),
        (1195, 600, 600),
        (57, 5, 55),  # due twice in the silence
        (58, 3, 57),
        (59, 60, 0),
        (62, 60, 60),
    ],
)
@pytest.mark.parametrize("workers", [1, 2])
async def test_nothing_is_saved_in_silence(
    last_s: int, interval_s: int, saved_s: int, workers: int
) -> None:
    s, _ = await _fall_silent(last_s, checkpoint_interval_steps=interval_s, num_workers=workers)
    status = s.orchestrator.get_job_status("a")
    latest = s.foundations.checkpoint_manager.latest("a")
    assert (latest.progress_ms if latest else 0) == saved_s * _SECOND_MS
    assert status["interruptions"] == 1
    assert status["lost_ms"] == (last_s - saved_s) * _SECOND_MS
    assert (status["state"], status["starts"]) == ("running", 2)  # elsewhere


async def test_a_job_that_started_in_the_silence_has_lost_nothing_it_did_not_have() -> None:
    s = stage(node("n0"), node("n1"), schedule_on_events=True)
    for name in ("n0", "n1"):
        await s.foundations.fault_detector.heartbeat(name)
    await s.clock.advance_to(6 * _SECOND_MS)
    await s.orchestrator.submit_job(job("a", gpus_per_worker=4, checkpoint_interval_steps=1))
    await s.clock.advance_to(7 * _SECOND_MS)
    (worker,) = s.orchestrator.get_job_status("a")["workers"]
    well = "n1" if worker["node"] == "n0" else "n0"
    await s.foundations.fault_detector.heartbeat(well)
    await s.clock.advance_to(11 * _SECOND_MS)
    status = s.orchestrator.get_job_status("a")
    assert (status["interruptions"], status["lost_ms"]) == (1, 0)
    assert s.foundations.checkpoint_manager.latest("a") is None
    assert s.orchestrator.get_cluster_status()["tenants"]["default"]["attained_hours"] == 0.0


async def test_a_failure_that_is_announced_is_one_of_now() -> None:
    s = stage(node("n0"), node("n1"))
    await s.orchestrator.submit_job(job("a", gpus_per_worker=4))
    await s.orchestrator.schedule()
    await s.wait(25)
    (worker,) = s.orchestrator.get_job_status("a")["workers"]
    report = await s.orchestrator.handle_node_failure(worker["node"])
    assert report["checkpoints"]["a"]["progress_ms"] == 20 * 60 * _SECOND_MS
    assert report["lost_work_ms"] == {"a": 5 * 60 * _SECOND_MS}


@pytest.mark.parametrize(("seen_s", "saved_s"), [(-1, 1200), (1300, 1200), (1199, 600), (3, 0)])
async def test_a_runtime_says_when_workers_were_there_last(seen_s: int, saved_s: int) -> None:
    s = stage(node("n0"), schedule_on_events=True)
    await s.orchestrator.submit_job(job("a"))
    await s.wait(25)
    await s.report(WorkersLost("a", 1, "gone", max(seen_s * _SECOND_MS, -1)))
    latest = s.foundations.checkpoint_manager.latest("a")
    assert (latest.progress_ms if latest else 0) == saved_s * _SECOND_MS


@pytest.mark.parametrize(("logged_min", "saved_min"), [(0, 0), (9, 0), (11, 10), (25, 20)])
async def test_workers_that_are_gone_at_start_up_were_there_when_something_was_logged_last(
    logged_min: int, saved_min: int
) -> None:
    s = stage(node("n0"), schedule_on_events=True)
    await s.orchestrator.submit_job(job("a"))
    await s.wait(logged_min)
    await s.orchestrator.submit_job(job("b"))
    await s.wait(55 - logged_min)  # the orchestrator and its workers are away, since some time
    other = InfrastructureOrchestrator(
        s.foundations.consensus_engine,
        HashShardManager(),
        HeartbeatFaultDetector(s.clock),
        s.foundations.checkpoint_manager,
        clock=s.clock,
        runtime=SimulatedRuntime(s.clock),
        shape=SHAPE,
        check=True,
    )
    await other.start()
    latest = s.foundations.checkpoint_manager.latest("a")
    assert (latest.progress_ms if latest else 0) == saved_min * 60 * _SECOND_MS
    assert other.get_job_status("a")["interruptions"] == 1


# --- those who are not part of the cluster -------------------------------------------------------


@pytest.mark.parametrize("strangers", [1, 20])
async def test_strangers_are_no_suspects(strangers: int) -> None:
    s = stage(node("n0"))
    for k in range(strangers):
        await s.foundations.fault_detector.heartbeat(f"stranger{k}")
    await s.foundations.fault_detector.heartbeat("n0")
    await s.wait(60)
    assert s.orchestrator.get_cluster_status()["suspects"] == ["n0"]
    assert s.foundations.fault_detector.suspects() == ("n0",)
    await s.orchestrator.register_node(node("stranger0"))
    await s.wait(60)
    assert s.orchestrator.get_cluster_status()["nodes"]["states"]["stranger0"] == "up"
