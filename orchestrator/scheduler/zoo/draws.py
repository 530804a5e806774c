"""Random numbers of policies: functions of the cluster's seed and a counter, never of the time."""

from __future__ import annotations

from typing import Any

from orchestrator.kernels import randomness
from orchestrator.kernels.codes import Stream

__all__ = ["uniform"]

_unit: Any = randomness.random_unit


def uniform(seed: int, stream: Stream, counter: int) -> float:
    """A number in [0, 1)."""
    return float(_unit(seed, int(stream), counter))
