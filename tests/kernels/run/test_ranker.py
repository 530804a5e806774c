"""Compiled replays of linear rankers against the encoder, the environment and the rules."""

import numpy as np
import pytest

from agents.linear.policy import LinearRanker
from envs.config import EnvConfig
from envs.session import Session
from envs.workloads import gpu_cluster, lublin_feitelson
from orchestrator.kernels.lang.jit import entry
from orchestrator.kernels.run import linear as ranker
from orchestrator.kernels.see.layout import DEFAULT_NAMES
from orchestrator.scheduling.rules import rule_named

JOBS = 192
BASE = EnvConfig(episode_jobs=JOBS)


@pytest.fixture(scope="module")
def trace():
    return lublin_feitelson(3000, 5)


def random_weights(seed, count=1):
    weights = np.random.default_rng(seed).normal(0.0, 0.3, (count, len(DEFAULT_NAMES)))
    weights[:, DEFAULT_NAMES.index("log_request")] -= 1.0
    return weights.astype(np.float32)


def only(name, weight):
    weights = np.zeros((1, len(DEFAULT_NAMES)), np.float32)
    weights[0, DEFAULT_NAMES.index(name)] = weight
    return weights


def play(weights, session):
    """Play window e in row e, greedily, by the environment's observations."""
    policy = LinearRanker(weights)
    session.reset(windows=np.arange(session.envs))
    while not session.buffers.terminated.all():
        seen = session.observation()
        session.step(policy.actions(seen, seen["action_mask"].astype(bool)))


def bench_of(session):
    shape = session.state.shape
    return ranker.make_bench(shape.jobs, session.config.window, shape.workers)


def ranker_costs(session, weights, e=0):
    costs = np.full((len(weights), len(session.source.episode.starts)), np.nan)
    source, bench = session.source, bench_of(session)
    for m in range(len(session.source.episode.starts)):
        ranker.evaluate_rankers(session.state.rows, e, m, weights, source, bench, costs)
    return costs


@entry
def scores_here(rows, e, weights, bench):
    """Scores of the jobs shown at the decision point at which row ``e`` stands."""
    row = rows[e]
    ranker.prepare_jobs(row, bench)
    ranker.prepare_ranker(row, weights, bench)
    return ranker.score_window(row, bench)


@entry
def replay_here(rows, e, weights, bench):
    """Finish row ``e`` under a ranker."""
    row = rows[e]
    ranker.prepare_jobs(row, bench)
    ranker.prepare_ranker(row, weights, bench)
    return ranker.replay_ranker(row, bench)


@pytest.mark.parametrize("window", [128, 8])
@pytest.mark.parametrize("backfill", [False, True])
def test_scores_are_the_encoders_up_to_rounding(trace, backfill, window):
    config = EnvConfig(episode_jobs=JOBS, backfill=backfill, window=window)
    session = Session(trace, config, 2, np.array([100, 1500]))
    bench = bench_of(session)
    names = list(DEFAULT_NAMES)
    longest = 0
    for seed in range(3):
        weights = random_weights(seed)[0]
        policy = LinearRanker(weights)
        session.reset(windows=np.arange(2))
        while not session.buffers.terminated.all():
            for e in np.flatnonzero(~session.buffers.terminated):
                count = scores_here(session.state.rows, e, weights, bench)
                assert count == session.buffers.mask[e].sum()
                shown = session.buffers.queue[e, :count]
                # All jobs have the free share in common; replays leave it out.
                common = shown[:, names.index("slack")] + shown[:, names.index("demand_share")]
                exact = shown.astype(np.float64) @ weights - common * weights[names.index("slack")]
                assert np.allclose(bench.columns[6, :count], exact, rtol=1e-5, atol=2e-6)
                longest = max(longest, count)
            seen = session.observation()
            session.step(policy.actions(seen, seen["action_mask"].astype(bool)))
    assert longest == 8 if window == 8 else longest > 20


