"""What happened to a job and why is told in its status, in events and in metrics."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from orchestrator import (
    RULES,
    CheckpointCommitted,
    InfrastructureOrchestrator,
    JobPriority,
    Plan,
    PreemptJob,
    Snapshot,
    Wait,
    WorkerExited,
    WorkersLost,
    policy_of,
)
from orchestrator.engine.history import MOST_NOTES
from tests.engine.builders import SHAPE, Stage, job, node, stage

_Act = Callable[[Stage], Awaitable[object]]


async def _runs(*acts: _Act, policy: Any = None, **fields: Any) -> Stage:
    """A job that runs for ten minutes, and what is done then, a second apart."""
    s = stage(node("n0"), node("n1"), schedule_on_events=True, policy=policy)
    await s.orchestrator.submit_job(job("a", **fields))
    await s.wait(10)
    for act in acts:
        await act(s)
        await s.wait(1 / 60)
    return s


def _told(s: Stage, what: str) -> dict[str, Any]:
    """The last note of a kind, without its time and its job."""
    history = s.orchestrator.get_job_status("a")["history"]
    note = next(note for note in reversed(history) if note["what"] == what)
    events = s.orchestrator.get_cluster_status()["events"]
    assert note in events
    return {name: note[name] for name in note if name not in ("time_ms", "job_id", "what")}


def _counted(s: Stage) -> dict[str, Any]:
    counts = s.orchestrator.metrics.summary(s.clock.now_ms())["events"]
    return {what: causes for what, causes in counts.items() if causes}


_STORIES: dict[str, tuple[tuple[_Act, ...], str, str, str]] = {
    "preempted by hand": (
        (lambda s: s.orchestrator.preempt_job("a", "kernel upgrade 4711"),),
        "preempted",
        "command",
        "kernel upgrade 4711",
    ),
    "drained": (
        (lambda s: s.orchestrator.decommission_node("n0"),),
        "preempted",
        "drain",
        "node 'n0' is drained",
    ),
    "removed": (
        (lambda s: s.orchestrator.decommission_node("n0", drain=False),),
        "interrupted",
        "removal",
        "node 'n0' was removed",
    ),
    "node failed": (
        (lambda s: s.orchestrator.handle_node_failure("n0"),),
        "interrupted",
        "node_failure",
        "node 'n0' failed",
    ),
    "workers lost": (
        (lambda s: s.report(WorkersLost("a", 1, "image not found")),),
        "interrupted",
        "workers_lost",
        "image not found",
    ),
    "workers lost, nobody knows why": (
        (lambda s: s.report(WorkersLost("a", 1)),),
        "interrupted",
        "workers_lost",
        "its workers were lost",
    ),
    "failed": (
        (lambda s: s.report(WorkerExited("a", 1, 137)),),
        "failed",
        "exit",
        "its workers ended with exit code 137",
    ),
    "failed, and said why": (
        (lambda s: s.report(WorkerExited("a", 1, -9, "killed: out of memory")),),
        "failed",
        "exit",
        "killed: out of memory",
    ),
    "ended while it was saved": (
        (
            lambda s: s.orchestrator.preempt_job("a", "x"),
            lambda s: s.report(WorkerExited("a", 1, 3)),
        ),
        "interrupted",
        "exit",
        "its workers ended with exit code 3",
    ),
}


@pytest.mark.parametrize("name", _STORIES)
async def test_reasons_are_told(name: str) -> None:
    acts, what, cause, reason = _STORIES[name]
    s = await _runs(*acts)
    note = _told(s, what)
    assert (note["cause"], note["reason"], note["run"]) == (cause, reason, 1)
    assert _counted(s)[what] == {cause: 1}
    log = s.foundations.consensus_engine
    other = InfrastructureOrchestrator(
        log, *s.foundations[1:], clock=s.clock, nodes=(node("n0"), node("n1")), shape=SHAPE
    )
    assert other.engine.history.of("a") == s.orchestrator.engine.history.of("a")
    assert other.metrics.events.summary() == s.orchestrator.metrics.events.summary()


@pytest.mark.parametrize("code", [1, 137, -9])
async def test_exit_codes_are_told(code: int) -> None:
    s = await _runs(lambda s: s.report(WorkerExited("a", 1, code)))
    status = s.orchestrator.get_job_status("a")
    assert (status["state"], status["exit_code"]) == ("failed", code)
    assert _counted(s)["exit_codes"] == {str(code): 1}


async def test_a_job_that_completes_has_exit_code_0() -> None:
    s = await _runs(duration_hours=0.1)
    status = s.orchestrator.get_job_status("a")
    assert (status["state"], status["exit_code"], status["reason"]) == ("completed", 0, "")
    assert _counted(s) == {}


async def test_a_crash_loop_says_why() -> None:
    s = await _runs()
    for run in range(1, 10):
        await s.report(WorkersLost("a", run, f"image not found ({run})"))
        await s.wait(2)
    status = s.orchestrator.get_job_status("a")
    assert (status["state"], status["exit_code"]) == ("failed", 1)
    assert status["reason"] == (
        "its workers were lost 7 times within minutes of their start, the last time because: "
        "image not found (7)"
    )


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        (lambda s: s.orchestrator.preempt_job("a", ""), "preempt_job: not_preemptible"),
        (lambda s: s.orchestrator.scale_job("a", 3), "scale_job: not_elastic"),
    ],
)
async def test_refusals_are_told(act: _Act, reason: str) -> None:
    s = await _runs(act, preemptible=False)
    assert _told(s, "refused") == {"cause": "command", "reason": reason}
    assert _counted(s) == {"refused": {"command": 1}}


@pytest.mark.parametrize("rule", ["priority", "reclaim", "srtf"])
@pytest.mark.parametrize("checkpoint_seconds", [0.0, 5.0])
async def test_a_victim_knows_who_took_its_place(rule: str, checkpoint_seconds: float) -> None:
    fields = {"gpus_per_worker": 4, "num_workers": 2, "checkpoint_seconds": checkpoint_seconds}

    async def urgent(s: Stage) -> None:
        first = job("first", gpus_per_worker=3, max_duration_hours=0.1)
        await s.orchestrator.submit_job(
            first if rule == "srtf" else job("first", priority=JobPriority.CRITICAL)
        )
        await s.wait(1)

    s = await _runs(urgent, policy=RULES[rule], **fields)
    status = s.orchestrator.get_job_status("a")
    assert (status["state"], status["preempted_by"]) == ("preempted", "first")
    assert status["reason"] == f"rule '{rule}' makes room for another job"
    assert _told(s, "displaced")["reason"] == "its place was taken by job 'first'"
    assert _counted(s) == {"preempted": {"policy": 1}}


async def test_nobody_is_blamed_for_a_place_that_was_given_up() -> None:
    s = await _runs(
        lambda s: s.orchestrator.submit_job(job("b", gpus_per_worker=4)),
        lambda s: s.orchestrator.submit_job(job("c", gpus_per_worker=4)),
        lambda s: s.orchestrator.preempt_job("a", "by hand"),
    )
    await s.wait(1)
    assert s.orchestrator.get_job_status("a")["preempted_by"] is None


async def test_policies_may_say_why() -> None:
    rule = policy_of(RULES["fcfs"])

    class Script:
        def decide(self, snapshot: Snapshot) -> Plan:
            if snapshot.now_ms < 600_000 or not snapshot.running():
                return rule.decide(snapshot)
            return Plan((PreemptJob("a", "it had its share"), Wait()))

    s = await _runs(lambda s: s.orchestrator.submit_job(job("b")), policy=Script())
    assert _told(s, "preempted")["reason"] == "it had its share"


async def test_sizes_and_places_are_told() -> None:
    s = await _runs(lambda s: s.orchestrator.scale_job("a", 5), elastic=True)
    note = _told(s, "resized")
    assert note["cause"] == "command"
    assert note["reason"] == "5 workers on n0, n1 (scale_job to 5 workers)"


async def test_a_save_is_told_once_it_is_safe() -> None:
    s = await _runs(
        lambda s: s.orchestrator.preempt_job("a", "x"),
        lambda s: s.report(CheckpointCommitted("a", 1)),
    )
    what = [note["what"] for note in s.orchestrator.get_job_status("a")["history"]]
    assert what == ["submitted", "started", "preempted", "saved", "started"]


async def test_only_the_last_notes_are_kept() -> None:
    s = await _runs()
    for _ in range(2 * MOST_NOTES):
        assert not await s.orchestrator.scale_job("a", 2)
    status = s.orchestrator.get_job_status("a")
    assert len(status["history"]) == MOST_NOTES
    assert len(s.orchestrator.get_cluster_status()["events"]) == 64


async def test_forgotten_jobs_have_no_history() -> None:
    s = stage(node("n0", 8), schedule_on_events=True)
    for k in range(2 * SHAPE.jobs):
        await s.orchestrator.submit_job(job(f"j{k}", duration_hours=0.01, checkpoint_seconds=0.0))
        await s.wait(1)
    history = s.orchestrator.engine.history
    assert history.of("j0") == ()
    assert [note.what for note in history.of(f"j{2 * SHAPE.jobs - 1}")][-1] == "completed"
    assert set(history._notes) == set(s.orchestrator.jobs)
    assert set(history._places) | set(history._vacated) <= set(s.orchestrator.jobs)
