"""Rules and preemption in plain Python: the twin of rules."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from orchestrator.kernels.state.codes import (
    ActionKind,
    JobKind,
    Preemption,
    QuotaMode,
    Reason,
    RuleKey,
)
from orchestrator.scheduling.rules import Rule
from tests.naive.elastic import elastic_action, giver_for
from tests.naive.order import has_room, score
from tests.naive.placing import least

if TYPE_CHECKING:
    from tests.naive.cluster import Job
    from tests.naive.engine import NaiveEngine

_WAIT = (ActionKind.WAIT, -1)


def rule_action(engine: NaiveEngine, rule: Rule) -> tuple[int, int, int]:
    """What a rule does now: (kind, job, value)."""
    kind, j = _rigid_action(engine, rule)
    if rule.elastic and not engine.config.commitment:
        first = _first_served(engine, rule)
        if kind == ActionKind.WAIT:
            return elastic_action(engine, rule, first)
        giver = giver_for(engine, rule, first) if kind == ActionKind.PREEMPT else None
        if giver is not None:
            return ActionKind.RESIZE, giver.index, giver.ask.workers
    return kind, j, rule.placement


def _rigid_action(engine: NaiveEngine, rule: Rule) -> tuple[int, int]:
    queue = sorted(engine.queue(), key=lambda job: score(engine, job, rule.key))
    if rule.preemption != Preemption.NONE and not engine.config.commitment:
        return _preemptive_action(engine, rule, queue)
    if rule.blocking and not engine.config.commitment:
        queue = queue[:1]
    elif rule.reservation and not engine.config.commitment:
        return _overtaking_action(engine, rule, queue)
    for job in queue:
        if engine.placement_reason(job) == Reason.OK:
            return ActionKind.PLACE, job.index
    return _WAIT


def _first_served(engine: NaiveEngine, rule: Rule) -> Job | None:
    """Who waits and is started before all others, if there is room; None: nobody may start."""
    queue = sorted(engine.queue(), key=lambda job: score(engine, job, rule.key))
    accounts = _Accounts(engine, rule)
    for job in sorted(queue, key=lambda job: tier(engine, rule, job, [])):
        reason = engine.placement_reason(job)
        if reason == Reason.BLOCKED:
            continue
        able = reason in (Reason.OK, Reason.NO_CAPACITY)
        if rule.blocking:
            return job if able else None
        if able and not accounts.delay(job, by_place=True):
            return job
        accounts.note(job, reason)
    return None


def lacks_storage(engine: NaiveEngine, job: Job) -> bool:
    limit = engine.tenants[job.ask.tenant].storage_quota_mib if engine.has_account(job) else 0
    if not limit or job.first_start >= 0:
        return False
    return bool(engine.stored(job.ask.tenant) + job.ask.storage_mib > limit)


def gives_way(engine: NaiveEngine, rule: Rule, head: Job, job: Job) -> bool:
    """Whether a job, if it ran, could be preempted for another one by class."""
    if rule.preemption != Preemption.PRIORITY or not job.ask.preemptible:
        return False
    if job.ask.priority <= head.ask.priority:
        return False
    return tier(engine, rule, job, []) > tier(engine, rule, head, [])


class _Accounts:
    """What tenants' accounts are kept for: of each the first of its jobs that waits for its own."""

    def __init__(self, engine: NaiveEngine, rule: Rule) -> None:
        self.engine, self.rule = engine, rule
        self.heads: dict[int, Job] = {}

    def note(self, job: Job, reason: Reason) -> None:
        """The next one in the order was looked at."""
        if self.rule.reservation and reason in (Reason.QUOTA, Reason.STORAGE):
            self.heads.setdefault(job.ask.tenant, job)

    def delay(self, job: Job, *, by_place: bool) -> bool:
        """Whether a job would delay the one before it; without ``by_place`` whether it might."""
        head = self.heads.get(job.ask.tenant)
        if head is None:
            return False
        owner, mine = self.engine.tenants[head.ask.tenant], head.ask.tenant
        own = [one for one in self.engine.running if one.ask.tenant == mine]
        if self.engine.account_reason(head) == Reason.STORAGE:
            services = [one for one in own if one.ask.kind == JobKind.SERVICE]
            held = sum(one.ask.storage_mib for one in services) + head.ask.storage_mib
            adds = job.first_start < 0 and job.ask.storage_mib > 0
            return adds and bool(held <= owner.storage_quota_mib)
        if gives_way(self.engine, self.rule, head, job):
            return False
        if not by_place:
            return True
        gone = [one for one in own if gives_way(self.engine, self.rule, head, one)]
        need = self.engine.units_of(head, least(head.ask))
        quota, start = owner.quota_units, self.engine.now
        for one in own:
            if self.engine.used(mine, gone) + need <= quota:
                break
            if one.ask.kind != JobKind.SERVICE and one not in gone:
                gone.append(one)
                start = max(start, one.expected_end)
        used = self.engine.used(mine, gone) + need
        if used > quota or ends_before(self.engine, job, start):
            return False
        return bool(used + self.engine.units_of(job, job.ask.workers) > quota)


