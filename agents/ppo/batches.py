"""Legal actions as packed feature vectors: most windows are short, and padding is wasted work.

``orchestrator.scheduling.schema`` says how a vector is laid out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.see.layout import SETS, VectorPart
from orchestrator.scheduling.schema import (
    FeatureSchema,
    advice_column,
    feature_names,
    vector_layout,
)

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
    """Packs the observations of one feature schema.

    Parameters
    ----------
    schema : FeatureSchema
    by_head : bool, optional
        Whether each head has columns of its own.
    """

    def __init__(self, schema: FeatureSchema, by_head: bool = False) -> None:
        self.width = len(feature_names(schema, by_head))
        self._advice_at = advice_column(schema, by_head)
        self._by_head = by_head
        self._schema = schema
        self._layouts: dict[tuple[int, ...], NDArray[np.int64]] = {}

    def _parts(self, observation: Mapping[str, NDArray[Any]]) -> NDArray[np.int64]:
        """Where things are, for the sizes that an observation has: those of any window do."""
        sizes = tuple(observation[part].shape[1] if part in observation else 0 for part in SETS)
        if sizes not in self._layouts:
            self._layouts[sizes] = vector_layout(self._schema, sizes, by_head=self._by_head)
        return self._layouts[sizes]

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
        nothing = np.zeros((len(mask), 1, 0), np.float32)
        sets = tuple(observation.get(part, nothing) for part in SETS)
        advice = observation.get("advice", nothing[:, 0])
        _pack(mask, sets, self._parts(observation), advice, self._advice_at, vectors, actions)
        return PackedActions(vectors, counts, actions)


@numba.njit(cache=True, nogil=True)
def _pack(mask, sets, parts, advice, advice_at, vectors, actions):
    n = 0
    for b in range(mask.shape[0]):
        p = 0
        while p < parts.shape[0]:
            # The rows of one head follow each other.
            last, first = p, parts[p, VectorPart.FIRST_ACTION]
            while last + 1 < parts.shape[0] and parts[last + 1, VectorPart.FIRST_ACTION] == first:
                last += 1
            for k in range(parts[p, VectorPart.ACTIONS]):
                a = first + k
                if not mask[b, a]:
                    continue
                actions[n] = a
                for q in range(p, last + 1):
                    if parts[q, VectorPart.SET] >= 0:
                        i = parts[q, VectorPart.FIRST_ENTITY] + k // parts[q, VectorPart.SHARED_BY]
                        features = sets[parts[q, VectorPart.SET]][b, i]
                        start = parts[q, VectorPart.COLUMN]
                        for f in range(features.shape[0]):
                            vectors[n, start + f] = features[f]
                if parts[p, VectorPart.ONE_HOT] >= 0:
                    vectors[n, parts[p, VectorPart.ONE_HOT]] = 1.0
                if advice_at >= 0:
                    vectors[n, advice_at] = advice[b, a]
                n += 1
            p = last + 1
