"""States of environments: put back, play goes on as if it had never been left."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envs import CLUSTER, RewardConfig, RowState, SchedulingEnv, SchedulingVectorEnv
from orchestrator.errors import ConfigurationError
from orchestrator.invariants import assert_invariants
from tests.envs.cases import CASES, pick_legal
from tests.envs.scaling_cases import SCALING_CASES

_EVERY = {**CASES, **SCALING_CASES}
case_names = st.sampled_from(sorted(_EVERY))


def _play(env: SchedulingEnv, steps: int, seed: int) -> list[Any]:
    """Random legal actions, over the ends of episodes; all that is told, and the logs' hashes."""
    rng = np.random.default_rng(seed)
    passed: list[Any] = []
    over = env.session.buffers.terminated[0] or env.session.buffers.truncated[0]
    for _ in range(steps):
        if over:
            passed.append(env.reset())
        passed.append(env.step(pick_legal(env.action_masks()[None], rng)[0]))
        over = passed[-1][2] or passed[-1][3]
        passed.append(int(env.session.state.rows[0]["log_hash"]))
    return passed


@settings(max_examples=max(settings().max_examples // 2, 1))
@given(
    name=case_names,
    seed=st.integers(0, 1000),
    steps=st.integers(0, 50),
    elsewhere=st.integers(0, 40),
)
def test_play_goes_on_as_if_it_had_not_been_left(
    name: str, seed: int, steps: int, elsewhere: int
) -> None:
    env = _EVERY[name].make()
    env.reset(seed=seed)
    _play(env, steps, seed)
    state = env.get_state()
    seen, info = env._observe(), env._info()
    wanted = _play(env, 30, 1)
    _play(env, elsewhere, 2)
    for again in (state, pickle.loads(pickle.dumps(state))):
        found, told = env.set_state(again)
        np.testing.assert_equal(found, seen)
        assert told == info
        assert_invariants(env.session.state, 0)
        np.testing.assert_equal(_play(env, 30, 1), wanted)


@pytest.mark.parametrize("seed", range(3))
def test_advice_after_a_state_was_put_back_is_that_of_before(seed: int) -> None:
    """A rule that preempts remembers in what order it looked at those who wait."""
    env = SchedulingEnv(
        CLUSTER,
        workload={"name": "gpu_cluster", "jobs": 2000, "nodes": 64},
        nodes={"count": 10},
        advice="srtf",
        victims=8,
    )
    env.reset(seed=seed)
    _play(env, 60, seed)
    state = env.get_state()
    wanted = _play(env, 30, 1)
    _play(env, 25, 2)
    env.set_state(state)
    np.testing.assert_equal(_play(env, 30, 1), wanted)


@pytest.mark.parametrize("name", ["ordering-scaled", "cluster-incidents", "autoscaling"])
def test_states_move_between_environments_and_rows(name: str) -> None:
    case = _EVERY[name]
    env, other, rows = case.make(), case.make(), case.make_vec(5, autoreset_mode="Disabled")
    env.reset(seed=3)
    _play(env, 9, 0)
    state = env.get_state()
    wanted = _play(env, 1, 1)[-2]
    other.set_state(state)  # it has not even begun
    np.testing.assert_equal(_play(other, 1, 1)[-2], wanted)
    rows.reset(seed=9)
    before = rows.get_state([0, 3])
    seen, infos = rows.set_state([state, state], [2, 4])
    assert infos["_time_s"].tolist() == [False, False, True, False, True]
    actions = pick_legal(seen["action_mask"], np.random.default_rng(0))
    actions[[2, 4]] = pick_legal(seen["action_mask"][2:3], np.random.default_rng(1))
    seen, reward, *_ = rows.step(actions)
    for e in (2, 4):
        np.testing.assert_equal({k: part[e] for k, part in seen.items()}, wanted[0])
        assert reward[e] == wanted[1]
    back = rows.set_state(before, [0, 3])[0]
    env.set_state(rows.get_state([3])[0])
    np.testing.assert_equal(env._observe(), {k: part[3] for k, part in back.items()})


def test_rows_that_are_over_begin_anew_after_their_state_was_set() -> None:
    def play(rows: SchedulingVectorEnv, steps: int, seed: int) -> list[Any]:
        rng = np.random.default_rng(seed)
        return [rows.step(pick_legal(rows.action_masks(), rng)) for _ in range(steps)]

    rows = CASES["cluster"].make_vec(3, episode_jobs=6)
    rows.reset(seed=1)
    while not (rows._over.any() and not rows._over.all()):
        play(rows, 1, 0)
    states = rows.get_state()
    wanted = play(rows, 40, 1)
    play(rows, 13, 2)
    rows.set_state(states)
    np.testing.assert_equal(play(rows, 40, 1), wanted)


def test_what_is_remembered_of_nodes_is_not_part_of_it() -> None:
    """Nodes are offered by what is remembered of kinds; other jobs are numbered otherwise."""
    made = {"workload": {"name": "gpu_pods", "pods": 600}, "nodes": 80, "episode_jobs": 40}
    env: Any = gymnasium.make("quartermaster/Placement-v0", **made).unwrapped
    assert env.session.state.shape.kinds > 0
    env.reset(seed=1)
    _play(env, 10, 0)
    state = env.get_state()
    wanted = _play(env, 60, 1)
    for seed in (5, 6):
        env.reset(seed=seed)
        _play(env, 30, seed)
        env.set_state(state)
        np.testing.assert_equal(_play(env, 60, 1), wanted)


def test_a_state_lives_in_another_process(tmp_path: Path) -> None:
    env: Any = gymnasium.make("quartermaster/Cluster-v0", episode_jobs=12).unwrapped
    env.reset(seed=0)
    _play(env, 5, 0)
    (tmp_path / "state.pkl").write_bytes(pickle.dumps(env.get_state()))
    code = (
        "import gymnasium, pathlib, pickle\n"
        f"state = pickle.loads(pathlib.Path({str(tmp_path / 'state.pkl')!r}).read_bytes())\n"
        "env = gymnasium.make('envs:quartermaster/Cluster-v0', episode_jobs=12).unwrapped\n"
        "mask = env.set_state(state)[0]['action_mask']\n"
        "print(env.step(int(mask.argmax()))[1])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) == env.step(int(env.action_masks().argmax()))[1]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trace": CASES["ordering"].trace()}, "another trace"),
        ({"window": 5}, "another config"),
        ({"reward": RewardConfig({"wait": 1.0})}, "another config"),
        ({"starts": np.array([0, 7])}, "another surroundings or windows"),
        ({"incidents": CASES["cluster-incidents"].options["incidents"]}, "another surroundings"),
        ({"render_mode": "rgb_array"}, "another format"),
    ],
)
def test_states_of_other_environments_are_refused(changes: dict[str, Any], words: str) -> None:
    env, other = CASES["cluster"].make(), CASES["cluster"].make(**changes)
    env.reset(seed=0)
    other.reset(seed=0)
    before = other.get_state()
    with pytest.raises(ConfigurationError, match=f"set_state: .* with {words}.* same workload"):
        other.set_state(env.get_state())
    assert other.get_state().content.tobytes() == before.content.tobytes()


