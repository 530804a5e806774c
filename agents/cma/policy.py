"""The linear ranker: of the queued jobs, the one whose features weigh most."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.bundle import Manifest
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.see.layout import DEFAULT_NAMES

__all__ = ["LinearRanker", "load_ranker", "named_weights"]


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
        if mask.shape != features.shape[:2] or features.shape[2] != len(self.weights):
            raise ConfigurationError(
                f"ranker: features {features.shape} and actions {mask.shape} are not those of job "
                f"ordering with default features"
            )
        # One feature after the other, as compiled replays add them up: the same sums, bit for bit.
        scores = np.zeros(mask.shape, np.result_type(features, self.weights))
        for k, weight in enumerate(self.weights):
            scores += features[:, :, k] * weight
        return np.where(mask, scores, -np.inf).argmax(axis=1)

    def __repr__(self) -> str:
        """Show the weights by name."""
        pairs = zip(DEFAULT_NAMES, self.weights, strict=True)
        return f"LinearRanker({', '.join(f'{name}={weight:.3g}' for name, weight in pairs)})"


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
