"""Environments as Gymnasium and stable-baselines3 ask for them, single and in batches."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

from envs import (
    AUTOSCALING,
    CLUSTER,
    JOB_ORDERING,
    EnvConfig,
    Scenario,
    SchedulingEnv,
    SchedulingVectorEnv,
    Session,
)
from envs.fitting import part_starts
from envs.gym import default_scenario, default_trace
from envs.workloads import Trace, gpu_cluster, lublin_feitelson
from orchestrator.errors import ConfigurationError, IllegalActionError
from orchestrator.kernels.state.codes import NodeCode, Scaling
from orchestrator.scheduling.rules import rule_named
from tests.envs.cases import CASES, EnvCase, gpu_trace, lublin_trace, pick_legal
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
every_case = pytest.mark.parametrize("case", _EVERY.values(), ids=_EVERY)
registered = pytest.mark.parametrize(
    "case", [CASES["ordering"], CASES["cluster"], SCALING_CASES["autoscaling"]], ids=lambda c: c.env
)
# Remarks, not faults: the features have no hard bounds, and sets of them are matrices.
_REMARKS = ("infinity", "unconventional shape")
_WORKLOADS: dict[str, Callable[[], Trace]] = {
    "lublin": lambda: lublin_feitelson(1500, 11, load=1.1),
    "busy": lambda: gpu_cluster(1500, 12, load=1.2),
    "calm": lambda: gpu_cluster(600, 13, load=0.5),
    "tiny": lambda: gpu_cluster(300, 14, nodes=1, gpus_per_node=1, load=0.7),
}


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
    _assert_same_infos(expected["final_info"], found["final_info"])


def _assert_same_infos(expected: dict[str, Any], found: dict[str, Any]) -> None:
    told = {name for name in expected if "final" not in name}
    assert {name for name in found if "final" not in name} == told
    for name in told:
        if isinstance(expected[name], dict):
            _assert_same_infos(expected[name], found[name])
            continue
        there = expected[name if name[0] == "_" else f"_{name}"]
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
        assert found[name].dtype == expected[name].dtype, name
        assert there.any()


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
    _assert_same_infos(expected[1], found[1])
    rng = np.random.default_rng(0)
    ended = 0
    for _ in range(80):
        actions = _draw(env, rng)
        expected, found = reference.step(actions), env.step(actions)
        _assert_same_step(expected, found)
        _assert_same_final(expected[4], found[4])
        _assert_same_infos(expected[4], found[4])
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


def test_the_action_of_a_row_that_begins_anew_is_not_refused() -> None:
    env = CASES["cluster"].make_vec(1, step_limit=2, illegal="raise")
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


def _assert_remarks_only(caught: list[warnings.WarningMessage]) -> None:
    messages = [str(warning.message) for warning in caught]
    assert [m for m in messages if not any(known in m for known in _REMARKS)] == []


@every_case
def test_gymnasium_checker_is_content(case: EnvCase) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env(case.make(), skip_render_check=False)
    _assert_remarks_only(caught)


@every_case
def test_sb3_checker_is_content(case: EnvCase) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_env_for_sb3(case.make(), warn=True, skip_render_check=False)
    _assert_remarks_only(caught)


@every_case
def test_observations_are_in_the_space_whatever_is_done(case: EnvCase) -> None:
    env = case.make()
    rng = np.random.default_rng(0)
    env.action_space.seed(0)
    for episode in range(2):
        seen, _ = env.reset(seed=episode)
        over = False
        while not over:
            assert env.observation_space.contains(seen)
            assert all(np.isfinite(part).all() for part in seen.values())
            action: Any = pick_legal(env.action_masks()[None], rng)[0]
            if rng.random() < 0.3:
                action = env.action_space.sample()
            seen, reward, terminated, truncated, info = env.step(action)
            assert np.isfinite(reward)
            over = terminated or truncated
            last = {"episode_metrics"} if over else set()
            assert set(info) == {"time_s", "window", "illegal_actions", "reason", *last}
        assert env.observation_space.contains(seen)


def _trajectory(env: SchedulingEnv, seed: int) -> list[Any]:
    rng = np.random.default_rng(seed)
    seen, info = env.reset(seed=seed)
    passed: list[Any] = [(seen, info)]
    for _ in range(60):
        action = pick_legal(env.action_masks()[None], rng)[0]
        seen, reward, terminated, truncated, info = env.step(action)
        passed.append((seen, reward, terminated, truncated, info))
        if terminated or truncated:
            passed.append(env.reset())
    return passed


@every_case
def test_same_seed_same_trajectory(case: EnvCase) -> None:
    env = case.make()
    first, again, other = _trajectory(env, 7), _trajectory(env, 7), _trajectory(case.make(), 7)
    np.testing.assert_equal(first, again)
    np.testing.assert_equal(first, other)
    windows = {env.reset(seed=seed)[1]["window"] for seed in range(8)}
    assert len(windows) > 1


@registered
def test_registered_environments_have_a_vector_form_of_their_own(case: EnvCase) -> None:
    small = {"trace": case.trace(), "episode_jobs": 24}
    if case.env == "Autoscaling":
        small = {"episode_ticks": 24}
    single = gymnasium.make(case.id, **small)
    vector = gymnasium.make_vec(case.id, num_envs=3, **small)
    assert isinstance(vector.unwrapped, SchedulingVectorEnv)
    assert vector.num_envs == 3
    assert vector.single_observation_space == single.observation_space
    assert vector.single_action_space == single.action_space
    assert vector.spec is not None
    assert vector.spec.id == case.id
    seen, _ = vector.reset(seed=1)
    assert vector.observation_space.contains(seen)
    seen, reward, terminated, truncated, _ = vector.step(vector.action_space.sample())
    assert vector.observation_space.contains(seen)
    assert reward.shape == terminated.shape == truncated.shape == (3,)
    synchronous = gymnasium.make_vec(case.id, num_envs=2, vectorization_mode="sync", **small)
    seen, _ = synchronous.reset(seed=1)
    assert synchronous.observation_space.contains(seen)
    vector.close()


@registered
def test_an_environment_needs_no_arguments(case: EnvCase) -> None:
    env = gymnasium.make(case.id)
    seen, info = env.reset(seed=0)
    assert env.observation_space.contains(seen)
    assert info["time_s"] >= 0


@both
def test_certain_window_can_be_played(case: EnvCase) -> None:
    env = case.make(starts=np.array([5, 90, 17]))
    for window in (2, 0, 1):
        _, info = env.reset(seed=3, options={"window": window})
        assert info["window"] == window
        submit = case.trace().requests["submit_ms"][[5, 90, 17][window]]
        assert info["time_s"] >= submit / 1000
    with pytest.raises(ConfigurationError, match="window 3 of 3"):
        env.reset(options={"window": 3})
    vector = case.make_vec(2, starts=np.array([5, 90, 17]))
    vector.reset(seed=1, options={"window": 1})
    assert vector.session.buffers.start_index.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("workload", "base", "bound"),
    [
        ("lublin", JOB_ORDERING, 5.0),
        ("busy", JOB_ORDERING, 5.0),
        ("busy", CLUSTER, 5.0),
        ("calm", CLUSTER, 5.0),
        ("tiny", CLUSTER, 8.0),  # logarithms relative to one GPU
    ],
    ids=["lublin-ordering", "busy-ordering", "busy-cluster", "calm-cluster", "tiny-cluster"],
)
def test_features_are_of_the_size_of_one(workload: str, base: EnvConfig, bound: float) -> None:
    session = Session(_WORKLOADS[workload](), base, envs=4, part="all")
    session.reseed(np.arange(4, dtype=np.uint64))
    session.reset()
    rng = np.random.default_rng(0)
    largest: dict[str, float] = {}
    for _ in range(400):
        for name, part in session.observation().items():
            assert np.isfinite(part).all(), name
            largest[name] = max(largest.get(name, 0.0), float(np.abs(part).max()))
        session.step(pick_legal(session.buffers.mask, rng))
        over = session.buffers.terminated.copy()
        if over.any():
            session.reset(over)
    assert max(largest.values()) <= bound, largest


@pytest.mark.parametrize("make", [gymnasium.make, gymnasium.make_vec])
def test_unknown_options_are_refused_by_name(make: Any) -> None:
    for name in ("JobOrdering", "Cluster"):
        with pytest.raises(ConfigurationError, match="unknown option 'widow'; known: commitment"):
            make(f"quartermaster/{name}-v0", trace=lublin_trace(), widow=3)
    with pytest.raises(ConfigurationError, match="unknown part 'holdout'"):
        make("quartermaster/JobOrdering-v0", trace=lublin_trace(), part="holdout", episode_jobs=8)


def test_parts_of_the_series_do_not_overlap() -> None:
    trace = default_trace(AUTOSCALING)
    scenario = default_scenario(AUTOSCALING, trace)
    assert scenario.services is not None
    played = {}
    for part in ("train", "validation", "test"):
        starts = part_starts(trace, AUTOSCALING, part, scenario=scenario)
        assert len(starts) > 1000
        ticks = (starts[:, None] + np.arange(AUTOSCALING.episode_ticks)).ravel()
        assert 0 <= ticks.min() <= ticks.max() < scenario.services.series.ticks
        played[part] = set(ticks.tolist())
    assert not played["train"] & played["validation"]
    assert not played["validation"] & played["test"]
    assert len(part_starts(trace, AUTOSCALING, "all", scenario=scenario)) > 1000
    with pytest.raises(ConfigurationError, match="has no 'services'"):
        part_starts(trace, AUTOSCALING, "train")


@pytest.mark.parametrize("autoscale", [Scaling.NONE, Scaling.REACTIVE])
def test_the_default_scenario_follows_the_config(autoscale: Scaling) -> None:
    none = default_scenario(CLUSTER, gpu_trace())
    assert none == Scenario()
    heads = 0 if autoscale else 3
    config = replace(AUTOSCALING, services=heads, capacity_steps=0, autoscale=autoscale)
    made = default_scenario(config, default_trace(config))
    assert made.services is not None
    assert made.fleet is not None
    assert len(made.services.specs) == (heads or 4)
    # Over a day each service needs between one and a dozen replicas at its target, bursts aside.
    rates = made.services.series.rates
    needed = rates / [[0.7 * s.capacity_rps(1)] for s in made.services.specs]
    assert (np.percentile(needed, 2, axis=1) > 2).all()
    assert (np.percentile(needed, 95, axis=1) < 12).all()


def test_the_default_environment_rewards_scaling() -> None:
    """Rules that scale beat one that does not, and by forecast at least as well."""
    env = gymnasium.make_vec("quartermaster/Autoscaling-v0", num_envs=8, part="test")
    assert isinstance(env.unwrapped, SchedulingVectorEnv)
    session = env.unwrapped.session
    assert len(session.source.episode.nodes) == 8
    assert (session.source.episode.nodes["state"] == NodeCode.UP).sum() == 4
    costs = {}
    for name in ("fcfs", "fcfs+reactive", "fcfs+predictive"):
        session.replay(rule_named(name))
        rows = session.state.rows
        assert (rows["tick"] == AUTOSCALING.episode_ticks).all()
        costs[name] = rows["cost_milli_ms"] / 3.6e9 + 0.01 * rows["request_violations"]
    assert costs["fcfs+reactive"].mean() < costs["fcfs"].mean()
    assert costs["fcfs+predictive"].mean() < costs["fcfs"].mean()


def test_vector_rows_of_the_default_environment_differ_and_end_together() -> None:
    env = gymnasium.make_vec("quartermaster/Autoscaling-v0", num_envs=4, episode_ticks=12)
    seen, _ = env.reset(seed=3)
    rng = np.random.default_rng(0)
    assert len({row.tobytes() for row in seen["services"]}) == 4
    for _ in range(400):
        seen, _, ended, _, _ = env.step(pick_legal(seen["action_mask"], rng))
        assert env.observation_space.contains(seen)
        if ended.any():
            break
    assert ended.any()


# --- what is given, and what is not --------------------------------------------------------------


@pytest.mark.parametrize("make", [gymnasium.make, gymnasium.make_vec])
@pytest.mark.parametrize("keyword", ["frameskip", "windows", "Part"])
def test_unknown_keywords_are_type_errors_as_of_any_function(make: Any, keyword: str) -> None:
    words = f"got an unexpected keyword argument '{keyword}'"
    with pytest.raises(TypeError, match=words) as caught:
        make("quartermaster/Cluster-v0", **{keyword: 1})
    assert isinstance(caught.value, ConfigurationError)


@pytest.mark.parametrize(
    ("given", "limit"),
    [
        ({"max_episode_steps": 10}, 10),
        ({"max_episode_steps": np.int64(7), "step_limit": 9}, 7),
        ({"max_episode_steps": 12, "step_limit": 9}, 9),
        ({"max_episode_steps": None}, None),
        ({"max_episode_steps": 10_000}, 2_400),
        ({"max_episode_steps": -1, "step_limit": 3}, 3),
    ],
)
def test_vector_environments_bound_their_steps(given: dict[str, Any], limit: int) -> None:
    env = CASES["cluster"].make_vec(2, **given)
    assert env.config.step_limit == limit
    if limit and limit < 100:
        env.reset(seed=0)
        for k in range(limit):
            actions = env.action_masks().argmax(axis=1)
            truncated = env.step(actions)[3]
            assert truncated.all() == (k == limit - 1)
    with pytest.raises(ConfigurationError, match="'max_episode_steps' is 0"):
        gymnasium.make_vec("quartermaster/Cluster-v0", max_episode_steps=0)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"trace": "lublin_256.swf.gz"}, "'trace' is a str; give a Trace"),
        ({"trace": [1, 2]}, "'trace' is a list; give a Trace"),
        ({"scenario": {}}, "'scenario' is a dict; give a Scenario"),
        ({"starts": [0.0, 1.0]}, "'starts' is an array of float64; give integers"),
        ({"starts": 3}, r"'starts' has shape \(\)"),
        ({"starts": [[0], [8]]}, r"'starts' has shape \(2, 1\)"),
        ({"starts": ["a"]}, "'starts' is an array of <U1"),
        ({"starts": [[0], [1, 2]]}, "'starts' is no array"),
        ({"incidents": [(0, 1, 2)]}, "'incidents' is a list"),
        ({"part": "tset"}, "unknown part 'tset'; use one of .*'all'"),
        ({"part": 1}, "unknown part 1"),
        ({"reward": ["wait"]}, "give a RewardConfig"),
        ({"placements": "best_fit"}, "give a tuple"),
        ({"placements": 3}, "give a tuple"),
        ({"advice": 3}, "'advice' is a int; give the name of a rule"),
        ({"skip_forced": "false"}, "'skip_forced' is 'false'; give true or false"),
        ({"min_run_seconds": "60"}, "'min_run_seconds' is '60'; give a finite number"),
        ({"illegal_limit": -1}, "'illegal_limit' is -1"),
        ({"illegal": True}, "'illegal' is True; choose from noop"),
    ],
)
def test_arguments_of_wrong_types_are_named(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        CASES["cluster"].make(**given)
    with pytest.raises(ConfigurationError, match=words):
        CASES["cluster"].make_vec(2, **given)


@pytest.mark.parametrize("mode", ["next", "NEXT_STEP", 1, None])
def test_modes_of_autoreset_are_gymnasiums(mode: Any) -> None:
    for name in AutoresetMode:
        assert CASES["cluster"].make_vec(2, autoreset_mode=name.value).autoreset_mode == name
    with pytest.raises(
        ConfigurationError, match=r"'autoreset_mode' is .*; use one of .*'NextStep'"
    ):
        CASES["cluster"].make_vec(2, autoreset_mode=mode)


def test_windows_may_be_a_list() -> None:
    for starts in ([0, 40], (0, 40), np.array([0, 40], np.int32), np.array([0, 40], np.uint8)):
        env = CASES["cluster"].make(starts=starts)
        assert env.session.source.episode.starts.tolist() == [0, 40]


@pytest.mark.parametrize("action", [math.nan, 3.0, np.array([3]), "3", None, True, 1 << 70, [3]])
def test_actions_that_are_none_are_refused(action: Any) -> None:
    env = CASES["cluster"].make()
    env.reset(seed=0)
    before = env.session.state.rows.tobytes()
    with pytest.raises(ConfigurationError, match=r"step: the action is .*; give "):
        env.step(action)
    assert env.session.state.rows.tobytes() == before
    vector = CASES["cluster"].make_vec(2)
    vector.reset(seed=0)
    wrong: list[Any] = [[action, action], action, np.zeros((2, 1), np.int64), np.zeros(2)]
    for actions in wrong:
        with pytest.raises(ConfigurationError, match="step: 'actions'"):
            vector.step(actions)


def test_integers_of_every_kind_are_actions_and_seeds() -> None:
    def passed(seed: Any, kind: Any) -> Any:
        env: Any = CASES["cluster"].make()
        vector: Any = CASES["cluster"].make_vec(2)
        single = [env.reset(seed=seed), env.step(kind(int(env.action_masks().argmax())))]
        many = [vector.reset(seed=seed)[0]]
        many.append(vector.step([kind(int(a)) for a in vector.action_masks().argmax(axis=1)])[:4])
        return single, many

    expected = passed(3, int)
    for kind in (np.int64, np.int32, np.uint8, np.array):
        np.testing.assert_equal(passed(kind(3), kind), expected)
    vector: Any = CASES["cluster"].make_vec(2)
    first = vector.reset(seed=[3, 4])[0]
    np.testing.assert_equal(vector.reset(seed=np.array([3, 4]))[0], first)
    np.testing.assert_equal(vector.reset(seed=(np.uint8(3), 4))[0], first)


@pytest.mark.parametrize("seed", [-1, 1.5, "abc", True, [1], math.nan])
def test_seeds_that_are_none_are_refused(seed: Any) -> None:
    env, vector = CASES["ordering"].make(), CASES["ordering"].make_vec(2)
    with pytest.raises(ConfigurationError, match="'seed' is"):
        env.reset(seed=seed)
    with pytest.raises(ConfigurationError, match=r"'seed' is|1 seeds for 2 rows"):
        vector.reset(seed=seed)
    with pytest.raises(ConfigurationError, match="'seed' is"):
        vector.reset(seed=[0, seed])


@pytest.mark.parametrize("window", [1.5, "1", [0, 1, 2], None])
def test_windows_that_are_none_are_refused(window: Any) -> None:
    env, vector = CASES["ordering"].make(), CASES["ordering"].make_vec(2)
    with pytest.raises(ConfigurationError, match="'window'"):
        env.reset(options={"window": window})
    with pytest.raises(ConfigurationError, match="'window'"):
        vector.reset(options={"window": window})
    with pytest.raises(ConfigurationError, match="'options' is a int"):
        env.reset(options=3)  # type: ignore[arg-type]


# --- how episodes end ----------------------------------------------------------------------------


@some_cases
def test_the_last_mask_allows_something(case: EnvCase) -> None:
    """Gymnasium's default asks for an action there, though nothing comes of it."""
    env = case.make(**({} if case.env == "Autoscaling" else _SHORT))
    env.reset(seed=0)
    rng, over = np.random.default_rng(0), False
    while not over:
        seen, _, terminated, truncated, _ = env.step(pick_legal(env.action_masks()[None], rng)[0])
        over = terminated or truncated
        assert seen["action_mask"].any()
        np.testing.assert_array_equal(seen["action_mask"].astype(bool), env.action_masks())
    for mode in AutoresetMode:
        for copy in (True, False):
            vector = case.make_vec(_ROWS, autoreset_mode=mode, copy=copy, step_limit=40)
            seen, _ = vector.reset(seed=0)
            for _ in range(60):
                assert seen["action_mask"].any(axis=1).all()
                seen, _, ended, cut, infos = vector.step(pick_legal(seen["action_mask"], rng))
                for final in infos.get("final_obs", ()):
                    assert final is None or final["action_mask"].any()
                if mode == AutoresetMode.DISABLED and (ended | cut).any():
                    break


