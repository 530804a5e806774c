"""A circuit breaker: closed, open, half-open (M. Nygard, "Release It!", 2007).

Closed, it lets everything through and opens after so many failures in a row, or once the share of
failures in a window reaches a ratio. Open, it lets nothing through until a time has passed. Then,
half-open, it lets a few probes through: if all succeed it closes, if one fails it opens again.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np

from orchestrator.kernels.lang.jit import entry, kernel, small_kernel

__all__ = [
    "BreakerMode",
    "BreakerRule",
    "BreakerState",
    "breaker_admit",
    "breaker_record",
    "closed_breaker",
    "leaked_requests",
]


class BreakerMode(IntEnum):
    """What a breaker lets through."""

    CLOSED = 0
    OPEN = 1
    HALF_OPEN = 2


class BreakerRule(NamedTuple):
    """When a breaker opens and closes."""

    failures: int
    """Failures in a row that open it; 0: they do not."""
    ratio: float
    """Share of failures in a window that opens it; 0: it does not."""
    window_ms: int
    """Length of a window. Windows follow one another and do not overlap."""
    minimum: int
    """Requests of a window below which its ratio says nothing."""
    open_ms: int
    """Time that it stays open; also what a probe has to be answered in."""
    probes: int
    """Probes that must succeed before it closes, at least 1."""


class BreakerState(NamedTuple):
    """What a breaker remembers."""

    mode: int
    since_ms: int
    """When it took this mode."""
    in_row: int
    """Failures in a row."""
    window_ms: int
    """Start of the window."""
    seen: int
    """Answers in the window."""
    failed: int
    """Failures in the window."""
    probing: int
    """Probes let through since it is half-open."""
    passed: int
    """Probes that succeeded."""


@entry
def closed_breaker(now_ms: int) -> BreakerState:
    """A breaker that has seen nothing."""
    now = np.int64(now_ms)
    zero = np.int64(0)
    return BreakerState(np.int64(BreakerMode.CLOSED), now, zero, now, zero, zero, zero, zero)


@small_kernel
def _in_mode(mode, now_ms, probing):
    now = np.int64(now_ms)
    zero = np.int64(0)
    return BreakerState(np.int64(mode), now, zero, now, zero, zero, np.int64(probing), zero)


@entry
def breaker_admit(rule: BreakerRule, state: BreakerState, now_ms: int) -> tuple[bool, BreakerState]:
    """Whether a request may go through now, and the state after that.

    A half-open breaker whose probes were not answered within ``open_ms`` sends new ones: an answer
    that never comes must not keep it half-open for good.
    """
    if state.mode == BreakerMode.CLOSED:
        return True, state
    waited = now_ms - state.since_ms >= rule.open_ms
    if state.mode == BreakerMode.OPEN:
        if not waited:
            return False, state
        return True, _in_mode(BreakerMode.HALF_OPEN, now_ms, 1)
    if state.probing < rule.probes:
        probing = state.probing + 1
        return True, BreakerState(
            state.mode,
            state.since_ms,
            state.in_row,
            state.window_ms,
            state.seen,
            state.failed,
            probing,
            state.passed,
        )
    if waited:
        return True, _in_mode(BreakerMode.HALF_OPEN, now_ms, 1)
    return False, state


@kernel
def _record_closed(rule, state, now_ms, good, count):
    window_ms, seen, failed = state.window_ms, state.seen, state.failed
    if now_ms - window_ms >= rule.window_ms:
        window_ms, seen, failed = np.int64(now_ms), np.int64(0), np.int64(0)
    seen += count
    in_row = np.int64(0)
    if not good:
        failed += count
        in_row = state.in_row + count
    trips = rule.failures > 0 and in_row >= rule.failures
    if rule.ratio > 0.0 and seen >= rule.minimum and failed > 0 and failed >= rule.ratio * seen:
        trips = True
    if trips:
        return _in_mode(BreakerMode.OPEN, now_ms, 0)
    zero = np.int64(0)
    return BreakerState(state.mode, state.since_ms, in_row, window_ms, seen, failed, zero, zero)


@entry
def breaker_record(
    rule: BreakerRule, state: BreakerState, now_ms: int, good: bool, count: int
) -> BreakerState:
    """State after ``count`` answers of one sort; an open breaker ignores late ones."""
    if count <= 0 or state.mode == BreakerMode.OPEN:
        return state
    if state.mode == BreakerMode.CLOSED:
        return _record_closed(rule, state, now_ms, good, count)
    if not good:
        return _in_mode(BreakerMode.OPEN, now_ms, 0)
    passed = state.passed + count
    if passed >= rule.probes:
        return closed_breaker(now_ms)
    return BreakerState(
        state.mode,
        state.since_ms,
        state.in_row,
        state.window_ms,
        state.seen,
        state.failed,
        state.probing,
        passed,
    )


@entry
def leaked_requests(
    rule: BreakerRule, state: BreakerState, now_ms: int, span_ms: int, rate: float
) -> tuple[float, BreakerState]:
    """Requests that reach a backend that fails all of them, and the state of its breaker then.

    The span of ``span_ms`` begins at ``now_ms``, and the backend would get ``rate`` requests per
    second: all until the breaker opens, then one probe per ``open_ms``; at most ``rate`` times the
    span.
    """
    most = rate * span_ms / 1000.0
    if most <= 0.0:
        return 0.0, state
    leaked = 0.0
    at_ms = np.int64(now_ms)
    end_ms = at_ms + span_ms
    if state.mode == BreakerMode.CLOSED:
        if rule.failures <= 0 and rule.ratio <= 0.0:
            return most, state
        need = np.int64(rule.minimum)
        if rule.ratio <= 0.0 or (0 < rule.failures - state.in_row < need):
            need = rule.failures - state.in_row
        leaked = min(np.float64(max(need, np.int64(1))), most)
        at_ms = min(at_ms + np.int64(leaked / rate * 1000.0), end_ms)
        state = breaker_record(rule, state, at_ms, False, np.int64(leaked))
    if state.mode == BreakerMode.HALF_OPEN:
        leaked += 1.0
        state = breaker_record(rule, state, at_ms, False, np.int64(1))
    if state.mode == BreakerMode.OPEN and rule.open_ms > 0:
        rounds = max((end_ms - state.since_ms) // rule.open_ms, np.int64(0))
        leaked += np.float64(rounds)
        if rounds > 0:
            state = _in_mode(BreakerMode.OPEN, state.since_ms + rounds * rule.open_ms, 0)
    return min(leaked, most), state
