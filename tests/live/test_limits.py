"""Time limits: a warning, some grace, then the end; and nobody ends who keeps within the limit."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator import (
    ConfigurationError,
    Information,
    InfrastructureOrchestrator,
    JobKind,
    JobOverdue,
    Semantics,
    WorkerExited,
)
from tests.engine.builders import HOUR_MS, MINUTE_MS, SHAPE, Stage, job, node, stage

_GRACE_MS = 5 * MINUTE_MS


async def _hangs(minutes: float, *more: Any, **fields: Any) -> Stage:
    """A job of an hour that would go on for much longer."""
    options = {"schedule_on_events": True, **(more[0] if more else {})}
    s = stage(node("n0"), **options)
    await s.orchestrator.submit_job(job("a", **{"duration_hours": 1000.0, **fields}))
    await s.wait(minutes)
    return s


def _reports(s: Stage) -> list[tuple[int, object]]:
    """What the log says of limits, and when."""
    entries = s.foundations.consensus_engine.entries()
    return [(e.time_ms, e.body) for e in entries if isinstance(e.body, JobOverdue | WorkerExited)]


async def test_a_job_is_warned_and_then_ended() -> None:
    s = await _hangs(59.9, gpus_per_worker=4)
    await s.orchestrator.submit_job(job("next", gpus_per_worker=4))
    assert (s.state_of("a"), s.orchestrator.get_job_status("a")["overdue"]) == ("running", False)
    await s.wait(0.1)
    warned = s.orchestrator.get_job_status("a")
    assert (warned["state"], warned["overdue"]) == ("running", True)
    assert warned["history"][-1] == {
        "time_ms": HOUR_MS,
        "job_id": "a",
        "what": "overdue",
        "cause": "time_limit",
        "reason": "has run for max_duration_hours (1 h) and is ended in 300 s",
        "run": 1,
    }
    await s.wait(4.99)
    assert (s.state_of("a"), s.state_of("next")) == ("running", "pending")
    await s.wait(0.01)
    ended = s.orchestrator.get_job_status("a")
    assert (ended["state"], ended["exit_code"], ended["overdue"]) == ("failed", 124, False)
    assert ended["reason"] == "ran past max_duration_hours (1 h) and 300 s of grace"
    assert s.state_of("next") == "running"
    assert [type(body) for _, body in _reports(s)] == [JobOverdue, WorkerExited]
    told = s.orchestrator.metrics.summary(s.clock.now_ms())["events"]
    assert (told["overdue"], told["failed"], told["exit_codes"]) == (
        {"time_limit": 1},
        {"time_limit": 1},
        {"124": 1},
    )
    # The last periodic checkpoint stays.
    assert ended["checkpoint"]["progress_ms"] == HOUR_MS
    assert "a" not in s.runtime.observe()


@pytest.mark.parametrize(("hours", "warned"), [(1.0, False), (0.3, False), (1.05, True)])
async def test_whoever_ends_in_time_completes(hours: float, warned: bool) -> None:
    s = await _hangs(100, duration_hours=hours)
    status = s.orchestrator.get_job_status("a")
    assert (status["state"], status["end_ms"]) == ("completed", round(hours * HOUR_MS))
    assert any(isinstance(body, JobOverdue) for _, body in _reports(s)) is warned


@pytest.mark.parametrize(
    ("grace_s", "end_ms"), [(0, HOUR_MS), (0.5, HOUR_MS + 500), (600.0, HOUR_MS + 600_000)]
)
async def test_the_grace_is_a_setting(grace_s: float, end_ms: int) -> None:
    s = await _hangs(120, {"time_limit_grace_s": grace_s})
    assert s.orchestrator.get_job_status("a")["end_ms"] == end_ms
    assert len(_reports(s)) == 1 + (grace_s > 0)


async def test_limits_can_be_left_out() -> None:
    s = await _hangs(10_000, {"time_limit_grace_s": None})
    assert (s.state_of("a"), _reports(s)) == ("running", [])


@pytest.mark.parametrize("grace_s", [-1, float("nan"), float("inf"), "5", True])
def test_a_grace_is_a_number_of_seconds(grace_s: object) -> None:
    with pytest.raises(ConfigurationError, match="'time_limit_grace_s' is"):
        stage(node("n0"), time_limit_grace_s=grace_s)


@pytest.mark.parametrize(
    "fields",
    [
        {"elastic": True, "num_workers": 8, "min_workers": 2},
        {"gang_schedule": False, "num_workers": 8},
    ],
)
async def test_half_the_workers_have_twice_the_time(fields: dict[str, Any]) -> None:
    s = await _hangs(119, **fields)
    assert len(s.orchestrator.get_job_status("a")["workers"]) == 4
    assert not s.orchestrator.get_job_status("a")["overdue"]
    await s.wait(1)
    assert s.orchestrator.get_job_status("a")["overdue"]
    await s.wait(5)
    assert s.state_of("a") == "failed"


async def test_lost_work_and_waiting_do_not_count() -> None:
    s = await _hangs(25)
    await s.orchestrator.handle_node_failure("n0")  # 20 minutes are saved
    await s.wait(60)
    await s.orchestrator.handle_node_recovery("n0")
    await s.wait(40 + 20 / 60 - 0.01)  # 20 s to start again
    assert not s.orchestrator.get_job_status("a")["overdue"]
    await s.wait(0.01)
    assert s.orchestrator.get_job_status("a")["overdue"]


async def test_a_preempted_job_is_warned_again() -> None:
    s = await _hangs(61)
    assert await s.orchestrator.preempt_job("a", "a test")
    await s.wait(10)
    status = s.orchestrator.get_job_status("a")
    assert (status["starts"], status["state"]) == (2, "failed")
    assert [note["run"] for note in status["history"] if note["what"] == "overdue"] == [1, 2]


async def test_services_have_no_limit() -> None:
    s = await _hangs(1000, kind=JobKind.SERVICE)
    assert (s.state_of("a"), _reports(s)) == ("running", [])


@pytest.mark.parametrize("information", list(Information))
async def test_what_is_known_of_run_times_is_another_matter(information: Information) -> None:
    s = await _hangs(66, {"semantics": Semantics(information=information)})
    assert s.orchestrator.get_job_status("a")["end_ms"] == HOUR_MS + _GRACE_MS


@pytest.mark.parametrize("minutes", [30.0, 59.0, 60.0, 62.0, 64.9])
async def test_a_restart_goes_on_where_it_was(minutes: float) -> None:
    s = await _hangs(minutes)
    before = s.orchestrator.engine.history.of("a")
    other = InfrastructureOrchestrator(
        *s.foundations,
        clock=s.clock,
        runtime=s.runtime,
        nodes=(node("n0"),),
        shape=SHAPE,
        schedule_on_events=True,
    )
    assert other.engine.history.of("a") == before
    s.orchestrator._limits._grace_ms = None  # it is gone
    s.orchestrator._limits.arm()
    await other.start()
    await s.clock.advance_to(2 * HOUR_MS)
    status = other.get_job_status("a")
    assert (status["state"], status["end_ms"]) == ("failed", HOUR_MS + _GRACE_MS)
    assert len(_reports(s)) == 2


async def test_a_log_that_fails_ends_the_job_later() -> None:
    s = await _hangs(30)
    log = s.foundations.consensus_engine
    append, failing = log.append, [True]

    async def broken(entry: Any) -> int:
        if failing[0] and not isinstance(entry.body, JobOverdue):
            raise OSError("the disk is full")
        return await append(entry)

    log.append = broken  # type: ignore[method-assign]
    await s.wait(40)
    assert s.state_of("a") == "running"
    failing[0] = False
    await s.wait(2)
    assert s.state_of("a") == "failed"
    assert len(_reports(s)) == 2
