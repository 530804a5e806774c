"""Moves that let a waiting gang in: offered, made, and what really comes of them.

At moments of a replay gangs that wait are asked about. Where moves of running jobs are offered that
would start one at once, they are made in a fork, which is played to its end with the jobs that
really come and the run times that they really have; another one is played without them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.backtest.replay import Backtest, replayed, some_of, stops, waiting_times
from agents.backtest.scene import image_of, job_of, name_of, what_comes
from orchestrator.engine.engine import EngineImage
from orchestrator.kernels.state.codes import JobCode
from orchestrator.kernels.state.row import ClusterState
from orchestrator.scheduling.rules import Rule, rule_named
from orchestrator.twin.answers import Change
from orchestrator.twin.ask import Twin
from orchestrator.twin.futures import TwinConfig
from orchestrator.twin.play import Played, play
from orchestrator.twin.rehearsal import Rehearsal
from orchestrator.twin.scene.cast import Cast

__all__ = ["Asked", "Made", "ask_for_moves"]


_WAITING = (JobCode.PENDING, JobCode.PREEMPTED)
_GANGS = 5  # that are asked about at a moment, at most
_MS_PER_HOUR = 3_600_000


@dataclass(frozen=True)
class Made:
    """What came of moves that were offered, and made.

    Parameters
    ----------
    moves : int
        How many.
    at_once : bool
        Whether the gang started when it was said to: now, or when those were saved whom the rule
        preempts for it.
    costs_gpu_s : float
        What they were said to cost: GPUs that stand still, times seconds.
    saved_h : float
        How much sooner the gang started than without.
    lost_h : float
        How much later the moved jobs ended, on average.
    total_h : float
        How much later all who were here ended, on average; below 0: sooner.
    """

    moves: int
    at_once: bool
    costs_gpu_s: float
    saved_h: float
    lost_h: float
    total_h: float


@dataclass(frozen=True)
class Asked:
    """A gang that waited, and what was offered it.

    Parameters
    ----------
    moment : int
    job : str
    gpus : int
        How many it asks for.
    room : bool
        Whether as many were free in all: then it is their places that it waits for.
    made : Made or None
        None: no moves were offered.
    """

    moment: int
    job: str
    gpus: int
    room: bool
    made: Made | None


def ask_for_moves(backtest: Backtest, config: TwinConfig) -> list[Asked]:
    """Replay a trace; ask of gangs that wait whether moves would let them in, and make these.

    Parameters
    ----------
    backtest : Backtest
        Its moments are drawn from the time at which gangs wait: jobs of several GPUs.
    config : TwinConfig
    """
    rule, rng = rule_named(backtest.rule), np.random.default_rng([backtest.seed, 4])
    session, truth = replayed(backtest)
    asks = backtest.trace.requests[: len(truth)]
    gangs = asks["workers"] * asks["gpus_per_worker"] > 1
    times, found = waiting_times(backtest, truth, rng, gangs), list[Asked]()
    for number, state in enumerate(stops(session, rule, times)):
        waits = np.flatnonzero(np.isin(state.job[0]["state"], _WAITING)[: len(gangs)] & gangs)
        chosen = some_of(rng, waits, min(_GANGS, backtest.asked))
        found += _ask(number, state, backtest, config, chosen)
    session.close()
    return found


def _ask(
    number: int,
    state: ClusterState,
    backtest: Backtest,
    config: TwinConfig,
    jobs: NDArray[np.int64],
) -> Iterator[Asked]:
    rule, now_ms = rule_named(backtest.rule), int(state.rows[0]["now_ms"])
    image = image_of(state, backtest.trace)
    twin, without = Twin(image, Cast(rule), now_ms, config), None
    free = int(state.rows[0]["free_units"]) / 1000
    for j in jobs.tolist():
        ask = state.request[0, j]
        gpus = int(ask["workers"] * ask["gpus_per_worker"])
        offers = [one for one in twin.why(name_of(j)).changes if one.what == "moves"]
        made = None
        if offers:
            without = without or _played(state, image, rule, now_ms, ())
            played = _played(state, image, rule, now_ms, offers[0].to)
            made = _make(offers[0], j, now_ms, without, played)
        yield Asked(number, name_of(j), gpus, free >= gpus, made)


def _played(
    state: ClusterState, image: EngineImage, rule: Rule, now_ms: int, moves: tuple[str, ...]
) -> Played:
    """What really comes with some moves."""
    here = Rehearsal(image, now_ms)
    for name in moves:
        here.move(name)
    return play(here.engine.state, Cast(rule), what_comes(state, image), drained=True)


def _make(offer: Change, job: int, now_ms: int, without: Played, made: Played) -> Made:
    """What came of an offer; jobs have the same rows in both, and all futures are one."""
    moved = [without.of(job_of(name)) for name in offer.to]
    at = without.of(job)
    later = (made.end_ms[0] - without.end_ms[0]) / _MS_PER_HOUR
    began_ms = int(made.start_ms[0, at])
    return Made(
        moves=len(moved),
        at_once=began_ms <= now_ms + offer.starts_after_ms,
        costs_gpu_s=offer.costs_gpu_s,
        saved_h=float(without.start_ms[0, at] - began_ms) / _MS_PER_HOUR,
        lost_h=float(later[moved].mean()),
        total_h=float(later.mean()),
    )
