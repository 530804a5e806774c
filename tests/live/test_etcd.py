"""Orchestrators on etcd: the last one that started leads; histories are those in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeAlias

import numpy as np
import pytest

from agents.speed.live.etcd import LocalEtcd
from orchestrator import InfrastructureOrchestrator, VirtualClock
from orchestrator.errors import NotLeaderError, StorageError
from orchestrator.foundations import HashShardManager, HeartbeatFaultDetector, InMemoryCheckpoints
from orchestrator.foundations.etcd import EtcdLog
from orchestrator.messages import Effect, Lead, StartJob, Submit
from orchestrator.runtimes import SimulatedRuntime
from tests.engine.builders import HOUR_MS, MINUTE_MS, SHAPE, job, node
from tests.live.restarts import Fate, Killed, World, _Logged, _nobody, draw_day

_Open: TypeAlias = Callable[[], Awaitable[EtcdLog]]


@pytest.fixture
async def opened(etcd_member: LocalEtcd, request: pytest.FixtureRequest) -> AsyncIterator[_Open]:
    """Opens the log of a test, as another process would."""
    made: list[EtcdLog] = []

    async def open_one() -> EtcdLog:
        made.append(await EtcdLog.open(etcd_member.endpoints, prefix=request.node.name))
        return made[-1]

    yield open_one
    for log in made:
        await log.close()


class _World(SimulatedRuntime):
    """The one real world, and its time."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        super().__init__(self.clock)
        self.starts: list[tuple[str, int]] = []

    def carry_out(self, effects: Sequence[Effect]) -> None:
        self.starts += [(e.job_id, e.run) for e in effects if isinstance(e, StartJob)]
        super().carry_out(effects)


def _orchestrator(log: EtcdLog, world: _World) -> InfrastructureOrchestrator:
    clock = world.clock
    return InfrastructureOrchestrator(
        log,
        HashShardManager(),
        HeartbeatFaultDetector(clock),
        InMemoryCheckpoints(),
        clock=clock,
        nodes=[node("n0")],
        shape=SHAPE,
        runtime=world,
        schedule_on_events=True,
        check=True,
    )


@pytest.fixture
def world() -> _World:
    return _World()


async def test_the_last_one_that_started_leads_and_the_other_refuses(
    opened: _Open, world: _World
) -> None:
    first = _orchestrator(await opened(), world)
    await first.submit_job(job("a"))
    await world.clock.advance_to(MINUTE_MS)
    second = _orchestrator(await opened(), world)
    await second.submit_job(job("b"))
    await world.clock.advance_to(2 * MINUTE_MS)
    assert world.starts == [("a", 1), ("b", 1)]
    for act in (
        lambda: first.submit_job(job("c")),
        first.schedule,
        lambda: first.preempt_job("a", ""),
        lambda: first.register_node(node("n1")),
    ):
        with pytest.raises(NotLeaderError, match=r"leads since entry \d+ of the log"):
            await act()
    assert world.starts == [("a", 1), ("b", 1)]
    await world.clock.advance_to(2 * HOUR_MS)
    assert second.get_cluster_status()["jobs"]["completed"] == 2
    entries = (await opened()).entries()
    assert len([entry for entry in entries if isinstance(entry.body, Lead)]) == 2


async def test_one_that_was_cut_off_has_nothing_applied(opened: _Open, world: _World) -> None:
    logs = [await opened(), await opened()]
    first = _orchestrator(logs[0], world)
    await first.submit_job(job("a"))
    await world.clock.advance_to(MINUTE_MS)
    logs[0]._following.cancel()  # it hears of nothing any more
    second = _orchestrator(logs[1], world)
    await second.submit_job(job("b"))
    assert first.get_cluster_status()["leader"] != second.get_cluster_status()["leader"]
    with pytest.raises(NotLeaderError, match="does not act any more"):
        await first.submit_job(job("late"))  # it is behind what it did not know
    assert isinstance(logs[0].entries()[-1].body, Submit)
    await world.clock.advance_to(2 * HOUR_MS)
    for cluster in (first, second, _orchestrator(await opened(), world)):
        assert list(cluster.jobs) == ["a", "b"]
    assert world.starts == [("a", 1), ("b", 1)]


async def test_a_restart_goes_on_where_the_log_ends(opened: _Open, world: _World) -> None:
    log = await opened()
    first = _orchestrator(log, world)
    for name in "abc":
        await first.submit_job(job(name))
    await world.clock.advance_to(MINUTE_MS)
    await log.close()
    with pytest.raises(StorageError, match="is closed; open it anew"):
        await first.submit_job(job("d"))
    second = _orchestrator(await opened(), world)
    await second.start()
    assert list(second.jobs) == ["a", "b", "c"]
    assert second.engine.log_hash == first.engine.log_hash
    await second.submit_job(job("d"))
    await world.clock.advance_to(4 * HOUR_MS)
    assert second.get_cluster_status()["jobs"]["completed"] == 4
    assert len(world.starts) == len(set(world.starts)) == 4


# --- the same history as in memory ---------------------------------------------------------------


class _Replicated(_Logged, EtcdLog):
    """On etcd, which the next process opens."""


class _EtcdWorld(World):
    """A world whose log is on etcd."""

    def __init__(self, *ends: int) -> None:
        super().__init__()
        self.fate = Fate(*ends)
        self.workers._fate = self.fate

    async def open(self, etcd: LocalEtcd, prefix: str, cut_every: int) -> None:
        """Make an orchestrator on what etcd has."""
        bodies = self.log.bodies
        if isinstance(self.log, _Replicated):
            await self.log.close()
        self.log = await _Replicated.open(etcd.endpoints, prefix=prefix, cut_every=cut_every)
        self.log.fate, self.log.bodies = self.fate, bodies
        self._again = (etcd, prefix, cut_every)
        self.begin()

    async def survive(self, act: Callable[[], Awaitable[object]]) -> bool:
        try:
            await act()
        except Killed:
            self._mortal.alive = False
            self.workers.bind(_nobody)
            await self.open(*self._again)
            while not await self.survive(lambda: self.cluster.start()):
                pass
            return False
        return True


@pytest.mark.property
@pytest.mark.parametrize("cut_every", [1_000_000, 10])
async def test_cuts_change_nothing_where_the_log_is_on_etcd(
    etcd_member: LocalEtcd, cut_every: int
) -> None:
    whole = World()
    await whole.live_through(draw_day(4))
    rng = np.random.default_rng(cut_every)
    ends = sorted(int(end) for end in rng.choice(np.arange(1, 400), 8, replace=False))
    world = _EtcdWorld(*ends)
    await world.open(etcd_member, f"day-{cut_every}", cut_every)
    await world.live_through(draw_day(4))
    assert world.fate.deaths == len(ends)
    await world.open(etcd_member, f"day-{cut_every}", cut_every)  # from what etcd holds
    assert (world.log.snapshot is not None) == (cut_every == 10)
    assert world.states() == whole.states()
    assert world.carried_out() == whole.carried_out()
    assert world.workers.starts == whole.workers.starts
    assert world.cluster.engine.log_hash == whole.cluster.engine.log_hash
    await world.log.close()
