"""What scorers of a cluster's actions cost on windows of a trace, inside the engine."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.config import EnvConfig
from envs.scenario import Scenario, Surroundings, surroundings
from envs.session import Session
from envs.workloads import Trace
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.scorer import Scoring, evaluate_rule_windows, evaluate_scorers
from orchestrator.kernels.see.layout import SETS
from orchestrator.kernels.session import Source
from orchestrator.scheduler.rules import Rule, rule_named
from orchestrator.scheduler.vectors import advice_column, vector_layout

__all__ = ["ScorerEvaluator"]

Worker = Callable[[Session, Source, int], None]

_OF_WINDOWS = ("incidents", "incident_range", "series_range")
"""What of a source depends on its windows, besides their starts."""

_ACTIONS_PER_JOB = 20  # or a tick
_RESORT = "srtf"


class ScorerEvaluator:
    """Plays windows under linear scorers and rules.

    Parameters
    ----------
    trace : Trace
    config : EnvConfig
        Semantics, observation, and the costs that rewards are made of; ``episode_jobs`` is a
        window's length. Its ``step_limit`` bounds the actions of a window; 0: 20 a job.
    threads : int, optional
        The compiled replays do not hold the interpreter's lock.
    scenario : Scenario or None, optional
        What windows happen in. A window's failures follow from its first job, so they are those
        that training and evaluation meet there.
    """

    def __init__(
        self, trace: Trace, config: EnvConfig, threads: int = 2, scenario: Scenario | None = None
    ) -> None:
        if threads < 1:
            raise ConfigurationError(f"scorers: 'threads' is {threads}; at least 1")
        if config.commitment:
            raise ConfigurationError(
                "scorers choose among all actions of a cluster: set 'commitment' of the "
                "environment to false, or train a ranker"
            )
        self.length = config.length
        limit = config.step_limit or _ACTIONS_PER_JOB * config.length
        self._trace, self._threads = trace, threads
        self._scenario = scenario or Scenario()
        self._config = replace(config, reward=replace(config.reward, reference=None))
        self._sessions = self._make_sessions(0)
        schema, buffers = self._sessions[0].schema, self._sessions[0].buffers
        self._scoring = Scoring(
            layout=vector_layout(
                schema, [getattr(buffers, part).shape[1] for part in SETS], by_head=True
            ),
            advice_at=advice_column(schema, by_head=True),
            rules=rule_named(config.advice or _RESORT).to_record(),
            step_limit=limit,
        )
        self._pool = ThreadPoolExecutor(threads)

    def costs(self, weights: NDArray[Any], starts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Cost of each scorer on each window.

        Parameters
        ----------
        weights : float [P, D]
            One scorer a row.
        starts : int64 [M]
            First job of each window.

        Returns
        -------
        float64 [P, M]
        """
        population = np.ascontiguousarray(weights, np.float32)
        costs = np.zeros((len(population), len(starts)))

        def work(session: Session, source: Source, m: int) -> None:
            evaluate_scorers(
                session.state.rows,
                0,
                m,
                m + 1,
                population,
                source,
                session.buffers,
                session.bench,
                self._scoring,
                costs,
            )

        self._share(starts, work)
        return costs

    def rule_costs(self, rule: Rule, starts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Cost of a rule on each window, float64 [M]."""
        record = rule.to_record()
        costs = np.zeros(len(starts))

        def work(session: Session, source: Source, m: int) -> None:
            evaluate_rule_windows(
                session.state.rows, 0, m, m + 1, record, source, session.bench, costs
            )

        self._share(starts, work)
        return costs

    def close(self) -> None:
        """Let the threads go."""
        self._pool.shutdown()

    def _share(self, starts: NDArray[np.int64], work: Worker) -> None:
        """Let each thread take the next window until none is left: windows differ in cost."""
        todo = itertools.count()
        windows = np.array(starts, np.int64)
        around = surroundings(self._scenario, self._trace, windows, self._sessions[0].config, None)
        self._make_room(windows, around)
        changes = {name: getattr(around, name) for name in _OF_WINDOWS}

        def run(session: Session) -> None:
            episode = session.source.episode._replace(starts=windows, **changes)
            source = session.source._replace(episode=episode)
            while (m := next(todo)) < len(windows):
                work(session, source, m)

        for future in [self._pool.submit(run, session) for session in self._sessions]:
            future.result()

    def _make_sessions(self, start: int) -> list[Session]:
        """A session for each thread: rows of one session are neighbours in memory."""
        starts = np.array([start], np.int64)
        return [
            Session(self._trace, self._config, 1, starts, scenario=self._scenario)
            for _ in range(self._threads)
        ]

    def _make_room(self, starts: NDArray[np.int64], around: Surroundings) -> None:
        """Make sessions anew if a window has more failures than any before it."""
        if around.most_incidents > self._sessions[0].state.shape.incidents:
            first, behind = around.incident_range.T
            self._sessions = self._make_sessions(int(starts[(behind - first).argmax()]))
