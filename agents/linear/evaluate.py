"""What linear policies cost on windows: many at once, on all threads, inside the engine."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from agents.bundle import describe_scenario
from envs.config import EnvConfig
from envs.scenario import Scenario, Surroundings, surroundings, with_accounts
from envs.session import Session
from envs.workloads import Trace
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.run.buffers import Buffers, Source
from orchestrator.kernels.run.linear import (
    RankerBench,
    Scoring,
    evaluate_rankers,
    evaluate_rule,
    evaluate_rule_windows,
    evaluate_scorers,
    make_bench,
)
from orchestrator.kernels.see.layout import SETS
from orchestrator.kernels.see.queue import Encoding
from orchestrator.kernels.state.codes import NEVER, RuleKey
from orchestrator.scheduling.rules import Rule, rule_named
from orchestrator.scheduling.schema import advice_column, vector_layout

__all__ = ["RankerEvaluator", "ScorerEvaluator", "check_own", "scoring_of"]

_Worker = TypeVar("_Worker")


_OF_WINDOWS = ("incidents", "incident_range", "series_range")
"""What of a source depends on its windows, besides their starts."""


_RESORT = "srtf"


class RankerEvaluator:
    """Replays windows under rankers and rules.

    Parameters
    ----------
    trace : Trace
    config : EnvConfig
        Semantics, and the costs that rewards are made of; ``episode_jobs`` is a window's length.
    threads : int, optional
        The compiled replays do not hold the interpreter's lock.
    scenario : Scenario, optional
        Rankers are replayed on jobs and nodes alone: anything else is refused.
    hidden : int, optional
        Units of the rankers' networks; 0: they are linear.
    """

    def __init__(
        self,
        trace: Trace,
        config: EnvConfig,
        threads: int = 2,
        scenario: Scenario | None = None,
        *,
        hidden: int = 0,
    ) -> None:
        _check(config, threads, scenario or Scenario())
        self.length = config.episode_jobs
        workers = int(trace.requests["workers"].max())
        # A session for each thread: rows of one session are neighbours in memory, and threads that
        # write to the same cache line slow each other down.
        start = np.zeros(1, np.int64)
        sessions = [Session(trace, config, 1, start) for _ in range(threads)]
        self._workers = [
            (session, make_bench(self.length, config.window, workers, hidden))
            for session in sessions
        ]
        self._pool = ThreadPoolExecutor(threads)

    def costs(self, weights: NDArray[Any], starts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Cost of each ranker on each window.

        Parameters
        ----------
        weights : float [P, 14], or [P, weight_count(hidden)]
            One ranker a row.
        starts : int64 [M]
            First job of each window.

        Returns
        -------
        float64 [P, M]
        """
        population = np.ascontiguousarray(weights, np.float32)
        source = self._source(starts)
        costs = np.zeros((len(population), len(starts)))

        def work(worker: tuple[Session, RankerBench], m: int) -> None:
            session, bench = worker
            evaluate_rankers(session.state.rows, 0, m, population, source, bench, costs)

        _share(self._pool, self._workers, len(starts), work)
        return costs

    def rule_costs(self, rule: Rule, starts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Cost of a rule on each window, float64 [M]."""
        if rule.reads_accounts:
            raise ConfigurationError(
                f"rankers: rule '{rule.name}' reads the accounts of tenants, and rankers are "
                "replayed on jobs and nodes alone; compare them with another rule"
            )
        record, source = rule.to_record(), self._source(starts)
        costs = np.zeros(len(starts))

        def work(worker: tuple[Session, RankerBench], m: int) -> None:
            session, bench = worker
            evaluate_rule(session.state.rows, 0, m, record, source, bench, costs)

        _share(self._pool, self._workers, len(starts), work)
        return costs

    def close(self) -> None:
        """Let the threads go."""
        self._pool.shutdown()

    def _source(self, starts: NDArray[np.int64]) -> Source:
        source, windows = self._workers[0][0].source, np.ascontiguousarray(starts, np.int64)
        return source._replace(episode=source.episode._replace(starts=windows))


class ScorerEvaluator:
    """Plays windows under linear scorers and rules.

    Parameters
    ----------
    trace : Trace
    config : EnvConfig
        Semantics, observation, and the costs that rewards are made of; ``episode_jobs`` is a
        window's length. Its ``most_steps`` bound the actions of a window, as they do an episode's.
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
        check_own(config)
        if config.commitment:
            raise ConfigurationError(
                "scorers choose among all actions of a cluster: set 'commitment' of the "
                "environment to false, or train a ranker"
            )
        self.length = config.length
        self._trace, self._threads = trace, threads
        self._scenario = scenario or Scenario()
        self._config = replace(config, reward=replace(config.reward, reference=None))
        self._sessions = self._make_sessions(0)
        self._scoring = scoring_of(config, self._sessions[0].buffers, config.length)
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
        scoring = self._scoring._replace(weights=np.ascontiguousarray(weights, np.float32))
        costs = np.zeros((len(weights), len(starts)))

        def work(worker: tuple[Session, Source], m: int) -> None:
            session, source = worker
            rows, buffers, bench = session.state.rows, session.buffers, session.bench
            evaluate_scorers(rows, m, source, buffers, bench, scoring, costs)

        self._play(starts, work)
        return costs

    def rule_costs(self, rule: Rule, starts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Cost of a rule on each window, float64 [M]."""
        if rule.reads_accounts and not self._scenario.tenants:
            scenario = with_accounts(self._scenario, self._trace)
            informed = ScorerEvaluator(self._trace, self._config, self._threads, scenario)
            try:
                return informed.rule_costs(rule, starts)
            finally:
                informed.close()
        record = rule.to_record()
        costs = np.zeros(len(starts))

        def work(worker: tuple[Session, Source], m: int) -> None:
            session, source = worker
            evaluate_rule_windows(session.state.rows, m, record, source, session.bench, costs)

        self._play(starts, work)
        return costs

    def close(self) -> None:
        """Let the threads go."""
        self._pool.shutdown()

    def _play(
        self, starts: NDArray[np.int64], work: Callable[[tuple[Session, Source], int], None]
    ) -> None:
        """Let the threads share windows, each with what happens in them."""
        windows = np.array(starts, np.int64)
        around = surroundings(self._scenario, self._trace, windows, self._sessions[0].config, None)
        self._make_room(windows, around)
        changes = {name: getattr(around, name) for name in _OF_WINDOWS}
        workers = []
        for session in self._sessions:
            episode = session.source.episode._replace(starts=windows, **changes)
            workers.append((session, session.source._replace(episode=episode)))
        _share(self._pool, workers, len(windows), work)

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


def scoring_of(config: EnvConfig, buffers: Buffers, length: int) -> Scoring:
    """How scorers, whose weights come with their question, score the actions of an environment.

    Parameters
    ----------
    config : EnvConfig
    buffers : Buffers
        Where its rows are described.
    length : int
        Jobs, or ticks, of what is played: it may take as many actions as an episode of that length
        may take steps.

    Returns
    -------
    Scoring
    """
    schema = config.schema
    sizes = [getattr(buffers, part).shape[1] for part in SETS]
    return Scoring(
        weights=np.zeros((0, 0), np.float32),
        layout=vector_layout(schema, sizes, by_head=True),
        advice_at=advice_column(schema, by_head=True),
        rules=rule_named(config.advice or _RESORT).to_record(),
        step_limit=config.of_length(length).most_steps or NEVER,
    )


def _check(config: EnvConfig, threads: int, scenario: Scenario) -> None:
    if threads < 1:
        raise ConfigurationError(f"rankers: 'threads' is {threads}; at least 1")
    if describe_scenario(scenario):
        raise ConfigurationError(
            "rankers are replayed on jobs and nodes alone: leave 'scenario' and 'failures' at "
            "none, or train another kind of agent"
        )
    check_own(config)
    needs = (
        ("commitment", config.commitment, "true"),
        ("encoding", config.encoding == Encoding.DEFAULT, "default"),
        ("window_order", config.window_order == RuleKey.FCFS, "fcfs"),
    )
    for name, holds, value in needs:
        if not holds:
            raise ConfigurationError(
                f"rankers order jobs and nothing else: set '{name}' of the environment to {value}, "
                f"or train another kind of agent"
            )


def check_own(
    config: EnvConfig,
    who: str = "linear policies are played",
    remedy: str = "train by PPO (agent=ppo)",
) -> None:
    """Refuse what is computed in Python: windows are played without leaving compiled code."""
    own = [*config.reward.own_terms, *config.features]
    if own:
        raise ConfigurationError(
            f"{who} inside the engine, which does not call Python: leave out {', '.join(own)}, or "
            f"{remedy}"
        )


def _share(
    pool: ThreadPoolExecutor,
    workers: Sequence[_Worker],
    windows: int,
    work: Callable[[_Worker, int], None],
) -> None:
    """Let each worker take the next window until none is left: windows differ in cost."""
    todo = itertools.count()

    def run(worker: _Worker) -> None:
        while (m := next(todo)) < windows:
            work(worker, m)

    for future in [pool.submit(run, worker) for worker in workers]:
        future.result()
