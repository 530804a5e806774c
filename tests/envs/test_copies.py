"""Copies of environments, sessions and states: alive, independent, and with the same future."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv

from envs import Session
from envs.sb3 import SchedulingVecEnv
from orchestrator.errors import ConfigurationError, TraceError, ValidationError
from tests.envs.cases import CASES, EnvCase, pick_legal
from tests.envs.scaling_cases import SCALING_CASES

_EVERY = {**CASES, **SCALING_CASES}
_NAMES = ("ordering-scaled", "cluster-incidents", "cluster-terminal", "autoscaling")
some_cases = pytest.mark.parametrize(
    "case", [_EVERY[name] for name in _NAMES if name in _EVERY], ids=lambda case: case.name
)


def _pickled(thing: Any) -> Any:
    return pickle.loads(pickle.dumps(thing))


def _old_pickle(thing: Any) -> Any:
    return pickle.loads(pickle.dumps(thing, protocol=2))


every_way = pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, _pickled, _old_pickle])


def _play(session: Session, steps: int, seed: int) -> list[Any]:
    rng = np.random.default_rng(seed)
    passed: list[Any] = []
    for _ in range(steps):
        session.step(pick_legal(session.buffers.mask, rng))
        over = session.buffers.terminated | session.buffers.truncated
        passed.append((session.buffers.reward.copy(), over, session.state.rows["now_ms"].copy()))
        if over.any():
            session.reset(over)
        passed.append({name: part.copy() for name, part in session.observation().items()})
    passed.append(session.state.rows["log_hash"].copy())
    return passed


def _begun(case: EnvCase, rows: int = 2) -> Session:
    session = case.session(rows)
    session.reseed(np.arange(rows, dtype=np.uint64))
    session.reset()
    _play(session, 7, 0)
    return session


@some_cases
@every_way
def test_a_copied_session_goes_on_alone(case: EnvCase, way: Callable[[Any], Any]) -> None:
    wanted = _play(_begun(case), 30, 1)
    original = _begun(case)
    other = way(original)
    _play(other, 20, 2)  # nothing of it reaches the original
    third = way(original)
    np.testing.assert_equal(_play(original, 30, 1), wanted)
    del original
    np.testing.assert_equal(_play(third, 30, 1), wanted)
    assert not np.shares_memory(third.state.job, other.state.job)


@some_cases
@every_way
def test_copied_environments_go_on_alone(case: EnvCase, way: Callable[[Any], Any]) -> None:
    def begun(single: bool) -> Any:
        env: Any = case.make() if single else case.make_vec(2)
        env.reset(seed=4)
        return env

    def play(env: Any, seed: int) -> list[Any]:
        rng, passed = np.random.default_rng(seed), []
        for _ in range(15):
            actions = pick_legal(np.atleast_2d(env.action_masks()), rng)
            passed.append(env.step(actions if actions.size > 1 else actions[0])[:4])
        return passed

    for single in (True, False):
        wanted = play(begun(single), 1)
        original = begun(single)
        other = way(original)
        play(other, 2)
        third = way(original)
        np.testing.assert_equal(play(original, 1), wanted)
        np.testing.assert_equal(play(third, 1), wanted)


@every_way
def test_rows_of_stable_baselines_and_wrapped_environments(way: Callable[[Any], Any]) -> None:
    rows = SchedulingVecEnv(CASES["cluster"].session(2), seed=3)
    rows.reset()
    other = way(rows)
    action = pick_legal(rows.action_masks(), np.random.default_rng(0))
    expected = rows.step(action)
    np.testing.assert_equal(other.step(action), expected)
    if way is not copy.copy:  # of a wrapper it shares what is wrapped, as Python has it
        env = gymnasium.make("quartermaster/JobOrdering-v0", episode_jobs=8)
        env.reset(seed=0)
        twin = way(env)
        np.testing.assert_equal(twin.step(np.int64(0))[:4], env.step(np.int64(0))[:4])


@some_cases
@every_way
def test_a_state_is_copied_or_says_why_not(case: EnvCase, way: Callable[[Any], Any]) -> None:
    session = _begun(case)
    if session.state.rows["series_at"].any():
        with pytest.raises(ConfigurationError, match="copy or pickle the Session"):
            way(session.state)
        return
    other = way(session.state)
    assert not set(other.rows["job_at"]) & set(session.state.rows["job_at"])
    assert other.job.tobytes() == session.state.job.tobytes()
    moved = _begun(case)
    moved.state = other
    np.testing.assert_equal(_play(moved, 20, 1), _play(session, 20, 1))


def test_copies_are_stepped_by_the_kernels_that_are_there() -> None:
    """Kernels are compiled anew, for a minute, for arrays that differ in being writeable."""
    session = _begun(CASES["cluster"])
    for way in (copy.deepcopy, _pickled):
        for mine, theirs in zip(session.source.episode, way(session).source.episode, strict=True):
            if isinstance(mine, np.ndarray):
                assert mine.flags.writeable == theirs.flags.writeable
                assert mine.flags.c_contiguous == theirs.flags.c_contiguous


def test_a_copy_lives_in_another_process(tmp_path: Path) -> None:
    env = CASES["cluster"].make()
    env.reset(seed=0)
    path = tmp_path / "env.pkl"
    path.write_bytes(pickle.dumps(env))
    code = (
        f"import pickle, pathlib; env = pickle.loads(pathlib.Path({str(path)!r}).read_bytes())\n"
        "print(env.step(int(env.action_masks().argmax()))[1])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) == env.step(np.int64(env.action_masks().argmax()))[1]


def _step_in_child(session: Session, pipe: Any) -> None:
    pipe.send(_play(session, 5, 1))


def test_threads_are_begun_anew_in_forked_processes_and_copies() -> None:
    session = CASES["ordering"].session(4)
    threaded = Session(session.trace, session.config, 4, session.source.episode.starts, threads=2)
    for each in (session, threaded):
        each.reseed(np.arange(4, dtype=np.uint64))
        each.reset()
        _play(each, 3, 0)
    twin = copy.deepcopy(threaded)
    threaded_in_child = multiprocessing.get_context("fork")
    here, there = threaded_in_child.Pipe()
    child = threaded_in_child.Process(target=_step_in_child, args=(threaded, there))
    child.start()
    assert here.poll(60), "the forked process hangs"
    told = here.recv()
    child.join()
    wanted = _play(session, 5, 1)
    np.testing.assert_equal(told, wanted)
    np.testing.assert_equal(_play(twin, 5, 1), wanted)
    twin.close()
    np.testing.assert_equal(_play(threaded, 5, 1), wanted)
    threaded.close()


def _one_of_eight_jobs() -> Any:
    return gymnasium.make("envs:quartermaster/Cluster-v0", episode_jobs=8)


@pytest.mark.parametrize(("start", "shared"), [("fork", True), ("spawn", False)])
def test_gymnasium_steps_environments_in_processes(start: str, shared: bool) -> None:
    here = SyncVectorEnv([_one_of_eight_jobs] * 2)
    there = AsyncVectorEnv([_one_of_eight_jobs] * 2, context=start, shared_memory=shared)
    expected, found = here.reset(seed=3), there.reset(seed=3)
    for _ in range(40):
        np.testing.assert_equal(found, expected)
        actions = expected[0]["action_mask"].argmax(axis=1)
        expected, found = here.step(actions), there.step(actions)
    there.close()


@pytest.mark.parametrize("start", ["fork", "forkserver"])
def test_stable_baselines_steps_environments_in_processes(start: str) -> None:
    here = DummyVecEnv([_one_of_eight_jobs] * 2)
    there = SubprocVecEnv([_one_of_eight_jobs] * 2, start_method=start)
    for rows in (here, there):
        rows.seed(3)
    seen = here.reset()
    np.testing.assert_equal(there.reset(), seen)
    for _ in range(40):
        actions = seen["action_mask"].argmax(axis=1)
        expected, found = here.step(actions), there.step(actions)
        np.testing.assert_equal(found[0], expected[0])
        np.testing.assert_array_equal(np.float32(found[1]), expected[1])  # DummyVecEnv rounds them
        np.testing.assert_array_equal(found[2], expected[2])
        seen = expected[0]
    np.testing.assert_equal(there.env_method("action_masks"), here.env_method("action_masks"))
    there.close()


@pytest.mark.parametrize("kind", ["gymnasium", "stable-baselines3"])
def test_copies_of_an_environment_are_sent_to_processes(kind: str) -> None:
    env = CASES["cluster"].make(episode_jobs=8)
    envs: list[Callable[[], Any]] = [lambda: copy.deepcopy(env)] * 2
    rows: Any = AsyncVectorEnv(envs) if kind == "gymnasium" else SubprocVecEnv(envs)
    rows.reset() if kind != "gymnasium" else rows.reset(seed=0)
    for _ in range(3):
        rows.step(np.zeros(2, np.int64))
    rows.close()


@pytest.mark.parametrize(
    "error",
    [
        ConfigurationError("a: 'b' is 1; give 2"),
        ValidationError("JobSpec 'a'", "workers", "is 0", "give at least 1"),
        TraceError("a.csv", "has no 'x'", "name it", 3),
    ],
)
@every_way
def test_errors_reach_other_processes_whole(error: Any, way: Callable[[Any], Any]) -> None:
    other = way(error)
    assert (type(other), str(other), vars(other)) == (type(error), str(error), vars(error))
