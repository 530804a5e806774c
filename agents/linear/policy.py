"""Linear policies: the queued job, or the legal action, whose features weigh most.

And the ranker that has a small network besides, which looks at all jobs of the window.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from agents.bundle import Manifest, restore_environment
from agents.problem import ActionScores, require_ordering
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.run.linear import best_actions, score_actions
from orchestrator.kernels.run.network import (
    LANES,
    NetworkBench,
    make_network,
    score_sets,
    weight_count,
)
from orchestrator.kernels.see.layout import DEFAULT_NAMES, SETS
from orchestrator.scheduling.schema import (
    FeatureSchema,
    advice_column,
    feature_names,
    named_vector,
    vector_layout,
)

__all__ = [
    "LinearRanker",
    "LinearScorer",
    "Ranker",
    "SetRanker",
    "load_ranker",
    "load_scorer",
    "load_set_ranker",
    "named_weights",
]


_Seen: TypeAlias = tuple[
    tuple[NDArray[np.float32], ...], NDArray[np.float32], NDArray[np.int8], NDArray[np.int64]
]


class LinearRanker:
    """Chooses the job with the largest ``weights . features``; ties: the first in the window.

    It is permutation-equivariant and serves any window, but only environments that ask for a job
    and nothing else (``commitment``) and describe jobs by the default features.

    Parameters
    ----------
    weights : float [14]
        Weight of each of ``layout.DEFAULT_NAMES``.
    name : str, optional
        For tables.
    """

    hidden = 0
    """Units of its network: it has none."""

    def __init__(self, weights: NDArray[np.floating[Any]], name: str = "linear_ranker") -> None:
        values = np.asarray(weights, np.float32)
        if values.shape != (len(DEFAULT_NAMES),) or not np.all(np.isfinite(values)):
            raise ConfigurationError(
                f"ranker: 'weights' has shape {values.shape} or values that are not finite; give "
                f"one number for each of the {len(DEFAULT_NAMES)} features"
            )
        self.weights: NDArray[np.float32] = values
        self.name = name

    @classmethod
    def from_names(cls, weights: Mapping[str, float], name: str = "linear_ranker") -> LinearRanker:
        """A ranker from weights by feature name; the others are 0."""
        return cls(named_weights(weights), name)

    def actions(
        self, observation: Mapping[str, NDArray[Any]], mask: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """Choose an action for each row."""
        features = observation["queue"]
        require_ordering("ranker", features, mask)
        return np.where(mask, self._scores(features), -np.inf).argmax(axis=1)

    def score(
        self, observation: Mapping[str, NDArray[Any]], mask: NDArray[np.bool_]
    ) -> ActionScores:
        """Scores of the jobs of one state's window."""
        legal = np.flatnonzero(mask[0])
        return ActionScores(legal, self._scores(observation["queue"][:1])[0][legal])

    def _scores(self, features: NDArray[Any]) -> NDArray[np.floating[Any]]:
        # One feature after the other, as compiled replays add them up: the same sums, bit for bit.
        scores = np.zeros(features.shape[:2], np.result_type(features, self.weights))
        for k, weight in enumerate(self.weights):
            scores += features[:, :, k] * weight
        return scores

    def __repr__(self) -> str:
        """Show the weights by name."""
        pairs = zip(DEFAULT_NAMES, self.weights, strict=True)
        return f"LinearRanker({', '.join(f'{name}={weight:.3g}' for name, weight in pairs)})"


