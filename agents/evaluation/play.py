"""Play every window once: under a rule, compiled; under a policy, many side by side; or planned.

Policies that plan in Python, the zoo, are those of others that ours are compared with. They get
the rows, the random streams and the information that rules and learned policies get, and decide at
the engine's decision points. They are slow, so windows can be played by several processes.
"""

from __future__ import annotations

import itertools
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing import get_context

import numpy as np
from numpy.typing import NDArray

from agents.evaluation.outcomes import EvaluationResult, OutcomeTable
from agents.evaluation.runs import joined_runs
from agents.problem import BatchPolicy, RowPolicy, Windows
from envs.session import Session
from orchestrator.errors import ConfigurationError
from orchestrator.own.loading import is_part_name, load_part
from orchestrator.ports import Policy
from orchestrator.scheduling.rollout import rollout
from orchestrator.scheduling.rules import Rule, RulePolicy, rule_named
from orchestrator.scheduling.zoo.gavel import GavelFinishTime, GavelLas
from orchestrator.scheduling.zoo.lookahead import Lookahead
from orchestrator.scheduling.zoo.pollux import Pollux
from orchestrator.scheduling.zoo.rounds import Themis
from orchestrator.scheduling.zoo.tiresias import TiresiasSimulator

__all__ = [
    "ZOO",
    "Advance",
    "evaluate_named",
    "evaluate_policies",
    "evaluate_policy",
    "evaluate_rule",
    "evaluate_zoo",
    "is_planned",
    "policy_named",
    "zoo_policy",
]


Advance = Callable[[int], None]
"""Told how many windows have just ended."""


ZOO: Mapping[str, Callable[[], Policy]] = {
    "gavel_las": GavelLas,
    "gavel_ftf": GavelFinishTime,
    "themis": Themis,
    "pollux": Pollux,
    "tiresias_simulator": TiresiasSimulator,
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
tiresias_simulator
    Tiresias' queues as its own simulator keeps and visits them (``dlas-gpu``: 3,250 and 7,200
    GPU-seconds, no promotion); the rule ``tiresias`` orders a queue by submission instead.
lookahead
    ``elastic_srtf``, unless one of three other actions is cheaper in three futures of 48 jobs. Its
    cost is bounded slowdown, whatever a suite's metric is.
"""


_BUILT_IN = frozenset(ZOO)


def is_planned(name: str) -> bool:
    """Whether a name is that of a policy that plans in Python, of the zoo or one's own."""
    return name in ZOO or (is_part_name(name) and hasattr(policy_named(name), "decide"))


def policy_named(name: str) -> Rule | Policy | BatchPolicy:
    """Whoever has a name: a rule, or a new policy, of :data:`ZOO` or one's own.

    Parameters
    ----------
    name : str
        Of :data:`ZOO`, a rule's, or one's own as ``package.module:Name``: a class or function that
        makes, without arguments, a policy that plans on snapshots (:class:`orchestrator.Policy`)
        or one that decides on observations (:class:`agents.BatchPolicy`); or a
        :class:`orchestrator.Rule`.

    Raises
    ------
    ConfigurationError
        If there is none of that name.
    """
    if name in ZOO:
        return ZOO[name]()
    if is_part_name(name):
        return _own_policy(name)
    try:
        return rule_named(name)
    except ConfigurationError:
        known = ", ".join(ZOO)
        raise ConfigurationError(
            f"unknown policy of the zoo '{name}'; known: {known}, the rules, and one's own as "
            "package.module:Class"
        ) from None


def zoo_policy(name: str) -> Policy:
    """A new policy that plans, by name as for :func:`policy_named`; a rule is one, too.

    Raises
    ------
    ConfigurationError
        If there is none of that name.
    """
    found = policy_named(name)
    if isinstance(found, Rule):
        return RulePolicy(found)
    if isinstance(found, Policy):
        return found
    raise ConfigurationError(
        f"policy '{name}': decides on observations, and here plans are made on snapshots; give one "
        "with 'decide', see orchestrator.ports.Policy"
    )


def _own_policy(name: str) -> Rule | Policy | BatchPolicy:
    """Somebody's own rule, or a new policy of somebody's own class."""
    base = name.partition("+")[0]
    made = load_part(base, "policy")
    if isinstance(made, Rule):
        return rule_named(name)
    try:
        made = made()
    except TypeError as error:
        raise ConfigurationError(
            f"policy '{name}': cannot be made ({error}); give a class, or a function, that needs "
            "no arguments"
        ) from None
    if isinstance(made, Rule):
        return rule_named(name)
    if not any(callable(getattr(made, method, None)) for method in ("decide", "actions")):
        raise ConfigurationError(
            f"policy '{name}': has neither a method 'decide' (orchestrator.ports.Policy) nor one "
            "'actions' (agents.problem.BatchPolicy)"
        )
    policy: Policy | BatchPolicy = made
    return policy


