"""Scenarios on their way through training, evaluation and bundles."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agents.bundle import describe_scenario, read_manifest, scenario_text
from agents.evaluation.play import evaluate_policy, evaluate_rule
from agents.linear.evaluate import RankerEvaluator, ScorerEvaluator
from agents.linear.train import CMATrainer
from agents.problem import Problem, Windows
from agents.tracking import NullTracker
from envs.config import JOB_ORDERING
from envs.scenario import Scenario
from envs.workloads.failures import FailureModel
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.state.codes import QuotaMode
from orchestrator.scheduling.rules import rule_named
from orchestrator.types import TenantSpec
from tests.kernels.run.test_scorer import ELASTIC, JOBS, STARTS, trace

_FAILURES = Scenario(failures=FailureModel(rate_scale=300.0), failure_seed=5)
_REWARD = replace(ELASTIC.reward, terms={"completion_time": 1.0})
_CONFIG = replace(ELASTIC, reward=_REWARD)


def test_scorers_are_judged_in_the_failures_that_policies_meet() -> None:
    rule = rule_named("elastic_srtf")
    evaluator = ScorerEvaluator(trace(), _CONFIG, 2, _FAILURES)
    costs = evaluator.rule_costs(rule, STARTS)
    # Of other windows, in another order, on rows with less room at first.
    other = ScorerEvaluator(trace(), _CONFIG, 1, _FAILURES)
    for m in np.argsort(STARTS)[::-1]:
        assert other.rule_costs(rule, STARTS[m : m + 1])[0] == costs[m]
    found = evaluate_rule(rule, Windows(trace(), _CONFIG, STARTS, _FAILURES))
    calm = evaluate_rule(rule, Windows(trace(), _CONFIG, STARTS))
    assert (found.values["completion_time"] != calm.values["completion_time"]).any()
    np.testing.assert_allclose(costs, found.values["completion_time"] * JOBS, rtol=1e-9)
    evaluator.close()
    other.close()


def test_a_policy_is_trained_judged_and_kept_with_its_scenario(tmp_path: Path) -> None:
    problem = Problem(trace(), _CONFIG, evaluation_jobs=JOBS, scenario=_FAILURES)
    assert len(problem.training_session(2, 8).source.episode.incidents) > 0
    trainer = CMATrainer(
        generations=1,
        population=4,
        windows=2,
        prior={"advice": 1.0},
        features=["log_request"],
        reference="elastic_srtf",
        validate_every=1,
        validation_windows=3,
        threads=1,
    )
    result = trainer.train(problem, NullTracker(), tmp_path)
    assert result.history[0]["validation"] == result.history[0]["reference"]
    described = read_manifest(result.bundle).scenario
    assert described["failure_seed"] == 5
    assert described["failures"]["rate_scale"] == 300.0
    config = problem.judged.config
    played = evaluate_policy(result.policy, Windows(trace(), config, STARTS, _FAILURES))
    calm = evaluate_policy(result.policy, Windows(trace(), config, STARTS))
    assert (played.values["completion_time"] != calm.values["completion_time"]).any()


def test_rankers_refuse_what_they_are_not_replayed_in() -> None:
    config = replace(JOB_ORDERING, episode_jobs=JOBS)
    with pytest.raises(ConfigurationError, match="leave 'scenario' and 'failures' at none"):
        RankerEvaluator(trace(), config, 1, _FAILURES)


def test_scenarios_are_described_by_what_distinguishes_them() -> None:
    assert describe_scenario(Scenario()) == {}
    tenants = (TenantSpec("a", quota=2.0), TenantSpec("b"))
    described = describe_scenario(Scenario(tenants=tenants, quota_mode=QuotaMode.HARD))
    assert set(described) == {"tenants", "quota_mode"}
    assert scenario_text(described) == "tenants: a, b; quota mode: hard"
    assert "rate_scale 300" in scenario_text(describe_scenario(_FAILURES))
