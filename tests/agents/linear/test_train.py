"""Training linear rankers: the search, its checkpoints and its bundle."""

import math

import numpy as np
import pytest

from agents.bundle import load_bundle, read_manifest
from agents.linear.evaluate import RankerEvaluator
from agents.linear.policy import LinearRanker
from agents.linear.train import CMATrainer, Search
from agents.problem import Problem
from agents.tracking import NullTracker
from envs.config import EnvConfig
from envs.workloads import lublin_feitelson
from orchestrator.errors import ConfigurationError
from orchestrator.scheduling.rules import rule_named

JOBS, WINDOW = 4000, 128
SMALL = {
    "budget_seconds": 600.0,
    "generations": 4,
    "windows": 6,
    "validate_every": 2,
    "validation_windows": 8,
    "threads": 2,
}


@pytest.fixture(scope="module")
def trace():
    return lublin_feitelson(JOBS, 3)


def make_problem(trace, seed=0, **config):
    return Problem(trace, EnvConfig(**config), evaluation_jobs=WINDOW, seed=seed)


def train(problem, output, **changes):
    return CMATrainer(**{**SMALL, **changes}).train(problem, NullTracker(), output)


class Memory(NullTracker):
    def __init__(self):
        self.rows = []

    def log(self, step, metrics):
        self.rows.append((step, dict(metrics)))


def test_training_leaves_a_bundle_that_is_the_policy(trace, tmp_path):
    problem = make_problem(trace, seed=4)
    tracker = Memory()
    result = CMATrainer(**SMALL).train(problem, tracker, tmp_path)
    policy = load_bundle(result.bundle, problem.config.schema)
    assert isinstance(policy, LinearRanker)
    assert np.array_equal(policy.weights, result.policy.weights)
    assert np.linalg.norm(policy.weights) == pytest.approx(1.0)
    manifest = read_manifest(result.bundle)
    assert (manifest.kind, manifest.seed) == ("linear_ranker", 4)
    assert manifest.training["prior"] == {"log_request": -1.0}
    assert [step for step, _ in tracker.rows] == [0, 2, 4]
    assert [metrics for _, metrics in tracker.rows] == result.history
    assert all(math.isfinite(value) for entry in result.history for value in entry.values())
    assert result.history[0]["score"] == pytest.approx(_score_of_prior(problem))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "checkpoint.pkl"]


def _score_of_prior(problem):
    evaluator = RankerEvaluator(problem.trace, problem.judged.config)
    starts = problem.judging_windows("validation", SMALL["validation_windows"]).starts
    costs = evaluator.rule_costs(rule_named("sjf"), starts)
    evaluator.close()
    return (costs / (costs + costs.mean())).mean()


def test_a_seed_decides_everything_and_nothing_else_is_touched(trace, tmp_path):
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    runs = [train(make_problem(trace, 1), tmp_path / name) for name in ("a", "b")]
    other = train(make_problem(trace, 2), tmp_path / "c")
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002
    assert np.array_equal(runs[0].policy.weights, runs[1].policy.weights)
    assert not np.array_equal(runs[0].policy.weights, other.policy.weights)


def test_a_resumed_run_is_the_uninterrupted_one(trace, tmp_path):
    problem = make_problem(trace, seed=6, backfill=True)
    whole = train(problem, tmp_path / "whole")
    train(problem, tmp_path / "parts", generations=2)
    parts = train(problem, tmp_path / "parts", resume=True)
    assert np.array_equal(whole.policy.weights, parts.policy.weights)
    assert [entry["steps"] for entry in parts.history] == [0, 2, 4]
    assert [e["score"] for e in parts.history] == [e["score"] for e in whole.history]
    assert parts.history[-1]["seconds"] >= parts.history[1]["seconds"]


RESTARTS = {"restarts": 3, "trial_generations": 2, "validate_every": 100, "generations": 8}


def test_the_short_search_that_validates_best_goes_on(trace, tmp_path):
    result = train(make_problem(trace, 1), tmp_path, **RESTARTS)
    scores = [entry["score"] for entry in result.history]
    assert [entry["steps"] for entry in result.history] == [0, 2, 4, 6, 8]
    assert len(set(scores[1:4])) == 3  # three searches
    search = Search.restore(tmp_path / "checkpoint.pkl", {})
    assert (search.trial, search.rival, search.generation, search.total) == (None, None, 4, 8)
    assert search.best.lowest.mean() <= min(scores[1:4])
    assert result.updates == 8
    alone = train(make_problem(trace, 1), tmp_path / "one", generations=2, validate_every=100)
    assert alone.history[1]["score"] == scores[1]  # the first of them is the one without restarts


