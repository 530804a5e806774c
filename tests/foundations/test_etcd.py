"""A log on etcd: nothing acknowledged is lost or there twice, what is wrong is said."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeAlias

import grpc
import pytest

from agents.speed.live.etcd import LocalEtcd
from orchestrator.errors import (
    CapacityError,
    ConfigurationError,
    CorruptedError,
    StorageError,
    UnknownSchemaError,
    ValidationError,
)
from orchestrator.foundations.etcd import EtcdLog, connection, snapshots
from orchestrator.foundations.etcd.connection import delete, put
from orchestrator.foundations.etcd.forms import span
from orchestrator.messages import Entry, NodeFailed
from orchestrator.wire import seals

_Open: TypeAlias = Callable[..., Awaitable[EtcdLog]]


@pytest.fixture
async def opened(
    etcd_member: LocalEtcd, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[_Open]:
    """Opens the log of a test, as another process would."""
    monkeypatch.setattr(connection, "_SILENCE_S", 0.2)
    made: list[EtcdLog] = []

    async def open_one(**options: Any) -> EtcdLog:
        log = await EtcdLog.open(etcd_member.endpoints, prefix=request.node.name, **options)
        made.append(log)
        return log

    yield open_one
    for log in made:
        await log.close()


def _entry(number: int) -> Entry:
    return Entry(number, NodeFailed(f"node-{number}"))


def _numbers(log: EtcdLog, start: int = 0) -> list[int]:
    return [entry.time_ms for entry in log.entries(start)]


async def _append(log: EtcdLog, first: int, count: int) -> None:
    for number in range(first, first + count):
        assert await log.append(_entry(number)) == number


async def _until(holds: Callable[[], bool]) -> None:
    """Wait for what a watch tells."""
    for _ in range(1000):
        if holds():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come to that within ten seconds")


async def _cut_twice(opened: _Open) -> EtcdLog:
    """A log of 0 to 9 with snapshots of 4 and 8."""
    log = await opened()
    await _append(log, 0, 6)
    await log.cut(4, "four")
    await _append(log, 6, 4)
    await log.cut(8, "eight")
    return log


async def _change(log: EtcdLog, *changes: Any) -> None:
    await log._connection.change((), changes)


async def _keys(log: EtcdLog, prefix: bytes) -> list[bytes]:
    return [pair.key for pair in (await log._connection.read(*span(prefix))).kvs]


# --- what lasts ----------------------------------------------------------------------------------


async def test_what_was_acknowledged_is_there_when_it_is_opened_anew(opened: _Open) -> None:
    await _append(await opened(), 0, 5)
    log = await opened()
    assert list(log.entries()) == [_entry(number) for number in range(5)]
    assert await log.append(_entry(5)) == 5


async def test_the_last_snapshot_and_what_came_since_are_there(opened: _Open) -> None:
    await _cut_twice(opened)
    log = await opened()
    assert (log.snapshot, _numbers(log)) == ((8, "eight"), [8, 9])
    await log.cut(10, "ten")
    log = await opened()
    assert (log.snapshot, _numbers(log)) == ((10, "ten"), [])
    assert await log.append(_entry(10)) == 10


async def test_what_comes_while_a_transaction_is_under_way_goes_together(opened: _Open) -> None:
    log = await opened()
    revision = (await log._connection.read(b"-")).header.revision
    indices = await asyncio.gather(*(log.append(_entry(number)) for number in range(400)))
    assert indices == list(range(400)) == _numbers(log)
    assert (await log._connection.read(b"-")).header.revision - revision <= 5


async def test_entries_and_snapshots_below_the_last_two_are_dropped(opened: _Open) -> None:
    log = await opened(cut_every=10)
    for number in range(100):
        if log.cut_due:
            await log.cut(number, random.Random(number).randbytes(600_000))
        await log.append(_entry(number))
    assert len(await _keys(log, log._keys.entries)) <= 20
    assert len(await _keys(log, log._keys.manifests)) == 2
    chunks = await _keys(log, log._keys.chunks)
    assert len({key.split(b"/")[-3] for key in chunks}) == 2
    assert (await opened()).snapshot == log.snapshot


async def test_a_snapshot_of_many_chunks_is_read_as_it_was(
    opened: _Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "_PAGE", 2)
    log = await opened()
    large = random.Random(0).randbytes(3_000_000)
    await log.cut(0, large)
    assert len(await _keys(log, log._keys.chunks)) == 6
    assert (await opened()).snapshot == (0, large)


async def test_a_log_sees_what_another_one_appends_and_cuts(opened: _Open) -> None:
    ours, theirs = await opened(cut_every=4), await opened(cut_every=4)
    for number in range(6):
        assert await (ours, theirs)[number % 2].append(_entry(number)) == number
    await _until(lambda: _numbers(ours) == _numbers(theirs) == list(range(6)))
    await _append(theirs, 6, 1)
    await theirs.cut(3, "three")
    await theirs.cut(7, "seven")
    await _until(lambda: _numbers(ours, 6) == [6])
    assert ours.snapshot is None  # it does not need one
    await ours.close()
    ours = await opened(cut_every=4)
    ours._following.cancel()  # its watch tells it nothing
    await _append(theirs, 7, 2)
    await theirs.cut(8, "eight")
    await theirs.cut(9, "nine")
    assert await ours.append(_entry(9)) == 9  # some that it has not read are gone
    assert (ours.snapshot, _numbers(ours)) == ((9, "nine"), [9])


async def test_a_reader_that_never_cuts_does_not_keep_everything(opened: _Open) -> None:
    ours, theirs = await opened(cut_every=10), await opened(cut_every=10)
    for number in range(100):
        if theirs.cut_due:
            await theirs.cut(number, number)
        await theirs.append(_entry(number))
    await _until(lambda: _numbers(ours)[-1:] == [99] and len(ours) <= 22)


async def test_what_etcd_has_forgotten_of_its_past_is_not_missed(opened: _Open) -> None:
    ours, theirs = await opened(), await opened()
    await _append(ours, 0, 3)
    ours._following.cancel()
    ours._replica.revision = 1
    await _append(theirs, 3, 3)
    reply = await theirs._connection.read(b"-")
    await theirs._connection.forget(reply.header.revision)
    ours._following = asyncio.create_task(ours._replica.follow())
    await _until(lambda: _numbers(ours) == list(range(6)))


async def test_large_entries_are_packed_and_too_large_ones_refused(opened: _Open) -> None:
    log = await opened()
    large = Entry(0, NodeFailed("x" * 3_000_000))
    assert await log.append(large) == 0
    too_large = Entry(1, NodeFailed(random.Random(0).randbytes(1_200_000).hex()))
    with pytest.raises(CapacityError, match=r"does not fit into a request of etcd; say it in"):
        await log.append(too_large)
    sizes = [Entry(2, NodeFailed(random.Random(k).randbytes(400_000).hex())) for k in range(6)]
    assert await asyncio.gather(*map(log.append, sizes)) == list(range(1, 7))
    assert list((await opened()).entries()) == [large, *sizes]


# --- what is lost on the way ---------------------------------------------------------------------


class _Post:
    """Loses answers of transactions that were made, and keeps copies of all requests."""

    def __init__(self, log: EtcdLog, seed: int) -> None:
        self._rng, self.requests = random.Random(seed), list[Any]()
        self._member = log._connection._members[0]
        self._change, self._member.pairs.Txn = self._member.pairs.Txn, self._lossy

    async def _lossy(self, request: Any, **options: Any) -> Any:
        self.requests.append(request)
        reply = await self._change(request, **options)
        if self._rng.random() < 0.5:
            await asyncio.sleep(self._rng.choice([0.0, 0.01]))  # the watch may be faster, or not
            raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, *([grpc.aio.Metadata()] * 2))
        return reply

    async def deliver_late(self) -> None:
        """What was sent arrives once more."""
        for request in self.requests:
            await self._change(request)


@pytest.mark.parametrize("watched", [True, False])
async def test_an_answer_that_is_lost_does_not_append_twice(opened: _Open, watched: bool) -> None:
    ours, theirs = await opened(), await opened()
    if not watched:
        ours._following.cancel()
    post = _Post(ours, 1)

    async def write(log: EtcdLog, first: int) -> dict[int, int]:
        return {number: await log.append(_entry(number)) for number in range(first, 90, 3)}

    acknowledged = await asyncio.gather(write(ours, 0), write(ours, 1), write(theirs, 2))
    await post.deliver_late()
    entries = (await opened()).entries()
    assert len(post.requests) > 30
    assert sorted(entry.time_ms for entry in entries) == list(range(90))
    for number, index in [pair for answers in acknowledged for pair in answers.items()]:
        assert entries[index] == _entry(number)


async def test_what_arrives_after_the_log_was_cut_changes_nothing(opened: _Open) -> None:
    log = await opened()
    post = _Post(log, 2)
    for number in range(0, 30, 5):
        await _append(log, number, 5)
        await log.cut(number + 3, f"of {number + 3}")
    before = await _keys(log, log._keys.log)
    await post.deliver_late()
    assert [key for key in await _keys(log, log._keys.entries) if key not in before] == []
    again = await opened()
    assert (again.snapshot, _numbers(again)) == ((28, "of 28"), [28, 29])
    assert await again.append(_entry(30)) == 30


# --- what is damaged -----------------------------------------------------------------------------


@pytest.mark.parametrize("damage", ["flip", "tear", "remove", "manifest"])
async def test_a_damaged_snapshot_falls_back_to_the_one_before_and_says_so(
    opened: _Open, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    log = await _cut_twice(opened)
    chunk = (await _keys(log, log._keys.chunks))[-1]
    data = bytearray((await log._connection.read(chunk)).kvs[0].value)
    data[len(data) // 2] ^= 1
    await _change(
        log,
        {
            "flip": put(chunk, bytes(data)),
            "tear": put(chunk, bytes(data[:-7])),
            "remove": delete(chunk),
            "manifest": put(log._keys.manifest(8), b"{}"),
        }[damage],
    )
    log = await opened()
    assert (log.snapshot, _numbers(log)) == ((4, "four"), [4, 5, 6, 7, 8, 9])
    assert "the one before is used" in caplog.text
    await log.cut(10, "ten")  # the damaged one is not one of the two that are kept
    assert (await _keys(log, log._keys.manifests))[0] == log._keys.manifest(4)
    assert (await opened()).snapshot == (10, "ten")


async def test_the_only_snapshot_may_be_damaged(opened: _Open) -> None:
    log = await opened()
    await _append(log, 0, 6)
    await log.cut(4, "four")
    await _change(log, put(log._keys.manifest(4), b"torn"))
    log = await opened()
    assert (log.snapshot, _numbers(log)) == (None, [0, 1, 2, 3, 4, 5])


async def test_a_log_without_a_whole_snapshot_is_refused(opened: _Open) -> None:
    log = await _cut_twice(opened)
    await _change(log, *(put(log._keys.manifest(index), b"torn") for index in (4, 8)))
    with pytest.raises(CorruptedError, match=r"begins with entry 4, and no snapshot .* restore"):
        await opened()


async def test_a_log_that_is_older_than_its_snapshot_is_refused(opened: _Open) -> None:
    log = await _cut_twice(opened)
    await _change(log, put(log._keys.head, b"6"))
    with pytest.raises(CorruptedError, match="ends with entry 6, and there is a snapshot of 8"):
        await opened()


@pytest.mark.parametrize(
    ("index", "value", "match"),
    [
        (2, b"p" + bytes(66), "entry 2: entry: begins with"),
        (2, b"?" + bytes(66), r"entry 2: entry: begins with b'\?'"),
        (2, b"z" + bytes(66), "entry 2: entry: .*incorrect header"),
        (2, None, "entry 2 is missing"),
        (0, None, "begins with entry 1, and no snapshot"),
        (4, None, "entry 4 is missing"),
    ],
)
async def test_a_damaged_entry_is_refused_and_named(
    opened: _Open, index: int, value: bytes | None, match: str
) -> None:
    log = await opened()
    await _append(log, 0, 5)
    key = log._keys.entry(index)
    await _change(log, delete(key) if value is None else put(key, value))
    with pytest.raises(CorruptedError, match=match):
        await opened()


async def test_an_entry_that_cannot_be_read_is_not_passed_over(opened: _Open) -> None:
    log = await opened()
    await _append(log, 0, 2)
    await _change(log, put(log._keys.entry(2), b"?"), put(log._keys.head, b"3"))
    with pytest.raises(CorruptedError, match="entry 2: entry: begins with"):
        await log.append(_entry(3))
    await _until(lambda: log._replica.wrong is not None)
    with pytest.raises(CorruptedError, match="entry 2: entry: begins with"):
        log.entries()
    good = (await log._connection.read(log._keys.entry(1))).kvs[0].value
    await _change(log, put(log._keys.entry(2), good))
    await _until(lambda: log._replica.wrong is None)
    assert _numbers(log) == [0, 1, 1]


async def test_one_behind_the_end_is_refused(opened: _Open) -> None:
    log = await opened()
    await _append(log, 0, 2)
    await _change(log, put(log._keys.entry(2), b"?"))
    with pytest.raises(CorruptedError, match="ends with entry 2, and there is one behind it"):
        await log.append(_entry(2))


# --- what is something else ----------------------------------------------------------------------


async def test_another_schema_is_refused_with_what_to_do(
    opened: _Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = await _cut_twice(opened)
    meta = (await log._connection.read(log._keys.meta)).kvs[0].value
    other = meta.replace(b'"schema":1', b'"schema":9')
    await _change(log, put(log._keys.meta, other))
    with pytest.raises(UnknownSchemaError, match="version 9, and this program reads 1; run the"):
        await opened()
    await _change(log, put(log._keys.meta, meta))
    monkeypatch.setattr(seals, "SCHEMA", 2)
    with pytest.raises(UnknownSchemaError, match="version 1, and this program reads 2; run the"):
        await opened()  # of a snapshot


async def test_what_is_no_log_is_refused_and_left_alone(opened: _Open) -> None:
    log = await opened()
    await _change(log, put(log._keys.meta, b"a letter"))
    with pytest.raises(StorageError, match=r"is no log .*; give another prefix"):
        await opened()
    await _change(log, put(log._keys.meta, b'{"log":"diary","schema":1,"id":""}'))
    with pytest.raises(StorageError, match="is a log of 'diary'; give another prefix"):
        await opened()
    await _change(log, delete(log._keys.meta))
    with pytest.raises(CorruptedError, match="does not say what it is; restore it from a copy"):
        await opened()
    assert await _keys(log, log._keys.prefix) == [log._keys.head]


async def test_a_log_that_was_replaced_while_in_use_is_told(opened: _Open) -> None:
    ours = await opened()
    await _append(ours, 0, 3)
    await _change(ours, delete(*span(ours._keys.prefix)))
    theirs = await opened()
    await _append(theirs, 0, 3)
    with pytest.raises(CorruptedError, match=r"was replaced while in use .* begin anew"):
        await ours.append(_entry(3))
    with pytest.raises(CorruptedError, match="was replaced while in use; begin anew"):
        await ours.cut(2, "two")
    assert _numbers(theirs) == [0, 1, 2]


# --- what is asked for wrongly, or cannot be reached ---------------------------------------------


async def test_an_etcd_that_cannot_be_reached_is_told_in_time() -> None:
    begun = time.monotonic()
    with pytest.raises(
        StorageError,
        match=r"etcd at 127.0.0.1:1, 127.0.0.1:2: no answer within 0.4 s .* start a majority",
    ):
        await EtcdLog.open(["127.0.0.1:1", "127.0.0.1:2"], timeout_s=0.4)
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    ("endpoints", "options", "match"),
    [
        ([], {}, "'endpoints' is"),
        ("127.0.0.1:2379", {}, "'endpoints' is '127.0.0.1:2379'; give its members"),
        (["127.0.0.1"], {}, "'endpoints' is"),
        (["a:1"], {"prefix": "/"}, "'prefix' is '/'"),
        (["a:1"], {"cut_every": 0}, "'cut_every' is 0; give at least 1"),
        (["a:1"], {"timeout_s": 0}, "'timeout_s' is 0; give more"),
    ],
)
async def test_what_makes_no_sense_is_refused(
    endpoints: Any, options: dict[str, Any], match: str
) -> None:
    with pytest.raises(ConfigurationError, match=match):
        await EtcdLog.open(endpoints, **options)


async def test_what_cannot_be_kept_is_refused_before_anything_is_written(opened: _Open) -> None:
    log = await opened()
    with pytest.raises(ValidationError, match="time_ms"):
        await log.append(Entry(-1, NodeFailed("a")))
    with pytest.raises(ValidationError, match="cannot be kept"):
        await log.cut(0, object())
    with pytest.raises(ValidationError, match="is 3, and the log holds 0 to 0"):
        await log.cut(3, "three")
    assert (log.snapshot, _numbers(log)) == (None, [])
    assert await _keys(log, log._keys.log) == []


async def test_a_snapshot_that_etcd_does_not_take_changes_nothing(
    opened: _Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = await opened(cut_every=10)
    await _append(log, 0, 10)

    async def full(request: Any, **options: Any) -> Any:
        raise grpc.aio.AioRpcError(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            *([grpc.aio.Metadata()] * 2),
            details="etcdserver: mvcc: database space exceeded",
        )

    monkeypatch.setattr(log._connection._members[0].pairs, "Txn", full)
    with pytest.raises(StorageError, match="space exceeded; compact and defragment it"):
        await log.cut(10, "ten")
    with pytest.raises(StorageError, match="space exceeded; compact and defragment it"):
        await log.append(_entry(10))
    monkeypatch.undo()
    assert (log.snapshot, _numbers(log)) == (None, list(range(10)))
    assert not log.cut_due  # not again at once
    await _append(log, 10, 1)
    assert log.cut_due
    await log.cut(11, "eleven")
    assert log.snapshot == (11, "eleven")


async def test_a_closed_log_says_so_and_has_written_what_it_was_given(opened: _Open) -> None:
    log = await opened()
    given = [asyncio.create_task(log.append(_entry(number))) for number in range(3)]
    await asyncio.sleep(0)
    await log.close()
    await log.close()
    assert await asyncio.gather(*given) == [0, 1, 2]
    with pytest.raises(StorageError, match="is closed; open it anew"):
        await log.append(_entry(3))
    with pytest.raises(StorageError, match="is closed; open it anew"):
        await log.cut(0, "none")
    assert _numbers(await opened()) == [0, 1, 2]
