"""Linear scorers of legal actions, played wholly inside the engine.

A scorer takes the legal action whose vector, weighted and summed, is largest; of equals the first.
A vector holds the features of what the action is about, which head it belongs to and whether the
advising rule would take it; ``orchestrator.scheduler.vectors`` lays it out. It is never written
down: features are weighted where the encoder left them, column after column, so that a policy
outside the engine that calls :func:`best_actions` decides alike, bit for bit.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from orchestrator.kernels.advance import advance
from orchestrator.kernels.buffers import Bench, Buffers, Source
from orchestrator.kernels.codes import Reason
from orchestrator.kernels.commit import commit
from orchestrator.kernels.features import fill_static
from orchestrator.kernels.jit import kernel, small_kernel
from orchestrator.kernels.metrics import metric_value
from orchestrator.kernels.observe import decode, encode
from orchestrator.kernels.randomness import random_bits
from orchestrator.kernels.rules import replay
from orchestrator.kernels.session import load_surroundings
from orchestrator.kernels.transition.decide import close_point
from orchestrator.kernels.transition.episode import begin_episode

__all__ = ["Scoring", "best_actions", "evaluate_rule_windows", "evaluate_scorers"]

_F = np.float32
_ZERO = _F(0.0)
_TWICE = 2.0


class Scoring(NamedTuple):
    """How vectors are laid out, and what ends windows that a scorer cannot."""

    layout: NDArray[np.int64]  # [parts, 7] see vectors.vector_layout
    advice_at: int  # column of the advice, or -1
    rules: NDArray[np.void]  # [1] RULE_DTYPE that plays on beyond the step limit
    step_limit: int  # actions of a window


@small_kernel
def _add(features, weights, start, score):
    for f in range(features.shape[0]):
        score += features[f] * weights[start + f]
    return score


@kernel
def _best_action(sets, advice, mask, b, layout, advice_at, weights):
    """The legal action of the highest score in state ``b``, or -1 if none is legal.

    Parameters
    ----------
    sets : tuple of float32 [B, entities, features]
        ``vectors.SETS`` of B observations, in that order.
    advice : float32 [B, A]
        Not read if ``advice_at`` is -1.
    mask : int8 [B, A]
    b : int
    layout : int64 [parts, 7]
    advice_at : int
    weights : float32 [D]
    """
    best, best_score = np.int64(-1), _F(-np.inf)
    p = 0
    while p < layout.shape[0]:
        last = p  # the rows of one head follow each other
        while last + 1 < layout.shape[0] and layout[last + 1, 0] == layout[p, 0]:
            last += 1
        for k in range(layout[p, 1]):
            a = layout[p, 0] + k
            if mask[b, a] == 0:
                continue
            score = _ZERO
            for q in range(p, last + 1):
                if layout[q, 2] >= 0:
                    i = layout[q, 6] + k // layout[q, 3]
                    score = _add(sets[layout[q, 2]][b, i], weights, layout[q, 4], score)
            if layout[p, 5] >= 0:
                score += weights[layout[p, 5]]
            if advice_at >= 0:
                score += weights[advice_at] * advice[b, a]
            if best < 0 or score > best_score:
                best, best_score = a, score
        p = last + 1
    return best


@kernel
def best_actions(sets, advice, mask, layout, advice_at, weights, actions) -> None:
    """The legal action of the highest score of every state, or -1: ``actions``, int64 [B]."""
    for b in range(actions.shape[0]):
        actions[b] = _best_action(sets, advice, mask, b, layout, advice_at, weights)


@small_kernel
def _begin(row, source, m):
    start = source.starts[m]
    requests = source.trace[start : start + source.settings[0].length]
    begin_episode(row, random_bits(np.uint64(m), 0, 0), source.nodes, source.standing, requests)
    load_surroundings(row, source, m)


@kernel
def _cost(row, prices):
    total = 0.0
    for m in range(prices.shape[0]):
        if prices[m] != 0.0:
            total += prices[m] * metric_value(row, m)
    return total


@kernel
def _play(row, e, weights, source, buffers, bench, scoring):
    """Play a window that has just begun to its end; actions taken, or -1 beyond the limit."""
    fill_static(row, np.int64(source.settings[0].encoding), source.maxima, buffers.static[e])
    buffers.nodes_seen[e] = -1
    advance(row, bench.nodes)
    sets = (
        buffers.queue,
        buffers.candidates,
        buffers.victims,
        buffers.elastics,
        buffers.services,
        buffers.capacity,
    )
    steps = 0
    while True:
        while encode(row, e, source, buffers, bench) == 0 and row.done == 0:
            close_point(row)
            advance(row, bench.nodes)
        if row.done != 0:
            return steps
        if steps == scoring.step_limit:
            replay(row, scoring.rules[0], bench.nodes, bench.jobs)
            return -1
        action = _best_action(
            sets, buffers.advice, buffers.mask, e, scoring.layout, scoring.advice_at, weights
        )
        kind, j, value = decode(row, e, action, source, buffers)
        if commit(row, kind, j, value, bench.nodes) != Reason.OK:
            raise RuntimeError("a scorer chose an action that its mask allows and commit refuses")
        advance(row, bench.nodes)
        steps += 1


@kernel
def evaluate_scorers(
    rows: NDArray[np.void],
    e: int,
    begin: int,
    end: int,
    weights: NDArray[np.float32],
    source: Source,
    buffers: Buffers,
    bench: Bench,
    scoring: Scoring,
    costs: NDArray[np.float64],
) -> None:
    """Play windows ``begin`` to ``end`` under each scorer of a population, on row ``e``.

    A window that takes a scorer more actions than the limit is finished by the rule, and its
    cost counts twice: a scorer that shuffles jobs about is to be no good, not to be endless.

    Parameters
    ----------
    rows : ROW_DTYPE [envs]
        Configured; without commitment.
    e, begin, end : int
    weights : float32 [P, D]
    source, buffers, bench
    scoring : Scoring
    costs : float64 [P, M]
        Columns ``begin`` to ``end`` are filled.
    """
    row = rows[e]
    for m in range(begin, end):
        for p in range(weights.shape[0]):
            _begin(row, source, m)
            steps = _play(row, e, weights[p], source, buffers, bench, scoring)
            cost = _cost(row, source.weights)
            costs[p, m] = cost if steps >= 0 else _TWICE * cost


@kernel
def evaluate_rule_windows(
    rows: NDArray[np.void],
    e: int,
    begin: int,
    end: int,
    rules: NDArray[np.void],
    source: Source,
    bench: Bench,
    costs: NDArray[np.float64],
) -> None:
    """Replay windows ``begin`` to ``end`` under a rule: RULE_DTYPE [1]; ``costs`` float64 [M]."""
    row = rows[e]
    for m in range(begin, end):
        _begin(row, source, m)
        replay(row, rules[0], bench.nodes, bench.jobs)
        costs[m] = _cost(row, source.weights)
