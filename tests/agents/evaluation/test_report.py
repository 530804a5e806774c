from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from agents.bundle import EvaluationCard
from agents.evaluation.report import (
    SCHEMA_VERSION,
    card_tables,
    make_report,
    print_report,
    training_card,
    write_report,
)
from agents.evaluation.suite import Published, Suite, run_suite
from agents.linear.policy import LinearRanker
from agents.problem import Problem
from envs.config import CLUSTER
from envs.outcomes import METRICS
from envs.scenario import Scenario
from envs.workloads import gpu_cluster, lublin_feitelson
from envs.workloads.failures import FAILURE_MODELS
from tests.agents.evaluation.policies import LastLegal


@pytest.fixture(scope="module")
def report(trace, config):
    suite = Suite(
        "small",
        64,
        rules=["fcfs", "sjf"],
        baselines=["sjf"],
        windows=6,
        variants={"": {}, "backfill": {"backfill": True}},
        keep_jobs=2,
    )
    problem = Problem(trace, config)
    windows = suite.windows_of("backfill", problem).digest
    suite = replace(suite, published=[Published("somebody's", "backfill", 1.5, "a paper", windows)])
    return make_report(suite, problem, run_suite(suite, problem, [LastLegal()]))


def test_summary(report, tmp_path):
    write_report(report, tmp_path, {"seed": 7})
    names = {"jobs.csv", "runs.csv", "table.csv", "table.md", "comparisons.csv", "summary.json"}
    assert {path.name for path in tmp_path.iterdir()} == names
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["schema_version"] == SCHEMA_VERSION
    assert summary["information"] == "estimate"
    assert summary["config"] == {"seed": 7}
    assert summary["windows"]["in_jobs_csv"] == 2
    assert summary["windows"]["in_runs_csv"] == {key: [0, 1] for key in summary["policies"]}
    assert len(summary["windows"]["starts"]) == 6
    assert summary["windows"]["distinct_jobs"] <= 6 * 64
    assert summary["versions"]["numpy"]
    assert len(summary["policies"]) == 6
    for metrics in summary["policies"].values():
        assert {"wait", "unfinished", "finish_time_fairness"} < set(metrics) < set(METRICS)
        assert "node_cost" not in metrics, "its nodes have no price"
        waits = metrics["wait"]
        assert waits["mean"]["value"] == pytest.approx(sum(waits["windows"]) / 6)
    pairs = {(pair["policy"], pair["baseline"]) for pair in summary["comparisons"]}
    assert pairs == {
        ("last", "sjf"),
        ("fcfs", "sjf"),
        ("last_backfill", "sjf_backfill"),
        ("fcfs_backfill", "sjf_backfill"),
    }


@pytest.mark.parametrize(
    "changed",
    [
        {"metric": "wait"},
        {"length": 32},
        {"windows": 5},
        {"variants": {"": {}, "backfill": {"backfill": False}}},
        {"trace": -1},
        {"trace": "gpu"},
        {"failures": True},
    ],
    ids=str,
)
def test_published_rows_stand_beside_their_own_windows_only(report, trace, config, changed):
    suite, changed = report.suite, dict(changed)
    assert report.published == tuple(suite.published)
    scenario = Scenario(failures=FAILURE_MODELS["weibull"] if changed.pop("failures", 0) else None)
    other = changed.pop("trace", None)
    if other == -1:
        jobs = trace.requests.copy()
        jobs["duration_ms"][3] += 1000
        trace = replace(trace, requests=jobs)
    elif other == "gpu":
        trace = lublin_feitelson(len(trace), 5)
    suite = replace(suite, **changed)
    problem = Problem(trace, config, scenario=scenario)
    assert suite.published_for(problem) == ()
    again = make_report(suite, problem, report.results)
    console = Console(width=80)
    with console.capture() as capture:
        print_report(again, console)
    assert "somebody's" not in capture.get()
    assert "Published results are left out" in " ".join(capture.get().split())
    assert not any("somebody's" in row[0] for table in card_tables(again) for row in table.rows)


def test_tables_agree_with_the_summary(report, tmp_path):
    write_report(report, tmp_path, {})
    summary = json.loads((tmp_path / "summary.json").read_text())
    with (tmp_path / "table.csv").open(newline="") as stream:
        for row in csv.DictReader(stream):
            metrics = summary["policies"][row["policy"]]
            for name in metrics:
                assert float(row[name]) == metrics[name]["mean"]["value"]
                assert float(row[f"{name}_iqm_high"]) == metrics[name]["iqm"]["high"]
    with (tmp_path / "comparisons.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["ratio"]) for row in rows] == [
        pair["ratio"]["value"] for pair in summary["comparisons"]
    ]


def test_terminal(report):
    console = Console(width=80)
    with console.capture() as capture:
        print_report(report, console)
    text = capture.get()
    assert "6 windows of 64 jobs" in text
    assert "run times known: estimate" in text
    assert "somebody's" in text
    for name in ("last", "fcfs_backfill", "P(better)"):
        assert name in text
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "…" not in text


def test_card(report):
    tables = card_tables(report)
    assert [table.title.split(": bounded")[0] for table in tables] == [
        "small",
        "Paired: small",
        "small, backfill",
        "Paired: small, backfill",
    ]
    card = training_card(report, "title", "make it", ["a note"])
    assert EvaluationCard.from_dict(json.loads(json.dumps(card.as_dict()))).to_markdown()


def test_preemptive_rules_fit_the_terminal_too():
    trace = gpu_cluster(400, 1, nodes=4, load=1.2)
    suite = Suite(
        "gpus", 200, ["fifo", "srtf"], ["srtf"], metric="completion_time", starts=[0, 150]
    )
    problem = Problem(trace, CLUSTER)
    report = make_report(suite, problem, run_suite(suite, problem))
    console = Console(width=80)
    with console.capture() as capture:
        print_report(report, console)
    text = capture.get()
    assert "preempted" in text
    assert "complete, h" in text
    assert "…" not in text


def test_learned_policies_are_compared_with_each_other(trace, config):
    suite = Suite("pairs", 64, ["sjf"], ["sjf"], starts=[0, 300, 700])
    problem = Problem(trace, config)
    policies = [LinearRanker(np.eye(14)[k], name) for k, name in enumerate(("a", "a", "b"))]
    found = make_report(suite, problem, run_suite(suite, problem, policies))
    pairs = [(pair.policy, pair.baseline) for pair in found.comparisons[""]]
    assert pairs == [
        *(("a", "sjf"), ("a", "a-2"), ("a", "b")),
        *(("a-2", "sjf"), ("a-2", "b"), ("b", "sjf")),
    ]
