"""Jobs are cancelled, whatever they do; nodes that were to leave stay."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator import InMemoryConsensus, Semantics
from orchestrator.errors import IllegalActionError, UnknownEntityError
from orchestrator.messages import Cancel, CheckpointCommitted, StopJob, StopReason, WorkersLost
from orchestrator.scheduling.rules import RULES
from orchestrator.types import JobKind, JobPriority
from tests.engine.builders import MINUTE_MS, Stage, job, node, stage


async def _running(s: Stage, *names: str, **fields: Any) -> None:
    for name in names:
        await s.orchestrator.submit_job(job(name, **fields))
    await s.orchestrator.schedule()


async def test_a_running_job_ends_and_frees_what_it_has() -> None:
    s = stage(node("n0", gpus=1), check=True)
    await _running(s, "a", "b")
    await s.wait(15)
    assert s.state_of("a") == "running"
    assert await s.orchestrator.cancel_job("a", "not wanted")
    status = s.orchestrator.get_job_status("a")
    assert status["state"] == "failed"
    assert status["reason"] == "cancelled: not wanted"
    assert status["exit_code"] is None
    assert status["end_ms"] == 15 * MINUTE_MS
    assert status["node_ids"] == ["n0"]
    assert [note["what"] for note in status["history"]] == ["submitted", "started", "failed"]
    assert s.runtime.observe() == {}
    assert await s.orchestrator.schedule() == [("b", "n0")]


async def test_its_workers_are_told_that_they_are_cancelled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    s = stage(node("n0"), check=True)
    await _running(s, "a")
    told: list[Any] = []
    monkeypatch.setattr(s.runtime, "carry_out", told.extend)
    assert await s.orchestrator.cancel_job("a")
    assert told == [StopJob("a", 1, StopReason.CANCELLED, 0)]
    assert s.orchestrator.get_job_status("a")["reason"] == "cancelled"


async def test_a_waiting_job_ends_at_once() -> None:
    s = stage(node("n0", gpus=1), check=True)
    await _running(s, "a", "b", "c")
    assert await s.orchestrator.cancel_job("b", "x")
    status = s.orchestrator.get_job_status("b")
    assert (status["state"], status["reason"]) == ("failed", "cancelled: x")
    assert status["first_start_ms"] is None
    assert s.orchestrator.engine.row["queue_len"] == 1
    await s.wait(61)
    assert await s.orchestrator.schedule() == [("c", "n0")]


async def test_a_job_that_is_being_saved_or_was_preempted_ends() -> None:
    s = stage(node("n0"), check=True)
    await _running(s, "a", "b")
    for name in ("a", "b"):
        assert await s.orchestrator.preempt_job(name, "room")
    assert s.state_of("a") == "checkpointing"
    assert await s.orchestrator.cancel_job("a")
    assert s.state_of("a") == "failed"
    await s.wait(1)
    assert s.state_of("b") == "preempted"
    assert await s.orchestrator.cancel_job("b")
    assert (s.state_of("b"), s.runtime.observe()) == ("failed", {})
    await s.report(CheckpointCommitted("a", 1))  # too late: nothing comes of it
    assert s.state_of("a") == "failed"


async def test_what_has_ended_cannot_be_cancelled() -> None:
    s = stage(node("n0"), check=True)
    await _running(s, "a")
    await s.wait(61)
    before = s.orchestrator._journal.applied
    assert not await s.orchestrator.cancel_job("a")
    assert s.state_of("a") == "completed"
    assert s.orchestrator._journal.applied == before
    with pytest.raises(UnknownEntityError, match="no job 'nobody'"):
        await s.orchestrator.cancel_job("nobody")


async def test_a_loss_that_was_held_back_says_nothing_after_the_job_was_cancelled() -> None:
    s = stage(node("n0"), schedule_on_events=True, check=True)
    await s.orchestrator.submit_job(job("a"))
    await s.wait(0.1)
    for run in (1, 2):
        await s.report(WorkersLost("a", run, "gone"))
        await s.wait(0.01)
    assert await s.orchestrator.cancel_job("a")
    await s.wait(30)
    assert (s.state_of("a"), s.runtime.observe()) == ("failed", {})


async def test_a_service_is_no_longer_found() -> None:
    s = stage(node("n0"), check=True)
    await _running(s, "web", kind=JobKind.SERVICE, priority=JobPriority.CRITICAL, num_workers=2)
    await s.wait(1)
    assert len(await s.orchestrator.discover_service("web")) == 2
    assert await s.orchestrator.cancel_job("web")
    assert "web" not in s.orchestrator.mesh.services


async def test_a_draining_node_leaves_with_its_cancelled_job() -> None:
    s = stage(node("n0"), node("n1"), check=True)
    await _running(s, "a", checkpoint_seconds=600.0)
    (name,) = s.orchestrator.get_job_status("a")["node_ids"]
    assert await s.orchestrator.decommission_node(name)
    assert name in s.orchestrator.nodes
    assert await s.orchestrator.cancel_job("a")
    assert name not in s.orchestrator.nodes


async def test_under_commitment_the_next_job_is_served() -> None:
    s = stage(
        node("n0", gpus=2),
        semantics=Semantics(commitment=True),
        policy=RULES["fcfs"],
        schedule_on_events=True,
        check=True,
    )
    await s.orchestrator.submit_job(job("a", gpus_per_worker=1))
    await s.orchestrator.submit_job(job("wide", gpus_per_worker=2))
    await s.wait(1)
    assert s.orchestrator.engine.row["committed"] >= 0
    assert await s.orchestrator.cancel_job("wide")
    assert s.orchestrator.engine.row["committed"] < 0
    await s.orchestrator.submit_job(job("c", gpus_per_worker=1))
    await s.wait(1)
    assert s.state_of("c") == "running"


async def test_a_restart_knows_who_was_cancelled() -> None:
    log = InMemoryConsensus()
    s = stage(node("n0", gpus=1), log=log, check=True)
    await _running(s, "a", "b")
    assert await s.orchestrator.cancel_job("a", "x")
    again = stage(node("n0", gpus=1), log=log, clock=s.clock)
    assert again.state_of("a") == "failed"
    story = again.orchestrator.get_job_status("a")
    assert story["history"] == s.orchestrator.get_job_status("a")["history"]
    assert again.orchestrator.engine.log_hash == s.orchestrator.engine.log_hash
    assert [e.body for e in log.entries() if isinstance(e.body, Cancel)] == [Cancel("a", "x")]


# --- nodes that stay -----------------------------------------------------------------------------


async def test_a_draining_node_stays_after_all() -> None:
    s = stage(node("n0"), check=True)
    await _running(s, "a", "b", checkpoint_seconds=60.0)
    await s.wait(5)
    assert await s.orchestrator.decommission_node("n0")
    await s.orchestrator.submit_job(job("c"))
    assert await s.orchestrator.schedule() == []
    assert await s.orchestrator.undrain_node("n0")
    assert not await s.orchestrator.undrain_node("n0")
    assert await s.orchestrator.schedule() == [("c", "n0")]
    await s.wait(2)
    assert {s.state_of(name) for name in "ab"} == {"preempted"}
    assert "n0" in s.orchestrator.nodes
    assert sorted(await s.orchestrator.schedule()) == [("a", "n0"), ("b", "n0")]


async def test_a_node_that_has_left_is_registered_anew() -> None:
    s = stage(node("n0"), node("n1"), check=True)
    await s.orchestrator.start()
    assert not await s.orchestrator.undrain_node("n1")
    assert await s.orchestrator.decommission_node("n1")
    with pytest.raises(IllegalActionError, match="node 'n1' has left the cluster; register it"):
        await s.orchestrator.undrain_node("n1")
    with pytest.raises(UnknownEntityError, match="no node 'x'"):
        await s.orchestrator.undrain_node("x")
    assert await s.orchestrator.register_node(node("n1"))