def evaluate_named(
    name: str,
    windows: Windows,
    keep_jobs: int | None = None,
    advance: Advance | None = None,
    *,
    processes: int = 1,
) -> EvaluationResult:
    """Play windows under whoever has a name: a rule, a policy of the zoo, or one's own of any kind.

    Parameters
    ----------
    name : str
        As for :func:`policy_named`; the result has it.
    windows, keep_jobs, advance
        As for :func:`evaluate_rule`.
    processes : int, optional
        Windows of a policy that plans which are played at the same time.

    Returns
    -------
    EvaluationResult
    """
    if is_planned(name):
        return evaluate_zoo(name, windows, keep_jobs, advance, processes=processes)
    found = policy_named(name)
    if isinstance(found, Rule):
        return replace(evaluate_rule(found, windows, keep_jobs, advance), policy=name)
    assert not isinstance(found, Policy)
    played = evaluate_policy(found, windows, keep_jobs=keep_jobs, advance=advance)
    return replace(played, policy=name, learned=False)


def evaluate_rule(
    rule: Rule | str,
    windows: Windows,
    keep_jobs: int | None = None,
    advance: Advance | None = None,
) -> EvaluationResult:
    """Play windows under a rule.

    One that reads tenants' accounts (``drf``, ``reclaim``) finds some: the scenario's or, if it
    describes no tenants, equal ones for the trace's.

    Parameters
    ----------
    rule : Rule or str
    windows : Windows
    keep_jobs : int or None, optional
        Keep the per-job table of the first windows only; None: of all.
    advance : callable or None, optional
        Told how many windows have just ended, for a progress bar.

    Returns
    -------
    EvaluationResult
    """
    rule = rule_named(rule) if isinstance(rule, str) else rule
    session = windows.under(rule).played_out().session(1)
    table = OutcomeTable(session, windows.starts, _kept(windows, keep_jobs))
    for window in range(len(windows)):
        session.replay(rule, np.array([window]))
        if table.make_room(0, window):
            session.replay(rule, np.array([window]))
        table.collect(0, window)
        if advance is not None:
            advance(1)
    return table.result(rule.name, learned=False)


def evaluate_policy(
    policy: BatchPolicy | RowPolicy,
    windows: Windows,
    rows: int = 64,
    keep_jobs: int | None = None,
    advance: Advance | None = None,
    *,
    threads: int = 1,
) -> EvaluationResult:
    """Play windows under a policy's greedy actions.

    A row that has finished its window goes on with the next one; every window is played exactly
    once, with the random streams that :func:`evaluate_rule` gives it.

    Parameters
    ----------
    policy : BatchPolicy or RowPolicy
    windows, keep_jobs, advance
        As for :func:`evaluate_rule`.
    rows : int, optional
        Windows that are played side by side.
    threads : int, optional
        Windows that a RowPolicy plays at the same time.

    Returns
    -------
    EvaluationResult

    Raises
    ------
    IllegalActionError
        If the policy chooses an action that its mask forbids.
    """
    if isinstance(policy, RowPolicy):
        return _evaluate_rows(policy, windows, _kept(windows, keep_jobs), advance, threads)
    session = windows.played_out().session(min(rows, len(windows)))
    return _play_all(policy, session, windows, _kept(windows, keep_jobs), advance)


def evaluate_policies(
    policies: Iterable[BatchPolicy], windows: Windows, rows: int = 64
) -> Iterator[EvaluationResult]:
    """Play the same windows under many policies, on rows that are made once; no jobs are kept.

    Parameters
    ----------
    policies : iterable of BatchPolicy
    windows, rows
        As for :func:`evaluate_policy`, which has the same outcomes.

    Yields
    ------
    EvaluationResult
        Of one after the other.
    """
    session = windows.played_out().session(min(rows, len(windows)))
    for policy in policies:
        yield _play_all(policy, session, windows, 0, None)


def _play_all(
    policy: BatchPolicy, session: Session, windows: Windows, kept: int, advance: Advance | None
) -> EvaluationResult:
    """Every window once, by as many rows as there are."""
    table = OutcomeTable(session, windows.starts, kept)
    playing, following = np.arange(session.envs, dtype=np.int64), session.envs
    actions, live = np.zeros(session.envs, np.int64), np.ones(session.envs, np.bool_)
    _begin(session, live, playing)
    while True:
        for e in np.flatnonzero(live & session.buffers.terminated):
            # Without choices a window can end as it begins, hence a loop.
            while live[e] and session.buffers.terminated[e]:
                table.collect(int(e), int(playing[e]))
                if advance is not None:
                    advance(1)
                live[e] = following < len(windows)
                if live[e]:
                    playing[e] = following
                    following += 1
                    _begin(session, np.arange(session.envs) == e, playing)
        if not live.any():
            return table.result(policy.name, learned=True)
        actions[live] = _choose(policy, session, live)
        session.step(actions)
        session.require_legal()
        table.keep_up()


