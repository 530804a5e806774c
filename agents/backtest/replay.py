"""A trace replayed under a rule; the twin is asked on the way when those who wait will start.

What is asked knows what has come by then, and nothing else. What then really came of the jobs is
the replay itself, played to its end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.checks import check_finite, check_whole
from envs.config import CLUSTER
from envs.session import Session
from envs.workloads import Enrichment, Trace, enrich
from envs.workloads.trace import unplaceable
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.state.codes import NEVER, ActionKind, JobCode, Reason, Status
from orchestrator.kernels.state.row import ClusterState
from orchestrator.scheduling.rules import Rule, rule_named
from orchestrator.twin.answers import LEVELS
from orchestrator.twin.futures import Futures, TwinConfig
from orchestrator.twin.past import past_of
from orchestrator.twin.play import Played, play
from orchestrator.twin.scene.cast import Cast
from orchestrator.twin.scene.stage import reserved_starts

__all__ = ["ANSWER_DTYPE", "Backtest", "ask_on_the_way", "loaded"]


_WAITING = (JobCode.PENDING, JobCode.PREEMPTED)


ANSWER_DTYPE = np.dtype(
    [
        ("moment", "i8"),  # number of the moment
        ("now_ms", "i8"),
        ("job", "i8"),  # of the window
        ("tenant", "i8"),
        ("kind", "i8"),  # 0: when a job starts that waits; 1: when a job ends
        ("true_ms", "i8"),
        ("quantiles_ms", "i8", (len(LEVELS),)),  # NEVER: not in so many futures
        ("reserved_ms", "i8"),  # what Slurm tells; NEVER: nothing
    ]
)
"""A question, its answer, and what really came."""


@dataclass(frozen=True)
class Backtest:
    """How a trace is replayed and asked.

    Parameters
    ----------
    trace : Trace
        Its jobs and cluster.
    rule : str
        Who is in charge.
    jobs : int
        The first so many of the trace's are replayed; 0: all.
    moments : int
        At how many moments the twin is asked.
    known : float
        Share of the span of arrivals before the first moment: without a past there is nothing to
        answer.
    asked : int
        Jobs about which it is asked at one moment, at most.
    ends : bool
        Whether it is asked when jobs end, too: then futures are played to their ends.
    seed : int
        Of moments and jobs.
    """

    trace: Trace
    rule: str = "fcfs"
    jobs: int = 0
    moments: int = 20
    known: float = 0.4
    asked: int = 20
    ends: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what asks nothing."""
        rule_named(self.rule)
        for name, least in (("jobs", 0), ("moments", 1), ("asked", 1), ("seed", 0)):
            check_whole(f"backtest: '{name}'", getattr(self, name), least)
        check_finite("backtest: 'known'", self.known, 0.05, 0.9)
        if not self.trace.nodes:
            raise ConfigurationError(
                f"backtest: trace '{self.trace.name}' has no nodes; give one with a cluster"
            )


def loaded(trace: Trace, load: float, *, estimates: int | None = None) -> Trace:
    """A trace on as many of its nodes, evenly chosen, as make its offered load so high.

    Parameters
    ----------
    trace : Trace
    load : float
        Work that arrives by what the nodes can do in the same time, above 0.
    estimates : int or None, optional
        Seed of users' estimates that are drawn, since the trace has none (see
        :class:`envs.workloads.Enrichment`); None: those of the trace.

    Returns
    -------
    Trace
        Without the jobs that cannot ever fit.
    """
    check_finite("backtest: 'load'", load, above=0)
    if estimates is not None:
        only = Enrichment(estimates, costs=False, preemptible_share=None, elastic_share=0.0)
        trace = enrich(trace, only)
    most, nodes = len(trace.nodes), trace.nodes
    for count in range(1, most + 1):
        chosen = np.unique(np.linspace(0, most - 1, count).round().astype(int)).tolist()
        nodes = tuple(trace.nodes[n] for n in chosen)
        fits = ~unplaceable(trace.requests, nodes)
        kept = replace(trace, requests=trace.requests[fits], nodes=nodes) if fits.any() else None
        if kept is not None and len(kept) > 1 and kept.offered_load() <= load:
            return replace(kept, name=f"{trace.name}, load {load:g}")
    return replace(trace, name=f"{trace.name}, load {trace.offered_load():.2f}")


