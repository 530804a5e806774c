"""The native stable-baselines3 VecEnv: what its algorithms rely on."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from stable_baselines3.common.vec_env import VecEnv, VecMonitor
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from envs import SchedulingEnv, SchedulingVectorEnv
from envs.gym import row_seeds
from envs.sb3 import SchedulingVecEnv, make_sb3
from orchestrator.errors import ConfigurationError
from tests.envs.cases import CASES, EnvCase, pick_legal

_ROWS = 3
_NAMES = ("ordering", "ordering-skip-forced", "cluster", "cluster-step-limit")
some_cases = pytest.mark.parametrize("case", [CASES[name] for name in _NAMES], ids=_NAMES)


def _rows(case: EnvCase, **changes: Any) -> SchedulingVecEnv:
    return SchedulingVecEnv(case.session(_ROWS, episode_jobs=8, **changes), seed=5)


def _step(rows: VecEnv, rng: np.random.Generator) -> VecEnvStepReturn:
    return rows.step(pick_legal(get_action_masks(rows), rng))


@some_cases
def test_equals_the_vector_env_that_resets_in_the_same_step(case: EnvCase) -> None:
    rows = _rows(case)
    other = case.make_vec(_ROWS, episode_jobs=8, autoreset_mode="SameStep")
    assert isinstance(other, SchedulingVectorEnv)
    other.reset()
    other.session.reseed(row_seeds(5, _ROWS))
    expected, _ = other.reset()
    np.testing.assert_equal(rows.reset(), expected)
    rng = np.random.default_rng(0)
    returns, lengths, ended = np.zeros(_ROWS), np.zeros(_ROWS, int), 0
    for _ in range(80):
        actions = pick_legal(rows.action_masks(), rng)
        expected, reward, terminated, truncated, told = other.step(actions)
        seen, paid, over, infos = rows.step(actions)
        np.testing.assert_equal(seen, expected)
        np.testing.assert_array_equal(paid, reward.astype(np.float32))
        np.testing.assert_array_equal(over, terminated | truncated)
        assert over.dtype == np.bool_
        returns += reward
        lengths += 1
        for e in range(_ROWS):
            if not over[e]:
                assert infos[e] == {}
                continue
            ended += 1
            np.testing.assert_equal(infos[e]["terminal_observation"], told["final_obs"][e])
            assert infos[e]["TimeLimit.truncated"] == bool(truncated[e] and not terminated[e])
            assert infos[e]["episode"]["r"] == pytest.approx(returns[e])
            assert infos[e]["episode"]["l"] == lengths[e]
            returns[e] = lengths[e] = 0
    assert ended >= _ROWS


@some_cases
def test_what_is_returned_is_not_overwritten(case: EnvCase) -> None:
    rows = _rows(case)
    rng = np.random.default_rng(1)
    kept: list[tuple[Any, Any]] = []
    seen = rows.reset()
    kept.append((seen, {name: part.copy() for name, part in seen.items()}))
    for _ in range(30):
        seen, reward, over, infos = _step(rows, rng)
        for part in (seen, reward, over, infos):
            kept.append((part, _copy(part)))
    for part, copy in kept:
        np.testing.assert_equal(part, copy)


def _copy(part: Any) -> Any:
    if isinstance(part, dict):
        return {name: _copy(value) for name, value in part.items()}
    if isinstance(part, list):
        return [_copy(value) for value in part]
    return part.copy() if isinstance(part, np.ndarray) else part


def test_masks_are_found_where_sb3_looks_for_them() -> None:
    rows = _rows(CASES["cluster"])
    seen = rows.reset()
    assert is_masking_supported(rows)
    masks = get_action_masks(rows)
    assert masks.dtype == np.bool_
    np.testing.assert_array_equal(masks, seen["action_mask"].astype(bool))
    one = rows.env_method("action_masks", indices=[2])
    np.testing.assert_array_equal(one[0], masks[2])
    assert rows.get_attr("config", [0, 1]) == [rows.config, rows.config]
    assert rows.get_attr("render_mode") == [None] * _ROWS
    assert rows.env_is_wrapped(VecMonitor) == [False] * _ROWS
    assert not rows.has_attr("nothing of the kind")
    with pytest.raises(AttributeError):
        rows.get_attr("nothing of the kind")
    with pytest.raises(ConfigurationError, match="no method 'step'"):
        rows.env_method("step", 0)
    with pytest.raises(ConfigurationError, match="cannot set 'config'"):
        rows.set_attr("config", None)
    rows.close()


@some_cases
def test_seeding_starts_the_episodes_over(case: EnvCase) -> None:
    rows = _rows(case)
    first = rows.reset()
    rows.reset()
    rows.seed(5)
    np.testing.assert_equal(rows.reset(), first)
    rows.seed(6)
    other = rows.reset()
    assert any((other[name] != first[name]).any() for name in first)


def test_an_illegal_action_is_a_step_that_changes_nothing() -> None:
    rows = _rows(CASES["cluster"])
    before = rows.reset()
    seen, reward, over, _ = rows.step(np.full(_ROWS, -1))
    np.testing.assert_equal(seen, before)
    assert not reward.any()
    assert not over.any()


@pytest.mark.parametrize("name", ["ordering", "cluster"])
def test_maskable_ppo_learns_with_its_default_policy(name: str) -> None:
    rows = VecMonitor(_rows(CASES[name], step_limit=20))
    model = MaskablePPO(
        "MultiInputPolicy", rows, n_steps=16, batch_size=24, n_epochs=1, seed=0, device="cpu"
    )
    before = {k: v.clone() for k, v in model.policy.state_dict().items()}
    model.learn(2 * 16 * _ROWS)
    after = model.policy.state_dict()
    assert any((before[k] != after[k]).any() for k in before)
    assert len(model.ep_info_buffer or ()) > 0
    # What it learned from single rows it does in a single environment, within the mask.
    env = CASES[name].make(illegal="raise")
    assert isinstance(env, SchedulingEnv)
    seen, _ = env.reset(seed=0)
    for _ in range(10):
        action, _ = model.predict(seen, action_masks=env.action_masks(), deterministic=True)
        seen, _, terminated, truncated, _ = env.step(np.int64(action))
        if terminated or truncated:
            seen, _ = env.reset()


@pytest.mark.parametrize("name", ["JobOrdering", "Cluster", "Placement", "Autoscaling"])
def test_rows_are_made_by_an_id(name: str) -> None:
    env_id = f"quartermaster/{name}-v0"
    rows = make_sb3(env_id, 3, seed=5, step_limit=4)
    assert rows.num_envs == 3
    vector: Any = gymnasium.make_vec(env_id, 3, "vector_entry_point", step_limit=4)
    starts = vector.session.source.episode.starts
    assert rows.session.source.episode.starts.tolist() == starts.tolist()  # training windows
    other = SchedulingVecEnv(vector.session, seed=5)
    np.testing.assert_equal(rows.reset(), other.reset())
    rng = np.random.default_rng(0)
    for _ in range(6):
        actions = pick_legal(rows.action_masks(), rng)
        np.testing.assert_equal(rows.step(actions), other.step(actions))
    judged = make_sb3(env_id, part="test").session.source.episode.starts
    assert judged.min() > starts.max()


def test_what_no_rows_can_be_made_of_is_told() -> None:
    env_id = "quartermaster/Cluster-v0"
    with pytest.raises(ConfigurationError, match="'CartPole-v1' is no environment of this package"):
        make_sb3("CartPole-v1")
    with pytest.raises(ConfigurationError, match="unknown part 'tset'"):
        make_sb3(env_id, part="tset")
    with pytest.raises(ConfigurationError, match="'seed' is -1"):
        make_sb3(env_id, seed=-1)
    with pytest.raises(ConfigurationError, match="'num_envs' is 0"):
        make_sb3(env_id, 0)
    for keyword in ("strict", "copy", "frameskip"):
        with pytest.raises(TypeError, match=f"got an unexpected keyword argument '{keyword}'"):
            make_sb3(env_id, **{keyword: True})
