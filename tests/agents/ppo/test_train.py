"""A very short training run: what it leaves behind, and how it goes on."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.bundle import load_bundle, read_manifest, restore_environment
from agents.evaluation.play import evaluate_policy
from agents.ppo.train import PPOTrainer, _Rate, keep_freed_memory
from agents.problem import Problem, Windows
from agents.testing import check_batch_policy
from agents.tracking import NullTracker
from agents.training import Budget, Course, TrainingResult
from envs import CLUSTER, JOB_ORDERING, EnvConfig, RewardConfig
from orchestrator.errors import ConfigurationError, SchemaMismatchError
from orchestrator.kernels.see.queue import Encoding
from tests.envs.cases import gpu_trace, lublin_trace

_ORDERING = replace(
    JOB_ORDERING, window=16, episode_jobs=24, skip_forced=True, reward=RewardConfig(reference="sjf")
)
_CLUSTER = replace(CLUSTER, window=6, victims=3, episode_jobs=12, step_limit=60)
_UPDATE = 4 * 8  # steps between updates


class _Remembering(NullTracker):
    def __init__(self) -> None:
        self.told: list[tuple[int, Mapping[str, float]]] = []

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.told.append((step, dict(metrics)))


def _problem(config: EnvConfig, seed: int = 0) -> Problem:
    trace = lublin_trace() if config.commitment else gpu_trace()
    return Problem(trace, config, evaluation_jobs=40, seed=seed)


def _trainer(**changes: Any) -> PPOTrainer:
    small: dict[str, Any] = {
        "total_steps": 2 * _UPDATE,
        "budget_seconds": 600.0,
        "envs": 4,
        "steps": 8,
        "batch": 16,
        "epochs": 1,
        "hidden": 8,
        "critic_summary": 8,
        "validate_every": 1,
        "validation_windows": 3,
        "windows": 16,
        "threads": 1,
    }
    return PPOTrainer(**{**small, **changes})


def _train(output: Path, config: EnvConfig = _ORDERING, **changes: Any) -> TrainingResult:
    return _trainer(**changes).train(_problem(config), _Remembering(), output)


def _assert_same_choices(config: EnvConfig, first: Any, second: Any) -> None:
    trace = lublin_trace() if config.commitment else gpu_trace()
    results = [evaluate_policy(p, Windows(trace, config, np.arange(5))) for p in (first, second)]
    slowdowns = [result.values["bounded_slowdown"] for result in results]
    assert (slowdowns[0] >= 1).all()
    np.testing.assert_array_equal(*slowdowns)


def test_two_updates_leave_a_bundle_that_loads(tmp_path: Path) -> None:
    tracker = _Remembering()
    result = _trainer().train(_problem(_ORDERING), tracker, tmp_path)
    assert result.bundle == tmp_path / "bundle"
    manifest = read_manifest(result.bundle)
    assert (manifest.kind, manifest.seed) == ("ppo", 0)
    assert manifest.training["total_steps"] == 2 * _UPDATE
    assert manifest.training["algorithm"] == "MaskablePPO"
    _assert_same_choices(_ORDERING, load_bundle(result.bundle, _ORDERING.schema), result.policy)
    published = replace(_ORDERING, encoding=Encoding.PUBLISHED)
    with pytest.raises(SchemaMismatchError):
        load_bundle(result.bundle, published.schema)
    steps = [step for step, _ in tracker.told]
    assert steps[0] == 0
    assert steps[-1] == 2 * _UPDATE
    assert steps == sorted(steps)
    assert [entry for _, entry in tracker.told] == result.history
    assert all(np.isfinite(entry["score"]) for entry in result.history)
    assert (tmp_path / "checkpoint.pt").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "checkpoint.pt"]


def test_own_parts_are_trained_with_and_named_by_the_bundle(tmp_path: Path) -> None:
    """A network, a feature, a reward term and a reference of one's own."""
    parts = "examples.own_parts"
    config = replace(
        _ORDERING,
        features=(f"{parts}.feature:TenantsCrowd",),
        reward=RewardConfig({"wait": 1.0, f"{parts}.reward:late_hours": 1.0}),
    )
    own = {
        "network": f"{parts}.network:BesideTheMean",
        "reference": f"{parts}.observations:LeastArea",
    }
    result = _train(tmp_path, config, **own)
    manifest = read_manifest(result.bundle)
    assert manifest.model["network"] == own["network"]
    assert manifest.features["queue"][-1] == "tenants_crowd"
    assert restore_environment(manifest.environment) == config
    again = load_bundle(result.bundle, config.schema)
    _assert_same_choices(config, again, result.policy)
    check_batch_policy(lambda: again, config)
    with pytest.raises(SchemaMismatchError, match="tenants_crowd"):
        load_bundle(result.bundle, _ORDERING.schema)


def test_training_starts_as_good_as_its_prior(tmp_path: Path) -> None:
    """Before the first update, the policy that is validated is shortest job first."""
    result = _train(tmp_path, replace(_ORDERING, window=40))  # the whole queue is seen
    first = result.history[0]
    assert first["steps"] == 0
    assert first["validation"] == pytest.approx(first["reference"], rel=1e-6)
    assert min(entry["score"] for entry in result.history) <= first["score"]


