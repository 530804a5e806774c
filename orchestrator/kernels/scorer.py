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
from orchestrator.kernels.jit import entry, kernel, part, small_kernel
from orchestrator.kernels.metrics import cost
from orchestrator.kernels.observe import look_anew
from orchestrator.kernels.randomness import random_bits
from orchestrator.kernels.rules import replay
from orchestrator.kernels.see.layout import VectorPart, decode
from orchestrator.kernels.session import begin_window, open_choice

__all__ = ["Scoring", "best_actions", "evaluate_rule_windows", "evaluate_scorers"]

_F = np.float32
_ZERO = _F(0.0)
_TWICE = 2.0


class Scoring(NamedTuple):
    """How vectors are laid out, and what ends windows that a scorer cannot."""

    layout: NDArray[np.int64]  # [parts, len(VectorPart)] see vectors.vector_layout
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
        ``layout.SETS`` of B observations, in that order.
    advice : float32 [B, A]
        Not read if ``advice_at`` is -1.
    mask : int8 [B, A]
    b : int
    layout : int64 [parts, len(VectorPart)]
    advice_at : int
    weights : float32 [D]
    """
    best, best_score = np.int64(-1), _F(-np.inf)
    p = 0
    while p < layout.shape[0]:
        last = p  # the rows of one head follow each other
        first = layout[p, VectorPart.FIRST_ACTION]
        while last + 1 < layout.shape[0] and layout[last + 1, VectorPart.FIRST_ACTION] == first:
            last += 1
        for k in range(layout[p, VectorPart.ACTIONS]):
            a = first + k
            if mask[b, a] == 0:
                continue
            score = _ZERO
            for q in range(p, last + 1):
                if layout[q, VectorPart.SET] >= 0:
                    i = layout[q, VectorPart.FIRST_ENTITY] + k // layout[q, VectorPart.SHARED_BY]
                    features = sets[layout[q, VectorPart.SET]][b, i]
                    score = _add(features, weights, layout[q, VectorPart.COLUMN], score)
            if layout[p, VectorPart.ONE_HOT] >= 0:
                score += weights[layout[p, VectorPart.ONE_HOT]]
            if advice_at >= 0:
                score += weights[advice_at] * advice[b, a]
            if best < 0 or score > best_score:
                best, best_score = a, score
        p = last + 1
    return best


@entry
def best_actions(sets, advice, mask, layout, advice_at, weights, actions) -> None:
    """The legal action of the highest score of every state, or -1: ``actions``, int64 [B]."""
    for b in range(actions.shape[0]):
        actions[b] = _best_action(sets, advice, mask, b, layout, advice_at, weights)


@part
def _sets_of(buffers):
    """``layout.SETS`` of buffers, in that order."""
    return (
        buffers.queue,
        buffers.candidates,
        buffers.victims,
        buffers.elastics,
        buffers.services,
        buffers.capacity,
    )


@kernel
def _play(row, e, weights, view, buffers, bench, scoring):
    """Play a window that has just begun to its end; actions taken, or -1 beyond the limit."""
    look_anew(row, e, view, buffers)
    advance(row, bench.nodes)
    sets = _sets_of(buffers)
    steps = 0
    while True:
        open_choice(row, e, view, buffers, bench)
        if row.done != 0:
            return steps
        if steps == scoring.step_limit:
            replay(row, scoring.rules[0], bench.nodes, bench.jobs)
            return -1
        action = _best_action(
            sets, buffers.advice, buffers.mask, e, scoring.layout, scoring.advice_at, weights
        )
        kind, j, value = decode(row, e, action, view, buffers)
        if commit(row, kind, j, value, bench.nodes) != Reason.OK:
            raise RuntimeError("a scorer chose an action that its mask allows and commit refuses")
        advance(row, bench.nodes)
        steps += 1


@entry
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
            begin_window(row, random_bits(np.uint64(m), 0, 0), source.episode, m)
            steps = _play(row, e, weights[p], source.seen, buffers, bench, scoring)
            paid = cost(row, source.prices.weights)
            costs[p, m] = paid if steps >= 0 else _TWICE * paid


@entry
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
        begin_window(row, random_bits(np.uint64(m), 0, 0), source.episode, m)
        replay(row, rules[0], bench.nodes, bench.jobs)
        costs[m] = cost(row, source.prices.weights)
