"""Leases on etcd: what is particular to it, besides what every keeper of leases promises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc
import pytest

from agents.speed.live.etcd import LocalEtcd
from orchestrator import VirtualClock
from orchestrator.clock import WallClock
from orchestrator.errors import CorruptedError, StorageError
from orchestrator.foundations.etcd import EtcdLeases, connection
from orchestrator.foundations.etcd.connection import Member, delete, put
from orchestrator.foundations.etcd.forms import span
from orchestrator.ports import Lease, Pair

_Open: TypeAlias = Callable[[], Awaitable[EtcdLeases]]


@pytest.fixture
async def opened(
    etcd_member: LocalEtcd, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[_Open]:
    """Opens the leases of a test, as another process would."""
    monkeypatch.setattr(connection, "_SILENCE_S", 0.2)
    made: list[EtcdLeases] = []
    clock = WallClock()

    async def open_one() -> EtcdLeases:
        made.append(await EtcdLeases.open(etcd_member.endpoints, clock, prefix=request.node.name))
        return made[-1]

    yield open_one
    for leases in made:
        await leases.close()


class _Post:
    """Loses the first answer to each request, and keeps copies of all requests."""

    def __init__(self, leases: EtcdLeases) -> None:
        self.sent: list[tuple[Any, Any]] = []
        self.lossy = True
        self._last: Any = None
        member = leases._connection._members[0]
        for stub, names in (
            (member.pairs, ["Txn"]),
            (member.leases, ["LeaseGrant", "LeaseRevoke"]),
        ):
            for name in names:
                setattr(stub, name, self._wrapped(getattr(stub, name)))

    def _wrapped(self, method: Any) -> Any:
        async def send(request: Any, **options: Any) -> Any:
            self.sent.append((method, request))
            reply = await method(request, **options)
            if self.lossy and request is not self._last:
                self._last = request
                raise grpc.aio.AioRpcError(
                    grpc.StatusCode.UNAVAILABLE, *([grpc.aio.Metadata()] * 2)
                )
            return reply

        return send

    async def deliver_late(self) -> None:
        """What was sent arrives once more."""
        for method, request in self.sent:
            try:
                await method(request)
            except grpc.aio.AioRpcError:
                continue  # it is refused: a lease that is there, or is not


async def test_a_lease_lives_as_long_as_it_is_renewed(opened: _Open) -> None:
    ours, theirs = await opened(), await opened()
    lease = await ours.acquire("a", "me", 1000)
    assert lease is not None
    renewed: Lease | None = lease
    for _ in range(6):
        await asyncio.sleep(0.4)
        assert renewed is not None
        assert renewed.token == lease.token
        renewed = await ours.renew(renewed, 1000)
        assert await theirs.holder("a") == renewed
        assert await theirs.acquire("a", "you", 1000) is None


async def test_what_is_answered_for_the_second_time_is_the_same(opened: _Open) -> None:
    ours, theirs = await opened(), await opened()
    _Post(ours)
    lease = await ours.acquire("a", "me", 60_000)
    assert lease is not None
    assert await theirs.holder("a") == lease
    renewed = await ours.renew(lease, 90_000)
    assert renewed is not None
    assert renewed.token == lease.token
    assert await theirs.holder("a") == renewed
    pair = await ours.set("k", b"1", 0)
    assert pair is not None
    assert await theirs.get("k") == pair == await ours.get("k")
    gone = await ours.set("k", None, pair.revision)
    assert gone is not None
    assert await theirs.get("k") == gone
    await ours.release(renewed)
    assert await theirs.holder("a") is None


async def test_what_arrives_late_changes_nothing(opened: _Open) -> None:
    ours, theirs = await opened(), await opened()
    post = _Post(ours)
    lease = await ours.acquire("a", "me", 60_000)
    assert lease is not None
    renewed = await ours.renew(lease, 60_000)
    assert renewed is not None
    renewed = await ours.renew(renewed, 60_000)
    pair = await ours.set("k", b"1", 0)
    assert pair is not None
    pair = await ours.set("k", b"2", pair.revision)
    before = [await theirs._find("a"), (await theirs.get("k"))]
    await post.deliver_late()
    assert [await theirs._find("a"), (await theirs.get("k"))] == before
    assert renewed is not None
    await ours.release(renewed)
    await post.deliver_late()
    assert await theirs.holder("a") is None
    other = await theirs.acquire("a", "you", 60_000)
    assert other is not None
    await post.deliver_late()
    assert await theirs.holder("a") == other


async def test_a_lease_that_was_given_back_is_not_taken_by_what_arrives_late(
    opened: _Open,
) -> None:
    ours = await opened()
    post = _Post(ours)
    lease = await ours.acquire("a", "me", 60_000)
    assert lease is not None
    taking = list(post.sent)
    await ours.release(lease)
    post.sent = taking
    await post.deliver_late()
    assert await ours.holder("a") is None


async def test_leases_of_etcd_that_nobody_needs_are_given_back(opened: _Open) -> None:
    ours, theirs = await opened(), await opened()
    known = await _granted(ours)
    lease = await ours.acquire("a", "me", 60_000)
    assert lease is not None
    assert await theirs.acquire("a", "you", 60_000) is None
    assert await ours.renew(lease, 60_000) is not None
    assert len(await _granted(ours)) == len(known) + 1
    wanted = [one.acquire("b", str(k), 60_000) for k, one in enumerate([ours, theirs] * 4)]
    assert len([lease for lease in await asyncio.gather(*wanted) if lease is not None]) == 1
    assert len(await _granted(ours)) == len(known) + 2


async def _granted(leases: EtcdLeases) -> list[int]:
    def all_of(member: Member) -> Any:
        return member.leases.LeaseLeases

    reply = await leases._connection.ask(all_of, connection.rpc.LeaseLeasesRequest())
    return [one.ID for one in reply.leases]


async def test_a_watch_goes_on_when_etcd_has_forgotten(opened: _Open) -> None:
    ours, theirs = await opened(), await opened()
    first = await ours.set("job/a", b"1", 0)
    assert first is not None
    last = await ours.set("job/a", b"2", first.revision)
    assert last is not None
    await ours._connection.forget(last.revision)
    seen: list[Pair] = []

    async def watch() -> None:
        async for pair in theirs.watch("job/", first.revision):
            seen.append(pair)
            if pair.key == "job/c":
                return

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0.5)  # silence: it looks again
    assert seen == [last]
    for member in theirs._connection._members:
        theirs._connection._leave(member)  # another member is asked: the watch is made anew
    later = [await ours.set("job/b", b"3", 0), await ours.set("job/c", b"4", 0)]
    await asyncio.wait_for(watching, 10)
    assert seen == [last, *later]


async def test_names_need_not_be_ascii(opened: _Open) -> None:
    ours = await opened()
    pair = await ours.set("größe/ÿ", b"1", 0)
    await ours.set("groß", b"2", 0)
    found = await asyncio.wait_for(anext(aiter(ours.watch("größe/"))), 5)
    assert found == pair
    assert await asyncio.wait_for(anext(aiter(ours.watch("größ"))), 5) == pair
    assert await ours.acquire("ÿ", "é", 1000) is not None


async def test_what_others_have_put_there_is_said(opened: _Open) -> None:
    ours = await opened()
    await ours._connection.change((), [put(ours._key("k"), b"?"), put(ours._name("a"), b"?")])
    with pytest.raises(CorruptedError, match=r"begins with b'\?'; delete the key"):
        await ours.get("k")
    with pytest.raises(CorruptedError, match=r"malformed.*; delete the key"):
        await ours.holder("a")
    await ours._connection.change((), [delete(*span(ours._prefix))])
    assert await ours.get("k") == Pair("k", None, 0)


async def test_an_etcd_that_cannot_be_reached_is_told() -> None:
    with pytest.raises(StorageError, match=r"etcd at 127.0.0.1:1: no answer within 0.2 s"):
        await EtcdLeases.open(["127.0.0.1:1"], VirtualClock(), timeout_s=0.2)
