"""Killed anywhere, an orchestrator is carried on by the next one as if nothing had happened.

Random days with preemptions, failures, drains and lost workers are cut after every entry, before
and after every effect. A thousand cuts take some minutes::

    RESTART_SEEDS=12 RESTART_STRIDE=1 pytest -s tests/live/test_restart.py -k cut
"""

from __future__ import annotations

import os

import pytest

from tests.live.restarts import World, draw_day

_SEEDS = int(os.environ.get("RESTART_SEEDS", "2"))
_STRIDE = int(os.environ.get("RESTART_STRIDE", "37"))


async def _live(seed: int, *ends: int, capacity: int = 1_000_000) -> World:
    world = World(*ends, capacity=capacity)
    await world.live_through(draw_day(seed))
    return world


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
        assert world.states() == whole.states(), f"cut at {end}"
        assert world.carried_out() == whole.carried_out(), f"cut at {end}"
        assert world.workers.starts == whole.workers.starts, f"cut at {end}: twice, or not at all"
        assert world.cluster.engine.log_hash == whole.cluster.engine.log_hash, f"cut at {end}"
    print(f"seed {seed}: {len(cuts)} cuts of {whole.fate.passed}")
