"""Learning on clusters with preemption and elastic jobs starts at the level of a rule."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from agents.bundle import load_bundle, read_manifest
from agents.evaluation.play import evaluate_policy, evaluate_rule
from agents.linear.policy import LinearScorer
from agents.linear.train import CMATrainer
from agents.ppo.model import ScorerPolicy, SetScorer
from agents.ppo.train import PPOTrainer
from agents.problem import Problem, Windows
from agents.tracking import NullTracker
from orchestrator.scheduling.schema import advice_column, feature_names
from tests.kernels.run.test_scorer import ELASTIC, JOBS, STARTS, trace

_ADVICE = {"advice": 1.0}


def _problem(seed: int = 0) -> Problem:
    return Problem(trace(), ELASTIC, evaluation_jobs=JOBS, seed=seed)


def test_an_untrained_network_is_the_advising_rule() -> None:
    schema = ELASTIC.schema
    width = len(feature_names(schema))
    torch.manual_seed(3)
    scorer = SetScorer(width, len(schema.globals), 8, {advice_column(schema): 1.0}, gain=7.0)
    policy = ScorerPolicy(scorer.state_dict(), schema, 8)
    windows = Windows(trace(), ELASTIC, STARTS)
    played = evaluate_policy(policy, windows, keep_jobs=JOBS)
    rule = evaluate_rule("elastic_srtf", windows, keep_jobs=JOBS)
    for metric, values in rule.values.items():
        np.testing.assert_array_equal(played.values[metric], values)
    np.testing.assert_array_equal(played.jobs, rule.jobs)
    assert rule.values["preemptions"].sum() > 0


def test_ppo_begins_at_the_rule_and_leaves_a_bundle(tmp_path: Path) -> None:
    trainer = PPOTrainer(
        total_steps=2 * 4 * 16,
        envs=4,
        steps=16,
        batch=32,
        epochs=1,
        hidden=8,
        critic_summary=8,
        prior=_ADVICE,
        gain=7.0,
        by_head=True,
        reference="elastic_srtf",
        metric="completion_time",
        validate_every=1,
        validation_windows=3,
        windows=16,
    )
    result = trainer.train(_problem(), NullTracker(), tmp_path)
    assert result.history[0]["validation"] == result.history[0]["reference"]
    policy = load_bundle(result.bundle, ELASTIC.schema)
    assert policy.name == "ppo"
    windows = Windows(trace(), ELASTIC, STARTS)
    first, second = (evaluate_policy(p, windows, keep_jobs=0) for p in (result.policy, policy))
    np.testing.assert_array_equal(first.values["completion_time"], second.values["completion_time"])


def test_cma_begins_at_the_rule_and_leaves_a_bundle_that_decides_alike(tmp_path: Path) -> None:
    trainer = CMATrainer(
        generations=2,
        population=4,
        windows=2,
        prior=_ADVICE,
        features=["log_request", "grow:log_remaining", "head:wait"],
        reference="elastic_srtf",
        validate_every=1,
        validation_windows=3,
        threads=1,
    )
    result = trainer.train(_problem(), NullTracker(), tmp_path)
    assert result.history[0]["validation"] == result.history[0]["reference"]
    assert read_manifest(result.bundle).kind == "linear_scorer"
    policy = load_bundle(result.bundle, ELASTIC.schema)
    assert isinstance(policy, LinearScorer)
    names = feature_names(ELASTIC.schema, by_head=True)
    moved = {name for name, weight in zip(names, policy.weights, strict=True) if weight != 0}
    assert moved <= {"log_request", "grow:log_remaining", "head:wait", names[-1]}
    windows = Windows(trace(), replace(ELASTIC, window=16), STARTS)
    first, second = (evaluate_policy(p, windows, keep_jobs=0) for p in (result.policy, policy))
    np.testing.assert_array_equal(first.values["completion_time"], second.values["completion_time"])
