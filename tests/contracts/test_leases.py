"""What every keeper of pairs and leases promises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from orchestrator import VirtualClock
from orchestrator.errors import ValidationError
from orchestrator.foundations.etcd import EtcdLeases
from orchestrator.foundations.leases import InMemoryLeases, SQLiteLeases
from orchestrator.ports import Lease, Leases, Pair

_Open: TypeAlias = Callable[[], Awaitable[Leases]]


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture(params=["in memory", "sqlite", "etcd"])
async def opened(
    request: pytest.FixtureRequest, tmp_path: Path, clock: VirtualClock
) -> AsyncIterator[_Open]:
    """Opens the same store, as another process would."""
    memory, made = InMemoryLeases(clock), list[SQLiteLeases | EtcdLeases]()
    etcd = request.getfixturevalue("etcd_member") if request.param == "etcd" else None

    async def open_one() -> Leases:
        if request.param == "in memory":
            return memory
        if etcd is None:
            made.append(SQLiteLeases(tmp_path / "leases", clock))
        else:
            made.append(await EtcdLeases.open(etcd.endpoints, clock, prefix=str(tmp_path)))
        return made[-1]

    yield open_one
    for leases in made:
        if isinstance(leases, SQLiteLeases):
            leases.close()
        else:
            await leases.close()


async def _etcd_has_ended(leases: Leases, name: str) -> None:
    """It ends leases by its own clock, up to two seconds later."""
    for _ in range(1000):
        if not isinstance(leases, EtcdLeases) or await leases.holder(name) is None:
            break
        await asyncio.sleep(0.02)


async def test_a_key_that_was_never_set_has_nothing(opened: _Open) -> None:
    assert await (await opened()).get("a") == Pair("a", None, 0)


async def test_a_key_is_set_only_if_nobody_has_set_it_since(opened: _Open) -> None:
    ours, theirs = await opened(), await opened()
    first = await ours.set("a", b"1", 0)
    assert first is not None
    assert await theirs.get("a") == first
    assert await theirs.set("a", b"2", 0) is None
    second = await theirs.set("a", b"2", first.revision)
    assert second is not None
    assert second.revision > first.revision
    assert await ours.set("a", b"3", first.revision) is None
    assert await ours.get("a") == second


async def test_a_key_that_was_deleted_is_not_one_that_was_never_set(opened: _Open) -> None:
    leases = await opened()
    first = await leases.set("a", b"1", 0)
    assert first is not None
    gone = await leases.set("a", None, first.revision)
    assert gone is not None
    assert await leases.get("a") == gone
    assert await leases.set("a", b"2", 0) is None
    assert await leases.set("a", b"2", gone.revision) is not None


async def test_of_many_who_compare_at_once_one_sets(opened: _Open) -> None:
    stores = [await opened(), await opened()]
    tries = [stores[n % 2].set("a", b"%d" % n, 0) for n in range(20)]
    won = [pair for pair in await asyncio.gather(*tries) if pair is not None]
    assert [await stores[0].get("a")] == won


async def test_a_lease_has_one_holder(opened: _Open) -> None:
    ours, theirs = await opened(), await opened()
    lease = await ours.acquire("shard-1", "me", 1000)
    assert lease == Lease("shard-1", "me", lease.token, 1000) if lease else False
    assert await theirs.acquire("shard-1", "you", 1000) is None
    assert await theirs.holder("shard-1") == lease
    assert await theirs.acquire("shard-2", "you", 1000) is not None


async def test_a_lease_ends_by_itself_and_the_next_token_is_larger(
    opened: _Open, clock: VirtualClock
) -> None:
    ours, theirs = await opened(), await opened()
    lease = await ours.acquire("a", "me", 1000)
    assert lease is not None
    await clock.advance_to(999)
    assert await theirs.acquire("a", "you", 1000) is None
    await clock.advance_to(1000)
    await _etcd_has_ended(theirs, "a")
    assert await theirs.holder("a") is None
    assert await ours.renew(lease, 1000) is None
    other = await theirs.acquire("a", "you", 1000)
    assert other is not None
    assert other.token > lease.token
    assert await ours.renew(lease, 1000) is None
    await ours.release(lease)  # it is not ours any more
    assert await ours.holder("a") == other


async def test_a_lease_that_is_renewed_goes_on_with_its_token(
    opened: _Open, clock: VirtualClock
) -> None:
    leases = await opened()
    lease = await leases.acquire("a", "me", 1000)
    assert lease is not None
    await clock.advance_to(900)
    assert await leases.renew(lease, 1000) == Lease("a", "me", lease.token, 1900)
    await clock.advance_to(1800)
    assert await leases.acquire("a", "you", 1000) is None


async def test_a_lease_that_is_given_back_is_free_at_once(opened: _Open) -> None:
    ours, theirs = await opened(), await opened()
    lease = await ours.acquire("a", "me", 1000)
    assert lease is not None
    await ours.release(lease)
    other = await theirs.acquire("a", "you", 1000)
    assert other is not None
    assert other.token > lease.token


async def test_watching_tells_what_is_set_in_order_and_from_where_one_was(
    opened: _Open, clock: VirtualClock
) -> None:
    ours, theirs = await opened(), await opened()
    first = await ours.set("job/a", b"1", 0)
    await ours.set("node/n", b"2", 0)
    seen: list[Pair] = []

    async def watch(since: int) -> None:
        async for pair in theirs.watch("job/", since):
            seen.append(pair)
            if pair.value == b"4":
                return

    watching = asyncio.ensure_future(watch(0))
    await asyncio.sleep(0)
    later = [await ours.set("job/b", b"3", 0), await ours.set("job/c", b"4", 0)]
    while not watching.done():
        await clock.advance_to(clock.now_ms() + 20)
    assert seen == [first, *later]
    seen.clear()
    assert later[0] is not None
    await watch(later[0].revision)
    assert seen == later[1:]


@pytest.mark.parametrize(
    ("name", "holder", "ttl_ms", "field"),
    [("", "me", 1, "name"), ("a", "", 1, "holder"), ("a", "me", 0, "ttl_ms")],
)
async def test_what_is_no_lease_is_refused(
    opened: _Open, name: str, holder: str, ttl_ms: int, field: str
) -> None:
    with pytest.raises(ValidationError, match=field):
        await (await opened()).acquire(name, holder, ttl_ms)
