"""The examples for other libraries, where these are installed (extra ``adapters``)."""

from __future__ import annotations

import importlib.util
import math
from types import ModuleType

import pytest

from tests.examples.load import load_script


def _example(name: str, library: str) -> ModuleType:
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed: docs/own-parts.md says how")
    return load_script(f"adapters/{name}.py")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_torchrl_learns_with_masks() -> None:
    found = _example("torchrl_ppo", "torchrl").train(frames=512, batch=256)
    assert len(found) == 2
    assert all(math.isfinite(value) and value < 0 for value in found)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_rllib_learns_with_masks() -> None:
    found = _example("rllib_ppo", "ray").train(iterations=1, steps=256)
    runners = found[0]["env_runners"]
    assert runners["num_env_steps_sampled_lifetime"] >= 256
    assert runners["episode_return_mean"] < 0


@pytest.mark.filterwarnings("ignore")
def test_pufferlib_plays_with_masks() -> None:
    paid = _example("pufferlib_steps", "pufferlib").play(steps=80)
    assert math.isfinite(paid)
    assert paid < 0
