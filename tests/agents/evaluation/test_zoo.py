"""Policies of the zoo in evaluations: paired with the others on the same windows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from agents.evaluation.play import ZOO, evaluate_rule, evaluate_zoo, zoo_policy
from agents.evaluation.report import card_tables, make_report, print_report
from agents.evaluation.suite import Suite, run_suite
from agents.problem import Problem, Windows
from envs import CLUSTER, Scenario
from envs.workloads import Enrichment, WindowSplit, enrich, gpu_cluster
from envs.workloads.failures import FailureModel
from orchestrator.errors import ConfigurationError
from orchestrator.scheduling.gittins import job_services
from orchestrator.scheduling.rules import RulePolicy, rule_named
from tests.agents.evaluation.policies import LastLegal
from tests.agents.evaluation.test_play import same

_STARTS = np.array([0, 150, 300, 450], np.int64)


@pytest.fixture(scope="module")
def jobs():
    """Jobs of which some may be preempted and some resized, more than four machines can do."""
    return enrich(gpu_cluster(600, 1, nodes=4, load=1.3), Enrichment(elastic_share=0.7))


@pytest.fixture(scope="module")
def cluster():
    return replace(CLUSTER, episode_jobs=60, elastics=8)


@pytest.mark.parametrize("rule", ["fcfs", "srtf", "elastic_srtf"])
def test_a_rule_plays_alike_among_them(jobs, cluster, rule):
    windows = Windows(jobs, cluster, _STARTS)
    compiled = evaluate_rule(rule, windows, keep_jobs=3)
    same(evaluate_zoo(rule, windows, keep_jobs=3), compiled)
    if rule == "elastic_srtf":
        assert compiled.values["preemptions"].sum() > 0
        assert compiled.values["resizes"].sum() > 0


def test_processes_change_nothing_but_the_time(jobs, cluster):
    ended = []
    windows = Windows(jobs, cluster, _STARTS)
    alone = evaluate_zoo("gavel_las", windows, keep_jobs=2)
    shared = evaluate_zoo("gavel_las", windows, 2, ended.append, processes=2)
    same(shared, alone)
    assert (shared.starts == _STARTS).all()
    assert sum(ended) == len(_STARTS)
    assert (shared.values["preemptions"] > 0).any()


def test_the_first_windows_are_played_as_among_all_of_them(jobs, cluster):
    windows = Windows(jobs, cluster, _STARTS, Scenario(FailureModel(rate_scale=300.0)))
    some, every = (evaluate_zoo("srtf", played) for played in (windows.first(2), windows))
    assert every.values["interruptions"][:2].sum() > 0
    for name, values in some.values.items():
        np.testing.assert_array_equal(values, every.values[name][:2])


@pytest.mark.parametrize("name", ZOO)
def test_every_one_of_them_finishes_every_job(jobs, cluster, name):
    found = evaluate_zoo(name, Windows(jobs, replace(cluster, episode_jobs=30), _STARTS[:2]))
    assert found.policy == name
    assert not found.learned
    assert (found.values["unfinished"] == 0).all()
    assert (found.values["completion_time"] > 0).all()


def _suite(**options):
    given = {"rules": ["srtf"], "baselines": ["srtf"], "metric": "completion_time"}
    given |= {"zoo": ["themis", "gavel_las"], "zoo_windows": {"gavel_las": 3}}
    return Suite("zoo", 60, **{"starts": _STARTS.tolist(), **given, **options})


def test_pairs_are_of_the_same_windows(jobs, cluster):
    suite = _suite()
    problem = Problem(jobs, cluster)
    results = run_suite(suite, problem, [LastLegal()])
    assert [result.policy for result in results[""]] == ["last", "srtf", "themis", "gavel_las"]
    report = make_report(suite, problem, results)
    values = {result.policy: result.values["completion_time"] for result in results[""]}
    assert {name: len(found) for name, found in values.items()} == {
        "last": 4,
        "srtf": 4,
        "themis": 4,
        "gavel_las": 3,
    }
    pairs = {(pair.policy, pair.baseline): pair for pair in report.comparisons[""]}
    assert set(pairs) == {
        ("last", "srtf"),
        ("last", "themis"),
        ("last", "gavel_las"),
        ("themis", "srtf"),
        ("gavel_las", "srtf"),
    }
    for (mine, other), pair in pairs.items():
        count = 3 if "gavel_las" in (mine, other) else 4
        assert pair.windows == count
        ratio = values[mine][:count].mean() / values[other][:count].mean()
        assert pair.ratio.value == pytest.approx(ratio)
        assert pair.ratio.low <= ratio <= pair.ratio.high
    assert report.partial == {"gavel_las": 3}
    console = Console(width=80)
    with console.capture() as capture:
        print_report(report, console)
    text = capture.get()
    assert "Some played the first windows only (gavel_las 3)" in " ".join(text.split())
    assert "gavel_las (3)" in text
    assert "…" not in text
    table, pairs_table = card_tables(report)
    assert "gavel_las (first 3 windows)" in [row[0] for row in table.rows]
    assert "gavel_las (first 3)" in [row[1] for row in pairs_table.rows]


def test_gittins_learns_from_the_training_part(jobs, cluster):
    suite = _suite(
        rules=["srtf", "gittins"],
        zoo=[],
        zoo_windows={},
        split={"train": 0.5, "validation": 0.25, "test": 0.25},
        starts=None,
        windows=3,
    )
    problem = Problem(jobs, cluster)
    starts = suite.window_starts(jobs)
    assert starts.min() >= 450
    assert (starts == WindowSplit(600, 0.5, 0.25, 0.25).starts("test", 3, 60, 0)).all()
    found = run_suite(suite, problem)[""][1]
    known = Scenario(past_services=job_services(jobs.requests[:300]))
    same(found, evaluate_rule("gittins", Windows(jobs, cluster, starts, known)))
    assert not np.array_equal(
        found.values["completion_time"],
        evaluate_rule("gittins", Windows(jobs, cluster, starts)).values["completion_time"],
    )
    history = replace(jobs, requests=jobs.requests[:40])
    other = run_suite(suite, problem, history=history)[""][1]
    known = Scenario(past_services=job_services(jobs.requests[:20]))
    same(other, evaluate_rule("gittins", Windows(jobs, cluster, starts, known)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"zoo": ["gavel"], "zoo_windows": {}}, "unknown policy of the zoo 'gavel'; known: gavel"),
        ({"zoo": ["srtf"], "zoo_windows": {}}, "'srtf' is both in 'rules' and in 'zoo'"),
        ({"zoo_windows": {"polux": 3}}, "unknown policy of the zoo 'polux'"),
        ({"starts": []}, "'starts' is empty"),
        ({"split": {"training": 1.0}}, "'split' has 'training'; known: train, validation, test"),
        ({"zoo_windows": {"themis": 0}}, "'zoo_windows': 'themis' is 0"),
    ],
)
def test_what_makes_no_sense_is_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        _suite(**options)


def test_every_window_gets_a_policy_of_its_own():
    assert zoo_policy("pollux") is not zoo_policy("pollux")


class Shortest(RulePolicy):
    """A policy of somebody's own."""

    def __init__(self):
        super().__init__(rule_named("sjf"))


