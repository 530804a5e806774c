"""A token bucket: so many requests per second on average, so many at once.

J. Turner, "New directions in communications", IEEE Communications Magazine 24(10), 1986.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from orchestrator.kernels.lang.jit import entry

__all__ = ["BucketState", "LimitRule", "admitted_amount", "full_bucket", "take_token"]


class LimitRule(NamedTuple):
    """How much passes."""

    rate_rps: float
    """Requests per second; 0: no limit."""
    burst: float
    """Size of the bucket, requests."""


class BucketState(NamedTuple):
    """How full the bucket was, and when."""

    tokens: float
    stamp_ms: int


@entry
def full_bucket(rule: LimitRule, now_ms: int) -> BucketState:
    """A bucket that is full."""
    return BucketState(np.float64(rule.burst), np.int64(now_ms))


@entry
def take_token(rule: LimitRule, state: BucketState, now_ms: int) -> tuple[bool, BucketState]:
    """Whether a request passes now, and the bucket after it."""
    if rule.rate_rps <= 0.0:
        return True, state
    seconds = max(now_ms - state.stamp_ms, np.int64(0)) / 1000.0
    tokens = min(state.tokens + rule.rate_rps * seconds, np.float64(rule.burst))
    stamp_ms = max(np.int64(now_ms), state.stamp_ms)
    if tokens < 1.0:
        return False, BucketState(tokens, stamp_ms)
    return True, BucketState(tokens - 1.0, stamp_ms)


@entry
def admitted_amount(
    rule: LimitRule, state: BucketState, now_ms: int, requests: float
) -> tuple[float, BucketState]:
    """How much of an even flow of requests since the last stamp passes, and the bucket after it.

    The limit of :func:`take_token` for many small requests: exact for a fluid.
    """
    if rule.rate_rps <= 0.0:
        return requests, state
    seconds = max(now_ms - state.stamp_ms, np.int64(0)) / 1000.0
    purse = state.tokens + rule.rate_rps * seconds
    passed = min(requests, purse)
    stamp_ms = max(np.int64(now_ms), state.stamp_ms)
    return passed, BucketState(min(purse - passed, np.float64(rule.burst)), stamp_ms)
