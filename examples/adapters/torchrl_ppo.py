"""TorchRL: masked PPO on job ordering, with its own collector, loss and distributions.

    pip install 'torchrl>=0.14' && python examples/adapters/torchrl_ppo.py

Every job of the window is scored by the same network; the mask of legal actions comes with it.
"""

from __future__ import annotations

import gymnasium
import torch
from tensordict import TensorDictBase
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl.collectors import Collector
from torchrl.envs import ActionMask, Compose, DTypeCastTransform, GymWrapper, TransformedEnv
from torchrl.envs.utils import ExplorationType, set_exploration_type
from torchrl.modules import MaskedCategorical, ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

import envs
from envs import JOB_ORDERING, RewardConfig

WIDTH, AROUND = len(JOB_ORDERING.schema.queue), len(JOB_ORDERING.schema.globals)


class Scores(nn.Module):
    """A score for every job of the window, [..., Q]."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(WIDTH, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, queue: Tensor) -> Tensor:
        """The same network for each of them."""
        scores: Tensor = self.net(queue).squeeze(-1)
        return scores


def make_env(seed: int = 0) -> TransformedEnv:
    """Job ordering as TorchRL steps it; random actions are legal, too."""
    assert envs.__name__  # importing it registers the environments
    env = gymnasium.make("quartermaster/JobOrdering-v0", reward=RewardConfig(reference="sjf"))
    to_bool = DTypeCastTransform(torch.int8, torch.bool, in_keys=["action_mask"])
    numbered = GymWrapper(env, categorical_action_encoding=True)
    wrapped = TransformedEnv(numbered, Compose(to_bool, ActionMask()))
    wrapped.set_seed(seed)
    return wrapped


def train(frames: int = 4096, batch: int = 512, seed: int = 0) -> list[float]:
    """Train for so many decisions; the mean reward of each batch of them."""
    torch.manual_seed(seed)
    scores = TensorDictModule(Scores(), in_keys=["queue"], out_keys=["logits"])
    keys = {"logits": "logits", "mask": "action_mask"}
    actor = ProbabilisticActor(
        scores, in_keys=keys, distribution_class=MaskedCategorical, return_log_prob=True
    )
    critic = ValueOperator(
        nn.Sequential(nn.Linear(AROUND, 32), nn.Tanh(), nn.Linear(32, 1)), in_keys=["global"]
    )
    loss = ClipPPOLoss(actor, critic)
    gae = GAE(gamma=0.98, lmbda=0.95, value_network=critic)
    optimizer = torch.optim.Adam(loss.parameters(), lr=1e-3)
    found = []
    collector = Collector(
        make_env(seed),
        actor,
        frames_per_batch=batch,
        total_frames=frames,
        auto_register_policy_transforms=True,
    )
    data: TensorDictBase
    for data in collector:
        with torch.no_grad():
            gae(data)
        for part in data.reshape(-1)[torch.randperm(batch)].split(128):
            terms = loss(part)
            sum(v for name, v in terms.items() if name.startswith("loss_")).backward()
            optimizer.step()
            optimizer.zero_grad()
        found.append(float(data["next", "reward"].mean()))
    collector.shutdown()
    return found


def main() -> None:
    """Train a little, then play an episode greedily."""
    print("mean reward of each batch:", [round(value, 5) for value in train()])
    with set_exploration_type(ExplorationType.RANDOM):
        played = make_env(1).rollout(300)
    print("a random legal episode:", len(played), "decisions")


if __name__ == "__main__":
    main()
