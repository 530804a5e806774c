"""Two orchestrators on one log: the later one acts, the earlier one stops and says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from orchestrator import InfrastructureOrchestrator, VirtualClock, in_memory
from orchestrator.errors import NotLeaderError
from orchestrator.foundations import Foundations, InMemoryConsensus
from orchestrator.kernels.state.codes import JobKind
from orchestrator.messages import Effect, Entry, Lead, StartJob, Submit
from orchestrator.runtimes import SimulatedRuntime
from tests.engine.builders import HOUR_MS, MINUTE_MS, SHAPE, job, node


class _Outside(SimulatedRuntime):
    """The one real world."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(clock)
        self.told: list[Effect] = []
        self.broken = False

    def carry_out(self, effects: Sequence[Effect]) -> None:
        if self.broken:
            raise OSError("no connection")
        self.told += effects
        super().carry_out(effects)

    @property
    def starts(self) -> list[tuple[str, int]]:
        return [(e.job_id, e.run) for e in self.told if isinstance(e, StartJob)]


class _Scene:
    def __init__(self, log: InMemoryConsensus | None = None) -> None:
        self.clock = VirtualClock()
        self.found: Foundations = in_memory(self.clock)
        if log is not None:
            self.found = self.found._replace(consensus_engine=log)
        self.world = _Outside(self.clock)

    def orchestrator(self, **options: Any) -> InfrastructureOrchestrator:
        values: dict[str, Any] = {"nodes": [node("n0")], "shape": SHAPE, "runtime": self.world}
        values |= {"schedule_on_events": True, "check": True}
        return InfrastructureOrchestrator(*self.found, clock=self.clock, **(values | options))


async def test_a_standby_that_is_only_made_does_not_act() -> None:
    scene = _Scene()
    first, _standby = scene.orchestrator(), scene.orchestrator()
    await first.submit_job(job("a"))
    await scene.clock.advance_to(MINUTE_MS)
    await first.submit_job(job("b"))
    await scene.clock.advance_to(2 * MINUTE_MS)
    assert scene.world.starts == [("a", 1), ("b", 1)]


async def test_the_later_one_goes_on_and_the_earlier_one_says_that_it_cannot() -> None:
    scene = _Scene()
    first, second = scene.orchestrator(), scene.orchestrator()
    await first.submit_job(job("a"))
    await scene.clock.advance_to(MINUTE_MS)
    await second.submit_job(job("b"))
    await scene.clock.advance_to(2 * MINUTE_MS)
    logged = len(scene.found.consensus_engine)
    for act in (
        lambda: first.submit_job(job("c")),
        first.schedule,
        lambda: first.preempt_job("a", ""),
        first.auto_scale_cluster,
        lambda: first.register_node(node("n1")),
    ):
        with pytest.raises(NotLeaderError, match=r"leads since entry \d+ of the log"):
            await act()
    assert len(scene.found.consensus_engine) == logged
    assert scene.world.starts == [("a", 1), ("b", 1)]
    await scene.clock.advance_to(2 * HOUR_MS)
    assert second.get_cluster_status()["jobs"]["completed"] == 2
    leads = [e.body.name for e in scene.found.consensus_engine.entries() if _is_lead(e)]
    assert len(leads) == len(set(leads)) == 2


def _is_lead(entry: Entry) -> bool:
    return isinstance(entry.body, Lead)


async def test_both_may_start_before_there_is_anything_to_do() -> None:
    scene = _Scene()
    first, second = scene.orchestrator(), scene.orchestrator()
    await first.start()
    await second.start()
    with pytest.raises(NotLeaderError):
        await first.submit_job(job("a"))
    await second.submit_job(job("a"))
    await scene.clock.advance_to(MINUTE_MS)
    assert scene.world.starts == [("a", 1)]


class _Overtaken(InMemoryConsensus):
    """Just before an entry of ours somebody else takes over."""

    overtake = False

    async def append(self, entry: Entry) -> int:
        if self.overtake:
            self.overtake = False
            await super().append(Entry(entry.time_ms, Lead("another"), entry.term))
        return await super().append(entry)


async def test_an_entry_that_comes_too_late_is_refused_by_everybody() -> None:
    scene = _Scene(log := _Overtaken())
    first = scene.orchestrator()
    await first.submit_job(job("a"))
    log.overtake = True
    with pytest.raises(NotLeaderError, match="'another'"):
        await first.submit_job(job("late"))
    assert isinstance(log.entries()[-1].body, Submit)
    reader = scene.orchestrator()
    assert list(reader.jobs) == list(first.jobs) == ["a"]
    await scene.clock.advance_to(MINUTE_MS)
    assert scene.world.starts == []  # nobody has decided since


