from __future__ import annotations

import gzip
import json
from dataclasses import replace

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from agents.build import build_suite
from agents.evaluation.suite import Suite, run_suite
from agents.linear.policy import LinearRanker
from agents.problem import Problem
from agents.program import config_dir
from orchestrator.errors import ConfigurationError
from tests.agents.evaluation.policies import LastLegal, ShortestFirst

GOLDEN_RULES = {
    "fcfs": "fcfs",
    "sjf": "sjf",
    "f1": "f1",
    "wfp": "wfp3_compat",
    "uni": "unicep_compat",
}


@pytest.mark.golden
@pytest.mark.traces
def test_rlscheduler_suite_reproduces_the_published_numbers(traces_dir, golden_dir, monkeypatch):
    monkeypatch.setenv("TRACES_DIR", str(traces_dir))
    with gzip.open(golden_dir / "rlscheduler_lublin_256.json.gz") as stream:
        golden = json.load(stream)
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        cfg = compose("evaluate", ["suite=rlscheduler"])
    suite = build_suite(cfg.suite)
    assert list(suite.starts) == golden["starts"]
    problem = Problem(instantiate(cfg.workload), instantiate(cfg.env))
    assert len(suite.published_for(problem)) == 4
    first = replace(problem, trace=problem.trace.window(0, 9999))
    assert suite.published_for(first) == ()
    results = run_suite(suite, problem)
    for variant, key in (("", "false"), ("backfill", "true")):
        found = {result.policy: result for result in results[variant]}
        expected = golden["backfill"][key]
        for published, rule in GOLDEN_RULES.items():
            result = found[f"{rule}_{variant}" if variant else rule]
            slowdown = result.values["bounded_slowdown"]
            # Equal but for the order in which the 1,024 slowdowns were added up.
            means = expected["avg_bounded_slowdown"][published]
            np.testing.assert_allclose(slowdown, means, rtol=1e-14)
            assert slowdown.mean() == pytest.approx(expected["mean"][published], rel=1e-14)
            begun = result.of_sequence(0)["start_ms"]
            published_ms = np.array(expected["start_times_of_sequence_0"][published]) * 1000
            np.testing.assert_array_equal(begun, published_ms)


def small(**options):
    given = {"name": "small", "length": 64, "rules": ["fcfs", "sjf"], "baselines": ["sjf"]}
    return Suite(**{**given, "windows": 3, **options})


def test_variants_and_names(trace, config):
    suite = small(variants={"": {}, "backfill": {"backfill": True}})
    policies = [ShortestFirst(), LastLegal(), ShortestFirst()]
    results = run_suite(suite, Problem(trace, config), policies)
    assert list(results) == ["", "backfill"]
    names = ["shortest", "last", "shortest-2", "fcfs", "sjf"]
    assert [result.policy for result in results[""]] == names
    assert [result.policy for result in results["backfill"]] == [f"{n}_backfill" for n in names]
    assert [result.learned for result in results[""]] == [True, True, True, False, False]
    plain, filled = (results[v][3].values["wait"].mean() for v in ("", "backfill"))
    assert filled < plain


def test_windows_are_those_of_the_part(trace):
    starts = small(part="test", windows=20).window_starts(trace)
    assert starts.min() >= 1600
    assert (starts == small(part="test", windows=20).window_starts(trace)).all()
    assert (starts[:5] == small(part="test", windows=5).window_starts(trace)).all()


def test_length_zero_is_the_whole_trace(trace, config):
    results = run_suite(small(length=0), Problem(trace, replace(config, backfill=True)))
    assert len(results[""][0].jobs) == len(trace)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rules": ["sfj"]}, "unknown rule 'sfj'; known: fcfs"),
        ({"metric": "speed"}, "unknown metric 'speed'; known: bounded_slowdown"),
        ({"baselines": ["f1"]}, "baseline 'f1' is not among the rules"),
        ({"part": "exam"}, "'part' has 'exam'; known: train, validation, test"),
    ],
)
def test_unknown_names_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        small(**options)


def test_windows_beyond_the_trace_are_refused(trace, config):
    with pytest.raises(ConfigurationError, match=r"from 1980 on reaches beyond the 2000 jobs"):
        run_suite(small(starts=[0, 1980]), Problem(trace, config))


@pytest.mark.parametrize(
    "wrong",
    [{"starts": []}, {"windows": 0}, {"windows": "two"}, {"length": -1}, {"seed": -1},
     {"keep_jobs": -1}, {"zoo_windows": {"pollux": 0}}, {"zoo_windows": {"polux": 4}},
     {"rules": None}, {"rules": "sjf"}, {"variants": {}}],
)  # fmt: skip
def test_nothing_to_play_is_refused(wrong):
    options = {"length": 64, "rules": ["sjf"], "baselines": ["sjf"], **wrong}
    with pytest.raises(ConfigurationError):
        Suite("s", **options)


def test_windows_of_policies_that_are_not_played_are_left_aside():
    suite = Suite("s", 64, ["sjf"], ["sjf"], zoo=[], zoo_windows={"pollux": 16, "gavel_ftf": 4})
    assert suite.zoo_windows["pollux"] == 16


def test_policies_are_played_where_they_are_named_and_at_home(trace, config):
    variants = {"": {"backfill": False}, "backfill": {"backfill": True}}
    suite = small(variants=variants, at_home=True, ahead=["f1"])
    trained = replace(config, backfill=True)
    assert [suite.is_home(variant, trained) for variant in variants] == [False, True]
    ranker = LinearRanker.from_names({"log_request": -1.0})
    played = run_suite(suite, Problem(trace, config), {"": [], "backfill": [ranker]})
    names = {name: [one.policy for one in results] for name, results in played.items()}
    rules = list(suite.rules)
    assert names[""] == rules
    assert names["backfill"] == [f"{one}_backfill" for one in ("linear_ranker", *rules)]
    with pytest.raises(ConfigurationError, match="unknown rule 'nobody'"):
        small(ahead=["nobody"])
