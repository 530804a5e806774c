"""What became of an episode: counted slowly from its jobs, and told by every form alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from hypothesis import given, settings
from hypothesis import strategies as st

from envs import METRICS, Session
from envs.sb3 import SchedulingVecEnv
from orchestrator.kernels.run.rows import read_metrics
from orchestrator.kernels.state.codes import JobCode, JobKind
from tests.envs.cases import CASES, pick_legal
from tests.envs.scaling_cases import SCALING_CASES

_EVERY = {**CASES, **SCALING_CASES}


def _slowly(session: Session) -> dict[str, float]:
    """The same from its definitions, job by job."""
    state, row = session.state, session.state.rows[0]
    now, jobs = int(row["now_ms"]), []
    for j in range(int(row["next_arrival"])):
        ask, done = state.request[0, j], state.job[0, j]
        if ask["kind"] != JobKind.SERVICE:
            completed = done["state"] == JobCode.COMPLETED
            end = int(done["end_ms"]) if completed else now
            size = ask["gpus_per_worker"] * ask["gpu_milli"] if row["unit"] else ask["cpu_milli"]
            units = int(ask["workers"]) * int(size)
            jobs.append((int(ask["submit_ms"]), end, int(ask["duration_ms"]), units, done["state"]))
    states = [job[4] for job in jobs]
    found = {
        "finished": float(states.count(JobCode.COMPLETED)),
        "failed": float(states.count(JobCode.FAILED)),
        "unfinished": float(len(jobs) - states.count(JobCode.COMPLETED)),
    }
    costs = np.zeros(len(session.source.prices.weights))
    read_metrics(state.rows, 0, costs)
    found["objective"] = float(costs @ session.source.prices.weights)
    if not jobs:
        return found
    ratios = []
    for submit, end, duration, units, _ in jobs:
        stay = max(end - submit, 1)
        present = sum(max(min(end, b) - max(submit, a), 0) for a, b, *_ in jobs) / stay
        share = row["nominal_units"] / max(present, 1.0)
        ratios.append(stay / max(duration * max(1.0, units / share), 1.0))
    makespan = max(job[1] for job in jobs) - jobs[0][0]
    span = now - jobs[0][0] if row["num_services"] else makespan
    return found | {
        "bounded_slowdown": float(
            np.mean([max((b - a) / max(d, 10_000), 1) for a, b, d, *_ in jobs])
        ),
        "completion_time": float(np.mean([(b - a) / 1000 for a, b, *_ in jobs])),
        "wait": row["wait_ms"] / 1000 / len(jobs),
        "makespan": makespan / 1000,
        "utilisation": row["busy_unit_ms"] / max(int(row["nominal_units"]) * span, 1),
        "finish_time_fairness": float(np.mean(ratios)),
        "worst_finish_time": max(ratios),
    }


@settings(max_examples=max(settings().max_examples // 2, 1))
@given(name=st.sampled_from(sorted(_EVERY)), seed=st.integers(0, 99), steps=st.integers(0, 150))
def test_metrics_are_those_of_the_jobs(name: str, seed: int, steps: int) -> None:
    """At the end, and of an episode that is cut off."""
    session = _EVERY[name].session(step_limit=0)
    session.reseed(np.array([seed], np.uint64))
    session.reset()
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        session.step(pick_legal(session.buffers.mask, rng))
    found = session.episode_metrics(0)
    assert set(found) <= {*METRICS, "finished", "failed"}
    assert all(isinstance(value, float) and np.isfinite(value) for value in found.values())
    for metric, value in _slowly(session).items():
        assert found[metric] == pytest.approx(value, rel=1e-9, abs=1e-9), metric


def _ended(env: Any) -> dict[str, Any]:
    """The last info of an episode of the first legal actions."""
    over, info = False, {}
    while not over:
        action = np.int64(env.action_masks().argmax())
        _, _, terminated, truncated, info = env.step(action)
        over = terminated or truncated
        assert over == ("episode_metrics" in info)
    return info


@pytest.mark.parametrize("name", ["ordering", "cluster-step-limit", "full", "autoscaling"])
def test_every_form_tells_the_same_in_the_end(name: str) -> None:
    case = _EVERY[name]
    env = case.make()
    env.reset(seed=5)
    info = _ended(env)
    metrics = info["episode_metrics"]
    assert metrics == env.session.episode_metrics(0)

    rows = SchedulingVecEnv(case.session(2))
    rows.session.seeds[:] = env.session.seeds[0]
    rows.reset()
    done = np.zeros(2, bool)
    total, steps, told = 0.0, 0, [{}, {}]
    while not done.any():
        actions = rows.action_masks().argmax(axis=1)
        _, reward, done, told = rows.step(actions)
        total, steps = total + float(reward[0]), steps + 1
    last = told[0]
    assert {name: last[name] for name in info} == info
    assert last["episode"].pop("r") == pytest.approx(total, rel=1e-4)
    assert last["episode"].pop("l") == steps
    assert last["episode"].pop("t") == 0.0
    assert last["episode"] == metrics


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_vector_forms_lay_metrics_out_as_gymnasium_does(mode: AutoresetMode) -> None:
    case, ended = CASES["cluster-incidents"], 0
    reference = SyncVectorEnv([lambda: case.make(episode_jobs=6)] * 3, autoreset_mode=mode)
    env = case.make_vec(3, autoreset_mode=mode, episode_jobs=6)
    reference.reset(seed=2)
    env.reset(seed=2)
    rng = np.random.default_rng(0)
    for _ in range(90):
        actions = pick_legal(env.action_masks(), rng)
        expected, found = reference.step(actions), env.step(actions)
        wanted, told = expected[4], found[4]
        if mode == AutoresetMode.SAME_STEP and "final_info" in wanted:
            wanted, told = wanted["final_info"], told["final_info"]
        assert ("episode_metrics" in told) == ("episode_metrics" in wanted)
        if "episode_metrics" in wanted:
            ended += int(wanted["_episode_metrics"].sum())
            np.testing.assert_equal(told["episode_metrics"], wanted["episode_metrics"])
            np.testing.assert_equal(told["_episode_metrics"], wanted["_episode_metrics"])
        over = expected[2] | expected[3]
        if mode == AutoresetMode.DISABLED and over.any():
            reference.reset(options={"reset_mask": over.copy()})
            env.reset(options={"reset_mask": over.copy()})
    assert ended >= 3
