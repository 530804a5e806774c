"""Members that lead shards, in virtual time: whom to ask, what moves, and who acts no more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from orchestrator import InfrastructureOrchestrator, NotLeaderError, NotOwnerError, VirtualClock
from orchestrator.errors import ConfigurationError, UnknownEntityError, ValidationError
from orchestrator.foundations import (
    HashShardManager,
    HeartbeatFaultDetector,
    InMemoryCheckpoints,
    InMemoryConsensus,
)
from orchestrator.foundations.leases import InMemoryLeases
from orchestrator.foundations.shards import LeasedShards
from orchestrator.messages import Entry, Lead, Submit, WorkerExited
from orchestrator.runtimes import SimulatedRuntime
from orchestrator.sharded.orchestrator import ShardedOrchestrator
from orchestrator.types import JobSpec
from tests.engine import builders
from tests.engine.builders import SHAPE, node

_TTL_MS = 2000
_SHARDS = ("s0", "s1")
_KEYS = HashShardManager(_SHARDS)


def _name(prefix: str, shard: str) -> str:
    """An id that belongs to a shard."""
    return next(name for k in range(1000) if _KEYS.owner(name := f"{prefix}{k}") == shard)


def job(job_id: str, **fields: Any) -> JobSpec:
    """A job of half a minute."""
    values: dict[str, Any] = {"max_duration_hours": 1 / 120, "checkpoint_interval_steps": 5}
    return builders.job(job_id, **(values | fields))


class _Log(InMemoryConsensus):
    """Can keep whoever writes waiting, as a process that is stopped in the middle."""

    def __init__(self) -> None:
        super().__init__()
        self.gate: asyncio.Event | None = None

    async def append(self, entry: Entry) -> int:
        gate, self.gate = self.gate, None
        if gate is not None:
            await gate.wait()
        return await super().append(entry)


class _World:
    """What outlives members: leases, logs, and workers of each shard."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.leases = InMemoryLeases(self.clock)
        self.logs = {shard: _Log() for shard in _SHARDS}
        self.runtimes = {shard: SimulatedRuntime(self.clock) for shard in _SHARDS}
        self.options: dict[str, Any] = {}

    async def join(self, name: str, **options: Any) -> ShardedOrchestrator:
        shards = LeasedShards(
            self.leases,
            self.clock,
            name,
            _SHARDS,
            ttl_ms=_TTL_MS,
            address=f"at {name}",
            **options,
        )

        @asynccontextmanager
        async def opened(shard: str) -> AsyncIterator[InfrastructureOrchestrator]:
            yield InfrastructureOrchestrator(
                self.logs[shard],
                shards,
                HeartbeatFaultDetector(self.clock),
                InMemoryCheckpoints(),
                runtime=self.runtimes[shard],
                clock=self.clock,
                shape=SHAPE,
                schedule_on_events=True,
                check=True,
                **self.options,
            )

        member = ShardedOrchestrator(shards, opened, clock=self.clock)
        await member.start()
        return member

    async def wait(self, seconds: float) -> None:
        await self.clock.advance_to(self.clock.now_ms() + round(1000 * seconds))

    async def two(self) -> tuple[ShardedOrchestrator, ShardedOrchestrator]:
        """Two members that lead a shard each: the one of s0 first. Each shard has a node."""
        one, two = await self.join("one"), await self.join("two")
        await self.wait(3)
        first, second = (one, two) if one.led == ("s0",) else (two, one)
        assert (first.led, second.led) == (("s0",), ("s1",))
        assert await first.register_node(node(_name("n", "s0")))
        assert await second.register_node(node(_name("n", "s1")))
        return first, second

    def bodies(self, shard: str, kind: type) -> list[Any]:
        return [e.body for e in self.logs[shard].entries() if isinstance(e.body, kind)]


