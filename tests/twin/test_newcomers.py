"""Jobs that nobody has submitted yet, and gangs that moves let in: asked on the way of a replay."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from agents.backtest.moves import ask_for_moves
from agents.backtest.newcomers import ask_about_newcomers
from agents.backtest.replay import ASKED_OF, Backtest, loaded, replayed
from agents.backtest.report import Findings, write_report
from agents.backtest.run import BacktestRun, Cell
from envs.workloads import Trace, load_workload
from orchestrator.engine.records import request_record
from orchestrator.errors import ConfigurationError
from orchestrator.twin.futures import TwinConfig
from tests.engine.builders import HOUR_MS, job, node

FEW = TwinConfig(futures=8, horizon_hours=24.0)
TRACE = load_workload("gpu_cluster", jobs=200, seed=5)


def test_the_wait_of_a_job_is_told_by_what_was_before_it() -> None:
    backtest = Backtest(loaded(TRACE, 3.0), "fcfs", moments=8, known=0.5)
    told = ask_about_newcomers(backtest, FEW)
    session, truth = replayed(backtest)
    session.close()
    submits = backtest.trace.requests["submit_ms"][told["job"]]
    waited = truth["first_start_ms"][told["job"]] - submits
    assert (told["kind"] == ASKED_OF.index("new job")).all()
    assert np.array_equal(told["now_ms"], submits - 1)
    assert np.array_equal(told["true_ms"] - told["now_ms"], waited)
    assert (np.diff(told["quantiles_ms"], axis=1) >= 0).all()
    assert (told["quantiles_ms"][:, 0] >= told["now_ms"]).all()
    assert (waited > 0).any()
    first = int(told["job"][0])
    later = backtest.trace.requests.copy()
    later["duration_ms"][first:] *= 7  # nobody knows how long it, and those after it, will work
    other = replace(backtest, trace=replace(backtest.trace, requests=later))
    again = ask_about_newcomers(other, FEW)
    for name in ("job", "now_ms", "quantiles_ms", "reserved_ms"):
        assert np.array_equal(told[name][0], again[name][0]), name


def scattered(stay_h: float) -> Trace:
    """One GPU of either node is held by a small job; a gang of four waits from hour 2 on."""
    large = {"gpus_per_worker": 3, "max_duration_hours": 1.0}
    small = {"max_duration_hours": stay_h, "topology_aware": False}
    specs = [
        (0, job("l0", **large)),
        (1, job("s0", **small)),
        (2, job("l1", **large)),
        (3, job("s1", **small)),
        (2 * HOUR_MS, job("it", gpus_per_worker=4)),
        (10 * HOUR_MS, job("last")),
    ]
    asks = np.concatenate([request_record(spec, submit, 0) for submit, spec in specs])
    return Trace("scattered", asks, ("default",), (node("a"), node("b")))


def test_moves_that_are_offered_let_the_gang_in_at_once(tmp_path) -> None:
    backtest = Backtest(scattered(50.0), "fcfs", moments=3, known=0.1)
    asked = ask_for_moves(backtest, FEW)
    assert [one.job for one in asked] == ["job-4"] * 3
    for one in asked:
        assert (one.gpus, one.room) == (4, True)
        assert one.made is not None
        assert (one.made.moves, one.made.at_once, one.made.costs_gpu_s) == (1, True, 25.0)
        assert one.made.saved_h > 39.0
        assert one.made.lost_h == pytest.approx(25 / 3600, abs=1e-3)
        assert one.made.total_h < 0.0
    write_report(Findings(moves={"one": asked}), tmp_path)
    assert "| one | 3 | 3 | 3 | 3 | 0 | 1.00 | 25 |" in (tmp_path / "table.md").read_text()
    assert (tmp_path / "moves.csv").exists()


def test_where_no_move_helps_none_is_offered() -> None:
    asks = scattered(50.0).requests.copy()
    asks["preemptible"] = 0  # nobody may be moved
    trace = replace(scattered(50.0), requests=asks)
    asked = ask_for_moves(Backtest(trace, "fcfs", moments=2, known=0.1), FEW)
    assert [one.made for one in asked] == [None, None]


def test_cells_ask_what_they_say() -> None:
    cell = Cell("made", rule="fcfs", load=1.5, questions=["moves"], costs=True)
    run = BacktestRun({"made": TRACE}, {"one": cell}, FEW, questions=("starts", "ends"))
    assert list(run.questions_of(cell)) == ["moves"]
    assert not run.backtest(cell).ends
    assert (run.backtest(cell).trace.requests["restart_ms"] > 0).any()
    with pytest.raises(ConfigurationError, match="question 'why'; choose from starts, ends, newc"):
        BacktestRun({"made": TRACE}, {"one": Cell("made")}, FEW, questions=("why",))
