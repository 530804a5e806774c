"""What every shard manager promises."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from orchestrator.clock import VirtualClock
from orchestrator.errors import ConfigurationError, UnknownEntityError
from orchestrator.foundations import HashShardManager
from orchestrator.foundations.leases import InMemoryLeases
from orchestrator.foundations.shards import LeasedShards
from orchestrator.ports import ShardManager

_NAMES = tuple(f"shard-{number}" for number in range(4))
_KEYS = [f"job-{number}" for number in range(1000)]


def _leased(names: Sequence[str]) -> LeasedShards:
    clock = VirtualClock()
    return LeasedShards(InMemoryLeases(clock), clock, "one", names)


@pytest.fixture(params=[HashShardManager, _leased])
def make(request: pytest.FixtureRequest) -> Callable[[Sequence[str]], ShardManager]:
    maker: Callable[[Sequence[str]], ShardManager] = request.param
    return maker


def test_every_key_has_one_owner(make: Callable[[Sequence[str]], ShardManager]) -> None:
    shards = make(_NAMES)
    assert set(shards.shards) == set(_NAMES)
    assert {shards.owner(key) for key in _KEYS} <= set(_NAMES)


def test_replicas_agree(make: Callable[[Sequence[str]], ShardManager]) -> None:
    one, other = make(_NAMES), make(tuple(reversed(_NAMES)))
    assert [one.owner(key) for key in _KEYS] == [other.owner(key) for key in _KEYS]


def test_the_load_is_spread(make: Callable[[Sequence[str]], ShardManager]) -> None:
    shards = make(_NAMES)
    counts = Counter(shards.owner(key) for key in _KEYS)
    assert all(150 < counts[name] < 350 for name in _NAMES), counts


# --- of rendezvous hashing ------------------------------------------------------------------------


def test_a_shard_that_joins_only_takes() -> None:
    shards = HashShardManager(_NAMES)
    before = {key: shards.owner(key) for key in _KEYS}
    shards.add("shard-4")
    after = {key: shards.owner(key) for key in _KEYS}
    moved = [key for key in _KEYS if after[key] != before[key]]
    assert {after[key] for key in moved} == {"shard-4"}
    assert 120 < len(moved) < 280


def test_a_shard_that_leaves_only_gives() -> None:
    shards = HashShardManager(_NAMES)
    before = {key: shards.owner(key) for key in _KEYS}
    shards.remove("shard-2")
    assert all(shards.owner(key) == owner for key, owner in before.items() if owner != "shard-2")


def test_the_last_shard_stays() -> None:
    shards = HashShardManager()
    with pytest.raises(ConfigurationError, match="last shard"):
        shards.remove("shard-0")
    with pytest.raises(UnknownEntityError, match="no shard 'x'"):
        shards.remove("x")
    with pytest.raises(ConfigurationError, match="there already"):
        shards.add("shard-0")
    with pytest.raises(ConfigurationError, match="at least one"):
        HashShardManager(())