def test_weights_change_and_the_same_seed_gives_the_same_ones(tmp_path: Path) -> None:
    states = []
    for name in ("a", "b"):
        _train(tmp_path / name)
        states.append(torch.load(tmp_path / name / "checkpoint.pt", weights_only=True)["policy"])
    for key, value in states[0].items():
        torch.testing.assert_close(value, states[1][key], rtol=0, atol=0)
    assert states[0]["scorer.out.weight"].abs().sum() > 0


def test_a_run_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    before = _train(tmp_path)
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    after = _train(tmp_path, resume=True, total_steps=4 * _UPDATE)
    assert after.history[: len(before.history)] == before.history
    assert len(after.history) > len(before.history)
    assert after.history[-1]["steps"] == 4 * _UPDATE
    assert after.history[-1]["seconds"] > before.history[-1]["seconds"]
    now = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert (now["steps"], now["updates"]) == (4 * _UPDATE, 4)
    assert now["lowest"].mean() <= saved["lowest"].mean()
    load_bundle(after.bundle, _ORDERING.schema)


def test_resuming_a_finished_run_trains_no_more(tmp_path: Path) -> None:
    before = _train(tmp_path)
    after = _train(tmp_path, resume=True)
    assert after.history[-1]["steps"] == before.history[-1]["steps"]
    _assert_same_choices(_ORDERING, before.policy, after.policy)


def test_resuming_without_a_checkpoint_begins(tmp_path: Path) -> None:
    result = _train(tmp_path, resume=True)
    assert result.history[0]["steps"] == 0


def test_the_time_budget_ends_training(tmp_path: Path) -> None:
    result = _train(tmp_path, budget_seconds=0.0, total_steps=10**6)
    assert result.history[-1]["steps"] <= _UPDATE
    load_bundle(result.bundle)


@pytest.mark.parametrize(
    ("limits", "updates"),
    [
        ({"generations": 3, "total_steps": None, "budget_seconds": None}, 3),
        ({"generations": 1, "total_steps": 2 * _UPDATE}, 1),
        ({"generations": 9, "total_steps": 2 * _UPDATE, "budget_seconds": None}, 2),
    ],
)
def test_each_limit_ends_training(tmp_path: Path, limits: dict[str, Any], updates: int) -> None:
    result = _train(tmp_path, **limits)
    assert (result.updates, result.history[-1]["steps"]) == (updates, updates * _UPDATE)


def test_without_a_limit_of_steps_the_rate_falls_with_the_time() -> None:
    course = Course("PPO", Budget(1000.0), NullTracker(), seconds_before=500.0)
    timed = _Rate(_trainer(total_steps=None, budget_seconds=1000.0, learning_rate=1.0))
    counted = _Rate(_trainer(total_steps=100, budget_seconds=1000.0, learning_rate=1.0))
    assert timed(1.0) == 1.0  # before there is a course
    timed.course = counted.course = course
    assert timed(1.0) == pytest.approx(0.1 + 0.9 * 0.5, abs=0.01)
    assert counted(0.8) == pytest.approx(0.1 + 0.9 * 0.8)


@pytest.mark.parametrize("metric", ["slowness", "utilisation"])
def test_metrics_to_choose_by_are_known_and_better_lower(metric: str) -> None:
    with pytest.raises(ConfigurationError, match=f"'{metric}'; choose from bounded_slowdown"):
        _trainer(metric=metric)


def test_clusters_with_preemption_can_be_learned(tmp_path: Path) -> None:
    """Several heads, candidates, victims and truncated episodes."""
    prior = {"log_request": -2.0, "head:wait": -20.0, "head:preempt": -20.0}
    result = _train(tmp_path, _CLUSTER, prior=prior, metric="completion_time")
    _assert_same_choices(_CLUSTER, load_bundle(result.bundle, _CLUSTER.schema), result.policy)


def test_the_c_library_takes_the_settings_or_is_left_alone() -> None:
    glibc = sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt")
    assert keep_freed_memory() is glibc


@pytest.mark.parametrize(
    ("config", "changes", "words"),
    [
        (replace(_ORDERING, window=12), {}, "'env'"),
        (_ORDERING, {"hidden": 16}, "'agent.hidden'"),
        (_ORDERING, {"metric": "wait", "envs": 8}, "'agent.envs', 'agent.metric'"),
    ],
)
def test_checkpoints_of_other_problems_and_settings_are_refused(
    tmp_path: Path, config: EnvConfig, changes: dict[str, Any], words: str
) -> None:
    _train(tmp_path)
    with pytest.raises(ConfigurationError, match=f"made with other values of {words}; give those"):
        _train(tmp_path, config, resume=True, **changes)
    (tmp_path / "checkpoint.pt").write_bytes(b"nonsense")
    with pytest.raises(ConfigurationError, match=r"checkpoint\.pt: cannot be read \(.*delete it"):
        _train(tmp_path, resume=True)


def test_what_was_not_trained_says_so(tmp_path: Path) -> None:
    assert _train(tmp_path / "none", budget_seconds=0.0).updates == 0
    assert _train(tmp_path / "two").updates == 2
    assert _train(tmp_path / "two", resume=True).updates == 2
