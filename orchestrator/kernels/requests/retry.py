"""Retries: exponential backoff with jitter, and a budget that bounds the load that they add.

Backoff: "Exponential Backoff And Jitter" (M. Brooker, AWS Architecture Blog, 2015). Budget: as in
Twitter's Finagle (``RetryBudget``) and the SRE book (B. Beyer et al. 2016, chapter 21): every
request earns a fraction of a retry, every retry costs one, so that retries cannot exceed that
fraction of the requests however many of them fail.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from orchestrator.kernels.lang.jit import entry
from orchestrator.kernels.lang.numbers import random_unit
from orchestrator.kernels.state.codes import Stream

__all__ = [
    "BudgetState",
    "RetryRule",
    "backoff_ms",
    "budget_earn",
    "budget_spend",
    "drawn_backoff_ms",
    "full_budget",
    "retried_load",
]


class RetryRule(NamedTuple):
    """How often, how soon and how much may be tried again."""

    attempts: int
    """Most attempts of one request, the first included."""
    base_ms: float
    """Wait before the first retry."""
    factor: float
    """Growth of the wait from retry to retry."""
    cap_ms: float
    """Longest wait."""
    jitter: float
    """Part of a wait that is random, 0 to 1."""
    budget: float
    """Retries that a request earns."""
    floor_rps: float
    """Retries per second that are earned without requests."""
    reserve: float
    """Most retries that can be saved up."""


class BudgetState(NamedTuple):
    """What is left to spend."""

    balance: float
    stamp_ms: int


@entry
def backoff_ms(rule: RetryRule, retry: int, draw: float) -> float:
    """Wait before retry number ``retry`` (0 is the first), for a uniform ``draw`` in [0, 1)."""
    wait = rule.base_ms
    for _ in range(min(retry, 64)):
        wait *= rule.factor
        if wait >= rule.cap_ms:
            break
    return min(wait, rule.cap_ms) * (1.0 - rule.jitter * draw)


@entry
def drawn_backoff_ms(rule: RetryRule, retry: int, seed: int, draw: int) -> float:
    """:func:`backoff_ms` with draw number ``draw`` of a seed."""
    return backoff_ms(rule, retry, random_unit(seed, Stream.BACKOFF, draw))


@entry
def full_budget(rule: RetryRule, now_ms: int) -> BudgetState:
    """A budget with its reserve full."""
    return BudgetState(np.float64(rule.reserve), np.int64(now_ms))


@entry
def budget_earn(rule: RetryRule, state: BudgetState, now_ms: int, requests: float) -> BudgetState:
    """The budget after so many first attempts."""
    seconds = max(now_ms - state.stamp_ms, np.int64(0)) / 1000.0
    balance = state.balance + rule.budget * requests + rule.floor_rps * seconds
    stamp_ms = max(np.int64(now_ms), state.stamp_ms)
    return BudgetState(min(balance, np.float64(rule.reserve)), stamp_ms)


@entry
def budget_spend(state: BudgetState) -> tuple[bool, BudgetState]:
    """Whether one retry may be made, and the budget after it."""
    if state.balance < 1.0:
        return False, state
    return True, BudgetState(state.balance - 1.0, state.stamp_ms)


@entry
def retried_load(
    rule: RetryRule, state: BudgetState, now_ms: int, requests: float, failure: float
) -> tuple[float, BudgetState]:
    """Retries that ``requests`` first attempts cause, and the budget after them.

    Attempts fail with probability ``failure``, p, each independently of the others: the retries are
    ``requests * (p + p**2 + ... + p**(attempts - 1))``, but no more than the budget has. ``now_ms``
    is the end of the span in which the requests came, ``state`` the budget at its beginning.
    """
    seconds = max(now_ms - state.stamp_ms, np.int64(0)) / 1000.0
    purse = state.balance + rule.budget * requests + rule.floor_rps * seconds
    wanted = 0.0
    failing = requests
    for _ in range(min(rule.attempts, 64) - 1):
        failing *= failure
        wanted += failing
    spent = min(wanted, purse)
    left = min(purse - spent, np.float64(rule.reserve))
    return spent, BudgetState(left, max(np.int64(now_ms), state.stamp_ms))
