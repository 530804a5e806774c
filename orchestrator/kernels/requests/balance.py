"""Load balancing: the better of two endpoints drawn at random.

Power of two choices: M. Mitzenmacher, IEEE Transactions on Parallel and Distributed Systems
12(10), 2001. What is compared is the peak-sensitive moving average of Finagle and Linkerd
("peak EWMA"): an answer slower than the average replaces it at once, a faster one pulls it down
slowly, so that a backend that turns slow is avoided from its first slow answer on.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from orchestrator.kernels.lang.jit import entry, small_kernel
from orchestrator.kernels.lang.numbers import random_bits
from orchestrator.kernels.state.codes import Stream

__all__ = [
    "LatencyState",
    "draw_two",
    "fold_latency",
    "load_cost",
    "second_is_better",
    "two_of",
]


_S32 = np.uint64(32)


_LOW = np.uint64(0xFFFFFFFF)


class LatencyState(NamedTuple):
    """A moving average of an endpoint's response times."""

    mean_ms: float
    stamp_ms: int


@entry
def fold_latency(
    state: LatencyState, now_ms: int, sample_ms: float, decay_ms: float
) -> LatencyState:
    """The average after one more answer; the old one's weight falls by e in ``decay_ms``."""
    if sample_ms > state.mean_ms:
        return LatencyState(np.float64(sample_ms), np.int64(now_ms))
    elapsed = max(now_ms - state.stamp_ms, np.int64(1))
    weight = math.exp(-elapsed / decay_ms)
    mean = state.mean_ms * weight + sample_ms * (1.0 - weight)
    return LatencyState(mean, max(np.int64(now_ms), state.stamp_ms))


@small_kernel
def load_cost(mean_ms: float, in_flight: int) -> float:
    """What one more request at an endpoint is expected to take: the requests there, served in turn.

    An endpoint without an average (0) counts as 1 us: new ones get tried.
    """
    return max(mean_ms, 0.001) * (in_flight + 1)


@entry
def two_of(bits: int, count: int) -> tuple[int, int]:
    """Two different indices below ``count`` from 64 random bits (the same one if it is 1)."""
    word = np.uint64(bits)
    first = np.int64(((word >> _S32) * np.uint64(count)) >> _S32)
    if count < 2:
        return np.int64(0), np.int64(0)
    second = np.int64(((word & _LOW) * np.uint64(count - 1)) >> _S32)
    if second >= first:
        second += 1
    return first, second


@entry
def draw_two(seed: int, draw: int, count: int) -> tuple[int, int]:
    """:func:`two_of` with the bits of draw number ``draw`` of a seed."""
    return two_of(random_bits(seed, Stream.BALANCING, draw), count)


@entry
def second_is_better(
    first_ms: float, first_in_flight: int, second_ms: float, second_in_flight: int
) -> bool:
    """Whether the second of two endpoints is the cheaper one; the first wins ties.

    By the averages of their response times, 0 if there is none yet, and by the requests that each
    has not answered yet.
    """
    return load_cost(second_ms, second_in_flight) < load_cost(first_ms, first_in_flight)
