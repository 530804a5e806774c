"""Legal actions as packed feature vectors: most windows are short, and padding is wasted work.

An action's vector holds the features of what it is about, zeros elsewhere, which head it belongs
to, and whether the advising rule would take it:
``[queued job | candidate | victim | elastic job | head one-hot | advised]``. Sets that an
environment does not have take no room; where only one head exists, there is no one-hot either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from orchestrator.scheduler.schema import FeatureSchema

__all__ = ["ActionPacker", "PackedActions", "feature_names"]

_SETS = ("queue", "candidates", "victims", "elastics")
"""Sets of an observation in the order in which an action's vector holds them."""

_PREFIX = {"queue": "", "candidates": "candidate:", "victims": "victim:", "elastics": "elastic:"}

_HEAD_SETS = {
    "place": ("queue", "candidates"),
    "preempt": ("victims",),
    "shrink": ("elastics",),
    "grow": ("elastics",),
    "migrate": ("victims",),
    "wait": (),
}
"""Whose features describe an action of a head."""


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


def feature_names(schema: FeatureSchema) -> list[str]:
    """Names of the entries of an action's vector."""
    names = [f"{_PREFIX[part]}{name}" for part in _SETS for name in getattr(schema, part)]
    heads = [head.name for head in schema.actions.heads if head.size > 0]
    names += [f"head:{name}" for name in heads if len(heads) > 1]
    return names + [f"advice:{name}" for name in schema.advice]


class ActionPacker:
    """Packs the observations of one feature schema."""

    def __init__(self, schema: FeatureSchema) -> None:
        self.width = len(feature_names(schema))
        self._advice_at = self.width - 1 if schema.advice else -1
        self._schema = schema
        self._layouts: dict[tuple[int, ...], NDArray[np.int64]] = {}

    def _parts(self, observation: Mapping[str, NDArray[Any]]) -> NDArray[np.int64]:
        """Where things are, for the sizes that an observation has: those of any window will do.

        One row for each set that describes a head: first action of the head, number of actions,
        set, actions that share an element, its first column, column of the one-hot (-1: none).
        """
        sizes = tuple(observation[part].shape[1] if part in observation else 0 for part in _SETS)
        if sizes not in self._layouts:
            self._layouts[sizes] = self._lay_out(*sizes)
        return self._layouts[sizes]

    def _lay_out(
        self, window: int, candidates: int, victims: int, elastics: int
    ) -> NDArray[np.int64]:
        per_job = candidates // window if self._schema.candidates else 1
        layout = replace(
            self._schema.actions,
            window=window,
            candidates=per_job,
            victims=victims if self._schema.victims else 0,
            elastics=elastics if self._schema.elastics else 0,
        )
        widths = {part: len(getattr(self._schema, part)) for part in _SETS}
        starts = dict(zip(_SETS, np.cumsum([0, *widths.values()]).tolist(), strict=False))
        heads = [head for head in layout.heads if head.size > 0]
        one_hot = sum(widths.values())
        parts = []
        for at, head in enumerate(heads):
            hot = one_hot + at if len(heads) > 1 else -1
            sets = [part for part in _HEAD_SETS[head.name] if widths[part] > 0]
            for part in sets or [""]:
                # Candidates are numbered as the actions are; their job is one for all of them.
                share = per_job if part == "queue" else 1
                number, start = (_SETS.index(part), starts[part]) if part else (-1, 0)
                parts.append((head.offset, head.size, number, share, start, hot))
        return np.array(parts, np.int64)

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
        sets = tuple(observation.get(part, nothing) for part in _SETS)
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
            last = p
            while last + 1 < parts.shape[0] and parts[last + 1, 0] == parts[p, 0]:
                last += 1
            for k in range(parts[p, 1]):
                a = parts[p, 0] + k
                if not mask[b, a]:
                    continue
                actions[n] = a
                for q in range(p, last + 1):
                    if parts[q, 2] >= 0:
                        features = sets[parts[q, 2]][b, k // parts[q, 3]]
                        start = parts[q, 4]
                        for f in range(features.shape[0]):
                            vectors[n, start + f] = features[f]
                if parts[p, 5] >= 0:
                    vectors[n, parts[p, 5]] = 1.0
                if advice_at >= 0:
                    vectors[n, advice_at] = advice[b, a]
                n += 1
            p = last + 1
