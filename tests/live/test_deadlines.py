"""Saves that hang: the victim loses its last interval, nobody else anything."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import pytest

from orchestrator import InfrastructureOrchestrator, VirtualClock, in_memory
from orchestrator.messages import Effect, SaveCheckpoint
from orchestrator.runtimes import SimulatedRuntime
from orchestrator.scheduling.rules import RULES
from orchestrator.types import JobPriority
from tests.engine.builders import HOUR_MS, MINUTE_MS, SHAPE, job, node


class _Hangs(SimulatedRuntime):
    """Never saves some jobs (a file system that hangs, an agent that is down)."""

    def __init__(self, clock: VirtualClock, stuck: Collection[str]) -> None:
        super().__init__(clock)
        self._stuck = stuck

    def carry_out(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, SaveCheckpoint) and effect.job_id in self._stuck:
                self._running[effect.job_id].timer.cancel()
            else:
                super().carry_out([effect])


def _cluster(*nodes: str, stuck: Collection[str] = ("stuck",), rule: str = "priority", **options):
    clock = VirtualClock()
    hosts = [node(name, gpus=4) for name in nodes]
    values = {"runtime": _Hangs(clock, stuck), "shape": SHAPE, "policy": RULES[rule], "check": True}
    lasting = in_memory(clock)
    orchestrator = InfrastructureOrchestrator(
        *lasting, clock=clock, nodes=hosts, schedule_on_events=True, **(values | options)
    )
    return clock, orchestrator, lasting


def _work(name: str, hours: float = 2.0, **fields):
    return job(
        name,
        **{
            "gpus_per_worker": 4,
            "max_duration_hours": hours,
            "checkpoint_seconds": 5.0,
            "restart_seconds": 20.0,
            "checkpoint_interval_steps": 60,
            "step_seconds": 1.0,
            "preemptible": True,
            "priority": JobPriority.BATCH,
        }
        | fields,
    )


@pytest.mark.parametrize(
    ("seconds", "latest_s"), [(5.0, 5 + 60), (30.0, 30 + 60), (60.0, 3 * 60)], ids=str
)
async def test_a_preemptor_gets_its_place_and_the_victim_its_former_checkpoint(
    seconds: float, latest_s: int
) -> None:
    clock, it, _ = _cluster("n0")
    await it.submit_job(_work("stuck", checkpoint_seconds=seconds))
    await clock.advance_to(95_000)  # its last periodic checkpoint was after 60 s
    await it.submit_job(_work("urgent", 0.1, priority=JobPriority.CRITICAL))
    await clock.advance_to(95_000 + 1000 * latest_s - 1)
    assert it.get_job_status("urgent")["state"] == "pending"
    await clock.advance_to(95_000 + 1000 * latest_s)
    assert it.get_job_status("urgent")["state"] == "running"
    assert it.get_job_status("stuck")["interruptions"] == 1
    assert it.get_job_status("stuck")["lost_ms"] == 35_000
    await clock.advance_to(4 * HOUR_MS)
    assert it.get_job_status("stuck")["state"] == "completed"


async def test_a_node_whose_job_cannot_be_saved_leaves_all_the_same() -> None:
    clock, it, _ = _cluster("n0", "n1")
    await it.submit_job(_work("stuck"))
    await clock.advance_to(MINUTE_MS)
    (place,) = {worker["node"] for worker in it.get_job_status("stuck")["workers"]}
    await it.decommission_node(place)
    await clock.advance_to(5 * MINUTE_MS)
    assert it.get_cluster_status()["nodes"]["states"].get(place, "absent") != "draining"
    assert it.get_job_status("stuck")["state"] == "running"


async def test_an_orchestrator_that_is_restarted_keeps_the_deadline() -> None:
    clock, it, lasting = _cluster("n0")
    await it.submit_job(_work("stuck"))
    await clock.advance_to(MINUTE_MS)
    await it.submit_job(_work("urgent", 0.1, priority=JobPriority.CRITICAL))
    await clock.advance_to(MINUTE_MS + 10_000)
    fresh = in_memory(clock)
    again = InfrastructureOrchestrator(
        lasting.consensus_engine,
        fresh.shard_manager,
        fresh.fault_detector,
        lasting.checkpoint_manager,
        clock=clock,
        runtime=it.runtime,
        nodes=[node("n0", gpus=4)],
        shape=SHAPE,
        policy=RULES["priority"],
        schedule_on_events=True,
    )
    await again.start()
    await clock.advance_to(2 * MINUTE_MS + 15_000)
    assert again.get_job_status("urgent")["state"] == "running"


async def test_a_save_in_time_is_no_loss() -> None:
    clock, it, _ = _cluster("n0", stuck=())
    await it.submit_job(_work("a", 1.0))
    await clock.advance_to(10 * MINUTE_MS + 7000)
    await it.submit_job(_work("urgent", 0.1, priority=JobPriority.CRITICAL))
    await clock.run_until_idle()
    status = it.get_job_status("a")
    assert (status["interruptions"], status["lost_ms"]) == (0, 0)
    assert clock.now_ms() == status["end_ms"]  # no deadline is left on the clock