@pytest.mark.parametrize("name", ["mine", f"{__name__}:Shortest"])
def test_own_policies_play_in_processes(jobs, cluster, name, monkeypatch):
    monkeypatch.setitem(ZOO, "mine", Shortest)
    windows = Windows(jobs, cluster, _STARTS[:2])
    same(evaluate_zoo(name, windows, processes=2), evaluate_rule("sjf", windows))


class Demanding(Shortest):
    """One that cannot be made out of nothing."""

    def __init__(self, patience):
        super().__init__()


@pytest.mark.parametrize("processes", [1, 2])
def test_own_policies_stand_wherever_a_policy_is_named(jobs, cluster, processes):
    mine = f"{__name__}:Shortest"
    suite = Suite(
        "mine", 60, ["sjf", mine, "themis"], [mine], starts=[0, 150], zoo=["gavel_las"],
        zoo_windows={"themis": 1},
    )  # fmt: skip
    problem = Problem(jobs, cluster)
    results = {r.policy: r for r in run_suite(suite, problem, processes=processes)[""]}
    assert list(results) == ["sjf", mine, "themis", "gavel_las"]
    same(results[mine], results["sjf"])
    assert len(results["themis"].starts) == 1
    pairs = make_report(suite, problem, {"": list(results.values())}).comparisons[""]
    assert {(pair.policy, pair.baseline) for pair in pairs} >= {("sjf", mine), ("themis", mine)}
    with pytest.raises(ConfigurationError, match="there is no module"):
        replace(suite, rules=["no.such:Thing"], baselines=[])
    with pytest.raises(ConfigurationError, match="cannot be made"):
        replace(suite, rules=[f"{__name__}:Demanding"], baselines=[])


@pytest.mark.parametrize("name", ["no.such:Thing", "json:Thing", ":", "json:JSONDecoder"])
def test_own_policies_that_are_none_are_refused(name):
    with pytest.raises(ConfigurationError, match=rf"policy '{name}': "):
        zoo_policy(name)


def test_what_cannot_be_sent_to_processes_is_refused(jobs, cluster, monkeypatch):
    monkeypatch.setitem(ZOO, "mine", lambda: Shortest())
    with pytest.raises(ConfigurationError, match="processes=1"):
        evaluate_zoo("mine", Windows(jobs, cluster, _STARTS[:2]), processes=2)
