"""Three members of etcd, of which some are killed or stopped while a log and leases are used.

A hundred kills take some minutes::

    KILLS=100 pytest -s tests/foundations/test_etcd_members.py -k killed

An hour of misfortune, and another seed another time::

    MISFORTUNE_S=3600 MISFORTUNE_SEED=7 pytest -s tests/foundations/test_etcd_members.py -k misfort
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest

from agents.speed.live.etcd import LocalEtcd
from orchestrator.clock import WallClock
from orchestrator.errors import StorageError
from orchestrator.foundations.etcd import EtcdLeases, EtcdLog
from orchestrator.messages import Entry, NodeFailed

_KILLS = int(os.environ.get("KILLS", "2"))
_MISFORTUNE_S = float(os.environ.get("MISFORTUNE_S", "3"))
_SEED = int(os.environ.get("MISFORTUNE_SEED", "1"))
_APPENDERS = 8


class _Appenders:
    """Several that write as fast as they can, and what they were told."""

    def __init__(self, log: EtcdLog, first: int = 0) -> None:
        self._log, self._enough = log, asyncio.Event()
        self.acknowledged: dict[int, int] = {}  # numbers and their indices
        self.refused: set[int] = set()
        self.moments: list[float] = []
        self._tasks = [asyncio.create_task(self._write(first + k)) for k in range(_APPENDERS)]

    async def _write(self, first: int) -> None:
        for number in itertools.count(first, _APPENDERS):
            if self._enough.is_set():
                return
            try:
                index = await self._log.append(Entry(number, NodeFailed("n")))
            except StorageError:
                self.refused.add(number)
            else:
                self.acknowledged[number] = index
                self.moments.append(time.monotonic())

    async def go_on(self, count: int) -> None:
        """Let so many more be acknowledged."""
        enough = len(self.acknowledged) + count
        for _ in range(3000):
            if len(self.acknowledged) >= enough:
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"{count} more were not acknowledged within half a minute")

    async def end(self) -> None:
        self._enough.set()
        await asyncio.gather(*self._tasks)

    def require_all(self, log: EtcdLog) -> None:
        """What was acknowledged is in a log where it was said to be, and nothing is there twice."""
        entries = log.entries()
        for number, index in self.acknowledged.items():
            assert entries[index] == Entry(number, NodeFailed("n"))
        numbers = [entry.time_ms for entry in entries]
        assert len(set(numbers)) == len(numbers)
        assert set(numbers) - set(self.acknowledged) <= self.refused


@pytest.fixture
def trio(etcd_trio: LocalEtcd) -> Iterator[LocalEtcd]:
    """Three members that live, before and after."""
    yield etcd_trio
    for member in (1, 2, 3):
        etcd_trio.resume(member)
    etcd_trio.leader()


@asynccontextmanager
async def _appending(etcd: LocalEtcd, prefix: str) -> AsyncIterator[_Appenders]:
    async with await EtcdLog.open(etcd.endpoints, prefix=prefix) as log:
        appenders = _Appenders(log)
        await appenders.go_on(100)
        yield appenders
        await appenders.go_on(100)
        await appenders.end()
        appenders.require_all(log)
    async with await EtcdLog.open(etcd.endpoints[::-1], prefix=prefix) as log:
        appenders.require_all(log)


async def test_a_leader_that_is_killed_loses_nothing_that_was_acknowledged(trio: LocalEtcd) -> None:
    gaps = []
    for life in range(_KILLS):
        async with _appending(trio, f"killed-{life}") as appenders:
            leader = await asyncio.to_thread(trio.leader)
            at = time.monotonic()
            await asyncio.to_thread(trio.kill, leader)
            await appenders.go_on(100)
            moments = itertools.pairwise(appenders.moments)
            gaps.append(max(later - earlier for earlier, later in moments if later > at))
            await asyncio.to_thread(trio.start, leader)
            assert not appenders.refused
    print(
        f"{_KILLS} kills, longest without an answer: {[f'{gap:.2f} s' for gap in gaps]}", flush=True
    )


async def test_a_leader_that_is_stopped_for_a_while_accepts_nothing_stale(trio: LocalEtcd) -> None:
    prefix, clock = "stopped", WallClock()
    async with (
        _appending(trio, prefix) as appenders,
        await EtcdLeases.open(trio.endpoints, clock, prefix=prefix) as leases,
    ):
        former = await leases.acquire("shard", "former", 1000)
        assert former is not None
        leader = await asyncio.to_thread(trio.leader)
        its = [trio.endpoints[leader - 1]]
        # Whoever knows this member only.
        late = await EtcdLog.open(its, prefix=prefix, timeout_s=60.0)
        there = await EtcdLeases.open(its, clock, prefix=prefix, timeout_s=60.0)
        await asyncio.to_thread(trio.stop, leader)
        waiting = asyncio.create_task(late.append(Entry(10**9, NodeFailed("late"))))
        renewing = asyncio.create_task(there.renew(former, 60_000))
        await appenders.go_on(100)
        later = None
        while later is None:  # until etcd has found that it has ended
            later = await leases.acquire("shard", "later", 60_000)
        known = len(appenders.acknowledged)
        trio.resume(leader)
        # It is told at once, and does not know yet that it does not lead any more.
        assert await there.holder("shard") == later
        assert await renewing is None
        assert later.token > former.token
        index = await waiting
        assert index >= known
        assert late.entries()[index].time_ms == 10**9
        async with await EtcdLog.open(its, prefix=prefix) as log:
            assert len(log) > known  # all that was acknowledged meanwhile
        entries = late.entries()
        assert [e.time_ms for e in entries if e.body == NodeFailed("late")] == [10**9]
        appenders.refused.add(10**9)
        await late.close()
        await there.close()


async def test_without_a_majority_nothing_is_acknowledged_and_later_it_goes_on(
    trio: LocalEtcd,
) -> None:
    async with await EtcdLog.open(trio.endpoints, prefix="minority", timeout_s=0.6) as log:
        assert await log.append(Entry(0, NodeFailed("n"))) == 0
        leader = await asyncio.to_thread(trio.leader)
        others = [member for member in (1, 2, 3) if member != leader]
        for member in others:
            await asyncio.to_thread(trio.stop, member)
        given = [log.append(Entry(number, NodeFailed("n"))) for number in range(1, 5)]
        answers = await asyncio.gather(*given, return_exceptions=True)
        assert all(isinstance(answer, StorageError) for answer in answers)
        assert "no answer within 0.6 s" in str(answers[0])
        assert [entry.time_ms for entry in log.entries()] == [0]  # reading goes on
        for member in others:
            trio.resume(member)
        await asyncio.to_thread(trio.leader)
    async with await EtcdLog.open(trio.endpoints, prefix="minority", timeout_s=10.0) as log:
        index = await log.append(Entry(9, NodeFailed("n")))
        numbers = [entry.time_ms for entry in log.entries()]
        assert numbers in ([0, 9], [0, 1, 2, 3, 4, 9])  # those may have come, whole and once
        assert numbers[index] == 9


async def test_all_members_may_be_killed_at_once(trio: LocalEtcd) -> None:
    async with _appending(trio, "all") as appenders:
        for member in (1, 2, 3):
            await asyncio.to_thread(trio.kill, member)
        for member in (1, 2, 3):
            await asyncio.to_thread(trio.start, member)
        await appenders.go_on(100)


async def _spoil(trio: LocalEtcd, rng: random.Random, until: float) -> Counter[str]:
    """Kill and stop members, at times two of them."""
    done: Counter[str] = Counter()
    while time.monotonic() < until:
        await asyncio.sleep(rng.random())
        first = rng.choice([await asyncio.to_thread(trio.leader), rng.randint(1, 3)])
        what = rng.choice(["one killed", "one stopped", "two stopped"])
        members = [first, first % 3 + 1] if what.startswith("two") else [first]
        if what == "one killed":
            await asyncio.to_thread(trio.kill, first)
            await asyncio.sleep(rng.random())
            await asyncio.to_thread(trio.start, first)
        else:
            for member in members:
                await asyncio.to_thread(trio.stop, member)
            await asyncio.sleep(2 * rng.random())
            for member in members:
                trio.resume(member)
        done[what] += 1
    return done


async def _cut_now_and_then(log: EtcdLog, enough: asyncio.Event) -> int:
    """Keep snapshots of the numbers that were appended; how many."""
    numbers, cuts = list[int](), 0
    while not enough.is_set():
        numbers += [entry.time_ms for entry in log.entries(len(numbers))]
        if log.cut_due:
            with suppress(StorageError):
                await log.cut(len(numbers), list(numbers))
                cuts += 1
        await asyncio.sleep(0.005)
    return cuts


async def test_whatever_misfortune_there_is_one_history(trio: LocalEtcd) -> None:
    prefix, points, enough = f"misfortune-{_SEED}", trio.endpoints, asyncio.Event()
    async with AsyncExitStack() as stack:
        logs = [
            await stack.enter_async_context(
                await EtcdLog.open(points[k:] + points[:k], prefix=prefix, cut_every=300)
            )
            for k in range(3)
        ]
        appenders = [_Appenders(log, k * 10**9) for k, log in enumerate(logs)]
        cutting = asyncio.create_task(_cut_now_and_then(logs[0], enough))
        done = await _spoil(trio, random.Random(_SEED), time.monotonic() + _MISFORTUNE_S)
        for one in appenders:
            await one.go_on(50)
            await one.end()
        enough.set()
        cuts = await cutting
    async with await EtcdLog.open(points, prefix=prefix) as log:
        before = log.snapshot[1] if log.snapshot else []
        history = [*before, *(entry.time_ms for entry in log.entries())]
    acknowledged = {n: index for one in appenders for n, index in one.acknowledged.items()}
    refused = {number for one in appenders for number in one.refused}
    assert {n: history[index] for n, index in acknowledged.items()} == {n: n for n in acknowledged}
    assert len(set(history)) == len(history)
    assert set(history) - set(acknowledged) <= refused
    print(f"{len(acknowledged)} acknowledged, {len(refused)} not; {cuts} cuts; {dict(done)}")
