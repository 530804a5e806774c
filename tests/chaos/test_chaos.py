"""Seeded days of misfortune in virtual time, and an independent checker.

``CHAOS_SEEDS`` says how many days (default 12), ``CHAOS_FIRST`` the first seed: a failure names its
seed, and ``CHAOS_FIRST=seed CHAOS_SEEDS=1`` plays it again.
"""

from __future__ import annotations

import asyncio
import os

import pytest

from orchestrator.messages import Submit, WorkerExited
from tests.chaos.checker import violations
from tests.chaos.machines import Span
from tests.chaos.schedule import World

_FIRST = int(os.environ.get("CHAOS_FIRST", "0"))
_SEEDS = int(os.environ.get("CHAOS_SEEDS", "12"))


@pytest.mark.property
@pytest.mark.parametrize("seed", range(_FIRST, _FIRST + _SEEDS))
async def test_nothing_is_lost_and_nothing_runs_twice(seed: int) -> None:
    world = World(seed)
    await world.live()
    found = violations(world)
    assert not found, "\n".join([f"seed {seed}", *found, *world.happened])


# --- the checker can fail ----------------------------------------------------------------------


async def test_workers_that_outlive_their_lease_are_seen_to_run_twice() -> None:
    world = World(1, lease_ms=600_000)
    await world.live()
    assert any("runs twice" in found for found in violations(world))


@pytest.fixture(scope="module")
def calm() -> World:
    world = World(0)
    asyncio.run(world.live())
    assert violations(world) == []
    return world


def test_a_promise_that_the_log_does_not_keep_is_seen(calm: World) -> None:
    kept = calm.log.written
    calm.log.written = [entry for entry in kept if not isinstance(entry.body, Submit)]
    try:
        found = violations(calm)
    finally:
        calm.log.written = kept
    assert len([one for one in found if "is not in the log" in one]) == len(calm.acknowledged)


def test_an_end_that_the_log_does_not_know_is_seen(calm: World) -> None:
    kept = calm.log.written
    calm.log.written = [entry for entry in kept if not isinstance(entry.body, WorkerExited)]
    try:
        found = violations(calm)
    finally:
        calm.log.written = kept
    assert any("the log does not say so" in one for one in found)


@pytest.mark.parametrize(
    ("spans", "said"),
    [
        ([(1, "n0", 0, 10), (1, "n0", 5, 20)], "GPU ('n0', 0) is held twice"),
        ([(1, "n0", 0, None), (2, "n1", 5, 20)], "runs twice"),
        ([(1, "n0", 0, None)], "nobody has ended"),
        ([(9, "n0", 0, 10), (9, "n1", 5, 10)], "began with 1"),
    ],
)
def test_what_machines_must_not_do_is_seen(
    calm: World, spans: list[tuple[int, str, int, int | None]], said: str
) -> None:
    name = next(spec.job_id for spec in calm.acknowledged if not spec.elastic)
    kept = calm.machines.spans
    calm.machines.spans = [
        Span(name, run, node_id, (0,), begin_ms, end_ms) for run, node_id, begin_ms, end_ms in spans
    ]
    try:
        found = violations(calm)
    finally:
        calm.machines.spans = kept
    assert any(said in one for one in found), found
