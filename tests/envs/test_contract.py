"""What Gymnasium and stable-baselines3 ask of an environment, for all registered ones."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

from envs import SchedulingEnv, SchedulingVectorEnv, Session
from envs.config import CLUSTER, JOB_ORDERING, EnvConfig
from envs.render import job_colour
from envs.workloads import Trace, gpu_cluster, lublin_feitelson
from orchestrator.errors import ConfigurationError
from tests.envs.cases import CASES, EnvCase, pick_legal
from tests.envs.scaling_cases import SCALING_CASES

_EVERY = {**CASES, **SCALING_CASES}
every_case = pytest.mark.parametrize("case", _EVERY.values(), ids=_EVERY)
both = pytest.mark.parametrize("case", [CASES["ordering"], CASES["cluster"]], ids=lambda c: c.env)
registered = pytest.mark.parametrize(
    "case", [CASES["ordering"], CASES["cluster"], SCALING_CASES["autoscaling"]], ids=lambda c: c.env
)
# Remarks, not faults: the features have no hard bounds, and sets of them are matrices.
_REMARKS = ("infinity", "unconventional shape")


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
            assert set(info) == {"time_s", "window", "illegal_actions", "reason"}
            over = terminated or truncated
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


@every_case
def test_renders_words_and_pictures(case: EnvCase) -> None:
    words = case.make(render_mode="ansi")
    words.reset(seed=0)
    text = words.render()
    assert isinstance(text, str)
    assert text.startswith("t = ")
    assert "waiting" in text
    picture = case.make(render_mode="rgb_array")
    picture.reset(seed=0)
    rng = np.random.default_rng(0)
    frames = []
    over = False
    while not over:
        action = pick_legal(picture.action_masks()[None], rng)[0]
        _, _, terminated, truncated, _ = picture.step(action)
        over = terminated or truncated
        frames.append(picture.render())
    assert {(frame.shape, frame.dtype) for frame in frames} == {((256, 640, 3), np.dtype("u1"))}
    assert len({frame.tobytes() for frame in frames}) > 1
    assert case.make().render() is None
    with pytest.raises(ConfigurationError, match="render_mode 'human'"):
        case.make(render_mode="human")


def test_pictures_cut_what_meets_in_one_column_at_the_top() -> None:
    """Jobs that run one after another within one column do not paint each other over."""
    trace = lublin_feitelson(4, 1, processors=4)
    requests = trace.requests.copy()
    requests["submit_ms"] = (0, 0, 0, 10**9)
    requests["duration_ms"] = requests["requested_ms"] = 10_000
    requests["cpu_milli"] = 3000
    trace = replace(trace, requests=requests)
    env = SchedulingEnv(
        JOB_ORDERING, trace=trace, episode_jobs=4, part="all", render_mode="rgb_array"
    )
    env.reset(seed=0)
    while env.session.state.rows[0]["done"] == 0:
        env.step(np.int64(0))
    image = env.render()
    assert isinstance(image, np.ndarray)
    assert (image[:64, 0] == job_colour(1)).all()
    assert (image[64:, 0] == job_colour(0)).all()
    assert (image[:, 5:600] == 250).all()


_WORKLOADS: dict[str, Callable[[], Trace]] = {
    "lublin": lambda: lublin_feitelson(1500, 11, load=1.1),
    "busy": lambda: gpu_cluster(1500, 12, load=1.2),
    "calm": lambda: gpu_cluster(600, 13, load=0.5),
    "tiny": lambda: gpu_cluster(300, 14, nodes=1, gpus_per_node=1, load=0.7),
}


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
    session = Session(_WORKLOADS[workload](), base, envs=4)
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