class SetRanker:
    """Chooses the job with the largest score of a set network; ties: the first in the window.

    :mod:`orchestrator.kernels.run.network` says what that is, and computes it here, in training, in
    lookahead and on a live cluster. It serves the windows that :class:`LinearRanker` does. It
    belongs to one thread at a time.

    Parameters
    ----------
    weights : float [weight_count(hidden)]
        As :func:`orchestrator.kernels.run.network.weight_layout` lays them out.
    hidden : int
        Units of both layers.
    name : str, optional
        For tables.
    """

    def __init__(
        self, weights: NDArray[np.floating[Any]], hidden: int, name: str = "set_network"
    ) -> None:
        if hidden < LANES or hidden % LANES != 0:
            raise ConfigurationError(
                f"set network: 'hidden' is {hidden}; give a multiple of {LANES}"
            )
        values = np.ascontiguousarray(weights, np.float32)
        if values.shape != (weight_count(hidden),) or not np.all(np.isfinite(values)):
            raise ConfigurationError(
                f"set network: 'weights' has shape {values.shape} or values that are not finite; "
                f"give {weight_count(hidden)} numbers"
            )
        self.weights: NDArray[np.float32] = values
        self.hidden = hidden
        self.name = name
        self._bench: NetworkBench | None = None

    def actions(
        self, observation: Mapping[str, NDArray[Any]], mask: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """Choose an action for each row."""
        return self._scores(observation, mask).argmax(axis=1)

    def score(
        self, observation: Mapping[str, NDArray[Any]], mask: NDArray[np.bool_]
    ) -> ActionScores:
        """Scores of the jobs of one state's window."""
        legal = np.flatnonzero(mask[0])
        return ActionScores(legal, self._scores(observation, mask[:1])[0][legal])

    def _scores(
        self, observation: Mapping[str, NDArray[Any]], mask: NDArray[np.bool_]
    ) -> NDArray[np.float32]:
        """Scores [B, Q]; -inf where there is no job."""
        jobs = np.ascontiguousarray(observation["queue"][: len(mask)], np.float32)
        around = np.ascontiguousarray(observation["global"][: len(mask)], np.float32)
        require_ordering("set network", jobs, mask)
        if self._bench is None or len(self._bench.window) < mask.shape[1]:
            self._bench = make_network(1, mask.shape[1], self.hidden)
        scores = np.full(mask.shape, -np.inf, np.float32)
        legal = np.ascontiguousarray(mask, np.bool_).view(np.int8)
        score_sets(jobs, around, legal, self.weights, self._bench, scores)
        return scores

    def __repr__(self) -> str:
        """Show the linear part by name."""
        pairs = zip(DEFAULT_NAMES, self.weights, strict=False)
        linear = ", ".join(f"{name}={weight:.3g}" for name, weight in pairs)
        return f"SetRanker({self.hidden} units, {linear})"


Ranker: TypeAlias = LinearRanker | SetRanker
"""Who ranks jobs in compiled replays, by ``weights`` and ``hidden``."""


def named_weights(weights: Mapping[str, float]) -> NDArray[np.float64]:
    """Weights by feature name as a vector in the order of the features; the others are 0."""
    vector = np.zeros(len(DEFAULT_NAMES))
    for name, weight in weights.items():
        if name not in DEFAULT_NAMES:
            known = ", ".join(DEFAULT_NAMES)
            raise ConfigurationError(f"ranker: unknown feature '{name}'; known: {known}")
        vector[DEFAULT_NAMES.index(name)] = weight
    return vector


def load_ranker(manifest: Manifest, weights: Mapping[str, Any]) -> LinearRanker:
    """Make the policy of a bundle of kind ``linear_ranker``."""
    return LinearRanker(weights["weights"], manifest.name)


def load_set_ranker(manifest: Manifest, weights: Mapping[str, Any]) -> SetRanker:
    """Make the policy of a bundle of kind ``set_network``."""
    return SetRanker(weights["weights"], int(manifest.model["hidden"]), manifest.name)


class LinearScorer:
    """Takes the legal action with the largest ``weights . vector``; of equals the first.

    It serves any window and cluster. It decides with the kernel that training plays windows with.

    Parameters
    ----------
    weights : float [D]
        Weight of each of ``feature_names(schema, by_head=True)``.
    schema : FeatureSchema
    name : str, optional
        For tables.
    """

    def __init__(
        self, weights: NDArray[np.floating[Any]], schema: FeatureSchema, name: str = "cma"
    ) -> None:
        values = np.ascontiguousarray(weights, np.float32)
        names = feature_names(schema, by_head=True)
        if values.shape != (len(names),) or not np.all(np.isfinite(values)):
            raise ConfigurationError(
                f"scorer: 'weights' has shape {values.shape} or values that are not finite; give "
                f"one number for each of the {len(names)} features"
            )
        self.weights: NDArray[np.float32] = values
        self.schema = schema
        self.name = name
        self._layouts: dict[tuple[int, ...], NDArray[np.int64]] = {}
        self._advice_at = advice_column(schema, by_head=True)

    @classmethod
    def from_names(
        cls, weights: Mapping[str, float], schema: FeatureSchema, name: str = "cma"
    ) -> LinearScorer:
        """A scorer from weights by feature name; the others are 0."""
        return cls(named_vector(schema, weights, by_head=True), schema, name)

    def actions(
        self, observation: Mapping[str, NDArray[Any]], mask: NDArray[np.bool_]
    ) -> NDArray[np.int64]:
        """Choose an action for each row; -1 where none is legal."""
        chosen = np.empty(len(mask), np.int64)
        best_actions(*self._seen(observation, mask), self._advice_at, self.weights, chosen)
        return chosen

    def score(
        self, observation: Mapping[str, NDArray[Any]], mask: NDArray[np.bool_]
    ) -> ActionScores:
        """Scores of the legal actions of one state, summed as the kernel that chooses sums them."""
        sets, advice, legal, layout = self._seen(observation, mask)
        scores, actions = np.empty(legal.shape[1], np.float32), np.empty(legal.shape[1], np.int64)
        found = scores, actions
        count = score_actions(sets, advice, legal, layout, self._advice_at, self.weights, found)
        return ActionScores(actions[:count], scores[:count])

    def _seen(self, observation: Mapping[str, NDArray[Any]], mask: NDArray[np.bool_]) -> _Seen:
        """What kernels read of observations: sets, advice, mask, and how vectors are laid out."""
        nothing = np.zeros((len(mask), 1, 0), np.float32)
        sets = tuple(
            np.ascontiguousarray(observation.get(part, nothing), np.float32) for part in SETS
        )
        sizes = tuple(
            seen.shape[1] if part in observation else 0
            for part, seen in zip(SETS, sets, strict=True)
        )
        if sizes not in self._layouts:
            self._layouts[sizes] = vector_layout(self.schema, sizes, by_head=True)
        advice = np.ascontiguousarray(observation.get("advice", nothing[:, 0]), np.float32)
        legal = np.ascontiguousarray(mask, np.bool_).view(np.int8)
        return sets, advice, legal, self._layouts[sizes]

    def __repr__(self) -> str:
        """Show the weights by name."""
        pairs = zip(feature_names(self.schema, by_head=True), self.weights, strict=True)
        return f"LinearScorer({', '.join(f'{name}={weight:.3g}' for name, weight in pairs)})"


def load_scorer(manifest: Manifest, weights: Mapping[str, Any]) -> LinearScorer:
    """Make the policy of a bundle of kind ``linear_scorer``."""
    schema = restore_environment(manifest.environment).schema
    return LinearScorer(weights["weights"], schema, manifest.name)