async def test_what_belongs_to_a_shard_is_done_by_whoever_leads_it_and_others_say_who() -> None:
    world = _World()
    first, second = await world.two()
    mine, yours = _name("j", "s0"), _name("j", "s1")
    assert await first.submit_job(job(mine)) == mine
    with pytest.raises(NotOwnerError, match=r"at .* owns it; ask it there") as refused:
        await first.submit_job(job(yours))
    owner = second.shards.member
    assert (refused.value.leader, refused.value.address) == (owner, f"at {owner}")
    assert await second.submit_job(job(yours)) == yours
    await world.wait(1)
    assert first.get_job_status(mine)["state"] == "running"
    assert first.get_job_status(mine)["shard"] == "s0"
    with pytest.raises(NotOwnerError):
        first.get_job_status(yours)
    with pytest.raises(NotOwnerError):
        await first.preempt_job(yours, "")
    with pytest.raises(NotOwnerError):
        await first.handle_node_failure(_name("n", "s1"))
    with pytest.raises(UnknownEntityError):
        await first.scale_job(_name("other", "s0"), 2)
    assert not await first.scale_job(mine, 2)  # it is not elastic
    assert await first.preempt_job(mine, "to see it")
    assert (await second.handle_node_failure(_name("n", "s1")))["interrupted_jobs"] == [yours]
    assert await second.handle_node_recovery(_name("n", "s1"))
    with pytest.raises(NotOwnerError):
        await first.cancel_job(yours)
    with pytest.raises(NotOwnerError):
        await first.undrain_node(_name("n", "s1"))
    assert not await second.undrain_node(_name("n", "s1"))
    assert await second.cancel_job(yours, "enough")
    assert second.get_job_status(yours)["reason"] == "cancelled: enough"
    await world.wait(180)
    assert first.get_job_status(mine)["state"] == "completed"
    assert second.get_job_status(yours)["state"] == "failed"
    assert await second.decommission_node(_name("n", "s1"))


async def test_who_is_asked_while_it_opens_a_shard_answers_when_it_is_open() -> None:
    world = _World()
    gate = world.logs["s0"].gate = asyncio.Event()
    one = await world.join("one")
    await world.wait(0.5)
    assert one.led == ("s1",)
    asked = asyncio.ensure_future(one.register_node(node(_name("n", "s0"))))
    await world.wait(0.1)
    assert not asked.done()
    gate.set()
    await world.wait(0.1)
    assert await asked
    never = world.logs["s0"].gate = asyncio.Event()
    asked = asyncio.ensure_future(one.register_node(node(_name("more", "s0"))))
    await world.wait(2 * _TTL_MS / 1000)  # the log answers nobody: the shard is kept
    assert not asked.done()
    never.set()
    await world.wait(0.1)
    assert await asked


async def test_a_job_has_to_fit_into_its_shard() -> None:
    world = _World()
    one = await world.join("one")
    await world.wait(1)
    with pytest.raises(ValidationError, match="'s0', which has no nodes; register nodes first"):
        await one.submit_job(job(_name("j", "s0")))
    await one.register_node(node(_name("n", "s0"), gpus=2))
    await one.register_node(node(_name("n", "s1"), gpus=8))
    with pytest.raises(ValidationError, match="of these count the ones in shard 's0'"):
        await one.submit_job(job(_name("j", "s0"), gpus_per_worker=8))
    assert await one.submit_job(job(_name("j", "s1"), gpus_per_worker=8))
    with pytest.raises(ValidationError, match=r"'job_id' is taken; give every job its own id$"):
        await one.submit_job(job(_name("j", "s1")))


async def test_who_leaves_hands_over_and_jobs_run_on() -> None:
    world = _World()
    first, second = await world.two()
    mine = _name("j", "s0")
    await first.submit_job(job(mine))
    await world.wait(10)
    await first.stop()
    await world.wait(1)
    assert second.led == _SHARDS
    assert first.led == ()
    status = second.get_job_status(mine)
    assert (status["state"], status["starts"], status["interruptions"]) == ("running", 1, 0)
    await world.wait(60)
    assert second.get_job_status(mine)["state"] == "completed"
    assert len(world.bodies("s0", WorkerExited)) == 1
    with pytest.raises(NotOwnerError, match="nobody owns it now"):
        await first.submit_job(job(_name("late", "s0")))


async def test_who_lost_its_lease_does_nothing_more_and_the_log_takes_nothing_from_it() -> None:
    world = _World()
    first, second = await world.two()
    led = first._led["s0"].cluster
    mine = _name("j", "s0")
    # The process stands still for longer than a lease while an entry is on its way to the disk.
    gate = world.logs["s0"].gate = asyncio.Event()
    asked = asyncio.ensure_future(first.submit_job(job(mine)))
    first.shards._leases = _Away()
    await world.wait(6)
    assert second.led == _SHARDS
    entries = len(world.logs["s0"].entries())
    gate.set()
    with pytest.raises(NotOwnerError, match="is not led here"):
        await asked
    assert len(world.logs["s0"].entries()) == entries + 1
    with pytest.raises(UnknownEntityError):  # it is in the log, and of a former leader
        second.get_job_status(mine)
    with pytest.raises(NotLeaderError):
        await led.submit_job(job("other"))
    assert len(world.logs["s0"].entries()) == entries + 1
    assert await second.submit_job(job(mine)) == mine
    tokens = [lead.token for lead in world.bodies("s0", Lead)]
    assert tokens == sorted(set(tokens))


