from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from agents.evaluation import Suite, make_report, run_suite
from agents.evaluation.series import rule_series
from agents.plots import assign_lanes, draw_comparison, draw_outcomes, draw_pictures, draw_series
from tests.evaluation.policies import LastLegal

PNG = b"\x89PNG"


@pytest.mark.parametrize("seed", range(5))
def test_no_two_jobs_share_a_lane(seed):
    rng = np.random.default_rng(seed)
    lanes, now, free = 16, 0, 16
    running: list[tuple[int, int]] = []
    start, end, size = [], [], []
    for _ in range(200):
        demand, length = int(rng.integers(1, 9)), int(rng.integers(1, 30))
        now += int(rng.integers(0, 4))
        while free < demand or (running and min(running)[0] <= now):
            running.sort()
            over, released = running.pop(0)
            now, free = max(now, over), free + released
        running.append((now + length, demand))
        free -= demand
        start.append(now)
        end.append(now + length)
        size.append(demand)
    start, end, size = (np.array(column) for column in (start, end, size))
    used = np.zeros((lanes, end.max()), np.int64)
    for j, runs in enumerate(assign_lanes(start, end, size, lanes)):
        assert sum(count for _, count in runs) == size[j]
        for first, count in runs:
            used[first : first + count, start[j] : end[j]] += 1
    assert used.max() == 1


def test_a_gap_that_fits_is_preferred():
    start, end = np.array([0, 0, 0, 5, 6]), np.array([9, 5, 9, 9, 9])
    size = np.array([4, 3, 1, 2, 2])
    placed = assign_lanes(start, end, size, 10)
    assert placed[3] == [(8, 2)]
    assert placed[4] == [(4, 2)]


def test_pictures_are_written(trace, config, tmp_path):
    suite = Suite("small", 64, rules=["fcfs", "sjf"], baselines=["sjf", "fcfs"], windows=5)
    report = make_report(suite, trace, config, run_suite(suite, trace, config, [LastLegal()]))
    history = [{"seconds": 10.0 * i, "validation": 100.0 / (i + 1)} for i in range(5)]
    draw_pictures(tmp_path, report, history, "a run")
    names = {"learning_curve.png", "comparison.png", "gantt.png"}
    assert {path.name for path in tmp_path.iterdir()} == names
    for path in tmp_path.iterdir():
        assert path.read_bytes().startswith(PNG)


def test_pictures_of_many_metrics_and_of_a_window(trace, config, starts, tmp_path):
    columns = ["wait", "utilisation", "preemptions", "finish_time_fairness", "violations"]
    suite = Suite("small", 64, ["fcfs", "sjf", "f1"], ["sjf"], starts=starts, columns=columns)
    report = make_report(suite, trace, config, run_suite(suite, trace, config))
    assert "violations" not in report.metrics
    draw_outcomes(tmp_path / "outcomes.png", report)
    draw_comparison(tmp_path / "comparison.png", report)
    series = [rule_series(rule, trace, config, starts, 1, 20) for rule in ("fcfs", "sjf")]
    assert "offered" not in series[0].values
    draw_series(tmp_path / "calm.png", series)
    requests = {name: np.ones(20) for name in ("offered", "served", "violated")}
    served = [replace(one, values={**one.values, **requests}) for one in series]
    draw_series(tmp_path / "services.png", served, "with services")
    sizes = {path.stem: path.stat().st_size for path in tmp_path.iterdir()}
    assert set(sizes) == {"outcomes", "comparison", "calm", "services"}
    assert sizes["services"] > sizes["calm"], "a row of panels more"
