"""What every consensus engine promises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from orchestrator.foundations import InMemoryConsensus
from orchestrator.foundations.etcd import EtcdLog
from orchestrator.foundations.sqlite import SQLiteLog
from orchestrator.messages import Entry, NodeFailed
from orchestrator.ports import ConsensusEngine, CuttableLog

_Log: TypeAlias = InMemoryConsensus | SQLiteLog | EtcdLog
_Make: TypeAlias = Callable[[int], Awaitable[_Log]]


@pytest.fixture(params=["in memory", "sqlite", "etcd"])
async def make(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[_Make]:
    """Makes logs, or opens them anew, that are to be cut behind so many entries."""
    made: list[_Log] = []
    etcd = request.getfixturevalue("etcd_member") if request.param == "etcd" else None

    async def make_one(every: int) -> _Log:
        if request.param == "in memory":
            made.append(InMemoryConsensus(2 * every))
        elif etcd is None:
            made.append(SQLiteLog(tmp_path / "log", cut_every=every))
        else:
            prefix = str(tmp_path)
            made.append(await EtcdLog.open(etcd.endpoints, prefix=prefix, cut_every=every))
        return made[-1]

    yield make_one
    for log in made:
        if isinstance(log, SQLiteLog):
            log.close()
        elif isinstance(log, EtcdLog):
            await log.close()


@pytest.fixture
async def consensus(make: _Make) -> ConsensusEngine:
    return await make(1000)


def _entry(number: int) -> Entry:
    return Entry(number, NodeFailed(f"node-{number}"))


async def test_a_new_log_is_empty(consensus: ConsensusEngine) -> None:
    assert list(consensus.entries()) == []


async def test_entries_keep_the_order_of_their_indices(consensus: ConsensusEngine) -> None:
    indices = [await consensus.append(_entry(number)) for number in range(5)]
    assert indices == sorted(set(indices))
    assert list(consensus.entries()) == [_entry(number) for number in range(5)]


async def test_reading_starts_at_an_index(consensus: ConsensusEngine) -> None:
    indices = [await consensus.append(_entry(number)) for number in range(5)]
    assert list(consensus.entries(indices[3])) == [_entry(3), _entry(4)]
    assert list(consensus.entries(indices[-1] + 1)) == []


async def test_what_was_read_does_not_change(consensus: ConsensusEngine) -> None:
    await consensus.append(_entry(0))
    read = consensus.entries()
    await consensus.append(_entry(1))
    assert list(read) == [_entry(0)]


async def test_concurrent_entries_are_ordered_and_none_is_lost(consensus: ConsensusEngine) -> None:
    indices = await asyncio.gather(*(consensus.append(_entry(n)) for n in range(20)))
    assert sorted(indices) == list(range(20))
    log = consensus.entries()
    assert all(log[index] == _entry(number) for number, index in enumerate(indices))


# --- of those that can be cut --------------------------------------------------------------------


@pytest.fixture
async def cuttable(make: _Make) -> _Log:
    return await make(4)


async def test_a_cut_log_keeps_its_indices(cuttable: _Log) -> None:
    assert isinstance(cuttable, CuttableLog)
    assert cuttable.snapshot is None
    for number in range(5):
        await cuttable.append(_entry(number))
    await cuttable.cut(3, "what came of 0, 1 and 2")
    assert cuttable.snapshot == (3, "what came of 0, 1 and 2")
    assert list(cuttable.entries()) == list(cuttable.entries(3)) == [_entry(3), _entry(4)]
    assert list(cuttable.entries(4)) == [_entry(4)]
    assert await cuttable.append(_entry(5)) == 5
    await cuttable.cut(6, "more")
    assert list(cuttable.entries()) == []
    assert await cuttable.append(_entry(6)) == 6
    assert list(cuttable.entries(6)) == [_entry(6)]


async def test_entries_keep_their_order_while_a_log_is_cut(cuttable: _Log) -> None:
    for number in range(8):
        await cuttable.append(_entry(number))
    appended = [cuttable.append(_entry(number)) for number in range(8, 12)]
    _, *indices = await asyncio.gather(cuttable.cut(8, "eight"), *appended)
    assert indices == [8, 9, 10, 11]
    assert list(cuttable.entries()) == [_entry(number) for number in range(8, 12)]


async def test_it_is_time_to_cut_a_log_long_before_it_is_full(cuttable: _Log) -> None:
    for number in range(50):
        if cuttable.cut_due:
            await cuttable.cut(number, number)
        await cuttable.append(_entry(number))
        assert len(cuttable) <= 4
    assert [entry.time_ms for entry in cuttable.entries()] == [48, 49]
