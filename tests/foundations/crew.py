"""Members of a cluster in virtual time, that stand still, die, and do not reach the leases."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from orchestrator import VirtualClock
from orchestrator.errors import StorageError
from orchestrator.foundations.leases import InMemoryLeases
from orchestrator.foundations.shards import LeasedShards, Tenure
from orchestrator.ports import Callback

TTL_MS = 800
_TICK_MS = 40
_TURNS = 16


class _Timer:
    def __init__(self, callback: Callback) -> None:
        self.callback: Callback | None = callback

    def cancel(self) -> None:
        self.callback = None


class MemberClock:
    """The time of one process: while that stands still time passes, and nothing happens in it."""

    def __init__(self, clock: VirtualClock, rng: random.Random) -> None:
        self._clock, self._rng = clock, rng
        self._missed: list[_Timer] = []
        self.still = False

    def now_ms(self) -> int:
        return self._clock.now_ms()

    def call_at(self, time_ms: int, callback: Callback, *, order: int = 0) -> _Timer:
        timer = _Timer(callback)
        self._clock.call_at(time_ms, lambda: self._fire(timer), order=order)
        return timer

    def _fire(self, timer: _Timer) -> Any:
        if self.still:
            self._missed.append(timer)
            return None
        callback, timer.callback = timer.callback, None
        return callback() if callback is not None else None

    def go_on(self) -> None:
        """What was missed happens now, in any order."""
        self.still = False
        missed, self._missed = self._missed, []
        self._rng.shuffle(missed)
        for timer in missed:
            if timer.callback is not None:
                self.call_at(self.now_ms(), timer.callback)

    async def sleep_until(self, time_ms: int) -> None:
        woken = asyncio.get_running_loop().create_future()

        async def wake() -> None:
            if not woken.done():
                woken.set_result(None)
            for _ in range(_TURNS):
                await asyncio.sleep(0)

        timer = self.call_at(time_ms, wake)
        try:
            await woken
        finally:
            timer.cancel()


class FarLeases:
    """Leases as a member reaches them: after a while, or not, or with the answer lost."""

    def __init__(self, store: InMemoryLeases, clock: MemberClock, rng: random.Random) -> None:
        self._store, self._clock, self._rng = store, clock, rng
        self.most_ms = 0  # that a way takes
        self.mode = "well"

    def __getattr__(self, name: str) -> Any:
        async def call(*arguments: Any) -> Any:
            await self._way()
            if self.mode == "away":
                raise StorageError("no connection")
            if self.mode == "silent":
                await asyncio.get_running_loop().create_future()
            result = await getattr(self._store, name)(*arguments)
            await self._way()
            if self.mode == "forgetful" and self._rng.random() < 0.5:
                raise StorageError("the answer is lost")
            return result

        return call

    async def _way(self) -> None:
        if self.most_ms:
            way_ms = self._rng.randint(0, self.most_ms)
            await self._clock.sleep_until(self._clock.now_ms() + way_ms)


class Member:
    """A process that acts for the shards that it holds, all the time."""

    def __init__(self, crew: Crew, name: str) -> None:
        rng = random.Random(f"{crew.seed} {name}")
        self.name, self.crew = name, crew
        self.clock = MemberClock(crew.clock, rng)
        self.leases = FarLeases(crew.store, self.clock, rng)
        self.shards = LeasedShards(
            self.leases, self.clock, name, crew.names, ttl_ms=TTL_MS, address=f"at {name}"
        )
        self.refuses: set[str] = set()  # shards that cannot be opened
        self.closes_slowly_ms = 0

    @asynccontextmanager
    async def occupy(self, tenure: Tenure) -> AsyncIterator[None]:
        if tenure.shard in self.refuses:
            raise StorageError(f"'{tenure.shard}' cannot be opened")
        acting = asyncio.ensure_future(self._act(tenure))
        self.crew.opened.append((tenure.shard, self.name))
        try:
            yield
            if self.closes_slowly_ms:
                now_ms = self.clock.now_ms()
                await self.clock.sleep_until(now_ms + self.closes_slowly_ms)
        finally:
            acting.cancel()
            self.crew.closed.append((tenure.shard, self.name))

    async def _act(self, tenure: Tenure) -> None:
        while True:
            if tenure.holds:
                self.crew.check(tenure)
                self.crew.acts += 1
            await self.clock.sleep_until(self.clock.now_ms() + _TICK_MS)


class Crew:
    """All members of a cluster that there ever were."""

    def __init__(self, shards: int, seed: int = 0) -> None:
        self.seed = seed
        self.clock = VirtualClock()
        self.store = InMemoryLeases(self.clock)
        self.names = tuple(f"shard-{k}" for k in range(shards))
        self.members: dict[str, Member] = {}
        self.opened: list[tuple[str, str]] = []
        self.closed: list[tuple[str, str]] = []
        self.wrong: list[str] = []
        self.acts = 0

    def check(self, tenure: Tenure) -> None:
        """Whoever acts has the lease, as everybody sees it, at this instant."""
        lease = self.store._leases[f"shard/{tenure.shard}"]
        if lease.token != tenure.token or lease.expires_ms <= self.clock.now_ms():
            self.wrong.append(f"{self.clock.now_ms()}: {tenure.lease} acts, {lease} holds")

    async def wait(self, times: float) -> None:
        """Let time pass, in times of a lease."""
        await self.clock.advance_to(self.clock.now_ms() + round(times * TTL_MS))
        assert self.wrong == []

    def join(self, name: str) -> Member:
        member = self.members[name] = Member(self, name)
        member.shards.start(member.occupy)
        return member

    async def leave(self, name: str) -> None:
        leaving = asyncio.ensure_future(self.members.pop(name).shards.leave())
        while not leaving.done():
            await self.wait(0.1)
        await leaving

    def die(self, name: str) -> None:
        member = self.members.pop(name)
        member.clock.still, member.leases.mode, member.leases.most_ms = True, "away", 0

    def held(self) -> dict[str, set[str]]:
        """By member, what it may act for."""
        return {
            name: {shard for shard in self.names if member.shards.tenure(shard) is not None}
            for name, member in self.members.items()
        }

    def require_settled(self) -> None:
        """Every shard has one owner, loads are even, and all say the same."""
        held = self.held()
        assert sorted(shard for own in held.values() for shard in own) == sorted(self.names)
        loads = [len(own) for own in held.values()]
        assert max(loads) - min(loads) <= 1, held
        for member in self.members.values():
            assert set(member.shards.members) == set(self.members)
            assert member.shards.holders == {s: name for name, own in held.items() for s in own}
