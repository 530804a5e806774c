"""Scores of jobs under a rule's key, and who has room, in plain Python: the twin of ordering."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from orchestrator.kernels.state.codes import JobCode, QuotaMode, RuleKey, Stream
from tests.naive.placing import fits, least
from tests.naive.random import random_unit

if TYPE_CHECKING:
    from tests.naive.cluster import Job
    from tests.naive.engine import NaiveEngine


def score(engine: NaiveEngine, job: Job, key: int) -> float:
    ask = job.ask
    asked, submit = ask.requested_ms / 1000.0, ask.submit_ms / 1000.0
    wait = (engine.now - ask.submit_ms) / 1000.0
    if key in (RuleKey.WFP3_COMPAT, RuleKey.UNICEP_COMPAT):
        wait = -1.0 - submit
    processors = engine.demand(job) / 1000.0
    left = float(max(ask.requested_ms - engine.progress(job), 0))
    if key == RuleKey.FCFS:
        return float(ask.submit_ms)
    if key == RuleKey.SJF:
        return float(ask.requested_ms)
    if key == RuleKey.SRTF:
        return left
    if key == RuleKey.SRSF:
        return left * engine.demand(job)
    if key == RuleKey.F1:
        first = submit if submit > 0 else 0.1
        return math.log10(asked) * processors + 870.0 * math.log10(first)
    if key in (RuleKey.WFP3, RuleKey.WFP3_COMPAT):
        ratio = wait / asked
        return -(ratio * ratio * ratio) * processors
    if key in (RuleKey.UNICEP, RuleKey.UNICEP_COMPAT):
        return -(wait + 1e-15) / (math.log2(processors + 1e-15) * asked)
    if key == RuleKey.LARGEST:
        return -float(engine.demand(job))
    if key == RuleKey.PRIORITY:
        ageing = engine.config.ageing_ms
        return float(ask.priority) - ((engine.now - ask.submit_ms) / ageing if ageing else 0.0)
    if key >= RuleKey.LAS:
        return _service_score(engine, job, key)
    counter = (engine.point << 32) + job.index
    return random_unit(engine.seed, Stream.ORDERING, counter)


def attained(engine: NaiveEngine, job: Job) -> int:
    """Units x ms held so far."""
    held = engine.now - job.changed if job in engine.running else 0
    return job.attained + held * engine.units(job)


def _service_score(engine: NaiveEngine, job: Job, key: int) -> float:
    service, units = attained(engine, job), engine.demand(job)
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
    return _dominant_share(engine, job.ask.tenant)


def _dominant_share(engine: NaiveEngine, t: int) -> float:
    """DRF: the largest share of any resource that a tenant holds, over its weight."""
    if t >= len(engine.tenants):
        return 0.0
    held = [0, 0, 0]
    for other in engine.jobs:
        if other.ask.tenant == t:
            ask, workers = other.ask, len(other.spots)
            held[0] += workers * ask.gpus_per_worker * ask.gpu_milli
            held[1] += workers * ask.cpu_milli
            held[2] += workers * ask.memory_mib
    nodes = engine.nodes
    there = [
        sum(1000 * node.gpus for node in nodes),
        sum(node.cpu_cap_milli for node in nodes),
        sum(node.memory_cap_mib for node in nodes),
    ]
    share = max(have / of if of else 0.0 for have, of in zip(held, there, strict=True))
    return share / (engine.tenants[t].weight or 1.0)


def has_room(engine: NaiveEngine, job: Job, gone: list[Job]) -> bool:
    """Whether a waiting job fits and its quota holds it, if some jobs were gone."""
    if engine.config.quota_mode == QuotaMode.HARD and engine.has_account(job):
        used = engine.used(job.ask.tenant, gone) + engine.units_of(job, least(job.ask))
        if used > engine.tenants[job.ask.tenant].quota_units:
            return False
    return fits(job.ask, engine.hosts(gone))
