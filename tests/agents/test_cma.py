"""Training linear rankers: evaluation on threads, the search, its checkpoints and its bundle."""

import math
from pathlib import Path

import hydra
import numpy as np
import pytest
from omegaconf import OmegaConf

from agents.bundle import load_bundle, read_manifest
from agents.cma import CMATrainer, LinearRanker, RankerEvaluator, benchmark
from agents.cma.policy import named_weights
from agents.cma.search import Search
from agents.task import Task
from agents.tracking import NullTracker
from envs.config import CLUSTER, EnvConfig
from envs.workloads import WindowSplit, lublin_feitelson
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.codes import RuleKey
from orchestrator.kernels.features import Encoding
from orchestrator.kernels.see.layout import DEFAULT_NAMES
from orchestrator.scheduler.rules import rule_named

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


def make_task(trace, seed=0, **config):
    return Task(trace, EnvConfig(**config), WindowSplit(JOBS), WINDOW, seed)


def train(task, output, **changes):
    return CMATrainer(**{**SMALL, **changes}).train(task, NullTracker(), output)


class Memory(NullTracker):
    def __init__(self):
        self.rows = []

    def log(self, step, metrics):
        self.rows.append((step, dict(metrics)))


def test_threads_do_not_change_costs(trace):
    config = EnvConfig(episode_jobs=WINDOW, backfill=True)
    starts = np.arange(0, 3000, 300)
    weights = np.random.default_rng(0).normal(size=(3, len(DEFAULT_NAMES)))
    one, three = (RankerEvaluator(trace, config, threads) for threads in (1, 3))
    assert np.array_equal(one.costs(weights, starts), three.costs(weights, starts))
    sjf = rule_named("sjf")
    assert np.array_equal(one.rule_costs(sjf, starts), three.rule_costs(sjf, starts))
    prior = named_weights({"log_request": -1.0})[None]
    assert np.allclose(one.costs(prior, starts)[0], one.rule_costs(sjf, starts))
    for evaluator in (one, three):
        evaluator.close()


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (CLUSTER, "commitment"),
        (EnvConfig(encoding=Encoding.PUBLISHED), "encoding"),
        (EnvConfig(window_order=RuleKey.SJF), "window_order"),
    ],
)
def test_unfit_environments_are_refused(trace, config, field):
    with pytest.raises(ConfigurationError, match=f"set '{field}' of the environment to"):
        RankerEvaluator(trace, config)


def test_training_leaves_a_bundle_that_is_the_policy(trace, tmp_path):
    task = make_task(trace, seed=4)
    tracker = Memory()
    result = CMATrainer(**SMALL).train(task, tracker, tmp_path)
    policy = load_bundle(result.bundle, task.config.schema)
    assert isinstance(policy, LinearRanker)
    assert np.array_equal(policy.weights, result.policy.weights)
    assert np.linalg.norm(policy.weights) == pytest.approx(1.0)
    manifest = read_manifest(result.bundle)
    assert (manifest.kind, manifest.seed) == ("linear_ranker", 4)
    assert manifest.training["prior"] == {"log_request": -1.0}
    assert [step for step, _ in tracker.rows] == [0, 2, 4]
    assert [metrics for _, metrics in tracker.rows] == result.history
    assert all(math.isfinite(value) for entry in result.history for value in entry.values())
    assert result.history[0]["score"] == pytest.approx(_score_of_prior(task))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "checkpoint.pkl"]


def _score_of_prior(task):
    evaluator = RankerEvaluator(task.trace, task.evaluation_config)
    starts = task.evaluation_starts("validation", SMALL["validation_windows"])
    costs = evaluator.rule_costs(rule_named("sjf"), starts)
    evaluator.close()
    return (costs / (costs + costs.mean())).mean()


def test_a_seed_decides_everything_and_nothing_else_is_touched(trace, tmp_path):
    before = np.random.get_state()[1].tolist()  # noqa: NPY002
    runs = [train(make_task(trace, seed), tmp_path / name) for seed, name in ((1, "a"), (1, "b"))]
    other = train(make_task(trace, 2), tmp_path / "c")
    assert np.random.get_state()[1].tolist() == before  # noqa: NPY002
    assert np.array_equal(runs[0].policy.weights, runs[1].policy.weights)
    assert not np.array_equal(runs[0].policy.weights, other.policy.weights)


def test_a_resumed_run_is_the_uninterrupted_one(trace, tmp_path):
    task = make_task(trace, seed=6, backfill=True)
    whole = train(task, tmp_path / "whole")
    train(task, tmp_path / "parts", generations=2)
    parts = train(task, tmp_path / "parts", resume=True)
    assert np.array_equal(whole.policy.weights, parts.policy.weights)
    assert [entry["steps"] for entry in parts.history] == [0, 2, 4]
    assert [e["score"] for e in parts.history] == [e["score"] for e in whole.history]
    assert parts.history[-1]["seconds"] >= parts.history[1]["seconds"]