def test_a_budget_that_ends_between_short_searches_keeps_the_best(trace, tmp_path):
    problem = make_problem(trace, 1)
    result = train(problem, tmp_path, **{**RESTARTS, "generations": 4})
    assert result.score == min(entry["score"] for entry in result.history[1:])
    whole = train(problem, tmp_path / "whole", **RESTARTS)
    again = train(problem, tmp_path, **RESTARTS, resume=True)
    assert np.array_equal(whole.policy.weights, again.policy.weights)


def test_damaged_and_foreign_checkpoints_are_refused(trace, tmp_path):
    train(make_problem(trace, 1), tmp_path, generations=1)
    with pytest.raises(
        ConfigurationError, match=r"checkpoint\.pkl: was made with .* of 'seed'; give"
    ):
        train(make_problem(trace, 2), tmp_path, resume=True)
    (tmp_path / "checkpoint.pkl").write_bytes(b"\x80\x04nonsense")
    with pytest.raises(ConfigurationError, match=r"checkpoint\.pkl: cannot be read"):
        train(make_problem(trace, 1), tmp_path, resume=True)


def test_the_budget_ends_training(trace, tmp_path):
    result = train(make_problem(trace), tmp_path, budget_seconds=0.0, generations=1000)
    assert [entry["steps"] for entry in result.history] == [0]
    assert result.updates == 0


def test_each_limit_ends_a_search(trace, tmp_path):
    """A generation of 16 rankers and the rule replays 17 * 6 windows."""
    one = 17 * 6 * WINDOW
    for limits, generations in (
        ({"total_steps": one + 1, "generations": None}, 2),
        ({"total_steps": one, "generations": None, "budget_seconds": None}, 1),
        ({"total_steps": 10 * one, "generations": 3, "budget_seconds": None}, 3),
    ):
        result = train(make_problem(trace), tmp_path / str(generations), **limits)
        assert result.updates == generations


def test_training_sees_the_training_part_only(trace, tmp_path, monkeypatch):
    seen = []
    costs = RankerEvaluator.costs

    def spy(self, weights, starts):
        seen.append((len(weights), starts))
        return costs(self, weights, starts)

    monkeypatch.setattr(RankerEvaluator, "costs", spy)
    problem = make_problem(trace)
    train(problem, tmp_path, window_jobs=200)
    searched = np.concatenate([starts for count, starts in seen if count > 1])
    judged = np.concatenate([starts for count, starts in seen if count == 1])
    low, high = problem.parts.region("train")
    assert low <= searched.min()
    assert searched.max() + 200 <= high
    low, high = problem.parts.region("validation")
    assert low <= judged.min()
    assert judged.max() + WINDOW <= high


@pytest.mark.slow
def test_a_short_search_beats_where_it_began(trace, tmp_path):
    problem = make_problem(trace, seed=1)
    options = {"generations": 15, "windows": 24, "validation_windows": 64}
    result = train(problem, tmp_path, **options)
    first, best = result.history[0], min(result.history, key=lambda entry: entry["score"])
    assert best["score"] < 0.95 * first["score"]
    assert best["validation"] < first["validation"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sigma": 0.0}, "'sigma' is 0.0"),
        ({"population": 2}, "'population' is 2; at least 4"),
        ({"reference": "best"}, "unknown rule 'best'"),
        ({"prior": {"log_requests": 1.0}}, "unknown feature 'log_requests'; known: log_wait"),
    ],
)
def test_senseless_options_are_named(options, message):
    with pytest.raises(ConfigurationError, match=message):
        CMATrainer(**options)


@pytest.mark.parametrize(
    ("config", "changes", "words"),
    [
        ({"window": 32}, {}, "'env'"),
        ({}, {"sigma": 0.3}, "'agent.sigma'"),
        ({"backfill": True}, {"windows": 5, "reference": "f1"}, "'env', 'agent.windows', 'agent.r"),
    ],
)
def test_checkpoints_of_other_problems_and_settings_are_refused(
    trace, tmp_path, config, changes, words
):
    train(make_problem(trace), tmp_path, generations=1)
    with pytest.raises(ConfigurationError, match=rf"made with other values of {words}"):
        train(make_problem(trace, **config), tmp_path, resume=True, **changes)
    with pytest.raises(ConfigurationError, match="other values of 'workload'; give those again"):
        train(make_problem(lublin_feitelson(JOBS, 4)), tmp_path, resume=True)