def test_what_is_no_state_is_refused() -> None:
    env, rows = CASES["cluster"].make(), CASES["cluster"].make_vec(3)
    for early in (env, rows):
        with pytest.raises(gymnasium.error.ResetNeeded, match="before reset"):
            early.get_state()
    env.reset(seed=0)
    state = env.get_state()
    assert isinstance(state, RowState)
    assert f"{state.nbytes} bytes" in repr(state)
    for wrong in (None, state.content, {"origin": 1}):
        with pytest.raises(ConfigurationError, match=r"'state' is a .*get_state"):
            env.set_state(wrong)  # type: ignore[arg-type]
    with pytest.raises(gymnasium.error.ResetNeeded, match="some rows have not begun"):
        rows.set_state([state], [1])
    with pytest.raises(ConfigurationError, match="2 states for 3 rows"):
        rows.set_state([state] * 2)
    with pytest.raises(ConfigurationError, match="'rows' is 3; give a whole number from 0 to 2"):
        rows.set_state([state], [3])
    rows.set_state([state] * 3)


@pytest.mark.parametrize("single", [True, False])
def test_a_copy_goes_on_alone(single: bool) -> None:
    env: Any = CASES["cluster"].make() if single else CASES["cluster"].make_vec(2)
    env.reset(seed=0)
    actions = env.action_masks().argmax(axis=-1)
    twin, third = env.copy(), env.copy()
    wanted = twin.step(actions)
    third.step(actions)
    third.step(third.action_masks().argmax(axis=-1))  # nothing of it reaches the others
    np.testing.assert_equal(env.step(actions), wanted)
