"""A trace replayed under a rule; the twin is asked on the way when those who wait will start.

What is asked knows what has come by then, and nothing else. What then really came of the jobs is
the replay itself, played to its end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.backtest.scene import row_at
from envs.checks import check_finite, check_whole
from envs.config import CLUSTER
from envs.session import Session
from envs.workloads import Enrichment, Trace, enrich
from envs.workloads.trace import unplaceable
from orchestrator.errors import ConfigurationError
from orchestrator.kernels.change.events import step_event
from orchestrator.kernels.change.timeline import next_event
from orchestrator.kernels.lang.jit import on_row
from orchestrator.kernels.run import rows as entry
from orchestrator.kernels.state.codes import NEVER, ActionKind, EventKind, JobCode, Reason, Status
from orchestrator.kernels.state.row import ClusterState
from orchestrator.scheduling.rules import Rule, rule_named
from orchestrator.twin.answers import LEVELS
from orchestrator.twin.futures import Futures, TwinConfig
from orchestrator.twin.past import past_of
from orchestrator.twin.play import Played, play
from orchestrator.twin.scene.cast import Cast
from orchestrator.twin.scene.stage import reserved

__all__ = [
    "ANSWER_DTYPE",
    "ASKED_OF",
    "Backtest",
    "ask_on_the_way",
    "loaded",
    "of_kind",
    "replayed",
    "some_of",
    "stops",
    "waiting_times",
]


# A replay that can stop at any time goes from event to event: kernels as they are, for one row.
_next_event: Callable[[NDArray[np.void], int], tuple[int, int, int]] = on_row(next_event)
_step_event: Callable[[NDArray[np.void], int], bool] = on_row(step_event)


_WAITING = (JobCode.PENDING, JobCode.PREEMPTED)


ASKED_OF = ("start", "end", "new job")
"""What answers are of, by the number of their kind."""


ANSWER_DTYPE = np.dtype(
    [
        ("moment", "i8"),  # number of the moment
        ("now_ms", "i8"),
        ("job", "i8"),  # of the window
        ("tenant", "i8"),
        ("kind", "i8"),  # index into ASKED_OF
        ("true_ms", "i8"),
        ("quantiles_ms", "i8", (len(LEVELS),)),  # NEVER: not in so many futures
        ("reserved_ms", "i8"),  # what Slurm tells; NEVER: nothing
    ]
)
"""A question, its answer, and what really came."""


def of_kind(answers: NDArray[np.void], kind: int) -> NDArray[np.void]:
    """Those of a kind, an index into :data:`ASKED_OF`."""
    return answers[answers["kind"] == kind]


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
    rule, rng = rule_named(backtest.rule), np.random.default_rng([backtest.seed, 1])
    session, truth = replayed(backtest)
    times = waiting_times(backtest, truth, rng)
    found = [
        _ask(state, rule, backtest, config, (number, rng, truth))
        for number, state in enumerate(stops(session, rule, times))
    ]
    session.close()
    return np.concatenate(found) if found else np.zeros(0, ANSWER_DTYPE)


def replayed(backtest: Backtest) -> tuple[Session, NDArray[np.void]]:
    """A replay that stands at its beginning, and what comes of its jobs: JOB_DTYPE [jobs]."""
    trace = backtest.trace
    count = min(backtest.jobs or len(trace), len(trace))
    config = replace(CLUSTER, episode_jobs=count, step_limit=0)
    session = Session(trace, config, 1, np.zeros(1, np.int64))
    session.replay(rule_named(backtest.rule))
    truth = session.state.job[0].copy()
    session.begin(np.zeros(1, np.int64))
    return session, truth


def waiting_times(
    backtest: Backtest,
    truth: NDArray[np.void],
    rng: np.random.Generator,
    whose: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """Moments, ascending ms, drawn evenly from all the time at which somebody waits.

    Whoever asks knows of no event and no decision: at those others wait than in between.

    Parameters
    ----------
    backtest : Backtest
    truth : JOB_DTYPE [jobs]
        What comes of the jobs.
    rng : numpy.random.Generator
    whose : bool [jobs] or None, optional
        Whose waiting counts; None: everybody's.
    """
    submits = backtest.trace.requests[: len(truth)]["submit_ms"]
    begin = submits[0] + backtest.known * (submits[-1] - submits[0])
    begins = np.maximum(submits, int(begin))
    ends = np.minimum(truth["first_start_ms"], submits[-1])  # for the first time at least
    counts = ends > begins if whose is None else (ends > begins) & whose
    order = np.flatnonzero(counts)
    latest, spans = int(begin), list[tuple[int, int]]()
    for first, last in zip(begins[order].tolist(), ends[order].tolist(), strict=True):
        if last > latest:  # jobs are by submit time: who waits longer than all before
            spans.append((max(first, latest), last))
            latest = last
    if not spans:
        return np.zeros(0, np.int64)
    bounds = np.array(spans, np.int64)
    lengths = np.diff(bounds, axis=1)[:, 0]
    upto = np.cumsum(lengths)
    lots = np.sort(rng.integers(upto[-1], size=backtest.moments))
    which = np.searchsorted(upto, lots, "right")
    found: NDArray[np.int64] = bounds[which, 0] + lots - (upto[which] - lengths[which])
    return found


def stops(session: Session, rule: Rule, times: NDArray[np.int64]) -> Iterator[ClusterState]:
    """Play a replay that has begun; its row as it is at each of some times, ascending.

    What is yielded is a copy, good until the next one.
    """
    state = session.state
    rows, record = state.rows, rule.to_record()
    scratch = np.empty(max(state.shape.jobs, state.shape.workers), np.int32)
    nodes, number = np.empty(state.shape.workers, np.int32), 0
    copied: ClusterState | None = None
    while number < len(times):
        if entry.settle(rows, 0, nodes) == Status.DECISION:
            kind, j, value = entry.rule_action(rows, 0, record, scratch)
            reason = entry.commit(rows, 0, kind, j, value, nodes)
            if reason != Reason.OK and kind != ActionKind.WAIT:
                raise ConfigurationError(f"backtest: rule '{rule.name}' chose what is not legal")
            if reason == Reason.OK:
                continue
        next_ms, what, _ = _next_event(rows, 0)
        while number < len(times) and times[number] < next_ms:
            copied = row_at(state, int(times[number]), copied)
            yield copied
            number += 1
        if what == EventKind.NONE:
            return
        _step_instant(rows)


def _step_instant(rows: NDArray[np.void]) -> None:
    """All that happens at the next instant at which something does."""
    _step_event(rows, 0)
    while True:
        time_ms, kind, _ = _next_event(rows, 0)
        if kind == EventKind.NONE or time_ms > rows["now_ms"][0]:
            break
        _step_event(rows, 0)
    entry.open_point(rows, 0)


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
    estimated = reserved(state, rule)
    codes = state.job[0, played.rows]["state"]
    waits = np.flatnonzero(np.isin(codes, _WAITING))
    parts = [_answers(state, played, played.start_ms, some_of(rng, waits, backtest.asked), 0)]
    parts[0]["true_ms"] = _true_starts(state, truth, parts[0]["job"])
    asked = np.searchsorted(estimated.rows, parts[0]["job"])
    parts[0]["reserved_ms"] = estimated.start_ms[asked]
    if backtest.ends:
        here = np.flatnonzero(np.isin(codes, (*_WAITING, JobCode.RUNNING)))
        chosen = some_of(rng, here, backtest.asked)
        parts.append(_answers(state, played, played.end_ms, chosen, 1))
        parts[1]["true_ms"] = truth["end_ms"][parts[1]["job"]]
        asked = np.searchsorted(estimated.rows, parts[1]["job"])
        parts[1]["reserved_ms"] = estimated.end_ms[asked]
    for part in parts:
        part["moment"] = number
    found: NDArray[np.void] = np.concatenate(parts)
    return found


def some_of(rng: np.random.Generator, among: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """So many of some, ascending; all if there are no more."""
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
