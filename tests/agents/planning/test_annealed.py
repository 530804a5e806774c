"""Schedules with known futures: orders are played by the engine, and the best one is found."""

import itertools

import numpy as np
import pytest

from agents.evaluation.play import evaluate_policy, evaluate_rule
from agents.planning.annealed import AnnealedSchedule, Annealing
from agents.problem import RowPolicy, Windows
from envs.config import CLUSTER, EnvConfig
from envs.session import Session
from envs.workloads import lublin_feitelson
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.run.linear import play_order

JOBS, STARTS = 96, np.array([100, 900, 1700])


@pytest.fixture(scope="module")
def trace():
    return lublin_feitelson(3000, 5)


def played(session, window, order):
    """What a window costs in an order."""
    session.begin(np.array([window]))
    nodes = np.zeros(session.state.shape.workers, np.int32)
    return play_order(session.state.rows, 0, order, nodes, session.config.reward.weights)


@pytest.mark.parametrize("backfill", [False, True])
def test_an_order_by_a_key_is_the_rule_of_that_key(trace, backfill):
    windows = Windows(trace, EnvConfig(episode_jobs=JOBS, backfill=backfill), STARTS)
    session = windows.session(1)
    for rule in ("fcfs", "sjf"):
        ended = evaluate_rule(rule, windows).values["bounded_slowdown"]
        for m, start in enumerate(STARTS):
            asks = trace.requests[start : start + JOBS]
            key = asks["requested_ms"] if rule == "sjf" else asks["submit_ms"]
            order = np.empty(JOBS)
            order[np.argsort(key, kind="stable")] = np.arange(JOBS)
            assert played(session, m, order) / JOBS + 1.0 == pytest.approx(ended[m])


def test_annealing_finds_the_best_of_all_orders_of_a_few_jobs():
    jobs = lublin_feitelson(400, 8, processors=8, load=40.0)
    config = EnvConfig(episode_jobs=6)
    session = Session(jobs, config, 1, np.array([60, 120, 300]))
    gained = 0
    for m in range(3):
        costs = [played(session, m, np.array(o, float)) for o in itertools.permutations(range(6))]
        session.begin(np.array([m]))
        AnnealedSchedule(Annealing(400, reach=3.0)).player_on(session)()
        found = float(session.state.rows[0]["settled_excess"])
        assert found == pytest.approx(min(costs))
        gained += min(costs) < costs[0]
    assert gained > 0


@pytest.mark.parametrize("backfill", [False, True])
def test_it_beats_the_rules_on_whole_windows_the_same_each_time(trace, backfill):
    windows = Windows(trace, EnvConfig(episode_jobs=JOBS, backfill=backfill), STARTS)
    policy = AnnealedSchedule(Annealing(300, seed=2))
    assert isinstance(policy, RowPolicy)
    first, again = (
        evaluate_policy(policy, windows, threads=n).values["bounded_slowdown"] for n in (1, 2)
    )
    assert np.array_equal(first, again)
    rules = [evaluate_rule(rule, windows).values["bounded_slowdown"] for rule in ("sjf", "f1")]
    assert (first <= rules[0]).all()  # it begins there
    assert first.mean() < np.min(rules, axis=0).mean()


def test_what_cannot_be_annealed_is_refused(trace):
    with pytest.raises(ConfigurationError, match="'hot' is 0"):
        Annealing(hot=0.0)
    with pytest.raises(ConfigurationError, match="'moves'"):
        Annealing(-1)
    session = Session(trace, CLUSTER.for_nodes(1), 1, np.array([0]))
    with pytest.raises(ConfigurationError, match="set 'commitment' of the environment to true"):
        AnnealedSchedule().player_on(session)
