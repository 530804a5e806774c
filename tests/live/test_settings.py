"""Settings outlive restarts: rules of services and the policy are in the log."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator import InfrastructureOrchestrator, ServiceMesh
from orchestrator.foundations.sqlite import SQLiteLog
from orchestrator.kernels.state.codes import JobKind
from orchestrator.live.settings import Settings
from orchestrator.mesh import BreakerSpec, LimitSpec, RetrySpec, ServiceSpec
from orchestrator.messages import Configure, Entry
from orchestrator.scheduling.rules import RULES
from tests.engine.builders import SHAPE, Stage, job, node, stage


def _again(s: Stage, **options: Any) -> InfrastructureOrchestrator:
    """The cluster after a restart."""
    values = {"clock": s.clock, "runtime": s.runtime, "nodes": (node("n0"),), "shape": SHAPE}
    return InfrastructureOrchestrator(*s.foundations, **(values | options))


async def _serve(s: Stage) -> None:
    fields = {"kind": JobKind.SERVICE, "num_workers": 2, "max_duration_hours": 1e4}
    await s.orchestrator.submit_job(job("llm", **fields))


_RULES = [
    ServiceSpec("llm", 20.0, timeout_ms=100.0, limit=LimitSpec(5.0, 5.0)),
    ServiceSpec("llm", 50.0, objective_ms=300.0, percentile=0.99),
    ServiceSpec("llm", 50.0, retry=RetrySpec(attempts=7)),
    ServiceSpec("llm", 50.0, breaker=BreakerSpec(failures=9, open_ms=77)),
]


@pytest.mark.parametrize("rules", _RULES)
@pytest.mark.parametrize("when", ["before", "after"])
async def test_rules_of_a_service_outlive_a_restart(rules: ServiceSpec, when: str) -> None:
    s = stage(node("n0"), schedule_on_events=True)
    if when == "before":
        s.orchestrator.mesh.add_service(rules)
    await _serve(s)
    if when == "after":
        s.orchestrator.mesh.add_service(rules)
    await s.clock.advance_to(1)
    other = _again(s)
    await other.start()
    assert other.mesh.spec("llm") == rules
    assert await other.discover_service("llm") == ["llm@n0:0", "llm@n0:1"]


async def test_the_last_rules_count_and_removed_ones_do_not() -> None:
    s = stage(node("n0"), schedule_on_events=True)
    for rules in _RULES:
        s.orchestrator.mesh.add_service(rules)
        s.orchestrator.mesh.add_service(replace(rules, name="gone"))
        await s.clock.advance_to(s.clock.now_ms() + 1)
    s.orchestrator.mesh.remove_service("gone")
    await _serve(s)
    other = _again(s)
    assert other.mesh.spec("llm") == _RULES[-1]
    assert other.mesh.services == ["llm"]


async def test_rules_that_are_given_again_count_more_than_the_log() -> None:
    s = stage(node("n0"), schedule_on_events=True)
    s.orchestrator.mesh.add_service(_RULES[0])
    await _serve(s)
    mesh = ServiceMesh(s.clock)
    mesh.add_service(_RULES[1])
    assert _again(s, mesh=mesh).mesh.spec("llm") == _RULES[1]


async def test_defaults_and_repetitions_are_not_logged() -> None:
    s = stage(node("n0"), schedule_on_events=True)
    await _serve(s)
    for _ in range(3):
        s.orchestrator.mesh.add_service(_RULES[0])
        s.orchestrator.policy = RULES["srtf"]
        await s.clock.advance_to(s.clock.now_ms() + 1)
    bodies = [entry.body for entry in s.foundations.consensus_engine.entries()]
    logged = [body for body in bodies if isinstance(body, Configure)]
    assert [body.subject for body in logged] == ["service:llm", "policy"]


@pytest.mark.parametrize("name", ["priority", "srtf", "las", "drf"])
async def test_the_policy_outlives_a_restart(name: str) -> None:
    s = stage(node("n0"), schedule_on_events=True)
    s.orchestrator.policy = RULES["fcfs"]
    s.orchestrator.policy = RULES[name]
    await s.clock.advance_to(1)
    assert _again(s).policy.rule == RULES[name]  # type: ignore[attr-defined]
    given = _again(s, policy=RULES["qssf"])
    assert given.policy.rule == RULES["qssf"]  # type: ignore[attr-defined]


def test_what_is_set_before_there_is_a_loop_is_written_with_the_first_command() -> None:
    s = stage(node("n0"), schedule_on_events=True)
    s.orchestrator.mesh.add_service(_RULES[0])
    assert s.clock.next_ms() is None
    asyncio.run(_serve(s))
    assert _again(s).mesh.spec("llm") == _RULES[0]


async def test_what_could_not_be_written_waits() -> None:
    s = stage(node("n0"))
    written: list[Configure] = []
    broken = True

    async def propose(body: Configure) -> None:
        if broken:
            raise OSError("the disk is full")
        written.append(body)

    settings = Settings(s.clock, (), propose)
    settings.note("policy", 1)
    await s.clock.advance_to(1)
    with pytest.raises(OSError, match="full"):
        await settings.flush()
    broken = False
    settings.note("service:a", 2)
    await settings.flush()
    assert {body.subject: body.value for body in written} == {"policy": 1, "service:a": 2}
    again = Settings(s.clock, [Entry(0, body) for body in written], propose)
    assert (again.of("policy"), again.of("service"), again.of("other")) == ([1], [2], [])


@dataclass(frozen=True)
class _Rules(ServiceSpec):
    """Somebody's own, which no log knows."""


async def test_what_no_log_can_hold_does_not_hold_up_what_it_can(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with SQLiteLog(tmp_path / "log") as log:
        s = stage(node("n0"), log=log)
        s.orchestrator.mesh.add_service(_Rules("llm", 20.0))
        await s.orchestrator.submit_job(job("a"))
        assert "'service:llm' holds until a restart: it cannot be logged" in caplog.text
        assert s.orchestrator.mesh.spec("llm") == _Rules("llm", 20.0)
        assert list(_again(s).jobs) == ["a"]
