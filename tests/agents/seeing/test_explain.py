"""Why an action: what is told is what decides, and asking changes nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import pytest

from agents import LinearRanker, LinearScorer, LookaheadPolicy, explain
from agents.linear.policy import SetRanker
from agents.problem import BatchPolicy
from envs import SchedulingEnv
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.run.network import LANES, weight_count
from orchestrator.kernels.state.codes import ActionKind, Reason
from orchestrator.scheduling.ahead import LookaheadConfig
from orchestrator.scheduling.rules import RULES, rule_named
from tests.agents.evaluation.policies import Scattered
from tests.envs.cases import CASES, pick_legal

_FEW = LookaheadConfig(4, futures=3, arrivals=8, errors=0.5)


def _at(name: str, seed: int, steps: int = 12, **changes: Any) -> SchedulingEnv:
    """An environment after some random steps, at a decision point."""
    env = CASES[name].make(**changes)
    env.reset(seed=seed)
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        if env.step(pick_legal(env.action_masks()[None], rng)[0])[2]:
            env.reset()
    return env


def _chosen(policy: BatchPolicy, env: SchedulingEnv) -> int:
    seen = env.session.observation(slice(0, 1))
    return int(policy.actions(seen, seen["action_mask"].astype(np.bool_))[0])


def _ranker(seed: int) -> LinearRanker:
    return LinearRanker(np.random.default_rng(seed).normal(size=14), "drawn")


def _set_ranker(seed: int) -> SetRanker:
    return SetRanker(0.3 * np.random.default_rng(seed).normal(size=weight_count(LANES)), LANES)


def _scorer(seed: int) -> LinearScorer:
    from orchestrator.scheduling.schema import feature_names

    schema = _at("cluster", 1, 0).config.schema
    names = feature_names(schema, by_head=True)
    return LinearScorer(np.random.default_rng(seed).normal(size=len(names)), schema)


@pytest.mark.parametrize("make", [_ranker, _set_ranker])
@pytest.mark.parametrize("seed", range(3))
def test_a_ranker_takes_the_top_row_and_its_parts_add_up(
    seed: int, make: Callable[[int], LinearRanker | SetRanker]
) -> None:
    env, policy = _at("ordering", seed), make(seed)
    before = env.get_state()
    why = explain(policy, env)
    np.testing.assert_array_equal(env.get_state().content, before.content)
    job = env.session.buffers.window[0, _chosen(policy, env)]
    source = env.session.state.request[0, job]["source_id"]
    assert why.taken.action == f"place job {source}"
    scores = [one.score for one in why.alternatives]
    assert scores == sorted(scores, reverse=True)
    assert len(scores) == min(int(env.action_masks().sum()), 24)
    for one in why.alternatives:
        assert sum(value for _, value in one.parts) == pytest.approx(one.score, abs=1e-4)
    assert str(why).count("\n") == len(scores)


@pytest.mark.parametrize("seed", range(4))
def test_a_scorer_tells_every_legal_action(seed: int) -> None:
    env, policy = _at("cluster", seed), _scorer(seed)
    why = explain(policy, gymnasium.wrappers.TimeLimit(env, 10_000))
    scores = [one.score for one in why.alternatives]
    assert scores == sorted(scores, reverse=True)
    legal = int(env.action_masks().sum())
    assert len(scores) == min(legal, 24)
    assert why.count == legal
    for one in why.alternatives:
        assert sum(value for _, value in one.parts) == pytest.approx(one.score, abs=1e-4)
    env.step(np.int64(_chosen(policy, env)))
    assert env.session.buffers.reason[0] == Reason.OK


def test_a_network_tells_probabilities() -> None:
    from agents.ppo.model import ScorerPolicy, SetScorer
    from orchestrator.scheduling.schema import feature_names

    env = _at("cluster", 2)
    schema = env.config.schema
    scorer = SetScorer(len(feature_names(schema)), len(schema.globals), 8, {0: 1.0, 3: -2.0})
    policy = ScorerPolicy(scorer.state_dict(), schema, 8)
    plain = [one.score for one in explain(policy, env).alternatives]
    assert plain == sorted(plain, reverse=True)
    legal = int(env.action_masks().sum())
    if legal <= 24:
        assert sum(plain) == pytest.approx(1.0)
    policy.gain = 10.0
    sharper = explain(policy, env)
    assert sharper.taken.score >= plain[0]
    assert "probability" in sharper.by


@pytest.mark.parametrize("name", ["fcfs", "sjf", "srtf", "f1", "las", "priority", "elastic_srtf"])
def test_a_rule_takes_the_lowest_key_that_can_start(name: str) -> None:
    rule = RULES[name]
    placed = 0
    for seed in range(3):
        env = _at("cluster", seed, 6)
        state, bench = env.session.state, env.session.bench
        kind, j, _ = entry.rule_action(state.rows, 0, rule.to_record(), bench.jobs)
        why = explain(name, env)
        others = why.alternatives[1:]
        keys = [one.score for one in others]
        assert keys == sorted(keys)
        assert len(others) == state.rows[0]["queue_len"] - (kind == ActionKind.PLACE)
        if kind == ActionKind.WAIT:
            assert why.taken.action == "wait"
            assert math.isnan(why.taken.score)
        elif kind == ActionKind.PLACE:
            placed += 1
            source = state.request[0, j]["source_id"]
            assert why.taken.action == f"place job {source} ({rule.placement.name.lower()})"
            if name not in ("priority",):  # its tiers come before its keys
                free = [one.score for one in others if not one.note]
                assert why.taken.score <= min(free, default=math.inf)
    assert placed > 0


def test_thinking_ahead_tells_gains_and_how_sure_they_are() -> None:
    switched = 0
    for seed in range(6):
        env = _at("ordering", seed)
        policy = LookaheadPolicy(rule_named("fcfs"), _FEW, env.session.trace.requests[:100])
        before = env.get_state()
        why = explain(policy, env)
        np.testing.assert_array_equal(env.get_state().content, before.content)
        own = [one for one in why.alternatives if one.note == "its own action"]
        assert [one.score for one in own] == [0.0]
        tried = [one for one in why.alternatives if "standard error" in one.note]
        for one in tried:
            error = float(one.note.split()[1])
            least = float(one.note.rsplit(" ", 1)[1])
            assert least == pytest.approx(0.5 * error, rel=0.01)
        if why.taken is not own[0]:
            switched += 1
            assert why.taken.score > float(why.taken.note.rsplit(" ", 1)[1])
            assert why.taken.score == max(one.score for one in tried)
    assert switched > 0


def test_who_does_not_say_is_not_made_to() -> None:
    env = _at("cluster", 1)
    why = explain(Scattered(), env)
    assert len(why.alternatives) == 1
    assert math.isnan(why.taken.score)
    assert "does not say" in why.by


def test_what_cannot_be_explained_is_refused() -> None:
    env = CASES["ordering"].make()
    with pytest.raises(ConfigurationError, match="no decision"):
        explain("sjf", env)
    with pytest.raises(ConfigurationError, match="no environment of Quartermaster"):
        explain("sjf", gymnasium.make("CartPole-v1"))
    env.reset(seed=1)
    with pytest.raises(ConfigurationError, match="nosuchrule"):
        explain("nosuchrule", env)
    env.roll_out("sjf")
    with pytest.raises(ConfigurationError, match="no decision"):
        explain("sjf", env)
