"""Random numbers of policies: functions of the cluster's seed and a counter, never of the time."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.codes import Stream
from orchestrator.kernels.jit import entry
from orchestrator.kernels.randomness import random_unit

__all__ = ["uniforms"]


@entry
def _fill(seed: np.uint64, stream: int, first: int, drawn: NDArray[np.float64]) -> None:
    for i in range(drawn.shape[0]):
        drawn[i] = random_unit(seed, stream, first + i)


def uniforms(seed: int, stream: Stream, first: int, count: int) -> NDArray[np.float64]:
    """Numbers in [0, 1), those of the counters from ``first`` on, float64 [count]."""
    drawn = np.empty(count)
    _fill(np.uint64(seed), int(stream), first, drawn)
    return drawn
