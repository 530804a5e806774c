"""The actor-critic that sb3-contrib's MaskablePPO trains, over packed legal actions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from torch import Tensor

from agents.ppo.network import ActionSet, SetCritic, SetScorer
from agents.ppo.packing import ActionPacker, PackedActions
from orchestrator.scheduler.schema import FeatureSchema
from orchestrator.scheduler.vectors import named_vector

__all__ = ["SetPolicy", "as_action_set"]


def as_action_set(packed: PackedActions, globals_: NDArray[np.float32]) -> ActionSet:
    """Packed actions as tensors that share their memory."""
    return ActionSet(
        torch.from_numpy(packed.vectors),
        torch.from_numpy(packed.counts),
        torch.from_numpy(np.ascontiguousarray(globals_, np.float32)),
    )


class SetPolicy(MaskableActorCriticPolicy):
    """Actor and critic over sets of legal actions.

    Parameters
    ----------
    observation_space, action_space, lr_schedule
        As stable-baselines3 passes them.
    schema : FeatureSchema
    hidden, critic_summary : int
        Units of the hidden layers.
    prior : dict of str to float
        Initial linear weight of named queue features (or ``candidate:NAME``, ``victim:NAME``,
        ``elastic:NAME``, ``head:NAME``): where training starts. ``{"log_request": -2}`` starts at
        shortest job first, ``{"advice": 1}`` at the advising rule.
    gain : float
        Factor of the scores.
    by_head : bool
        Whether each head has columns, and so linear weights, of its own.
    """

    def __init__(
        self,
        observation_space: spaces.Dict,
        action_space: spaces.Discrete,
        lr_schedule: Any,
        *,
        schema: FeatureSchema,
        hidden: int = 32,
        critic_summary: int = 64,
        prior: Mapping[str, float] | None = None,
        gain: float = 1.0,
        by_head: bool = False,
        **kwargs: Any,
    ) -> None:
        self._schema = schema
        self._sizes = (hidden, critic_summary)
        self._prior = dict(prior or {})
        self._gain = gain
        self._by_head = by_head
        super().__init__(observation_space, action_space, lr_schedule, **kwargs)

    def _build(self, lr_schedule: Any) -> None:
        """Make the networks and the optimiser (called by the base class)."""
        schema = self._schema
        self.packer = ActionPacker(schema, self._by_head)
        hidden, summary = self._sizes
        width, global_width = self.packer.width, len(schema.globals)
        named = named_vector(schema, self._prior, self._by_head)
        prior = {int(at): float(named[at]) for at in np.flatnonzero(named)}
        self.scorer = SetScorer(width, global_width, hidden, prior, self._gain)
        self.critic = SetCritic(width, global_width, hidden, summary)
        optimizer: Any = self.optimizer_class
        self.optimizer = optimizer(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)

    def _set_of(self, observation: Any, masks: Any) -> tuple[PackedActions, ActionSet]:
        arrays = {k: v.numpy() if isinstance(v, Tensor) else v for k, v in observation.items()}
        mask = arrays["action_mask"] if masks is None else masks
        packed = self.packer.pack(arrays, np.asarray(mask).astype(np.bool_, copy=False))
        return packed, as_action_set(packed, arrays["global"])

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