async def test_who_is_replaced_does_not_send_what_it_still_had_to() -> None:
    scene = _Scene()
    first = scene.orchestrator()
    await first.submit_job(job("a"))
    scene.world.broken = True
    await scene.clock.advance_to(10)
    assert first.get_cluster_status()["errors"]["effects_waiting"] == 1
    scene.world.broken = False
    second = scene.orchestrator()
    await second.start()
    assert scene.world.starts == [("a", 1)]  # it was logged, and not done
    await scene.clock.advance_to(2 * HOUR_MS)
    assert scene.world.starts == [("a", 1)]
    assert second.get_job_status("a")["interruptions"] == 0
    assert first.get_cluster_status()["errors"]["effects_waiting"] == 0


async def test_reports_go_to_the_one_that_leads() -> None:
    scene = _Scene()
    first, second = scene.orchestrator(), scene.orchestrator()
    await second.submit_job(job("a"))  # made last, and leads
    third = scene.orchestrator()
    await scene.clock.advance_to(2 * HOUR_MS)  # the end is reported to the one made last
    assert third.get_job_status("a")["state"] == "completed"
    for replaced in (first, second):
        assert replaced.engine.log_hash != 0 or replaced.jobs == {}
    with pytest.raises(NotLeaderError):
        await second.submit_job(job("b"))
    assert scene.world.starts == [("a", 1)]


@pytest.mark.parametrize("registered", [False, True])
async def test_a_standby_hears_of_a_failure_and_leaves_it_to_the_leader(registered: bool) -> None:
    scene = _Scene()
    first = scene.orchestrator()
    if registered:
        await first.register_node(node("n1"))
    name = "n1" if registered else "n0"
    await first.start()
    standby = scene.orchestrator()
    await scene.found.fault_detector.heartbeat(name)
    await scene.clock.advance_to(MINUTE_MS)
    assert first.get_cluster_status()["nodes"]["states"][name] == "down"
    await scene.found.fault_detector.heartbeat(name)
    await scene.clock.advance_to(MINUTE_MS + 1)
    assert first.get_cluster_status()["nodes"]["states"][name] == "up"
    await first.submit_job(job("a"))  # it leads as before
    assert standby.get_cluster_status()["leader"] == first.get_cluster_status()["leader"]


async def test_a_standby_acts_when_the_leader_has_not() -> None:
    scene = _Scene()
    await scene.orchestrator().submit_job(job("a"))
    await scene.clock.advance_to(MINUTE_MS)
    detector = in_memory(scene.clock).fault_detector  # the leader's has died with it
    scene.found = scene.found._replace(fault_detector=detector)
    standby = scene.orchestrator()
    await detector.heartbeat("n0")
    await scene.clock.advance_to(2 * MINUTE_MS)
    assert standby.get_job_status("a")["interruptions"] == 1


async def test_a_standby_answers_requests_and_does_not_take_over() -> None:
    scene = _Scene()
    first, standby = scene.orchestrator(), scene.orchestrator()
    fields = {"kind": JobKind.SERVICE, "num_workers": 2, "max_duration_hours": 100.0}
    await first.submit_job(job("llm", **fields))
    await scene.clock.advance_to(MINUTE_MS)
    assert await standby.discover_service("llm") == ["llm@n0:0", "llm@n0:1"]
    assert await first.scale_job("llm", 1) is False  # it is not elastic
    await first.decommission_node("n0", drain=False)
    assert await standby.discover_service("llm") == []
    assert first.get_cluster_status()["leader"] == standby.get_cluster_status()["leader"]
    await first.register_node(node("n1"))  # it leads as before


async def test_who_was_replaced_tells_what_the_new_leader_has_done() -> None:
    scene = _Scene()
    first, second = scene.orchestrator(), scene.orchestrator()
    await first.submit_job(job("a"))
    await second.start()
    await second.submit_job(job("b"))
    await scene.clock.advance_to(3 * HOUR_MS)
    for cluster in (first, second):
        assert [cluster.get_job_status(name)["state"] for name in "ab"] == ["completed"] * 2
    leaders = {cluster.get_cluster_status()["leader"] for cluster in (first, second)}
    assert len(leaders) == 1
