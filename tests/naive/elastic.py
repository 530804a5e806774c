"""How rules resize running elastic jobs, in plain Python: the twin of ``decide/elastic``."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING

from orchestrator.kernels.state.codes import ActionKind, Elasticity, JobKind, Reason
from orchestrator.scheduling.rules import Rule
from tests.naive.order import has_room, score

if TYPE_CHECKING:
    from tests.naive.cluster import Job
    from tests.naive.engine import NaiveEngine

_WAIT = (ActionKind.WAIT, -1)


def elastic_action(engine: NaiveEngine, rule: Rule, first: Job | None) -> tuple[int, int, int]:
    """``first`` is who waits, may start, and would be started before all others."""
    if rule.elastic >= Elasticity.KEEP:
        return _by_rank(engine, rule, first)
    able = [job for job in engine.running if job.ask.kind != JobKind.SERVICE]
    if engine.queue():
        surplus = [
            (len(job.spots) - job.ask.workers, job)
            for job in able
            if len(job.spots) > job.ask.workers
            and engine.resize_reason(job, job.ask.workers) == Reason.OK
        ]
        if surplus:
            job = max(surplus, key=lambda pair: pair[0])[1]
            return ActionKind.RESIZE, job.index, job.ask.workers
        return *_WAIT, rule.placement
    if rule.elastic == Elasticity.SHORTEST:
        return _grow_first(engine, rule, math.inf)
    gains = []
    for job in able:
        more = len(job.spots) + 1
        if engine.resize_reason(job, more) == Reason.OK and engine.place_more(job, 1):
            gain = engine.speed_of(job, more) - job.speed
            gains.append((gain / max(engine.units_of(job, 1), 1), job))
    gains = [pair for pair in gains if pair[0] > 0]
    if not gains:
        return *_WAIT, rule.placement
    job = max(gains, key=lambda pair: pair[0])[1]
    return ActionKind.RESIZE, job.index, len(job.spots) + 1


def _by_rank(engine: NaiveEngine, rule: Rule, first: Job | None) -> tuple[int, int, int]:
    giver = giver_for(engine, rule, first)
    if giver is not None:
        return ActionKind.RESIZE, giver.index, giver.ask.workers
    bound = math.inf
    if rule.elastic == Elasticity.KEEP or engine.leaving():
        bound = min((score(engine, job, rule.key) for job in engine.queue()), default=math.inf)
    return _grow_first(engine, rule, bound)


def giver_for(engine: NaiveEngine, rule: Rule, first: Job | None) -> Job | None:
    """Whose lent workers let in a waiting job: of the needed the last."""
    if rule.elastic < Elasticity.KEEP or engine.leaving() or first is None:
        return None
    bound = score(engine, first, rule.key)
    lenders = [
        job
        for job in engine.running
        if job.ask.kind != JobKind.SERVICE
        and len(job.spots) > job.ask.workers
        and engine.resize_reason(job, job.ask.workers) == Reason.OK
        and score(engine, job, rule.key) > bound
        and job.changed < engine.now
    ]
    lenders.sort(key=lambda job: -score(engine, job, rule.key))
    givers: list[Job] = []
    for job in lenders:
        givers.append(job)
        if _lets_in(engine, first, givers):
            break
    else:
        return None
    for job in reversed(list(givers)):
        rest = [other for other in givers if other is not job]
        if _lets_in(engine, first, rest):
            givers = rest
    return givers[0] if givers else None


def _lets_in(engine: NaiveEngine, first: Job, givers: list[Job]) -> bool:
    """Whether a waiting job has room once some have given back what they are lent."""
    trial = copy.deepcopy(engine)
    for giver in givers:
        own = trial.jobs[giver.index]
        trial.shrink(own, len(own.spots) - own.ask.workers)
    return has_room(trial, trial.jobs[first.index], [])


def _grow_first(engine: NaiveEngine, rule: Rule, bound: float) -> tuple[int, int, int]:
    """Let the first job before a score grow for which it pays, to its best size."""
    order = sorted(engine.running, key=lambda job: score(engine, job, rule.key))
    for job in order:
        now = len(job.spots)
        if job.ask.kind == JobKind.SERVICE or score(engine, job, rule.key) >= bound:
            continue
        if engine.resize_reason(job, now + 1) != Reason.OK:
            continue
        most = min(job.ask.max_workers, engine.max_workers) - now
        most = min(most, engine.free() // max(engine.units_of(job, 1), 1))
        placed = len(engine.place_more(job, engine.quota_workers(job, most)))
        faster = [
            n for n in range(now + 1, now + placed + 1) if engine.speed_of(job, n) > job.speed
        ]
        if not faster:
            continue
        size = max(faster, key=lambda n: (engine.speed_of(job, n), -n))
        left = job.ask.requested_ms - engine.progress(job)
        after = job.ask.regroup_ms / 1000 + left / engine.speed_of(job, size)
        if left <= 0 or after < left / max(job.speed, 1):
            return ActionKind.RESIZE, job.index, size
    return *_WAIT, rule.placement
