"""Elastic jobs in the engine: effects of resizes and moves, accounts that follow them."""

from __future__ import annotations

from typing import Any

from orchestrator import ClusterShape
from orchestrator.engine.engine import Engine
from orchestrator.kernels.state.codes import Placement, Reason
from orchestrator.messages import (
    Decide,
    Entry,
    MigrateJob,
    PlaceJob,
    Plan,
    PreemptJob,
    Register,
    RegroupJob,
    ResizeJob,
    Scale,
    StartJob,
    StopJob,
    Submit,
    WorkerExited,
    WorkersLost,
)
from orchestrator.types import JobSpec, NodeSpec
from tests.engine.builders import MINUTE_MS, job, node

_SHAPE = ClusterShape(envs=1, jobs=4, workers=4, nodes=4, devices=4)


def _elastic(job_id: str, **fields: Any) -> JobSpec:
    values = {"num_workers": 2, "elastic": True, "min_workers": 1, "max_workers": 4}
    return job(job_id, **(values | fields))


def _engine(*nodes: NodeSpec, jobs: tuple[JobSpec, ...] = ()) -> Engine:
    engine = Engine(_SHAPE, nodes=nodes, check=True)
    for spec in jobs:
        engine.handle(Entry(0, Submit(spec)))
    return engine


def test_a_scaled_job_is_regrouped_in_the_same_run() -> None:
    engine = _engine(node("n0"), jobs=(_elastic("a"),))
    assert isinstance(engine.commit(PlaceJob("a")).effects[0], StartJob)
    outcome = engine.handle(Entry(10 * MINUTE_MS, Scale("a", 4)))
    (regroup,) = outcome.effects
    assert isinstance(regroup, RegroupJob)
    assert (regroup.run, regroup.speed_milli, regroup.moved) == (1, 2000, False)
    assert regroup.progress_ms == 10 * MINUTE_MS
    assert regroup.resume_ms == 10 * MINUTE_MS  # regrouping is free
    assert [place.gpus for place in regroup.workers] == [(0,), (1,), (2,), (3,)]
    assert engine.workers_of("a") == regroup.workers


def test_a_plan_resizes_a_job_twice_and_preempts_it() -> None:
    engine = _engine(node("n0"), jobs=(_elastic("a", checkpoint_seconds=0.0),))
    actions = (PlaceJob("a"), ResizeJob("a", 4), ResizeJob("a", 1), PreemptJob("a"))
    outcome = engine.handle(Entry(1000, Decide(Plan(actions))))
    assert outcome.reason == Reason.OK
    start, grown, shrunk, stop = outcome.effects
    assert isinstance(start, StartJob)
    assert isinstance(grown, RegroupJob)
    assert isinstance(shrunk, RegroupJob)
    assert isinstance(stop, StopJob)
    assert [len(effect.workers) for effect in (start, grown, shrunk)] == [2, 4, 1]
    assert (stop.progress_ms, stop.save) == (0, True)
    assert engine.workers_of("a") == ()


def test_a_plan_that_ends_illegally_resizes_nobody() -> None:
    engine = _engine(node("n0"), jobs=(_elastic("a"),))
    engine.commit(PlaceJob("a"))
    before = engine.log_hash
    outcome = engine.handle(Entry(0, Decide(Plan((ResizeJob("a", 4), ResizeJob("a", 5))))))
    assert (outcome.reason, outcome.effects) == (Reason.SIZE_BOUNDS, ())
    assert engine.log_hash == before


def test_a_moved_job_says_so_once() -> None:
    engine = _engine(node("n0", 2), node("n1", 4), jobs=(job("small"), _elastic("a")))
    engine.commit(PlaceJob("small", Placement.FIRST_FIT))
    engine.commit(PlaceJob("a", Placement.FIRST_FIT))
    assert {place.node_id for place in engine.workers_of("a")} == {"n0", "n1"}
    outcome = engine.handle(Entry(MINUTE_MS, Decide(Plan((MigrateJob("a"),)))))
    (moved,) = outcome.effects
    assert isinstance(moved, RegroupJob)
    assert moved.moved
    assert {place.node_id for place in moved.workers} == {"n1"}
    assert moved.resume_ms == MINUTE_MS + 25_000  # saved in 5 s, started again in 20 s
    (grown,) = engine.handle(Entry(2 * MINUTE_MS, Scale("a", 3))).effects
    assert isinstance(grown, RegroupJob)
    assert not grown.moved


def test_lost_workers_of_a_grown_job_cost_less_than_an_interval() -> None:
    engine = _engine(node("n0"), jobs=(_elastic("a"),))
    engine.commit(PlaceJob("a"))
    engine.handle(Entry(4 * MINUTE_MS, Scale("a", 4)))
    (stop,) = engine.handle(Entry(9 * MINUTE_MS, WorkersLost("a", 1))).effects
    assert isinstance(stop, StopJob)
    # Four minutes, and five at twice the speed; saved every ten minutes of work.
    assert (stop.progress_ms, stop.lost_ms) == (10 * MINUTE_MS, 4 * MINUTE_MS)


def test_the_capacity_unit_changes_under_a_resized_job() -> None:
    ask = _elastic("a", gpus_per_worker=0, cpus_per_worker=2.0)
    engine = _engine(node("n0", 0), jobs=(ask,))
    engine.commit(PlaceJob("a"))
    engine.handle(Entry(1000, Scale("a", 4)))
    assert engine.state.job[0, 0]["units"] == 8000
    engine.handle(Entry(2000, Register(node("n1", 4))))
    assert engine.state.job[0, 0]["units"] == 0  # capacity is counted in GPUs now
    engine.handle(Entry(3000, Scale("a", 1)))
    assert len(engine.workers_of("a")) == 1


def test_a_forgotten_job_takes_its_resizes_along() -> None:
    engine = _engine(node("n0"), jobs=tuple(_elastic(f"j{k}") for k in range(4)))
    engine.commit(PlaceJob("j0"))
    engine.handle(Entry(1000, Scale("j0", 3)))
    engine.handle(Entry(2000, WorkerExited("j0", 1)))
    assert engine.handle(Entry(3000, Submit(job("late")))).forgotten == "j0"
    assert engine.row["resizes"] == 0
    assert engine.jobs.count("resizes") == 1
