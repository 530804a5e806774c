"""Whom room and accounts are kept for in a live cluster: first come, first served, in the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator import (
    RULES,
    ClusterShape,
    InfrastructureOrchestrator,
    JobKind,
    JobPriority,
    JobSpec,
    NodeSpec,
    QuotaMode,
    Rule,
    Semantics,
    SimulatedRuntime,
    TenantSpec,
    VirtualClock,
    in_memory,
)
from orchestrator.engine.plans import late_workers

_SHAPE = ClusterShape(envs=1, jobs=256, workers=8, nodes=4, devices=8, tenants=4)
_HARD = Semantics(quota_mode=QuotaMode.HARD)
_FIRST, _LAST = JobPriority.CRITICAL, JobPriority.BEST_EFFORT


def _job(job_id: str, hours: float = 1.0, **fields: Any) -> JobSpec:
    values: dict[str, Any] = {"num_workers": 1, "gpus_per_worker": 1, "priority": JobPriority.BATCH}
    values |= {"memory_per_worker_gb": 1.0, "checkpoint_interval_steps": 600}
    values |= {"checkpoint_seconds": 5.0, "restart_seconds": 20.0}
    return JobSpec(job_id, job_id, max_duration_hours=hours, **(values | fields))


def _node(node_id: str, links: str = "NVLink") -> NodeSpec:
    return NodeSpec(node_id, 8, 80.0, 64, 512.0, 100.0, links)


class _Scene:
    """A cluster that schedules by itself."""

    def __init__(self, *links: str, rule: str = "priority", **options: Any) -> None:
        self.clock = VirtualClock()
        nodes = [_node(f"n{k}", kind) for k, kind in enumerate(links)]
        values: dict[str, Any] = {"shape": _SHAPE, "schedule_on_events": True, "check": True}
        self.cluster = InfrastructureOrchestrator(
            *in_memory(self.clock),
            clock=self.clock,
            nodes=nodes,
            policy=RULES[rule],
            runtime=SimulatedRuntime(self.clock),
            **(values | options),
        )

    async def submit(self, *jobs: JobSpec) -> None:
        for job in jobs:
            await self.cluster.submit_job(job)
        await self.hours(1 / 60)

    async def hours(self, hours: float) -> None:
        await self.clock.advance_to(self.clock.now_ms() + round(3_600_000 * hours))

    def started_h(self, job_id: str) -> float | None:
        start_ms = self.cluster.get_job_status(job_id)["first_start_ms"]
        return None if start_ms is None else start_ms / 3_600_000

    def state(self, job_id: str) -> str:
        return str(self.cluster.get_job_status(job_id)["state"])

    async def overtaken(
        self, make: Callable[[int], JobSpec], every_h: float = 0.5, most_h: float = 12.0
    ) -> float | None:
        """When the gang has started at last, while others come all the time."""
        for i in range(round(most_h / every_h)):
            await self.submit(make(i))
            await self.hours(every_h - 1 / 60)
            if self.started_h("gang") is not None:
                break
        return self.started_h("gang")


def test_jobs_that_choose_their_place_do_not_take_room_that_is_kept() -> None:
    """Best fit would put them on the other node; their own wish, faster links, on the gang's."""

    async def play() -> float | None:
        scene = _Scene("NVLink", "PCIe")
        await scene.submit(_job("a", 2.0, gpus_per_worker=4))
        await scene.submit(_job("b", 400.0, gpus_per_worker=5, topology_aware=False))
        assert scene.cluster.get_job_status("a")["workers"][0]["node"] == "n0"
        assert scene.cluster.get_job_status("b")["workers"][0]["node"] == "n1"
        await scene.submit(_job("gang", gpus_per_worker=8, priority=_FIRST))
        small = {"gpus_per_worker": 2, "priority": _LAST}
        start = await scene.overtaken(lambda i: _job(f"t{i}", 3.5, **small), every_h=1.0)
        # It did not wait for them, nor did they for it: there was room on the other node.
        assert scene.cluster.get_job_status("t0")["workers"][0]["node"] == "n1"
        return start

    assert asyncio.run(play()) == pytest.approx(2.0, abs=0.01)


def test_where_it_harms_nobody_jobs_still_choose_their_place() -> None:
    async def play() -> str:
        scene = _Scene("NVLink", "PCIe")
        await scene.submit(_job("b", 400.0, gpus_per_worker=5, topology_aware=False))
        await scene.submit(_job("a", 2.0, gpus_per_worker=2))
        return str([scene.cluster.get_job_status(name)["workers"][0]["node"] for name in "ba"])

    assert asyncio.run(play()) == "['n0', 'n0']"


