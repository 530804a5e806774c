"""A rollout buffer that keeps legal actions only, packed."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sb3_contrib.common.maskable.buffers import MaskableDictRolloutBuffer
from torch import Tensor

from agents.ppo.network import ActionSet
from agents.ppo.packing import ActionPacker, PackedActions

__all__ = ["PackedRolloutBuffer", "Transitions"]


_PER_STEP = ("rewards", "returns", "episode_starts", "values", "log_probs", "advantages")


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
