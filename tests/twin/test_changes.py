"""What is supposed and then made: replays that stop, the future that really comes, and scores."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from agents.backtest.changes import KINDS, Told, ask_what_if
from agents.backtest.replay import Backtest, loaded, replayed, stops, waiting_times
from agents.backtest.scene import image_of, name_of, spec_of, what_comes
from agents.backtest.score import score_differences
from envs.workloads import load_workload
from orchestrator.engine.records import gpu_models, request_record
from orchestrator.kernels.state.codes import JobCode
from orchestrator.scheduling.rules import rule_named
from orchestrator.twin.answers import Difference
from orchestrator.twin.ask import Twin
from orchestrator.twin.futures import TwinConfig
from orchestrator.twin.play import play
from orchestrator.twin.rehearsal import Rehearsal
from orchestrator.twin.scene.cast import Cast
from orchestrator.twin.supposed import Suppose

TRACE = load_workload("gpu_cluster", jobs=200, seed=5)
WAITING = (JobCode.PENDING, JobCode.PREEMPTED)


@pytest.mark.parametrize("rule", ["fcfs", "fifo", "priority", "sjf"])
def test_the_future_that_is_known_is_what_really_comes(rule: str) -> None:
    """Played from an engine that was made of a replay's row, all ends as the replay does."""
    backtest = Backtest(loaded(TRACE, 3.0), rule, moments=5)
    session, truth = replayed(backtest)
    times = waiting_times(backtest, truth, np.random.default_rng(3))
    seen = 0
    for time_ms, state in zip(times.tolist(), stops(session, rule_named(rule), times), strict=True):
        assert state.rows[0]["now_ms"] == time_ms
        image = image_of(state, backtest.trace)
        here = Rehearsal(image, time_ms)
        played = play(
            here.engine.state, Cast(rule_named(rule)), what_comes(state, image), drained=True
        )
        assert np.array_equal(played.end_ms[0], truth["end_ms"][played.rows])
        codes = state.job[0, played.rows]["state"]
        waits = np.isin(codes, WAITING) & (state.job[0, played.rows]["runs"] == 0)
        first = truth["first_start_ms"][played.rows]
        assert np.array_equal(played.start_ms[0][waits], first[waits])
        seen += int(waits.sum())
    assert seen > 10


def test_moments_are_when_somebody_waits() -> None:
    backtest = Backtest(loaded(TRACE, 3.0), "fcfs", moments=200)
    session, truth = replayed(backtest)
    times = waiting_times(backtest, truth, np.random.default_rng(0))
    session.close()
    submits = backtest.trace.requests["submit_ms"]
    waits = (submits[None] <= times[:, None]) & (times[:, None] < truth["first_start_ms"][None])
    assert len(times) == 200
    assert waits.any(axis=1).all()
    assert (np.diff(times) >= 0).all()
    assert times[0] >= submits[0] + backtest.known * (submits[-1] - submits[0])
    quiet = replace(backtest, trace=loaded(TRACE, 1e-3))
    session, truth = replayed(quiet)
    session.close()
    truth["first_start_ms"] = quiet.trace.requests["submit_ms"]
    assert len(waiting_times(quiet, truth, np.random.default_rng(0))) == 0


def test_a_specification_asks_for_what_the_record_says() -> None:
    models = gpu_models(TRACE.nodes)
    unknown = {"duration_ms", "user", "group", "application", "source_id", "curve"}
    for j, ask in enumerate(TRACE.requests):
        spec = spec_of(ask, name_of(j), TRACE)
        again = request_record(spec, int(ask["submit_ms"]), int(ask["tenant"]), models)[0]
        for field in set(ask.dtype.names) - unknown:
            if field in ("min_workers", "max_workers") and not ask["elastic"]:
                continue
            assert again[field] == ask[field], field
        assert spec.duration_hours is None


def test_changes_are_answered_and_then_made() -> None:
    backtest = Backtest(loaded(TRACE, 3.0), "fifo", moments=2 * len(KINDS), known=0.3)
    told = ask_what_if(backtest, TwinConfig(futures=8, horizon_hours=24.0))
    assert {one.kind for one in told} == set(KINDS)
    assert {one.figure for one in told} >= {"total", "job"}
    again = ask_what_if(backtest, TwinConfig(futures=8, horizon_hours=24.0))
    assert told == again
    for one in told:
        assert one.told.low <= one.told.high
        if one.figure == "job":
            assert one.of.startswith("job-")
        if one.figure == "total" and one.kind == "nodes":
            assert one.true <= 0.0  # under fifo nobody loses by more room


def test_who_knows_all_is_right_about_every_change() -> None:
    """The answer of a twin that is told what comes is exact, and its own truth."""
    backtest = Backtest(loaded(TRACE, 3.0), "fcfs", moments=3)
    session, truth = replayed(backtest)
    times = waiting_times(backtest, truth, np.random.default_rng(1))
    for state in stops(session, rule_named("fcfs"), times):
        image, now_ms = image_of(state, backtest.trace), int(state.rows[0]["now_ms"])
        comes = what_comes(state, image)
        waits = np.flatnonzero(np.isin(state.job[0]["state"], WAITING))
        name = name_of(int(waits[0]))
        told = Twin(image, Cast(rule_named("fcfs")), now_ms, futures=comes).what_if(
            Suppose(cancel=(name,)), most_jobs=1000
        )
        assert told.total is not None
        assert told.total.low == told.total.high == pytest.approx(told.total.mean)
        for job, change in told.jobs.items():
            end_h = (truth["end_ms"][int(job.split("-")[1])] - now_ms) / 3_600_000
            assert change.before == pytest.approx(end_h)


def test_differences_are_scored() -> None:
    def one(moment: int, mean: float, low: float, high: float, true: float) -> Told:
        return Told(moment, "fail", "x", "total", "", Difference(0.0, mean, mean, low, high), true)

    told = [
        one(0, 1.0, 0.5, 2.0, 1.5),  # right, clear, held
        one(0, -1.0, -2.0, 1.0, 0.5),  # wrong, not clear, held
        one(1, 1.0, 0.5, 2.0, -1.0),  # wrong, clear, not held
        one(2, 0.1, 0.0, 0.2, 0.0),  # nothing came of it: held
    ]
    found = score_differences(told)
    assert (found.answers, found.moments, found.changed, found.clear) == (4, 3, 3, 2)
    assert found.signs == pytest.approx(1 / 3)
    assert found.clear_signs == 0.5
    assert found.coverage == 0.75
    assert found.changed_coverage == pytest.approx(2 / 3)
    assert found.coverage_low <= found.coverage <= found.coverage_high
    assert found.error_h == pytest.approx(1.5)
    assert found.size_h == 1.0
    none = score_differences(told[-1:])
    assert np.isnan(none.signs)
    assert none.coverage == 1.0
