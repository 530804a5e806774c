"""Play every window once: under a rule, compiled, or under a policy, many windows side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from agents.evaluation.outcomes import EvaluationResult, OutcomeTable
from agents.task import BatchPolicy
from envs.config import EnvConfig
from envs.scenario import Scenario
from envs.session import Session
from envs.workloads import Trace
from orchestrator.scheduler.rules import Rule, rule_named

__all__ = ["Advance", "evaluate_policy", "evaluate_rule", "judged"]

Advance = Callable[[int], None]
"""Told how many windows have just ended."""


def judged(config: EnvConfig) -> EnvConfig:
    """The environment as policies are judged in it: every window is played to its end."""
    return replace(config, step_limit=0, skip_forced=config.commitment)


def evaluate_rule(
    rule: Rule | str,
    trace: Trace,
    config: EnvConfig,
    starts: NDArray[np.int64],
    keep_jobs: int | None = None,
    advance: Advance | None = None,
    *,
    scenario: Scenario | None = None,
) -> EvaluationResult:
    """Play windows under a rule.

    Parameters
    ----------
    rule : Rule or str
    trace : Trace
    config : EnvConfig
        Semantics and the length of the windows, ``episode_jobs``.
    starts : int64 [M]
        First job of each window.
    keep_jobs : int or None, optional
        Keep the per-job table of the first windows only; None: of all.
    advance : callable or None, optional
        Told how many windows have just ended, for a progress bar.
    scenario : Scenario or None, optional
        What the windows happen in.

    Returns
    -------
    EvaluationResult
    """
    rule = rule_named(rule) if isinstance(rule, str) else rule
    session = Session(trace, judged(config), 1, starts, scenario=scenario)
    table = OutcomeTable(session, starts, len(starts) if keep_jobs is None else keep_jobs)
    for window in range(len(starts)):
        session.replay(rule, np.array([window]))
        table.collect(0, window)
        if advance is not None:
            advance(1)
    return table.result(rule.name, learned=False)


def evaluate_policy(
    policy: BatchPolicy,
    trace: Trace,
    config: EnvConfig,
    starts: NDArray[np.int64],
    rows: int = 64,
    keep_jobs: int | None = None,
    advance: Advance | None = None,
    *,
    scenario: Scenario | None = None,
) -> EvaluationResult:
    """Play windows under a policy's greedy actions.

    A row that has finished its window goes on with the next one, so that all rows stay in use;
    every window is played exactly once, with the random streams that :func:`evaluate_rule` gives
    it.

    Parameters
    ----------
    policy : BatchPolicy
    trace, config, starts, keep_jobs, advance, scenario
        As for :func:`evaluate_rule`.
    rows : int, optional
        Windows that are played side by side.

    Returns
    -------
    EvaluationResult

    Raises
    ------
    IllegalActionError
        If the policy chooses an action that its mask forbids.
    """
    count = min(rows, len(starts))
    session = Session(trace, judged(config), count, starts, scenario=scenario)
    table = OutcomeTable(session, starts, len(starts) if keep_jobs is None else keep_jobs)
    windows = np.arange(session.envs, dtype=np.int64)
    following = session.envs
    actions = np.zeros(session.envs, np.int64)
    _begin(session, np.ones(session.envs, np.bool_), windows)
    live = np.ones(session.envs, np.bool_)
    while True:
        for e in np.flatnonzero(live & session.buffers.terminated):
            # Without choices a window can end as it begins, hence a loop.
            while live[e] and session.buffers.terminated[e]:
                table.collect(int(e), int(windows[e]))
                if advance is not None:
                    advance(1)
                live[e] = following < len(starts)
                if live[e]:
                    windows[e] = following
                    following += 1
                    _begin(session, np.arange(session.envs) == e, windows)
        if not live.any():
            return table.result(policy.name, learned=True)
        actions[live] = _choose(policy, session, live)
        session.step(actions)
        session.require_legal()


def _begin(session: Session, which: NDArray[np.bool_], windows: NDArray[np.int64]) -> None:
    for e in np.flatnonzero(which):
        session.reseed_row(int(e), int(windows[e]))
    session.reset(which, windows)


def _choose(policy: BatchPolicy, session: Session, live: NDArray[np.bool_]) -> NDArray[np.int64]:
    seen = session.observation(slice(None) if live.all() else live)  # type: ignore[arg-type]
    return policy.actions(seen, seen["action_mask"].astype(np.bool_))
