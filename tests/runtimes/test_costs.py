"""What running jobs costs, in the simulated runtime: the engine knows nothing of it."""

from __future__ import annotations

import math
from typing import Any

import pytest

from orchestrator.clock import VirtualClock
from orchestrator.errors import ConfigurationError
from orchestrator.foundations import in_memory
from orchestrator.orchestrator import InfrastructureOrchestrator
from orchestrator.runtimes import Conduct, RuntimeCosts, SimulatedRuntime
from orchestrator.types import JobPriority, JobSpec, NodeSpec

_SECOND_MS = 1000
_COSTS = RuntimeCosts(
    start_ms=100, start_per_worker_ms=10, save_ms=7, stop_ms=30, lost_ms=400, regroup_ms=50
)


class Cluster:
    """Two nodes of four GPUs, in virtual time."""

    def __init__(self, costs: RuntimeCosts = _COSTS, decide_ms: int = 0, **conduct: Conduct):
        self.clock = VirtualClock()
        self.runtime = SimulatedRuntime(self.clock, costs=costs, conduct=conduct)
        nodes = [NodeSpec(name, 4, 16.0, 8, 64.0, 10.0, "NVLink") for name in ("n0", "n1")]
        self.them = InfrastructureOrchestrator(
            *in_memory(self.clock),
            clock=self.clock,
            runtime=self.runtime,
            nodes=nodes,
            schedule_on_events=True,
            decide_after_ms=decide_ms,
        )

    async def submit(self, name: str, **fields: Any) -> None:
        given = {"gpus_per_worker": 1, "memory_per_worker_gb": 1.0, "num_workers": 1}
        given |= {"max_duration_hours": 0.1, "duration_hours": 10 / 3600}
        given |= {"checkpoint_interval_steps": 0}
        given |= {"priority": JobPriority.BATCH, "preemptible": True, **fields}
        await self.them.submit_job(JobSpec(job_id=name, name=name, **given))

    async def story(self, name: str) -> list[tuple[str, int]]:
        await self.clock.advance_to(120 * _SECOND_MS)
        notes = self.them.get_job_status(name)["history"]
        return [(note["what"], note["time_ms"]) for note in notes]


async def test_a_start_takes_its_time_and_more_with_more_workers() -> None:
    cluster = Cluster()
    await cluster.submit("one")
    await cluster.submit("three", num_workers=3, restart_seconds=5.0)
    assert (await cluster.story("one"))[1:] == [("started", 0), ("completed", 10_100)]
    assert (await cluster.story("three"))[1:] == [("started", 0), ("completed", 10_120)]


async def test_a_decision_takes_its_time_and_takes_in_what_came_meanwhile() -> None:
    cluster = Cluster(RuntimeCosts(), decide_ms=20)
    await cluster.submit("low", gpus_per_worker=4, num_workers=2, priority=JobPriority.BEST_EFFORT)
    await cluster.clock.advance_to(10)
    await cluster.submit("high", gpus_per_worker=4, num_workers=2, priority=JobPriority.CRITICAL)
    assert (await cluster.story("high"))[1:] == [("started", 20), ("completed", 10_020)]
    assert (await cluster.story("low"))[1] == ("started", 10_040)


async def test_what_is_saved_is_the_work_and_not_the_start() -> None:
    cluster = Cluster()
    await cluster.submit("job")
    await cluster.clock.advance_to(4000)
    assert await cluster.them.preempt_job("job", "for once")  # 3.9 s of work are done
    told = await cluster.story("job")
    assert told[-1] == ("completed", told[-2][1] + 100 + 6100)


async def test_a_save_takes_what_it_should_and_its_cost() -> None:
    cluster = Cluster()
    await cluster.submit("job", checkpoint_seconds=1.0)
    await cluster.clock.advance_to(4000)
    assert await cluster.them.preempt_job("job", "for once")
    told = dict(await cluster.story("job"))
    assert told["saved"] == 4000 + 1000 + 7
    # Nothing is lost: work stopped at 4000, and 3.9 s of it were done.
    assert told["completed"] == told["started"] + 30 + 100 + 6100


@pytest.mark.parametrize("at_ms", [50, 4000])
async def test_who_has_not_begun_and_who_cannot_does_not_save(at_ms: int) -> None:
    cluster = Cluster(job=Conduct(saves=at_ms < 100))
    await cluster.submit("job", checkpoint_seconds=1.0)
    await cluster.clock.advance_to(at_ms)
    assert await cluster.them.preempt_job("job", "for once")
    told = await cluster.story("job")
    assert ("interrupted", at_ms + 30) in told
    started_ms = [time_ms for what, time_ms in told if what == "started"][-1]
    assert told[-1] == ("completed", started_ms + 100 + 10_000)  # all of it anew


async def test_after_a_save_and_a_lost_node_what_was_saved_counts() -> None:
    cluster = Cluster()
    await cluster.submit("job")
    await cluster.clock.advance_to(4000)
    assert await cluster.them.preempt_job("job", "for once")
    await cluster.clock.advance_to(8000)
    (place,) = cluster.them.engine.workers_of("job")
    await cluster.them.handle_node_failure(place.node_id)
    told = await cluster.story("job")
    started_ms = [time_ms for what, time_ms in told if what == "started"][-1]
    # Its node is gone: it begins when that is certain, with the 3.9 s that are saved.
    assert told[-1] == ("completed", max(started_ms, 8000 + 400) + 100 + 6100)


async def test_workers_that_are_killed_are_lost() -> None:
    cluster = Cluster()
    await cluster.submit("job")
    await cluster.clock.advance_to(4000)
    cluster.runtime.lose("job", "somebody has killed them")
    cluster.runtime.lose("nobody")
    told = await cluster.story("job")
    assert ("interrupted", 4000) in told
    assert told[-1] == ("completed", 4000 + 100 + 10_000)


async def test_a_regroup_stops_work_for_its_cost() -> None:
    cluster = Cluster()
    await cluster.submit("job", elastic=True, num_workers=2, max_workers=4)
    await cluster.clock.advance_to(4110)  # 4 s of work are done
    assert await cluster.them.scale_job("job", 4)
    assert (await cluster.story("job"))[-1] == ("completed", 4110 + 50 + 3000)


async def test_a_regroup_does_not_hasten_a_start() -> None:
    cluster = Cluster()
    await cluster.submit("job", elastic=True, num_workers=2, max_workers=4)
    await cluster.clock.advance_to(10)
    assert await cluster.them.scale_job("job", 4)
    assert (await cluster.story("job"))[-1] == ("completed", 110 + 5000)


async def test_a_job_may_fail() -> None:
    cluster = Cluster(job=Conduct(exit_code=3))
    await cluster.submit("job")
    assert (await cluster.story("job"))[-1] == ("failed", 10_100)
    assert cluster.them.get_job_status("job")["exit_code"] == 3


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, True, "1"])
def test_costs_are_times(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="'save_ms' is"):
        RuntimeCosts(save_ms=value)
