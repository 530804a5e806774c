"""Shards by lease: one owner at most, one in the end, and no move that need not be."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import VirtualClock
from orchestrator.errors import ConfigurationError, NotOwnerError
from orchestrator.foundations.leases import InMemoryLeases
from orchestrator.foundations.shards import LeasedShards, spread
from tests.foundations.crew import TTL_MS, Crew

# --- who should hold what -------------------------------------------------------------------------

_MEMBERS = tuple("abcde")


@st.composite
def _held(draw: st.DrawFn) -> tuple[tuple[str, ...], tuple[str, ...], dict[str, str]]:
    """Shards, members, and who holds what: some are gone, some shards are free."""
    shards = tuple(f"shard-{k}" for k in range(draw(st.integers(1, 12))))
    members = tuple(draw(st.lists(st.sampled_from(_MEMBERS), min_size=1, unique=True)))
    holders = draw(st.dictionaries(st.sampled_from(shards), st.sampled_from((*_MEMBERS, "gone"))))
    return shards, members, holders


def _kept(members: tuple[str, ...], holders: Mapping[str, str], wanted: Mapping[str, str]) -> int:
    return sum(wanted[shard] == member for shard, member in holders.items() if member in members)


@given(_held())
def test_loads_are_even_and_nobody_who_is_there_gives_up_more_than_it_must(
    case: tuple[tuple[str, ...], tuple[str, ...], dict[str, str]],
) -> None:
    shards, members, holders = case
    wanted = spread(shards, members, holders)
    assert set(wanted) == set(shards)
    loads = sorted((list(wanted.values()).count(m) for m in members), reverse=True)
    assert loads[0] - loads[-1] <= 1
    # The most that any even distribution lets stay: the largest loads stay with whoever has most.
    held = sorted((list(holders.values()).count(m) for m in members), reverse=True)
    assert _kept(members, holders, wanted) == sum(map(min, held, loads))


@given(_held(), st.randoms(use_true_random=False))
def test_all_want_the_same_whoever_asks_and_however_far_it_has_got(
    case: tuple[tuple[str, ...], tuple[str, ...], dict[str, str]], rng: random.Random
) -> None:
    shards, members, holders = case
    wanted = spread(shards, members, holders)
    now = {shard: member for shard, member in holders.items() if member in members}
    steps = [shard for shard in shards if now.get(shard) != wanted[shard]]
    while steps:  # each gives up, and takes, in any order
        assert spread(rng.sample(shards, len(shards)), rng.sample(members, len(members)), now) == (
            wanted
        )
        shard = rng.choice(steps)
        if shard in now:
            del now[shard]
        else:
            now[shard] = wanted[shard]
            steps.remove(shard)
    assert now == wanted


def test_nobody_there_holds_nothing() -> None:
    assert spread(("a", "b"), (), {"a": "gone"}) == {}


# --- one owner ------------------------------------------------------------------------------------


async def test_a_first_member_takes_all_and_a_second_one_its_half() -> None:
    crew = Crew(8)
    crew.join("one")
    await crew.wait(1)
    crew.require_settled()
    assert len(crew.opened) == 8
    crew.join("two")
    await crew.wait(1)
    crew.require_settled()
    moved = crew.opened[8:]
    assert len(moved) == 4
    assert {name for _, name in moved} == {"two"}
    assert [shard for shard, _ in crew.closed] == [shard for shard, _ in moved]
    assert crew.acts > 100


@pytest.mark.parametrize("ends", ["leaves", "dies"])
async def test_who_goes_takes_nobody_elses_shards_along(ends: str) -> None:
    crew = Crew(9)
    for name in ("one", "two", "three"):
        crew.join(name)
    await crew.wait(2)
    crew.require_settled()
    before, opened = crew.held(), len(crew.opened)
    if ends == "leaves":
        await crew.leave("two")
        await crew.wait(0.4)  # at once: nobody waits for a lease to end
    else:
        crew.die("two")
        await crew.wait(1.6)
    crew.require_settled()
    assert {shard for shard, _ in crew.opened[opened:]} == before["two"]


async def test_who_stands_still_for_longer_than_a_lease_comes_back_and_has_lost_all() -> None:
    crew = Crew(4)
    one, two = crew.join("one"), crew.join("two")
    await crew.wait(2)
    own = [tenure for shard in crew.names if (tenure := one.shards.tenure(shard))]
    one.clock.still = True
    await crew.wait(2)
    assert len(crew.held()["two"]) == 4
    with pytest.raises(NotOwnerError):
        own[0].require()
    one.clock.go_on()
    await crew.wait(2)
    crew.require_settled()
    assert not any(tenure.holds for tenure in own)
    assert two.shards.errors == one.shards.errors == 0


async def test_who_does_not_reach_the_leases_stops_before_others_take_over() -> None:
    crew = Crew(4)
    one = crew.join("one")
    crew.join("two")
    await crew.wait(2)
    one.leases.mode = "silent"
    await crew.wait(2)
    assert crew.held() == {"one": set(), "two": set(crew.names)}
    assert one.shards.errors > 0
    one.leases.mode = "well"
    await crew.wait(2)
    crew.require_settled()


async def test_a_shard_that_cannot_be_opened_is_tried_again_and_later_each_time() -> None:
    crew = Crew(2)
    one = crew.join("one")
    one.refuses = {"shard-1"}
    await crew.wait(4)
    assert crew.held() == {"one": {"shard-0"}}
    assert one.shards.errors == 3  # at once, after 1 lease, after 2 more
    one.refuses = set()
    await crew.wait(8)
    crew.require_settled()


async def test_what_does_not_close_is_cut_off_and_held_until_then() -> None:
    crew = Crew(2)
    one = crew.join("one")
    await crew.wait(1)
    one.closes_slowly_ms = 10**9
    crew.join("two")
    await crew.wait(0.9)
    assert sum(map(len, crew.held().values())) == 1  # one acts no more, two not yet
    await crew.wait(1)
    crew.require_settled()


async def test_two_processes_of_one_name_do_not_both_act() -> None:
    crew = Crew(2)
    one = crew.join("one")
    await crew.wait(1)
    crew.join("one")
    await crew.wait(2)
    assert crew.held() == {"one": set()}
    assert {shard for shard in crew.names if one.shards.tenure(shard)} == set(crew.names)


async def test_one_says_who_owns_what_and_where_it_is() -> None:
    crew = Crew(2)
    one, two = crew.join("one"), crew.join("two")
    await crew.wait(2)
    (own,) = crew.held()["two"]
    assert one.shards.members == two.shards.members == {"one": "at one", "two": "at two"}
    error = one.shards.not_owner(own)
    assert (error.shard, error.leader, error.address) == (own, "two", "at two")
    assert str(error) == (
        f"shard '{own}' is not led here: member 'two' at at two owns it; ask it there"
    )
    assert "nobody owns it now" in str(LeasedShards(crew.store, crew.clock, "x").not_owner(own))


async def test_members_that_died_are_not_remembered_for_ever() -> None:
    crew = Crew(1)
    for k in range(5):
        crew.join(f"m{k}")
        await crew.wait(1)
        crew.die(f"m{k}")
        await crew.wait(2)
    crew.join("last")
    await crew.wait(2)
    crew.require_settled()
    assert (await crew.store.get("members")).value == b'{"last":"at last"}'


async def test_a_list_of_members_that_is_none_is_said_and_moves_nothing() -> None:
    crew = Crew(2)
    one = crew.join("one")
    await crew.wait(1)
    pair = await crew.store.get("members")
    await crew.store.set("members", b"]", pair.revision)
    await crew.wait(2)
    assert one.shards.errors > 0
    assert crew.held() == {"one": set(crew.names)}


@pytest.mark.parametrize(
    "options", [{"ttl_ms": 50}, {"ttl_ms": 1000, "margin_ms": 600}, {"margin_ms": 0}]
)
def test_leases_that_cannot_be_kept_are_refused(options: dict[str, int]) -> None:
    clock = VirtualClock()
    with pytest.raises(ConfigurationError, match="margin"):
        LeasedShards(InMemoryLeases(clock), clock, "one", **options)
    with pytest.raises(ConfigurationError, match="give each process a name"):
        LeasedShards(InMemoryLeases(clock), clock, "")


# --- whatever happens -----------------------------------------------------------------------------

_EVENTS = st.lists(
    st.tuples(
        st.sampled_from(
            ["join", "leave", "die", "still", "go on", "away", "silent", "forgetful", "slow"]
        ),
        st.integers(0, 3),
        st.floats(0.0, 2.0),
    ),
    min_size=2,
    max_size=8,
)


async def _live(events: list[tuple[str, int, float]], shards: int, seed: int) -> Crew:
    crew, names = Crew(shards, seed), iter(range(100))
    crew.join("m0")
    next(names)
    for what, which, times in events:
        there = [crew.members[name] for name in sorted(crew.members)]
        one = there[which % len(there)] if there else None
        if what == "join" and len(there) < 4:
            crew.join(f"m{next(names)}")
        elif one is None:
            continue
        elif what == "leave" and len(there) > 1 and not one.clock.still:
            one.leases.mode = "well"
            await crew.leave(one.name)
        elif what == "die" and len(there) > 1:
            crew.die(one.name)
        elif what == "still":
            one.clock.still = True
        elif what == "go on" and one.clock.still:
            one.clock.go_on()
        elif what in ("away", "silent", "forgetful"):
            one.leases.mode = what
        elif what == "slow":
            one.leases.most_ms = TTL_MS // 8
        await crew.wait(times)
    for member in crew.members.values():
        member.leases.mode, member.leases.most_ms = "well", 0
        if member.clock.still:
            member.clock.go_on()
    await crew.wait(5)
    return crew


@pytest.mark.property
@settings(max_examples=20)
@given(_EVENTS, st.integers(1, 5), st.integers(0, 10**6))
def test_whoever_acts_has_the_lease_and_in_the_end_each_shard_has_one_owner(
    events: list[tuple[str, int, float]], shards: int, seed: int
) -> None:
    async def story() -> None:
        crew = await _live(events, shards, seed)
        crew.require_settled()

    asyncio.run(story())


@pytest.mark.property
@settings(max_examples=8)
@given(st.lists(st.booleans(), min_size=1, max_size=5), st.integers(1, 9), st.integers(0, 99))
def test_one_that_comes_or_goes_moves_the_minimum(
    comes: list[bool], shards: int, seed: int
) -> None:
    async def story() -> None:
        crew = Crew(shards, seed)
        crew.join("m0")
        await crew.wait(1)
        for k, joins in enumerate(comes, 1):
            before, opened = crew.held(), len(crew.opened)
            if joins or len(before) == 1:
                crew.join(f"m{k}")
                most = shards // (len(before) + 1)
                goes = set[str]()
            else:
                name = random.Random(seed + k).choice(sorted(before))
                crew.die(name)
                goes = before[name]
                most = len(goes)
            await crew.wait(2)
            crew.require_settled()
            moved = crew.opened[opened:]
            assert len(moved) == most
            if goes:
                assert {shard for shard, _ in moved} == goes
            else:
                assert {name for _, name in moved} <= {f"m{k}"}

    asyncio.run(story())
