"""Shadow, canary, active, and the ways back to the rule."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from orchestrator.deployment import Guards, Mode, PolicyDeployment, read_decisions
from orchestrator.errors import ConfigurationError
from orchestrator.foundations import in_memory
from orchestrator.kernels.state.codes import JobCode
from orchestrator.orchestrator import InfrastructureOrchestrator
from tests.deployment.cases import FREE, Cluster, Failing, Idle, Illegal, Named, Slow, settle


def _states(cluster: Cluster) -> list[tuple[str, int, int]]:
    engine = cluster.orchestrator.engine
    told = [cluster.orchestrator.get_job_status(job) for job in sorted(engine.jobs.specs)]
    return [(one["job_id"], one["start_ms"], one["end_ms"]) for one in told]


async def test_a_shadow_changes_nothing_and_is_compared(tmp_path: Path) -> None:
    alone = Cluster(Named)
    await alone.submit(30)
    await alone.finish()
    made: list[Named] = []

    def load(rule: str) -> Named:
        made.append(Named(rule))
        return made[-1]

    cluster = Cluster(load, tmp_path)
    await cluster.deployment.shadow("sjf")
    await cluster.submit(30)
    await cluster.finish()
    assert _states(cluster) == _states(alone)
    status = cluster.deployment.status()
    found = status["candidate"]
    assert status["mode"] == "shadow"
    assert found["verdicts"]["shadowed"] == found["points"] > 5
    assert 0 < found["agreement"] < 1
    gain = found["gain"]["bounded_slowdown"]
    assert gain["low"] <= gain["mean"] <= gain["high"]
    assert gain["mean"] > 0  # the shortest first
    records = [one.record for one in cluster.deployment.decisions()]
    assert len(records) == found["points"]
    assert {one.mode for one in records} == {"shadow"}
    assert all(one.choices[0].alternatives for one in records)
    assert {one.agreed for one in records} == {True, False}


async def test_the_same_policy_gains_nothing(tmp_path: Path) -> None:
    cluster = Cluster(Named)
    await cluster.deployment.shadow("fcfs")
    await cluster.submit(10)
    await cluster.finish()
    found = cluster.deployment.status()["candidate"]
    assert found["agreement"] == 1.0
    for gain in found["gain"].values():
        assert (gain["mean"], gain["low"], gain["high"]) == (0.0, 0.0, 0.0)


async def test_an_active_policy_decides_as_if_it_were_alone(tmp_path: Path) -> None:
    alone = Cluster(Named, rule="sjf")
    await alone.submit(30)
    await alone.finish()
    cluster = Cluster(Named, tmp_path)
    await cluster.deployment.activate("sjf")
    assert cluster.deployment.placing_rule is None
    await cluster.submit(30)
    await cluster.finish()
    assert _states(cluster) == _states(alone)
    counts = cluster.deployment.status()["candidate"]["verdicts"]
    assert counts["taken"] == len(list(read_decisions(tmp_path / "decisions.sqlite")))


async def test_a_canary_decides_at_its_share(tmp_path: Path) -> None:
    cluster = Cluster(Named, tmp_path)
    await cluster.deployment.canary("sjf", 0.5)
    await cluster.submit(40)
    await cluster.finish()
    drawn = [one.record.entry for one in cluster.deployment.decisions(1000)]
    assert drawn
    assert all(cluster.deployment._is_canary(entry, 0.5) for entry in drawn)
    shares = [cluster.deployment._is_canary(entry, 0.3) for entry in range(4000)]
    assert abs(sum(shares) / 4000 - 0.3) < 0.03
    with pytest.raises(ConfigurationError, match="'share' is 1"):
        await cluster.deployment.canary("sjf", 1.0)


async def test_an_illegal_plan_takes_it_out_and_the_rule_decides(tmp_path: Path) -> None:
    made: list[Illegal] = []

    def load(rule: str) -> Illegal:
        made.append(Illegal(rule))
        return made[-1]

    cluster = Cluster(load, tmp_path)
    await cluster.deployment.activate("fcfs")
    for one in made:
        one.fails = True
    await cluster.submit(4)
    await cluster.finish()
    status = cluster.deployment.status()
    assert status["mode"] == "fallback"
    assert "1 of the last 1 plans were illegal" in status["reason"]
    assert "job-that-is-not" in status["reason"]
    assert [event["mode"] for event in status["events"]] == ["active", "fallback"]
    assert cluster.orchestrator.get_cluster_status()["errors"]["policy"] == 0
    _require_all_done(cluster, 4)


def _require_all_done(cluster: Cluster, count: int) -> None:
    codes = [cluster.orchestrator.engine.jobs.code(f"job-{k}") for k in range(count)]
    assert codes == [JobCode.COMPLETED] * count


async def test_errors_count_until_there_are_too_many(tmp_path: Path) -> None:
    made: list[Failing] = []

    def load(rule: str) -> Failing:
        made.append(Failing(rule))
        return made[-1]

    cluster = Cluster(load, tmp_path, replace(FREE, errors=2))
    await cluster.deployment.activate("fcfs")
    made[0].fails = True
    await cluster.submit(1)
    assert cluster.deployment.mode == Mode.ACTIVE
    await cluster.submit(3, first=1)
    await cluster.finish()
    assert cluster.deployment.mode == Mode.FALLBACK
    assert "ArithmeticError: a weight is not a number" in cluster.deployment.status()["reason"]
    _require_all_done(cluster, 4)


async def test_a_late_answer_is_dropped_and_three_are_too_many(tmp_path: Path) -> None:
    made: list[Slow] = []

    def load(rule: str) -> Slow:
        made.append(Slow(rule))
        return made[-1]

    cluster = Cluster(load, tmp_path, Guards(deadline_ms=2000.0, pairs=1000), nodes=6)
    await cluster.deployment.activate("fcfs")
    await cluster.submit(1)
    assert cluster.deployment.status()["candidate"]["verdicts"]["taken"] == 1
    candidate = cluster.deployment._candidate
    assert candidate is not None
    candidate.asker._deadline_ms = 30.0
    made[0].waits = True
    await cluster.submit(3, first=1)
    assert cluster.deployment.mode == Mode.FALLBACK
    assert "answers were late" in cluster.deployment.status()["reason"]
    made[0].gate.set()  # it comes too late, and is not heard
    settle(lambda: not candidate.asker.busy)
    await cluster.finish()
    verdicts = [one.record.verdict for one in cluster.deployment.decisions()]
    assert verdicts == ["late", "late", "late", "taken"]
    _require_all_done(cluster, 4)


async def test_worse_results_take_it_out() -> None:
    guards = replace(FREE, completions=10, factor=1.5)
    cluster = Cluster(Idle, guards=guards)
    await cluster.submit(30)
    await cluster.finish()
    assert cluster.deployment.status()["mean_bounded_slowdown"] is not None
    await cluster.deployment.activate("fcfs")
    await cluster.submit(30, first=30)
    await cluster.finish()
    status = cluster.deployment.status()
    assert status["mode"] == "fallback"
    assert "mean bounded slowdown of the last" in status["reason"]
    _require_all_done(cluster, 60)


async def test_results_of_a_candidate_are_not_those_of_the_rule() -> None:
    kept: list[dict[str, Any]] = []

    async def keep(setting: dict[str, Any]) -> None:
        kept.append(setting)

    cluster = Cluster(Idle, guards=replace(FREE, completions=10, factor=1e9))
    await cluster.deployment.open(keep)
    assert cluster.deployment.status()["results_guard"].startswith("no baseline")
    await cluster.submit(30)
    await cluster.finish()
    by_rule = cluster.deployment.status()["mean_bounded_slowdown"]
    await cluster.deployment.shadow("fcfs")
    assert cluster.deployment.status()["mean_bounded_slowdown"] == by_rule  # it goes on deciding
    await cluster.deployment.activate("fcfs")
    await cluster.submit(30, first=30)
    await cluster.finish()
    assert cluster.deployment.status()["mean_bounded_slowdown"] > 2 * by_rule
    await cluster.deployment.fall_back("it is bad")
    status = cluster.deployment.status()
    assert (status["mean_bounded_slowdown"], status["baseline"]) == (None, by_rule)
    assert status["results_guard"] == "on"
    again = Cluster(Idle)
    await again.deployment.open(keep, kept[-1])
    for deployment in (cluster.deployment, again.deployment):
        assert (await deployment.activate("fcfs"))["baseline"] == by_rule


async def test_an_estimated_loss_takes_a_canary_out() -> None:
    cluster = Cluster(Idle, guards=replace(FREE, pairs=10, loss=0.02))
    await cluster.deployment.canary("fcfs", 0.6)
    await cluster.submit(50)
    await cluster.finish()
    status = cluster.deployment.status()
    assert status["mode"] == "fallback", status["candidate"]
    assert "estimated by" in status["reason"]
    _require_all_done(cluster, 50)


async def test_the_mode_outlives_a_restart_and_another_bundle_does_not(tmp_path: Path) -> None:
    kept: list[dict[str, Any]] = []

    async def keep(setting: dict[str, Any]) -> None:
        kept.append(setting)

    cluster = Cluster(Named)
    await cluster.deployment.open(keep)
    await cluster.deployment.canary("sjf", 0.25, "a first try")
    assert kept[-1]["mode"] == "canary"
    before = kept[-1]

    again = Cluster(Named)
    await again.deployment.open(keep, before)
    assert again.deployment.mode == Mode.CANARY
    assert again.deployment.status()["share"] == 0.25

    kept.clear()
    changed = Cluster(lambda rule: Named(rule, "4567"))
    await changed.deployment.open(keep, before)
    assert changed.deployment.mode == Mode.FALLBACK
    assert [one["mode"] for one in kept] == ["fallback"]  # it was in charge at no time
    assert [one.mode for one in changed.deployment.events] == ["fallback"]
    assert (
        "another one than before the restart: 4567, not 0123"
        in changed.deployment.status()["reason"]
    )

    def gone(bundle: str) -> Named:
        raise ConfigurationError(f"there is no folder {bundle}")

    lost = Cluster(gone)
    await lost.deployment.open(None, before)
    assert lost.deployment.mode == Mode.FALLBACK
    assert "there is no folder sjf" in lost.deployment.status()["reason"]


async def test_a_bundle_that_does_not_load_changes_nothing() -> None:
    cluster = Cluster(Named)
    await cluster.deployment.shadow("sjf")
    with pytest.raises(ConfigurationError, match="'no-rule' cannot be put in charge"):
        await cluster.deployment.activate("no-rule")
    assert cluster.deployment.mode == Mode.SHADOW
    without = Cluster(Named).deployment
    without._load = None
    with pytest.raises(ConfigurationError, match="nobody who loads bundles"):
        await without.activate("sjf")


@pytest.mark.parametrize(
    ("field", "value"),
    [("late", 0), ("of", 2), ("completions", 3), ("factor", 0.5), ("deadline_ms", 0.0)],
)
def test_guards_are_checked(field: str, value: float) -> None:
    with pytest.raises(ConfigurationError, match=f"'{field}' is"):
        Guards(**{field: value})


async def test_an_orchestrator_keeps_the_mode_and_tells_of_it() -> None:
    cluster = Cluster(Named)
    await cluster.deployment.attach(cluster.orchestrator)
    await cluster.deployment.activate("sjf")
    await cluster.submit(2)
    await cluster.deployment.fall_back("that will do")
    await cluster.deployment.canary("sjf", 0.5)
    again = PolicyDeployment(None, Named, guards=FREE)
    orchestrator = InfrastructureOrchestrator(
        *in_memory(cluster.clock)._replace(consensus_engine=cluster.orchestrator.consensus),
        clock=cluster.clock,
        policy=again,
    )
    await again.attach(orchestrator)
    status = again.status()
    assert (status["mode"], status["bundle"], status["share"]) == ("canary", "sjf", 0.5)
    assert status["rule"] == "fcfs"
    told = [one.what for one in cluster.orchestrator.happenings()[0] if one.kind == "policy"]
    # It begins with the rule that was given, and says again what goes on after a restart.
    assert told == ["fallback", "active", "fallback", "canary", "canary"]


async def test_a_guards_word_is_kept_though_the_log_fails_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("orchestrator.deployment.deployment._AGAIN_S", 0.01)
    cluster = Cluster(Idle, guards=replace(FREE, pairs=10, loss=0.02))
    kept: list[str] = []

    async def keep(setting: dict[str, Any]) -> None:
        kept.append(setting["mode"])
        if kept == ["fallback", "canary", "fallback"]:
            raise OSError("no space left on device")

    await cluster.deployment.open(keep)
    await cluster.deployment.canary("fcfs", 0.6)
    await cluster.submit(50)
    await cluster.finish()
    for _ in range(100):
        if len(kept) == 4:
            break
        await asyncio.sleep(0.01)
    assert kept == ["fallback", "canary", "fallback", "fallback"]


async def test_the_rule_need_not_wait_for_a_bundle_that_is_being_loaded() -> None:
    gate, begun = threading.Event(), threading.Event()

    def load(rule: str) -> Named:
        begun.set()
        gate.wait(10.0)
        return Named(rule)

    cluster = Cluster(load)
    loading = asyncio.create_task(cluster.deployment.activate("sjf"))
    await asyncio.to_thread(begun.wait, 10.0)
    status = await asyncio.wait_for(cluster.deployment.fall_back("never mind"), 5.0)
    assert status["reason"] == "never mind"
    gate.set()
    with pytest.raises(ConfigurationError, match="'sjf' was not put in charge"):
        await loading
    assert cluster.deployment.mode == Mode.FALLBACK
    assert (await cluster.deployment.activate("sjf"))["mode"] == "active"


async def test_what_cannot_be_kept_is_not_in_charge_and_the_rule_is_kept_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("orchestrator.deployment.deployment._AGAIN_S", 0.01)
    kept: list[str] = []
    full = False

    async def keep(setting: dict[str, Any]) -> None:
        if full:
            raise OSError("no space left on device")
        kept.append(setting["bundle"])

    async def until(wanted: list[str]) -> None:
        for _ in range(500):
            if kept == wanted:
                break
            await asyncio.sleep(0.01)
        assert kept == wanted

    cluster = Cluster(Named)
    await cluster.deployment.open(keep)
    await cluster.deployment.activate("sjf")
    full = True
    with pytest.raises(OSError, match="no space left"):
        await cluster.deployment.activate("fcfs")
    assert cluster.deployment.bundle == "sjf"
    full = False
    await until(["", "sjf", "sjf"])  # the other one may have been written before it failed
    await cluster.submit(1)
    candidate = cluster.deployment.status()["candidate"]
    assert candidate["name"] == "sjf"
    assert candidate["verdicts"]["taken"] == 1  # and still answers
    full = True
    assert (await cluster.deployment.fall_back("enough"))["mode"] == "fallback"
    full = False
    await until(["", "sjf", "sjf", ""])
