"""Futures played: starts and ends of forks against the row itself; what Slurm tells; backtests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from agents.backtest.replay import Backtest, ask_on_the_way, loaded, replayed, stops
from agents.backtest.run import BacktestRun, Cell, run_backtest
from agents.backtest.score import calibration, score
from envs.workloads import load_workload
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.state.codes import NEVER
from orchestrator.scheduling.rules import rule_named
from orchestrator.twin.answers import band_of, difference_of
from orchestrator.twin.futures import Futures, TwinConfig
from orchestrator.twin.past import past_of
from orchestrator.twin.play import play
from orchestrator.twin.scene.cast import Cast

FEW = TwinConfig(futures=10, horizon_hours=24.0)
TRACE = load_workload("gpu_cluster", jobs=300, seed=5)


@pytest.mark.parametrize("rule", ["fcfs", "fifo", "priority"])
def test_with_exact_estimates_and_nobody_to_come_every_start_is_exact(rule: str) -> None:
    """Only one comes late, for a millisecond, and who works how long is known."""
    asks = TRACE.requests.copy()
    asks["requested_ms"], asks["priority"], asks["preemptible"] = asks["duration_ms"], 2, 1
    asks["elastic"] = 0
    asks["submit_ms"] = np.arange(len(asks))  # all have come before it is asked
    asks["submit_ms"][-1] = 10 * len(asks)
    asks["duration_ms"][-1] = asks["requested_ms"][-1] = 1
    trace = loaded(replace(TRACE, requests=asks), 1e9)
    backtest = Backtest(trace, rule, moments=4, known=0.9, asked=50, ends=True)
    answers = ask_on_the_way(backtest, TwinConfig(futures=2, arrivals=False))
    assert len(answers) > 10, len(trace.nodes)
    assert set(answers["kind"]) == {0, 1}
    assert np.abs(answers["reserved_ms"] - answers["true_ms"]).max() <= 1


def _played(backtest: Backtest, times: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Ends in futures that are played at some times of a replay."""
    session, _ = replayed(backtest)
    rule = rule_named(backtest.rule)
    found = [
        play(s, Cast(rule), Futures(past_of(s), FEW), drained=True).end_ms
        for s in stops(session, rule, times)
    ]
    session.close()
    return found


def test_answers_know_the_past_only_and_are_scored(tmp_path) -> None:
    from rich.console import Console

    cell = Cell("made", None, "fcfs", load=1.5)
    asked = ("starts", "ends", "changes")
    run = BacktestRun({"made": TRACE}, {"one": cell}, FEW, moments=7, questions=asked)
    backtest = run.backtest(cell)
    later = backtest.trace.requests.copy()
    later["duration_ms"][-40:] *= 7  # nobody knows how long those will work who come last
    other = replace(backtest, trace=replace(backtest.trace, requests=later))
    times = later["submit_ms"][[150, 200]] + 1
    told = [_played(one, times) for one in (backtest, other)]
    assert (told[0][0] < NEVER).any()
    assert all(map(np.array_equal, *told))
    answers = ask_on_the_way(backtest, run.twin)
    assert (np.diff(answers["quantiles_ms"], axis=1) >= 0).all()
    found = run_backtest(run, tmp_path, Console(quiet=True))
    assert found.starts()["all"].answers == (answers["kind"] == 0).sum()
    assert {path.name for path in tmp_path.iterdir()} >= {
        *("table.md", "answers.csv", "changes.csv", "calibration.png", "changes.png", "result.json")
    }


def test_scores_are_what_they_are_called() -> None:
    answers = ask_on_the_way(Backtest(loaded(TRACE, 1.5), moments=6), FEW)[:2].copy()
    hour = 3_600_000
    answers["now_ms"], answers["moment"], answers["reserved_ms"] = 0, [0, 1], NEVER
    answers["quantiles_ms"] = np.arange(1, 6) * hour
    answers["true_ms"] = [4 * hour, 9 * hour]
    found = score(answers)
    assert found.coverage == 0.5
    assert found.error_h == pytest.approx(3.5)
    levels = np.array([0.1, 0.25, 0.5, 0.75, 0.9])
    gaps = np.array([[3, 2, 1, 0, -1], [8, 7, 6, 5, 4]], float)
    expected = np.maximum(levels * gaps, (levels - 1) * gaps).mean()
    assert found.pinball_h == pytest.approx(expected)
    assert calibration(answers).tolist() == [0.0, 0.0, 0.0, 0.5, 0.5]


def test_bands_and_differences_take_never_for_what_it_is() -> None:
    times = np.array([10, 20, NEVER, 40, 30])
    band = band_of(times)
    assert band is not None
    assert (band.p10, band.p50, band.p90, band.never) == (10, 30, None, 0.2)
    assert band_of(np.array([NEVER, NEVER])) is None
    told = difference_of(np.array([1.0, 2.0, np.inf]), np.array([0.5, 1.0, 1.0]))
    assert told is not None
    assert (told.before, told.after, told.mean) == (1.5, 0.75, -0.75)
    assert difference_of(np.array([np.inf]), np.array([1.0])) is None


def test_a_backtest_that_asks_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'known' is"):
        Backtest(TRACE, known=1.0)
    with pytest.raises(ConfigurationError, match="names workload 'x'; known: made"):
        BacktestRun({"made": TRACE}, {"one": Cell("x")}, TwinConfig())
