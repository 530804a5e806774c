"""Observations as sets: an embedding of every legal action, and one of all of them together.

Permuting actions permutes their embeddings and leaves the context alone, whatever the size of the
window or of the cluster; illegal actions have no part in anything.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from orchestrator.errors import ConfigurationError
from orchestrator.kernels.see.layout import SETS, VectorPart
from orchestrator.scheduling.schema import (
    FeatureSchema,
    advice_column,
    feature_names,
    vector_layout,
)

__all__ = ["EntityHead", "SetExtractor", "SetFeatures"]


class SetFeatures(NamedTuple):
    """What an extractor says of B states with A actions."""

    context: Tensor  # [B, C]
    legal: Tensor  # [B, A] bool
    entities: Tensor  # [B, A, E]; zeros where illegal


class SetExtractor(BaseFeaturesExtractor):
    """Embeds the set of legal actions of an observation.

    stable-baselines3 passes features on as one vector a state; :meth:`split` takes it apart again.

    Parameters
    ----------
    observation_space : Dict
        Of an environment of this package: it knows what is in it.
    hidden : int, optional
        Units of an action's embedding.
    context : int, optional
        Units of the context.

    Raises
    ------
    ConfigurationError
        If the space does not say what is in it.
    """

    def __init__(self, observation_space: spaces.Dict, hidden: int = 64, context: int = 64) -> None:
        schema = getattr(observation_space, "schema", None)
        if not isinstance(schema, FeatureSchema):
            raise ConfigurationError(
                "SetPolicy: the space of observations does not say what is in it; make rows by "
                "envs.make_sb3, or wrap environments only where their spaces stay as they are"
            )
        mask = observation_space["action_mask"]
        assert isinstance(mask, spaces.MultiBinary)
        self.actions = int(np.prod(mask.shape))
        self.width = len(feature_names(schema))
        self.context_dim, self.entity_dim = context, hidden + self.width
        super().__init__(observation_space, context + self.actions + self.actions * self.entity_dim)
        counts = [_count(observation_space, name) for name in SETS]
        self._layout = vector_layout(schema, counts).tolist()
        self._advice_at = advice_column(schema)
        globals_ = len(schema.globals)
        self.from_action = nn.Linear(self.width, hidden)
        self.from_global = nn.Linear(globals_, hidden, bias=False)
        self.to_context = nn.Linear(2 * hidden + globals_, context)

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """Features [B, features_dim] of a batch of observations."""
        legal = observations["action_mask"] > 0
        states = legal.nonzero()[:, 0]
        vectors = self._vectors(observations)[legal]
        around = observations["global"]
        hidden = torch.relu(self.from_action(vectors) + self.from_global(around)[states])
        counts = legal.sum(dim=1, keepdim=True).clamp(min=1)
        shape = (len(legal), hidden.shape[1])
        mean = hidden.new_zeros(shape).index_add(0, states, hidden) / counts
        index = states.unsqueeze(1).expand_as(hidden)
        most = hidden.new_zeros(shape).scatter_reduce(0, index, hidden, "amax")  # relu: from 0 on
        context = torch.relu(self.to_context(torch.cat((mean, most, around), dim=1)))
        entities = hidden.new_zeros((*legal.shape, self.entity_dim))
        entities[legal] = torch.cat((hidden, vectors), dim=1)
        return torch.cat((context, legal.to(hidden.dtype), entities.flatten(1)), dim=1)

    def split(self, features: Tensor) -> SetFeatures:
        """What :meth:`forward` has put together; a context of another width is taken as it is."""
        behind = self.actions * (1 + self.entity_dim)
        context, rest = features[:, :-behind], features[:, -behind:]
        entities = rest[:, self.actions :].unflatten(1, (self.actions, self.entity_dim))
        return SetFeatures(context, rest[:, : self.actions] > 0, entities)

    def _vectors(self, observations: dict[str, Tensor]) -> Tensor:
        """Features of every action [B, A, width]; ``orchestrator.scheduling.schema`` says where."""
        around = observations["global"]
        vectors = around.new_zeros((len(around), self.actions, self.width))
        for part in self._layout:
            first, count = part[VectorPart.FIRST_ACTION], part[VectorPart.ACTIONS]
            mine = vectors[:, first : first + count]
            if part[VectorPart.ONE_HOT] >= 0:
                mine[:, :, part[VectorPart.ONE_HOT]] = 1.0
            if part[VectorPart.SET] >= 0:
                features = observations[SETS[part[VectorPart.SET]]]
                entity = torch.arange(count, device=around.device) // part[VectorPart.SHARED_BY]
                described = features[:, entity + part[VectorPart.FIRST_ENTITY]]
                column = part[VectorPart.COLUMN]
                mine[:, :, column : column + features.shape[2]] = described
        if self._advice_at >= 0:
            vectors[:, :, self._advice_at] = observations["advice"]
        return vectors


class EntityHead(nn.Module):
    """Outputs for every action from its own embedding and the context: the same weights for all.

    Parameters
    ----------
    extractor : SetExtractor
    context : int
        Width of the context: the extractor's, or what a memory has made of it.
    hidden : int
    outputs : int, optional
        Numbers for each action.
    """

    def __init__(
        self, extractor: SetExtractor, context: int, hidden: int, outputs: int = 1
    ) -> None:
        super().__init__()
        self.outputs = outputs
        self.from_entity = nn.Linear(extractor.entity_dim, hidden)
        self.from_context = nn.Linear(context, hidden, bias=False)
        self.out = nn.Linear(hidden, outputs, bias=False)
        self.direct = nn.Linear(extractor.entity_dim, outputs, bias=False)

    def forward(self, found: SetFeatures, illegal: float) -> Tensor:
        """[B, A, outputs], those of illegal actions filled."""
        entities, states = found.entities[found.legal], found.legal.nonzero()[:, 0]
        context = self.from_context(found.context)[states]
        hidden = torch.relu(self.from_entity(entities) + context)
        values = found.entities.new_full((*found.legal.shape, self.outputs), illegal)
        values[found.legal] = self.out(hidden) + self.direct(entities)
        return values


def _count(space: spaces.Dict, name: str) -> int:
    """Entities of a set that observations have, or 0."""
    shape = space[name].shape if name in space.spaces else None
    return 0 if shape is None else int(shape[0])
