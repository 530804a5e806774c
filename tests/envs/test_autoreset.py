"""Autoreset modes, as Gymnasium's own vector environment carries them out over single ones."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from envs import SchedulingEnv, SchedulingVectorEnv
from orchestrator.errors import ConfigurationError, IllegalActionError
from orchestrator.kernels.codes import Reason
from tests.envs.cases import CASES, EnvCase, pick_legal
from tests.envs.scaling_cases import SCALING_CASES

_ROWS = 3
_SHORT = {"episode_jobs": 6}
_NAMES = (
    "ordering",
    "ordering-backfill",
    "ordering-skip-forced",
    "cluster",
    "cluster-incidents",
    "cluster-step-limit",
    "full-advised",
    "autoscaling-step-limit",
)
_EVERY = {**CASES, **SCALING_CASES}
some_cases = pytest.mark.parametrize("case", [_EVERY[name] for name in _NAMES], ids=_NAMES)
both = pytest.mark.parametrize("case", [CASES["ordering"], CASES["cluster"]], ids=lambda c: c.env)


def _pair(case: EnvCase, mode: AutoresetMode, **more: Any) -> tuple[Any, SchedulingVectorEnv]:
    """The reference, and ours."""
    short = {**({} if case.env == "Autoscaling" else _SHORT), **more}
    reference = SyncVectorEnv([lambda: case.make(**short)] * _ROWS, autoreset_mode=mode)
    return reference, case.make_vec(_ROWS, autoreset_mode=mode, **short)


def _assert_same_step(expected: tuple[Any, ...], found: tuple[Any, ...]) -> None:
    for name, part in expected[0].items():
        np.testing.assert_array_equal(found[0][name], part, err_msg=name)
    for k, what in enumerate(("reward", "terminated", "truncated"), start=1):
        np.testing.assert_array_equal(found[k], expected[k], err_msg=what)
        assert found[k].dtype == expected[k].dtype


def _assert_same_final(expected: dict[str, Any], found: dict[str, Any]) -> None:
    assert ("final_obs" in expected) == ("final_obs" in found)
    assert ("final_info" in expected) == ("final_info" in found)
    if "final_obs" not in expected:
        return
    np.testing.assert_array_equal(found["_final_obs"], expected["_final_obs"])
    np.testing.assert_array_equal(found["_final_info"], expected["_final_info"])
    for mine, theirs in zip(found["final_obs"], expected["final_obs"], strict=True):
        np.testing.assert_equal(mine, theirs)
    for name in ("illegal_actions", "_illegal_actions"):
        np.testing.assert_array_equal(found["final_info"][name], expected["final_info"][name])
    over = expected["_final_info"]
    reasons = [Reason(code).name.lower() for code in found["final_info"]["reason"][over]]
    assert reasons == expected["final_info"]["reason"][over].tolist()


def _draw(env: SchedulingVectorEnv, rng: np.random.Generator) -> np.ndarray:
    """Actions, mostly legal."""
    legal = pick_legal(env.action_masks(), rng)
    wild = rng.integers(env.single_action_space.n, size=_ROWS)
    return np.where(rng.random(_ROWS) < 0.1, wild, legal)


@some_cases
@pytest.mark.parametrize("seed", [3, [5, 1, 9]], ids=["one seed", "a seed each"])
def test_next_step(case: EnvCase, seed: Any) -> None:
    reference, env = _pair(case, AutoresetMode.NEXT_STEP)
    expected, found = reference.reset(seed=seed), env.reset(seed=seed)
    np.testing.assert_equal(found[0], expected[0])
    rng = np.random.default_rng(0)
    ended = 0
    for _ in range(80):
        actions = _draw(env, rng)
        expected, found = reference.step(actions), env.step(actions)
        _assert_same_step(expected, found)
        _assert_same_final(expected[4], found[4])
        np.testing.assert_array_equal(found[4]["illegal_actions"], expected[4]["illegal_actions"])
        ended += int(expected[2].sum() + expected[3].sum())
    assert ended >= _ROWS


@some_cases
def test_same_step(case: EnvCase) -> None:
    reference, env = _pair(case, AutoresetMode.SAME_STEP)
    reference.reset(seed=4)
    env.reset(seed=4)
    rng = np.random.default_rng(1)
    ended = 0
    for _ in range(80):
        actions = _draw(env, rng)
        expected, found = reference.step(actions), env.step(actions)
        _assert_same_step(expected, found)
        _assert_same_final(expected[4], found[4])
        ended += int(expected[2].sum() + expected[3].sum())
    assert ended >= _ROWS


@some_cases
def test_disabled_with_reset_mask(case: EnvCase) -> None:
    reference, env = _pair(case, AutoresetMode.DISABLED)
    reference.reset(seed=4)
    env.reset(seed=4)
    rng = np.random.default_rng(1)
    ended = 0
    for k in range(80):
        actions = _draw(env, rng)
        expected, found = reference.step(actions), env.step(actions)
        _assert_same_step(expected, found)
        over = expected[2] | expected[3]
        if over.any():
            ended += int(over.sum())
            # Now and then with seeds: those of rows that go on must not be touched.
            seed = [k, k + 1, None] if k % 2 else None
            again = reference.reset(seed=seed, options={"reset_mask": over.copy()})
            mine = env.reset(seed=seed, options={"reset_mask": over.copy()})
            np.testing.assert_equal(mine[0], again[0])
    assert ended >= _ROWS


@some_cases
def test_further_resets_go_on_with_the_sequence_of_episodes(case: EnvCase) -> None:
    reference, env = _pair(case, AutoresetMode.NEXT_STEP)
    for seed in (8, None, None, [1, None, 2], None, 8):
        expected, _ = reference.reset(seed=seed)
        found, _ = env.reset(seed=seed)
        np.testing.assert_equal(found, expected)


@both
def test_stepping_what_is_over_is_an_error(case: EnvCase) -> None:
    env = case.make(**_SHORT)
    with pytest.raises(gymnasium.error.ResetNeeded, match="before reset"):
        env.step(np.int64(0))
    env.reset(seed=0)
    _finish(env)
    before = env.session.state.rows.tobytes()
    with pytest.raises(gymnasium.error.ResetNeeded, match="call reset"):
        env.step(np.int64(0))
    assert env.session.state.rows.tobytes() == before
    env.reset()
    env.step(pick_legal(env.action_masks()[None], np.random.default_rng(0))[0])


def _finish(env: SchedulingEnv) -> None:
    rng = np.random.default_rng(0)
    over = False
    while not over:
        _, _, over, _, _ = env.step(pick_legal(env.action_masks()[None], rng)[0])


@both
def test_disabled_mode_refuses_to_step_rows_that_are_over(case: EnvCase) -> None:
    env = case.make_vec(_ROWS, autoreset_mode="Disabled", **_SHORT)
    with pytest.raises(gymnasium.error.ResetNeeded, match="before reset"):
        env.step(np.zeros(_ROWS, np.int64))
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    over = np.zeros(_ROWS, bool)
    while not over.any():
        _, _, over, _, _ = env.step(pick_legal(env.action_masks(), rng))
    rows = "|".join(str(e) for e in np.flatnonzero(over))
    with pytest.raises(gymnasium.error.ResetNeeded, match=rf"rows \[.*{rows}.*reset_mask"):
        env.step(np.zeros(_ROWS, np.int64))


@both
def test_reset_refuses_wrong_masks_and_seeds(case: EnvCase) -> None:
    env = case.make_vec(_ROWS)
    some = np.array([True, False, False])
    with pytest.raises(gymnasium.error.ResetNeeded, match="first reset"):
        env.reset(options={"reset_mask": some})
    env.reset(seed=0)
    for mask in ([True] * _ROWS, np.ones(_ROWS, np.int8)):
        with pytest.raises(TypeError, match="reset_mask"):
            env.reset(options={"reset_mask": mask})
    for mask in (np.ones(_ROWS + 1, bool), np.zeros(_ROWS, bool)):
        with pytest.raises(ValueError, match="reset_mask"):
            env.reset(options={"reset_mask": mask})
    with pytest.raises(ValueError, match="2 seeds for 3 rows"):
        env.reset(seed=[1, 2])
    with pytest.raises(ConfigurationError, match="'actions' has shape"):
        env.step(np.zeros(_ROWS - 1, np.int64))
    with pytest.raises(ConfigurationError, match="render_mode"):
        case.make_vec(_ROWS, render_mode="ansi")


def test_strict_ignores_the_action_of_a_row_that_begins_anew() -> None:
    env = CASES["cluster"].make_vec(1, step_limit=2, strict=True)
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    for _ in range(2):
        _, _, _, truncated, _ = env.step(pick_legal(env.action_masks(), rng))
    assert truncated.all()
    _, reward, _, truncated, _ = env.step(np.array([10**6]))  # what it says does not matter
    assert not truncated.any()
    assert reward.tolist() == [0.0]
    with pytest.raises(IllegalActionError):
        env.step(np.array([10**6]))


@both
def test_observations_are_copies_unless_views_are_asked_for(case: EnvCase) -> None:
    env = case.make_vec(_ROWS)
    seen, _ = env.reset(seed=0)
    kept = {name: part.copy() for name, part in seen.items()}
    env.step(pick_legal(env.action_masks(), np.random.default_rng(0)))
    np.testing.assert_equal(seen, kept)
    views = case.make_vec(_ROWS, copy=False)
    seen, _ = views.reset(seed=0)
    again, _, _, _, _ = views.step(pick_legal(views.action_masks(), np.random.default_rng(0)))
    assert all(np.shares_memory(seen[name], again[name]) for name in seen)
