"""Compiled scorers of all actions against the rules, the environment and a packed twin."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from agents.evaluation.play import evaluate_policy
from agents.linear.evaluate import ScorerEvaluator, scoring_of
from agents.linear.policy import LinearScorer
from agents.ppo.batches import ActionPacker
from agents.problem import Windows
from envs.config import CLUSTER, EnvConfig
from envs.session import Session
from envs.workloads import Enrichment, Trace, enrich, gpu_cluster
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.run.linear import best_actions
from orchestrator.kernels.see.layout import SETS, Resizing, VectorPart
from orchestrator.kernels.state.codes import NEVER, Placement, RuleKey
from orchestrator.scheduling.rules import rule_named
from orchestrator.scheduling.schema import (
    FeatureSchema,
    advice_column,
    feature_names,
    named_vector,
    vector_layout,
)

JOBS = 60
ELASTIC = replace(
    CLUSTER,
    window=JOBS,
    window_order=RuleKey.SRTF,
    placements=(Placement.BEST_FIT,),
    victims=JOBS,
    elastics=JOBS,
    preemption_limit=8,
    advice="elastic_srtf",
    episode_jobs=JOBS,
)
STARTS = np.arange(0, 300, 60)


@cache
def trace() -> Trace:
    busy = gpu_cluster(400, 4, nodes=4, gpus_per_node=4, load=1.3)
    options = Enrichment(costs=False, estimates=False, preemptible_share=None, elastic_share=0.8)
    return enrich(busy, options)


def random_weights(config: EnvConfig, seed: int) -> NDArray[np.float32]:
    names = feature_names(config.schema, by_head=True)
    weights = np.random.default_rng(seed).normal(0.0, 0.1, len(names))
    weights[-1] = 1.0
    return weights.astype(np.float32)


@pytest.mark.parametrize(
    ("rule", "resizing"),
    [
        ("elastic_srtf", Resizing.STEPS),
        ("elastic_srtf", Resizing.SIZES),
        ("fill_srsf", Resizing.SIZES),
        ("srtf", Resizing.STEPS),
        ("elastic_fcfs", Resizing.STEPS),
        ("priority", Resizing.STEPS),
    ],
)
def test_following_advice_is_following_the_rule(rule: str, resizing: Resizing) -> None:
    config = replace(ELASTIC, advice=rule, window_order=rule_named(rule).key, resizing=resizing)
    evaluator = ScorerEvaluator(trace(), config, 1)
    advice = named_vector(config.schema, {"advice": 1.0}, by_head=True)[None]
    expected = evaluator.rule_costs(rule_named(rule), STARTS)
    np.testing.assert_array_equal(evaluator.costs(advice, STARTS)[0], expected)
    # Not for want of anything to decide:
    assert not np.array_equal(expected, evaluator.rule_costs(rule_named("fcfs"), STARTS))
    evaluator.close()


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_environment_comes_to_the_same_costs(seed: int) -> None:
    weights = random_weights(ELASTIC, seed)
    evaluator = ScorerEvaluator(trace(), ELASTIC, 1)
    costs = evaluator.costs(weights[None], STARTS)[0] / JOBS
    evaluator.close()
    policy = LinearScorer(weights, ELASTIC.schema)
    played = evaluate_policy(policy, Windows(trace(), ELASTIC, STARTS), keep_jobs=0)
    np.testing.assert_allclose(played.values["completion_time"], costs, rtol=1e-9)


def test_threads_do_not_change_costs() -> None:
    weights = np.stack([random_weights(ELASTIC, seed) for seed in range(3)])
    one, three = (ScorerEvaluator(trace(), ELASTIC, threads) for threads in (1, 3))
    np.testing.assert_array_equal(one.costs(weights, STARTS), three.costs(weights, STARTS))
    one.close()
    three.close()


def test_what_takes_too_many_actions_is_finished_and_costs_twice() -> None:
    hasty = replace(ELASTIC, step_limit=1)
    evaluator = ScorerEvaluator(trace(), hasty, 1)
    advice = named_vector(hasty.schema, {"advice": 1.0}, by_head=True)[None]
    rule = evaluator.rule_costs(rule_named("elastic_srtf"), STARTS)
    np.testing.assert_array_equal(evaluator.costs(advice, STARTS)[0], 2.0 * rule)
    evaluator.close()


@pytest.mark.parametrize(
    ("limit", "length", "expected"),
    [(None, JOBS, 100 * JOBS), (None, 7, 700), (9, JOBS, 9), (0, JOBS, NEVER)],
)
def test_scorers_may_take_as_many_actions_as_episodes_steps(
    limit: int | None, length: int, expected: int
) -> None:
    config = replace(ELASTIC, step_limit=limit)
    buffers = Session(trace(), config, 1, STARTS).buffers
    assert scoring_of(config, buffers, length).step_limit == expected


def _observations(config: EnvConfig) -> tuple[dict[str, NDArray[Any]], NDArray[np.bool_]]:
    """States along the way of a random policy."""
    session = Session(trace(), config, 3, STARTS)
    session.reset(windows=np.arange(3))
    rng = np.random.default_rng(0)
    seen = []
    for _ in range(40):
        masks = session.buffers.mask.astype(bool)
        actions = [rng.choice(np.flatnonzero(mask)) if mask.any() else 0 for mask in masks]
        seen.append({name: part.copy() for name, part in session.observation().items()})
        session.step(np.array(actions, np.int64))
    together = {name: np.concatenate([s[name] for s in seen]) for name in seen[0]}
    return together, together["action_mask"].astype(bool)


def _slowly(
    schema: FeatureSchema,
    seen: dict[str, NDArray[Any]],
    mask: NDArray[np.bool_],
    weights: NDArray[np.float32],
) -> list[int]:
    """The same from vectors that are written down."""
    packed = ActionPacker(schema).pack(seen, mask)
    chosen, first = [], 0
    for count in packed.counts:
        mine = slice(first, first + count)
        scores = packed.vectors[mine].astype(np.float64) @ weights.astype(np.float64)
        chosen.append(int(packed.actions[mine][scores.argmax()]) if count else -1)
        first += count
    return chosen


@pytest.mark.parametrize("resizing", Resizing)
def test_scores_are_those_of_packed_vectors(resizing: Resizing) -> None:
    config = replace(
        ELASTIC,
        window=12,
        victims=5,
        elastics=4,
        placements=(Placement.BEST_FIT, Placement.SPREAD),
        migrate=True,
        resizing=resizing,
    )
    schema = config.schema
    seen, mask = _observations(config)
    nothing = np.zeros((len(mask), 1, 0), np.float32)
    sets = tuple(seen.get(part, nothing) for part in SETS)
    sizes = [part.shape[1] if part.shape[2] else 0 for part in sets]
    layout = vector_layout(schema, sizes)
    rng, taken = np.random.default_rng(7), set[int]()
    for _ in range(20):
        weights = rng.normal(size=len(feature_names(schema))).astype(np.float32)
        chosen = np.empty(len(mask), np.int64)
        best_actions(
            sets,
            seen["advice"],
            seen["action_mask"],
            layout,
            advice_column(schema),
            weights,
            chosen,
        )
        expected = np.array(_slowly(schema, seen, mask, weights))
        assert (chosen == expected).mean() > 0.98  # float32 sums may swap two actions
        taken |= set(chosen.tolist())
    assert len(taken) > 15


def test_heads_of_their_own_have_columns_of_their_own() -> None:
    names = feature_names(ELASTIC.schema, by_head=True)
    assert len(set(names)) == len(names)
    assert {"log_wait", "preempt:helps", "shrink:size", "grow:size", "head:wait"} <= set(names)
    layout = vector_layout(ELASTIC.schema, [JOBS] * 4 + [0, 0, 0], by_head=True)
    columns, sets = layout[:, VectorPart.COLUMN], layout[:, VectorPart.SET]
    blocks = sorted(zip(columns[sets >= 0].tolist(), sets[sets >= 0].tolist(), strict=True))
    widths = {at: len(getattr(ELASTIC.schema, part)) for at, part in enumerate(SETS)}
    end = 0
    for start, part in blocks:
        assert start == end
        end += widths[part]
    hot = layout[sets != SETS.index("candidates"), VectorPart.ONE_HOT]
    assert sorted(hot.tolist()) == list(range(end, end + 5))


def test_a_ranking_environment_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="set 'commitment' of the environment to false"):
        ScorerEvaluator(trace(), EnvConfig(), 1)


def test_wrong_weights_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="'weights' has shape"):
        LinearScorer(np.zeros(3), ELASTIC.schema)
    with pytest.raises(ConfigurationError, match="unknown feature 'grow:colour'"):
        LinearScorer.from_names({"grow:colour": 1.0}, ELASTIC.schema)
