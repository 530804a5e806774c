"""Legal actions as packed feature vectors: most windows are short, and padding is wasted work.

An action's vector holds the features of what it is about, zeros elsewhere, and which head it
belongs to: ``[queued job | candidate placement | victim | head one-hot]``. Sets that an environment
does not have take no room; where only one head exists, there is no one-hot either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from orchestrator.scheduler.schema import FeatureSchema

__all__ = ["ActionPacker", "PackedActions"]


@dataclass(frozen=True)
class PackedActions:
    """The legal actions of a batch of B states, N in all.

    Parameters
    ----------
    vectors : float32 [N, D]
        Features of each legal action, state after state.
    counts : int64 [B]
        Legal actions of each state.
    actions : int64 [N]
        Their flat action numbers.
    """

    vectors: NDArray[np.float32]
    counts: NDArray[np.int64]
    actions: NDArray[np.int64]


class ActionPacker:
    """Packs the observations of one feature schema."""

    def __init__(self, schema: FeatureSchema) -> None:
        layout = schema.actions
        self.queue_width = len(schema.queue)
        self.candidate_width = len(schema.candidates)
        self.victim_width = len(schema.victims)
        heads = [head for head in layout.heads if head.size > 0]
        self.head_width = len(heads) if len(heads) > 1 else 0
        self.width = self.queue_width + self.candidate_width + self.victim_width + self.head_width

    def pack(
        self, observation: Mapping[str, NDArray[Any]], mask: NDArray[np.bool_]
    ) -> PackedActions:
        """Pack the legal actions of a batch of observations.

        Parameters
        ----------
        observation : mapping of str to array
            With a leading axis of B states.
        mask : bool [B, A]

        Returns
        -------
        PackedActions
        """
        counts = mask.sum(axis=1, dtype=np.int64)
        total = int(counts.sum())
        vectors = np.zeros((total, self.width), np.float32)
        actions = np.empty(total, np.int64)
        queue = observation["queue"]
        nothing = np.zeros((len(queue), 0, 0), np.float32)
        _pack(
            mask,
            queue,
            observation.get("candidates", nothing),
            observation.get("victims", nothing),
            self.candidate_width,
            self.victim_width,
            self.head_width,
            vectors,
            actions,
        )
        return PackedActions(vectors, counts, actions)


@numba.njit(cache=True, nogil=True)
def _pack(
    mask, queue, candidates, victims, candidate_width, victim_width, head_width, vectors, actions
):
    Q, F = queue.shape[1], queue.shape[2]
    K = candidates.shape[1] // Q if candidate_width > 0 else 1
    V = victims.shape[1] if victim_width > 0 else 0
    victim_at = F + candidate_width
    head_at = victim_at + victim_width
    n = 0
    for b in range(mask.shape[0]):
        for a in range(mask.shape[1]):
            if not mask[b, a]:
                continue
            actions[n] = a
            head = 2
            if a < Q * K:
                head = 0
                vectors[n, :F] = queue[b, a // K]
                if candidate_width > 0:
                    vectors[n, F:victim_at] = candidates[b, a]
            elif a < Q * K + V:
                head = 1
                vectors[n, victim_at:head_at] = victims[b, a - Q * K]
            if head_width > 0:
                # Without a preemption head, wait is the second of two.
                vectors[n, head_at + (head if V > 0 else min(head, 1))] = 1.0
            n += 1
