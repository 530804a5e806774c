"""What rankers cost on windows of a trace: many at once, on all threads, inside the engine."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.bundle import describe_scenario
from envs.config import EnvConfig
from envs.scenario import Scenario
from envs.session import Session
from envs.workloads import Trace
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.codes import RuleKey
from orchestrator.kernels.features import Encoding
from orchestrator.kernels.ranker import (
    RankerBench,
    evaluate_rankers,
    evaluate_rule,
    make_bench,
)
from orchestrator.kernels.session import Source
from orchestrator.scheduler.rules import Rule

__all__ = ["RankerEvaluator"]

Worker = Callable[[NDArray[np.void], int, RankerBench], None]


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
    """

    def __init__(
        self, trace: Trace, config: EnvConfig, threads: int = 2, scenario: Scenario | None = None
    ) -> None:
        _check(config, threads, scenario or Scenario())
        self.length = config.episode_jobs
        workers = int(trace.requests["workers"].max())
        # A session for each thread: rows of one session are neighbours in memory, and threads that
        # write to the same cache line slow each other down.
        start = np.zeros(1, np.int64)
        self._sessions = [Session(trace, config, 1, start) for _ in range(threads)]
        self._benches = [make_bench(self.length, config.window, workers) for _ in range(threads)]
        self._pool = ThreadPoolExecutor(threads)

    def costs(self, weights: NDArray[Any], starts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Cost of each ranker on each window.

        Parameters
        ----------
        weights : float [P, 14]
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

        def work(rows: NDArray[np.void], m: int, bench: RankerBench) -> None:
            evaluate_rankers(rows, 0, m, m + 1, population, source, bench, costs)

        self._share(len(starts), work)
        return costs

    def rule_costs(self, rule: Rule, starts: NDArray[np.int64]) -> NDArray[np.float64]:
        """Cost of a rule on each window, float64 [M]."""
        record, source = rule.to_record(), self._source(starts)
        costs = np.zeros(len(starts))

        def work(rows: NDArray[np.void], m: int, bench: RankerBench) -> None:
            evaluate_rule(rows, 0, m, m + 1, record, source, bench, costs)

        self._share(len(starts), work)
        return costs

    def close(self) -> None:
        """Let the threads go."""
        self._pool.shutdown()

    def _source(self, starts: NDArray[np.int64]) -> Source:
        source, windows = self._sessions[0].source, np.ascontiguousarray(starts, np.int64)
        return source._replace(episode=source.episode._replace(starts=windows))

    def _share(self, windows: int, work: Worker) -> None:
        """Let each thread take the next window until none is left: windows differ in cost."""
        todo = itertools.count()

        def run(thread: int) -> None:
            rows, bench = self._sessions[thread].state.rows, self._benches[thread]
            while (m := next(todo)) < windows:
                work(rows, m, bench)

        for future in [self._pool.submit(run, thread) for thread in range(len(self._benches))]:
            future.result()


def _check(config: EnvConfig, threads: int, scenario: Scenario) -> None:
    if threads < 1:
        raise ConfigurationError(f"rankers: 'threads' is {threads}; at least 1")
    if describe_scenario(scenario):
        raise ConfigurationError(
            "rankers are replayed on jobs and nodes alone: leave 'scenario' and 'failures' at "
            "none, or train another kind of agent"
        )
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
