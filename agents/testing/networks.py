"""What networks promise that score sets of actions: PPO's, and extractors for stable-baselines3."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from agents.ppo.batches import ActionPacker
from agents.ppo.model import ActionSet, own_network
from envs.config import EnvConfig
from envs.gym import observation_space
from envs.session import Session
from envs.testing.play import SMALL, play, small_session
from orchestrator.errors import ContractError
from orchestrator.own.loading import load_part, part_name

if TYPE_CHECKING:
    from gymnasium import spaces
    from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

__all__ = ["check_extractor", "check_network"]

_ROWS, _HIDDEN, _SEEN = 6, 16, 20
_RELATIVE, _ABSOLUTE = 1e-4, 1e-5


def check_network(network: str | type[nn.Module], config: EnvConfig | None = None) -> None:
    """Check that a network can score actions for PPO, as ``agent.network`` names it.

    It gives one finite number for each action, of a state by itself what it gives of it among
    others, follows actions that change places, and all of its weights learn.

    Parameters
    ----------
    network : str or class
        Made as ``Network(width, global_width, hidden)``, called with an
        :class:`agents.ppo.model.ActionSet`.
    config : EnvConfig or None, optional
        The environment whose actions it scores; None: a small cluster.

    Raises
    ------
    ContractError
        Naming the promise that is broken.
    ConfigurationError
        If there is no such network.
    """
    name = part_name(network, "network")
    session = _begun(config or SMALL["cluster"], name)
    packer = ActionPacker(session.schema)
    torch.manual_seed(0)
    made = own_network(name, packer.width, len(session.schema.globals), _HIDDEN)
    seen = session.observation()
    packed = packer.pack(seen, seen["action_mask"].astype(np.bool_))
    actions = ActionSet.of(packed, seen["global"])
    scores = made(actions)
    _check_output(name, scores, (len(actions.vectors),))
    for b, (first, count) in enumerate(_runs(actions)):
        alone = ActionSet(
            actions.vectors[first : first + count],
            actions.counts[b : b + 1],
            actions.globals[b : b + 1],
        )
        _check_same(name, made(alone), scores[first : first + count], "others are beside it")
        order = torch.randperm(count)
        turned = ActionSet(alone.vectors[order], alone.counts, alone.globals)
        _check_same(name, made(turned), scores[first : first + count][order], "actions are moved")
    _check_learns(name, made, scores)


def check_extractor(
    extractor: str | type[BaseFeaturesExtractor], config: EnvConfig | None = None
) -> None:
    """Check that an extractor of features serves stable-baselines3 here.

    It gives as many finite numbers a state as it says, of a state by itself what it gives of it
    among others, and all of its weights learn.

    Parameters
    ----------
    extractor : str or class
        Made as ``Extractor(observation_space)``.
    config : EnvConfig or None, optional
        The environment that it sees; None: a small cluster.

    Raises
    ------
    ContractError
        Naming the promise that is broken.
    ConfigurationError
        If there is no such extractor.
    """
    name = part_name(extractor, "extractor")
    make: Callable[[spaces.Dict], Any] = load_part(name, "extractor")
    session = _begun(config or SMALL["cluster"], name)
    torch.manual_seed(0)
    made = make(observation_space(session.config))
    seen = {key: torch.from_numpy(part.copy()).float() for key, part in session.told().items()}
    features = made(seen)
    _check_output(name, features, (_ROWS, int(made.features_dim)))
    for e in range(_ROWS):
        alone = made({key: part[e : e + 1] for key, part in seen.items()})
        _check_same(name, alone[0], features[e], "others are beside it")
    _check_learns(name, made, features)


def _begun(config: EnvConfig, name: str) -> Session:
    """Rows in the middle of episodes."""
    session = small_session(config, _ROWS)
    for step, _ in enumerate(play(session, name)):
        if step >= _SEEN:
            break
    return session


def _runs(actions: ActionSet) -> list[tuple[int, int]]:
    """(first action, actions) of each state that has any."""
    counts = actions.counts.tolist()
    firsts = (np.cumsum(counts) - counts).tolist()
    return [(first, count) for first, count in zip(firsts, counts, strict=True) if count > 0]


def _check_output(name: str, found: Any, shape: tuple[int, ...]) -> None:
    if not isinstance(found, Tensor) or tuple(found.shape) != shape:
        said = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ContractError(name, f"gave {said}", f"give a tensor of shape {shape}")
    if not bool(torch.isfinite(found).all()):
        raise ContractError(
            name, "gave numbers that are not finite", "guard divisions and logarithms"
        )


def _check_same(name: str, found: Tensor, wanted: Tensor, when: str) -> None:
    if not torch.allclose(found, wanted, rtol=_RELATIVE, atol=_ABSOLUTE):
        raise ContractError(
            name,
            f"says something else of a state when {when}",
            "pool over the actions of each state by itself (ActionSet.states), no batch norm",
        )


def _check_learns(name: str, network: nn.Module, output: Tensor) -> None:
    (output * torch.randn_like(output)).sum().backward()
    idle = [key for key, weight in network.named_parameters() if weight.grad is None]
    if idle:
        raise ContractError(
            name, f"weights that learn nothing: {', '.join(idle)}", "use them, or leave them out"
        )
