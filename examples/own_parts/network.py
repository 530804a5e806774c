"""A network for PPO: every action is scored beside the mean of all."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from agents import ActionSet
from agents.testing import check_network


class BesideTheMean(nn.Module):
    """Scores [N] of the legal actions of B states, which lie one state after the other."""

    def __init__(self, width: int, global_width: int, hidden: int) -> None:
        super().__init__()
        self.embed, self.out = nn.Linear(width + global_width, hidden), nn.Linear(2 * hidden, 1)

    def forward(self, actions: ActionSet) -> Tensor:
        """Embed each action with its state's globals, and compare it with its state's mean."""
        around = actions.globals[actions.states]
        mine = torch.tanh(self.embed(torch.cat((actions.vectors, around), dim=1)))
        total = mine.new_zeros(len(actions.counts), mine.shape[1])
        mean = total.index_add(0, actions.states, mine) / actions.counts.clamp(min=1).unsqueeze(1)
        return self.out(torch.cat((mine, mean[actions.states]), dim=1)).squeeze(1)


if __name__ == "__main__":
    check_network("examples.own_parts.network:BesideTheMean")
    print("BesideTheMean is a network")
