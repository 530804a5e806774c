"""Scores, rules and preemption in plain Python: the twin of ordering and rules."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from orchestrator.kernels.codes import ActionKind, JobCode, Preemption, Reason, RuleKey, Stream
from orchestrator.scheduler.rules import Rule
from tests.twins.naive_placement import fits
from tests.twins.naive_random import random_unit

if TYPE_CHECKING:
    from tests.twins.naive_cluster import Job
    from tests.twins.naive_engine import NaiveEngine

_WAIT = (ActionKind.WAIT, -1)


def score(engine: NaiveEngine, job: Job, key: int) -> float:
    ask = job.ask
    asked, submit = ask.requested_ms / 1000.0, ask.submit_ms / 1000.0
    wait = (engine.now - ask.submit_ms) / 1000.0
    if key in (RuleKey.WFP3_COMPAT, RuleKey.UNICEP_COMPAT):
        wait = -1.0 - submit
    processors = engine.units(job) / 1000.0
    left = float(max(ask.requested_ms - engine.progress(job), 0))
    if key == RuleKey.FCFS:
        return float(ask.submit_ms)
    if key == RuleKey.SJF:
        return float(ask.requested_ms)
    if key == RuleKey.SRTF:
        return left
    if key == RuleKey.SRSF:
        return left * engine.units(job)
    if key == RuleKey.F1:
        first = submit if submit > 0 else 0.1
        return math.log10(asked) * processors + 870.0 * math.log10(first)
    if key in (RuleKey.WFP3, RuleKey.WFP3_COMPAT):
        ratio = wait / asked
        return -(ratio * ratio * ratio) * processors
    if key in (RuleKey.UNICEP, RuleKey.UNICEP_COMPAT):
        return -(wait + 1e-15) / (math.log2(processors + 1e-15) * asked)
    if key == RuleKey.LARGEST:
        return -float(engine.units(job))
    if key == RuleKey.PRIORITY:
        waits = job.state in (JobCode.PENDING, JobCode.PREEMPTED)
        ages = waits and engine.config.ageing_ms > 0
        aged = (engine.now - ask.submit_ms) / engine.config.ageing_ms if ages else 0.0
        return float(ask.priority) - aged
    if key >= RuleKey.LAS:
        return _service_score(engine, job, key)
    counter = (engine.point << 32) + job.index
    return random_unit(engine.seed, Stream.ORDERING, counter)


def attained(engine: NaiveEngine, job: Job) -> int:
    """Units x ms held so far."""
    held = engine.now - job.start if job in engine.running else 0
    return job.attained + held * engine.units(job)


def _service_score(engine: NaiveEngine, job: Job, key: int) -> float:
    service, units = attained(engine, job), engine.units(job)
    if key == RuleKey.LAS:
        return float(service)
    if key == RuleKey.TIRESIAS:
        bounds = [engine.config.las_first_s, engine.config.las_second_s]
        level = sum(service / 1e6 >= bound for bound in bounds)
        executed = service / max(units, 1)
        waited = engine.now - job.ask.submit_ms - executed
        if engine.config.las_promote and waited >= engine.config.las_promote * executed:
            level = 0
        waits = job.state in (JobCode.PENDING, JobCode.PREEMPTED)
        return level * 2.0**46 + waits * 2.0**45 + job.ask.submit_ms
    if key == RuleKey.GITTINS:
        reached = [index for start, index in engine.gittins if start <= service / 1e6]
        return -reached[-1] if reached else 0.0
    if key == RuleKey.QSSF:
        return float(job.ask.requested_ms * units)
    return 0.0  # DRF: no tenant has an account here


def rule_action(engine: NaiveEngine, rule: Rule) -> tuple[int, int, int]:
    """What a rule does now: (kind, job, value)."""
    return (*_rigid_action(engine, rule), rule.placement)


def _rigid_action(engine: NaiveEngine, rule: Rule) -> tuple[int, int]:
    queue = sorted(engine.queue(), key=lambda job: score(engine, job, rule.key))
    if not queue:
        return _WAIT
    if engine.config.commitment:
        return ActionKind.PLACE, queue[0].index
    if rule.preemption != Preemption.NONE:
        return _preemptive_action(engine, rule, queue)
    if rule.blocking:
        queue = queue[:1]
    for job in queue:
        if engine.placement_reason(job) == Reason.OK:
            return ActionKind.PLACE, job.index
    return _WAIT


def _preemptive_action(engine: NaiveEngine, rule: Rule, queue: list[Job]) -> tuple[int, int]:
    for job in queue:
        if job.blocked_point == engine.point:
            continue
        reason = engine.placement_reason(job)
        if reason == Reason.OK:
            return ActionKind.PLACE, job.index
        if reason == Reason.NO_CAPACITY:
            if engine.leaving() and fits(job.ask, engine.hosts(engine.leaving())):
                break
            victim = _victim_for(engine, rule, job)
            if victim is not None:
                return ActionKind.PREEMPT, victim.index
        if rule.blocking:
            break
    return _WAIT


def _rank(engine: NaiveEngine, rule: Rule, job: Job, other: Job) -> tuple[float, ...] | None:
    """How readily a running job gives way to a waiting one, highest first; None: not at all."""
    if rule.preemption == Preemption.SCORE:
        mine, its = score(engine, job, rule.key), score(engine, other, rule.key)
        return (its,) if its > mine else None
    if other.ask.priority <= job.ask.priority:
        return None
    unsaved = engine.progress(other) - engine.saved(other)
    cost = (unsaved + other.ask.checkpoint_ms + other.ask.restart_ms) * engine.units(other)
    return (other.ask.priority, -cost)


def _victim_for(engine: NaiveEngine, rule: Rule, job: Job) -> Job | None:
    """The running job of the highest rank whose preemption is needed to let ``job`` in."""
    gone = engine.leaving()
    allowed = max(engine.config.preemption_limit - engine.preemptions_here, 0)
    able = [
        (rank, other)
        for other in engine.running
        if engine.preemption_reason(other) == Reason.OK
        and (rank := _rank(engine, rule, job, other)) is not None
    ]
    able.sort(key=lambda pair: pair[0], reverse=True)
    if rule.preemption == Preemption.SCORE:
        able = able[:allowed]
    victims: list[Job] = []
    for _, other in able:
        if fits(job.ask, engine.hosts(gone + victims)):
            break
        victims.append(other)
    if not fits(job.ask, engine.hosts(gone + victims)):
        return None
    for other in reversed(list(victims)):
        rest = [v for v in victims if v is not other]
        if fits(job.ask, engine.hosts(gone + rest)):
            victims = rest
    return victims[0] if victims and len(victims) <= allowed else None
