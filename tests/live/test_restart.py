"""Killed anywhere, an orchestrator is carried on by the next one as if nothing had happened.

Random days with preemptions, failures, drains and lost workers are cut before and after every entry
and every effect. A thousand cuts take about ten minutes::

    RESTART_SEEDS=12 RESTART_STRIDE=5 RESTART_CHECK=0 pytest -s tests/live/test_restart.py -k cut
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from tests.engine.builders import MINUTE_MS
from tests.live.restarts import FileLog, World, draw_day

_SEEDS = int(os.environ.get("RESTART_SEEDS", "2"))
_STRIDE = int(os.environ.get("RESTART_STRIDE", "61"))
_CHECK = os.environ.get("RESTART_CHECK", "1") != "0"


async def _live(seed: int, *ends: int, capacity: int = 1_000_000, down_ms: int = 0) -> World:
    world = World(*ends, capacity=capacity, down_ms=down_ms, check=_CHECK)
    await world.live_through(draw_day(seed))
    return world


def _require_same(world: World, whole: World, where: str) -> None:
    """The same was carried out, once, and the same state came of it."""
    assert world.states() == whole.states(), where
    assert world.carried_out() == whole.carried_out(), where
    assert world.workers.starts == whole.workers.starts, f"{where}: twice, or not at all"
    assert world.cluster.engine.log_hash == whole.cluster.engine.log_hash, where


@pytest.mark.property
@pytest.mark.parametrize("seed", range(_SEEDS))
async def test_a_cut_anywhere_changes_nothing(seed: int) -> None:
    whole = await _live(seed)
    assert set(whole.states().values()) <= {"completed", "failed"}
    assert whole.fate.passed > 100
    cuts = range(1 + seed % _STRIDE, whole.fate.passed + 1, _STRIDE)
    for end in cuts:
        world = await _live(seed, end)
        assert world.fate.deaths == 1
        _require_same(world, whole, f"seed {seed}, cut at {end}")
    print(f"seed {seed}: {len(cuts)} cuts of {whole.fate.passed}", flush=True)


@pytest.mark.property
@pytest.mark.parametrize("capacity", [1_000_000, 9])
@pytest.mark.parametrize("seed", [3, 4])
async def test_many_cuts_change_nothing_and_a_cut_log_neither(seed: int, capacity: int) -> None:
    whole = await _live(seed)
    rng = np.random.default_rng(seed)
    ends = sorted(int(end) for end in rng.choice(np.arange(1, 400), 12, replace=False))
    world = await _live(seed, *ends, capacity=capacity)
    assert world.fate.deaths == len(ends)
    assert len(world.log) <= capacity
    _require_same(world, whole, f"seed {seed}, cuts at {ends}")


@pytest.mark.property
@pytest.mark.parametrize("capacity", [1_000_000, 20])
async def test_cuts_change_nothing_where_the_log_is_a_file(capacity: int, tmp_path: Path) -> None:
    whole = await _live(4)
    rng = np.random.default_rng(capacity)
    ends = sorted(int(end) for end in rng.choice(np.arange(1, 400), 8, replace=False))
    world = World(*ends, capacity=capacity, check=_CHECK, path=tmp_path / "log")
    await world.live_through(draw_day(4))
    assert world.fate.deaths == len(ends)
    _require_same(world, whole, f"cuts at {ends}")
    world.begin()  # once more, from what the disk holds
    assert world.cluster.engine.log_hash == whole.cluster.engine.log_hash
    assert world.states() == whole.states()
    assert isinstance(world.log, FileLog)
    world.log.close()


@pytest.mark.property
@pytest.mark.parametrize("seed", range(5, 9))
async def test_what_happens_while_nobody_is_there_is_heard_of_later(seed: int) -> None:
    rng = np.random.default_rng(seed)
    ends = [int(end) for end in rng.choice(np.arange(1, 300), 4, replace=False)]
    world = await _live(seed, *ends, down_ms=int(rng.integers(1, 30 * MINUTE_MS)))
    assert world.fate.deaths == len(ends)
    assert set(world.states().values()) <= {"completed", "failed"}
    assert set(world.workers.starts.values()) == {1}, "a run was started twice"
    runs = {name: world.cluster.engine.runs_of(name) for name in world.states()}
    assert set(world.workers.starts) == {(j, r + 1) for j, n in runs.items() for r in range(n)}
    assert not world.workers.observe()
