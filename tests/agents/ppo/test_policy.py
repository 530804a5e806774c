"""The actor-critic: where it starts, what it samples, and the same scorer without it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from agents.ppo.model import ScorerPolicy
from agents.ppo.rollout import SetPolicy
from agents.ppo.settings import PPOSettings
from envs import JOB_ORDERING, Session
from envs.gym import action_space, observation_space
from envs.workloads import lublin_feitelson
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.state.codes import ActionKind
from orchestrator.scheduling.rules import rule_named
from tests.agents.ppo.states import NAMES, session_of, visit
from tests.envs.cases import CASES

_HIDDEN = 8


def _policy(session: Session, prior: Mapping[str, float] | None = None) -> SetPolicy:
    torch.manual_seed(0)
    policy = SetPolicy(
        observation_space(session.config),
        action_space(session.config),
        lambda _: 1e-3,
        schema=session.schema,
        settings=PPOSettings(hidden=_HIDDEN, prior=prior or {}, gain=10.0),
    )
    return policy.eval()


def _trained(session: Session) -> SetPolicy:
    """A policy with an opinion."""
    policy = _policy(session)
    torch.nn.init.normal_(policy.scorer.out.weight)
    torch.nn.init.normal_(policy.scorer.linear.weight)
    return policy


@pytest.mark.parametrize("backfill", [False, True])
def test_starts_at_shortest_job_first(backfill: bool) -> None:
    trace = lublin_feitelson(500, 9, processors=64, load=1.4)
    config = replace(JOB_ORDERING, episode_jobs=120, backfill=backfill)
    session = Session(trace, config, 3, part="all")
    policy = _policy(session, {"log_request": -2.0})
    rule, scratch = rule_named("sjf").to_record(), np.zeros(120, np.int32)
    choices = 0
    for seen in visit(session, 150):
        with torch.no_grad():
            actions, _ = policy.predict(
                seen, action_masks=seen["action_mask"].astype(bool), deterministic=True
            )
        for e, action in enumerate(actions):
            kind, job, _ = entry.rule_action(session.state.rows, e, rule, scratch)
            assert kind == ActionKind.PLACE
            mine = session.buffers.window[e, action]
            asked = session.state.request[e]["requested_ms"]
            # Estimates that single precision does not tell apart count as equal.
            assert asked[mine] == pytest.approx(asked[job], rel=1e-5)
            if (seen["queue"][e, :, 1] == seen["queue"][e, action, 1]).sum() == 1:
                assert mine == job
            choices += int(seen["action_mask"][e].sum() > 1)
    assert choices > 50


@pytest.mark.parametrize("name", NAMES)
def test_inference_equals_the_deterministic_policy(name: str) -> None:
    session = session_of(name)
    policy = _trained(session)
    alone = ScorerPolicy(policy.scorer.state_dict(), session.schema, _HIDDEN)
    for seen in visit(session, 60):
        mask = seen["action_mask"].astype(bool)
        with torch.no_grad():
            actions, values, log_prob = policy(seen, deterministic=True, action_masks=mask)
        found = alone.actions(seen, mask)
        np.testing.assert_array_equal(found, actions.numpy())
        assert mask[np.arange(len(mask)), found].all()
        assert torch.isfinite(values).all()
        assert (log_prob <= 0).all()


def test_inference_survives_a_trip_through_its_state() -> None:
    session = session_of("cluster")
    policy = ScorerPolicy(_trained(session).scorer.state_dict(), session.schema, _HIDDEN, "mine")
    again = ScorerPolicy(policy.state(), session.schema, _HIDDEN)
    assert (policy.name, again.name) == ("mine", "ppo")
    for seen in visit(session, 10):
        mask = seen["action_mask"].astype(bool)
        np.testing.assert_array_equal(policy.actions(seen, mask), again.actions(seen, mask))


@pytest.mark.parametrize("name", NAMES)
def test_one_scorer_serves_other_windows(name: str) -> None:
    """The same weights, with the same choice in a window that is wider than the queue."""
    narrow = session_of(name)
    policy = ScorerPolicy(_trained(narrow).scorer.state_dict(), narrow.schema, _HIDDEN)
    wide = CASES[name].session(3, window=30)
    for seen in visit(wide, 20):
        mask = seen["action_mask"].astype(bool)
        actions = policy.actions(seen, mask)
        assert mask[np.arange(3), actions].all()


@pytest.mark.parametrize("name", NAMES)
def test_samples_follow_the_softmax_of_legal_scores(name: str) -> None:
    session = session_of(name, rows=1)
    policy = _trained(session)
    policy.scorer.gain = 0.3
    seen = max(visit(session, 60), key=lambda s: int(s["action_mask"].sum()))
    many = {key: np.repeat(value, 20_000, axis=0) for key, value in seen.items()}
    mask = many["action_mask"].astype(bool)
    torch.manual_seed(3)
    with torch.no_grad():
        actions, _, log_prob = policy(many, action_masks=mask)
    legal = np.flatnonzero(mask[0])
    assert len(legal) > 1
    shares = np.bincount(actions, minlength=mask.shape[1]) / len(actions)
    expected = np.zeros(mask.shape[1])
    for action, value in zip(actions.tolist(), log_prob.exp().tolist(), strict=True):
        expected[action] = value
    assert set(np.flatnonzero(shares)) <= set(legal)
    np.testing.assert_allclose(shares, expected, atol=0.02)
    assert expected.sum() == pytest.approx(1.0, abs=0.01)


def test_masks_may_be_narrower_than_the_observation_says() -> None:
    session = session_of("cluster")
    policy = _trained(session)
    for seen in visit(session, 20):
        mask = seen["action_mask"].astype(bool)
        only = np.array([np.flatnonzero(row)[-1] for row in mask])
        narrow = np.zeros_like(mask)
        narrow[np.arange(3), only] = True
        actions, _ = policy.predict(seen, action_masks=narrow)
        np.testing.assert_array_equal(actions, only)


def test_priors_name_features_of_every_set() -> None:
    session = session_of("cluster")
    names = ["log_request", "candidate:room_left", "victim:helps", "head:wait"]
    policy = _policy(session, {name: float(k + 1) for k, name in enumerate(names)})
    weights = policy.scorer.linear.weight[0].tolist()
    schema = session.schema
    expected = {
        schema.queue.index("log_request"): 1.0,
        len(schema.queue) + schema.candidates.index("room_left"): 2.0,
        len(schema.queue) + len(schema.candidates) + schema.victims.index("helps"): 3.0,
        len(weights) - 1: 4.0,
    }
    assert {k: w for k, w in enumerate(weights) if w != 0} == expected
    with pytest.raises(ConfigurationError, match="unknown feature 'log_requests'; known: log_wait"):
        _policy(session, {"log_requests": 1.0})


def test_default_values_are_those_of_the_observation() -> None:
    """Without masks, those of the observation count."""
    session = session_of("ordering")
    policy = _trained(session)
    seen: dict[str, Any] = next(visit(session, 1))
    tensors = {key: torch.from_numpy(value) for key, value in seen.items()}
    with torch.no_grad():
        torch.testing.assert_close(policy.predict_values(seen), policy.predict_values(tensors))
        torch.testing.assert_close(policy(seen, deterministic=True)[1], policy.predict_values(seen))
