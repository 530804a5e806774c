"""Seeded days of misfortune in virtual time, and an independent checker.

``CHAOS_SEEDS`` says how many days (default 25), ``CHAOS_FIRST`` the first seed: a failure names its
seed, and ``CHAOS_FIRST=seed CHAOS_SEEDS=1`` plays it again.
"""

from __future__ import annotations

import os

import pytest

from tests.chaos.checker import violations
from tests.chaos.schedule import World

_FIRST = int(os.environ.get("CHAOS_FIRST", "0"))
_SEEDS = int(os.environ.get("CHAOS_SEEDS", "25"))


@pytest.mark.property
@pytest.mark.parametrize("seed", range(_FIRST, _FIRST + _SEEDS))
async def test_nothing_is_lost_and_nothing_runs_twice(seed: int) -> None:
    world = World(seed)
    await world.live()
    found = violations(world)
    assert not found, "\n".join([f"seed {seed}", *found, *world.happened])