@pytest.mark.parametrize("window", [128, 5])
@pytest.mark.parametrize("backfill", [False, True])
def test_greedy_play_in_the_environment_gives_the_same_starts(trace, backfill, window):
    config = EnvConfig(episode_jobs=JOBS, backfill=backfill, window=window)
    starts = np.arange(0, 2800, 400)
    played = Session(trace, config, len(starts), starts)
    replayed = Session(trace, config, len(starts), starts)
    bench = bench_of(replayed)
    for seed in range(3):
        weights = random_weights(seed)[0]
        play(weights, played)
        replayed.reset(windows=np.arange(len(starts)))
        for e in range(len(starts)):
            replay_here(replayed.state.rows, e, weights, bench)
        assert np.array_equal(played.state.job["start_ms"], replayed.state.job["start_ms"])
        assert np.array_equal(played.state.rows["log_hash"], replayed.state.rows["log_hash"])


def test_gangs_on_several_machines():
    config = EnvConfig(episode_jobs=JOBS, backfill=True)
    starts = np.arange(0, 1200, 300)
    trace = gpu_cluster(1500, 2)
    played = Session(trace, config, len(starts), starts)
    replayed = Session(trace, config, 1, starts)
    weights = random_weights(3)
    play(weights[0], played)
    costs = ranker_costs(replayed, weights)[0]
    assert np.allclose(costs, played.state.rows["settled_excess"], rtol=1e-9)


@pytest.mark.parametrize("backfill", [False, True])
@pytest.mark.parametrize(
    ("rule", "weights"),
    [
        ("sjf", only("log_request", -1.0)),
        ("fcfs", only("log_rank", -1.0)),
        ("fcfs", only("slack", 0)),
    ],
)
def test_rankers_that_are_rules_cost_the_same(trace, backfill, rule, weights):
    config = EnvConfig(episode_jobs=JOBS, backfill=backfill, window=JOBS)
    session = Session(trace, config, 1, np.arange(0, 2800, 700))
    windows = len(session.source.episode.starts)
    expected = np.full(windows, np.nan)
    record = rule_named(rule).to_record()
    source, bench = session.source, bench_of(session)
    for m in range(windows):
        ranker.evaluate_rule(session.state.rows, 0, m, record, source, bench, expected)
    assert np.allclose(ranker_costs(session, weights)[0], expected, rtol=1e-9)
    assert expected.min() > 0.0


def test_costs_are_those_of_the_rewards(trace):
    from envs.reward import RewardConfig

    weights = random_weights(4, 2)
    starts = np.array([10, 900])
    plain = ranker_costs(Session(trace, BASE, 1, starts), weights)
    terms = {"bounded_slowdown": 2.0, "utilisation": 1.0}
    config = EnvConfig(episode_jobs=JOBS, reward=RewardConfig(terms=terms))
    session = Session(trace, config, 2, starts)
    mixed = ranker_costs(session, weights)
    play(weights[1], session)
    rows = session.state.rows
    busy = rows["busy_unit_ms"] / 1000.0 / rows["nominal_units"]
    assert np.allclose(plain[1], rows["settled_excess"])
    assert np.allclose(mixed[1], 2.0 * rows["settled_excess"] - busy)


def test_only_the_range_asked_for_is_filled(trace):
    session = Session(trace, BASE, 2, np.arange(0, 1000, 200))
    weights = random_weights(6, 3)
    whole = ranker_costs(session, weights)
    part = np.full_like(whole, -1.0)
    source, bench = session.source, bench_of(session)
    for m in (1, 2):
        ranker.evaluate_rankers(session.state.rows, 1, m, weights, source, bench, part)
    assert np.array_equal(part[:, 1:3], whole[:, 1:3])
    assert (np.delete(part, [1, 2], axis=1) == -1.0).all()


def test_rows_without_commitment_are_refused(trace):
    config = EnvConfig(episode_jobs=JOBS, commitment=False)
    with pytest.raises(RuntimeError, match="the row has no commitment"):
        ranker_costs(Session(trace, config, 1, np.array([0])), random_weights(0))
