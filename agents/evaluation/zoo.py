"""Play windows under policies that plan in Python: the ones of others that ours are compared with.

They get the rows, the random streams and the information that rules and learned policies get, and
decide at the engine's decision points. They are slow, so windows can be played by several
processes, and a suite may give some of them the first windows only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context

import numpy as np
from numpy.typing import NDArray

from agents.evaluation.outcomes import EvaluationResult, OutcomeTable
from agents.evaluation.play import Advance, judged
from envs.config import EnvConfig
from envs.scenario import Scenario
from envs.session import Session
from envs.workloads import Trace
from orchestrator.errors import ConfigurationError
from orchestrator.ports import Policy
from orchestrator.scheduler.policy import RulePolicy
from orchestrator.scheduler.rollout import rollout
from orchestrator.scheduler.rules import rule_named
from orchestrator.scheduler.zoo.gavel import GavelFinishTime, GavelLas
from orchestrator.scheduler.zoo.lookahead import Lookahead
from orchestrator.scheduler.zoo.pollux import Pollux
from orchestrator.scheduler.zoo.themis import Themis

__all__ = ["ZOO", "evaluate_zoo", "zoo_policy"]

ZOO: Mapping[str, Callable[[], Policy]] = {
    "gavel_las": GavelLas,
    "gavel_ftf": GavelFinishTime,
    "themis": Themis,
    "pollux": Pollux,
    "lookahead": lambda: Lookahead(rule_named("elastic_srtf")),
}
"""The policies by name, and how each is made anew for every window.

gavel_las, gavel_ftf
    Gavel's max-min fairness and finish-time fairness, in rounds of six minutes.
themis
    Themis' finish-time fairness, in leases of six minutes.
pollux
    Pollux' search for goodput, every minute, with 32 allocations over 30 generations (the paper:
    100 and 100). It is itself only where jobs have throughput curves; without, speed is in
    proportion to the workers, and goodput is their number.
lookahead
    ``elastic_srtf``, unless one of three other actions is cheaper in three futures of 48 jobs. Its
    cost is bounded slowdown, whatever a suite's metric is.
"""


def zoo_policy(name: str) -> Policy:
    """A new policy of a name: one of :data:`ZOO`, or a rule, which then plays like one of them.

    Raises
    ------
    ConfigurationError
        If there is none of that name.
    """
    if name in ZOO:
        return ZOO[name]()
    try:
        return RulePolicy(rule_named(name))
    except ConfigurationError:
        known = ", ".join(ZOO)
        raise ConfigurationError(
            f"unknown policy of the zoo '{name}'; known: {known}, and the rules"
        ) from None


@dataclass(frozen=True)
class _Play:
    """All that a process needs to know."""

    name: str
    trace: Trace
    config: EnvConfig
    starts: NDArray[np.int64]
    keep_jobs: int
    scenario: Scenario | None


def evaluate_zoo(
    name: str,
    trace: Trace,
    config: EnvConfig,
    starts: NDArray[np.int64],
    keep_jobs: int | None = None,
    advance: Advance | None = None,
    *,
    scenario: Scenario | None = None,
    windows: int | None = None,
    processes: int = 1,
) -> EvaluationResult:
    """Play windows under a policy of the zoo.

    Every window has a policy of its own, so the outcome does not depend on the processes.

    Parameters
    ----------
    name : str
        See :func:`zoo_policy`.
    trace, config, starts, keep_jobs, advance, scenario
        As for :func:`agents.evaluation.play.evaluate_rule`.
    windows : int or None, optional
        Play so many windows, the first ones; None: all.
    processes : int, optional
        Windows that are played at the same time; 1: in this process.

    Returns
    -------
    EvaluationResult
        Of the windows that were played.
    """
    zoo_policy(name)
    kept = len(starts) if keep_jobs is None else keep_jobs
    play = _Play(name, trace, judged(config), starts, kept, scenario)
    count = len(starts) if windows is None else min(windows, len(starts))
    found: dict[int, EvaluationResult] = {}
    with _outcomes(play, count, min(processes, count)) as outcomes:
        for window, outcome in outcomes:
            found[window] = outcome
            if advance is not None:
                advance(1)
    return _joined([found[window] for window in range(count)])


@contextmanager
def _outcomes(
    play: _Play, count: int, processes: int
) -> Iterator[Iterator[tuple[int, EvaluationResult]]]:
    """The outcomes of windows, as they end."""
    if processes <= 1:
        player = _Player(play)
        yield ((window, player.outcome(window)) for window in range(count))
        return
    pool = ProcessPoolExecutor(processes, get_context("spawn"), _begin_process, (play,))
    try:
        futures = {pool.submit(_play_window, window): window for window in range(count)}
        yield ((futures[done], done.result()) for done in as_completed(futures))
    finally:
        pool.shutdown(cancel_futures=True)


class _Player:
    """Plays windows one after another."""

    def __init__(self, play: _Play) -> None:
        self._play = play
        self._session = Session(play.trace, play.config, 1, play.starts, scenario=play.scenario)

    def outcome(self, window: int) -> EvaluationResult:
        """What becomes of a window."""
        play, session = self._play, self._session
        table = OutcomeTable(
            session, play.starts[window : window + 1], int(window < play.keep_jobs)
        )
        session.begin(np.array([window]))
        rollout(session.state, zoo_policy(play.name))
        table.collect(0, 0)
        result = table.result(play.name, learned=False)
        result.jobs["sequence"] = window
        return result


_player: _Player | None = None
"""Of a process that plays for another one."""


def _begin_process(play: _Play) -> None:
    global _player
    _player = _Player(play)


def _play_window(window: int) -> EvaluationResult:
    assert _player is not None
    return _player.outcome(window)


def _joined(results: Sequence[EvaluationResult]) -> EvaluationResult:
    """Several windows' results as one, in their order."""
    first = results[0]
    return replace(
        first,
        starts=np.concatenate([result.starts for result in results]),
        values={
            name: np.concatenate([result.values[name] for result in results])
            for name in first.values
        },
        jobs=np.concatenate([result.jobs for result in results]),
        nodes=np.concatenate([result.nodes for result in results]),
    )