def evaluate_zoo(
    name: str,
    windows: Windows,
    keep_jobs: int | None = None,
    advance: Advance | None = None,
    *,
    processes: int = 1,
) -> EvaluationResult:
    """Play windows under a policy of the zoo.

    Every window has a policy of its own, so the outcome does not depend on the processes.

    Parameters
    ----------
    name : str
        See :func:`zoo_policy`.
    windows, keep_jobs, advance
        As for :func:`evaluate_rule`.
    processes : int, optional
        Windows that are played at the same time; 1: in this process.

    Returns
    -------
    EvaluationResult
    """
    policy = zoo_policy(name)
    if isinstance(policy, RulePolicy):
        windows = windows.under(policy.rule)
    make = None if processes <= 1 or name in _BUILT_IN else ZOO.get(name)
    play = _Play(name, windows.played_out(), _kept(windows, keep_jobs), make)
    _check_sendable(play)
    count = len(windows)
    found: dict[int, EvaluationResult] = {}
    with _outcomes(play, min(processes, count)) as outcomes:
        for window, outcome in outcomes:
            found[window] = outcome
            if advance is not None:
                advance(1)
    return _joined([found[window] for window in range(count)])


def _evaluate_rows(
    policy: RowPolicy, windows: Windows, keep: int, advance: Advance | None, threads: int
) -> EvaluationResult:
    """Play windows under a policy that plays them by itself, each thread the next one left."""
    windows = windows.played_out()
    todo, found = itertools.count(), dict[int, EvaluationResult]()

    def work() -> None:
        session = windows.session(1)
        play = policy.player_on(session)
        while (window := next(todo)) < len(windows):

            def play_out(window: int = window) -> None:
                session.begin(np.array([window]))
                play()

            result = _outcome(session, windows, window, int(window < keep), play_out)
            found[window] = replace(result, policy=policy.name, learned=True)
            if advance is not None:
                advance(1)

    with ThreadPoolExecutor(threads) as pool:
        for future in [pool.submit(work) for _ in range(min(threads, len(windows)))]:
            future.result()
    return _joined([found[window] for window in range(len(windows))])


def _outcome(
    session: Session, windows: Windows, window: int, keep: int, play_out: Callable[[], None]
) -> EvaluationResult:
    """What becomes of a window that is played out in the session's only row."""
    table = OutcomeTable(session, windows.starts[window : window + 1], keep)
    play_out()
    if table.make_room(0, 0):
        play_out()
    table.collect(0, 0)
    result = table.result("", learned=False)
    result.jobs["sequence"] = window
    return result


def _kept(windows: Windows, keep_jobs: int | None) -> int:
    return len(windows) if keep_jobs is None else keep_jobs


def _begin(session: Session, which: NDArray[np.bool_], windows: NDArray[np.int64]) -> None:
    for e in np.flatnonzero(which):
        session.reseed_row(int(e), int(windows[e]))
    session.reset(which, windows)


def _choose(policy: BatchPolicy, session: Session, live: NDArray[np.bool_]) -> NDArray[np.int64]:
    seen = session.observation(slice(None) if live.all() else live)  # type: ignore[arg-type]
    return policy.actions(seen, seen["action_mask"].astype(np.bool_))


@dataclass(frozen=True)
class _Play:
    """All that a process needs to know."""

    name: str
    windows: Windows
    keep_jobs: int
    make: Callable[[], Policy] | None = None

    def policy(self) -> Policy:
        """A new policy; one that was added to :data:`ZOO` is unknown to other processes."""
        return zoo_policy(self.name) if self.make is None else self.make()


def _check_sendable(play: _Play) -> None:
    """Refuse to play by processes what cannot be sent to them."""
    try:
        pickle.dumps(play.make)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigurationError(
            f"policy '{play.name}': cannot be sent to other processes ({error}); add a class or "
            "function of a module to ZOO, or give processes=1"
        ) from None


@contextmanager
def _outcomes(play: _Play, processes: int) -> Iterator[Iterator[tuple[int, EvaluationResult]]]:
    """The outcomes of windows, as they end."""
    count = len(play.windows)
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
        self._session = play.windows.session(1)

    def outcome(self, window: int) -> EvaluationResult:
        """What becomes of a window."""
        play, session = self._play, self._session

        def play_out() -> None:
            session.begin(np.array([window]))
            rollout(session.state, play.policy())

        keep = int(window < play.keep_jobs)
        return replace(_outcome(session, play.windows, window, keep, play_out), policy=play.name)


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
        runs=joined_runs([result.runs for result in results]),
    )
