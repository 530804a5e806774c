"""Pictures and words of a row."""

from __future__ import annotations

from dataclasses import replace

import gymnasium
import numpy as np
import pytest

from envs import SchedulingEnv
from envs.config import CLUSTER, JOB_ORDERING
from envs.gym.render import draw_occupancy, job_colour
from envs.workloads import lublin_feitelson
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.state.codes import (
    FOREVER_MS,
    NO_JOB,
    ActionKind,
    JobCode,
    Reason,
    Status,
)
from tests.envs.cases import CASES, EnvCase, pick_legal
from tests.envs.scaling_cases import MINUTE_MS, SCALING_CASES, bare_trace

_EVERY = {**CASES, **SCALING_CASES}
every_case = pytest.mark.parametrize("case", _EVERY.values(), ids=_EVERY)


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


def test_words_of_pods_that_never_end_promise_no_end() -> None:
    env = gymnasium.make("quartermaster/Placement-v0", render_mode="ansi")
    seen, _ = env.reset(seed=1)
    for _ in range(40):
        text = env.render()
        assert isinstance(text, str)
        assert "estimate" not in text
        assert "1099511" not in text
        seen, *_ = env.step(int(seen["action_mask"].argmax()))
    row = env.unwrapped.session.state.rows[0]  # type: ignore[attr-defined]
    placed = int(row["next_arrival"] - row["failed_jobs"] - row["queue_len"])
    assert f"placed {placed}, turned away {row['failed_jobs']} of 72" in str(env.render())


def test_words_of_some_jobs_that_never_end_name_the_others_estimates() -> None:
    case = CASES["cluster"]
    requests = case.trace().requests.copy()
    requests["requested_ms"][1::2] = requests["duration_ms"][1::2] = FOREVER_MS
    env = case.make(trace=replace(case.trace(), requests=requests), render_mode="ansi")
    env.reset(seed=0)
    rng, seen = np.random.default_rng(0), set()
    for _ in range(60):
        lines = str(env.render()).splitlines()
        if len(lines) > 2 and "estimate s" in lines[2]:
            seen |= {line.split()[3] == "-" for line in lines[3:]}
        assert not any("1099511" in line for line in lines)
        if env.step(pick_legal(env.action_masks()[None], rng)[0])[2]:
            env.reset()
    assert seen == {True, False}


def test_every_run_of_a_preempted_job_is_drawn() -> None:
    """A job makes room for another one, and waits: its first run stays in the picture."""
    whole = {"gpu_milli": 1000, "workers": 2}
    jobs = [
        {"duration_ms": 60 * MINUTE_MS, "preemptible": 1, **whole},
        {"submit_ms": 30 * MINUTE_MS, "duration_ms": 30 * MINUTE_MS, **whole},
    ]
    env = SchedulingEnv(
        CLUSTER,
        trace=bare_trace(nodes=1, gpus=2, jobs=jobs),
        episode_jobs=2,
        part="all",
        render_mode="rgb_array",
    )
    env.reset(seed=0)
    env.session.replay("srtf", np.array([0]))
    assert env.session.state.job[0, 0]["runs"] == 1, "nothing is gained by preempting it"
    image = env.render()
    assert isinstance(image, np.ndarray)
    assert (image[:, 10] == job_colour(0)).all()
    env.session.begin(np.array([0]))
    state, nodes = env.session.state, np.zeros(2, np.int32)
    for kind, j in ((ActionKind.PLACE, 0), (ActionKind.PREEMPT, 0), (ActionKind.PLACE, 1)):
        assert entry.advance(state.rows, 0, nodes) == Status.DECISION
        while entry.commit(state.rows, 0, kind, j, 0, nodes) != Reason.OK:
            assert entry.commit(state.rows, 0, ActionKind.WAIT, NO_JOB, 0, nodes) == Reason.OK
            assert entry.advance(state.rows, 0, nodes) == Status.DECISION
    assert state.job[0, 0]["state"] == JobCode.PREEMPTED
    image = env.render()
    assert isinstance(image, np.ndarray)
    assert (image[:, 10] == job_colour(0)).all()
    assert (image[:, 630] == job_colour(1)).all()
    # Who does not keep what happened is shown the last runs only, and sees that.
    bare = SchedulingEnv(CLUSTER, trace=env.session.trace, episode_jobs=2, part="all")
    bare.reset(seed=0)
    assert bare.session.state.shape.effects == 0
    assert (draw_occupancy(bare.session, 0) == 215).all()