@pytest.mark.parametrize(
    "loose",
    [
        {"gang_schedule": False},
        {"elastic": True, "min_workers": 1, "max_workers": 8},
        {"elastic": True, "min_workers": 2, "max_workers": 8},
    ],
)
def test_a_job_with_fewer_workers_than_it_asked_for_ends_later(loose: dict[str, Any]) -> None:
    """An hour on eight workers is eight hours on the one that is free: too late to overtake."""

    async def play() -> tuple[float | None, float | None]:
        scene = _Scene("NVLink")
        await scene.submit(_job("a", 3.0, gpus_per_worker=6))
        await scene.submit(_job("gang", num_workers=8))
        await scene.submit(_job("many", 1.0, num_workers=8, **loose), _job("one", 2.5))
        assert scene.started_h("one") == pytest.approx(2 / 60)
        await scene.hours(5.0)
        return scene.started_h("gang"), scene.started_h("many")

    assert asyncio.run(play()) == (pytest.approx(3.0, abs=0.01), pytest.approx(4.0, abs=0.01))


def test_workers_that_join_late_do_not_take_room_that_is_kept() -> None:
    """The job that is no gang has started beside the gang's place; it does not spread into it."""

    async def play() -> float | None:
        scene = _Scene("NVLink", "NVLink")
        await scene.submit(_job("a1", 1.0, gpus_per_worker=4), _job("a2", 3.0, gpus_per_worker=4))
        await scene.submit(_job("b", 400.0, gpus_per_worker=7))
        await scene.submit(_job("gang", gpus_per_worker=8), _job("soon", 1.0, num_workers=8))
        await scene.submit(_job("loose", 100.0, num_workers=8, gang_schedule=False))
        assert scene.state("loose") == "running"
        await scene.hours(1.5)  # of a1's four GPUs it gets none
        assert len(scene.cluster.get_job_status("loose")["workers"]) == 1
        assert late_workers(scene.cluster.engine.state_at(5_400_000), ["a1"]) == ()
        await scene.hours(2.0)
        return scene.started_h("gang")

    assert asyncio.run(play()) == pytest.approx(3.0, abs=0.01)


def test_a_service_has_no_end_by_which_it_could_leave() -> None:
    async def play() -> tuple[float | None, str]:
        scene = _Scene("NVLink")
        await scene.submit(_job("a", 2.0, gpus_per_worker=4))
        await scene.submit(_job("gang", 9.0, num_workers=8, priority=_FIRST))
        forever = _job("service", 0.5, kind=JobKind.SERVICE, priority=_LAST)
        await scene.submit(forever, _job("short", 0.5, priority=_LAST))
        assert scene.state("short") == "running"
        await scene.hours(2.5)
        return scene.started_h("gang"), scene.state("service")

    assert asyncio.run(play()) == (pytest.approx(2.0, abs=0.01), "pending")


@pytest.mark.parametrize("rule", ["priority", "reclaim", "drf"])
@pytest.mark.parametrize("ends_h", [(0.3, 0.6, 0.9, 1.2), (1.0, 1.0, 2.0, 2.0)])
def test_a_quota_is_kept_for_the_first_that_waits_for_it(
    rule: str, ends_h: tuple[float, ...]
) -> None:
    """What its tenant's small jobs take as soon as it is free, a gang never gets together."""

    async def play() -> float | None:
        tenants = (TenantSpec("A", quota=8.0), TenantSpec("B", quota=8.0))
        scene = _Scene("NVLink", "NVLink", rule=rule, semantics=_HARD, tenants=tenants)
        await scene.submit(*(_job(f"s{h}{k}", h, tenant="A") for k, h in enumerate(ends_h)))
        await scene.submit(_job("gang", num_workers=8, tenant="A", priority=_FIRST))
        others = _job("other", 9.0, num_workers=8, tenant="B", priority=_LAST)
        await scene.submit(others, _job("short", 0.1, tenant="A", priority=_LAST))
        assert scene.state("other") == scene.state("short") == "running"  # nobody is in their way
        return await scene.overtaken(lambda i: _job(f"t{i}", tenant="A", priority=_LAST))

    assert asyncio.run(play()) == pytest.approx(ends_h[-1], abs=0.01)


def test_without_reservation_a_quota_is_taken_by_small_jobs_for_ever() -> None:
    """That the test above can fail."""

    async def play() -> float | None:
        scene = _Scene("NVLink", semantics=_HARD, tenants=(TenantSpec("A", quota=4.0),))
        scene.cluster.policy = Rule("without", RULES["fcfs"].key)
        await scene.submit(*(_job(f"s{k}", 0.5 + k / 4, tenant="A") for k in range(4)))
        await scene.submit(_job("gang", num_workers=4, tenant="A"))
        return await scene.overtaken(lambda i: _job(f"t{i}", tenant="A"), every_h=0.25)

    assert asyncio.run(play()) is None


