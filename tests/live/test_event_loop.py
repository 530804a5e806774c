"""A cycle never holds the event loop: others have their turn between decisions, and during them."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from orchestrator import InfrastructureOrchestrator, VirtualClock, WallClock, in_memory
from orchestrator.engine.snapshot import Snapshot
from orchestrator.live.cycle import AskAside
from orchestrator.messages import PlaceJob, Plan, Wait
from orchestrator.scheduling.rules import policy_of
from tests.engine.builders import SHAPE, job, node


def _cluster(clock: Any, **options: Any) -> InfrastructureOrchestrator:
    nodes = [node(f"n{k}") for k in range(4)]
    values = {"clock": clock, "shape": SHAPE, "nodes": nodes}
    return InfrastructureOrchestrator(*in_memory(clock), **(values | options))


@pytest.mark.parametrize("jobs", [3, 14])
@pytest.mark.parametrize("clock", [VirtualClock, WallClock])
async def test_others_have_their_turn_between_the_parts_of_a_plan(
    clock: type, jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.live.cycle.MOST_ACTIONS", 1)
    cluster = _cluster(clock())
    for k in range(jobs):
        await cluster.submit_job(job(f"j{k}"))
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    task = asyncio.ensure_future(others())
    assert len(await cluster.schedule()) == jobs
    task.cancel()
    assert turns >= jobs - 1


class _Slow:
    """A policy that takes its time, and lets other threads run meanwhile, as kernels do."""

    def decide(self, snapshot: Snapshot) -> Plan:
        time.sleep(0.2)
        return policy_of(None).decide(snapshot)


async def test_requests_are_answered_while_a_policy_decides() -> None:
    cluster = _cluster(WallClock(), policy=_Slow())
    for k in range(3):
        await cluster.submit_job(job(f"j{k}"))
    task = asyncio.ensure_future(cluster.schedule())
    answered = 0
    while not task.done():
        await asyncio.sleep(0.005)
        cluster.get_job_status("j0")
        answered += 1
    assert len(task.result()) == 3
    assert answered >= 10  # of some 120 in 600 ms; one in a decision if the loop were held


async def test_what_happens_while_a_policy_decides_is_kept() -> None:
    cluster = _cluster(WallClock(), policy=_Slow())
    await cluster.submit_job(job("a"))
    task = asyncio.ensure_future(cluster.schedule())
    await asyncio.sleep(0.02)
    await cluster.submit_job(job("b"))
    assert [name for name, _ in await task] == ["a", "b"]


class _Odd:
    """A policy that names a placement, or a number of workers, that there is not."""

    def __init__(self, generator: Any) -> None:
        self._generator = generator
        self.asked = 0

    def decide(self, snapshot: Snapshot) -> Plan:
        self.asked += 1
        return Plan((PlaceJob("a", self._generator), Wait()))


@pytest.mark.parametrize("generator", [99, -1, 1.5, "best_fit"])
async def test_a_placement_that_does_not_exist_is_refused(generator: Any) -> None:
    odd = _Odd(generator)
    cluster = _cluster(VirtualClock(), policy=odd)
    await cluster.submit_job(job("a"))
    assert await cluster.schedule() == []
    assert odd.asked == 4  # it is made to wait then
    assert cluster.get_cluster_status()["errors"]["policy"] == 4
    cluster.policy = policy_of(None)
    assert len(await cluster.schedule()) == 1


async def test_a_job_starts_a_moment_after_it_was_submitted() -> None:
    """On the wall clock, too, and in a process that has decided nothing yet: nobody waits twice."""
    cluster = _cluster(WallClock(), schedule_on_events=True)
    await cluster.submit_job(job("a"))
    for _ in range(100):
        if cluster.get_job_status("a")["state"] == "running":
            return
        await asyncio.sleep(0.01)
    pytest.fail("it was submitted a second ago, and nobody is ahead of it")


class _Stuck:
    """A policy that does not answer until it is let go, or one that raises what futures cannot."""

    def __init__(self) -> None:
        self.free, self.asked = threading.Event(), 0

    def decide(self, snapshot: Snapshot) -> Plan:
        self.asked += 1
        self.free.wait()
        return policy_of(None).decide(snapshot)


async def test_a_policy_that_never_answers_stops_no_scheduling() -> None:
    policy = _Stuck()
    cluster = _cluster(WallClock(), policy=policy)
    cluster._cycle._ask = AskAside(0.05)
    for k in range(3):
        await cluster.submit_job(job(f"j{k}"))
    assert [name for name, _ in await cluster.schedule()] == ["j0", "j1", "j2"]
    errors = cluster.get_cluster_status()["errors"]
    assert policy.asked == 1  # it still sits there
    assert errors["policy"] >= 3
    assert "TimeoutError: the policy has not answered yet" in errors["last_policy_error"]
    policy.free.set()
    await asyncio.sleep(0.05)
    await cluster.submit_job(job("j3"))
    assert [name for name, _ in await cluster.schedule()] == ["j3"]
    assert policy.asked > 1


@pytest.mark.parametrize("error", [StopIteration, TimeoutError, KeyError, RecursionError])
async def test_whatever_a_policy_raises_the_fallback_decides(error: type[Exception]) -> None:
    class Raises:
        def decide(self, snapshot: Snapshot) -> Plan:
            raise error("from the policy")

    cluster = _cluster(WallClock(), policy=Raises())
    await cluster.submit_job(job("a"))
    assert [name for name, _ in await cluster.schedule()] == ["a"]
    told = cluster.get_cluster_status()["errors"]["last_policy_error"]
    assert error.__name__ in told
    assert "from the policy" in told
