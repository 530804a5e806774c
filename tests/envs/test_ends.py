"""Something is legal at every decision, and every episode comes to an end."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs import AUTOSCALING, CLUSTER, JOB_ORDERING, PLACEMENT
from tests.envs.cases import CASES, pick_legal
from tests.envs.scaling_cases import SCALING_CASES

_EVERY = {**CASES, **SCALING_CASES}
changes = st.fixed_dictionaries(
    {},
    optional={
        "illegal": st.sampled_from(["noop", "penalty", "fallback"]),
        "information": st.sampled_from(["none", "estimate", "oracle"]),
        "window_order": st.sampled_from(["fcfs", "sjf"]),
        "preemption_limit": st.integers(0, 3),
        "min_run_seconds": st.sampled_from([0.0, 600.0]),
        "episode_jobs": st.integers(1, 30),
    },
)


@settings(max_examples=max(settings().max_examples // 2, 1))
@given(name=st.sampled_from(sorted(_EVERY)), given_=changes, seed=st.integers(0, 500))
def test_something_is_legal_at_every_decision(name: str, given_: dict[str, Any], seed: int) -> None:
    case = _EVERY[name]
    given_ = {k: v for k, v in given_.items() if not (case.env != "Cluster" and "limit" in k)}
    if case.env == "Autoscaling":
        given_ = {k: v for k, v in given_.items() if k in ("illegal", "information")}
    env = case.make(**given_)
    seen, _ = env.reset(seed=seed)
    rng = np.random.default_rng(seed)
    over = bool(env.session.buffers.terminated[0])
    for _ in range(400):
        assert seen["action_mask"].any()
        if over:
            break
        action = pick_legal(seen["action_mask"][None], rng)[0]
        if rng.random() < 0.05:
            action = np.int64(rng.integers(-2, env.action_space.n + 2))
        seen, _, terminated, truncated, _ = env.step(action)
        over = terminated or truncated


def _steps(env: Any, choose: Any) -> tuple[int, bool]:
    """Steps of an episode, and whether it was cut off."""
    seen, _ = env.reset(seed=0)
    for k in range(1, 1_000_000):
        seen, _, terminated, truncated, _ = env.step(choose(seen["action_mask"]))
        if terminated or truncated:
            return k, truncated
    raise AssertionError("the episode does not end")


def test_limits_follow_from_the_length_of_episodes() -> None:
    assert JOB_ORDERING.most_steps == 0  # each step places a job
    assert CLUSTER.most_steps == 25_600
    assert PLACEMENT.most_steps == 7_200
    assert AUTOSCALING.most_steps == 24_000
    assert CLUSTER.of_length(10).most_steps == 1_000


def test_who_preempts_for_ever_is_cut_off() -> None:
    """Jobs whose work is lost whenever they are displaced, by a policy that displaces them."""
    requests = CASES["cluster"].trace().requests.copy()
    requests["checkpoint_ms"], requests["checkpoint_interval_ms"] = 0, 0
    small = {"episode_jobs": 4, "min_run_seconds": 0.0, "victims": 4, "preemption_limit": 4}
    env = CASES["cluster"].make(**small)
    layout = env.config.schema.actions
    first = layout.window * layout.candidates

    def preempting(mask: np.ndarray) -> np.int64:
        victims = np.flatnonzero(mask[first : first + layout.victims])
        return np.int64(first + victims[0]) if len(victims) else np.int64(mask.argmax())

    steps, cut = _steps(env, preempting)
    assert steps <= 400
    assert cut == (steps == 400)


@pytest.mark.parametrize("env_id", ["JobOrdering", "Cluster", "Placement", "Autoscaling"])
def test_random_play_needs_far_less(env_id: str) -> None:
    small = {"episode_ticks": 40} if env_id == "Autoscaling" else {"episode_jobs": 64}
    env: Any = gymnasium.make(f"quartermaster/{env_id}-v0", **small)
    rng = np.random.default_rng(0)
    steps, cut = _steps(env, lambda mask: pick_legal(mask[None], rng)[0])
    assert not cut
    most = env.unwrapped.config.most_steps or 1_000_000
    assert steps * 4 < most
    assert _steps(env, lambda mask: np.int64(-1)) == (1_000, True)