class _Away:
    """Leases that nobody reaches."""

    def __getattr__(self, name: str) -> Any:
        async def fail(*arguments: Any) -> Any:
            raise OSError("no connection")

        return fail


async def test_a_late_lead_of_a_former_owner_replaces_nobody() -> None:
    world = _World()
    first, _ = await world.two()
    log = world.logs["s0"]
    token = world.bodies("s0", Lead)[-1].token
    await log.append(Entry(world.clock.now_ms(), Lead("late", token - 1)))
    assert await first.submit_job(job(_name("j", "s0")))
    await world.wait(10)
    assert first.get_cluster_status()["by_shard"]["s0"]["leader"] != "late"
    assert len(world.bodies("s0", Submit)) == 1


async def test_without_a_lease_nobody_leads_a_log_that_is_led_by_leases() -> None:
    world = _World()
    first, second = await world.two()
    await first.stop()
    await second.stop()
    alone = InfrastructureOrchestrator(
        world.logs["s0"],
        HashShardManager(),
        HeartbeatFaultDetector(world.clock),
        InMemoryCheckpoints(),
        clock=world.clock,
    )
    with pytest.raises(ConfigurationError, match="lead it as a member of its cluster"):
        await alone.start()


async def test_leases_that_were_lost_are_said_and_can_be_begun_anew() -> None:
    world = _World()
    first, second = await world.two()
    last = max(lead.token for shard in _SHARDS for lead in world.bodies(shard, Lead))
    await first.stop()
    await second.stop()
    world.leases = InMemoryLeases(world.clock)
    anew = await world.join("anew")
    await world.wait(1)
    assert anew.led == ()
    assert anew.shards.errors == 2
    await anew.stop()
    anew = await world.join("again", tokens_from=last)
    await world.wait(3)
    assert anew.led == _SHARDS


async def test_a_snapshot_knows_by_which_lease_its_log_was_led() -> None:
    world = _World()
    world.logs = {shard: _Cut() for shard in _SHARDS}
    first, second = await world.two()
    for k in range(40):
        name = f"j{k}"
        if _KEYS.owner(name) == "s0" and k < 20:
            await first.submit_job(job(name))
    token, log = world.bodies("s0", Lead), world.logs["s0"]
    assert token == []  # it is in the snapshot
    assert log.snapshot is not None
    await log.append(Entry(world.clock.now_ms(), Lead("late", 1)))
    await first.stop()
    await world.wait(1)
    assert second.led == _SHARDS


class _Cut(_Log):
    """A log that is cut often."""

    @property
    def cut_due(self) -> bool:
        return len(self) >= 4


async def test_the_status_adds_up_what_is_led_here() -> None:
    world = _World()
    one = await world.join("one")
    await world.wait(1)
    for shard in _SHARDS:
        await one.register_node(node(_name("n", shard), gpus=4))
        await one.submit_job(job(_name("j", shard), gpus_per_worker=4))
        await one.submit_job(job(_name("more", shard), gpus_per_worker=4))
    await world.wait(10)
    status = one.get_cluster_status()
    assert status["member"] == "one"
    assert status["members"] == {"one": "at one"}
    assert status["shards"] == {shard: {"owner": "one", "here": True} for shard in _SHARDS}
    assert status["nodes"]["total"] == status["nodes"]["up"] == 2
    assert set(status["nodes"]["states"]) == {_name("n", shard) for shard in _SHARDS}
    assert (status["jobs"]["running"], status["jobs"]["pending"]) == (2, 2)
    assert status["gpus"] == {"total": 8, "free": 0, "allocated": 8}
    assert status["queue"]["length"] == 2
    assert set(status["queue"]["why_not"]) == {_name("more", shard) for shard in _SHARDS}
    assert status["tenants"]["default"]["used"] == 8
    times = [event["time_ms"] for event in status["events"]]
    assert len(times) >= 4
    assert times == sorted(times)
    assert status["log_entries"] == sum(
        one.cluster_of(_name("n", shard)).get_cluster_status()["log_entries"] for shard in _SHARDS
    )
    assert await one.schedule() == []


async def test_that_shards_are_not_all_led_in_time_is_said() -> None:
    world = _World()
    one = await world.join("one")
    waiting = asyncio.ensure_future(one.settled(2))
    await world.wait(2)
    await waiting
    assert one.led == _SHARDS
    await one.stop()
    waiting = asyncio.ensure_future(one.settled(1))
    await world.wait(2)
    with pytest.raises(TimeoutError, match="some of the shards are not led"):
        await waiting
