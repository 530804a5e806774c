"""Actors over sets of legal actions for PPO, A2C, MaskablePPO and RecurrentPPO.

Illegal actions get no chance, with or without masks from the algorithm: observations hold the mask.
"""

from __future__ import annotations

from typing import Any

import torch
from sb3_contrib import QRDQN, MaskablePPO, RecurrentPPO
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn

from agents.sb3.extractor import EntityHead, SetExtractor
from agents.sb3.values import SetDQNPolicy, SetQRDQNPolicy
from orchestrator.errors import ConfigurationError

__all__ = ["SetMaskablePolicy", "SetPolicy", "SetRecurrentPolicy", "register"]

_NAME = "SetPolicy"
_HIDDEN = 64
_NEVER = -1e8  # finite: 0 * log 0 would be no number
_SMALL = 0.01  # as stable-baselines3 begins its own action networks: nearly uniform


class _SetHeads(nn.Module):
    """What stands for the ``mlp_extractor``: logits of actions, and a summary for the critic."""

    def __init__(self, extractor: SetExtractor, context: int) -> None:
        super().__init__()
        self.latent_dim_pi, self.latent_dim_vf = extractor.actions, _HIDDEN
        # Not a part of this one: it is the policy's, whose parameters would be listed twice.
        self._split = extractor.split
        self.actor = EntityHead(extractor, context, _HIDDEN)
        self.critic = nn.Sequential(nn.Linear(context, _HIDDEN), nn.Tanh())

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, A] and summaries."""
        return self.forward_actor(features), self.forward_critic(features)

    def forward_actor(self, features: Tensor) -> Tensor:
        """Logits [B, A], those of illegal actions out of reach."""
        logits: Tensor = self.actor(self._split(features), _NEVER).squeeze(2)
        return logits

    def forward_critic(self, features: Tensor) -> Tensor:
        """Summaries [B, units]."""
        summary: Tensor = self.critic(self._split(features).context)
        return summary


class _OverSets:
    """The parts that all three kinds of actor-critics share."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("features_extractor_class", SetExtractor)
        super().__init__(*args, **kwargs)

    def _build_mlp_extractor(self) -> None:
        me: Any = self
        me.mlp_extractor = _SetHeads(extractor_of(me), self._context()).to(me.device)

    def _context(self) -> int:
        """Width of the context that the heads get."""
        me: Any = self
        return extractor_of(me).context_dim

    def _build(self, lr_schedule: Any) -> None:
        """Make the networks; the logits are the head's own, and no layer follows them."""
        me: Any = self
        # A mixin: the policy that it stands before has this method.
        super()._build(lr_schedule)  # type: ignore[misc]
        me.action_net = nn.Identity()
        for layer in (me.mlp_extractor.actor.out, me.mlp_extractor.actor.direct):
            nn.init.orthogonal_(layer.weight, _SMALL)
        me.optimizer = me.optimizer_class(me.parameters(), lr=lr_schedule(1), **me.optimizer_kwargs)


def extractor_of(policy: Any) -> SetExtractor:
    """The set extractor of a policy."""
    found = policy.features_extractor
    if not isinstance(found, SetExtractor) or not policy.share_features_extractor:
        raise ConfigurationError(
            f"{_NAME}: needs a SetExtractor that actor and critic share; change its sizes by "
            "policy_kwargs={'features_extractor_kwargs': {'hidden': 32}}, or subclass it"
        )
    return found


class SetPolicy(_OverSets, ActorCriticPolicy):
    """For ``PPO`` and ``A2C``; parameters as stable-baselines3's ``MultiInputPolicy``."""


class SetMaskablePolicy(_OverSets, MaskableActorCriticPolicy):
    """For ``MaskablePPO``."""


class SetRecurrentPolicy(_OverSets, RecurrentActorCriticPolicy):
    """For ``RecurrentPPO``: the memory is of the context, actions are looked at as they are."""

    def _build_mlp_extractor(self) -> None:
        if self.__dict__.get("critic") is not None:
            raise ConfigurationError(f"{_NAME}: a critic needs a memory; leave it its own")
        super()._build_mlp_extractor()
        # The base class makes its memories for inputs of this width.
        self.features_dim = extractor_of(self).context_dim

    def _context(self) -> int:
        return self.lstm_output_dim

    # The base's is static, and called on the policy: a method does, too.
    def _process_sequence(  # type: ignore[override]
        self, features: Tensor, lstm_states: Any, episode_starts: Tensor, lstm: nn.LSTM
    ) -> tuple[Tensor, Any]:
        """The memory's output in the place of the context, and its state."""
        width = lstm.input_size
        out, states = RecurrentActorCriticPolicy._process_sequence(
            features[:, :width], lstm_states, episode_starts, lstm
        )
        return torch.cat((out, features[:, width:]), dim=1), states


def register() -> None:
    """Tell all algorithms the name."""
    policies: dict[Any, Any] = {
        PPO: SetPolicy,
        A2C: SetPolicy,
        MaskablePPO: SetMaskablePolicy,
        RecurrentPPO: SetRecurrentPolicy,
        DQN: SetDQNPolicy,
        QRDQN: SetQRDQNPolicy,
    }
    for algorithm, policy in policies.items():
        algorithm.policy_aliases = {**algorithm.policy_aliases, _NAME: policy}
