"""What sb3-contrib's MaskablePPO trains and fills: the actor-critic, and its rollout buffer.

Both keep legal actions only, packed.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from sb3_contrib.common.maskable.buffers import MaskableDictRolloutBuffer
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from torch import Tensor

from agents.ppo.batches import ActionPacker, PackedActions
from agents.ppo.model import ActionSet, SetCritic, make_scorer
from agents.ppo.settings import PPOSettings
from orchestrator.scheduling.schema import FeatureSchema, named_vector

__all__ = ["PackedRolloutBuffer", "SetPolicy", "Transitions"]


_PER_STEP = ("rewards", "returns", "episode_starts", "values", "log_probs", "advantages")


class SetPolicy(MaskableActorCriticPolicy):
    """Actor and critic over sets of legal actions.

    Parameters
    ----------
    observation_space, action_space, lr_schedule
        As stable-baselines3 passes them.
    schema : FeatureSchema
    settings : PPOSettings
        Sizes of the networks, prior, gain, and whether heads have columns of their own.
    """

    def __init__(
        self,
        observation_space: spaces.Dict,
        action_space: spaces.Discrete,
        lr_schedule: Any,
        *,
        schema: FeatureSchema,
        settings: PPOSettings,
        **kwargs: Any,
    ) -> None:
        self._schema = schema
        self._settings = settings
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)

    def _build(self, lr_schedule: Any) -> None:
        """Make the networks and the optimiser (called by the base class)."""
        schema, settings = self._schema, self._settings
        self.packer = ActionPacker(schema, settings.by_head)
        width, global_width = self.packer.width, len(schema.globals)
        named = named_vector(schema, settings.start_in(schema), settings.by_head)
        prior = {int(at): float(named[at]) for at in np.flatnonzero(named)}
        sizes = (width, global_width, settings.hidden)
        self.scorer = make_scorer(settings.network, sizes, prior, settings.gain)
        self.critic = SetCritic(width, global_width, settings.hidden, settings.critic_summary)
        optimizer: Any = self.optimizer_class
        self.optimizer = optimizer(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)

    def _set_of(self, observation: Any, masks: Any) -> tuple[PackedActions, ActionSet]:
        arrays = {k: v.numpy() if isinstance(v, Tensor) else v for k, v in observation.items()}
        mask = arrays["action_mask"] if masks is None else masks
        packed = self.packer.pack(arrays, np.asarray(mask).astype(np.bool_, copy=False))
        return packed, ActionSet.of(packed, arrays["global"])

    def forward(
        self, obs: Any, deterministic: bool = False, action_masks: Any = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Actions [B], values [B], log-probabilities [B]."""
        packed, actions = self._set_of(obs, action_masks)
        log_p = torch.log_softmax(actions.pad(self.scorer(actions), -torch.inf), dim=1)
        if deterministic:
            position = log_p.argmax(dim=1)
        else:
            noise = -torch.log(-torch.log(torch.rand_like(log_p).clamp_(1e-20, 1.0 - 1e-7)))
            position = (log_p + noise).argmax(dim=1)  # Gumbel: a sample of the softmax
        first = torch.cumsum(actions.counts, 0) - actions.counts
        chosen = torch.from_numpy(packed.actions)[first + position]
        return chosen, self.critic(actions), log_p.gather(1, position.unsqueeze(1)).squeeze(1)

    def _predict(
        self, observation: Any, deterministic: bool = False, action_masks: Any = None
    ) -> Tensor:
        """Actions [B] (the base class's ``predict`` calls this)."""
        return self.forward(observation, deterministic, action_masks)[0]

    def predict_values(self, obs: Any) -> Tensor:
        """Values [B]."""
        return self.critic(self._set_of(obs, None)[1])

    def evaluate_actions(
        self, obs: Any, actions: Tensor, action_masks: Any = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Values, log-probabilities and entropies of stored transitions.

        ``obs`` is what :class:`PackedRolloutBuffer` yields: an ``ActionSet``, and ``actions``
        holds positions among each state's legal actions.
        """
        legal: ActionSet = obs
        log_p = torch.log_softmax(legal.pad(self.scorer(legal), -1e9), dim=1)
        chosen = log_p.gather(1, actions.unsqueeze(1)).squeeze(1)
        entropy = -(log_p.exp() * log_p).sum(dim=1)
        return self.critic(legal), chosen, entropy


class Transitions(NamedTuple):
    """A minibatch, with the names that MaskablePPO reads."""

    observations: ActionSet
    actions: Tensor  # position among the state's legal actions
    old_values: Tensor
    old_log_prob: Tensor
    advantages: Tensor
    returns: Tensor
    action_masks: None


class PackedRolloutBuffer(MaskableDictRolloutBuffer):
    """Stores transitions of T steps x E rows without padding.

    Parameters
    ----------
    packer : ActionPacker
        By keyword; the rest as stable-baselines3 passes it.
    """

    def __init__(self, *args: Any, packer: ActionPacker, **kwargs: Any) -> None:
        self._packer = packer
        self._packed: list[PackedActions] = []
        self._globals: list[NDArray[np.float32]] = []
        super().__init__(*args, **kwargs)

    def reset(self) -> None:
        """Forget all transitions."""
        # Not the base class's: its dense observation arrays are what is to be avoided.
        self._packed, self._globals = [], []
        self.observations = {}
        self.actions = np.zeros((self.buffer_size, self.n_envs, 1), np.int64)
        for name in _PER_STEP:
            setattr(self, name, np.zeros((self.buffer_size, self.n_envs), np.float32))
        self.pos = 0
        self.full = False
        self.generator_ready = False

    def add(  # type: ignore[override]
        self,
        obs: dict[str, NDArray[Any]],
        action: NDArray[np.int64],
        reward: NDArray[np.float32],
        episode_start: NDArray[np.bool_],
        value: Tensor,
        log_prob: Tensor,
        action_masks: NDArray[np.bool_] | None = None,
    ) -> None:
        """Store one step of all rows; its legal actions are those that ``obs`` says."""
        mask = obs["action_mask"].astype(np.bool_, copy=False)
        packed = self._packer.pack(obs, mask)
        self._packed.append(packed)
        self._globals.append(obs["global"].copy())
        # Legal actions are numbered in ascending order: the position is a count.
        before = np.cumsum(mask, axis=1, dtype=np.int64)
        rows = np.arange(self.n_envs)
        self.actions[self.pos] = (before[rows, action.reshape(-1)] - 1).reshape(-1, 1)
        self.rewards[self.pos] = reward
        self.episode_starts[self.pos] = episode_start
        self.values[self.pos] = value.numpy().reshape(-1)
        self.log_probs[self.pos] = log_prob.numpy()
        self.pos += 1
        self.full = self.pos == self.buffer_size

    def get(self, batch_size: int | None = None) -> Generator[Transitions, None, None]:  # type: ignore[override]
        """Yield the transitions in random minibatches."""
        total = self.buffer_size * self.n_envs
        size = total if batch_size is None else batch_size
        vectors = np.concatenate([p.vectors for p in self._packed])
        counts = np.concatenate([p.counts for p in self._packed])
        globals_ = np.concatenate(self._globals)
        first = np.cumsum(counts) - counts
        flat = {
            name: torch.from_numpy(getattr(self, name).reshape(total))
            for name in ("values", "log_probs", "advantages", "returns", "actions")
        }
        order = np.random.permutation(total)  # noqa: NPY002 - seeded by stable-baselines3
        for begin in range(0, total, size):
            picked = order[begin : begin + size]
            chosen = counts[picked]
            # Row numbers of the picked states' actions: each state's run, one after another.
            ends = np.cumsum(chosen)
            which = np.arange(ends[-1]) + np.repeat(first[picked] - (ends - chosen), chosen)
            index = torch.from_numpy(picked)
            yield Transitions(
                observations=ActionSet(
                    torch.from_numpy(vectors[which]),
                    torch.from_numpy(chosen),
                    torch.from_numpy(globals_[picked]),
                ),
                actions=flat["actions"][index].long(),
                old_values=flat["values"][index],
                old_log_prob=flat["log_probs"][index],
                advantages=flat["advantages"][index],
                returns=flat["returns"][index],
                action_masks=None,
            )
