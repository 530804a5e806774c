"""Set networks: the kernel against its twin, and the same decisions wherever they are made."""

import numpy as np
import pytest

from agents.linear.evaluate import RankerEvaluator
from agents.linear.policy import LinearRanker, SetRanker, named_weights
from envs.config import EnvConfig
from envs.session import Session
from envs.workloads import lublin_feitelson
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.run.network import LANES, weight_count, weight_layout
from tests.naive.network import network_scores

JOBS = 192


@pytest.fixture(scope="module")
def trace():
    return lublin_feitelson(3000, 5)


def random_network(hidden, seed=0):
    rng = np.random.default_rng(seed)
    weights = rng.normal(0.0, 0.25, weight_count(hidden)).astype(np.float32)
    weights[:14] += named_weights({"log_request": -1.0}).astype(np.float32)
    return weights


def silenced(weights, hidden):
    """The same with an output layer of zeros."""
    at, _ = weight_layout(hidden)["out"]
    quiet = weights.copy()
    quiet[at:] = 0.0
    return quiet


def test_the_layout_has_no_gaps_and_no_overlaps():
    for hidden in (0, 16, 48):
        at = 0
        for begin, shape in weight_layout(hidden).values():
            assert begin == at
            at += int(np.prod(shape))
        assert at == weight_count(hidden)
    assert weight_count(0) == 14


@pytest.mark.parametrize("hidden", [16, 32])
def test_scores_are_those_of_the_slow_twin(trace, hidden):
    session = Session(trace, EnvConfig(episode_jobs=JOBS), 4, np.array([100, 700, 1500, 2300]))
    session.reset(windows=np.arange(4))
    policy = SetRanker(random_network(hidden, 1), hidden)
    seen, longest, beside = session.observation(), 0, 0
    for step in range(120):
        mask = seen["action_mask"].astype(bool)
        scores = policy._scores(seen, mask)
        for e in np.flatnonzero(mask.any(axis=1)) if step % 7 == 0 else ():
            count = int(mask[e].sum())
            jobs = seen["queue"][e, :count].astype(float)
            exact = network_scores(jobs, seen["global"][e].astype(float), policy.weights, hidden)
            assert np.allclose(scores[e, :count], exact, rtol=1e-4, atol=1e-4)
            longest, beside = max(longest, count), beside + int((jobs[:, 8] > 0).sum())
        session.step(np.where(mask.any(axis=1), policy.actions(seen, mask), 0))
        seen = session.observation()
    assert longest > 20
    assert beside > 20


def test_permuted_jobs_have_permuted_scores():
    rng = np.random.default_rng(3)
    jobs = rng.random((1, 9, 14)).astype(np.float32)
    jobs[..., 8] -= 0.5
    seen = {"queue": jobs, "global": rng.random((1, 8)).astype(np.float32)}
    policy, mask, order = (
        SetRanker(random_network(16), 16),
        np.ones((1, 9), bool),
        rng.permutation(9),
    )
    plain = policy._scores(seen, mask)
    permuted = policy._scores({**seen, "queue": jobs[:, order]}, mask)
    assert np.allclose(plain[:, order], permuted, rtol=1e-5, atol=1e-5)
    fewer = mask.copy()
    fewer[0, [1, 4]] = False
    few = policy._scores({**seen, "queue": jobs}, fewer)
    some = {**seen, "queue": jobs[:, fewer[0]]}
    assert np.array_equal(few[fewer], policy._scores(some, np.ones((1, 7), bool))[0])
    assert np.isneginf(few[~fewer]).all()


@pytest.mark.parametrize("backfill", [False, True])
def test_the_engine_decides_as_the_policy_does_on_observations(trace, backfill):
    config = EnvConfig(episode_jobs=JOBS, backfill=backfill)
    starts = np.arange(0, 2800, 400)
    weights = np.stack([random_network(16, seed) for seed in (4, 5)])
    evaluator = RankerEvaluator(trace, config, 1, hidden=16)
    costs = evaluator.costs(weights, starts)
    evaluator.close()
    session = Session(trace, config, len(starts), starts)
    for k in range(2):
        policy = SetRanker(weights[k], 16)
        session.reset(windows=np.arange(len(starts)))
        while not session.buffers.terminated.all():
            seen = session.observation()
            mask = seen["action_mask"].astype(bool)
            mask[~mask.any(axis=1), 0] = True
            session.step(policy.actions(seen, mask))
        assert np.array_equal(session.state.rows["settled_excess"], costs[k])
    assert not np.array_equal(costs[0], costs[1])


def test_with_an_output_of_zeros_it_is_the_linear_ranker(trace):
    config, starts = EnvConfig(episode_jobs=JOBS), np.arange(0, 2800, 400)
    weights = silenced(random_network(16, 6), 16)
    found = []
    for hidden, given in ((16, weights), (0, weights[:14])):
        evaluator = RankerEvaluator(trace, config, 1, hidden=hidden)
        found.append(evaluator.costs(given[None], starts)[0])
        evaluator.close()
    assert np.allclose(*found, rtol=1e-9)
    assert LinearRanker(weights[:14]).hidden == 0


@pytest.mark.parametrize(
    ("weights", "hidden", "message"),
    [
        (np.zeros(100), 16, r"'weights' has shape \(100,\)"),
        (np.full(weight_count(16), np.nan), 16, "values that are not finite"),
        (np.zeros(weight_count(16)), 8, f"'hidden' is 8; give a multiple of {LANES}"),
    ],
)
def test_senseless_networks_are_refused(weights, hidden, message):
    with pytest.raises(ConfigurationError, match=message):
        SetRanker(weights, hidden)
