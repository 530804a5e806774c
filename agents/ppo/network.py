"""The networks: one scorer shared by all legal actions, and a critic over the set of them.

Both treat legal actions as a set: permuting them permutes the scores and leaves the value alone,
and the same weights serve any window or cluster size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

__all__ = ["ActionSet", "SetCritic", "SetScorer"]


@dataclass(frozen=True)
class ActionSet:
    """Legal actions of B states as tensors.

    Parameters
    ----------
    vectors : float32 [N, D]
    counts : int64 [B]
    globals : float32 [B, G]
    """

    vectors: Tensor
    counts: Tensor
    globals: Tensor

    @property
    def states(self) -> Tensor:
        """State that each action belongs to, int64 [N]."""
        return torch.repeat_interleave(torch.arange(len(self.counts)), self.counts)

    def pad(self, values: Tensor, filler: float) -> Tensor:
        """Spread per-action values [N] over [B, max count], the rest filled."""
        width = int(self.counts.max())
        inside = torch.arange(width).unsqueeze(0) < self.counts.unsqueeze(1)
        padded = values.new_full((len(self.counts), width), filler)
        return padded.masked_scatter(inside, values)


class SetScorer(nn.Module):
    """Score of each legal action: ``gain * (w . features + network(features, global))``.

    The linear part can start at a rule's level; the network's output layer starts at zero. The
    gain brings weights of the order of one to scores that decide: without it, a learning rate
    that suits the network is too slow for the linear part.

    Parameters
    ----------
    width, global_width, hidden : int
        Features of an action and of the state; units of the two hidden layers.
    prior : dict of int to float
        Initial weight of features in the linear part.
    gain : float
        Factor of the scores.
    """

    def __init__(
        self,
        width: int,
        global_width: int,
        hidden: int,
        prior: dict[int, float],
        gain: float = 1.0,
    ) -> None:
        super().__init__()
        self.gain = gain
        self.linear = nn.Linear(width, 1, bias=False)
        self.from_action = nn.Linear(width, hidden)
        self.from_global = nn.Linear(global_width, hidden, bias=False)
        self.inner = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, 1, bias=False)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.out.weight)
        with torch.no_grad():
            for feature, weight in prior.items():
                self.linear.weight[0, feature] = weight

    def forward(self, actions: ActionSet) -> Tensor:
        """Scores [N]."""
        context = self.from_global(actions.globals).index_select(0, actions.states)
        hidden = torch.relu(self.from_action(actions.vectors) + context)
        hidden = torch.relu(self.inner(hidden))
        scores: Tensor = self.linear(actions.vectors) + self.out(hidden)
        return self.gain * scores.squeeze(1)


class SetCritic(nn.Module):
    """Value of a state from its set of legal actions (sum and max pooled) and its globals."""

    def __init__(self, width: int, global_width: int, hidden: int, summary: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.per_action = nn.Linear(width, hidden)
        self.summary = nn.Linear(2 * hidden + global_width, summary)
        self.out = nn.Linear(summary, 1)

    def forward(self, actions: ActionSet) -> Tensor:
        """Values [B]."""
        hidden = torch.relu(self.per_action(actions.vectors))
        lengths = actions.counts
        total = torch.segment_reduce(hidden, "sum", lengths=lengths, axis=0, unsafe=True)
        # ReLU outputs are not negative, so an empty set's maximum may as well be zero.
        most = torch.segment_reduce(
            hidden, "max", lengths=lengths, axis=0, unsafe=True, initial=0.0
        )
        pooled = torch.cat((torch.log1p(total), most, actions.globals), dim=1)
        value: Tensor = self.out(torch.tanh(self.summary(pooled)))
        return value.squeeze(1)
