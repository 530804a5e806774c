"""What every consensus engine promises."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from orchestrator.foundations import InMemoryConsensus
from orchestrator.messages import Entry, NodeFailed
from orchestrator.ports import ConsensusEngine


@pytest.fixture(params=[InMemoryConsensus])
def consensus(request: pytest.FixtureRequest) -> ConsensusEngine:
    make: Callable[[], ConsensusEngine] = request.param
    return make()


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
