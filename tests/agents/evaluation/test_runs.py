"""Every run of the jobs of evaluated windows, whoever played them."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from agents.evaluation import runs as collecting
from agents.evaluation.outcomes import EvaluationResult
from agents.evaluation.play import evaluate_policy, evaluate_rule, evaluate_zoo
from agents.evaluation.report import make_report, print_report, write_report
from agents.evaluation.runs import WindowRuns, joined_runs
from agents.evaluation.suite import Suite, run_suite
from agents.evaluation.tables import RUN_COLUMNS, write_jobs, write_runs
from agents.problem import Problem, Windows
from envs.config import CLUSTER
from envs.scenario import Scenario
from envs.workloads.failures import FailureModel
from orchestrator.kernels.state.codes import QuotaMode
from orchestrator.scheduling.runs import RunEnd
from orchestrator.types import TenantSpec
from tests.agents.evaluation.policies import Scattered
from tests.agents.evaluation.test_play import same
from tests.envs.cases import gpu_trace
from tests.envs.scaling_cases import MINUTE_MS, bare_trace

_STARTS = np.array([0, 60, 120, 180, 240], np.int64)


@pytest.fixture(scope="module")
def windows() -> Windows:
    """Four machines that fail now and then, with more jobs than they can do."""
    config = replace(CLUSTER, episode_jobs=60, victims=4, min_run_seconds=900.0)
    return Windows(gpu_trace(), config, _STARTS, Scenario(FailureModel(rate_scale=100.0)))


def _check(found: EvaluationResult) -> None:
    """The runs say of each job what its line of the per-job table does."""
    runs = found.runs.runs
    places = found.runs.places()
    assert found.runs.known.all()
    assert (np.diff(runs["sequence"]) >= 0).all()
    for sequence in np.unique(found.jobs["sequence"]).tolist():
        mine = runs["sequence"] == sequence
        for k, job in enumerate(found.of_sequence(sequence)):
            at = np.flatnonzero(mine & (runs["job"] == k))
            assert runs["run"][at].max(initial=0) == job["runs"]
            assert (runs["job_id"][at] == job["job_id"]).all()
            preempted, interrupted = (
                (runs["end"][at] == end).sum() for end in (RunEnd.PREEMPTED, RunEnd.INTERRUPTED)
            )
            assert interrupted == job["interruptions"]
            # A node can fail while a job that is preempted is saved.
            assert preempted <= job["preemptions"] <= preempted + interrupted
            if len(at) == 0:
                assert job["start_ms"] == -1
                continue
            assert runs["start_ms"][at[0]] == job["start_ms"]
            assert runs["end_ms"][at[-1]] == job["end_ms"]
            kept = found.nodes[sequence * len(found.of_sequence(sequence)) + k]
            np.testing.assert_array_equal(kept[kept >= 0], places[at[-1]])


def test_rules_policies_and_the_zoo_tell_every_run(windows: Windows) -> None:
    rule = evaluate_rule("srtf", windows)
    _check(rule)
    same(evaluate_zoo("srtf", windows), rule)
    assert rule.values["preemptions"].sum() > 0
    assert rule.values["interruptions"].sum() > 0
    policy = evaluate_policy(Scattered(), windows, rows=2)
    _check(policy)
    same(evaluate_policy(Scattered(), windows, rows=1), policy)
    assert policy.values["preemptions"].sum() > 0
    zoo = evaluate_zoo("gavel_las", windows.first(2))
    _check(zoo)
    assert zoo.jobs["runs"].max() > 2


def test_windows_whose_jobs_are_not_kept_have_no_runs_and_play_alike(windows: Windows) -> None:
    whole = evaluate_policy(Scattered(), windows, rows=2)
    some = evaluate_policy(Scattered(), windows, rows=2, keep_jobs=2)
    none = evaluate_policy(Scattered(), windows, rows=2, keep_jobs=0)
    assert len(none.runs.known) == len(none.runs.runs) == 0
    assert some.runs.known.tolist() == [True, True]
    np.testing.assert_array_equal(some.runs.runs, whole.runs.runs[whole.runs.runs["sequence"] < 2])
    for found in (some, none):
        for name, values in found.values.items():
            np.testing.assert_array_equal(values, whole.values[name])


def test_a_ring_that_is_too_small_grows(windows: Windows, monkeypatch: pytest.MonkeyPatch) -> None:
    rule, zoo = evaluate_rule("srtf", windows), evaluate_zoo("gavel_las", windows.first(2))
    monkeypatch.setattr(collecting, "_PER_JOB", 0)
    monkeypatch.setattr(collecting, "_LEAST", 8)
    same(evaluate_rule("srtf", windows), rule)
    same(evaluate_zoo("gavel_las", windows.first(2)), zoo)


def _crowded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collecting, "_PER_JOB", 0)
    monkeypatch.setattr(collecting, "_LEAST", 8)
    monkeypatch.setattr(collecting, "_MOST_BYTES", 0)


def test_runs_that_found_no_room_are_said_to_be_unknown(
    windows: Windows, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    suite = Suite("crowded", 60, ["srtf", "fcfs"], ["fcfs"], starts=_STARTS[:2].tolist())
    problem = Problem(gpu_trace(), windows.config, scenario=windows.scenario)
    whole = run_suite(suite, problem)
    _crowded(monkeypatch)
    results = run_suite(suite, problem)
    for found, known in zip(results[""], whole[""], strict=True):
        assert found.runs.known.tolist() == [False, False]
        assert len(found.runs.runs) == 0
        assert found.runs.of_sequence(0) is None
        np.testing.assert_array_equal(found.jobs, known.jobs)
        np.testing.assert_array_equal(found.nodes, known.nodes)  # none of them is elastic
    report = make_report(suite, problem, results)
    write_report(report, tmp_path, {})
    assert (tmp_path / "runs.csv").read_text() == ",".join(RUN_COLUMNS) + "\n"
    console = Console(width=80)
    with console.capture() as capture:
        print_report(report, console)
    assert "not in runs.csv (srtf 2, fcfs 2)" in " ".join(capture.get().split())
    assert "not in runs.csv (srtf 2, fcfs 2)" in (tmp_path / "table.md").read_text()


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_the_first_windows_have_their_runs_if_there_is_room_for_some(
    windows: Windows, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    whole = evaluate_policy(Scattered(), windows, rows=rows)
    counts = np.bincount(whole.runs.runs["sequence"])
    monkeypatch.setattr(collecting, "_MOST_RUNS", int(counts[:4].sum() - 1))
    some = evaluate_policy(Scattered(), windows, rows=rows)
    assert some.runs.known.tolist() == [True, True, True, False, False]
    assert (some.runs.runs == whole.runs.runs[: counts[:3].sum()]).all()
    alone = [_alone(whole, window) for window in range(5)]
    assert joined_runs(alone).known.tolist() == some.runs.known.tolist()


def _alone(found: EvaluationResult, window: int) -> WindowRuns:
    mine = found.runs.runs["sequence"] == window
    nodes = np.concatenate([x for x, so in zip(found.runs.places(), mine, strict=True) if so])
    return WindowRuns(found.runs.runs[mine], nodes, np.ones(1, np.bool_))


# --- files


def _rows(path: Path) -> Sequence[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_runs_csv_to_the_letter(tmp_path: Path) -> None:
    saved = {"checkpoint_ms": MINUTE_MS, "restart_ms": 2 * MINUTE_MS, "preemptible": 1}
    short = {"duration_ms": 5 * MINUTE_MS, "gpu_milli": 1000, "workers": 1}
    jobs = [
        {"duration_ms": 60 * MINUTE_MS, "source_id": 7, **saved},
        {"submit_ms": 10 * MINUTE_MS, "source_id": 8, **short},
        {"submit_ms": 30 * MINUTE_MS + 500, "source_id": 9, **short},
    ]
    config = replace(CLUSTER, episode_jobs=3)
    trace = bare_trace(nodes=1, gpus=1, jobs=jobs)
    found = evaluate_rule("srtf", Windows(trace, config, np.array([0])))
    write_runs(tmp_path / "runs.csv", [found])
    assert (tmp_path / "runs.csv").read_text() == (
        "policy,sequence,job_id,run,start,end,ended,workers,capacity,nodes\n"
        "srtf,0,7,1,0,660,preempted,1,1,n0\n"
        "srtf,0,7,2,960,1860.5,preempted,1,1,n0\n"
        "srtf,0,7,3,2160.5,4560,completed,1,1,n0\n"
        "srtf,0,8,1,660,960,completed,1,1,n0\n"
        "srtf,0,9,1,1860.5,2160.5,completed,1,1,n0\n"
    )
    write_jobs(tmp_path / "jobs.csv", [found])
    assert (tmp_path / "jobs.csv").read_text().splitlines()[1] == "srtf,0,7,0,0,4560,n0,2,3,0,0,0"


def test_jobs_that_never_ran_have_no_start_no_end_and_no_nodes(tmp_path: Path) -> None:
    trace = gpu_trace()
    quotas = tuple(TenantSpec(name, quota=1.0) for name in trace.tenants)
    scenario = Scenario(tenants=quotas, quota_mode=QuotaMode.HARD)
    config = replace(CLUSTER, episode_jobs=60)
    found = evaluate_rule("fcfs", Windows(trace, config, _STARTS[:1], scenario))
    never = found.jobs["start_ms"] < 0
    assert never.sum() == found.values["unfinished"][0] > 0
    _check(found)
    write_jobs(tmp_path / "jobs.csv", [found])
    for row, so in zip(_rows(tmp_path / "jobs.csv"), never.tolist(), strict=True):
        empty = [row[name] == "" for name in ("start", "end", "nodes")]
        assert empty == [so, so, so]
        assert row["runs"] == ("0" if so else "1")
