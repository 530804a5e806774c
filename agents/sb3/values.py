"""Values of legal actions for DQN and QR-DQN, and exploration that is legal.

Both algorithms explore by drawing any action. In a queue of ten jobs most of 128 actions are
illegal: they do nothing, and little is explored. :class:`LegalActions` carries out a legal action
instead, which one the drawn number says, and the networks know that they are the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from sb3_contrib.qrdqn.policies import QRDQNPolicy, QuantileNetwork
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from torch import Tensor, nn

from agents.sb3.extractor import EntityHead, SetExtractor
from orchestrator.errors import ConfigurationError

__all__ = ["LegalActions", "LegalDiscrete", "SetDQNPolicy", "SetQRDQNPolicy", "same_actions"]

_HIDDEN = 64
_NEVER = -1e8


class LegalDiscrete(spaces.Discrete):
    """Actions of which every number is legal: those that were not stand for others."""


class LegalActions(VecEnvWrapper):
    """Rows in which illegal action a does what the (a mod n)-th of the n legal ones does.

    Parameters
    ----------
    venv : VecEnv
        Rows of this package, such as :func:`envs.make_sb3` makes.
    """

    def __init__(self, venv: VecEnv) -> None:
        if not isinstance(venv.action_space, spaces.Discrete):
            raise ConfigurationError(
                "LegalActions: rows have no numbered actions; wrap rows made by envs.make_sb3"
            )
        actions = LegalDiscrete(int(venv.action_space.n))
        super().__init__(venv, action_space=actions)
        self._mask = np.ones((venv.num_envs, int(actions.n)), np.bool_)

    def reset(self) -> Any:
        """Begin an episode in all rows."""
        return self._remember(self.venv.reset())

    def step_async(self, actions: NDArray[np.int64]) -> None:
        """Carry out legal actions."""
        mask = torch.from_numpy(self._mask)
        mapped = same_actions(mask).gather(1, torch.from_numpy(actions).reshape(-1, 1))
        self.venv.step_async(mapped.squeeze(1).numpy())

    def step_wait(self) -> Any:
        """As the rows say."""
        observation, *rest = self.venv.step_wait()
        return (self._remember(observation), *rest)

    def _remember(self, observation: Any) -> Any:
        self._mask = observation["action_mask"].astype(np.bool_)
        return observation


def same_actions(legal: Tensor) -> Tensor:
    """For each action, the legal one that it stands for.

    Parameters
    ----------
    legal : bool [B, A]

    Returns
    -------
    int64 [B, A]
        Itself where it is legal; where nothing is, action 0.
    """
    first = torch.argsort((~legal).to(torch.int8), dim=1, stable=True)
    numbers = torch.arange(legal.shape[1], device=legal.device).expand_as(legal)
    others = first.gather(1, numbers % legal.sum(dim=1, keepdim=True).clamp(min=1))
    return torch.where(legal, numbers, others)


class _Values(nn.Module):
    """Value of the state and advantages of its legal actions (Wang et al., 2016), per quantile."""

    def __init__(self, extractor: SetExtractor, actions: spaces.Discrete, outputs: int) -> None:
        super().__init__()
        self._split = extractor.split
        self._mapped = isinstance(actions, LegalDiscrete)
        self.advantage = EntityHead(extractor, extractor.context_dim, _HIDDEN, outputs)
        self.state = nn.Sequential(
            nn.Linear(extractor.context_dim, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, outputs)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Values [B, A, outputs].

        While training, an illegal action is worth what it did: the legal one that it stood for or,
        if it did nothing, the state. Whoever chooses, or looks ahead, must never take it.
        """
        found = self._split(features)
        state = self.state(found.context).unsqueeze(1)
        values: Tensor = state + self.advantage(found, 0.0)
        if not self.training:
            return values.masked_fill(~found.legal.unsqueeze(2), _NEVER)
        if self._mapped:
            index = same_actions(found.legal).unsqueeze(2).expand_as(values)
            values = values.gather(1, index)
        return values


class _SetQNetwork(QNetwork):
    """Values of actions, [B, A]."""

    def __init__(self, *, outputs: int = 1, **kwargs: Any) -> None:
        _begin(self, kwargs)
        # The base declares a Sequential and any extractor; this one reads sets.
        self.q_net = _Values(self.features_extractor, self.action_space, outputs)  # type: ignore[assignment,arg-type]

    def forward(self, obs: Any) -> Tensor:
        values: Tensor = self.q_net(self.extract_features(obs, self.features_extractor))
        return values.squeeze(2)


class _SetQuantileNetwork(QuantileNetwork):
    """Quantiles of the values of actions, [B, quantiles, A]."""

    def __init__(self, *, n_quantiles: int = 200, **kwargs: Any) -> None:
        _begin(self, kwargs)
        self.n_quantiles = n_quantiles
        # As above: no Sequential, and an extractor of sets.
        self.quantile_net = _Values(self.features_extractor, self.action_space, n_quantiles)  # type: ignore[assignment,arg-type]

    def forward(self, obs: Any) -> Tensor:
        values: Tensor = self.quantile_net(self.extract_features(obs, self.features_extractor))
        return values.transpose(1, 2)


def _begin(network: Any, given: dict[str, Any]) -> None:
    """Make a network without the layers that its base class would lay over all features."""
    names = ("observation_space", "action_space", "features_extractor", "normalize_images")
    BasePolicy.__init__(network, **{name: given[name] for name in names if name in given})
    if not isinstance(network.features_extractor, SetExtractor):
        raise ConfigurationError("SetPolicy: needs a SetExtractor; subclass it to change it")
    for name in ("net_arch", "activation_fn", "features_dim"):
        setattr(network, name, given[name])


class SetDQNPolicy(DQNPolicy):
    """For ``DQN``; wrap the rows in :class:`LegalActions`, so that exploring is legal."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("features_extractor_class", SetExtractor)
        super().__init__(*args, **kwargs)

    def make_q_net(self) -> QNetwork:
        """Values, or target values."""
        arguments = self._update_features_extractor(self.net_args, features_extractor=None)
        return _SetQNetwork(**arguments).to(self.device)


class SetQRDQNPolicy(QRDQNPolicy):
    """For ``QR-DQN``; wrap the rows in :class:`LegalActions`, so that exploring is legal."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("features_extractor_class", SetExtractor)
        super().__init__(*args, **kwargs)

    def make_quantile_net(self) -> QuantileNetwork:
        """Quantiles, or target quantiles."""
        arguments = self._update_features_extractor(self.net_args, features_extractor=None)
        return _SetQuantileNetwork(**arguments).to(self.device)