@pytest.mark.parametrize("name", ["ordering", "cluster", "cluster-terminal", "ordering-terminal"])
def test_policies_that_choose_nothing_legal_come_to_an_end(name: str) -> None:
    env = CASES[name].make(illegal_limit=5)
    env.reset(seed=0)
    env.step(np.int64(env.action_masks().argmax()))
    limited = CASES[name].make(step_limit=6)
    limited.reset(seed=0)
    limited.step(np.int64(limited.action_masks().argmax()))
    for k in range(5):
        _, reward, terminated, truncated, info = env.step(np.int64(-1))
        _, expected, _, _, _ = limited.step(np.int64(-1))
        assert (terminated, truncated) == (False, k == 4)
        assert info["illegal_actions"] == k + 1
        assert reward == expected  # of the terminal form, what the episode has cost so far
    assert env.session.buffers.steps[0] == 6
    env.reset()
    assert not env.step(np.int64(-1))[3]
    vector = CASES[name].make_vec(3, illegal_limit=2, autoreset_mode="Disabled")
    vector.reset(seed=0)
    actions = vector.action_masks().argmax(axis=1)
    actions[1] = -1
    vector.step(actions)
    actions[[0, 2]] = vector.action_masks().argmax(axis=1)[[0, 2]]
    assert vector.step(actions)[3].tolist() == [False, True, False]
    assert CASES[name].make().config.illegal_limit == 1000