def test_damaged_and_foreign_checkpoints_are_refused(trace, tmp_path):
    train(make_task(trace, 1), tmp_path, generations=1)
    with pytest.raises(ConfigurationError, match=r"checkpoint\.pkl: is of seed 1, not seed 2; del"):
        train(make_task(trace, 2), tmp_path, resume=True)
    (tmp_path / "checkpoint.pkl").write_bytes(b"\x80\x04nonsense")
    with pytest.raises(ConfigurationError, match=r"checkpoint\.pkl: cannot be read"):
        train(make_task(trace, 1), tmp_path, resume=True)


def test_the_latest_candidate_is_kept_unless_it_is_clearly_worse():
    search = Search.begin(np.zeros(14), 0.1, 4, 0)
    rng = np.random.default_rng(0)
    base = rng.uniform(0.5, 1.5, 100)
    first, luckier, similar, worse = (np.full(14, float(k)) for k in range(4))
    assert search.judge(first, base)
    assert search.judge(luckier, base - 0.05)
    noise = rng.normal(0.0, 0.1, 100)
    assert search.judge(similar, base - 0.05 + noise - noise.mean() + 0.005)
    assert not search.judge(worse, base - 0.05 + noise - noise.mean() + 0.03)
    assert np.array_equal(search.kept, similar)
    assert search.lowest.mean() == pytest.approx(base.mean() - 0.05)
    alone = Search.begin(np.zeros(14), 0.1, 4, 0)
    assert alone.judge(first, base[:1])
    assert not alone.judge(worse, base[:1] + 1.0)


def test_the_budget_ends_training(trace, tmp_path):
    result = train(make_task(trace), tmp_path, budget_seconds=0.0, generations=1000)
    assert [entry["steps"] for entry in result.history] == [0, 1]


def test_training_sees_the_training_part_only(trace, tmp_path, monkeypatch):
    seen = []
    costs = RankerEvaluator.costs

    def spy(self, weights, starts):
        seen.append((len(weights), starts))
        return costs(self, weights, starts)

    monkeypatch.setattr(RankerEvaluator, "costs", spy)
    task = make_task(trace)
    train(task, tmp_path, window_jobs=200)
    searched = np.concatenate([starts for count, starts in seen if count > 1])
    judged = np.concatenate([starts for count, starts in seen if count == 1])
    low, high = task.split.region("train")
    assert low <= searched.min()
    assert searched.max() + 200 <= high
    low, high = task.split.region("validation")
    assert low <= judged.min()
    assert judged.max() + WINDOW <= high


@pytest.mark.slow
def test_a_short_search_beats_where_it_began(trace, tmp_path):
    task = make_task(trace, seed=1)
    options = {"generations": 15, "windows": 24, "validation_windows": 64}
    result = train(task, tmp_path, **options)
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


def test_the_config_makes_the_default_trainer():
    path = Path(__file__).resolve().parents[2] / "conf" / "agent" / "cma.yaml"
    assert hydra.utils.instantiate(OmegaConf.load(path)) == CMATrainer()


def test_ranker_respects_the_mask_and_breaks_ties_by_position():
    features = np.zeros((3, 5, len(DEFAULT_NAMES)), np.float32)
    features[0, :, 1] = [3, 1, 2, 1, 0]
    features[1, :, 1] = [2, 2, 2, 2, 2]
    features[2, :, 1] = [5, 4, 3, 2, 1]
    mask = np.ones((3, 5), bool)
    mask[0, 4] = False
    mask[2, 2:] = False
    policy = LinearRanker.from_names({"log_request": -2.0}, "mine")
    assert policy.name == "mine"
    assert policy.actions({"queue": features}, mask).tolist() == [1, 0, 1]
    assert "log_request=-2" in repr(policy)


def test_ranker_refuses_what_is_not_job_ordering():
    with pytest.raises(ConfigurationError, match="one number for each of the 14 features"):
        LinearRanker(np.zeros(8))
    with pytest.raises(ConfigurationError, match="not finite"):
        LinearRanker(np.full(14, np.nan))
    policy = LinearRanker(np.ones(14))
    with pytest.raises(ConfigurationError, match="not those of job ordering"):
        policy.actions({"queue": np.zeros((1, 4, 8), np.float32)}, np.ones((1, 4), bool))
    with pytest.raises(ConfigurationError, match="not those of job ordering"):
        policy.actions({"queue": np.zeros((1, 4, 14), np.float32)}, np.ones((1, 5), bool))


def test_benchmark_measures_something():
    result = benchmark(threads=1, seconds=0.05)
    assert result["threads"] == 1
    assert result["jobs_per_s"] > 0
