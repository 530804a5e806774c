"""A feature extractor for stable-baselines3: ``features_extractor_class`` of a policy."""

from __future__ import annotations

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from agents.testing import check_extractor


class Summary(BaseFeaturesExtractor):
    """The globals, and the mean of what is known of the queue."""

    def __init__(self, observation_space: spaces.Dict) -> None:
        super().__init__(observation_space, 32)
        queue, around = observation_space["queue"], observation_space["global"]
        self.mix = nn.Linear(queue.shape[1] + around.shape[0], 32)

    def forward(self, seen: dict[str, Tensor]) -> Tensor:
        """Features [B, 32]."""
        return torch.relu(self.mix(torch.cat((seen["queue"].mean(dim=1), seen["global"]), dim=1)))


if __name__ == "__main__":
    check_extractor(Summary)
    print("Summary is a feature extractor")
