"""Decisions on a plain cluster: the twin of decisions, commit, backfill, advance and replay."""

from __future__ import annotations

from orchestrator.kernels.state.codes import (
    NO_JOB,
    ActionKind,
    EventKind,
    JobCode,
    JobKind,
    NodeCode,
    Placement,
    QuotaMode,
    Reason,
    Status,
    Stream,
    Topology,
)
from orchestrator.scheduling.rules import Rule
from tests.naive.cluster import WAITING, Job, NaiveCluster
from tests.naive.placing import choose, fits, least, place, slots
from tests.naive.random import random_below
from tests.naive.rules import rule_action


class NaiveEngine(NaiveCluster):
    """A cluster that is scheduled, event by event."""

    def offset(self, job: Job, generator: int) -> int:
        """The node at which a generator begins."""
        if generator != Placement.RANDOM:
            return 0
        return int(random_below(self.seed, Stream.PLACEMENT, self.point, len(self.nodes)))

    def place(self, job: Job, generator: int) -> list[int]:
        """Nodes for a waiting job's workers, as far as its tenant may have them; or none."""
        nodes = place(job.ask, self.hosts(), generator, self.offset(job, generator))
        if self.account_reason(job) != Reason.OK:
            return []
        return nodes[: self.quota_workers(job, len(nodes))]

    def account_reason(self, job: Job) -> Reason:
        if not self.has_account(job):
            return Reason.OK
        t = job.ask.tenant
        owner = self.tenants[t]
        hard = self.config.quota_mode == QuotaMode.HARD
        if hard and self.used(t) + self.least_units(job) > owner.quota_units:
            return Reason.QUOTA
        full = self.stored(t) + job.ask.storage_mib > owner.storage_quota_mib
        if owner.storage_quota_mib and job.first_start < 0 and full:
            return Reason.STORAGE
        return Reason.OK

    def quota_workers(self, job: Job, count: int) -> int:
        """How many of ``count`` more workers the quota allows."""
        if self.config.quota_mode != QuotaMode.HARD or not self.has_account(job):
            return count
        left = self.tenants[job.ask.tenant].quota_units - self.used(job.ask.tenant)
        able = [k for k in range(count + 1) if k == 0 or self.units_of(job, k) <= max(left, 0)]
        return max(able)

    def placement_reason(self, job: Job) -> Reason:
        if job.state not in WAITING:
            return Reason.NOT_QUEUED
        if job.blocked_point == self.point:
            return Reason.BLOCKED
        reason = self.account_reason(job)
        if reason != Reason.OK:
            return reason
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

    def resize_reason(self, job: Job, workers: int) -> Reason:
        ask, now = job.ask, len(job.spots)
        if job.state != JobCode.RUNNING:
            return Reason.NOT_RUNNING
        if not ask.elastic:
            return Reason.NOT_ELASTIC
        if workers == now or not least(ask) <= workers <= min(ask.max_workers, self.max_workers):
            return Reason.SIZE_BOUNDS
        if ask.kind != JobKind.SERVICE and self.now - job.changed < self.config.resize_lock_ms:
            return Reason.MIN_RUN_TIME
        if self.units_of(job, workers - now) > self.free():
            return Reason.NO_CAPACITY
        if workers > now and self.quota_workers(job, workers - now) < workers - now:
            return Reason.QUOTA
        return Reason.OK

    def migration_reason(self, job: Job) -> Reason:
        if not self.config.migrate:
            return Reason.UNKNOWN_ACTION
        if job.state != JobCode.RUNNING or job.ask.kind == JobKind.SERVICE:
            return Reason.NOT_RUNNING
        if not job.ask.preemptible:
            return Reason.NOT_PREEMPTIBLE
        if self.now - job.changed < self.config.min_run_ms:
            return Reason.MIN_RUN_TIME
        return Reason.OK

    def place_more(self, job: Job, count: int) -> list[int]:
        """Nodes for more workers of a running gang, as many as there are."""
        hosts, chosen = self.hosts(), []
        left = [n for n in range(len(hosts)) if self.is_close(job, n)]
        while len(chosen) < count:
            missing = count - len(chosen)
            able = [n for n in left if slots(job.ask, hosts[n], missing)]
            if not able:
                break
            n = min(
                able,
                key=lambda n: (
                    -job.mates_on(n),
                    -slots(job.ask, hosts[n], missing),
                    self.room_of(hosts[n]),
                ),
            )
            chosen += [n] * slots(job.ask, hosts[n], missing)
            left.remove(n)
        return chosen

    def is_close(self, job: Job, n: int) -> bool:
        """Whether node ``n`` is in the domain that a gang must not leave."""
        first, there = self.nodes[job.spots[0][0]], self.nodes[n]
        if job.ask.topology == Topology.SPINE:
            return bool(there.spine == first.spine)
        if job.ask.topology == Topology.RACK:
            return bool(there.rack == first.rack)
        return bool(job.ask.topology == Topology.ANY or n == job.spots[0][0])

    def better_place(self, job: Job, generator: int) -> list[int]:
        """Where a running job would be on fewer nodes, or on as many fuller ones."""
        hosts, workers = self.hosts([job]), len(job.spots)
        nodes = choose(job.ask, hosts, workers, generator, self.offset(job, generator))
        here = [n for n, _ in job.spots]
        if len(nodes) < workers or len(set(nodes)) > len(set(here)):
            return []
        if len(set(nodes)) < len(set(here)):
            return nodes
        tighter = sum(self.room_of(hosts[n]) for n in nodes) < sum(
            self.room_of(hosts[n]) for n in here
        )
        return nodes if tighter and set(nodes) - set(here) else []

    def decision_open(self) -> bool:
        queue = self.queue()
        if self.config.elastics:
            for job in self.running:
                if job.ask.kind == JobKind.SERVICE:
                    continue
                sizes = (len(job.spots) + 1, len(job.spots) - 1)
                if any(self.resize_reason(job, size) == Reason.OK for size in sizes):
                    return True
        if not queue:
            return False
        return any(self.placement_reason(job) == Reason.OK for job in queue) or any(
            self.preemption_reason(job) == Reason.OK for job in self.running
        )

    def commit(self, kind: int, j: int, value: int) -> Reason:
        reason = self._carry_out(kind, j, value)
        self.decisions += reason == Reason.OK
        self.illegal += reason != Reason.OK
        return reason

    def _carry_out(self, kind: int, j: int, value: int) -> Reason:
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
        if kind == ActionKind.RESIZE:
            return self._resize(job, value)
        if kind == ActionKind.MIGRATE:
            reason = self.migration_reason(job)
            if reason != Reason.OK:
                return reason
            nodes = self.better_place(job, value)
            if not nodes:
                return Reason.NO_BETTER_PLACE
            self.migrate(job, nodes)
            return Reason.OK
        return self._place(job, value) if kind == ActionKind.PLACE else Reason.UNKNOWN_ACTION

    def _resize(self, job: Job, workers: int) -> Reason:
        reason = self.resize_reason(job, workers)
        if reason != Reason.OK:
            return reason
        more = workers - len(job.spots)
        if more < 0:
            self.shrink(job, -more)
            return Reason.OK
        nodes = self.place_more(job, more)
        if len(nodes) < more:
            return Reason.NO_CAPACITY
        assert self.grow(job, nodes), "a place was promised that there is not"
        return Reason.OK

    def _place(self, job: Job, generator: int) -> Reason:
        if self.committed != NO_JOB:
            return Reason.COMMITTED
        reason = self.placement_reason(job)
        if reason != Reason.OK:
            return reason
        nodes = self.place(job, generator)
        if nodes:
            assert self.start(job, nodes), "a place was promised that there is not"
        else:
            self.committed = job.index
            self.reservation = self.earliest_start(self.least_units(job))
        return Reason.OK

    def earliest_start(self, units: int) -> int:
        free, time_ms = self.free(), self.now
        for job in self.running:
            if free >= units:
                break
            free += self.units(job)
            time_ms = job.expected_end
        return time_ms

    def leaves_storage(self, job: Job) -> bool:
        """Whether the committed job's checkpoints find storage even if ``job`` starts before."""
        first = self.jobs[self.committed]
        t = first.ask.tenant
        if not self.has_account(job) or job.ask.tenant != t or job.first_start >= 0:
            return True
        limit = self.tenants[t].storage_quota_mib
        wanted = self.stored(t) + job.ask.storage_mib + first.ask.storage_mib
        return bool(not limit or first.first_start >= 0 or wanted <= limit)

    def backfill(self) -> None:
        for job in self.queue():
            in_time = self.now + job.ask.requested_ms < self.reservation
            if job.index == self.committed or not in_time or not self.leaves_storage(job):
                continue
            nodes = self.place(job, Placement.FIRST_FIT)
            if nodes:
                assert self.start(job, nodes)

    def advance(self) -> Status:
        while not self.done:
            if self.committed != NO_JOB:
                nodes = self.place(self.jobs[self.committed], Placement.FIRST_FIT)
                if nodes:
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
                self.done = True  # nothing is left to wait for
                break
            count += 1
            assert count < 10_000, "the rule goes round in circles"
        return count


