"""Changes that are supposed, then really made: what was answered beside what comes of them.

At moments of a replay a change is drawn and the twin is asked what it would do. Then the replay is
forked, once with the change and once without, and both are played with the jobs that really come,
and the run times that they really have.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from agents.backtest.replay import Backtest, replayed, stops, waiting_times
from agents.backtest.scene import image_of, name_of, spec_of, what_comes
from envs.workloads import Trace
from orchestrator.engine.engine import EngineImage
from orchestrator.kernels.state.codes import JobCode
from orchestrator.kernels.state.row import ClusterState
from orchestrator.scheduling.rules import rule_named
from orchestrator.twin.answers import Difference, WhatIf
from orchestrator.twin.ask import Twin
from orchestrator.twin.futures import TwinConfig
from orchestrator.twin.scene.cast import Cast
from orchestrator.twin.supposed import Suppose
from orchestrator.types import JobPriority

__all__ = ["KINDS", "Told", "ask_what_if"]


KINDS = ("drain", "fail", "submit", "cancel", "priority", "nodes", "policy")
"""What is supposed."""


_WAITING = (JobCode.PENDING, JobCode.PREEMPTED)
_SOON = 100  # jobs: who is submitted is like one of the next so many that come
_MOST_NEW_NODES = 0.25  # of those that there are
_RULES = ("fcfs", "fifo", "sjf", "priority", "srtf", "las")
_MS_PER_HOUR = 3_600_000


@dataclass(frozen=True)
class Told:
    """A figure of an answer, and what really came.

    Parameters
    ----------
    moment : int
    kind : str
        Of the change: one of :data:`KINDS`.
    change : str
        In words.
    figure : str
        ``total``: mean completion time of all who are here; ``others``: mean wait of those who come
        later; ``job``: completion time of one.
    of : str
        Which job; empty for all.
    told : Difference
    true : float
        Hours.
    """

    moment: int
    kind: str
    change: str
    figure: str
    of: str
    told: Difference
    true: float


@dataclass(frozen=True)
class _Drawn:
    """A change; how long the job really works that is submitted, ms."""

    kind: str
    suppose: Suppose
    new_ms: int = 1


def ask_what_if(backtest: Backtest, config: TwinConfig) -> list[Told]:
    """Replay a trace, ask what would be if, and see what comes of it.

    Parameters
    ----------
    backtest : Backtest
        One change is drawn at each of its moments; the kinds take turns.
    config : TwinConfig
    """
    rule, rng = rule_named(backtest.rule), np.random.default_rng([backtest.seed, 2])
    session, truth = replayed(backtest)
    times, found = waiting_times(backtest, truth, rng), list[Told]()
    for number, state in enumerate(stops(session, rule, times)):
        drawn = _draw(state, backtest.trace, backtest.rule, KINDS[number % len(KINDS)], rng)
        if drawn is None:
            continue
        image = image_of(state, backtest.trace)
        asked = replace(config, seed=config.seed + number)
        twin = Twin(image, Cast(rule), int(state.rows[0]["now_ms"]), asked)
        told = twin.what_if(drawn.suppose)
        true = _came(backtest, state, image, drawn, told)
        found += _figures(number, drawn, told, true)
    session.close()
    return found


def _came(
    backtest: Backtest, state: ClusterState, image: EngineImage, drawn: _Drawn, told: WhatIf
) -> WhatIf:
    """What really comes of a change: the answer of a twin that knows all."""
    assert told.sources is not None
    ahead_ms = round(told.sources.hours_ahead * _MS_PER_HOUR)
    comes = what_comes(state, image, ahead_ms, drawn.new_ms)
    twin = Twin(image, Cast(rule_named(backtest.rule)), int(state.rows[0]["now_ms"]), futures=comes)
    return twin.what_if(drawn.suppose, most_jobs=int(state.rows[0]["num_jobs"]) + 1)


def _figures(number: int, drawn: _Drawn, told: WhatIf, true: WhatIf) -> Iterator[Told]:
    """What an answer states, each figure with what came."""
    first = number, drawn.kind, told.change
    for name in ("total", "others"):
        stated, came = getattr(told, name), getattr(true, name)
        if stated is not None and came is not None:
            yield Told(*first, name, "", stated, came.mean)
    for name, change in told.jobs.items():
        if name in true.jobs:
            yield Told(*first, "job", name, change, true.jobs[name].mean)


def _draw(
    state: ClusterState, trace: Trace, rule: str, kind: str, rng: np.random.Generator
) -> _Drawn | None:
    """A change of a kind, drawn at random; None: there is nobody to whom it could happen."""
    arrived, count = int(state.rows[0]["next_arrival"]), int(state.rows[0]["num_jobs"])
    codes = state.job[0, :arrived]["state"]
    waits = np.flatnonzero(np.isin(codes, _WAITING))
    if kind in ("drain", "fail"):
        if len(trace.nodes) < 2:
            return None
        node = trace.nodes[int(rng.integers(len(trace.nodes)))].node_id
        return _Drawn(kind, Suppose(drain=(node,)) if kind == "drain" else Suppose(fail=(node,)))
    if kind == "nodes":
        like = trace.nodes[int(rng.integers(len(trace.nodes)))].node_id
        most = max(round(_MOST_NEW_NODES * len(trace.nodes)), 1)
        return _Drawn(kind, Suppose(nodes={like: int(rng.integers(1, most + 1))}))
    if kind == "policy":
        others = [name for name in _RULES if name != rule]
        return _Drawn(kind, Suppose(policy=others[int(rng.integers(len(others)))]))
    if kind == "submit":
        ask = state.request[0, min(arrived + int(rng.integers(_SOON)), count - 1)]
        return _Drawn(kind, Suppose(submit=spec_of(ask, "new", trace)), int(ask["duration_ms"]))
    if kind == "cancel":
        open_jobs = np.flatnonzero(np.isin(codes, (*_WAITING, JobCode.RUNNING)))
        return _Drawn(kind, Suppose(cancel=(name_of(int(rng.choice(open_jobs))),)))
    if not len(waits):
        return None
    job = int(rng.choice(waits))
    now = int(state.request[0, job]["priority"])
    level = JobPriority(int(rng.choice([one.value for one in JobPriority if one.value != now])))
    return _Drawn(kind, Suppose(priority={name_of(job): level}))
