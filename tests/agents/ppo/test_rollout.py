"""The packed rollout buffer against stable-baselines3's dense one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sb3_contrib.common.maskable.buffers import MaskableDictRolloutBuffer
from sb3_contrib.common.maskable.distributions import MaskableCategorical

from agents.ppo.batches import ActionPacker
from agents.ppo.rollout import PackedRolloutBuffer, SetPolicy
from agents.ppo.settings import PPOSettings
from envs import Session
from envs.gym import action_space, observation_space
from tests.agents.ppo.states import NAMES, Observation, session_of, visit

_STEPS, _ROWS = 6, 3
_DISCOUNT, _GAE = 0.93, 0.8


def _buffers(session: Session) -> tuple[PackedRolloutBuffer, MaskableDictRolloutBuffer]:
    spaces = (observation_space(session.config), action_space(session.config))
    options: dict[str, Any] = {"gamma": _DISCOUNT, "gae_lambda": _GAE, "n_envs": _ROWS}
    packer = ActionPacker(session.schema)
    packed = PackedRolloutBuffer(_STEPS, *spaces, "cpu", packer=packer, **options)
    return packed, MaskableDictRolloutBuffer(_STEPS, *spaces, "cpu", **options)


def _fill(
    session: Session, *buffers: MaskableDictRolloutBuffer
) -> tuple[list[Observation], NDArray[np.int64]]:
    """Put the same transitions into all buffers; observations and actions of each step."""
    rng = np.random.default_rng(3)
    observations, actions = [], []
    for buffer in buffers:
        buffer.reset()
    for seen in visit(session, _STEPS):
        mask = seen["action_mask"].astype(bool)
        action = np.array([rng.choice(np.flatnonzero(row)) for row in mask])
        reward = rng.standard_normal(_ROWS).astype(np.float32)
        starts = rng.random(_ROWS) < 0.3
        value = torch.from_numpy(rng.standard_normal((_ROWS, 1)).astype(np.float32))
        log_prob = torch.from_numpy(-rng.random(_ROWS).astype(np.float32))
        for buffer in buffers:
            buffer.add(
                seen, action.copy(), reward, starts, value, log_prob, action_masks=mask.copy()
            )
        observations.append(seen)
        actions.append(action)
    last, over = (
        torch.from_numpy(rng.standard_normal(_ROWS).astype(np.float32)),
        rng.random(3) < 0.5,
    )
    for buffer in buffers:
        buffer.compute_returns_and_advantage(last, over)
    return observations, np.array(actions)


@pytest.mark.parametrize("name", NAMES)
def test_returns_and_advantages_equal_the_dense_ones(name: str) -> None:
    session = session_of(name)
    packed, dense = _buffers(session)
    _fill(session, packed, dense)
    assert packed.full
    np.testing.assert_allclose(packed.returns, dense.returns, rtol=1e-6)
    np.testing.assert_allclose(packed.advantages, dense.advantages, rtol=1e-6)
    np.testing.assert_array_equal(packed.episode_starts, dense.episode_starts)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("batch", [None, 4, 7])
def test_minibatches_hold_every_transition_once(name: str, batch: int | None) -> None:
    session = session_of(name)
    packed, dense = _buffers(session)
    observations, actions = _fill(session, packed, dense)
    packer = ActionPacker(session.schema)
    by_value = {float(v): divmod(i, _ROWS) for i, v in enumerate(packed.values.reshape(-1))}
    seen = []
    for part in packed.get(batch):
        counts = part.observations.counts.tolist()
        first = np.cumsum([0, *counts])
        for b in range(len(counts)):
            t, e = by_value[float(part.old_values[b])]
            seen.append((t, e))
            one = {key: value[e : e + 1] for key, value in observations[t].items()}
            legal = packer.pack(one, one["action_mask"].astype(bool))
            mine = part.observations.vectors[first[b] : first[b + 1]].numpy()
            np.testing.assert_array_equal(mine, legal.vectors)
            np.testing.assert_array_equal(part.observations.globals[b], one["global"][0])
            assert legal.actions[int(part.actions[b])] == actions[t, e]
            assert float(part.old_log_prob[b]) == packed.log_probs[t, e]
            assert float(part.advantages[b]) == packed.advantages[t, e]
            assert float(part.returns[b]) == packed.returns[t, e]
    assert sorted(seen) == [(t, e) for t in range(_STEPS) for e in range(_ROWS)]


@pytest.mark.parametrize("name", NAMES)
def test_evaluated_actions_equal_a_dense_masked_categorical(name: str) -> None:
    """Log-probabilities and entropies of packed states, and those over the whole action space."""
    session = session_of(name)
    packed, dense = _buffers(session)
    observations, actions = _fill(session, packed, dense)
    policy = SetPolicy(
        observation_space(session.config),
        action_space(session.config),
        lambda _: 1e-3,
        schema=session.schema,
        settings=PPOSettings(prior={}, gain=4.0),
    )
    torch.nn.init.normal_(policy.scorer.out.weight)
    by_value = {float(v): divmod(i, _ROWS) for i, v in enumerate(packed.values.reshape(-1))}
    size = int(session.schema.actions.size)
    packer = ActionPacker(session.schema)
    for part in packed.get(5):
        with torch.no_grad():
            values, log_prob, entropy = policy.evaluate_actions(part.observations, part.actions)
            scores = policy.scorer(part.observations)
        first = np.cumsum([0, *part.observations.counts.tolist()])
        for b in range(len(values)):
            t, e = by_value[float(part.old_values[b])]
            one = {key: value[e : e + 1] for key, value in observations[t].items()}
            mask = one["action_mask"].astype(bool)
            logits = torch.zeros(1, size)
            logits[0, packer.pack(one, mask).actions] = scores[first[b] : first[b + 1]]
            expected = MaskableCategorical(logits=logits, masks=mask)
            chosen = torch.tensor([actions[t, e]])
            torch.testing.assert_close(log_prob[b : b + 1], expected.log_prob(chosen))
            torch.testing.assert_close(entropy[b : b + 1], expected.entropy())
            with torch.no_grad():
                value = policy.predict_values(one)
            torch.testing.assert_close(values[b : b + 1], value)


def test_a_reset_forgets_everything() -> None:
    session = session_of("cluster")
    packed, _ = _buffers(session)
    _fill(session, packed)
    packed.reset()
    assert (packed.pos, packed.full) == (0, False)
    _fill(session, packed)
    assert sum(len(part.actions) for part in packed.get(4)) == _STEPS * _ROWS
