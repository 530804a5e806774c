"""RLlib: masked PPO on job ordering, by a module of one's own.

    pip install ray dm-tree lz4 ormsgpack tensorboardX fsspec jsonschema
    python examples/adapters/rllib_ppo.py

(``ray[rllib]`` asks for an older gymnasium than this project does; it also runs with this one.)
Every job of the window is scored by the same network; illegal ones get no chance.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import torch
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis.value_function_api import ValueFunctionAPI
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from ray.tune.registry import register_env
from torch import Tensor, nn

import envs
from envs import RewardConfig

NAME = "job_ordering"


class Scores(TorchRLModule, ValueFunctionAPI):
    """A score for every job of the window, and a value of the state."""

    def setup(self) -> None:
        """Make the networks for the space of observations."""
        spaces: Any = self.observation_space
        width, around = spaces["queue"].shape[1], spaces["global"].shape[0]
        self.each = nn.Sequential(nn.Linear(width, 32), nn.ReLU(), nn.Linear(32, 1))
        self.state = nn.Sequential(nn.Linear(around, 32), nn.Tanh(), nn.Linear(32, 1))

    def _forward(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        seen = batch[Columns.OBS]
        logits = self.each(seen["queue"]).squeeze(-1)
        return {Columns.ACTION_DIST_INPUTS: logits.masked_fill(seen["action_mask"] == 0, -1e8)}

    def compute_values(self, batch: dict[str, Any], embeddings: Any = None) -> Tensor:
        """What is still to come."""
        values: Tensor = self.state(batch[Columns.OBS]["global"]).squeeze(-1)
        return values


def make_env(settings: dict[str, Any]) -> gymnasium.Env[Any, Any]:
    """Job ordering, as RLlib asks for it in each of its processes."""
    assert envs.__name__  # importing it registers the environments
    reward = RewardConfig(reference="sjf")
    return gymnasium.make("quartermaster/JobOrdering-v0", reward=reward, **settings)


def train(iterations: int = 2, steps: int = 512) -> list[dict[str, Any]]:
    """Train in this process; what RLlib says of each iteration."""
    torch.manual_seed(0)
    register_env(NAME, make_env)
    config = (
        PPOConfig()
        .environment(NAME, env_config={"episode_jobs": 64})
        .env_runners(num_env_runners=0)
        .training(train_batch_size_per_learner=steps, minibatch_size=128, num_epochs=2, lr=1e-3)
        .rl_module(rl_module_spec=RLModuleSpec(module_class=Scores))
        .debugging(seed=0)
    )
    algorithm = config.build_algo()
    try:
        return [algorithm.train() for _ in range(iterations)]
    finally:
        algorithm.stop()


def main() -> None:
    """Train a little, and say what came of it."""
    for found in train():
        runners = found["env_runners"]
        print(
            f"{runners['num_env_steps_sampled_lifetime']:.0f} decisions, mean return "
            f"{runners['episode_return_mean']:.3f}"
        )


if __name__ == "__main__":
    main()