def ask_on_the_way(backtest: Backtest, config: TwinConfig) -> NDArray[np.void]:
    """Replay a trace, and ask the twin on the way.

    Parameters
    ----------
    backtest : Backtest
    config : TwinConfig

    Returns
    -------
    ANSWER_DTYPE [answers]
    """
    rule, trace = rule_named(backtest.rule), backtest.trace
    count = min(backtest.jobs or len(trace), len(trace))
    session = Session(
        trace, replace(CLUSTER, episode_jobs=count, step_limit=0), 1, np.zeros(1, np.int64)
    )
    session.replay(rule)
    truth = session.state.job[0].copy()
    asks = trace.requests[:count]
    rng = np.random.default_rng([backtest.seed, 1])
    first, last = int(asks["submit_ms"][0]), int(asks["submit_ms"][-1])
    begin = first + backtest.known * (last - first)
    times = np.sort(rng.uniform(begin, last, backtest.moments)).astype(np.int64)
    session.begin(np.zeros(1, np.int64))
    found = [
        _ask(session.state, rule, backtest, config, (number, rng, truth))
        for number in _moments(session.state, rule, times)
    ]
    session.close()
    return np.concatenate(found) if found else np.zeros(0, ANSWER_DTYPE)


def _moments(state: ClusterState, rule: Rule, times: NDArray[np.int64]) -> Iterator[int]:
    """Play a row that has begun; stop when the rule waits after each time, and somebody waits."""
    record, rows = rule.to_record(), state.rows
    scratch = np.empty(max(state.shape.jobs, state.shape.workers), np.int32)
    nodes, number = np.empty(state.shape.workers, np.int32), 0
    while number < len(times) and entry.advance(rows, 0, nodes) == Status.DECISION:
        kind, j, value = entry.rule_action(rows, 0, record, scratch)
        waits = kind == ActionKind.WAIT and rows["queue_len"][0] > 0
        if waits and rows["now_ms"][0] >= times[number]:
            yield number
            while number < len(times) and rows["now_ms"][0] >= times[number]:
                number += 1
        if entry.commit(rows, 0, kind, j, value, nodes) != Reason.OK:
            raise ConfigurationError(f"backtest: rule '{rule.name}' chose what is not legal")


def _ask(
    state: ClusterState,
    rule: Rule,
    backtest: Backtest,
    config: TwinConfig,
    moment: tuple[int, np.random.Generator, NDArray[np.void]],
) -> NDArray[np.void]:
    """Ask about those who wait now, and when those who are here end."""
    number, rng, truth = moment
    futures = Futures(past_of(state), replace(config, seed=config.seed + number))
    played = play(state, Cast(rule), futures, drained=backtest.ends)
    _, reserved = reserved_starts(state, rule)
    codes = state.job[0, played.rows]["state"]
    waits = np.flatnonzero(np.isin(codes, _WAITING))
    parts = [_answers(state, played, played.start_ms, _some(rng, waits, backtest.asked), 0)]
    parts[0]["true_ms"] = _true_starts(state, truth, parts[0]["job"])
    parts[0]["reserved_ms"] = reserved[np.searchsorted(played.rows, parts[0]["job"])]
    if backtest.ends:
        here = np.flatnonzero(np.isin(codes, (*_WAITING, JobCode.RUNNING)))
        chosen = _some(rng, here, backtest.asked)
        parts.append(_answers(state, played, played.end_ms, chosen, 1))
        parts[1]["true_ms"] = truth["end_ms"][parts[1]["job"]]
    for part in parts:
        part["moment"] = number
    found: NDArray[np.void] = np.concatenate(parts)
    return found


def _some(rng: np.random.Generator, among: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    if len(among) <= most:
        return among
    return np.sort(rng.choice(among, most, replace=False))


def _true_starts(
    state: ClusterState, truth: NDArray[np.void], jobs: NDArray[np.int64]
) -> NDArray[np.int64]:
    """When jobs that wait start next; of one that has run before it is not kept: its last start."""
    fresh = state.job[0, jobs]["runs"] == 0
    found: Any = np.where(fresh, truth["first_start_ms"][jobs], truth["start_ms"][jobs])
    return np.asarray(found, np.int64)


def _answers(
    state: ClusterState,
    played: Played,
    times: NDArray[np.int64],
    chosen: NDArray[np.int64],
    kind: int,
) -> NDArray[np.void]:
    """Answers of the twin about some jobs; what is true is for the caller to fill in."""
    found = np.zeros(len(chosen), ANSWER_DTYPE)
    found["now_ms"], found["kind"] = int(state.rows[0]["now_ms"]), kind
    found["job"] = played.rows[chosen]
    found["tenant"] = state.request[0, found["job"]]["tenant"]
    found["reserved_ms"] = NEVER
    ranked = np.sort(times[:, chosen], axis=0)
    for k, level in enumerate(LEVELS):
        at = min(int(np.ceil(level * len(ranked))) - 1, len(ranked) - 1)
        found["quantiles_ms"][:, k] = ranked[at]
    return found
