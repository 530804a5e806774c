"""The networks, and a policy that runs the trained one: no machinery of training is needed for it.

One scorer is shared by all legal actions, and a critic looks at the set of them. Both treat legal
actions as a set: permuting them permutes the scores and leaves the value alone, and the same
weights serve any window or cluster size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from agents.bundle import Manifest, restore_environment
from agents.ppo.batches import ActionPacker, PackedActions
from agents.ppo.compiled import CompiledScorer
from agents.problem import ActionScores, BatchPolicy
from orchestrator.errors import ConfigurationError
from orchestrator.own.loading import load_part
from orchestrator.scheduling.schema import FeatureSchema

__all__ = [
    "ActionSet",
    "OwnScorer",
    "ScorerPolicy",
    "SetCritic",
    "SetScorer",
    "load_policy",
    "make_scorer",
    "own_network",
]


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

    @cached_property
    def states(self) -> Tensor:
        """State that each action belongs to, int64 [N]."""
        return torch.repeat_interleave(torch.arange(len(self.counts)), self.counts)

    @classmethod
    def of(cls, packed: PackedActions, globals_: NDArray[np.float32]) -> ActionSet:
        """Packed actions as tensors that share their memory."""
        return cls(
            torch.from_numpy(packed.vectors),
            torch.from_numpy(packed.counts),
            torch.from_numpy(np.ascontiguousarray(globals_, np.float32)),
        )

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
        context = _Spread.apply(self.from_global(actions.globals), actions.states, actions.counts)
        hidden = torch.relu_(self.from_action(actions.vectors) + context)
        hidden = torch.relu_(self.inner(hidden))
        scores: Tensor = self.linear(actions.vectors) + self.out(hidden)
        return self.gain * scores.squeeze(1)


class OwnScorer(nn.Module):
    """Score of each legal action: ``gain * (w . features + network(actions))``.

    As :class:`SetScorer`, with a network of one's own; training starts where the linear part does
    if the network's last layer starts at zero.

    Parameters
    ----------
    network : Module
        :class:`ActionSet` -> scores [N].
    width : int
        Features of an action.
    prior, gain
        As for :class:`SetScorer`.
    """

    def __init__(
        self, network: nn.Module, width: int, prior: dict[int, float], gain: float = 1.0
    ) -> None:
        super().__init__()
        self.gain = gain
        self.linear = nn.Linear(width, 1, bias=False)
        self.network = network
        nn.init.zeros_(self.linear.weight)
        with torch.no_grad():
            for feature, weight in prior.items():
                self.linear.weight[0, feature] = weight

    def forward(self, actions: ActionSet) -> Tensor:
        """Scores [N]."""
        scores: Tensor = self.linear(actions.vectors).squeeze(1) + self.network(actions)
        return self.gain * scores


def own_network(name: str, width: int, global_width: int, hidden: int) -> nn.Module:
    """A network of one's own by name, ``package.module:Class``.

    Parameters
    ----------
    name : str
        A class of a module, not of a file: bundles name it, and run no code that they bring.
    width, global_width, hidden : int
        What it is made with: features of an action and of a state, and ``agent.hidden``.

    Raises
    ------
    ConfigurationError
        If there is none, or it is no network.
    """
    if name.rpartition(":")[0].endswith(".py"):
        raise ConfigurationError(
            f"network '{name}': is named by a file, and a bundle would have to name it, too; put "
            "it into a module, and have its folder in PYTHONPATH"
        )
    kind = load_part(name, "network")
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise ConfigurationError(
            f"network '{name}': is no class of torch.nn.Module; see docs/own-parts.md"
        )
    try:
        return kind(width, global_width, hidden)
    except TypeError as error:
        raise ConfigurationError(
            f"network '{name}': cannot be made ({error}); its constructor takes width, "
            "global_width and hidden"
        ) from None


def make_scorer(
    network: str | None,
    sizes: tuple[int, int, int],
    prior: dict[int, float],
    gain: float = 1.0,
) -> SetScorer | OwnScorer:
    """The scorer of actions: ours, or one with a network of one's own.

    Parameters
    ----------
    network : str or None
        See :func:`own_network`.
    sizes : (int, int, int)
        Features of an action and of the state, and units of hidden layers.
    prior, gain
        As for :class:`SetScorer`.
    """
    if network is None:
        return SetScorer(*sizes, prior, gain)
    return OwnScorer(own_network(network, *sizes), sizes[0], prior, gain)


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
        hidden = torch.relu_(self.per_action(actions.vectors))
        total, most = _Pool.apply(hidden, actions.states, actions.counts)
        pooled = torch.cat((torch.log1p(total), most, actions.globals), dim=1)
        value: Tensor = self.out(torch.tanh(self.summary(pooled)))
        return value.squeeze(1)


class ScorerPolicy:
    """Takes the legal action of the highest score.

    Parameters
    ----------
    state : mapping of str to Tensor
        State dictionary of a ``SetScorer``.
    schema : FeatureSchema
    hidden : int
        Units of its hidden layers.
    name : str
    by_head : bool, optional
        Whether it was trained with columns of its own for each head.
    network : str or None, optional
        The network of one's own that it was trained with; see :func:`own_network`.

    Attributes
    ----------
    gain : float
        Factor of the scores that it was trained with: times it they are logits of probabilities.
        What is taken does not depend on it.
    """

    def __init__(
        self,
        state: Mapping[str, Tensor],
        schema: FeatureSchema,
        hidden: int,
        name: str = "ppo",
        by_head: bool = False,
        network: str | None = None,
    ) -> None:
        self.name, self.gain = name, 1.0
        self._packer = ActionPacker(schema, by_head)
        sizes = (self._packer.width, len(schema.globals), hidden)
        self._scorer = make_scorer(network, sizes, {})
        self._scorer.load_state_dict(dict(state))
        self._scorer.eval()
        arrays = {key: value.numpy() for key, value in self._scorer.state_dict().items()}
        self._compiled = CompiledScorer(arrays) if network is None else None

    def state(self) -> dict[str, Tensor]:
        """The scorer's weights."""
        return dict(self._scorer.state_dict())

    def actions(
        self, observation: Mapping[str, NDArray[Any]], mask: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """The best legal action of each state, [B]; of equals the first."""
        packed = self._packer.pack(observation, mask)
        legal = ActionSet.of(packed, observation["global"])
        with torch.inference_mode():
            scores = legal.pad(self._scorer(legal), -torch.inf).numpy()
        first = np.cumsum(packed.counts) - packed.counts
        chosen: NDArray[np.int64] = packed.actions[first + scores.argmax(axis=1)]
        return chosen

    def score(
        self, observation: Mapping[str, NDArray[Any]], mask: NDArray[np.bool_]
    ) -> ActionScores:
        """Scores of the legal actions of one state, compiled if the network is ours.

        The best is the first of equals.
        """
        packed = self._packer.pack(observation, mask)
        if self._compiled is not None:
            scores = self._compiled.score(packed.vectors, observation["global"][0])
            return ActionScores(packed.actions, scores)
        with torch.inference_mode():
            own = self._scorer(ActionSet.of(packed, observation["global"]))
        return ActionScores(packed.actions, own.numpy())


def load_policy(manifest: Manifest, weights: Mapping[str, Any]) -> BatchPolicy:
    """Make the policy of a bundle of kind ``ppo``."""
    schema = restore_environment(manifest.environment).schema
    hidden, by_head = int(manifest.model["hidden"]), bool(manifest.model.get("by_head", False))
    network = manifest.model.get("network")
    policy = ScorerPolicy(weights, schema, hidden, manifest.name, by_head, network)
    policy.gain = float(manifest.training.get("gain", 1.0))
    return policy


class _Spread(torch.autograd.Function):
    """Rows of states [B, F], repeated for their actions [N, F].

    Its adjoint is a sum over segments, which is several times faster than the scattered addition
    that differentiating an index would give; the same holds the other way round below.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, states: Tensor, counts: Tensor) -> Tensor:
        ctx.save_for_backward(counts)
        return rows.index_select(0, states)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (counts,) = ctx.saved_tensors
        return _pool(gradients[0].contiguous(), counts)[0], None, None


class _Pool(torch.autograd.Function):
    """Sum and maximum over each state's actions: [N, F] not negative -> two of [B, F]."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, states: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        total, most = _pool(values, counts)
        ctx.save_for_backward(values, most, states)
        return total, most

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        values, most, states = ctx.saved_tensors
        # Of equal maxima each gets the gradient; above zero they are as good as never equal.
        highest = values == most.index_select(0, states)
        gradient = gradients[0].index_select(0, states)
        return gradient + highest * gradients[1].index_select(0, states), None, None


def _pool(values: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Sum and maximum (at least zero) of each state's rows, in one pass over [N, F]."""
    shape = (len(counts), values.shape[1])
    total, most = values.new_empty(shape), values.new_empty(shape)
    _pool_rows(values.detach().numpy(), counts.numpy(), total.numpy(), most.numpy())
    return total, most


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _pool_rows(values, counts, total, most):
    n = 0
    for b in range(counts.shape[0]):
        for f in range(values.shape[1]):
            total[b, f] = np.float32(0.0)
            most[b, f] = np.float32(0.0)
        for _ in range(counts[b]):
            for f in range(values.shape[1]):
                value = values[n, f]
                total[b, f] += value
                most[b, f] = value if value > most[b, f] else most[b, f]
            n += 1
