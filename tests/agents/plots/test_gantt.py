from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from agents.evaluation.play import evaluate_rule
from agents.evaluation.runs import WindowRuns
from agents.plots import gantt
from agents.plots.style import figure_file
from agents.problem import Windows
from envs.config import CLUSTER
from envs.scenario import Scenario
from envs.viewing.lanes import assign_lanes
from orchestrator.kernels.state.codes import QuotaMode
from orchestrator.types import TenantSpec
from tests.envs.scaling_cases import MINUTE_MS, bare_trace


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


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draws a window's chart, and returns its panels."""
    figures = []

    @contextmanager
    def kept(*args, **layout):
        with figure_file(*args, **layout) as (figure, axes):
            figures.append(figure)
            yield figure, axes

    monkeypatch.setattr(gantt, "figure_file", kept)

    def draw(*results, sequence=0):
        gantt.draw_gantt(tmp_path / "gantt.png", results, sequence)
        assert (tmp_path / "gantt.png").read_bytes().startswith(b"\x89PNG")
        return figures[-1].axes

    return draw


def _played(rule, jobs, **fields):
    trace = bare_trace(nodes=1, gpus=2, jobs=jobs)
    config = replace(CLUSTER, episode_jobs=len(jobs), **fields)
    return evaluate_rule(rule, Windows(trace, config, np.array([0])))


@pytest.fixture(scope="module")
def preempted():
    """A job of an hour on both GPUs that makes room twice."""
    wide = {"gpu_milli": 1000, "workers": 2}
    jobs = [
        {"duration_ms": 60 * MINUTE_MS, "preemptible": 1, **wide},
        {"submit_ms": 10 * MINUTE_MS, "duration_ms": 5 * MINUTE_MS, **wide},
        {"submit_ms": 30 * MINUTE_MS, "duration_ms": 5 * MINUTE_MS, **wide},
    ]
    return _played("srtf", jobs)


def _parts(axes):
    """Blocks as (left, right, bottom, top), hours and GPUs; and where the marked ends are."""
    blocks, ends = [], {}
    for collection in axes.collections:
        for path in collection.get_paths():
            (left, low), (right, high) = path.vertices.min(axis=0), path.vertices.max(axis=0)
            if collection.get_label().startswith("_"):
                blocks.append((left, right, low, high))
            else:
                ends.setdefault(collection.get_label(), []).append(right)
    return blocks, ends


def test_every_run_of_a_preempted_job_is_drawn_and_seen_to_end(drawn, preempted):
    panel, waiting, *_ = drawn(preempted)
    blocks, ends = _parts(panel)
    minutes = sorted((round(60 * left), round(60 * right)) for left, right, _, _ in blocks)
    assert minutes == [(0, 10), (10, 15), (15, 30), (30, 35), (35, 70)]
    assert {(low, high) for _, _, low, high in blocks} == {(0, 2)}
    assert set(ends) == {"preempted"}
    assert np.round(60 * np.array(ends["preempted"])).tolist() == [10, 30]
    assert [text.get_text() for text in panel.get_legend().get_texts()] == ["preempted"]
    (line,) = waiting.lines
    times, count = np.round(60 * line.get_xdata()).tolist(), line.get_ydata().tolist()
    assert list(zip(times, count, strict=True)) == [(0, 0), (10, 1), (15, 0), (30, 1), (35, 0)]


def test_colours_are_of_the_slowdown_that_the_metric_has(drawn, preempted):
    panel, *_ = drawn(preempted)
    blocks = panel.collections[0]
    calm = _played("fcfs", [{"duration_ms": 60 * MINUTE_MS, "preemptible": 1}] * 2)
    slow = gantt._slowdowns(preempted.jobs)
    assert slow.tolist() == [70 / 60, 1.0, 1.0]
    assert slow.mean() == pytest.approx(preempted.values["bounded_slowdown"][0])
    assert (gantt._slowdowns(calm.jobs) == 1.0).all()
    assert len(np.unique(blocks.get_facecolors(), axis=0)) == 2


def test_a_resized_job_is_as_high_as_what_it_holds(drawn):
    elastic = {"elastic": 1, "min_workers": 1, "max_workers": 2, "gpu_milli": 1000}
    one = {"submit_ms": 10 * MINUTE_MS, "duration_ms": 5 * MINUTE_MS, "gpu_milli": 1000}
    jobs = [{"duration_ms": 60 * MINUTE_MS, **elastic}, one]
    found = _played("elastic_srtf", jobs, elastics=4)
    assert found.jobs["resizes"][0] > 0
    blocks, ends = _parts(drawn(found)[0])
    area = sum((right - left) * (high - low) for left, right, low, high in blocks)
    held = found.runs.runs["units"] * (found.runs.runs["end_ms"] - found.runs.runs["start_ms"])
    assert area == pytest.approx(held.sum() / 3.6e9)
    assert {high - low for _, _, low, high in blocks} == {1, 2}
    assert ends == {}


def test_a_panel_says_so_where_the_runs_are_not_known(drawn, preempted):
    unknown = replace(preempted, runs=WindowRuns())
    panel, waiting, *_ = drawn(unknown)
    blocks, _ = _parts(panel)
    assert len(blocks) == 3
    assert "last run of each job only" in panel.get_title(loc="left")
    assert "before the first run" in waiting.get_legend().get_texts()[0].get_text()


def test_jobs_that_never_ran_are_not_drawn(drawn):
    """A tenant may hold one GPU, and asks for one, then for two."""
    jobs = [{"gpu_milli": 1000}, {"gpu_milli": 1000, "workers": 2}]
    trace = bare_trace(nodes=1, gpus=2, jobs=jobs)
    scenario = Scenario(tenants=(TenantSpec("tenant-0", quota=1.0),), quota_mode=QuotaMode.HARD)
    windows = Windows(trace, replace(CLUSTER, episode_jobs=2), np.array([0]), scenario)
    found = evaluate_rule("fcfs", windows)
    assert found.jobs["start_ms"].tolist() == [0, -1]
    for runs in (found.runs, WindowRuns()):
        panel, waiting, *_ = drawn(replace(found, runs=runs))
        assert len(_parts(panel)[0]) == 1
        assert waiting.lines[0].get_ydata()[-1] == 1