@pytest.mark.parametrize(
    ("preemptible", "priority", "start_h"),
    [(True, _LAST, 0.0), (False, _LAST, 3.0), (True, _FIRST, 3.0)],
)
def test_quota_is_taken_from_those_of_the_tenant_who_give_way(
    preemptible: bool, priority: JobPriority, start_h: float
) -> None:
    """And from nobody else, whose quota it is not."""

    async def play() -> tuple[float | None, str]:
        tenants = (TenantSpec("A", quota=8.0), TenantSpec("B", quota=8.0))
        scene = _Scene("NVLink", "NVLink", semantics=_HARD, tenants=tenants)
        held = {"num_workers": 4, "preemptible": preemptible, "priority": priority}
        other = _job("other", 9.0, tenant="B", num_workers=8, preemptible=True, priority=_LAST)
        await scene.submit(other, _job("held", 3.0, tenant="A", **held))
        await scene.submit(_job("gang", num_workers=8, tenant="A", priority=_FIRST))
        await scene.hours(4.0)
        return scene.started_h("gang"), scene.state("other")

    start, other = asyncio.run(play())
    assert start == pytest.approx(start_h, abs=0.03)
    assert other == "running"


@pytest.mark.parametrize("preemptible", [False, True])
def test_storage_is_kept_for_the_first_that_waits_for_it(preemptible: bool) -> None:
    """Preempting nobody for whoever stands behind it: storage does not come back by that."""

    async def play() -> tuple[float | None, int]:
        scene = _Scene("NVLink", tenants=(TenantSpec("A", storage_quota_gb=10.0),))
        held = {"num_workers": 8, "preemptible": preemptible, "priority": _LAST}
        await scene.submit(_job("held", 2.0, tenant="A", checkpoint_gb=4.0, **held))
        large = {"num_workers": 2, "checkpoint_gb": 8.0, "priority": _FIRST}
        await scene.submit(_job("gang", tenant="A", **large))
        start = await scene.overtaken(lambda i: _job(f"t{i}", tenant="A", checkpoint_gb=4.0))
        return start, int(scene.cluster.get_job_status("held")["preemptions"])

    assert asyncio.run(play()) == (pytest.approx(2.0, abs=0.02), 0)


def _told(scene: _Scene, job_id: str) -> tuple[str, str, bool]:
    """Why a job waits, for whom room is kept, and whether the text says so."""
    told = scene.cluster.get_job_status(job_id)["waits_for"]
    queue = scene.cluster.get_cluster_status()["queue"]
    assert queue["waits_for"][job_id] == told
    return (
        told["reason"],
        told["kept_for"],
        f"keeps room for job '{told['kept_for']}'" in told["text"],
    )


@pytest.mark.parametrize("rule", ["priority", "reclaim", "drf"])
@pytest.mark.parametrize("name", ["gang", "another"])
def test_who_waits_behind_a_reservation_is_told_for_whom(rule: str, name: str) -> None:
    async def play() -> None:
        scene = _Scene("NVLink", rule=rule)
        await scene.submit(_job("a", 2.0, gpus_per_worker=4))
        await scene.submit(_job(name, gpus_per_worker=8))
        await scene.submit(_job("long", 50.0, gpus_per_worker=2))
        await scene.submit(_job("longer", 60.0, gpus_per_worker=1), _job("short", 0.5))
        assert scene.state("short") == "running"
        assert _told(scene, "long") == _told(scene, "longer") == ("ok", name, True)
        told = scene.cluster.get_job_status(name)["waits_for"]
        assert (told["reason"], told["kept_for"]) == ("no_capacity", "")

    asyncio.run(play())


@pytest.mark.parametrize("rule", ["fcfs", "sjf"])
def test_without_a_reservation_it_is_a_matter_of_turns(rule: str) -> None:
    async def play() -> None:
        scene = _Scene("NVLink", rule=rule, schedule_on_events=False)
        await scene.submit(_job("a", gpus_per_worker=2), _job("b", gpus_per_worker=2))
        assert _told(scene, "b") == ("ok", "", False)

    asyncio.run(play())


def test_who_is_started_next_is_kept_waiting_by_nobody() -> None:
    """Nobody has asked the policy yet: it would start both, and then keep room for the gang."""

    async def play() -> None:
        scene = _Scene("NVLink", schedule_on_events=False)
        await scene.submit(_job("a", gpus_per_worker=2), _job("gang", gpus_per_worker=8))
        await scene.submit(_job("b", 0.5, gpus_per_worker=2), _job("long", 9.0, gpus_per_worker=2))
        assert [_told(scene, name)[1] for name in ("a", "b", "long")] == ["", "", "gang"]

    asyncio.run(play())


@pytest.mark.parametrize("waits", ["first", "other"])
def test_a_job_behind_its_tenants_first_is_told_so(waits: str) -> None:
    async def play() -> None:
        tenants = (TenantSpec("A", quota=4.0), TenantSpec("B", quota=4.0))
        scene = _Scene("NVLink", semantics=_HARD, tenants=tenants)
        await scene.submit(_job("runs", 9.0, gpus_per_worker=3, tenant="A"))
        await scene.submit(_job(waits, gpus_per_worker=4, tenant="A"))
        await scene.submit(_job("behind", 50.0, tenant="A"))
        assert _told(scene, "behind") == ("ok", waits, True)

    asyncio.run(play())
