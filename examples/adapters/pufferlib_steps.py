"""PufferLib: job ordering as flat arrays, several side by side; random legal play.

    pip install pufferlib && python examples/adapters/pufferlib_steps.py

docs/own-parts.md says which release was tried.

PufferLib packs an observation into one vector of numbers, and tells by ``obs_dtype`` how to take it
apart again: the mask of legal actions comes out of there.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pufferlib.emulation
import pufferlib.vector
from numpy.typing import NDArray

import envs
from envs import RewardConfig


def make_env(**given: Any) -> Any:
    """An environment as PufferLib's vectorisation asks for it."""
    assert envs.__name__  # importing it registers the environments

    def make() -> gymnasium.Env[Any, Any]:
        reward = RewardConfig(reference="sjf")
        return gymnasium.make("quartermaster/JobOrdering-v0", reward=reward, episode_jobs=64)

    return pufferlib.emulation.GymnasiumPufferEnv(env_creator=make, **given)


def unpacked(packed: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[np.void]:
    """Observations [B] as records with the names that the environment gives them."""
    return np.ascontiguousarray(packed).view(np.uint8).reshape(len(packed), -1).view(dtype)[:, 0]


def play(rows: int = 2, steps: int = 200, seed: int = 0) -> float:
    """The mean reward of a step under random legal actions."""
    vector = pufferlib.vector.make(make_env, num_envs=rows, backend=pufferlib.vector.Serial)
    dtype, dice = vector.driver_env.obs_dtype, np.random.default_rng(seed)
    packed, _ = vector.reset(seed=seed)
    paid = []
    for _ in range(steps):
        mask = unpacked(packed, dtype)["action_mask"]
        actions = np.where(mask != 0, dice.random(mask.shape), -1.0).argmax(axis=1)
        packed, rewards, *_ = vector.step(actions)
        paid.append(rewards.mean())
    vector.close()
    return float(np.mean(paid))


def main() -> None:
    """Play a little."""
    print(f"mean reward of a step: {play():.4f}")


if __name__ == "__main__":
    main()