class NaiveFleet(NaiveEngine):
    """A cluster whose number of nodes changes."""

    def orders(self) -> list[tuple[int, int, int]]:
        """Nodes on order as (arrival, number of the order, node), the next to come first."""
        mine = [x for x in self.pending if x[1] == EventKind.NODE_ARRIVAL]
        return sorted((time, number, n) for time, _, number, n in mine)

    def nodes_in(self, *states: NodeCode) -> list[int]:
        return [n for n, node in enumerate(self.nodes) if node.state in states]

    def stays(self, n: int) -> bool:
        """Whether some job on a node may not be preempted."""
        return any(
            job.is_on(n) and not job.ask.preemptible and job.state == JobCode.RUNNING
            for job in self.running
        )

    def workers_on(self, n: int) -> int:
        return sum(node == n for job in self.running for node, _ in job.spots)

    def emptying_cost(self, n: int) -> int:
        """What is interrupted if a node goes, units x ms."""
        cost = 0
        for job in self.running:
            if job.is_on(n) and job.state == JobCode.RUNNING:
                if self.survives(job, n):
                    cost += job.ask.restart_ms * self.units_of(job, job.mates_on(n))
                else:
                    cost += self.interruption_cost(job)
        return cost

    def spare(self) -> list[int]:
        return [n for n in self.nodes_in(NodeCode.UP) if not self.stays(n)]

    def capacity_reason(self, delta: int) -> Reason:
        fleet = len(self.nodes_in(NodeCode.UP, NodeCode.PROVISIONING)) + delta
        if delta == 0:
            return Reason.UNKNOWN_ACTION
        if delta > 0:
            most = self.config.max_nodes or len(self.nodes)
            enough = len(self.nodes_in(NodeCode.ABSENT)) >= delta
            return Reason.OK if enough and fleet <= most else Reason.NO_NODES
        enough = len(self.orders()) + len(self.spare()) >= -delta
        return Reason.OK if enough and fleet >= self.config.min_nodes else Reason.NO_NODES

    def scale_capacity(self, delta: int) -> Reason:
        reason = self.capacity_reason(delta)
        if reason != Reason.OK:
            return reason
        for n in self.nodes_in(NodeCode.ABSENT)[: max(delta, 0)]:
            self.set_node_state(n, NodeCode.PROVISIONING)
            arrival = self.now + self.config.provision_ms
            self.pending.append((arrival, EventKind.NODE_ARRIVAL, self.sequence, n))
            self.sequence += 1
        for _ in range(max(-delta, 0)):
            if self.orders():
                time, number, n = self.orders()[-1]
                self.pending.remove((time, EventKind.NODE_ARRIVAL, number, n))
                self.set_node_state(n, NodeCode.ABSENT)
            else:
                self.drain_node(
                    min(
                        self.spare(),
                        key=lambda n: (self.emptying_cost(n), self.workers_on(n), -n),
                    )
                )
        return reason
