"""Decisions on a plain cluster: the twin of decisions, commit, backfill, advance and replay."""

from __future__ import annotations

from orchestrator.kernels.codes import (
    NO_JOB,
    ActionKind,
    JobCode,
    Placement,
    Reason,
    Status,
    Stream,
)
from orchestrator.scheduler.rules import Rule
from tests.twins.naive_cluster import WAITING, Job, NaiveCluster
from tests.twins.naive_placement import fits, place
from tests.twins.naive_random import random_below
from tests.twins.naive_rules import rule_action


class NaiveEngine(NaiveCluster):
    """A cluster that is scheduled, event by event."""

    def place(self, job: Job, generator: int) -> list[int] | None:
        offset = 0
        if generator == Placement.RANDOM:
            offset = random_below(self.seed, Stream.PLACEMENT, self.point, len(self.nodes))
        return place(job.ask, self.hosts(), generator, offset)

    def placement_reason(self, job: Job) -> Reason:
        if job.state not in WAITING:
            return Reason.NOT_QUEUED
        if job.blocked_point == self.point:
            return Reason.BLOCKED
        if self.config.commitment or fits(job.ask, self.hosts()):
            return Reason.OK
        return Reason.NO_CAPACITY

    def preemption_reason(self, job: Job) -> Reason:
        if job.state != JobCode.RUNNING:
            return Reason.NOT_RUNNING
        if not job.ask.preemptible:
            return Reason.NOT_PREEMPTIBLE
        if self.now - job.start < self.config.min_run_ms:
            return Reason.MIN_RUN_TIME
        if self.preemptions_here >= self.config.preemption_limit:
            return Reason.PREEMPTION_BOUND
        return Reason.OK

    def decision_open(self) -> bool:
        queue = self.queue()
        if self.config.commitment or not queue:
            return bool(queue)
        return any(self.placement_reason(job) == Reason.OK for job in queue) or any(
            self.preemption_reason(job) == Reason.OK for job in self.running
        )

    def commit(self, kind: int, j: int, generator: int) -> Reason:
        reason = self._carry_out(kind, j, generator)
        self.decisions += reason == Reason.OK
        self.illegal += reason != Reason.OK
        return reason

    def _carry_out(self, kind: int, j: int, generator: int) -> Reason:
        if kind == ActionKind.WAIT:
            self.open = self.open and not self.pending
            return Reason.OK if self.pending else Reason.NOTHING_TO_WAIT_FOR
        if not 0 <= j < len(self.jobs):
            return Reason.NOT_QUEUED
        job = self.jobs[j]
        if kind == ActionKind.PREEMPT:
            reason = self.preemption_reason(job)
            if reason == Reason.OK:
                self.preempt(job)
            return reason
        if kind != ActionKind.PLACE:
            return Reason.UNKNOWN_ACTION
        if self.committed != NO_JOB:
            return Reason.COMMITTED
        reason = self.placement_reason(job)
        if reason != Reason.OK:
            return reason
        nodes = self.place(job, generator)
        if nodes is not None:
            assert self.start(job, nodes), "a place was promised that there is not"
        else:
            self.committed, self.reservation = j, self.earliest_start(self.units(job))
        return Reason.OK

    def earliest_start(self, units: int) -> int:
        free, time_ms = self.free(), self.now
        for job in self.running:
            if free >= units:
                break
            free += self.units(job)
            time_ms = job.expected_end
        return time_ms

    def backfill(self) -> None:
        for job in self.queue():
            in_time = self.now + job.ask.requested_ms < self.reservation
            nodes = self.place(job, Placement.FIRST_FIT)
            if job.index != self.committed and in_time and nodes is not None:
                assert self.start(job, nodes)

    def advance(self) -> Status:
        while not self.done:
            if self.committed != NO_JOB:
                nodes = self.place(self.jobs[self.committed], Placement.FIRST_FIT)
                if nodes is not None:
                    assert self.start(self.jobs[self.committed], nodes)
                    self.committed = NO_JOB
                    continue
                if self.config.backfill:
                    self.backfill()
            elif self.open:
                if self.decision_open():
                    return Status.DECISION
                self.open = False
            if not self.pending and not (self.queue() and self.preemptions_here):
                self.done = True
                break
            if self.pending:
                self.step()
                while not self.config.commitment and self.pending:
                    if min(self.pending)[0] > self.now:
                        break
                    self.step()
            self.point += 1
            self.open, self.preemptions_here = True, 0
        return Status.DONE

    def replay(self, rule: Rule) -> int:
        count = 0
        while self.advance() == Status.DECISION:
            kind, j, value = rule_action(self, rule)
            if self.commit(kind, j, value) != Reason.OK:
                assert kind == ActionKind.WAIT
                self.done = True
                break
            count += 1
            assert count < 10_000, "the rule goes round in circles"
        return count
