"""Lots: numbers that depend on what they are for, and on nothing else."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

__all__ = ["Purpose", "draw_lots"]


class Purpose(IntEnum):
    """What lots are drawn for: those of one purpose say nothing of those of another."""

    CLASS = 1
    END = 2
    BLOCK = 3
    SHARED = 4
    LIKE = 5
    COMMON = 6
    FAILURE = 7
    REPAIR = 8


_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def draw_lots(
    seed: int, purpose: Purpose, rows: range, columns: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Numbers in (0, 1) that depend on seed, purpose, row and column alone, float64 [rows, n].

    SplitMix64's output function (Steele, Lea and Flood, OOPSLA 2014) of a counter.
    """
    with np.errstate(over="ignore"):
        word = _mixed(np.asarray(np.uint64(seed) * _GOLDEN + np.uint64(purpose)))
        each = _mixed(word + np.arange(rows.start, rows.stop, dtype=np.uint64) * _GOLDEN)
        both = _mixed(each[:, None] + (columns.astype(np.uint64) + np.uint64(1)) * _GOLDEN)
    return np.asarray((both >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def _mixed(word: NDArray[np.uint64]) -> NDArray[np.uint64]:
    word = (word ^ (word >> np.uint64(30))) * _MIX[0]
    word = (word ^ (word >> np.uint64(27))) * _MIX[1]
    return np.asarray(word ^ (word >> np.uint64(31)))
