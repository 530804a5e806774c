"""Running a trained scorer, without the machinery of training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from agents.bundle import Manifest, restore_environment
from agents.ppo.network import ActionSet, SetScorer
from agents.ppo.packing import ActionPacker
from agents.task import BatchPolicy
from orchestrator.scheduler.schema import FeatureSchema

__all__ = ["ScorerPolicy", "load_policy"]


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
    """

    def __init__(
        self,
        state: Mapping[str, Tensor],
        schema: FeatureSchema,
        hidden: int,
        name: str = "ppo",
        by_head: bool = False,
    ) -> None:
        self.name = name
        self._packer = ActionPacker(schema, by_head)
        self._scorer = SetScorer(self._packer.width, len(schema.globals), hidden, {})
        self._scorer.load_state_dict(dict(state))
        self._scorer.eval()

    def state(self) -> dict[str, Tensor]:
        """The scorer's weights."""
        return dict(self._scorer.state_dict())

    def actions(
        self, observation: Mapping[str, NDArray[Any]], mask: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """The best legal action of each state, [B]; of equals the first."""
        packed = self._packer.pack(observation, mask)
        legal = ActionSet(
            torch.from_numpy(packed.vectors),
            torch.from_numpy(packed.counts),
            torch.from_numpy(np.ascontiguousarray(observation["global"], np.float32)),
        )
        with torch.inference_mode():
            scores = legal.pad(self._scorer(legal), -torch.inf).numpy()
        first = np.cumsum(packed.counts) - packed.counts
        chosen: NDArray[np.int64] = packed.actions[first + scores.argmax(axis=1)]
        return chosen


def load_policy(manifest: Manifest, weights: Mapping[str, Any]) -> BatchPolicy:
    """Make the policy of a bundle of kind ``ppo``."""
    schema = restore_environment(manifest.environment).schema
    hidden, by_head = int(manifest.model["hidden"]), bool(manifest.model.get("by_head", False))
    return ScorerPolicy(weights, schema, hidden, manifest.name, by_head)
