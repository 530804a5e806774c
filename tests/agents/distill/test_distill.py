"""Distillation: torch scores as the engine does, lessons follow play, training keeps the best."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from agents.bundle import Origin, PolicyParts, load_bundle, save_bundle
from agents.distill.lessons import Lessons, collect, join
from agents.distill.model import Batch, SetNetwork
from agents.distill.settings import DistillSettings
from agents.distill.train import DistillTrainer, expected_loss, learn
from agents.linear.policy import LinearRanker, SetRanker, named_weights
from agents.planning.lookahead import LookaheadPolicy
from agents.problem import Problem, Windows
from agents.tracking import NullTracker
from envs.config import EnvConfig
from envs.workloads import lublin_feitelson
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.run.network import weight_count
from orchestrator.scheduling.ahead import LookaheadConfig

SJF = named_weights({"log_request": -1.0}).astype(np.float32)
WINDOW = 64


@pytest.fixture(scope="module")
def problem():
    config = EnvConfig(backfill=True, episode_jobs=WINDOW)
    return Problem(lublin_feitelson(4000, 3, load=1.2), config, evaluation_jobs=WINDOW, seed=2)


@pytest.fixture(scope="module")
def base(problem, tmp_path_factory):
    parts = PolicyParts("linear_ranker", {"weights": SJF})
    return save_bundle(tmp_path_factory.mktemp("base") / "b", parts, Origin(problem.config, 0))


def drawn_lessons(count, seed=0):
    """Windows in which choosing the second job gains if few wait, and costs if many do."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(3, 12, count)
    gains = np.where(counts < 7, 5.0, -5.0) + rng.normal(0.0, 1.0, count)
    jobs = rng.random((int(counts.sum()), 14)).astype(np.float32)
    jobs[np.cumsum(counts) - counts + 1, 0] = 3.0  # so that the second one can be told from others
    return Lessons(
        jobs=jobs,
        counts=counts,
        around=np.stack([counts / 10.0] * 8, axis=1).astype(np.float32),
        tried=np.tile([0, 1, -1], (count, 1)),
        gains=np.stack([np.zeros(count), gains, np.zeros(count)], axis=1).astype(np.float32),
        errors=np.tile([0.0, 1.0, 0.0], (count, 1)).astype(np.float32),
    )


def test_torch_scores_as_the_engine_does():
    weights = np.random.default_rng(1).normal(0.0, 0.25, weight_count(16)).astype(np.float32)
    network = SetNetwork(SJF, 16, seed=0)
    assert network.vector()[:14] == pytest.approx(SJF)
    network.load_vector(weights)
    assert np.array_equal(network.vector(), weights)
    lessons = drawn_lessons(20)
    batch = Batch.of(lessons, np.arange(20)[::-1].copy())
    mask, seen = batch.there.numpy(), {"queue": batch.jobs.numpy(), "global": batch.around.numpy()}
    policy = SetRanker(weights, 16)
    engine = policy._scores(seen, mask)
    ours = network(batch).detach().numpy()
    assert np.array_equal(np.isneginf(ours), ~mask)
    assert np.allclose(ours[mask], engine[mask], rtol=1e-4, atol=1e-4)


def test_gains_that_the_window_tells_of_are_learned():
    settings = DistillSettings(epochs=12, batch=64, learning_rate=1e-2)
    network = SetNetwork(np.zeros(14), 16, seed=0)
    lots, unseen = [drawn_lessons(300, 1), drawn_lessons(300, 2)], drawn_lessons(300, 3)
    learn(network, lots, settings, 0)
    batch = Batch.of(unseen, np.arange(len(unseen)))
    with torch.no_grad():
        scores = network(batch)
        chosen = (scores[:, 1] > scores[:, 0]).numpy()
        loss = float(expected_loss(network, batch, replace(settings, pull=0.0)))
    assert (chosen == (unseen.counts < 7)).mean() > 0.9
    assert loss < -1.0
    assert len(join(lots)) == 600


def test_lessons_are_the_same_on_any_number_of_threads(problem):
    teacher = LookaheadPolicy(LinearRanker(SJF), LookaheadConfig(actions=3, futures=3, arrivals=8))
    starts = problem.parts.starts("train", 3, WINDOW, 0)
    windows = Windows(problem.trace, problem.judged.config, starts)
    record = problem.trace.requests[:2400]
    found = [collect(teacher, windows, record, 10**6, threads=n, follow=0.5) for n in (1, 2)]
    for name in Lessons.__dataclass_fields__:
        assert np.array_equal(*(getattr(lessons, name) for lessons in found))
    lessons = found[0]
    assert len(lessons) > 20
    assert lessons.counts.sum() == len(lessons.jobs)
    assert (lessons.tried[:, 0] >= 0).all()
    assert (lessons.tried < lessons.counts[:, None]).all()
    assert (lessons.gains[:, 0] == 0.0).all()
    assert (lessons.errors > 0.0).any()
    request = 1  # log_request: the ranker's own choice is the shortest of the window
    first = np.cumsum(lessons.counts) - lessons.counts
    own = lessons.jobs[first + lessons.tried[:, 0], request]
    assert np.array_equal(own, np.minimum.reduceat(lessons.jobs[:, request], first))


def test_training_leaves_a_bundle_that_is_no_worse_than_its_base(problem, base, tmp_path):
    trainer = DistillTrainer(
        base=str(base),
        generations=1,
        lessons=30,
        actions=3,
        futures=3,
        arrivals=8,
        epochs=1,
        batch=16,
        validation_windows=8,
    )
    result = trainer.train(problem, NullTracker(), tmp_path)
    policy = load_bundle(result.bundle, problem.config.schema)
    assert isinstance(policy, SetRanker)
    assert np.array_equal(policy.weights, result.policy.weights)
    assert [entry["steps"] for entry in result.history] == [0, 1]
    assert result.score == min(entry["score"] for entry in result.history)
    assert result.history[1]["lessons"] >= 30


def test_what_cannot_be_distilled_is_refused(problem, tmp_path):
    with pytest.raises(ConfigurationError, match="'base' is empty"):
        DistillTrainer().train(problem, NullTracker(), tmp_path)
    with pytest.raises(ConfigurationError, match="'hidden' is 20; give a multiple of 16"):
        DistillSettings(hidden=20)
    with pytest.raises(ConfigurationError, match="'follow' is 2"):
        DistillSettings(follow=2.0)
