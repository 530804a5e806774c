"""Effects as records: what is kept of them, for whom, and that nothing else depends on it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given

from orchestrator import ClusterShape
from orchestrator.engine.engine import Engine
from orchestrator.errors import InvariantError
from orchestrator.kernels.state.records import TABLES
from orchestrator.messages import (
    Action,
    Decide,
    Entry,
    PlaceJob,
    Plan,
    PreemptJob,
    RegroupJob,
    ResizeJob,
    StartJob,
    StopJob,
    StopReason,
    Submit,
    WorkersLost,
)
from tests.engine.builders import MINUTE_MS, job, node
from tests.engine.cases import SHAPE, Case, cases
from tests.engine.drivers import play_row

_SHAPE = ClusterShape(envs=1, jobs=4, workers=4, nodes=4, devices=4)


def _engine() -> Engine:
    engine = Engine(_SHAPE, nodes=(node("n0"),), check=True)
    bounds = {"num_workers": 2, "elastic": True, "min_workers": 1, "max_workers": 4}
    engine.handle(Entry(0, Submit(job("a", checkpoint_seconds=0.0, **bounds))))
    return engine


@pytest.mark.property
@given(case=cases(commitment=False))
def test_a_row_lives_the_same_life_without_a_ring(case: Case) -> None:
    assume(case.jobs)
    bare, kept = play_row(case), play_row(case, replace(SHAPE, effects=3))
    assert bare.rows[0]["effect_count"] == 0
    assert kept.rows[0]["effect_count"] >= kept.job["runs"].sum()
    for name, _ in bare.rows.dtype.descr:
        if not name.endswith("_at") and name not in ("effect_count", "max_effects", ""):
            assert bare.rows[0][name] == kept.rows[0][name], name
    for name in set(TABLES) - {"effect", "effect_worker"}:
        np.testing.assert_array_equal(getattr(bare, name), getattr(kept, name), name)


def test_a_plan_of_any_length_is_told_whole() -> None:
    engine = _engine()
    turns: tuple[Action, ...] = (PreemptJob("a"), PlaceJob("a"))
    sizes: tuple[Action, ...] = (PlaceJob("a"),)
    for workers in [3, 4, 1] * 20:
        sizes += (ResizeJob("a", workers),)
    start, *regroups = engine.handle(Entry(0, Decide(Plan(sizes)))).effects
    assert isinstance(start, StartJob)
    assert all(isinstance(effect, RegroupJob) for effect in regroups)
    assert [len(effect.workers) for effect in regroups if isinstance(effect, RegroupJob)] == (
        [3, 4, 1] * 20
    )
    assert len(sizes) > engine.shape.effects, "this plan fits into the ring"
    (stop,) = engine.handle(Entry(MINUTE_MS, Decide(Plan(turns[:1])))).effects
    assert stop == StopJob("a", 1, StopReason.PREEMPTED, MINUTE_MS // 2, save=True)


def test_what_is_tried_out_is_told_to_nobody() -> None:
    engine = _engine()
    engine.commit(PlaceJob("a"))
    refused = engine.handle(Entry(0, Decide(Plan((ResizeJob("a", 4), ResizeJob("a", 5))))))
    assert refused.effects == ()
    assert engine.snapshot().state.effect.size == 1
    (stop,) = engine.handle(Entry(MINUTE_MS, WorkersLost("a", 1))).effects
    assert stop == StopJob("a", 1, StopReason.INTERRUPTED, 0, lost_ms=MINUTE_MS)


def test_effects_that_are_lost_are_an_error() -> None:
    engine = _engine()
    engine.state.rows["effect_count"] += engine.shape.effects
    with pytest.raises(InvariantError, match="1 effects were overwritten before they were read"):
        engine.commit(PlaceJob("a"))