def ends_before(engine: NaiveEngine, job: Job, time_ms: int) -> bool:
    """Whether a waiting job, started now with the fewest workers, is over by a time."""
    if job.ask.kind == JobKind.SERVICE:
        return False
    left = max(job.ask.requested_ms - job.progress, 0)
    fewest = least(job.ask)
    left = -(-left * max(job.ask.workers, fewest) // fewest)
    restart = job.ask.restart_ms if job.first_start >= 0 else 0
    return bool(engine.now + left + restart <= time_ms)


class _Reservation:
    """Room that is kept for the first job that does not fit; before there is one, for nobody."""

    def __init__(self, engine: NaiveEngine, rule: Rule) -> None:
        self.engine, self.rule = engine, rule
        self.head: Job | None = None
        self.gone: list[Job] = []
        self.start: int | None = None  # never, or nobody waits for it
        self.checks = 0

    def keep(self, head: Job) -> None:
        self.head = head
        self.gone = [job for job in self.engine.running if self._gives_way(job)]
        time_ms, rest = self.engine.now, list(self.engine.running)
        while not self._head_fits(self.engine, self.gone):
            if not rest:
                return
            job = rest.pop(0)
            if job.ask.kind == JobKind.SERVICE:
                continue
            if job not in self.gone:
                self.gone.append(job)
            time_ms = max(time_ms, job.expected_end)
        self.start = time_ms

    def _gives_way(self, job: Job) -> bool:
        assert self.head is not None
        return gives_way(self.engine, self.rule, self.head, job)

    def _head_fits(self, engine: NaiveEngine, gone: list[Job]) -> bool:
        assert self.head is not None
        return has_room(engine, self.head, gone)

    def is_free(self, job: Job) -> bool:
        """Whether it may start, whatever the place."""
        if self.start is None or self._gives_way(job):
            return True
        return ends_before(self.engine, job, self.start)

    def lets(self, job: Job) -> bool:
        """Whether it may start where it would be placed."""
        if self.is_free(job):
            return True
        self.checks += 1
        if self.checks > 16:
            return False
        trial = copy.deepcopy(self.engine)
        own = trial.jobs[job.index]
        nodes = trial.place(own, self.rule.placement)
        if not nodes or not trial.start(own, nodes):
            return False
        assert self.head is not None
        if lacks_storage(trial, trial.jobs[self.head.index]):
            return False
        return self._head_fits(trial, [trial.jobs[other.index] for other in self.gone])


def _overtaking_action(engine: NaiveEngine, rule: Rule, queue: list[Job]) -> tuple[int, int]:
    room, accounts = _Reservation(engine, rule), _Accounts(engine, rule)
    for job in queue:
        reason = engine.placement_reason(job)
        accounts.note(job, reason)
        if accounts.delay(job, by_place=True):
            continue  # nor is room kept for it
        if reason == Reason.OK and room.lets(job):
            return ActionKind.PLACE, job.index
        if reason == Reason.NO_CAPACITY and room.head is None:
            room.keep(job)
    return _WAIT


def _preemptive_action(engine: NaiveEngine, rule: Rule, queue: list[Job]) -> tuple[int, int]:
    room, accounts = _Reservation(engine, rule), _Accounts(engine, rule)
    for job in sorted(queue, key=lambda job: tier(engine, rule, job, [])):
        if job.blocked_point == engine.point:
            continue
        reason = engine.placement_reason(job)
        starts = reason == Reason.OK and room.lets(job)
        if starts and not accounts.delay(job, by_place=True):
            return ActionKind.PLACE, job.index
        helped = reason == Reason.NO_CAPACITY or _quota_helps(engine, rule, job, reason)
        if helped and not accounts.delay(job, by_place=False):
            if room.is_free(job):
                if engine.leaving() and has_room(engine, job, engine.leaving()):
                    break
                victim = _victim_for(engine, rule, job)
                if victim is not None and engine.preemption_reason(victim) != Reason.OK:
                    break  # at the next point
                if victim is not None:
                    return ActionKind.PREEMPT, victim.index
            if rule.reservation and room.head is None and reason == Reason.NO_CAPACITY:
                room.keep(job)
        accounts.note(job, reason)
        if rule.blocking:
            break
    return _WAIT


def _quota_helps(engine: NaiveEngine, rule: Rule, job: Job, reason: Reason) -> bool:
    """Whether those of its tenant that give way to a job hold the quota that it lacks."""
    if reason != Reason.QUOTA or rule.preemption == Preemption.SCORE:
        return False
    below = [
        other
        for other in engine.running
        if other.ask.preemptible
        and other.ask.tenant == job.ask.tenant
        and other.ask.priority > job.ask.priority
    ]
    used = engine.used(job.ask.tenant, below) + engine.units_of(job, least(job.ask))
    return bool(used <= engine.tenants[job.ask.tenant].quota_units)


def borrows(engine: NaiveEngine, job: Job, gone: list[Job]) -> bool:
    """Whether a job would take its tenant over its quota, if some jobs were gone."""
    if not engine.has_account(job):
        return False
    used = engine.used(job.ask.tenant, gone)
    return bool(used + engine.demand(job) > engine.tenants[job.ask.tenant].quota_units)


def tier(engine: NaiveEngine, rule: Rule, job: Job, gone: list[Job]) -> float:
    """Lower tiers are served first."""
    if rule.preemption not in (Preemption.PRIORITY, Preemption.RECLAIM):
        return 0.0
    tier = float(job.ask.priority)
    if rule.key == RuleKey.PRIORITY:
        tier = score(engine, job, rule.key)
    soft = engine.config.quota_mode != QuotaMode.HARD
    if rule.preemption == Preemption.RECLAIM and soft and borrows(engine, job, gone):
        tier += 1e9
    return tier


def _rank(
    engine: NaiveEngine, rule: Rule, job: Job, other: Job, gone: list[Job]
) -> tuple[float, ...] | None:
    """How readily a running job gives way to a waiting one, highest first; None: not at all."""
    if rule.preemption == Preemption.SCORE:
        mine, its = score(engine, job, rule.key), score(engine, other, rule.key)
        return (its,) if its > mine else None
    without = [*gone, other]
    if tier(engine, rule, other, without) <= tier(engine, rule, job, without):
        return None  # it would take the room that it made
    reclaims = (
        rule.preemption == Preemption.RECLAIM
        and other.ask.tenant != job.ask.tenant
        and borrows(engine, other, without)
        and not borrows(engine, job, without)
    )
    if not reclaims and other.ask.priority <= job.ask.priority:
        return None
    return (reclaims, other.ask.priority, -engine.interruption_cost(other))


def _may_be_victim(engine: NaiveEngine, rule: Rule, job: Job) -> bool:
    reason = engine.preemption_reason(job)
    if rule.preemption != Preemption.SCORE:
        return reason in (Reason.OK, Reason.PREEMPTION_BOUND) and engine.config.preemption_limit > 0
    stalls = job.ask.checkpoint_ms + job.ask.restart_ms
    paid = engine.now - job.start >= engine.config.min_run_costs * stalls
    return reason == Reason.OK and bool(paid)


def _victim_for(engine: NaiveEngine, rule: Rule, job: Job) -> Job | None:
    """The running job of the highest rank whose preemption is needed to let ``job`` in."""
    gone = engine.leaving()
    allowed = max(engine.config.preemption_limit - engine.preemptions_here, 0)
    victims: list[Job] = []
    while not has_room(engine, job, gone + victims):
        able = [
            (rank, other)
            for other in engine.running
            if not any(other is victim for victim in victims)
            and _may_be_victim(engine, rule, other)
            and (rank := _rank(engine, rule, job, other, gone + victims)) is not None
        ]
        if not able or (rule.preemption == Preemption.SCORE and len(victims) >= allowed):
            return None
        victims.append(max(able, key=lambda pair: pair[0])[1])
    for other in reversed(list(victims)):
        rest = [v for v in victims if v is not other]
        if has_room(engine, job, gone + rest):
            victims = rest
    if rule.preemption == Preemption.SCORE and len(victims) > allowed:
        return None
    return victims[0] if victims else None
