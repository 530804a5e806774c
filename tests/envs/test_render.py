"""Pictures and words of a row."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from envs import SchedulingEnv
from envs.config import JOB_ORDERING
from envs.render import job_colour
from envs.workloads import lublin_feitelson
from orchestrator.errors import ConfigurationError
from tests.envs.cases import CASES, EnvCase, pick_legal
from tests.envs.scaling_cases import SCALING_CASES

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
