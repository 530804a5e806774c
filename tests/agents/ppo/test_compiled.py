"""The compiled scorer scores as the network does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from agents.bundle import load_bundle, read_manifest, restore_environment
from agents.linear.policy import LinearScorer
from agents.ppo.compiled import CompiledScorer
from agents.ppo.model import ActionSet, ScorerPolicy, SetScorer
from agents.problem import ScoringPolicy
from envs.session import Session
from envs.workloads import Trace
from orchestrator.scheduling.schema import advice_column, feature_names
from tests.kernels.run.test_scorer import ELASTIC, STARTS, trace

_PUBLISHED = Path(__file__).resolve().parents[3] / "results" / "philly"


@pytest.mark.parametrize(("width", "inputs", "units"), [(59, 8, 32), (7, 1, 3), (130, 20, 128)])
def test_scores_are_the_networks(width: int, inputs: int, units: int) -> None:
    torch.manual_seed(width)
    rng = np.random.default_rng(width)
    network = SetScorer(width, inputs, units, {})
    torch.nn.init.normal_(network.linear.weight, std=0.3)
    torch.nn.init.normal_(network.out.weight, std=0.3)
    arrays = {name: value.numpy() for name, value in network.state_dict().items()}
    compiled = CompiledScorer(arrays)
    for count in (1, 2, 33, 160):
        vectors = rng.normal(size=(count, width)) * (rng.random((count, width)) < 0.4)
        vectors = vectors.astype(np.float32)
        state = rng.normal(size=inputs).astype(np.float32)
        legal = ActionSet(
            torch.from_numpy(vectors), torch.tensor([count]), torch.from_numpy(state[None])
        )
        with torch.inference_mode():
            wanted = network(legal).numpy()
        found = compiled.score(vectors, state)
        np.testing.assert_allclose(found, wanted, atol=1e-5, rtol=1e-5)
        assert found.argmax() == wanted.argmax()
        assert found.tobytes() == compiled.score(vectors, state).tobytes()
        # Each action by itself: no sum depends on who else is legal.
        alone = [compiled.score(vectors[k : k + 1], state)[0] for k in range(count)]
        assert found.tobytes() == np.array(alone, np.float32).tobytes()


def _random_weights(by_head: bool) -> ScorerPolicy:
    torch.manual_seed(5)
    schema = ELASTIC.schema
    prior = {advice_column(schema, by_head): 1.0}
    scorer = SetScorer(len(feature_names(schema, by_head)), len(schema.globals), 16, prior)
    torch.nn.init.normal_(scorer.out.weight, std=0.5)
    return ScorerPolicy(scorer.state_dict(), schema, 16, by_head=by_head)


def _linear() -> LinearScorer:
    schema = ELASTIC.schema
    width = len(feature_names(schema, by_head=True))
    return LinearScorer(np.random.default_rng(2).normal(0.0, 0.2, width), schema)


@pytest.mark.parametrize(
    "make", [lambda: _random_weights(True), lambda: _random_weights(False), _linear]
)
def test_the_best_score_is_the_action_that_is_taken(make) -> None:
    policy = make()
    assert isinstance(policy, ScoringPolicy)
    _require_alike(policy, trace(), replace(ELASTIC), STARTS)


def _require_alike(policy, jobs: Trace, config, starts) -> None:
    """In episodes whose actions are drawn, so that all kinds of states are seen."""
    session = Session(jobs, config, 1, starts)
    rng, seen_heads, asked = np.random.default_rng(0), set(), 0
    for window in range(3):
        session.reset(windows=np.array([window]))
        for _ in range(60):
            if session.buffers.terminated[0]:
                break
            seen = session.observation()
            mask = seen["action_mask"].astype(np.bool_)
            if mask.sum() == 0:
                break
            told = policy.score(seen, mask)
            assert sorted(told.actions.tolist()) == np.flatnonzero(mask[0]).tolist()
            assert told.best == policy.actions(seen, mask)[0]
            seen_heads |= {
                head.name
                for head in session.schema.actions.heads
                if head.offset <= told.best < head.offset + head.size
            }
            asked += 1
            session.step(np.array([rng.choice(np.flatnonzero(mask[0]))]))
    assert asked > 50
    assert len(seen_heads) > 1


@pytest.mark.parametrize("name", ["ppo", "cma"])
def test_published_policies_score_what_they_take(name: str) -> None:
    manifest = read_manifest(_PUBLISHED / name)
    trained = restore_environment(manifest.environment)
    policy = load_bundle(_PUBLISHED / name, trained.schema)
    config = replace(trained, episode_jobs=ELASTIC.episode_jobs)
    _require_alike(policy, trace(), config, STARTS)
