from __future__ import annotations

from dataclasses import replace

import numpy as np

from agents.evaluation.report import make_report
from agents.evaluation.series import rule_series
from agents.evaluation.suite import Suite, run_suite
from agents.plots.results import draw_comparison, draw_outcomes, draw_pictures
from agents.plots.series import draw_series
from agents.problem import Problem, Windows
from tests.agents.evaluation.policies import LastLegal

PNG = b"\x89PNG"


def test_pictures_are_written(trace, config, tmp_path):
    suite = Suite("small", 64, rules=["fcfs", "sjf"], baselines=["sjf", "fcfs"], windows=5)
    problem = Problem(trace, config)
    report = make_report(suite, problem, run_suite(suite, problem, [LastLegal()]))
    history = [{"seconds": 10.0 * i, "validation": 100.0 / (i + 1)} for i in range(5)]
    draw_pictures(tmp_path, report, history, "a run")
    names = {"learning_curve.png", "comparison.png", "gantt.png"}
    assert {path.name for path in tmp_path.iterdir()} == names
    for path in tmp_path.iterdir():
        assert path.read_bytes().startswith(PNG)


def test_pictures_of_many_metrics_and_of_a_window(trace, config, starts, tmp_path):
    columns = ["wait", "utilisation", "preemptions", "finish_time_fairness", "violations"]
    suite = Suite("small", 64, ["fcfs", "sjf", "f1"], ["sjf"], starts=starts, columns=columns)
    problem = Problem(trace, config)
    report = make_report(suite, problem, run_suite(suite, problem))
    assert "violations" not in report.metrics
    draw_outcomes(tmp_path / "outcomes.png", report)
    draw_comparison(tmp_path / "comparison.png", report)
    series = [rule_series(rule, Windows(trace, config, starts), 1, 20) for rule in ("fcfs", "sjf")]
    assert "offered" not in series[0].values
    draw_series(tmp_path / "calm.png", series)
    requests = {name: np.ones(20) for name in ("offered", "served", "violated")}
    served = [replace(one, values={**one.values, **requests}) for one in series]
    draw_series(tmp_path / "services.png", served, "with services")
    sizes = {path.stem: path.stat().st_size for path in tmp_path.iterdir()}
    assert set(sizes) == {"outcomes", "comparison", "calm", "services"}
    assert sizes["services"] > sizes["calm"], "a row of panels more"
